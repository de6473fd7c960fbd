"""All that is watched of the Kubernetes API, as facts: one reflector for each resource.

A kind whose definition is not installed is no error: it has no objects, and is looked for again
now and then.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec

from controller.kinds.errors import KindError
from controller.kube.cache import Cache
from controller.kube.errors import ApiError, KubeError
from controller.kube.http import Client
from controller.kube.pacing import Recovery
from controller.kube.reflector import Reflector
from controller.kube.resources import Key, Resource
from controller.network.engine import Fact
from controller.network.registry import Watched
from controller.network.units import ObjectRef
from controller.network.view import Kind
from controller.translate.ovn import Problem

log = logging.getLogger(__name__)

ABSENT_S = (20.0, 40.0)
"""How long until a kind that the API does not serve is asked for again [s]; drawn anew."""
RETRY_S = (1.0, 3.0)


@dataclass(slots=True)
class _Source:
    """One resource: its cache, and what its objects are read as."""

    watched: list[Watched]
    cache: Cache[Any]
    reflector: Reflector[Any]
    absent: asyncio.Event = field(default_factory=asyncio.Event)
    error: str = ""

    @property
    def inert(self) -> bool:
        """Nothing in OVN follows from it."""
        return all(one.inert for one in self.watched)

    @property
    def resource(self) -> Resource[Any]:
        """In the version that the server has."""
        return self.cache.resource

    listing: asyncio.Task[None] | None = None
    """Lists and watches; None: the API was not seen to serve it."""
    since: float = float("-inf")
    """When it began to list all anew [s, monotonic]."""


@dataclass(slots=True)
class Taken:
    """What changed in the API since the last time.

    Attributes:
        facts: as they are now; nothing is said of what cannot be read: the last that could be
            read is still in force.
        ending: which of those are being deleted.
        problems: of objects that cannot be understood, or have something that nobody reads; an
            empty tuple: nothing any more.
        touched: objects that changed in whatever way.
    """

    facts: list[Fact] = field(default_factory=list)
    ending: list[tuple[Kind[Any], Hashable]] = field(default_factory=list)
    problems: dict[ObjectRef, tuple[Problem, ...]] = field(default_factory=dict)
    touched: set[ObjectRef] = field(default_factory=set)


class Sources:
    """Watches everything of a registry's list. `run` in a task; `take` what changed.

    Attributes:
        changed: is set when there is something to take.
        lost: objects that are there and could not be read when everything was taken, nor since:
            nobody knows what OVN has because of them.
    """

    def __init__(self, client: Client, watched: Iterable[Watched]) -> None:
        self.changed = asyncio.Event()
        self.lost: dict[tuple[Kind[Any], Hashable], ObjectRef] = {}
        self._waiting: dict[str, set[Key]] = {}
        self._known: dict[ObjectRef, tuple[Problem, ...]] = {}
        self._client = client
        self._sources: dict[str, _Source] = {}
        recovery = Recovery()
        for one in watched:
            name = str(one.resource)
            if name not in self._sources:
                cache: Cache[Any] = Cache(one.resource)
                cache.subscribe(self._listener(name))
                reflector = Reflector(client, cache, *_part(one), recovery=recovery)
                self._sources[name] = _Source([], cache, reflector)
            self._sources[name].watched.append(one)

    async def run(self) -> None:
        """Watch until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            for source in self._sources.values():
                tasks.create_task(self._follow(source))

    async def synced(self) -> None:
        """Return when every kind that the API serves has been listed."""
        for source in self._sources.values():
            waiting = [asyncio.ensure_future(source.cache.synced.wait())]
            if source.listing is None:
                waiting.append(asyncio.ensure_future(source.absent.wait()))
            try:
                await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for one in waiting:
                    one.cancel()

    async def renewed(self, since: float) -> None:
        """Return when everything has been listed that was not since a moment [s, monotonic].

        A watch may lag behind: only a list says what was written before it was asked for.
        """
        for source in self._sources.values():
            if source.listing is not None and source.since < since:
                source.cache.synced.clear()
                source.listing.cancel()
        await self.synced()

    def look_up(self, ref: ObjectRef) -> tuple[Resource[Any], Any] | None:
        """An object as the cache has it, with its resource."""
        source = self._sources.get(ref.resource)
        if source is None:
            return None
        obj = source.cache.at(Key(ref.namespace, ref.name))
        return (source.resource, obj) if obj is not None else None

    def cache(self, resource: str) -> Cache[Any]:
        """What a resource's reflector writes, for those who watch the watching."""
        return self._sources[resource].cache

    def written(self, resource: str) -> frozenset[str]:
        """What of a resource's objects is written: of "annotations", "status", "finalizers"."""
        source = self._sources.get(resource)
        found = (one.writes for one in source.watched) if source is not None else ()
        return frozenset().union(*found)

    def saying(self, word: bytes) -> Iterator[ObjectRef]:
        """Objects whose status we write and in whose status a word is."""
        for name, source in self._sources.items():
            if "status" not in self.written(name):
                continue
            for obj in source.cache:
                raw = getattr(obj, "status", None)
                if isinstance(raw, msgspec.Raw) and word in bytes(raw):
                    yield ObjectRef(name, obj.metadata.namespace, obj.metadata.name)

    def states(self) -> Iterator[tuple[str, dict[str, object]]]:
        """For status: each resource, how many objects, and what is wrong."""
        for name, source in self._sources.items():
            error = source.error or source.reflector.progress.error
            yield (
                name,
                {
                    "objects": len(source.cache),
                    "synced": source.cache.synced.is_set(),
                    "absent": source.absent.is_set() and not source.cache.synced.is_set(),
                    "unreadable": len(source.cache.invalid),
                    "error": error,
                },
            )

    def take(self) -> Taken:
        """What changed since the last time; it is forgotten here."""
        return self._take(first=False)

    def _take(self, *, first: bool) -> Taken:
        self.changed.clear()
        waiting, self._waiting = self._waiting, {}
        taken = Taken()
        for name, keys in waiting.items():
            source = self._sources[name]
            for key in sorted(keys):
                self._decode(source, key, taken, first=first)
        return taken

    def take_all(self) -> Taken:
        """Everything that is there, for one who begins anew."""
        self._waiting = {}
        self._known = {}
        for name, source in self._sources.items():
            self._waiting[name] = {*source.cache.keys(), *source.cache.invalid}
        self.lost = {}
        return self._take(first=True)

    def _decode(self, source: _Source, key: Key, taken: Taken, *, first: bool) -> None:
        obj = source.cache.at(key)
        ref = ObjectRef(str(source.resource), key.namespace, key.name)
        taken.touched.add(ref)
        found: list[Problem] = []
        told = source.cache.invalid.get(key)
        for watched in source.watched:
            place = watched.kind, watched.fact_key(key)
            fact, read = None, told is None
            if obj is not None:
                try:
                    fact = watched.decode(obj)
                    found += watched.warn(obj)
                except KindError as error:
                    read = False
                    found.append(Problem(error.path, error.cause, error.next_step))
                except Exception as error:
                    # A defect of ours must cost one object its changes, and nobody his network.
                    read = False
                    log.exception("object_not_decoded object=%s", ref)
                    found.append(Problem(str(ref), repr(error), "report this as a defect"))
            if read:
                self.lost.pop(place, None)
                taken.facts.append((*place, fact))
                continue
            if first:
                self.lost[place] = ref
            if obj is not None and obj.metadata.deletion_timestamp:
                taken.ending.append(place)
        if told is not None:
            found.append(Problem(str(ref), told, "write it as its definition says"))
        problems = tuple(dict.fromkeys(found))
        if problems != self._known.get(ref, ()):
            taken.problems[ref] = problems
            if problems:
                self._known[ref] = problems
            else:
                self._known.pop(ref, None)

    def _listener(self, name: str) -> Callable[[frozenset[Key]], None]:
        def note(keys: frozenset[Key]) -> None:
            self._waiting.setdefault(name, set()).update(keys)
            self.changed.set()

        return note

    async def _follow(self, source: _Source) -> None:
        """Wait for the kind to be there, then watch it."""
        while True:
            try:
                await source.reflector.probe()
                break
            except ApiError as problem:
                told, code, wish = str(problem), problem.code, problem.retry_after
                # The API server refuses before it looks whether it has the kind: an image that is
                # newer than its ClusterRole must not wait for kinds that have no effect.
                absent = code == 404 or (code == 403 and source.inert)
                if absent:
                    source.absent.set()
            except KubeError as problem:
                told, code, absent, wish = str(problem), 0, False, None
            if told != source.error:
                # Until each kind is listed or known to be absent nothing begins: say who is not.
                source.error = told
                level = logging.INFO if code == 404 else logging.WARNING
                log.log(level, "not_listed problem=%s", told)
            pause = random.uniform(*(ABSENT_S if absent else RETRY_S))  # noqa: S311  # no secret
            await asyncio.sleep(pause + (wish or 0.0))
        source.error = ""
        while True:
            source.since = time.monotonic()
            source.listing = asyncio.ensure_future(source.reflector.run())
            try:
                await asyncio.wait({source.listing})
            except asyncio.CancelledError:
                source.listing.cancel()
                await asyncio.wait({source.listing})
                raise
            if not source.listing.cancelled():
                source.listing.result()


def _part(watched: Watched) -> tuple[str, Mapping[str, str]]:
    """The namespace and the selectors of what is watched: everything, or one object."""
    if watched.only is None:
        return "", {}
    return watched.only.namespace, {"fieldSelector": f"metadata.name={watched.only.name}"}


def by_resource(watched: Iterable[Watched]) -> Mapping[str, Resource[Any]]:
    """The resources of a list, each once."""
    return {str(one.resource): one.resource for one in watched}
