"""A frozen mapping that shares what did not change with the one that it was made from.

Of ten thousand rows one changes at a time. A copy of a dict touches every row that it holds, which
costs a millisecond where another program has had the processor's cache meanwhile; here a change
costs what has changed since the last whole copy.
"""

from __future__ import annotations

from collections.abc import ItemsView, Iterator, KeysView, Mapping, ValuesView
from typing import Any, TypeVar

K = TypeVar("K")
V = TypeVar("V")

OVER_MAX = 256
"""Rows that may lie over the whole copy before another one is made."""


class Layered(Mapping[K, V]):
    """A mapping of `base`, which nobody may change any more, with `over` on it (None: no such row).

    In no promised order. None is no row's value.
    """

    __slots__ = ("_base", "_over", "_size", "_whole")

    def __init__(self, base: dict[K, V], over: dict[K, V | None] | None = None) -> None:
        self._base = base
        self._over: dict[K, V | None] = over or {}
        self._size = len(base)
        self._whole: dict[K, V] | None = base
        if self._over:
            self._whole = None
            for key, value in self._over.items():
                self._size += (value is not None) - (key in base)

    def changed(self, rows: Mapping[K, V | None]) -> Layered[K, V]:
        """The same mapping with other rows under these keys (None: the row goes)."""
        over = {**self._over, **rows}
        if len(over) <= min(OVER_MAX, len(self._base)):
            return Layered(self._base, over)
        whole = dict(self._merged())
        _lay(whole, rows)
        return Layered(whole)

    def differing(self, before: Layered[K, V]) -> frozenset[K] | None:
        """Keys of rows that came, went or are other objects; None: it would take a whole pass."""
        if self._base is not before._base:
            return None
        keys = self._over.keys() | before._over.keys()
        return frozenset(key for key in keys if self.get(key) is not before.get(key))

    def __getitem__(self, key: K) -> V:
        if key in self._over:
            value = self._over[key]
            if value is None:
                raise KeyError(key)
            return value
        return self._base[key]

    def get(self, key: K, default: Any = None) -> Any:
        """The row under a key, or else the default."""
        if key in self._over:
            value = self._over[key]
            return default if value is None else value
        return self._base.get(key, default)

    def __contains__(self, key: object) -> bool:
        if key in self._over:
            return self._over[key] is not None
        return key in self._base

    def __len__(self) -> int:
        return self._size

    def __iter__(self) -> Iterator[K]:
        return iter(self._merged())

    def keys(self) -> KeysView[K]:
        """All keys, as a dict gives them."""
        return self._merged().keys()

    def values(self) -> ValuesView[V]:
        """All rows."""
        return self._merged().values()

    def items(self) -> ItemsView[K, V]:
        """Both."""
        return self._merged().items()

    def __eq__(self, other: object) -> bool:
        if self is other:
            return True
        if isinstance(other, Layered):
            found = self.differing(other)
            if found is not None:
                return all(self.get(key) == other.get(key) for key in found)
            other = other._merged()
        return self._merged() == other

    __hash__ = None  # type: ignore[assignment]  # as of every mapping

    def __repr__(self) -> str:
        return f"Layered({self._merged()!r})"

    def _merged(self) -> dict[K, V]:
        """The rows as one dict: made when somebody first asks for all of them."""
        whole = self._whole
        if whole is None:
            whole = dict(self._base)
            _lay(whole, self._over)
            self._whole = whole
        return whole


def _lay(whole: dict[K, V], rows: Mapping[K, V | None]) -> None:
    for key, value in rows.items():
        if value is None:
            whole.pop(key, None)
        else:
            whole[key] = value
