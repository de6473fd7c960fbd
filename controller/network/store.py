"""Facts by kind and key, found by index; says what a change touches.

A *token* names something that can be read: `(kind, key)` a fact, `(kind, index, value)` who is
found by a value, `(kind,)` who there is. Tokens of different sorts have different lengths, and
kinds compare by identity, so no two of them are equal by accident.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Hashable, Iterator
from typing import Any

from controller.network.view import Kind

Token = tuple[Any, ...]


class _Keys:
    """Keys, handed out sorted; a key more or less costs no sorting."""

    __slots__ = ("_members", "_shown", "_sorted")

    def __init__(self) -> None:
        self._members: set[Any] = set()
        self._sorted: list[Any] | None = None
        self._shown: tuple[Any, ...] | None = None

    def __len__(self) -> int:
        return len(self._members)

    def add(self, key: Any) -> None:
        self._members.add(key)
        self._shown = None
        if self._sorted is not None:
            insort(self._sorted, key)

    def discard(self, key: Any) -> None:
        self._members.discard(key)
        self._shown = None
        if self._sorted is not None:
            del self._sorted[bisect_left(self._sorted, key)]

    def shown(self) -> tuple[Any, ...]:
        if self._shown is None:
            if self._sorted is None:
                self._sorted = sorted(self._members)
            self._shown = tuple(self._sorted)
        return self._shown


class _Table:
    """The facts of one kind."""

    __slots__ = ("buckets", "facts", "keys", "kind")

    def __init__(self, kind: Kind[Any]) -> None:
        self.kind = kind
        self.facts: dict[Any, Any] = {}
        self.keys = _Keys()
        self.buckets: dict[str, dict[Hashable, _Keys]] = {name: {} for name in kind.indexes}


class Store:
    """All facts. Not safe for use from several threads at once."""

    def __init__(self) -> None:
        self._tables: dict[Kind[Any], _Table] = {}

    def get(self, kind: Kind[Any], key: Hashable) -> Any | None:
        """The fact of this key, if there is one."""
        table = self._tables.get(kind)
        return table.facts.get(key) if table is not None else None

    def by(self, kind: Kind[Any], index: str, value: Hashable) -> tuple[Any, ...]:
        """The keys found by an index, sorted.

        Raises:
            KeyError: the kind has no such index.
        """
        table = self._tables.get(kind)
        if table is None:
            _ = kind.indexes[index]
            return ()
        keys = table.buckets[index].get(value)
        return keys.shown() if keys is not None else ()

    def all(self, kind: Kind[Any]) -> tuple[Any, ...]:
        """Every key, sorted."""
        table = self._tables.get(kind)
        return table.keys.shown() if table is not None else ()

    def count(self, kind: Kind[Any]) -> int:
        """How many facts there are."""
        table = self._tables.get(kind)
        return len(table.facts) if table is not None else 0

    def kinds(self) -> Iterator[Kind[Any]]:
        """The kinds of which there was a fact at some time."""
        return iter(self._tables)

    def put(self, kind: Kind[Any], key: Hashable, fact: Any | None) -> list[Token]:
        """Have this fact, or none; the tokens of what is otherwise than before.

        What an index raises is raised before anything is changed.
        """
        table = self._tables.get(kind)
        if table is None:
            table = self._tables[kind] = _Table(kind)
        old = table.facts.get(key)
        if old == fact:
            return []
        moves = [
            (
                name,
                frozenset(find(key, old)) if old is not None else frozenset(),
                frozenset(find(key, fact)) if fact is not None else frozenset(),
            )
            for name, find in kind.indexes.items()
        ]
        touched: list[Token] = [(kind, key)]
        if fact is None:
            del table.facts[key]
            table.keys.discard(key)
            touched.append((kind,))
        else:
            table.facts[key] = fact
            if old is None:
                table.keys.add(key)
                touched.append((kind,))
        for name, before, after in moves:
            buckets = table.buckets[name]
            for value in before - after:
                keys = buckets[value]
                keys.discard(key)
                if not keys:
                    del buckets[value]
                touched.append((kind, name, value))
            for value in after - before:
                buckets.setdefault(value, _Keys()).add(key)
                touched.append((kind, name, value))
        return touched
