"""Sets of integers as sorted intervals: an IPv6 subnet has more addresses than a set could hold."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

Interval = tuple[int, int]
"""First and last member."""


@dataclass(frozen=True, slots=True)
class Intervals:
    """A set of integers: disjoint, not adjacent, in order. Make one by `of`."""

    parts: tuple[Interval, ...] = ()

    @classmethod
    def of(cls, parts: Iterable[Interval]) -> Intervals:
        """The union of these intervals; ones that end before they begin are empty."""
        joined: list[Interval] = []
        for first, last in sorted(part for part in parts if part[0] <= part[1]):
            if joined and first <= joined[-1][1] + 1:
                joined[-1] = joined[-1][0], max(joined[-1][1], last)
            else:
                joined.append((first, last))
        return cls(tuple(joined))

    def __contains__(self, number: int) -> bool:
        at = bisect_right(self.parts, number, key=lambda part: part[0]) - 1
        return at >= 0 and number <= self.parts[at][1]

    @property
    def size(self) -> int:
        """How many members, however many."""
        return sum(last - first + 1 for first, last in self.parts)

    def __sub__(self, other: Intervals) -> Intervals:
        left: list[Interval] = []
        cuts = iter(other.parts)
        cut = next(cuts, None)
        for first, last in self.parts:
            begin = first
            while cut is not None and cut[1] < begin:
                cut = next(cuts, None)
            while cut is not None and cut[0] <= last:
                if cut[0] > begin:
                    left.append((begin, cut[0] - 1))
                begin = cut[1] + 1
                if cut[1] > last:
                    break
                cut = next(cuts, None)
            if begin <= last:
                left.append((begin, last))
        return Intervals(tuple(left))

    def __and__(self, other: Intervals) -> Intervals:
        return self - (self - other)

    def __or__(self, other: Intervals) -> Intervals:
        return Intervals.of((*self.parts, *other.parts))

    def following(self, number: int) -> int | None:
        """The least member that is at least `number`."""
        at = bisect_right(self.parts, number, key=lambda part: part[0]) - 1
        if at >= 0 and number <= self.parts[at][1]:
            return number
        return self.parts[at + 1][0] if at + 1 < len(self.parts) else None

    def members(self) -> Iterator[int]:
        """Every member, in order."""
        for first, last in self.parts:
            yield from range(first, last + 1)
