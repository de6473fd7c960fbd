"""The scheduler's turns: a thread that works little at a time asks for short ones.

Linux gives the processor to whoever's turn would end first (EEVDF), so that who asks for short
turns gets his soon, at the price of fewer milliseconds in each; his share stays what it was.
Kernels before 6.12 take the wish and do nothing about it.
"""

from __future__ import annotations

import ctypes
import os
import platform
import struct
from collections.abc import Iterator
from contextlib import contextmanager

SHORT_NS = 100_000
"""The shortest turn that Linux gives [ns]."""

_CALLS = {"x86_64": 314, "aarch64": 274}
"""sched_setattr(2), for which the C library has a function only since its version 2.41."""

_ATTRIBUTES = struct.Struct("=IIQiIQQQ")
"""struct sched_attr, first version: its size, policy, flags, nice, priority, three times [ns]."""


def ask_for_turns(nanoseconds: int) -> bool:
    """Have this thread, and those that it starts from now on, get turns of that length (0: usual).

    Whether the kernel took it; where it did not, and where somebody has chosen another policy than
    the usual one, all is as it was.
    """
    number = _CALLS.get(platform.machine())
    if number is None or os.sched_getscheduler(0) != os.SCHED_OTHER:
        return False
    nice = os.getpriority(os.PRIO_PROCESS, 0)
    octets = _ATTRIBUTES.pack(_ATTRIBUTES.size, os.SCHED_OTHER, 0, nice, 0, nanoseconds, 0, 0)
    library = ctypes.CDLL(None, use_errno=True)
    return bool(library.syscall(number, 0, octets, 0) == 0)


@contextmanager
def short_turns() -> Iterator[None]:
    """For a while: by whoever only waits for something to see, so that he does not see it late."""
    ask_for_turns(SHORT_NS)
    try:
        yield
    finally:
        ask_for_turns(0)
