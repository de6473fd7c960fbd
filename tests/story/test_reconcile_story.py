"""A service's life through three tables: the same end whatever way the events came."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from dataplane.reconcile.backoff import Backoff
from dataplane.reconcile.fakes import FakeTable
from dataplane.reconcile.reconciler import Reconciler

Plan = dict[str, dict[str, str]]
EMPTY: Plan = {"backends": {}, "maglev": {}, "vips": {}}

STORY: list[Plan] = [
    EMPTY,
    {"backends": {"b1": "10.0.0.1"}, "maglev": {"s1": "1111"}, "vips": {"v1": "s1"}},
    {
        "backends": {"b1": "10.0.0.1", "b2": "10.0.0.2"},
        "maglev": {"s1": "1212"},
        "vips": {"v1": "s1"},
    },
    {"backends": {"b2": "10.0.0.2"}, "maglev": {"s1": "2222"}, "vips": {"v1": "s1", "v2": "s1"}},
    {"backends": {"b2": "10.0.0.3"}, "maglev": {"s1": "2222"}, "vips": {"v2": "s1"}},
]

EXPANSIONS: dict[str, Callable[[list[Plan]], list[Plan]]] = {
    "as it is": lambda states: states,
    "each twice": lambda states: [s for s in states for _ in range(2)],
    "there and back": lambda states: states + states[::-1] + states,
    "emptied between": lambda states: [s for state in states for s in (EMPTY, state)],
    "only the last": lambda states: states[-1:],
    "restarted in the middle": lambda states: states,
}


@pytest.mark.parametrize("expansion", EXPANSIONS)
def test_every_way_of_telling_it_ends_the_same(expansion: str) -> None:
    tables: list[FakeTable[str, str]] = [FakeTable(name) for name in EMPTY]
    backends, _, vips = tables
    reconciler = Reconciler(tables, Backoff())
    states = EXPANSIONS[expansion](STORY)
    for number, state in enumerate(states):
        if expansion == "restarted in the middle":
            reconciler = Reconciler(tables, Backoff())
        reconciler.apply(state, now=float(number))
        assert {table.name: table.rows for table in tables} == state
        # No VIP is ever left without the backends it came with.
        assert not vips.rows or backends.rows
    assert reconciler.apply(states[-1], now=99.0).writes == 0
