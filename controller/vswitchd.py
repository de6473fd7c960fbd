"""Notices that vswitchd went away and came back, and how long the node took to recover.

A restarted vswitchd has lost its flows, its bridges' addresses and our XDP program, and gives
every port another chance. The daemon's events would tell most of that; the process itself is
watched so that nothing is left to luck, and so that the outage has a figure.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Vswitchd:
    """What is known of the process. Times are the caller's clock [s].

    `outage_s` is the last outage: from the moment the old process was seen gone until every
    planned row was right again under the new one. None: there was none since the daemon started.
    """

    pid: int | None = None
    restarts: int = 0
    away_since: float | None = None
    recovering: bool = False
    outage_s: float | None = None


def seen(before: Vswitchd, pid: int | None, now: float) -> Vswitchd:
    """The next value after looking at the process."""
    if pid == before.pid:
        return before
    if pid is None:
        return Vswitchd(None, before.restarts, now, recovering=True, outage_s=before.outage_s)
    if before.pid is None and before.away_since is None:
        return Vswitchd(pid, before.restarts, None, outage_s=before.outage_s)
    # Gone and back between two looks counts from now: the shortest that can be said for sure.
    since = before.away_since if before.away_since is not None else now
    return Vswitchd(pid, before.restarts + 1, since, recovering=True, outage_s=before.outage_s)


def recovered(before: Vswitchd, now: float) -> Vswitchd:
    """The next value after a round that found everything as planned."""
    if not before.recovering or before.pid is None or before.away_since is None:
        return before
    return Vswitchd(before.pid, before.restarts, None, outage_s=now - before.away_since)


def control_socket(rundir: Path, pid: int) -> Path:
    """Its unixctl socket: the embedded node's name, or OVS's default with the pid in it."""
    fixed = rundir / "ovs-vswitchd.ctl"
    return fixed if fixed.exists() else rundir / f"ovs-vswitchd.{pid}.ctl"


def version_of(text: str) -> str:
    """The version in the answer to the command `version`, such as 3.1.0; empty if there is none."""
    words = text.splitlines()[0].split() if text.strip() else []
    return words[-1] if words else ""


def running_pid(pidfile: Path) -> int | None:
    """The process that the pid file names, if it lives."""
    try:
        pid = int(pidfile.read_text())
        Path(f"/proc/{pid}/stat").read_bytes()
    except (OSError, ValueError):
        return None
    return pid


def uid_of(pid: int) -> int | None:
    """Whose process it is; None if it is gone."""
    try:
        return Path(f"/proc/{pid}").stat().st_uid
    except OSError:
        return None
