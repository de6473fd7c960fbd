"""Sees to it that a lab goes away, however the run ends: `python -m perf.harness.keeper RUN LAB`.

It is a session of its own, so that what kills the command and its terminal does not reach it, and
the command's end of its standard input tells it that the command is gone. It ends the worker,
removes what the worker's lab has left, and, as the reaper of all orphans below it, every process
that is still there then.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

from dataplane.ports import DataplaneError
from perf.harness import labs, worker

GRACE_S = 60.0
"""For the worker to take its lab down by itself."""

_PR_SET_CHILD_SUBREAPER = 36
"""linux/prctl.h"""

ORPHANS_S = 10.0


def _adopt() -> None:
    """Orphans below this process become its children.

    Raises:
        OSError: the kernel does not have it (before 3.4).
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER)")


def children() -> list[int]:
    """Of this process, those that are dead and not waited for included."""
    found: list[int] = []
    for task in Path("/proc/self/task").iterdir():
        found += [int(word) for word in (task / "children").read_text().split()]
    return found


def _wait(running: subprocess.Popen[bytes]) -> int:
    """The worker's exit code; ends it once the command is gone."""
    asked, killed = 0.0, False
    while (code := running.poll()) is None:
        _reap(running.pid)
        if not asked:
            readable, _, _ = select.select([0], [], [], 0.1)
            if readable and not os.read(0, 1):
                asked = time.monotonic()
                running.send_signal(signal.SIGTERM)
        else:
            time.sleep(0.05)
            if not killed and time.monotonic() - asked > GRACE_S:
                running.kill()
                killed = True
    return code


def _reap(but: int) -> None:
    """Let go of daemons that have ended: who waits for one to be gone must not see it for ever."""
    for pid in children():
        if pid != but:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)


def _end_orphans() -> list[int]:
    """End and reap every child; the pids of those that were alive."""
    ended: list[int] = []
    until = time.monotonic() + ORPHANS_S
    while time.monotonic() < until and (left := children()):
        for pid in left:
            try:
                gone, _ = os.waitpid(pid, os.WNOHANG)
            except ChildProcessError:
                continue
            if not gone:
                if pid not in ended:
                    ended.append(pid)
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.02)
    return ended


def keep(path: str, lab: str) -> int:
    """Run the worker to its end and clear up behind it; its exit code."""
    _adopt()
    words = [sys.executable, "-m", "perf.harness.worker", path, lab, str(os.getpid())]
    with (Path(path) / f"{lab}.log").open("ab") as log:
        running = subprocess.Popen(  # noqa: S603 - our own module
            words, stdin=subprocess.DEVNULL, stderr=log, start_new_session=True
        )
    code = _wait(running)
    if code != worker.DONE:
        try:
            labs.sweep(lab)
        except DataplaneError as error:
            worker.tell("note", lab=lab, line=f"could not be removed: {error}")
    for pid in _end_orphans():
        worker.tell("note", lab=lab, line=f"process {pid} outlived its lab and was ended")
    return code


def main(argv: Sequence[str]) -> int:
    """As the worker ended."""
    path, lab = argv

    def ignore(_number: int, _frame: FrameType | None) -> None:
        """The command decides, by closing our input."""

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, ignore)
    code = keep(path, lab)
    return worker.FAILED if code < 0 else code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
