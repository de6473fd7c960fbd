"""What to do about one table: pure decisions, apart from their effects."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from dataplane.ports import Failure

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class _Absent:
    """The value of a row that shall not be there."""

    def __repr__(self) -> str:
        return "ABSENT"


ABSENT = _Absent()


@dataclass(frozen=True, slots=True)
class Diff(Generic[K, V]):
    """The least that makes `actual` equal to `desired`."""

    upserts: tuple[tuple[K, V], ...]
    deletes: tuple[K, ...]


def diff(desired: Mapping[K, V], actual: Mapping[K, V]) -> Diff[K, V]:
    """Rows to write (in the desired mapping's order) and keys to remove."""
    upserts: list[tuple[K, V]] = []
    missing = 0
    for row in desired.items():
        held: object = actual.get(row[0], ABSENT)
        # Mostly it is the very object, and comparing those costs more than the rest.
        if held is row[1] or held == row[1]:
            continue
        missing += held is ABSENT
        upserts.append(row)
    if len(desired) - missing == len(actual):
        return Diff(tuple(upserts), ())
    return Diff(tuple(upserts), tuple(key for key in actual if key not in desired))


@dataclass(frozen=True, slots=True)
class Trouble:
    """What is remembered of a row that failed.

    `wanted` is the value that failed (`ABSENT`: a removal): trouble with one value says nothing
    about another. `due` is when it may be tried again [s]. On probation the last try succeeded,
    but a quarantine is remembered until then: a surface that refuses a row some time after
    taking it must not start the count anew each time.
    """

    wanted: Any
    failure: Failure
    attempts: int
    due: float
    probation: bool = False

    def holds(self, wanted: object, now: float) -> bool:
        """Whether a row of this value must still be left alone."""
        return not self.probation and self.concerns(wanted) and now < self.due

    def concerns(self, wanted: object) -> bool:
        """Whether it was this value that failed."""
        return bool(self.wanted == wanted)


@dataclass(frozen=True, slots=True)
class Decision(Generic[K, V]):
    """Writes of one round: what is due, what must go, and what is held back by its back-off."""

    upserts: tuple[tuple[K, V], ...]
    take_back: tuple[K, ...]
    deletes: tuple[K, ...]
    held: frozenset[K]


def decide(
    desired: Mapping[K, V],
    actual: Mapping[K, V],
    troubles: Mapping[K, Trouble],
    now: float,
    *,
    prune: bool,
) -> Decision[K, V]:
    """What to write now, given what failed before.

    A quarantined row that is there nevertheless is taken back, even if `prune` is off: leaving
    it costs the surface more than its absence.
    """
    whole = diff(desired, actual)
    quarantined = {
        key
        for key, trouble in troubles.items()
        if trouble.failure.quarantine and key in desired and trouble.holds(desired[key], now)
    }
    held = {
        key
        for key, value in whole.upserts
        if (trouble := troubles.get(key)) is not None and trouble.holds(value, now)
    }
    held |= {
        key
        for key in whole.deletes
        if (trouble := troubles.get(key)) is not None and trouble.holds(ABSENT, now)
    }
    return Decision(
        upserts=tuple(
            row for row in whole.upserts if row[0] not in held and row[0] not in quarantined
        ),
        take_back=tuple(key for key in actual if key in quarantined) if quarantined else (),
        deletes=tuple(key for key in whole.deletes if key not in held) if prune else (),
        held=frozenset(held | quarantined),
    )


class Alike:
    """Pairs of mappings, by table, that were compared and found to have the same rows.

    For mappings that nobody changes any more: then the same two objects need no second look.
    """

    def __init__(self) -> None:
        self._pairs: dict[str, tuple[object, object]] = {}

    def note(self, table: str, desired: Mapping[K, V], actual: Mapping[K, V]) -> None:
        """All rows of `desired` are in `actual`; there may be more in it."""
        if len(desired) == len(actual):
            self._pairs[table] = desired, actual

    def forget(self, table: str) -> None:
        """Somebody wrote rows without a look at all."""
        self._pairs.pop(table, None)

    def are(self, table: str, desired: Mapping[K, V], actual: Mapping[K, V]) -> bool:
        """Whether it was these two."""
        pair = self._pairs.get(table)
        return pair is not None and pair[0] is desired and pair[1] is actual
