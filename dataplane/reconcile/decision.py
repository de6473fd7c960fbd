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
    return Diff(
        tuple(
            (key, value)
            for key, value in desired.items()
            if key not in actual or actual[key] != value
        ),
        tuple(key for key in actual if key not in desired),
    )


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
        for key, value in desired.items()
        if (trouble := troubles.get(key)) is not None
        and trouble.failure.quarantine
        and trouble.holds(value, now)
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
        take_back=tuple(key for key in actual if key in quarantined),
        deletes=tuple(key for key in whole.deletes if key not in held) if prune else (),
        held=frozenset(held | quarantined),
    )
