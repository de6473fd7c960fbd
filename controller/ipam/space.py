"""The addresses of one family that one subnet, or one pool of it, gives out.

An address is free, taken or released. Free ones go out in order; released ones only when no free
one is left, the one that was released first before the others: whoever still has an old neighbour
entry, or an old name in a cache, finds nobody for as long as that is possible.
"""

from __future__ import annotations

from controller.ipam.intervals import Intervals


class Space:
    """What may be given by itself, and what became of it. Addresses are integers."""

    def __init__(self, ranges: Intervals) -> None:
        self.ranges = ranges
        self._taken: set[int] = set()
        # In the order of their release.
        self._released: dict[int, None] = {}
        # Every free address is at or behind it.
        self._cursor = ranges.parts[0][0] if ranges.parts else 0

    @property
    def free(self) -> int:
        """How many might still be given."""
        return self.ranges.size - len(self._taken)

    def next(self) -> int | None:
        """The address that would be given now; None: all are taken."""
        number = self.ranges.following(self._cursor)
        while number is not None and (number in self._taken or number in self._released):
            number = self.ranges.following(number + 1)
        if number is not None:
            self._cursor = number
            return number
        self._cursor = self.ranges.parts[-1][1] + 1 if self.ranges.parts else 0
        return next(iter(self._released), None)

    def take(self, number: int) -> None:
        """This one is somebody's now; nothing to one that is not of the ranges."""
        if number in self.ranges:
            self._taken.add(number)
            self._released.pop(number, None)

    def release(self, number: int) -> None:
        """It is nobody's any more."""
        if number in self._taken:
            self._taken.discard(number)
            self._released[number] = None

    def reshape(self, ranges: Intervals, taken: set[int]) -> None:
        """Other ranges; `taken` are all addresses of the subnet that are somebody's."""
        fresh = ranges - self.ranges
        self.ranges = ranges
        self._taken = {number for number in taken if number in ranges}
        self._released = {
            number: None
            for number in self._released
            if number in ranges and number not in self._taken
        }
        begin = ranges.parts[0][0] if ranges.parts else 0
        self._cursor = begin if fresh.parts else max(self._cursor, begin)
