"""Short turns are asked for, and given back, by one thread for itself."""

from __future__ import annotations

import ctypes
import os
import platform
import struct
from concurrent.futures import ThreadPoolExecutor

import pytest

from dataplane.drivers.turns import SHORT_NS, ask_for_turns, short_turns


def _standing() -> tuple[int, int]:
    return os.sched_getscheduler(0), os.getpriority(os.PRIO_PROCESS, 0)


def _turn_ns() -> int:
    """What the kernel says of this thread's turns (sched_getattr(2))."""
    octets = ctypes.create_string_buffer(48)
    assert ctypes.CDLL(None).syscall(315, 0, octets, 48, 0) == 0
    runtime: int = struct.unpack_from("=Q", octets, 24)[0]
    return runtime


@pytest.mark.skipif(
    platform.machine() != "x86_64" or tuple(map(int, platform.release().split(".")[:2])) < (6, 12),
    reason="the kernel does not tell",
)
def test_turns_are_short_as_long_as_they_are_wanted() -> None:
    def work() -> None:
        usual = _turn_ns()
        assert usual != SHORT_NS
        with short_turns():
            assert _turn_ns() == SHORT_NS
        assert _turn_ns() == usual
        assert ask_for_turns(SHORT_NS)
        with ThreadPoolExecutor(1) as later:
            assert later.submit(_turn_ns).result() == SHORT_NS

    with ThreadPoolExecutor(1) as threads:
        threads.submit(work).result()


def test_neither_policy_nor_niceness_changes() -> None:
    def work() -> None:
        os.setpriority(os.PRIO_PROCESS, 0, 3)
        before = _standing()
        assert ask_for_turns(SHORT_NS)
        assert _standing() == before
        with short_turns():
            assert _standing() == before
        assert _standing() == before

    with ThreadPoolExecutor(1) as threads:
        threads.submit(work).result()


def test_who_has_another_policy_keeps_it() -> None:
    def work() -> None:
        os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
        assert not ask_for_turns(SHORT_NS)
        assert os.sched_getscheduler(0) == os.SCHED_BATCH

    with ThreadPoolExecutor(1) as threads:
        threads.submit(work).result()
