"""Keeps a cache equal to a collection of the API server: list, watch, and all that goes wrong."""

from __future__ import annotations

import logging
import random
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from controller.kube.cache import Cache, StaleList, Upsert
from controller.kube.decoding import Bookmark, Decoder
from controller.kube.errors import ApiError, KubeError, Unreachable
from controller.kube.http import Client
from controller.kube.pacing import Backoff, Clock, RealClock, Recovery
from controller.kube.structs import HasMeta

T = TypeVar("T", bound=HasMeta)
A = TypeVar("A")
log = logging.getLogger(__name__)

PAGE = 500
"""Objects of one page of a list."""
WATCH_S = (300.0, 600.0)
"""A watch is asked to last so long [s]; drawn anew each time, so that not all end at once."""
GRACE_S = 30.0
"""How much longer than asked for a watch may last before its connection counts as dead [s]."""
SHORT_WATCH_S = 5.0
"""A watch that ends sooner, without having told anything, counts as a failure [s]."""
STALE_PATIENCE_S = 60.0
"""How long lists that are older than the cache are refused [s]; a server that still has nothing
newer was restored from a backup, and what it has is what there is. So long, too, a kind whose
definition is gone keeps the objects that were seen last."""
SILENT_S = 120.0
"""A watch that lasted so long and told nothing, not even a bookmark, may wait for a revision that a
restored server has yet to reach [s]: such a watch is silent, without an error, until then."""
OUTAGE_S = 30.0
"""Who heard nothing for so long lists anew [s]: another past may lie behind the same revisions."""
_PASSING = frozenset({401, 403, 408, 429, 502, 503})
"""Refusals of a watch that say nothing about the revision that it was to begin from."""


@dataclass(slots=True)
class Progress:
    """What a reflector did so far, for status and metrics."""

    lists: int = 0
    watches: int = 0
    events: int = 0
    bookmarks: int = 0
    gone: int = 0
    """How often the past was gone (410)."""
    stale_lists: int = 0
    errors: int = 0
    error: str = ""
    """What is wrong now; empty if nothing is."""


@dataclass(slots=True)
class Reflector(Generic[T]):
    """Lists and watches one collection into a cache, for ever.

    Attributes:
        client: an open client.
        cache: what to keep equal.
        namespace: only this one; empty: all.
        selectors: labelSelector and fieldSelector, if any.
        page: objects of one page; 0 asks for everything at once.
        recovery: whose server is the same: one that is answered again wakes the others.
    """

    client: Client
    cache: Cache[T]
    namespace: str = ""
    selectors: Mapping[str, str] = field(default_factory=dict)
    clock: Clock = field(default_factory=RealClock)
    random: random.Random = field(default_factory=random.Random)
    backoff: Backoff | None = None
    page: int = PAGE
    watch_s: tuple[float, float] = WATCH_S
    stale_patience_s: float = STALE_PATIENCE_S
    progress: Progress = field(default_factory=Progress)
    recovery: Recovery = field(default_factory=Recovery)
    _decoder: Decoder[T] = field(init=False)
    _pace: Backoff = field(init=False)
    _stale_since: float | None = None
    _absent_since: float | None = None
    _failing_since: float | None = None

    def __post_init__(self) -> None:
        self._decoder = Decoder(self.cache.resource)
        self._pace = self.backoff or Backoff(random=self.random)

    async def run(self) -> None:
        """Keep the cache equal until cancelled. No failure of the server ends it."""
        relist = True
        while True:
            since = self.recovery.clock.monotonic()
            try:
                if relist:
                    await self._list()
                    relist = False
                    self._answered()
                relist = await self._watch()
                continue
            except (KubeError, StaleList) as problem:
                relist = self._note(problem) or relist
                wish = problem.retry_after if isinstance(problem, ApiError) else None
                common = isinstance(problem, Unreachable) or self._is_passing(problem)
            delay = self._pace.delay(wish)
            if common and wish is None:
                await self.recovery.wait(id(self), self.clock, delay, since)
            else:
                await self.clock.sleep(delay)

    def _answered(self) -> None:
        """Nothing is wrong any more."""
        self.progress.error = ""
        if self._failing_since is not None:
            self._failing_since = None
            self.recovery.answered(id(self))

    @staticmethod
    def _is_passing(problem: KubeError | StaleList) -> bool:
        return isinstance(problem, ApiError) and problem.code in _PASSING

    def _note(self, problem: KubeError | StaleList) -> bool:
        """Write down what went wrong; whether a list is to mend it."""
        now = self.clock.monotonic()
        if isinstance(problem, ApiError) and problem.is_gone:
            self.progress.gone += 1
            log.info("%s; listing anew", problem)
            return True
        self.progress.errors += 1
        self.progress.error = str(problem)
        log.warning("%s; trying again", problem)
        if self._failing_since is None:
            self._failing_since = now
        if isinstance(problem, ApiError) and not self._is_passing(problem):
            return True
        return now - self._failing_since >= OUTAGE_S

    async def _list(self) -> None:
        """Read the whole collection, in pages of one revision."""
        self.progress.lists += 1
        try:
            entries, revision = await self._in_turn(lambda: self._pages(self.page))
        except ApiError as problem:
            # The token of a page expired: the collection is too large for the time that the
            # server keeps a snapshot. In one piece there is nothing to expire.
            if problem.code == 404:
                self._absent(problem)
            if not (problem.is_gone and self.page):
                raise
            self.progress.gone += 1
            entries, revision = await self._pages(0)
        self._absent_since = None
        try:
            self.cache.replace(entries, revision)
            self._stale_since = None
        except StaleList:
            self.progress.stale_lists += 1
            now = self.clock.monotonic()
            if self._stale_since is None:
                self._stale_since = now
            if now - self._stale_since < self.stale_patience_s:
                raise
            log.warning(
                "%s: for %.0f s the API server has had nothing newer than revision %d, where %d "
                "was seen: taken as a restore of its database",
                self.cache.resource, now - self._stale_since, revision, self.cache.revision,
            )  # fmt: skip
            self.cache.replace(entries, revision, backwards=True)
            self._stale_since = None

    async def _in_turn(self, ask: Callable[[], Awaitable[A]]) -> A:
        """Ask for the collection in the version that the server has: another may have taken over.

        Raises:
            ApiError: 404, it has none of them.
        """
        first, missing = self.cache.resource, None
        for self.cache.resource in first.in_turn():
            try:
                return await ask()
            except ApiError as problem:
                if problem.code != 404:
                    raise
                missing = missing or problem
        self.cache.resource = first
        assert missing is not None
        raise missing

    def _absent(self, problem: ApiError) -> None:
        """The kind is not served any more: with its definition its objects are deleted, too."""
        now = self.clock.monotonic()
        if self._absent_since is None:
            self._absent_since = now
        if len(self.cache) or self.cache.invalid:
            if now - self._absent_since < self.stale_patience_s:
                return
            log.error("%s; its %d objects count as deleted", problem, len(self.cache))
        # Also where there were none: who waits for a list of this kind has it.
        self.cache.replace((), self.cache.revision)

    async def _pages(self, limit: int) -> tuple[list[Upsert[T]], int]:
        # Without a resourceVersion: the most recent state, which no lagging cache may answer.
        query = dict(self.selectors)
        if limit:
            query["limit"] = str(limit)
        path = self.cache.resource.collection(self.namespace)
        entries: list[Upsert[T]] = []
        while True:
            page = self._decoder.page(await self.client.request("GET", path, query))
            entries += page.entries
            if not page.token:
                return entries, page.revision
            query["continue"] = page.token

    async def _watch(self) -> bool:
        """Follow the changes until the watch ends; whether to list before the next one."""
        self.progress.watches += 1
        lasts = self.random.uniform(*self.watch_s)
        query = {
            **self.selectors,
            "watch": "true",
            "resourceVersion": str(self.cache.revision),
            "allowWatchBookmarks": "true",
            "timeoutSeconds": str(max(1, int(lasts))),
        }
        path = self.cache.resource.collection(self.namespace)
        began, answered, told, silent = self.clock.monotonic(), False, False, True
        try:
            async with self.client.stream(path, query, lasts + GRACE_S) as batches:
                answered = True
                self._answered()
                async for lines in batches:
                    silent = False
                    told = self._take(lines) or told
                    if told:
                        self._pace.reset()
        except Unreachable as problem:
            # Balancers before the server cut connections on which nothing is said, one after the
            # other: no failure for which to wait longer and longer. One that never began is.
            if not answered or self.clock.monotonic() - began < SHORT_WATCH_S:
                raise
            log.info("%s; watching on", problem)
        lasted = self.clock.monotonic() - began
        if told or lasted >= SHORT_WATCH_S:
            self._pace.reset()
            return silent and lasted >= SILENT_S and await self._is_behind()
        # A server that ends each watch at once must not be asked in a circle.
        await self.clock.sleep(self._pace.delay())
        return False

    async def probe(self) -> None:
        """Ask whether the collection can be listed.

        Raises:
            KubeError: it cannot; 404: the server does not have the kind.
        """
        await self._in_turn(self._newest)

    async def _newest(self) -> int:
        """The server's revision."""
        path = self.cache.resource.collection(self.namespace)
        query = {**self.selectors, "limit": "1"}
        return self._decoder.page(await self.client.request("GET", path, query)).revision

    async def _is_behind(self) -> bool:
        """Whether the server has not reached the revision that we wait for news of."""
        return await self._newest() < self.cache.revision

    def _take(self, lines: list[bytes]) -> bool:
        """Put a batch of events into the cache; whether any of them was new."""
        changes = []
        marked = 0
        try:
            for event in self._decoder.events(lines):
                if isinstance(event, Bookmark):
                    self.progress.bookmarks += 1
                    marked = event.revision
                else:
                    changes.append(event)
        finally:
            # What came before an error in the same batch holds all the same.
            before = self.cache.revision
            self.progress.events += len(changes)
            self.cache.apply(changes)
            self.cache.advance(marked)
        return self.cache.revision > before
