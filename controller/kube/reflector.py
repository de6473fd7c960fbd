"""Keeps a cache equal to a collection of the API server: list, watch, and all that goes wrong."""

from __future__ import annotations

import logging
import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from controller.kube.cache import Cache, StaleList, Upsert
from controller.kube.decoding import Bookmark, Decoder
from controller.kube.errors import ApiError, KubeError
from controller.kube.http import Client
from controller.kube.pacing import Backoff, Clock, RealClock
from controller.kube.structs import HasMeta

T = TypeVar("T", bound=HasMeta)
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
newer was restored from a backup, and what it has is what there is."""


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
    _decoder: Decoder[T] = field(init=False)
    _pace: Backoff = field(init=False)
    _stale_since: float | None = None

    def __post_init__(self) -> None:
        self._decoder = Decoder(self.cache.resource)
        self._pace = self.backoff or Backoff(random=self.random)

    async def run(self) -> None:
        """Keep the cache equal until cancelled. No failure of the server ends it."""
        relist = True
        while True:
            try:
                if relist:
                    await self._list()
                    relist = False
                    self.progress.error = ""
                await self._watch()
                continue
            except (KubeError, StaleList) as problem:
                relist = self._note(problem) or relist
                wish = problem.retry_after if isinstance(problem, ApiError) else None
            await self.clock.sleep(self._pace.delay(wish))

    def _note(self, problem: KubeError | StaleList) -> bool:
        """Write down what went wrong; whether only a list can mend it."""
        gone = isinstance(problem, ApiError) and problem.is_gone
        if gone:
            self.progress.gone += 1
            log.info("%s; listing anew", problem)
        else:
            self.progress.errors += 1
            self.progress.error = str(problem)
            log.warning("%s; trying again", problem)
        return gone

    async def _list(self) -> None:
        """Read the whole collection, in pages of one revision."""
        self.progress.lists += 1
        try:
            entries, revision = await self._pages(self.page)
        except ApiError as problem:
            # The token of a page expired: the collection is too large for the time that the
            # server keeps a snapshot. In one piece there is nothing to expire.
            if not (problem.is_gone and self.page):
                raise
            self.progress.gone += 1
            entries, revision = await self._pages(0)
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

    async def _watch(self) -> None:
        """Follow the changes until the watch ends."""
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
        began, told = self.clock.monotonic(), False
        async with self.client.stream(path, query, lasts + GRACE_S) as batches:
            self.progress.error = ""
            async for lines in batches:
                told = self._take(lines) or told
                if told:
                    self._pace.reset()
        if told or self.clock.monotonic() - began >= SHORT_WATCH_S:
            self._pace.reset()
            return
        # A server that ends each watch at once must not be asked in a circle.
        await self.clock.sleep(self._pace.delay())

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
