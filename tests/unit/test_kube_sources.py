"""All that is watched: kinds that come later or may not be read; a list for who begins to lead."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from controller import kubesources
from controller.kinds.vpc import RESOURCE as VPCS
from controller.kube.auth import Access
from controller.kube.events import Recorder
from controller.kube.http import Client
from controller.kube.resources import Key
from controller.kubesources import Sources
from controller.kubewrites import WriteBack
from controller.network.registry import WATCHED
from controller.network.units import ObjectRef, Wanted
from tests.apistandin.clocks import eventually
from tests.apistandin.faults import Fault
from tests.apistandin.server import StandIn
from tests.labs import kubecluster as objects
from tests.labs.kubecontrol import until


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


@asynccontextmanager
async def watching(client: Client, sources: Sources) -> AsyncIterator[None]:
    task = asyncio.create_task(sources.run())
    try:
        async with asyncio.timeout(60):
            yield
        assert not task.done()
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def test_kinds_whose_definitions_come_later_hold_nobody_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kubesources, "ABSENT_S", (0.01, 0.02))

    async def story() -> None:
        async with StandIn() as api, Client(Access(api.url)) as client:
            objects.put(api, objects.namespace("shop"))
            sources = Sources(client, [one for one in WATCHED if one.resource.kind != "Pod"])
            async with watching(client, sources):
                await sources.synced()
                states = dict(sources.states())
                assert states["vpcs.kubeovn.io"]["absent"]
                assert "404" in str(states["vpcs.kubeovn.io"]["error"])
                assert not states["namespaces"]["absent"]
                sources.take_all()
                objects.define(api, [VPCS])
                vpc = {"apiVersion": "kubeovn.io/v1", "kind": "Vpc", "metadata": {"name": "late"}}
                objects.put(api, {**vpc, "spec": {"namespaces": ["shop"]}})
                await eventually(lambda: len(sources.cache("vpcs.kubeovn.io")) == 1)
                assert any(fact[1] == "late" for fact in sources.take().facts)
                state = dict(sources.states())["vpcs.kubeovn.io"]
                assert (state["absent"], state["error"]) == (False, "")

    asyncio.run(story())


def test_who_begins_to_lead_waits_for_no_kind_whose_definition_is_gone() -> None:
    async def story() -> None:
        async with StandIn() as api, Client(Access(api.url)) as client:
            objects.define(api, [VPCS])
            kept = ("namespaces", "vpcs")
            sources = Sources(client, [one for one in WATCHED if one.resource.plural in kept])
            async with watching(client, sources):
                await sources.synced()
                assert dict(sources.states())["vpcs.kubeovn.io"]["synced"]
                api.faults.add(Fault.STATUS, 404, plural="vpcs")
                await sources.renewed(time.monotonic())

    asyncio.run(story())


def test_a_kind_that_may_not_be_read_is_said_once_and_waited_for(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(kubesources, "RETRY_S", (0.01, 0.02))

    async def story() -> None:
        async with StandIn() as api, Client(Access(api.url)) as client:
            reads = {"apiGroups": [""], "resources": ["pods"], "verbs": ["list", "watch"]}
            api.rules = [reads]
            sources = Sources(client, WATCHED[:2])
            async with watching(client, sources):
                await eventually(lambda: len(api.denied) > 5)
                assert "403" in str(dict(sources.states())["namespaces"]["error"])
                told = [one.getMessage() for one in caplog.records if "namespaces" in one.message]
                assert len(told) == 1, told
                api.rules = [reads | {"resources": ["pods", "namespaces"]}]
                await sources.synced()

    asyncio.run(story())


def test_kinds_without_effect_that_may_not_be_read_hold_nobody_up(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(kubesources, "ABSENT_S", (0.01, 0.02))
    bindings = next(one for one in WATCHED if one.resource.plural == "vtep-bindings")

    async def story() -> None:
        async with StandIn() as api, Client(Access(api.url)) as client:
            reads = {"apiGroups": [""], "resources": ["pods"], "verbs": ["list", "watch"]}
            objects.define(api, [bindings.resource])
            api.rules = [reads]
            sources = Sources(client, (*WATCHED[:1], bindings))
            async with watching(client, sources):
                await sources.synced()
                assert "403" in str(dict(sources.states())[str(bindings.resource)]["error"])
                (told,) = [one for one in caplog.records if "vtep-bindings" in one.getMessage()]
                assert told.levelname == "WARNING"
                await eventually(lambda: len(api.denied) > 2)

    asyncio.run(story())


def test_all_kinds_tell_each_other_that_the_server_is_back() -> None:
    async def story() -> None:
        async with Client(Access("http://127.0.0.1:1")) as client:
            sources = Sources(client, WATCHED)
            reflectors = [one.reflector for one in sources._sources.values()]
            assert len(reflectors) == len({str(one.resource) for one in WATCHED})
            assert len({id(one.recovery) for one in reflectors}) == 1

    asyncio.run(story())


def test_what_waits_for_its_turn_is_not_sent_once_another_leads() -> None:
    async def story() -> None:
        async with StandIn() as api, Client(Access(api.url)) as client:
            for number in range(20):
                objects.put(api, objects.pod("default", f"web{number}"))
            sources = Sources(client, WATCHED[:1])
            leads = asyncio.Event()
            leads.set()
            back = WriteBack(client, sources, Recorder(client, "x"), leads.is_set, rate=20.0)
            working = [asyncio.create_task(one) for one in (sources.run(), back.run())]
            try:
                async with asyncio.timeout(60):
                    await sources.synced()
                    wanted = Wanted(annotations={"a": "b"})
                    back.want({ObjectRef("pods", "default", f"web{n}"): wanted for n in range(20)})
                    back.resume()
                    await until("one was sent", lambda: back.sent.annotations > 0)
                    leads.clear()
                    before = sum(verb == "patch" for verb, _ in api.requests)
                    # As long as a dozen turns take.
                    await asyncio.sleep(0.6)
                    # One may have been under way.
                    assert sum(verb == "patch" for verb, _ in api.requests) <= before + 1
                    leads.set()
                    await until("all are told", lambda: back.sent.annotations == 20)
            finally:
                for one in working:
                    one.cancel()
                await asyncio.gather(*working, return_exceptions=True)

    asyncio.run(story())
