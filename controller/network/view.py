"""What units read: facts by kind and key, found by index, or derived from other facts.

Every read is noted by the book. Whatever was read and changes makes those who read it be computed
anew, and nobody else, so a unit reads as little as it can: an index instead of everything, a
derived fact instead of the large one it comes from (if the derived one comes out equal, those who
read it are left alone).
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeVar

T = TypeVar("T")
Index = Callable[[Any, Any], Iterable[Hashable]]
"""From a key and a fact to the values that the fact is found by."""


@dataclass(frozen=True, slots=True, eq=False)
class Kind(Generic[T]):
    """A kind of facts that come from outside: objects of the API, leases of addresses, chassis.

    Facts are frozen and compare by value: one that comes again unchanged changes nothing.

    Attributes:
        name: plural, in lower case; unique.
        indexes: by name; pure.
    """

    name: str
    indexes: Mapping[str, Index] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, eq=False)
class Derived(Generic[T]):
    """A kind of facts that are computed from others when they are asked for, and remembered.

    `compute` is pure, reads by the view only, and must not end up asking for itself.
    """

    name: str
    compute: Callable[[View, Any], T]


class View(Protocol):
    """The facts at one moment."""

    def get(self, kind: Kind[T], key: Hashable) -> T | None:
        """The fact of this key, if there is one."""

    def by(self, kind: Kind[T], index: str, value: Hashable) -> tuple[Any, ...]:
        """The keys found by an index, sorted; noted is who is among them, not what they are."""

    def all(self, kind: Kind[T]) -> tuple[Any, ...]:
        """Every key, sorted; noted likewise."""

    def ask(self, kind: Derived[T], key: Hashable) -> T:
        """A derived fact."""
