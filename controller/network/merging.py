"""One answer out of what many units say: of each row, each object's writes, each object's problems.

Of several who say a row differently the first by (unit, key) is heard, whatever the order was in
which they began to say it: so the result is a function of what is said now.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeAlias, TypeVar

from controller.network.rows import Row, RowKey
from controller.network.units import ObjectRef, Said, Wanted
from controller.translate.ovn import Problem

T = TypeVar("T")
NOTHING = Said()


class Sayer(NamedTuple):
    """Who says something: a unit, by its place among all units, applied to the fact of a key."""

    rank: int
    unit: str
    key: Any


_Heard: TypeAlias = "tuple[Sayer, T] | dict[Sayer, T]"
"""Who says what: of most things one only, and a pair is a quarter of a dictionary."""


@dataclass(frozen=True, slots=True)
class Changes:
    """What is otherwise than after the last update.

    Attributes:
        rows: None: there should be no such row.
        writes: all that the object should say of itself, not only what is new; an empty one:
            nobody wants anything of it any more.
        problems: all problems of the object; none: it has none any more.
    """

    rows: Mapping[RowKey, Row | None] = field(default_factory=dict)
    writes: Mapping[ObjectRef, Wanted] = field(default_factory=dict)
    problems: Mapping[ObjectRef, tuple[Problem, ...]] = field(default_factory=dict)


class Merger:
    """What everybody says at the moment, merged."""

    def __init__(self) -> None:
        self.rows: dict[RowKey, Row] = {}
        self.writes: dict[ObjectRef, Wanted] = {}
        self.problems: dict[ObjectRef, tuple[Problem, ...]] = {}
        self._rows: dict[RowKey, _Heard[Row]] = {}
        self._writes: dict[ObjectRef, _Heard[Wanted]] = {}
        self._problems: dict[ObjectRef, _Heard[tuple[Problem, ...]]] = {}
        self._refs: dict[Sayer, ObjectRef] = {}
        self._disputes: dict[ObjectRef, dict[tuple[RowKey, Sayer], Problem]] = {}
        self._lost: dict[RowKey, dict[Sayer, ObjectRef]] = {}
        self._touched_rows: set[RowKey] = set()
        self._touched_writes: set[ObjectRef] = set()
        self._touched_problems: set[ObjectRef] = set()

    def say(self, sayer: Sayer, ref: ObjectRef, old: Said, new: Said) -> None:
        """A unit says something else; `ref` is the object that it speaks for."""
        if new is NOTHING:
            self._refs.pop(sayer, None)
        else:
            self._refs[sayer] = ref
        self._touched_rows |= _replace(self._rows, sayer, old.rows, new.rows)
        self._touched_writes |= _replace(self._writes, sayer, old.writes, new.writes)
        self._touched_problems |= _replace(self._problems, sayer, old.problems, new.problems)

    def sayers(self, key: RowKey) -> tuple[Sayer, ...]:
        """Who says a row, in the order in which they are heard."""
        return tuple(sorted(_by_sayer(self._rows.get(key))))

    def flush(self) -> Changes:
        """What became otherwise since the last time."""
        rows: dict[RowKey, Row | None] = {}
        for key in self._touched_rows:
            row = self._settle(key)
            if row != self.rows.get(key):
                rows[key] = row
            if row is None:
                self.rows.pop(key, None)
            else:
                self.rows[key] = row
        writes: dict[ObjectRef, Wanted] = {}
        for ref in self._touched_writes:
            wanted = _merged(_by_sayer(self._writes.get(ref)))
            if wanted != self.writes.get(ref, Wanted()):
                writes[ref] = wanted
            if ref in self._writes:
                self.writes[ref] = wanted
            else:
                self.writes.pop(ref, None)
        problems: dict[ObjectRef, tuple[Problem, ...]] = {}
        for ref in self._touched_problems:
            found = self._problems_of(ref)
            if found != self.problems.get(ref, ()):
                problems[ref] = found
            if found:
                self.problems[ref] = found
            else:
                self.problems.pop(ref, None)
        self._touched_rows, self._touched_writes = set(), set()
        self._touched_problems = set()
        return Changes(rows, writes, problems)

    def _settle(self, key: RowKey) -> Row | None:
        """The row that is heard; those who say it otherwise get a problem."""
        said = self._rows.get(key)
        if key in self._lost:
            for sayer, ref in self._lost.pop(key).items():
                self._disputes[ref].pop((key, sayer))
                self._touched_problems.add(ref)
        if not isinstance(said, dict):
            return said[1] if said is not None else None
        first = min(said)
        row = said[first]
        for sayer, other in said.items():
            if other is not row and other != row:
                self._dispute(key, sayer, first)
        return row

    def _dispute(self, key: RowKey, loser: Sayer, winner: Sayer) -> None:
        ref = self._refs[loser]
        problem = Problem(
            str(ref),
            f"{key} is wanted otherwise by {self._refs[winner]}, which stays",
            "take away or change one of the two",
        )
        self._disputes.setdefault(ref, {})[key, loser] = problem
        self._lost.setdefault(key, {})[loser] = ref
        self._touched_problems.add(ref)

    def _problems_of(self, ref: ObjectRef) -> tuple[Problem, ...]:
        found: dict[Problem, None] = {}
        said = _by_sayer(self._problems.get(ref))
        for sayer in sorted(said):
            found.update(dict.fromkeys(said[sayer]))
        disputes = self._disputes.get(ref, {})
        found.update(dict.fromkeys(disputes[one] for one in sorted(disputes)))
        return tuple(found)


def _by_sayer(heard: _Heard[T] | None) -> Mapping[Sayer, T]:
    if isinstance(heard, dict):
        return heard
    return dict([heard]) if heard is not None else {}


def _replace(
    held: dict[Any, _Heard[Any]],
    sayer: Sayer,
    old: Mapping[Any, Any],
    new: Mapping[Any, Any],
) -> set[Any]:
    """Note what one says now in the place of what it said; the keys where the two differ."""
    touched: set[Hashable] = set()
    for key in old.keys() - new.keys():
        said = held[key]
        if isinstance(said, dict):
            del said[sayer]
        if not isinstance(said, dict) or not said:
            del held[key]
        touched.add(key)
    for key, value in new.items():
        had = old.get(key)
        if had is value or (had is not None and had == value):
            continue
        there = held.get(key)
        if isinstance(there, dict):
            there[sayer] = value
        elif there is None or there[0] == sayer:
            held[key] = (sayer, value)
        else:
            held[key] = {there[0]: there[1], sayer: value}
        touched.add(key)
    return touched


def _merged(said: Mapping[Sayer, Wanted]) -> Wanted:
    """What several want of one object; the first is heard where two want one field otherwise."""
    if len(said) == 1:
        return next(iter(said.values()))
    wanted = [said[sayer] for sayer in sorted(said, reverse=True)]
    finalizers = [one.finalizer for one in wanted if one.finalizer is not None]
    return Wanted(
        _joined(one.annotations for one in wanted),
        _joined(one.status for one in wanted),
        _joined(one.conditions for one in wanted),
        # As long as one needs it, it has to be there.
        any(finalizers) if finalizers else None,
    )


def _joined(maps: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for one in maps:
        result.update(one)
    return result
