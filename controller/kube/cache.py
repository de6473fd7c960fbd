"""Objects as the API server had them last, by key and by index."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar

from controller.kube.resources import Key, Resource, key_of
from controller.kube.structs import HasMeta

T = TypeVar("T", bound=HasMeta)
Index = Callable[[T], Iterable[Hashable]]
"""The values that an object is found by; a pure function of the object."""

Listener = Callable[[frozenset[Key]], None]
"""Is told the keys that may have changed: an invalidation, never an event."""


class StaleList(Exception):
    """A list is older than what the cache has."""


@dataclass(frozen=True, slots=True)
class Upsert(Generic[T]):
    """An object as it is since a revision; None: it cannot be read, and `problem` says why."""

    key: Key
    revision: int
    obj: T | None
    problem: str = ""


@dataclass(frozen=True, slots=True)
class Removal:
    """An object that is gone since a revision."""

    key: Key
    revision: int


class Cache(Generic[T]):
    """The objects of one resource, with indexes, never going back in time.

    Written by one Reflector; read from the same event loop by anybody. Objects in it are frozen.
    Readers ask again when told that a key changed; they are never told what happened to it.

    Attributes:
        revision: the resourceVersion up to which everything is known; 0 before the first list.
        invalid: objects that cannot be decoded, and why. They count as absent.
        ignored: changes that were older than what is known (duplicates, replays).
    """

    def __init__(
        self, resource: Resource[T], indexes: Mapping[str, Index[T]] | None = None
    ) -> None:
        self.resource = resource
        self.revision = 0
        self.invalid: dict[Key, str] = {}
        self.ignored = 0
        self.synced = asyncio.Event()
        self._objects: dict[Key, T] = {}
        self._indexes = dict(indexes or {})
        self._found: dict[str, dict[Hashable, set[Key]]] = {name: {} for name in self._indexes}
        self._listeners: list[Listener] = []

    # Reading

    def get(self, namespace: str, name: str) -> T | None:
        """The object of this name, if there is one."""
        return self._objects.get(Key(namespace, name))

    def at(self, key: Key) -> T | None:
        """The object of this key, if there is one."""
        return self._objects.get(key)

    def __len__(self) -> int:
        return len(self._objects)

    def __iter__(self) -> Iterator[T]:
        return iter(self._objects.values())

    def keys(self) -> Iterable[Key]:
        """All keys."""
        return self._objects.keys()

    def by(self, index: str, value: Hashable) -> list[T]:
        """The objects that an index finds by a value, in the order of their keys.

        Raises:
            KeyError: there is no such index.
        """
        return [self._objects[key] for key in sorted(self._found[index].get(value, ()))]

    def subscribe(self, listener: Listener) -> None:
        """Tell this listener of every change from now on; it must not wait for anything."""
        self._listeners.append(listener)

    # Writing (the reflector's)

    def replace(
        self, entries: Iterable[Upsert[T]], revision: int, *, backwards: bool = False
    ) -> frozenset[Key]:
        """Have exactly these objects, as a list of this revision has them.

        Args:
            entries: all objects.
            revision: the list's resourceVersion.
            backwards: accept a list that is older than what is known.

        Returns:
            The keys whose objects are others than before.

        Raises:
            StaleList: the list is older than what is known.
        """
        if revision < self.revision and not backwards:
            msg = f"{self.resource}: a list of revision {revision}, where {self.revision} is known"
            raise StaleList(msg)
        changed: set[Key] = set()
        present: set[Key] = set()
        for entry in entries:
            present.add(entry.key)
            if self._put(entry):
                changed.add(entry.key)
        for key in (self._objects.keys() | self.invalid.keys()) - present:
            self._drop(key)
            changed.add(key)
        self.revision = revision
        self.synced.set()
        return self._tell(changed)

    def apply(self, changes: Iterable[Upsert[T] | Removal]) -> frozenset[Key]:
        """Take changes in the order of their revisions; older ones than known are ignored."""
        changed: set[Key] = set()
        for change in changes:
            if change.revision <= self.revision:
                self.ignored += 1
                continue
            self.revision = change.revision
            if isinstance(change, Removal):
                if self._drop(change.key):
                    changed.add(change.key)
            elif self._put(change):
                changed.add(change.key)
        return self._tell(changed)

    def advance(self, revision: int) -> None:
        """Everything up to a revision is known (a bookmark)."""
        self.revision = max(self.revision, revision)

    def _tell(self, changed: set[Key]) -> frozenset[Key]:
        keys = frozenset(changed)
        if keys:
            for listener in self._listeners:
                listener(keys)
        return keys

    def _put(self, entry: Upsert[T]) -> bool:
        old = self._objects.get(entry.key)
        if entry.obj is None:
            had = self._drop(entry.key) if entry.key not in self.invalid else True
            told = self.invalid.get(entry.key)
            self.invalid[entry.key] = entry.problem
            return had or told != entry.problem
        # Whole objects: after a restore a resourceVersion may come again for another content.
        if old == entry.obj:
            return False
        if old is not None:
            self._unindex(entry.key, old)
        self.invalid.pop(entry.key, None)
        self._objects[entry.key] = entry.obj
        for name, index in self._indexes.items():
            for value in index(entry.obj):
                self._found[name].setdefault(value, set()).add(entry.key)
        return True

    def _drop(self, key: Key) -> bool:
        had = self.invalid.pop(key, None) is not None
        old = self._objects.pop(key, None)
        if old is not None:
            self._unindex(key, old)
        return had or old is not None

    def _unindex(self, key: Key, old: T) -> None:
        for name, index in self._indexes.items():
            found = self._found[name]
            for value in index(old):
                keys = found.get(value)
                if keys:
                    keys.discard(key)
                    if not keys:
                        del found[value]


class Inbox:
    """What may have changed since it was last emptied: a queue in which equal keys are one.

    Give `inbox.of(NAME)` to caches as listeners, then loop over `await inbox.take()`.
    """

    def __init__(self) -> None:
        self._waiting: dict[str, set[Key]] = {}
        self._filled = asyncio.Event()

    def of(self, name: str) -> Listener:
        """A listener that notes keys under a name."""

        def note(keys: frozenset[Key]) -> None:
            self._waiting.setdefault(name, set()).update(keys)
            self._filled.set()

        return note

    async def take(self) -> dict[str, set[Key]]:
        """Wait until there is something; everything that there is, by name."""
        await self._filled.wait()
        self._filled.clear()
        taken, self._waiting = self._waiting, {}
        return taken


def upsert(obj: T, revision: int) -> Upsert[T]:
    """An object as a change."""
    return Upsert(key_of(obj.metadata), revision, obj)


def by_node(pod: HasMeta) -> Iterable[Hashable]:
    """Index of pods by the node that they are on."""
    node = getattr(getattr(pod, "spec", None), "node_name", "")
    return (node,) if node else ()


def by_namespace(obj: HasMeta) -> Iterable[Hashable]:
    """Index of anything by its namespace."""
    return (obj.metadata.namespace,)


def by_owner(obj: HasMeta) -> Iterable[Hashable]:
    """Index of anything by the uids of its owners."""
    return tuple(owner.uid for owner in obj.metadata.owner_references)
