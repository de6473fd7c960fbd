"""A priority is one among all sessions, and puts no thread's program behind with it.

Only root takes the better ones.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from perf import priority
from tests.absences import absent


@pytest.fixture
def task() -> Iterator[int]:
    """A process that waits, in a session of its own."""
    running = subprocess.Popen(
        [sys.executable, "-c", "input()"], stdin=subprocess.PIPE, start_new_session=True
    )
    try:
        yield running.pid
    finally:
        running.kill()
        running.communicate()


def group_of(task: int) -> int:
    """The priority of its session, where the kernel has one for sessions."""
    group = Path(f"/proc/{task}/autogroup")
    if not group.exists() or not (told := group.read_text()):
        pytest.skip(absent("autogroup"))
    return int(told.split()[-1])


def test_a_better_priority_is_the_sessions_too(task: int) -> None:
    priority.give(task, priority.FIRST)
    assert os.getpriority(os.PRIO_PROCESS, task) == priority.FIRST
    assert group_of(task) == priority.FIRST


def test_who_comes_last_is_so_in_a_session_like_any_other(task: int) -> None:
    for nice in (priority.LAST, priority.FIRST, priority.LAST):
        priority.give(task, nice)
        assert os.getpriority(os.PRIO_PROCESS, task) == nice
    assert group_of(task) == priority.USUAL


def test_who_has_ended_takes_none() -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as ended:
        ended.wait()
    with pytest.raises(ProcessLookupError):
        priority.give(ended.pid, priority.LAST)
