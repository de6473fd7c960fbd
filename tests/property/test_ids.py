"""Laws of id allocation."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataplane.plan.ids import OutOfIds, allocate

KEYS = st.lists(st.text("abcdefghij", min_size=1, max_size=2), max_size=20)
HELD = st.dictionaries(st.text("abcdefghij", min_size=1, max_size=2), st.integers(-1, 60))


@given(HELD, KEYS)
def test_ids_are_unique_in_range_and_complete(held: dict[str, int], wanted: list[str]) -> None:
    result = allocate(held, wanted, 64)
    assert set(result) == set(wanted)
    assert len(set(result.values())) == len(result)
    assert all(1 <= number <= 64 for number in result.values())


@given(st.permutations(range(1, 21)), KEYS, KEYS)
def test_what_is_held_is_kept(numbers: list[int], first: list[str], second: list[str]) -> None:
    held = dict(zip(dict.fromkeys(first), numbers, strict=False))
    result = allocate(held, second, 64)
    assert all(result[key] == held[key] for key in result if key in held)


@given(KEYS)
def test_allocating_again_changes_nothing(wanted: list[str]) -> None:
    once = allocate({}, wanted, 64)
    assert allocate(once, reversed(wanted), 64) == once


def test_running_out_is_an_error_that_counts() -> None:
    with pytest.raises(OutOfIds, match="3 objects need an id and there is room for 2"):
        allocate({}, ["a", "b", "c"], 2)


def test_a_retired_number_is_the_last_resort() -> None:
    assert allocate({"old": 1}, ["new"], 2) == {"new": 2}
    assert allocate({"old": 1}, ["new", "newer"], 2) == {"new": 2, "newer": 1}
