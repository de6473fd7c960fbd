"""Small integers for objects that the kernel must name by number."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from heapq import heappop, heappush
from typing import TypeVar

K = TypeVar("K")


class OutOfIds(Exception):
    """More objects are wanted than the table has room for."""


def allocate(held: Mapping[K, int], wanted: Iterable[K], limit: int) -> dict[K, int]:
    """An id in 1..limit for each wanted key; a key that holds one keeps it.

    New keys take the smallest free ids in the order given, so the result depends on nothing but
    the arguments. Ids of keys no longer wanted are free again, but only after every id that is
    still held by somebody: a number must not change its meaning while old entries refer to it.

    Raises:
        OutOfIds: more than `limit` keys are wanted.
    """
    keys = list(dict.fromkeys(wanted))
    if len(keys) > limit:
        msg = f"{len(keys)} objects need an id and there is room for {limit}"
        raise OutOfIds(msg)
    taken: dict[K, int] = {}
    used: set[int] = set()
    for key in keys:
        number = held.get(key)
        if number is not None and 1 <= number <= limit and number not in used:
            taken[key] = number
            used.add(number)
    # Prefer numbers that nobody held: flows in progress may still refer to a retired one.
    retired = sorted({number for number in held.values() if 1 <= number <= limit} - used)
    fresh = iter(number for number in range(1, limit + 1) if number not in used)
    avoid = set(retired)
    spare = iter(retired)
    for key in keys:
        if key in taken:
            continue
        number = next((n for n in fresh if n not in avoid), None)
        taken[key] = number if number is not None else next(spare)
    return taken


class Numbers:
    """Which of 1..limit are in use, as `allocate` gives and takes them, one by one.

    A number that is given back rests, to be given out last, until `settle`.
    """

    def __init__(self, limit: int, used: Iterable[int], resting: Iterable[int] = ()) -> None:
        self._limit = limit
        self._used = set(used)
        self._resting = {n for n in resting if 1 <= n <= limit} - self._used
        self._next = 1
        # Of the numbers below `_next`; some may be in use or resting again.
        self._free: list[int] = []

    def take(self) -> int:
        """The smallest free number; of those that rest only if there is no other.

        Raises:
            OutOfIds: all are in use.
        """
        while self._free:
            if self.take_back(number := heappop(self._free), rested=False):
                return number
        while self._next <= self._limit:
            self._next += 1
            if self.take_back(number := self._next - 1, rested=False):
                return number
        if not self._resting:
            msg = f"one more object needs an id and there is room for {self._limit}"
            raise OutOfIds(msg)
        number = min(self._resting)
        self.take_back(number)
        return number

    def take_back(self, number: int, *, rested: bool = True) -> bool:
        """Take this very number, also one that rests if `rested`; whether it was to be had."""
        if number in self._used or not 1 <= number <= self._limit:
            return False
        if number in self._resting:
            if not rested:
                return False
            self._resting.remove(number)
        self._used.add(number)
        return True

    def give_back(self, number: int) -> None:
        """Nobody uses it any more."""
        self._used.remove(number)
        self._resting.add(number)

    def settle(self) -> None:
        """Those that rest have rested."""
        for number in self._resting:
            if number < self._next:
                heappush(self._free, number)
        self._resting.clear()
