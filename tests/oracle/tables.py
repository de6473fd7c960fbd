"""Three sizes of a connection table, and what a node promises where it is full."""

from __future__ import annotations

from enum import Enum


class Table(Enum):
    """A table: how many records each family has, and what fills it.

    A node promises: while rows of records are free, no flow ends for another and none is refused.
    Where a new flow meets living ones only, one that is not established may end for it; where it
    meets established ones only, it is given a port of the second choice, or refused.
    """

    ROOMY = ("roomy", 1 << 12)
    """More records than a world has packets, and soon in use for the second time."""
    CROWDED = ("crowded", 64)
    """Flows push each other out."""
    LADEN = ("laden", 1 << 15)
    """Wide, and nearly all of it established flows of others, which never end."""

    def __init__(self, text: str, records: int) -> None:
        self.text, self.records = text, records

    @property
    def crowded(self) -> bool:
        """Whether flows may end for others, or be refused."""
        return self is not Table.ROOMY

    @property
    def loads(self) -> tuple[float, ...]:
        """The shares of it that others' flows may have: one is drawn for each world."""
        return (0.7, 0.9, 0.95, 0.98) if self is Table.LADEN else (0.0,)
