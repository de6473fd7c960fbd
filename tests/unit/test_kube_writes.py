"""The lease, statuses, finalizers and events, against the stand-in."""

from __future__ import annotations

import asyncio
import datetime
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import yaml
from msgspec import structs

from controller.kube.auth import Access
from controller.kube.errors import ApiError
from controller.kube.events import BURST, Recorder
from controller.kube.http import Client
from controller.kube.lease import Election, Timing
from controller.kube.resources import CONFIG_MAPS, LEASES, PODS, Key, custom
from controller.kube.status import (
    Condition,
    Written,
    annotate,
    difference,
    merged,
    set_finalizer,
    write_status,
)
from controller.kube.structs import Custom, Meta
from tests.apistandin.clocks import QuickClock
from tests.apistandin.faults import Fault
from tests.apistandin.server import StandIn
from tests.apistandin.steps import Options

LEASE = Key("kube-system", "millrace")
NOON = datetime.datetime(2026, 1, 1, 12, tzinfo=datetime.UTC)


def served(case: Callable[[StandIn, Client], Awaitable[None]]) -> None:
    """Run a case with a stand-in and a client of it."""

    async def run() -> None:
        async with StandIn(seed=1) as api, Client(Access(api.url)) as client:
            await case(api, client)

    asyncio.run(run())


def candidate(client: Client, name: str, clock: QuickClock) -> Election:
    def now() -> datetime.datetime:
        return NOON + datetime.timedelta(seconds=clock.now)

    return Election(client, LEASE, name, clock=clock, now=now)


def test_one_of_two_leads_until_it_is_silent() -> None:
    async def case(_api: StandIn, client: Client) -> None:
        clock = QuickClock()
        a, b = candidate(client, "a", clock), candidate(client, "b", clock)
        assert await a.step()
        assert not await b.step()
        assert (b.holder, a.epoch) == ("a", 0)
        clock.move(9)
        assert await a.step()
        assert not await b.step()
        clock.move(10.5)
        assert not a.leads, "a holder that cannot renew stops before others may begin"
        assert not await b.step()
        clock.move(5)
        assert await b.step()
        assert b.epoch == 1
        assert not await a.step()
        assert a.holder == "b"

    served(case)


def test_of_two_who_take_a_silent_lease_one_gets_it() -> None:
    async def case(_api: StandIn, client: Client) -> None:
        clock = QuickClock()
        old, a, b = (candidate(client, name, clock) for name in ("old", "a", "b"))
        assert await old.step()
        assert not await a.step()
        assert not await b.step()
        clock.move(20)
        got = await asyncio.gather(a.step(), b.step())
        assert sorted(got) == [False, True]
        assert (a.error, b.error) == ("", "")
        lease = await client.get(LEASES, LEASE)
        assert lease.spec.holder_identity == ("a" if got[0] else "b")
        assert lease.spec.lease_transitions == 1

    served(case)


def test_a_lease_that_is_let_go_is_free_at_once() -> None:
    async def case(_api: StandIn, client: Client) -> None:
        clock = QuickClock()
        told: list[bool] = []
        a, b = candidate(client, "a", clock), candidate(client, "b", clock)
        a.changed = told.append
        task = asyncio.create_task(a.run())
        while not a.leads:  # noqa: ASYNC110
            await asyncio.sleep(0.001)
        await b.step()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert told == [True, False]
        assert await b.step()

    served(case)


def test_a_holder_whose_server_is_gone_stops_and_says_why() -> None:
    async def case(api: StandIn, client: Client) -> None:
        clock = QuickClock()
        a = candidate(client, "a", clock)
        await a.step()
        api.faults.add(Fault.STATUS, 500)
        clock.move(5)
        assert await a.step(), "one failure is no loss"
        assert "/leases/millrace: 500" in a.error
        clock.move(6)
        assert not await a.step()
        api.faults.clear()
        assert await a.step()
        assert (a.error, a.epoch) == ("", 0)

    served(case)


def test_a_timing_in_which_two_could_lead_is_refused() -> None:
    with pytest.raises(ValueError, match="does not hold"):
        Timing(lease=10, renew=10)


@pytest.mark.parametrize(
    ("has", "wanted", "patch"),
    [
        ({}, {"a": 1}, {"a": 1}),
        ({"a": 1}, {"a": 1}, {}),
        ({"a": 1, "b": 2}, {"a": 1}, {}),
        ({"a": 1}, {"a": None}, {"a": None}),
        ({}, {"a": None}, {}),
        ({"a": {"b": 1, "c": 2}}, {"a": {"b": 3}}, {"a": {"b": 3}}),
        ({"a": {"b": 1}}, {"a": {}}, {}),
        ({}, {"a": {}}, {"a": {}}),
        ({"a": [1, 2]}, {"a": [1]}, {"a": [1]}),
        ({"a": 1}, {"a": {"b": 1}}, {"a": {"b": 1}}),
        (None, {"a": 1}, {"a": 1}),
    ],
)
def test_a_status_patch_has_only_what_differs(
    has: object, wanted: dict[str, object], patch: dict[str, object]
) -> None:
    assert difference(has, wanted) == patch


def test_a_condition_keeps_its_time_until_it_changes() -> None:
    first = merged([], [Condition("Ready", True, "Done")], 1, lambda: NOON)
    later = merged(first, [Condition("Ready", True, "Still")], 2, lambda: NOON.replace(hour=13))
    assert later[0]["lastTransitionTime"] == "2026-01-01T12:00:00Z"
    assert (later[0]["reason"], later[0]["observedGeneration"]) == ("Still", 2)
    lost = merged(
        [{"type": "Other"}, *later],
        [Condition("Ready", None, "Lost")],
        2,
        lambda: NOON.replace(hour=14),
    )
    assert lost[0] == {"type": "Other"}
    assert (lost[1]["status"], lost[1]["lastTransitionTime"]) == ("Unknown", "2026-01-01T14:00:00Z")


def test_a_status_is_written_once_and_only_to_this_object() -> None:
    async def case(api: StandIn, client: Client) -> None:
        nodes = api.cluster.kinds["", "v1", "nodes"]
        body = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n"}}
        api.cluster.create(nodes, "", body, Options())
        resource = custom("", "v1", "nodes", "Node")
        node = await client.get(resource, Key("", "n"))
        wanted = {"phase": "Running"}
        assert await write_status(client, resource, node.metadata, {}, wanted) is Written.DONE
        asked = len(api.requests)
        assert await write_status(client, resource, node.metadata, wanted, wanted) is Written.SAME
        assert len(api.requests) == asked
        api.cluster.delete(nodes, "", "n", {}, Options())
        gone = await write_status(client, resource, node.metadata, {}, wanted)
        api.cluster.create(nodes, "", body, Options())
        other = await write_status(client, resource, node.metadata, {}, wanted)
        assert (gone, other) == (Written.GONE, Written.CONFLICT)
        assert "status" not in api.cluster.get(nodes, "", "n")

    served(case)


def test_a_custom_object_that_came_back_is_not_told_of_the_one_before() -> None:
    async def case(api: StandIn, client: Client) -> None:
        crds = api.cluster.kinds["apiextensions.k8s.io", "v1", "customresourcedefinitions"]
        path = Path(__file__).parents[2] / "deploy/kubernetes/crds/vlans.yaml"
        api.cluster.create(crds, "", yaml.safe_load(path.read_text()), Options())
        vlans = api.cluster.kinds["kubeovn.io", "v1", "vlans"]
        body = {
            "apiVersion": "kubeovn.io/v1",
            "kind": "Vlan",
            "metadata": {"name": "v"},
            "spec": {},
        }
        api.cluster.create(vlans, "", body, Options())
        resource = custom("kubeovn.io", "v1", "vlans", "Vlan")
        before = await client.get(resource, Key("", "v"))
        api.cluster.delete(vlans, "", "v", {}, Options())
        api.cluster.create(vlans, "", body, Options())
        told = await write_status(client, resource, before.metadata, {}, {"subnets": ["s"]})
        assert told is Written.CONFLICT
        assert "status" not in api.cluster.get(vlans, "", "v")
        assert await annotate(client, resource, before, {"a.example/b": "1"}) is Written.GONE
        now = await client.get(resource, Key("", "v"))
        assert await annotate(client, resource, now, {"a.example/b": "1"}) is Written.DONE
        now = await client.get(resource, Key("", "v"))
        assert now.metadata.annotations == {"a.example/b": "1"}
        assert await annotate(client, resource, now, {"a.example/b": "1"}) is Written.SAME
        # What the server makes nothing of (a webhook took it away, say) is no write either.
        blind = Custom(structs.replace(now.metadata, annotations={}))
        assert await annotate(client, resource, blind, {"a.example/b": "1"}) is Written.SAME

    served(case)


def test_finalizers_come_and_go_beside_those_of_others() -> None:
    async def case(api: StandIn, client: Client) -> None:
        kind = api.cluster.kinds["", "v1", "configmaps"]
        metadata = {"name": "c", "finalizers": ["other.example/x"]}
        body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata}
        api.cluster.create(kind, "default", body, Options())
        key, ours = Key("default", "c"), "millrace.example/ip"
        before = await client.get(CONFIG_MAPS, key)
        assert await set_finalizer(client, CONFIG_MAPS, before, ours, present=True) is Written.DONE
        late = await set_finalizer(client, CONFIG_MAPS, before, ours, present=True)
        assert late is Written.CONFLICT, "it was read before the other write"
        after = await client.get(CONFIG_MAPS, key)
        assert after.metadata.finalizers == ("other.example/x", ours)
        assert await set_finalizer(client, CONFIG_MAPS, after, ours, present=True) is Written.SAME
        await set_finalizer(client, CONFIG_MAPS, after, ours, present=False)
        assert (await client.get(CONFIG_MAPS, key)).metadata.finalizers == ("other.example/x",)

    served(case)


def events(api: StandIn) -> list[tuple[str, str, int]]:
    found = api.cluster.store.of(("", "events")).values()
    return sorted((one["metadata"]["namespace"], one["message"], one["count"]) for one in found)


def test_equal_events_are_counted_and_too_many_are_dropped() -> None:
    async def case(api: StandIn, client: Client) -> None:
        clock = QuickClock()
        recorder = Recorder(client, "ctl-0", clock=clock, now=lambda: NOON)
        task = asyncio.create_task(recorder.run())
        pod = Meta(name="p", namespace="default", uid="u1", resource_version="5")
        for _ in range(3):
            recorder.tell(PODS, pod, "Warning", "NoAddress", "no address left")
        subnet = Meta(name="s", uid="u2")
        recorder.tell(custom("kubeovn.io", "v1", "subnets", "Subnet"), subnet, "Normal", "Ok", "y")
        await recorder.flush()
        assert events(api) == [("default", "no address left", 3), ("default", "y", 1)]
        for number in range(BURST):
            recorder.tell(PODS, pod, "Normal", "Noise", f"m{number}")
        await recorder.flush()
        assert recorder.dropped == 3
        clock.move(300)
        recorder.tell(PODS, pod, "Normal", "Noise", "after a while")
        recorder.tell(PODS, pod, "Normal", "Noise", "one too many")
        await recorder.flush()
        assert recorder.dropped == 4
        clock.move(700)
        api.cluster.store.of(("", "events")).clear()
        recorder.tell(PODS, pod, "Warning", "NoAddress", "no address left")
        await recorder.flush()
        assert events(api) == [("default", "no address left", 1)]
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    served(case)


def test_an_event_that_the_server_refuses_stops_nothing() -> None:
    async def case(api: StandIn, client: Client) -> None:
        recorder = Recorder(client, "ctl-0", clock=QuickClock())
        task = asyncio.create_task(recorder.run())
        api.faults.add(Fault.STATUS, 403, times=1)
        pod = Meta(name="p", namespace="default", uid="u1")
        recorder.tell(PODS, pod, "Normal", "A", "refused")
        recorder.tell(PODS, pod, "Normal", "A", "taken")
        await recorder.flush()
        assert (events(api), recorder.dropped) == ([("default", "taken", 1)], 1)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    served(case)


def test_an_event_waits_for_a_server_that_is_busy_or_away() -> None:
    async def case(api: StandIn, client: Client) -> None:
        clock = QuickClock()
        recorder = Recorder(client, "ctl-0", clock=clock)
        task = asyncio.create_task(recorder.run())
        api.faults.add(Fault.STATUS, 429, times=1, retry_after=5)
        api.faults.add(Fault.DROP_BEFORE, times=1)
        recorder.tell(PODS, Meta(name="p", namespace="default", uid="u1"), "Normal", "A", "told")
        await recorder.flush()
        assert (events(api), recorder.dropped) == ([("default", "told", 1)], 0)
        assert clock.now >= 1005
        api.faults.add(Fault.STATUS, 503)
        recorder.tell(PODS, Meta(name="p", namespace="default", uid="u1"), "Normal", "A", "lost")
        await recorder.flush()
        assert recorder.dropped == 1
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    served(case)


def test_what_rbac_does_not_grant_is_named() -> None:
    async def case(api: StandIn, client: Client) -> None:
        api.rules = [{"apiGroups": [""], "resources": ["pods"], "verbs": ["list", "watch"]}]
        with pytest.raises(ApiError, match=r"GET /api/v1/namespaces/default/pods/p: 403 .*grant"):
            await client.get(PODS, Key("default", "p"))
        assert await client.request("GET", PODS.collection())

    served(case)
