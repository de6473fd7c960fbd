"""Rounds that end early or fail: what they have not come to is not forgotten."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controller.loop import RoundFailed
from controller.rounds import Rounds
from dataplane.model.state import HeldIds, NodeState
from dataplane.plan.flows_to_end import flows_to_end
from dataplane.plan.node import TABLE_ORDER, NodePlan, circumstances, serving
from dataplane.plan.served import Served
from dataplane.plan.servicebook import Changes, ServiceBook
from dataplane.reconcile.backoff import Backoff
from dataplane.reconcile.fakes import FakeTable
from dataplane.reconcile.reconciler import Reconciler
from tests.labs.attachments import WEB
from tests.labs.planned import CONFIG, GATEWAY, NICS, STATE, backend, service

FIRST = service("192.0.2.1:80", backend("10.1.0.1:8080"))
SECOND = service("192.0.2.2:80", backend("10.1.0.2:8080"))
THIRD = service("192.0.2.3:80", backend("10.1.0.3:8080"))


class Node:
    """All that a round asks of the daemon, with tables in memory and a real book of services."""

    def __init__(self) -> None:
        self.state: NodeState = replace(STATE, gateway=GATEWAY, nics=NICS, services=())
        self.tables = {name: FakeTable[Any, Any](name) for name in TABLE_ORDER}
        self.reconciler = Reconciler(tuple(self.tables.values()), Backoff())
        self.events: list[Changes | None] = []
        self.book: ServiceBook | None = None
        self.followed: list[tuple[NodePlan, Changes | None, bool]] = []
        self.waiting = False
        self.problem: Exception | None = None
        self.loop = SimpleNamespace(periodic=False, pressed=lambda: self.waiting)
        self.daemon: Any = SimpleNamespace(
            config=CONFIG,
            attachments={},
            linkless=set(),
            sources=SimpleNamespace(
                in_sync=True, saw_nics=lambda _: None, state=lambda *_: self._state()
            ),
            serving=SimpleNamespace(
                update=lambda _: self._update(), served=self._served, settle=lambda: None
            ),
            reconciler=self.reconciler,
            loop=self.loop,
            follow_up=SimpleNamespace(follow=self._follow),
            rebalancer=SimpleNamespace(pins=lambda _: {}),
            ovs=SimpleNamespace(connected=True),
            vswitchd=SimpleNamespace(pid=None),
        )
        self.rounds = Rounds(cast("Any", self.daemon))

    def round(self, scope: frozenset[str] | None = frozenset(), *, periodic: bool = False) -> None:
        self.loop.periodic = periodic
        asyncio.run(self.rounds.apply(scope))

    def serves(self, *names: tuple[str, Any]) -> None:
        """The next round finds the book made anew, of these rows."""
        around = circumstances(replace(self.state, held=HeldIds(max_services=64, max_backends=64)))
        assert around is not None
        rows = {ref: serving((one,), CONFIG) for ref, one in names}
        self.book = ServiceBook(rows, around)
        self.events.append(None)

    def changes(self, **rows: Any) -> None:
        """The next round finds these rows changed."""
        assert self.book is not None
        self.events.append(self.book.change({ref: (one,) for ref, one in rows.items()}))

    def is_as_planned(self, planned: NodePlan | None = None) -> bool:
        planned = planned or self.rounds.planned
        assert planned is not None
        return all(self.tables[name].rows == rows for name, rows in planned.tables().items())

    def _state(self) -> NodeState:
        if self.problem is not None:
            raise self.problem
        return self.state

    def _update(self) -> Changes | None:
        return self.events.pop(0) if self.events else {}

    def _served(self) -> Served | None:
        return self.book.served() if self.book is not None else None

    def _follow(self, planned: NodePlan, changes: Changes | None = None) -> None:
        self.followed.append((planned, changes, self.is_as_planned(planned)))


@pytest.fixture
def node() -> Node:
    made = Node()
    made.serves(("a", FIRST))
    made.round(None)
    assert made.is_as_planned()
    assert made.tables["vips"].rows
    made.followed.clear()
    return made


def test_what_an_interrupted_round_has_not_come_to_is_the_next_ones(node: Node) -> None:
    last = node.tables[TABLE_ORDER[-1]]
    node.tables["vips"].rows.clear()
    node.tables["backends"].rows[9] = "stray"
    last.rows["stray"] = 1
    node.waiting = True
    node.round(None, periodic=True)
    assert not node.is_as_planned()
    node.round()
    assert node.is_as_planned()
    assert last.rows == {}


def test_a_round_with_news_is_not_interrupted(node: Node) -> None:
    """What its plan has otherwise than the last one's somebody has asked for."""
    node.waiting = True
    node.state = replace(node.state, attachments=(WEB,))
    node.serves(("a", FIRST), ("b", SECOND))
    node.round(None, periodic=True)
    assert node.is_as_planned()
    assert [(changes, there) for _, changes, there in node.followed] == [(None, True)]


def test_flows_are_ended_by_changes_only_if_what_was_before_them_is_there(node: Node) -> None:
    """A book made anew in a round that fails: its rows are not all in the maps yet."""
    node.serves(("b", SECOND))
    node.problem = RuntimeError("for the test")
    with pytest.raises(RoundFailed):
        node.round(frozenset({"plan"}))
    node.problem = None
    node.changes(c=THIRD)
    node.round(frozenset({"plan"}))
    assert node.is_as_planned()
    assert [(changes, there) for _, changes, there in node.followed] == [(None, True)]


def test_after_that_changes_take_the_short_way_again(node: Node) -> None:
    node.changes(c=THIRD)
    node.round(frozenset({"plan"}))
    assert node.is_as_planned()
    assert [changes is None for _, changes, _ in node.followed] == [False, True]


ROWS = {
    ref: (
        service(f"192.0.2.{at}:80", backend("10.1.0.1:8080"), backend(f"10.1.0.{at + 1}:8080")),
        service(f"192.0.2.{at}:80", backend("10.1.0.9:8080")),
        service(f"192.0.2.{at}:80"),
    )
    for at, ref in enumerate("abc", start=1)
}
some = st.lists(
    st.tuples(st.sampled_from("abc"), st.integers(0, 2)), unique_by=lambda row: row[0], max_size=3
)
steps = st.tuples(st.sampled_from(("anew", "changes", "nothing")), some, st.booleans())


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(steps, st.booleans(), st.booleans()), max_size=8))
def test_whatever_happens_every_difference_is_followed(
    history: list[tuple[tuple[str, list[tuple[str, int]], bool], bool, bool]],
) -> None:
    """What ends by the named changes is what ends by all; and no round forgets a row."""
    node = Node()
    node.serves(("a", FIRST))
    node.round(None)
    for (what, rows, fails), periodic, waiting in history:
        found = [(ref, ROWS[ref][at]) for ref, at in rows]
        if what == "anew":
            node.serves(*found)
        elif what == "changes":
            node.changes(**dict(found))
        node.waiting = waiting
        node.problem = RuntimeError("for the test") if fails else None
        try:
            node.round(None if periodic else frozenset(), periodic=periodic)
        except RoundFailed:
            continue
        assert node.is_as_planned()
    before = node.followed[0][0]
    for planned, changes, _ in node.followed[1:]:
        assert flows_to_end(before, planned, changes) == flows_to_end(before, planned)
        before = planned
