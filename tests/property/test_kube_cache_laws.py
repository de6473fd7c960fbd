"""Whatever the server and the network do, a cache ends equal to the server, and never goes back."""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import Callable
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from controller.kube.auth import Access
from controller.kube.cache import Cache, by_namespace
from controller.kube.http import Client
from controller.kube.pacing import Backoff
from controller.kube.reflector import Progress, Reflector
from controller.kube.resources import CONFIG_MAPS, Key
from controller.kube.structs import ConfigMap
from tests.apistandin.clocks import QuickClock, eventually
from tests.apistandin.faults import Fault
from tests.apistandin.server import StandIn
from tests.apistandin.steps import Options

KIND = ("", "v1", "configmaps")
Step = tuple[Any, ...]

FAULTS = (
    (Fault.STATUS, 500),
    (Fault.STATUS, 429),
    (Fault.DROP_BEFORE, 0),
    (Fault.DROP_AFTER, 0),
    (Fault.GONE, 0),
    (Fault.GONE_EVENT, 0),
    (Fault.GONE_EVENT, 2),
    (Fault.CUT, 1),
    (Fault.END, 0),
    (Fault.END, 2),
    (Fault.DUPLICATE, 0),
    (Fault.BOOKMARK, 1),
    (Fault.EXPIRED_TOKEN, 0),
)


def history_of(chance: random.Random) -> list[Step]:
    """Sixty steps: writes, faults, pauses in which the cache may follow."""
    history: list[Step] = []
    for _ in range(60):
        name = chance.choice("abcde")
        kinds: list[Step] = [
            *[("put", name, chance.randrange(4))] * 4,
            ("drop", name),
            *[("breathe",)] * 3,
            *[("fault", chance.choice(FAULTS), chance.randint(1, 2))] * 2,
            ("cut",),
            ("lag", chance.randint(1, 5)),
            chance.choice([("compact",), ("restart",), ("outage", chance.randrange(4))]),
        ]
        history.append(chance.choice(kinds))
    return history


def write(api: StandIn, step: Step) -> None:
    kind = api.cluster.kinds[KIND]
    has = api.cluster.store.of(kind.key).get(("default", step[1]))
    if step[0] == "drop":
        if has:
            api.cluster.delete(kind, "default", step[1], {}, Options())
        return
    body = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": step[1]},
        "data": {"v": str(step[2])},
    }
    if has:
        api.cluster.replace(kind, "default", step[1], body, "", Options())
    else:
        api.cluster.create(kind, "default", body, Options())


async def act(api: StandIn, cache: Cache[ConfigMap], step: Step) -> None:
    match step[0]:
        case "fault":
            fault, argument = step[1]
            api.faults.add(fault, argument, times=step[2])
        case "compact":
            api.cluster.store.compact()
        case "cut":
            api.cut_watches()
        case "restart":
            await api.stop()
            await api.start()
        case "breathe":
            for _ in range(20):
                await asyncio.sleep(0.002)
                if cache.revision == api.cluster.store.revision:
                    break
        case "lag":
            # The past is gone, and the server that is asked for a list lags behind.
            api.faults.add(Fault.GONE_EVENT, 0, times=1)
            api.faults.add(Fault.STALE, step[1], times=2)
            api.cut_watches()
            await asyncio.sleep(0.004)
        case "outage":
            # What happens while nobody watches, and is forgotten before somebody does.
            await api.stop()
            write(api, ("put", "a", step[1]))
            write(api, ("drop", "b"))
            api.cluster.store.compact()
            await api.start()
        case _:
            write(api, step)


class Witness:
    """Sees every state that readers of the cache see, and that none is older than one before."""

    def __init__(self, cache: Cache[ConfigMap]) -> None:
        self.cache = cache
        self.seen: dict[Key, int] = {}
        self.revision = 0
        cache.subscribe(self.look)

    def look(self, keys: frozenset[Key]) -> None:
        assert self.cache.revision >= self.revision
        self.revision = self.cache.revision
        for key in keys:
            obj = self.cache.at(key)
            version = int(obj.metadata.resource_version) if obj else self.cache.revision
            assert version >= self.seen.get(key, 0), f"{key} went back to {version}"
            self.seen[key] = version


def server_state(api: StandIn) -> dict[Key, tuple[str, dict[str, str]]]:
    return {
        Key(*key): (obj["metadata"]["resourceVersion"], obj["data"])
        for key, obj in api.cluster.store.of(("", "configmaps")).items()
    }


def cache_state(cache: Cache[ConfigMap]) -> dict[Key, tuple[str, dict[str, str]]]:
    return {
        key: (obj.metadata.resource_version, obj.data)
        for key in list(cache.keys())
        if (obj := cache.at(key))
    }


async def play(history: list[Step], seed: int, page: int) -> tuple[Progress, int]:
    clock = QuickClock()
    async with StandIn(seed=seed) as api, Client(Access(api.url)) as client:
        cache = Cache(CONFIG_MAPS, {"namespace": by_namespace})
        witness = Witness(cache)
        chance = random.Random(seed)
        reflector = Reflector(
            client, cache, clock=clock, random=chance, page=page, backoff=Backoff(random=chance),
            # Among enough faults stale lists last longer than any patience; what is taken for a
            # restored database then is a law of its own.
            stale_patience_s=math.inf,
        )  # fmt: skip
        task = asyncio.create_task(reflector.run())
        try:
            await settle(cache, api)
            for step in history:
                await act(api, cache, step)
            api.faults.clear()
            await settle(cache, api)
            assert not task.done()
            assert witness.seen.keys() >= server_state(api).keys()
            found = {obj.metadata.name for obj in cache.by("namespace", "default")}
            assert found == {key.name for key in server_state(api)}
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
    return reflector.progress, cache.ignored


async def settle(cache: Cache[ConfigMap], api: StandIn) -> None:
    def equal() -> bool:
        return cache.synced.is_set() and cache_state(cache) == server_state(api)

    holds: Callable[[], bool] = equal
    await eventually(holds, why="the cache does not become what the server has")


@given(st.integers(0, 2**32), st.sampled_from([0, 1, 2]))
@settings(max_examples=40, deadline=None)
def test_the_cache_ends_equal_to_the_server(seed: int, page: int) -> None:
    asyncio.run(play(history_of(random.Random(seed)), seed, page))


def test_the_laws_are_tried_under_every_fault() -> None:
    """The histories do what they are for: lists go stale, the past goes, events come twice."""
    progress = [asyncio.run(play(history_of(random.Random(n)), n, 2)) for n in range(8)]
    for what in ("events", "bookmarks", "gone", "stale_lists", "errors"):
        assert sum(getattr(one, what) for one, _ in progress) > 0, what
    assert sum(ignored for _, ignored in progress) > 0
