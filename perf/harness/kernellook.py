"""Latency inside the kernel during a run of packets, by perf.kerneltrace in a process of its own.

The process has tracefs mounted for itself alone, and ends with the run of packets.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from perf import kerneltrace
from perf.harness.generator import HarnessError
from perf.kernelhops import Event

SHARE = 0.5
"""Of the rate, at which is looked: what the look costs must not fill the queues."""

_PATIENCE_S = 60.0
_MOST_S = str(int(kerneltrace.MOST_SECONDS))


@dataclass(frozen=True, slots=True)
class Looked:
    """From one device to another: how many, and their percentiles [us].

    `missed`: events of any way that the kernel did not show.
    """

    frames: int
    us50: float
    us99: float
    missed: int

    def values(self) -> dict[str, float]:
        """The metrics of perf.harness.scenario."""
        return {"kernel50": self.us50, "kernel99": self.us99}


def look(run: Callable[[], object], entry: str, leaving: str) -> Looked:
    """What frames that came in by `entry` took until they were sent by `leaving`, while `run` runs.

    Raises:
        HarnessError: the look cannot be had here, or no frame went that way.
    """
    words = [sys.executable, "-m", "perf.kerneltrace", "--json", "--seconds", _MOST_S]
    with subprocess.Popen(  # noqa: S603 - our own module
        words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as looking:
        try:
            assert looking.stderr is not None
            first = looking.stderr.readline().strip()
            if first == kerneltrace.READY:
                run()
                looking.send_signal(signal.SIGTERM)
            told, complaints = looking.communicate(timeout=_PATIENCE_S)
        except subprocess.TimeoutExpired as error:
            msg = f"latency inside the kernel: no answer after {_PATIENCE_S:g} s"
            raise HarnessError(msg) from error
        finally:
            looking.kill()
    if looking.returncode != kerneltrace.OK:
        msg = f"{first}\n{complaints}".strip()
        raise HarnessError(msg)
    return through(json.loads(told), entry, leaving)


def through(told: dict[str, Any], entry: str, leaving: str) -> Looked:
    """That way's hop in a report of perf.kerneltrace.

    Raises:
        HarnessError: no frame went there.
    """
    ends = (Event.ENTERED.name.lower(), entry, Event.SENT.name.lower(), leaving)
    for hop in told["hops"]:
        there = hop["from"], hop["to"]
        if tuple(each[key] for each in there for key in ("event", "device")) == ends:
            return Looked(hop["count"], hop["p50_ns"] / 1e3, hop["p99_ns"] / 1e3, told["missed"])
    msg = f"no frame was seen to come in by {entry} and to leave by {leaving}"
    raise HarnessError(msg)


def check() -> None:
    """Refuse early what this machine cannot show.

    Raises:
        HarnessError: with the reason.
    """
    try:
        kerneltrace.check()
    except kerneltrace.AbsentError as error:
        raise HarnessError(str(error)) from error
