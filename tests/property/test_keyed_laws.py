"""Rows kept as parsed, change by change, are those that a look at the whole table gives."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dataplane.drivers.replica import _Keyed

UUIDS = [UUID(int=number) for number in range(5)]
BAD = "cannot be parsed"

# Each row's key is its own at any one time, as names and UUIDs are; it may move to another row.
tables = st.lists(st.sampled_from("abcdef"), unique=True, max_size=5).flatmap(
    lambda keys: st.tuples(
        st.permutations(UUIDS).map(lambda uuids: list(zip(uuids, keys, strict=False))),
        st.integers(0, 9),
    ).map(lambda found: {uuid: (key, found[1]) for uuid, key in found[0]})
)


@settings(max_examples=300)
@given(st.lists(st.tuples(tables, st.booleans()), min_size=1, max_size=8))
def test_after_any_history_they_are_those_of_the_table(
    history: list[tuple[dict[UUID, tuple[str, int]], bool]],
) -> None:
    """Also after a row that could not be parsed, whose table is whole again later."""
    failing = False

    def parse(row: Any) -> tuple[str, Any]:
        if failing:
            raise ValueError(BAD)
        return str(row[0]), row

    keyed = _Keyed()
    rows: dict[UUID, tuple[str, int]] = {}
    keyed.take(rows, parse)
    for now, fails in history:
        changed = {u for u in rows.keys() | now.keys() if rows.get(u) != now.get(u)}
        keyed.changed |= changed
        rows.clear()
        rows.update(now)
        failing = fails and bool(changed & rows.keys())
        if failing:
            with pytest.raises(ValueError, match=BAD):
                keyed.take(rows, parse)
            failing = False
        found = keyed.take(rows, parse)
        assert found == {row[0]: row for row in rows.values()}
        assert keyed.take(rows, parse) is found
