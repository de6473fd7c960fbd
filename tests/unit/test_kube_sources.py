"""What is watched, listed once more for one who begins to lead."""

from __future__ import annotations

import asyncio
import time

from controller.kube.auth import Access
from controller.kube.http import Client
from controller.kube.resources import Key
from controller.kubesources import Sources
from controller.network.registry import WATCHED
from tests.apistandin.faults import Fault
from tests.apistandin.server import StandIn
from tests.labs import kubecluster as objects


def test_who_begins_to_lead_sees_what_his_watches_have_not_told_yet() -> None:
    async def story() -> None:
        async with StandIn() as api, Client(Access(api.url)) as client:
            objects.put(api, objects.namespace("shop"))
            sources = Sources(client, WATCHED[:2])
            watching = asyncio.create_task(sources.run())
            try:
                async with asyncio.timeout(60):
                    await sources.synced()
                    before = time.monotonic()
                    api.faults.add(Fault.STATUS, 503, verbs=frozenset({"watch"}))
                    api.cut_watches()
                    objects.put(api, objects.pod("shop", "web"))
                    assert sources.cache("pods").at(Key("shop", "web")) is None
                    await sources.renewed(before)
                    assert sources.cache("pods").at(Key("shop", "web")) is not None
                    # What was listed since then is not listed again.
                    lists = sum(verb == "list" for verb, _ in api.requests)
                    await sources.renewed(before)
                    assert sum(verb == "list" for verb, _ in api.requests) == lists
            finally:
                watching.cancel()
                await asyncio.gather(watching, return_exceptions=True)

    asyncio.run(story())
