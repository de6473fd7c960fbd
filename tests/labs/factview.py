"""What units say, computed whole from plain dicts: nothing remembered, nothing recorded.

For tests of single units, and what the book is compared with.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from controller.network.rows import Row, RowKey
from controller.network.units import ObjectRef, Said, Unit, Wanted
from controller.network.view import Derived, Kind
from controller.translate.ovn import Problem

T = TypeVar("T")

Facts = Mapping[Kind[Any], Mapping[Any, Any]]
"""Facts by kind and key."""


@dataclass(frozen=True, slots=True)
class FactView:
    """A view over `FactView({PODS: {Key("a", "b"): NetPod(...)}, ...})`."""

    facts: Facts = field(default_factory=dict)

    def get(self, kind: Kind[T], key: Hashable) -> T | None:
        """The fact of this key, if there is one."""
        return self.facts.get(kind, {}).get(key)

    def by(self, kind: Kind[T], index: str, value: Hashable) -> tuple[Any, ...]:
        """The keys found by an index, sorted."""
        find = kind.indexes[index]
        found = self.facts.get(kind, {}).items()
        return tuple(sorted(key for key, fact in found if value in tuple(find(key, fact))))

    def all(self, kind: Kind[T]) -> tuple[Any, ...]:
        """Every key, sorted."""
        return tuple(sorted(self.facts.get(kind, {})))

    def ask(self, kind: Derived[T], key: Hashable) -> T:
        """A derived fact."""
        return kind.compute(self, key)


@dataclass(frozen=True, slots=True)
class Whole:
    """All that some units say of some facts.

    Attributes:
        said_by: each row with who says it: unit's name and fact's key.
        disputed: rows that are said in more than one way; which of them `rows` has is the first's.
    """

    rows: dict[RowKey, Row] = field(default_factory=dict)
    writes: dict[ObjectRef, list[Wanted]] = field(default_factory=dict)
    problems: dict[ObjectRef, set[Problem]] = field(default_factory=dict)
    said_by: dict[RowKey, set[tuple[str, Hashable]]] = field(default_factory=dict)
    disputed: set[RowKey] = field(default_factory=set)


def whole(units: Iterable[Unit], facts: Facts) -> Whole:
    """Apply each unit to every fact of its kind, in their order."""
    view = FactView(facts)
    result = Whole()
    for unit in units:
        for key in view.all(unit.of):
            said: Said = unit.compute(view, key)
            for row_key, row in said.rows.items():
                if result.rows.setdefault(row_key, row) != row:
                    result.disputed.add(row_key)
                result.said_by.setdefault(row_key, set()).add((unit.name, key))
            for ref, wanted in said.writes.items():
                result.writes.setdefault(ref, []).append(wanted)
            for ref, problems in said.problems.items():
                result.problems.setdefault(ref, set()).update(problems)
    return result
