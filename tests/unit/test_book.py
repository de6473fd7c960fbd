"""The book: who is computed, who is left alone, and what becomes of defects."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

from controller.network.book import Book
from controller.network.rows import Row, RowKey
from controller.network.units import ObjectRef, Said, Unit
from controller.network.view import Derived, Kind, View

NUMBERS: Kind[int] = Kind("numbers", {"odd": lambda _, number: (number % 2 == 1,)})
NAMES: Kind[str] = Kind("names")


def _ref(kind: Kind[Any], key: Hashable) -> ObjectRef:
    return ObjectRef(kind.name, "", str(key))


def _odd(view: View, key: Hashable) -> bool:
    return (view.get(NUMBERS, key) or 0) % 2 == 1


ODD: Derived[bool] = Derived("odd", _odd)


def _said(name: Hashable, value: Any) -> Said:
    return Said({RowKey("T", str(name)): Row({"value": value})})


def _book(compute: Any, *more: Unit) -> Book:
    return Book((Unit("unit", NAMES, compute), *more), _ref)


def test_a_derived_fact_that_comes_out_equal_leaves_its_readers_alone() -> None:
    book = _book(lambda view, key: _said(key, view.ask(ODD, 1)))
    book.put(NUMBERS, 1, 3)
    for name in "abc":
        book.put(NAMES, name, name)
    book.update()
    assert (book.work.units, book.work.derived) == (3, 1)
    book.put(NUMBERS, 1, 5)
    assert book.update().rows == {}
    assert (book.work.units, book.work.derived) == (3, 2)
    book.put(NUMBERS, 1, 6)
    assert len(book.update().rows) == 3
    assert (book.work.units, book.work.derived) == (6, 3)


def test_an_index_tells_who_is_found_and_not_what_they_are() -> None:
    book = _book(lambda view, key: _said(key, len(view.by(NUMBERS, "odd", True))))
    book.put(NAMES, "a", "a")
    book.put(NUMBERS, 1, 3)
    book.update()
    book.put(NUMBERS, 1, 5)
    assert book.update().rows == {} and book.work.units == 1
    book.put(NUMBERS, 1, 6)
    assert book.update().rows == {RowKey("T", "a"): Row({"value": 0})}


def test_a_fact_that_was_missed_is_seen_when_it_comes() -> None:
    book = _book(lambda view, key: _said(key, view.get(NUMBERS, 7) or 0))
    book.put(NAMES, "a", "a")
    book.update()
    book.put(NUMBERS, 7, 70)
    assert book.update().rows == {RowKey("T", "a"): Row({"value": 70})}
    book.put(NAMES, "a", None)
    assert book.update().rows == {RowKey("T", "a"): None}


def test_a_unit_that_fails_keeps_what_it_said_and_says_that_it_failed() -> None:
    def fragile(view: View, key: Hashable) -> Said:
        return _said(key, 10 // (view.get(NUMBERS, key) or 0))

    book = _book(fragile)
    for name, number in (("a", 2), ("b", 5)):
        book.put(NAMES, name, name)
        book.put(NUMBERS, name, number)
    book.update()
    book.put(NUMBERS, "a", 0)
    changes = book.update()
    assert changes.rows == {} and len(book.rows) == 2
    [problem] = changes.problems[ObjectRef("names", "", "a")]
    assert "ZeroDivisionError" in problem.cause
    assert len(book.failed) == 1
    book.put(NUMBERS, "a", 1)
    changes = book.update()
    assert changes.rows == {RowKey("T", "a"): Row({"value": 10})}
    assert changes.problems == {ObjectRef("names", "", "a"): ()}
    assert not book.failed


def test_a_derived_fact_that_fails_fails_who_asks_for_it_and_heals() -> None:
    inverse: Derived[int] = Derived(
        "inverse", lambda view, key: 10 // (view.get(NUMBERS, key) or 0)
    )
    book = _book(lambda view, key: _said(key, view.ask(inverse, 1)))
    book.put(NAMES, "a", "a")
    assert book.update().rows == {} and len(book.failed) == 1
    book.put(NUMBERS, 1, 5)
    assert book.update().rows == {RowKey("T", "a"): Row({"value": 2})}
    assert not book.failed


def test_a_derived_fact_that_asks_for_itself_is_a_problem_and_no_endless_loop() -> None:
    loop: Derived[int] = Derived("loop", lambda view, key: view.ask(loop, key))
    book = _book(lambda view, key: _said(key, view.ask(loop, 1)))
    book.put(NAMES, "a", "a")
    [problem] = book.update().problems[ObjectRef("names", "", "a")]
    assert "asks for itself" in problem.cause


def test_of_two_who_say_a_row_otherwise_the_first_stays_whoever_came_first() -> None:
    def one_row(view: View, key: Hashable) -> Said:
        return Said({RowKey("T", "shared"): Row({"value": str(view.get(NAMES, key))})})

    book = _book(one_row)
    book.put(NAMES, "b", "b")
    book.update()
    book.put(NAMES, "a", "a")
    changes = book.update()
    assert changes.rows == {RowKey("T", "shared"): Row({"value": "a"})}
    [problem] = changes.problems[ObjectRef("names", "", "b")]
    assert "names a" in problem.cause
    assert book.sayers(RowKey("T", "shared"))[0] == ("unit", ObjectRef("names", "", "a"))
    book.put(NAMES, "a", None)
    changes = book.update()
    assert changes.rows == {RowKey("T", "shared"): Row({"value": "b"})}
    assert changes.problems == {ObjectRef("names", "", "b"): ()}


def test_all_objects_behind_a_row_are_named_by_whatever_detour() -> None:
    book = _book(lambda view, key: _said((view.get(NAMES, key), key)[1], view.ask(ODD, 1)))
    book.put(NAMES, "a", "a")
    book.put(NUMBERS, 1, 1)
    book.put(NUMBERS, 2, 1)
    book.update()
    assert [str(one) for one in book.behind(RowKey("T", "a"))] == ["names a", "numbers 1"]


def test_ten_thousand_keys_and_a_change_of_one_computes_one() -> None:
    book = _book(lambda view, key: _said(key, view.get(NAMES, key) or ""))
    for number in range(10_000):
        book.put(NAMES, number, f"name{number}")
    assert len(book.update().rows) == 10_000
    book.put(NAMES, 77, "other")
    assert list(book.update().rows) == [RowKey("T", "77")]
    assert book.work.units == 10_001
