"""What every benchmark that builds a lab does around it: who may, how far it is, why it failed."""

from __future__ import annotations

import math
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TypeVar

from dataplane.ports import DataplaneError

T = TypeVar("T")
Progress = Callable[[str], None]


def in_lab(program: str, measure: Callable[[Progress], T]) -> T | None:
    """What `measure` returns; None: nothing was measured, and standard error says why.

    `measure` imports its lab itself: labs are of the source tree, not of the installed package.
    """
    if os.geteuid() != 0:
        print(f"{program}: needs root (hugepages, namespaces)", file=sys.stderr)
        return None
    began = time.monotonic()

    def progress(line: str) -> None:
        print(f"[{time.monotonic() - began:6.1f} s] {line}", file=sys.stderr, flush=True)

    try:
        with _ended_in_order():
            return measure(progress)
    except ImportError as error:
        print(f"{program}: {error}; run it from the source tree", file=sys.stderr)
    except DataplaneError as error:
        print(f"{program}: {error}", file=sys.stderr)
    return None


@contextmanager
def _ended_in_order() -> Iterator[None]:
    """A signal that asks for the end takes the lab along, as the keyboard's interrupt does."""
    signals = (signal.SIGTERM, signal.SIGHUP)

    def leave(number: int, _frame: FrameType | None) -> None:
        for each in signals:
            signal.signal(each, signal.SIG_IGN)  # asked twice is not asked for half of it
        raise SystemExit(128 + number)

    before = {number: signal.signal(number, leave) for number in signals}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def iperf_time(seconds: float) -> str:
    """`-t` of iperf3, which knows whole seconds only, and takes none of them for no end."""
    return str(max(math.ceil(seconds), 1))
