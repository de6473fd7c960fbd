"""The gate itself: what it accepts as a reason to skip, and what it calls left behind."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.absences import absent, is_accepted
from tests.leftovers import left_behind, mounted, snapshot


def test_accepted_absence_is_accepted_as_pytest_words_it() -> None:
    assert is_accepted("Skipped: " + absent("netem"))


@pytest.mark.parametrize(
    "reason", ["Skipped: no time", "Skipped: absent: root", "", "netem please"]
)
def test_other_reasons_are_refused(reason: str) -> None:
    assert not is_accepted(reason)


def test_absence_that_is_not_on_the_list_cannot_be_named() -> None:
    with pytest.raises(ValueError, match="no accepted absence"):
        absent("a good mood")


def test_what_was_there_before_is_not_left_behind() -> None:
    before = snapshot()
    after = replace(before, links=before.links | {"mr0"}, mounts=frozenset())
    assert left_behind(before, after) == ["links: mr0"]


MOUNTS = """\
30 1 0:7 / /sys/kernel/debug rw - debugfs none rw
31 30 0:13 / /sys/kernel/debug/tracing rw - tracefs tracefs rw
32 1 0:13 / /sys/kernel/tracing rw - tracefs tracefs rw
"""


def test_what_the_kernel_mounts_for_whoever_looks_is_nobodys() -> None:
    lines = [line.split() for line in MOUNTS.splitlines()]
    assert mounted(lines) == ["/sys/kernel/debug", "/sys/kernel/tracing"]
    # Without debugfs above it, somebody has put it there.
    assert mounted(lines[1:2]) == ["/sys/kernel/debug/tracing"]
