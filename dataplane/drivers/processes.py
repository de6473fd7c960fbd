"""Long-running processes of ours: start detached, recognise, stop.

How we recognise our own after a restart: the pid in our pidfile, whose command line still holds
the marker that we started it with (an absolute path below our run directory) and whose start time
is the one that we noted beside the pidfile. Only then is it signalled, and through a pidfd, so
that a number that the kernel gave to somebody else in between is never hit.
"""

from __future__ import annotations

import os
import select
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from dataplane.ports import DataplaneError

NETNS_DIR = Path("/run/netns")
"""Where iproute2 keeps named network namespaces (ip-netns(8))."""

_EXEC_LOOKS = 25
"""How often an empty command line is looked at again, 2 ms apart: exec(2) takes well under that."""


class ProcessError(DataplaneError):
    """A process did not start, did not become ready or did not go away."""


@dataclass(frozen=True, slots=True)
class Daemon:
    """A process that we own: where its pid is kept, and what its command line must hold."""

    name: str
    pidfile: Path
    marker: str

    @property
    def startfile(self) -> Path:
        """Where `note_start` keeps the pid and its start time."""
        return self.pidfile.with_suffix(".start")


def clean_environment(**extra: str) -> dict[str, str]:
    """The environment that every process of ours gets: nothing of the caller's but the path."""
    env = {
        "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "LANG": "C.UTF-8",
        "HOME": "/",
    }
    env.update(extra)
    return env


def in_netns(netns: str | None, argv: Sequence[str]) -> list[str]:
    """The command that runs `argv` in a network namespace, a name or a path.

    `nsenter --net` changes the network namespace alone: `ip netns exec` would also remount /sys
    and hide bpffs.
    """
    if netns is None:
        return list(argv)
    path = netns if "/" in netns else str(NETNS_DIR / netns)
    return ["nsenter", f"--net={path}", "--", *argv]


def run(
    argv: Sequence[str],
    *,
    netns: str | None = None,
    env: Mapping[str, str] | None = None,
    timeout_s: float = 60.0,
    check: bool = True,
    text_in: str | None = None,
    cwd: Path | None = None,
) -> str:
    """Run a short command to its end; its standard output.

    Raises:
        ProcessError: it failed (and `check`), is missing, or took longer than `timeout_s`.
    """
    command = in_netns(netns, argv)
    try:
        done = subprocess.run(  # noqa: S603 - a list, never a shell
            command,
            env=dict(env) if env is not None else clean_environment(),
            cwd=cwd,
            input=text_in,
            stdin=subprocess.DEVNULL if text_in is None else None,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )
    except FileNotFoundError as error:
        msg = f"{command[0]} is not installed ({error}); run `make setup`"
        raise ProcessError(msg) from error
    except subprocess.TimeoutExpired as error:
        msg = f"{' '.join(argv)}: no end after {timeout_s:.0f} s"
        raise ProcessError(msg) from error
    if check and done.returncode != 0:
        said = (done.stderr or done.stdout).strip()[-2000:]
        msg = f"{' '.join(argv)}: exit {done.returncode}: {said}"
        raise ProcessError(msg)
    return done.stdout


def spawn(
    argv: Sequence[str],
    *,
    log: Path,
    pidfile: Path | None = None,
    netns: str | None = None,
    env: Mapping[str, str] | None = None,
) -> int:
    """Start a process in a session of its own, output appended to `log`; its pid.

    `pidfile` is for programs that do not write one themselves.
    """
    command = in_netns(netns, argv)
    program = shutil.which(command[0], path=clean_environment()["PATH"])
    if program is None:
        msg = f"{command[0]} is not installed; run `make setup`"
        raise ProcessError(msg)
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
    pid = os.posix_spawn(
        program,
        command,
        dict(env) if env is not None else clean_environment(),
        file_actions=[
            (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0),
            (os.POSIX_SPAWN_OPEN, 1, str(log), flags, 0o640),
            (os.POSIX_SPAWN_DUP2, 1, 2),
        ],
        setsid=True,
        setsigmask=(),
        setsigdef=(signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGPIPE),
    )
    if pidfile is not None:
        partial = pidfile.with_suffix(".pid.new")
        partial.write_text(f"{pid}\n", encoding="ascii")
        partial.replace(pidfile)
    return pid


def command_line(pid: int) -> str | None:
    """The command line of a living process, None if it is gone or a zombie."""
    _reap(pid)
    for _ in range(_EXEC_LOOKS):
        try:
            raw = Path(f"/proc/{pid}/cmdline").read_bytes()
        except (FileNotFoundError, ProcessLookupError):
            return None
        if raw or start_ticks(pid) is None:
            break
        # In the middle of an exec the arguments are not there yet.
        time.sleep(0.002)
    return raw.replace(b"\0", b" ").decode(errors="replace").strip() or None


def running_pid(daemon: Daemon) -> int | None:
    """The pid of `daemon` if it runs and is ours, else None."""
    try:
        pid = int(daemon.pidfile.read_text(encoding="ascii").split()[0])
    except (FileNotFoundError, ValueError, IndexError):
        return None
    line = command_line(pid)
    if line is None or daemon.marker not in line:
        return None
    try:
        noted = daemon.startfile.read_text(encoding="ascii").split()
    except FileNotFoundError:
        return pid
    # A note about another pid is an old one: somebody restarted the daemon by hand.
    if len(noted) == 2 and noted[0] == str(pid) and noted[1] != str(start_ticks(pid)):
        return None
    return pid


def note_start(daemon: Daemon) -> None:
    """Keep the start time of a daemon that has just come up, beside its pidfile."""
    pid = running_pid(daemon)
    if pid is not None:
        daemon.startfile.write_text(f"{pid} {start_ticks(pid)}\n", encoding="ascii")


def stop(daemon: Daemon, *, grace_s: float = 10.0) -> bool:
    """End `daemon` with SIGTERM, after `grace_s` with SIGKILL; whether there was one to end.

    Raises:
        ProcessError: the kernel did not end it (a process in uninterruptible sleep).
    """
    pid = running_pid(daemon)
    if pid is not None:
        end(pid, daemon.marker, grace_s=grace_s)
    daemon.pidfile.unlink(missing_ok=True)
    daemon.startfile.unlink(missing_ok=True)
    return pid is not None


def end(pid: int, marker: str, *, grace_s: float = 10.0, first: int = signal.SIGTERM) -> None:
    """End the process `pid` if its command line holds `marker`.

    Raises:
        ProcessError: it outlived SIGKILL for as long as `grace_s`.
    """
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        # Looked at after the pidfd is held: from here on the number cannot change its meaning.
        line = command_line(pid)
        if line is None or marker not in line:
            return
        for number in (first, signal.SIGKILL):
            signal.pidfd_send_signal(handle, number)
            if _gone(handle, grace_s):
                _reap(pid)
                return
    except ProcessLookupError:
        return
    finally:
        os.close(handle)
    msg = f"process {pid} ({marker}) did not end; look at /proc/{pid}/stack"
    raise ProcessError(msg)


def wait_until(
    condition: Callable[[], bool], what: str, *, timeout_s: float = 30.0, every_s: float = 0.05
) -> float:
    """Wait for `condition`; the seconds it took.

    Raises:
        ProcessError: `what` was not so after `timeout_s`.
    """
    began = time.monotonic()
    while True:
        if condition():
            return time.monotonic() - began
        if time.monotonic() - began > timeout_s:
            msg = f"waited {timeout_s:.0f} s in vain: {what}"
            raise ProcessError(msg)
        time.sleep(every_s)


def tail(log: Path, lines: int = 12) -> str:
    """The last lines of a log file, for an error message."""
    try:
        return "\n".join(log.read_text(errors="replace").splitlines()[-lines:])
    except FileNotFoundError:
        return f"({log} was not written)"


def pids_in_netns(path: Path) -> list[int]:
    """Processes whose network namespace is the one at `path`."""
    try:
        wanted = path.stat().st_ino
    except FileNotFoundError:
        return []
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                if (entry / "ns/net").stat().st_ino == wanted:
                    found.append(int(entry.name))
            except OSError:
                continue
    return found


def start_ticks(pid: int) -> int | None:
    """When a process started, in clock ticks since boot; None for a zombie or no process."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return None
    # The command's name may hold blanks and brackets: fields count from the last one (proc(5)).
    fields = stat.rpartition(")")[2].split()
    return None if fields[0] in {"Z", "X"} else int(fields[19])


def _gone(handle: int, timeout_s: float) -> bool:
    poller = select.poll()
    poller.register(handle, select.POLLIN)
    return bool(poller.poll(timeout_s * 1000))


def _reap(pid: int) -> None:
    """Collect a dead child of ours, so that it is not taken for a living process."""
    try:
        os.waitpid(pid, os.WNOHANG)
    except ChildProcessError:
        return
