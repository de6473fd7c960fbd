"""The book after any history equals computing everything from what is there."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from controller.network.book import Book
from controller.network.rows import Row, RowKey
from controller.network.units import ObjectRef, Said, Unit, Wanted
from controller.network.view import Derived, Kind, View
from controller.translate.ovn import Problem
from tests.labs.factview import Facts, whole


@dataclass(frozen=True, slots=True)
class Thing:
    group: int
    links: tuple[int, ...]
    weight: int


THINGS: Kind[Thing] = Kind(
    "things",
    {"group": lambda _, thing: (thing.group,), "links": lambda _, thing: thing.links},
)
MARKS: Kind[int] = Kind("marks", {"value": lambda _, mark: (mark,)})


def _weight(view: View, group: int) -> int:
    found = (view.get(THINGS, key) for key in view.by(THINGS, "group", group))
    return sum(thing.weight for thing in found if thing)


WEIGHT: Derived[int] = Derived("weight", _weight)
PARITY: Derived[bool] = Derived("parity", lambda view, group: view.ask(WEIGHT, group) % 2 == 0)


def _heaviest(view: View, _: Hashable) -> int | None:
    marks = view.all(MARKS)
    return max(marks, key=lambda one: (view.ask(WEIGHT, one), one)) if marks else None


HEAVIEST: Derived[int | None] = Derived("heaviest", _heaviest)


def _of_thing(view: View, key: Hashable) -> Said:
    thing = view.get(THINGS, key)
    assert thing is not None
    ref = ObjectRef("things", "", str(key))
    rows = {
        RowKey("T", f"thing{key}"): Row({"even": view.ask(PARITY, thing.group)}),
        RowKey("G", f"group{thing.group}"): Row({"weight": view.ask(WEIGHT, thing.group)}),
    }
    problems = {}
    if view.ask(PARITY, thing.group):
        # Only then: what is read depends on what was read before.
        for link in thing.links:
            other = view.get(THINGS, link)
            if other is None:
                problems[ref] = (Problem(str(key), f"no {link}", "make it"),)
            elif other.weight > 2:
                rows[RowKey("L", f"to{link}")] = Row({"by": min(thing.links)})
    return Said(rows, {ref: Wanted({"group": str(thing.group)})}, problems)


def _of_mark(view: View, key: Hashable) -> Said:
    mark = view.get(MARKS, key)
    ref = ObjectRef("marks", "", str(key))
    linked = view.by(THINGS, "links", key)
    # A fact of another is written to by several; the links' rows are said by things as well.
    writes = {ObjectRef("things", "", str(one)): Wanted({"marked": str(mark)}) for one in linked}
    if view.ask(HEAVIEST, None) == key:
        return Said({RowKey("L", "to0"): Row({"by": 99})}, {**writes, ref: Wanted(finalizer=True)})
    return Said({}, writes)


UNITS = (Unit("of-thing", THINGS, _of_thing), Unit("of-mark", MARKS, _of_mark))


def _object(kind: Kind[Any], key: Hashable) -> ObjectRef:
    return ObjectRef(kind.name, "", str(key))


def _remembered(book: Book) -> set[tuple[str, Hashable]]:
    return {(kind.name, key) for kind, found in book._derived.items() for key in found}


small = st.integers(0, 3)
keys = st.integers(0, 5)
things = st.none() | st.builds(
    Thing, small, st.lists(keys, max_size=3).map(tuple), st.integers(0, 4)
)
step = st.tuples(st.just(THINGS), keys, things) | st.tuples(st.just(MARKS), keys, st.none() | small)
history = st.lists(st.lists(step, max_size=5), max_size=12)


def _fresh(facts: Facts) -> Book:
    book = Book(UNITS, _object)
    for kind, found in facts.items():
        for key, fact in found.items():
            book.put(kind, key, fact)
    book.update()
    return book


@settings(max_examples=300, deadline=None)
@given(history)
def test_after_any_history_the_book_is_what_a_whole_computation_gives(
    batches: list[list[tuple[Kind[Any], int, object]]],
) -> None:
    book = Book(UNITS, _object)
    facts: dict[Kind[Any], dict[int, object]] = {THINGS: {}, MARKS: {}}
    rows: dict[RowKey, Row] = {}
    problems: dict[ObjectRef, tuple[Problem, ...]] = {}
    writes: dict[ObjectRef, Wanted] = {}
    for batch in batches:
        for kind, key, fact in batch:
            changed = book.put(kind, key, fact)
            assert changed == (facts[kind].get(key) != fact)
            if fact is None:
                facts[kind].pop(key, None)
            else:
                facts[kind][key] = fact
        changes = book.update()
        for row_key, row in changes.rows.items():
            assert rows.get(row_key) != row
            if row is None:
                del rows[row_key]
            else:
                rows[row_key] = row
        writes.update(changes.writes)
        problems.update(changes.problems)
        expected = whole(UNITS, facts)
        assert rows == book.rows == expected.rows
        again = _fresh(facts)
        assert book.problems == again.problems
        assert book.writes == again.writes
        assert {ref: found for ref, found in problems.items() if found} == again.problems
        assert {ref: w for ref, w in writes.items() if w != Wanted()} == again.writes
        for ref, found in expected.problems.items():
            assert found <= set(book.problems[ref])
        for row_key, said_by in expected.said_by.items():
            assert {(unit, ref.name) for unit, ref in book.sayers(row_key)} == {
                (unit, str(key)) for unit, key in said_by
            }
        disputed = {str(row_key) for row_key in expected.disputed}
        told = [one.cause for found in book.problems.values() for one in found]
        assert {name for name in disputed if any(name in cause for cause in told)} == disputed
        # Nothing is remembered that nobody needs.
        assert _remembered(book) == _remembered(again)
        assert set(book._readers) == set(again._readers)


@settings(max_examples=100, deadline=None)
@given(history, st.data())
def test_what_nobody_read_costs_nobody_anything(
    batches: list[list[tuple[Kind[Any], int, object]]], data: st.DataObject
) -> None:
    book = Book(UNITS, _object)
    for batch in batches:
        for kind, key, fact in batch:
            book.put(kind, key, fact)
    book.update()
    units, derived = book.work.units, book.work.derived
    known = book.store.all(THINGS)
    again = data.draw(st.sampled_from(known)) if known else None
    if again is not None:
        assert not book.put(THINGS, again, book.store.get(THINGS, again))
    changes = book.update()
    assert (changes.rows, changes.writes, changes.problems) == ({}, {}, {})
    assert (book.work.units, book.work.derived) == (units, derived)
