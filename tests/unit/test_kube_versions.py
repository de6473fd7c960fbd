"""Kinds that a server has in one version or in another."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Awaitable, Callable
from typing import Any

from controller.kube.auth import Access
from controller.kube.cache import Cache
from controller.kube.http import Client
from controller.kube.reflector import Reflector
from controller.kube.status import Written, write_status
from controller.network.adminpolicies import CNP_OBJECTS
from tests.apistandin.clocks import QuickClock, eventually
from tests.apistandin.server import StandIn
from tests.labs import kubecluster as objects
from tests.labs.definitions import definitions

SPEC = {"tier": "Admin", "priority": 5, "subject": {"namespaces": {}}}


def have(api: StandIn, *versions: str) -> None:
    """The definition with these versions; the first of them is stored."""
    body = copy.deepcopy(definitions()["clusternetworkpolicies.policy.networking.k8s.io"])
    kept = [one for one in body["spec"]["versions"] if one["name"] in versions]
    body["spec"]["versions"] = [one | {"storage": one["name"] == versions[0]} for one in kept]
    objects.put(api, body)


def policy(api: StandIn, version: str, name: str) -> None:
    head = {"apiVersion": f"policy.networking.k8s.io/{version}", "kind": "ClusterNetworkPolicy"}
    objects.put(api, {**head, "metadata": {"name": name}, "spec": SPEC})


def following(case: Callable[[StandIn, Client, Cache[Any]], Awaitable[None]]) -> None:
    async def run() -> None:
        async with StandIn(seed=1) as api, Client(Access(api.url)) as client:
            have(api, "v1alpha2")
            policy(api, "v1alpha2", "first")
            cache: Cache[Any] = Cache(CNP_OBJECTS)
            task = asyncio.create_task(Reflector(client, cache, clock=QuickClock()).run())
            try:
                await eventually(lambda: len(cache) == 1)
                await case(api, client, cache)
            finally:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)

    asyncio.run(run())


def test_an_older_version_is_followed_and_written_where_there_is_no_other() -> None:
    async def case(api: StandIn, client: Client, cache: Cache[Any]) -> None:
        assert cache.resource.api_version == "policy.networking.k8s.io/v1alpha2"
        (obj,) = cache
        seen: dict[str, Any] = {"conditions": []}
        assert await write_status(client, cache.resource, obj.metadata, {}, seen) is Written.DONE
        policy(api, "v1alpha2", "second")
        await eventually(lambda: len(cache) == 2)

    following(case)


def test_who_takes_over_from_a_version_takes_over_its_objects() -> None:
    async def case(api: StandIn, _client: Client, cache: Cache[Any]) -> None:
        fewest = [len(cache)]
        cache.subscribe(lambda _keys: fewest.append(len(cache)))
        have(api, "v1beta1", "v1alpha2")
        policy(api, "v1beta1", "second")
        await eventually(lambda: len(cache) == 2)
        have(api, "v1beta1")
        api.cut_watches()
        await eventually(lambda: cache.resource.version == "v1beta1")
        policy(api, "v1beta1", "third")
        await eventually(lambda: len(cache) == 3)
        assert min(fewest) == 1, "no policy is gone for a moment"

    following(case)
