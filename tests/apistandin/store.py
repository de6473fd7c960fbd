"""What etcd does for the API: one counter of revisions, every change kept until compacted."""

from __future__ import annotations

import asyncio
import bisect
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from tests.apistandin.failure import Object

KindKey = tuple[str, str]
Key = tuple[str, str]
"""Namespace (empty for cluster-scoped objects) and name."""


@dataclass(frozen=True, slots=True)
class Change:
    """One revision: an object before and after. Objects in it are never changed again."""

    revision: int
    kind: KindKey
    key: Key
    before: Object | None
    after: Object | None


@dataclass(slots=True)
class Store:
    """Objects by kind and key, and the log of changes since the last compaction."""

    revision: int = 1
    objects: dict[KindKey, dict[Key, Object]] = field(default_factory=dict)
    log: list[Change] = field(default_factory=list)
    compacted: int = 0
    """Revisions below this one can be neither listed nor watched from."""
    _waiters: set[asyncio.Event] = field(default_factory=set)

    def of(self, kind: KindKey) -> dict[Key, Object]:
        """The objects of a kind as they are now."""
        return self.objects.setdefault(kind, {})

    def next_revision(self) -> int:
        """The revision that the next write will have."""
        return self.revision + 1

    def write(self, kind: KindKey, key: Key, after: Object | None) -> int:
        """Put an object, or take it away, as the next revision."""
        self.revision += 1
        has = self.of(kind)
        before = has.pop(key, None) if after is None else has.get(key)
        if after is not None:
            has[key] = after
        self.log.append(Change(self.revision, kind, key, before, after))
        for waiter in self._waiters:
            waiter.set()
        return self.revision

    def compact(self, revision: int | None = None) -> None:
        """Refuse what is asked of before a revision, by default of before now.

        Watches that are open already are still told what came: the real server has it in memory.
        """
        self.compacted = max(self.compacted, self.revision if revision is None else revision)

    def restore(self, revision: int) -> None:
        """Be as at a revision, and count on from there, as etcd does from a backup."""
        for kind in self.objects:
            self.objects[kind] = self.snapshot(kind, revision)
        self.log = [change for change in self.log if change.revision <= revision]
        self.revision = revision

    def since(self, revision: int) -> Iterator[Change]:
        """The changes after a revision, oldest first."""
        start = bisect.bisect_right(self.log, revision, key=_revision)
        yield from self.log[start:]

    def snapshot(self, kind: KindKey, revision: int) -> dict[Key, Object]:
        """The objects of a kind as they were at a revision that is not compacted."""
        has = dict(self.of(kind))
        for change in reversed(self.log):
            if change.revision <= revision:
                break
            if change.kind != kind:
                continue
            if change.before is None:
                has.pop(change.key, None)
            else:
                has[change.key] = change.before
        return has

    async def wait(self, beyond: Callable[[], bool], timeout_s: float) -> bool:
        """Wait for a write after which `beyond` holds; whether it does."""
        event = asyncio.Event()
        self._waiters.add(event)
        try:
            async with asyncio.timeout(max(0.0, timeout_s)):
                while not beyond():
                    event.clear()
                    await event.wait()
        except TimeoutError:
            return beyond()
        finally:
            self._waiters.discard(event)
        return True

    def wake(self) -> None:
        """Let every waiter look again: a switch was thrown."""
        for waiter in self._waiters:
            waiter.set()


def _revision(change: Change) -> int:
    return change.revision
