"""What a reflector does when the server is slow, wrong, old or gone."""

from __future__ import annotations

import asyncio
import json
import random
import socket
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest

from controller.kube.auth import Access
from controller.kube.cache import (
    Cache,
    Inbox,
    Removal,
    Upsert,
    by_namespace,
    by_node,
    by_owner,
)
from controller.kube.decoding import Decoder
from controller.kube.errors import Unreachable
from controller.kube.http import Client
from controller.kube.pacing import Backoff, Recovery
from controller.kube.reflector import Reflector
from controller.kube.resources import (
    CONFIG_MAPS,
    ENDPOINT_SLICES,
    PODS,
    Key,
    Resource,
    custom,
)
from controller.kube.structs import Pod
from tests.apistandin.clocks import QuickClock, eventually
from tests.apistandin.faults import Fault
from tests.apistandin.server import StandIn
from tests.apistandin.steps import Options


def config(api: StandIn, name: str, **data: str) -> None:
    kind = api.cluster.kinds["", "v1", "configmaps"]
    body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": data}
    if api.cluster.store.of(kind.key).get(("default", name)):
        api.cluster.replace(kind, "default", name, body, "", Options())
    else:
        api.cluster.create(kind, "default", body, Options())


def pod(name: str, node: str, **more: Any) -> dict[str, Any]:
    metadata = {"name": name, "labels": {"app": "x"}, **more}
    containers = [{"name": "c", "image": "i", "ports": [{"containerPort": 80, "name": "web"}]}]
    spec = {"nodeName": node, "containers": containers}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}


class Unanswered(Client):
    """Whose packets are lost: each connection is given up after ten seconds."""

    def __init__(self, clock: QuickClock) -> None:
        super().__init__(Access("http://192.0.2.1"))
        self.clock = clock

    def _send(self, *_: object) -> Any:
        return self._given_up()

    @asynccontextmanager
    async def _given_up(self) -> AsyncIterator[None]:
        self.clock.move(10)
        async with asyncio.timeout(0.001):
            await asyncio.Event().wait()
        yield


class Running:
    """A stand-in, a cache, and a reflector between them."""

    def __init__(self, resource: Resource[Any] = CONFIG_MAPS, **how: Any) -> None:
        self.clock = QuickClock()
        self.api = StandIn(seed=1)
        self.cache: Cache[Any] = Cache(
            resource, {"namespace": by_namespace, "node": by_node, "owner": by_owner}
        )
        self.how = how

    async def within(self, case: Callable[[Running], Awaitable[None]]) -> None:
        async with self.api, Client(Access(self.api.url)) as client:
            self.reflector: Reflector[Any] = Reflector(
                client, self.cache, clock=self.clock, random=random.Random(1), **self.how
            )
            task = asyncio.create_task(self.reflector.run())
            try:
                await case(self)
                assert not task.done(), task
            finally:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)

    def run(self, case: Callable[[Running], Awaitable[None]]) -> None:
        asyncio.run(self.within(case))

    async def follows(self) -> None:
        await eventually(
            lambda: (
                self.cache.synced.is_set()
                and {one.metadata.name for one in self.cache}
                == {name for _, name in self.api.cluster.store.of(("", self.cache.resource.plural))}
            )
        )


def test_pods_by_index_and_only_the_fields_used() -> None:
    async def case(at: Running) -> None:
        kind = at.api.cluster.kinds["", "v1", "pods"]
        owner = {"apiVersion": "apps/v1", "kind": "StatefulSet", "name": "s", "uid": "u"}
        note = {"kubectl.kubernetes.io/last-applied-configuration": "{}", "mine": "1"}
        for name, node in (("a", "n1"), ("b", "n2"), ("c", "n1")):
            body = pod(name, node, ownerReferences=[owner], annotations=note)
            at.api.cluster.create(kind, "default", body, Options())
        await at.follows()
        found: list[Pod] = at.cache.by("node", "n1")
        assert [one.metadata.name for one in found] == ["a", "c"]
        assert found[0].spec.containers[0].ports[0].name == "web"
        assert found[0].metadata.annotations == {"mine": "1"}
        assert len(at.cache.by("owner", "u")) == 3
        at.api.cluster.delete(kind, "default", "a", {"gracePeriodSeconds": 0}, Options())
        await at.follows()
        assert [one.metadata.name for one in at.cache.by("node", "n1")] == ["c"]

    Running(PODS).run(case)


def test_a_selector_is_followed_by_the_watch() -> None:
    async def case(at: Running) -> None:
        kind = at.api.cluster.kinds["", "v1", "pods"]
        at.api.cluster.create(kind, "default", pod("here", "n1"), Options())
        at.api.cluster.create(kind, "default", pod("there", "n2"), Options())
        await eventually(lambda: at.cache.get("default", "here") is not None)
        at.api.cluster.create(kind, "default", pod("new", "n1"), Options())
        await eventually(lambda: at.cache.get("default", "new") is not None)
        assert at.cache.get("default", "there") is None

    Running(PODS, selectors={"fieldSelector": "spec.nodeName=n1"}).run(case)


def test_what_cannot_be_read_harms_only_itself() -> None:
    async def case(at: Running) -> None:
        store = at.api.cluster.store
        config(at.api, "good", a="1")
        config(at.api, "bad", a="1")
        # As a definition without a schema would let it through.
        store.of(("", "configmaps"))["default", "bad"]["data"] = {"a": 7}
        await eventually(lambda: at.cache.synced.is_set())
        key = Key("default", "bad")
        assert at.cache.get("default", "good") is not None
        assert at.cache.at(key) is None
        assert "configmaps default/bad cannot be read" in at.cache.invalid[key]
        config(at.api, "bad", a="2")
        await eventually(lambda: at.cache.at(key) is not None)
        assert not at.cache.invalid

    running = Running()
    running.api.faults.add(Fault.DELAY, 0.05, verbs=frozenset({"list"}), times=1)
    running.run(case)


def test_even_metadata_that_cannot_be_read_harms_only_its_object() -> None:
    resource: Resource[Any] = CONFIG_MAPS
    decoder = Decoder(resource)
    odd = {"name": "odd", "namespace": "n", "resourceVersion": "5", "labels": {"a": None}}
    good = {"name": "good", "namespace": "n", "resourceVersion": "6"}
    items = [{"metadata": odd}, {"metadata": good}]
    page = decoder.page(json.dumps({"metadata": {"resourceVersion": "7"}, "items": items}).encode())
    assert [(one.key.name, one.obj is None) for one in page.entries] == [
        ("odd", True), ("good", False),
    ]  # fmt: skip
    lines = [
        json.dumps({"type": kind, "object": {"metadata": odd}}).encode()
        for kind in ("MODIFIED", "DELETED")
    ]
    changed, gone = decoder.events(lines)
    assert isinstance(changed, Upsert)
    assert "odd cannot be read" in changed.problem
    assert gone == Removal(Key("n", "odd"), 5)


def test_custom_objects_do_not_keep_the_answer_that_they_came_in() -> None:
    resource = custom("kubeovn.io", "v1", "vlans", "Vlan")
    noise = [{"manager": "kubectl", "fieldsV1": {"f:x": "y" * 100_000}}]
    meta = {"name": "v", "resourceVersion": "5", "managedFields": noise}
    item = {"metadata": meta, "spec": {"id": 5}, "status": {}}
    text = json.dumps({"metadata": {"resourceVersion": "7"}, "items": [item]}).encode()
    line = json.dumps({"type": "ADDED", "object": item}).encode()
    decoder = Decoder(resource)
    (one,) = decoder.page(text).entries
    (other,) = decoder.events([line])
    assert isinstance(other, Upsert)
    for found in (one.obj, other.obj):
        assert found is not None
        assert msgspec.json.decode(found.spec) == {"id": 5}
        views = [memoryview(raw) for raw in (found.spec, found.status)]
        assert all(not isinstance(view.obj, bytes) or len(view.obj) < 100 for view in views)
    assert sys.getrefcount(text) <= 2
    assert sys.getrefcount(line) <= 2


def test_null_lists_of_slices_are_empty() -> None:
    async def case(at: Running) -> None:
        store = at.api.cluster.store
        obj = {
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
            "metadata": {"name": "s", "namespace": "default", "resourceVersion": "99"},
            "endpoints": None, "ports": None,
        }  # fmt: skip
        store.write(("discovery.k8s.io", "endpointslices"), ("default", "s"), obj)
        await eventually(lambda: at.cache.get("default", "s") is not None)
        assert not at.cache.invalid

    Running(ENDPOINT_SLICES).run(case)


def test_the_server_says_when_to_come_back() -> None:
    async def case(at: Running) -> None:
        await at.follows()
        assert len([pause for pause in at.clock.slept if 7 <= pause < 8]) == 2

    running = Running()
    running.api.faults.add(Fault.STATUS, 429, times=2, retry_after=7)
    running.run(case)


def test_back_off_grows_and_is_jittered() -> None:
    pace = Backoff(0.2, 30, random.Random(1))
    delays = [pace.delay() for _ in range(12)]
    bounds = [min(30, 0.2 * 2**number) for number in range(12)]
    assert all(bound / 2 <= delay <= bound for delay, bound in zip(delays, bounds, strict=True))
    assert len(set(delays)) == 12
    pace.reset()
    assert pace.delay() <= 0.2


def test_watches_that_end_at_once_are_not_asked_for_in_a_circle() -> None:
    async def case(at: Running) -> None:
        await eventually(lambda: len(at.clock.slept) >= 8)
        assert at.clock.slept[7] > 8 * at.clock.slept[0]
        assert at.reflector.progress.lists == 1

    running = Running()
    running.api.faults.add(Fault.END, 0)
    running.run(case)


def test_a_watch_that_ends_in_order_needs_no_list() -> None:
    async def case(at: Running) -> None:
        await at.follows()
        for number in range(5):
            config(at.api, f"c{number}", a="1")
            await at.follows()
        await eventually(lambda: at.reflector.progress.watches >= 5)
        assert at.reflector.progress.lists == 1

    running = Running()
    running.api.faults.add(Fault.END, 1)
    running.run(case)


def test_a_stale_list_is_refused_until_it_must_be_a_restore() -> None:
    async def case(at: Running) -> None:
        for number in range(4):
            config(at.api, f"c{number}", a="1")
        await at.follows()
        rule = at.api.faults.add(Fault.STALE, 3)
        at.api.faults.add(Fault.GONE_EVENT, 0, times=1)
        at.api.cut_watches()
        await eventually(lambda: at.reflector.progress.stale_lists >= 2)
        assert len(at.cache) == 4
        assert "a list of revision" in at.reflector.progress.error
        assert rule.times is None
        sizes: list[int] = []
        at.cache.subscribe(lambda _keys: sizes.append(len(at.cache)))
        await eventually(lambda: bool(sizes))
        assert sizes[0] == 1, "what the server has is what there is"
        assert at.clock.now > 1000 + 60
        await at.follows()

    Running().run(case)


def test_a_token_that_expires_ends_in_one_large_list() -> None:
    async def case(at: Running) -> None:
        await eventually(lambda: len(at.cache) == 5)
        lists = [path for verb, path in at.api.requests if verb == "list"]
        assert len(lists) == 3, "two pages, the second of which expired, and everything at once"

    running = Running(page=2)
    for number in range(5):
        config(running.api, f"c{number}", a="1")
    running.api.faults.add(Fault.EXPIRED_TOKEN, times=None)
    running.run(case)


def test_a_connection_that_says_nothing_counts_as_dead() -> None:
    async def run() -> None:
        async with StandIn() as api, Client(Access(api.url)) as client:
            query = {"watch": "true", "resourceVersion": "1", "fieldSelector": "metadata.name=x"}
            with pytest.raises(Unreachable, match="WATCH /api/v1/configmaps: no answer"):
                async with client.stream(CONFIG_MAPS.collection(), query, 0.1) as batches:
                    assert [lines async for lines in batches] == []

    asyncio.run(run())


def test_a_restored_server_that_tells_nothing_is_found_out() -> None:
    async def case(at: Running) -> None:
        for number in range(4):
            config(at.api, f"c{number}", a="1")
        await at.follows()
        # The next watch waits for a revision that lies in the future now, without an error.
        at.api.cluster.store.restore(at.api.cluster.store.revision - 2)
        watches = at.reflector.progress.watches
        await eventually(lambda: at.reflector.progress.watches > watches)
        at.clock.move(200)
        await at.follows()
        assert len(at.cache) == 2
        assert at.reflector.progress.stale_lists

    Running(watch_s=(1.0, 1.0)).run(case)


def test_a_long_silence_of_an_honest_server_needs_no_list() -> None:
    async def case(at: Running) -> None:
        await at.follows()
        at.clock.move(200)
        watches = at.reflector.progress.watches
        await eventually(lambda: at.reflector.progress.watches > watches)
        assert at.reflector.progress.lists == 1

    Running(watch_s=(1.0, 1.0)).run(case)


def test_after_an_outage_everything_is_listed_anew() -> None:
    async def case(at: Running) -> None:
        for name in ("a", "b", "c"):
            config(at.api, name, v="1")
        await at.follows()
        rule = at.api.faults.add(Fault.STATUS, 503)
        at.api.cut_watches()
        await eventually(lambda: at.reflector.progress.errors > 2)
        # Restored, and already beyond what was seen before: no revision tells of that.
        at.api.cluster.store.restore(at.api.cluster.store.revision - 2)
        for name in ("d", "e", "f"):
            config(at.api, name, v="1")
        at.clock.move(60)
        await eventually(lambda: at.reflector.progress.errors > 4)
        rule.times = 0
        await at.follows()
        assert {one.metadata.name for one in at.cache} == {"a", "d", "e", "f"}

    Running().run(case)


def test_a_server_that_never_answers_is_an_error_and_an_outage() -> None:
    async def case(at: Running) -> None:
        config(at.api, "a", v="1")
        await at.follows()
        # What comes after the list comes by a watch: there is one to cut now.
        config(at.api, "w", v="1")
        await at.follows()
        lists, reached = at.reflector.progress.lists, at.reflector.client
        async with Unanswered(at.clock) as unanswered:
            at.reflector.client = unanswered
            at.api.cut_watches()
            await eventually(lambda: "no answer" in at.reflector.progress.error)
            await eventually(lambda: at.reflector.progress.lists > lists)
            at.reflector.client = reached
            config(at.api, "b", v="1")
            await at.follows()
        assert at.reflector.progress.error == ""

    Running().run(case)


@pytest.mark.parametrize(("code", "lists"), [(500, 2), (429, 1)])
def test_an_error_within_a_watch_is_no_reason_to_ask_in_a_circle(code: int, lists: int) -> None:
    async def case(at: Running) -> None:
        await at.follows()
        await eventually(lambda: at.reflector.progress.errors == 1)
        config(at.api, "late", v="1")
        await at.follows()
        assert at.reflector.progress.lists == lists
        assert [pause for pause in at.clock.slept if 7 <= pause < 8]

    running = Running()
    running.api.faults.add(Fault.ERROR_EVENT, code, times=1, retry_after=7)
    running.run(case)


def test_a_kind_that_is_no_longer_served_has_no_objects_after_a_while() -> None:
    async def case(at: Running) -> None:
        config(at.api, "a", v="1")
        await at.follows()
        rule = at.api.faults.add(Fault.STATUS, 404, plural="configmaps")
        at.api.cut_watches()
        await eventually(lambda: at.reflector.progress.errors > 2)
        assert len(at.cache) == 1, "a definition may be replaced by another"
        assert "404" in at.reflector.progress.error
        await eventually(lambda: not len(at.cache))
        rule.times = 0
        await at.follows()

    Running().run(case)


def test_connections_that_a_balancer_cuts_when_idle_cost_no_delay() -> None:
    async def case(at: Running) -> None:
        await at.follows()
        for number in range(8):
            await eventually(lambda n=number: at.reflector.progress.watches > n and at.api.watches)
            at.clock.move(30)
            at.api.cut_watches()
        config(at.api, "c", a="1")
        await at.follows()
        assert max(at.clock.slept, default=0.0) < 1
        assert at.reflector.progress.lists == 1

    Running().run(case)


async def _in_pieces(lines: bytes, sizes: random.Random) -> asyncio.Server:
    """A server that answers every request with these lines, cut anywhere."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n")
        writer.write(b"Transfer-Encoding: chunked\r\n\r\n")
        at = 0
        while at < len(lines):
            piece = lines[at : at + sizes.choice((1, 2, 3, 7, 1000, 70_000))]
            writer.write(b"%x\r\n%s\r\n" % (len(piece), piece))
            at += len(piece)
            if sizes.random() < 0.3:
                await writer.drain()
                await asyncio.sleep(0)
        writer.write(b"0\r\n\r\n")
        await writer.drain()
        writer.close()

    return await asyncio.start_server(serve, "127.0.0.1", 0)


def test_events_are_whole_wherever_the_stream_is_cut() -> None:
    objects = [
        {"metadata": {"name": f"c{n}", "namespace": "d", "resourceVersion": f"{n + 2}"},
         "data": {"a": "ü🦆\n" * size}}
        for n, size in enumerate((0, 1, 300, 150_000, 5))
    ]  # fmt: skip
    text = "".join(
        json.dumps({"type": "ADDED", "object": one}, ensure_ascii=False) + "\n" for one in objects
    )

    async def run(seed: int) -> None:
        server = await _in_pieces(text.encode(), random.Random(seed))
        host, port = server.sockets[0].getsockname()[:2]
        async with server, Client(Access(f"http://{host}:{port}")) as client:
            cache: Cache[Any] = Cache(CONFIG_MAPS)
            decoder = Decoder(CONFIG_MAPS)
            async with client.stream(CONFIG_MAPS.collection(), {"watch": "true"}, 60) as batches:
                async for lines in batches:
                    cache.apply(
                        event for event in decoder.events(lines) if isinstance(event, Upsert)
                    )
        assert cache.revision == 6
        assert {one.metadata.name: one.data for one in cache} == {
            f"c{n}": one["data"] for n, one in enumerate(objects)
        }

    for seed in range(5):
        asyncio.run(run(seed))


def test_a_watch_asks_whether_the_other_end_lives() -> None:
    async def run() -> None:
        async with StandIn() as api, Client(Access(api.url)) as client:
            query = {"watch": "true", "resourceVersion": "1"}
            loop = asyncio.get_running_loop()
            made: list[Any] = []
            plain = loop.create_connection

            async def noted(*args: Any, **how: Any) -> Any:
                transport, protocol = await plain(*args, **how)
                made.append(transport.get_extra_info("socket"))
                return transport, protocol

            loop.create_connection = noted  # type: ignore[method-assign]
            async with client.stream(CONFIG_MAPS.collection(), query, 30):
                (sock,) = made
                assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
                silence = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE)
                every = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL)
                count = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT)
                assert silence + every * count <= 60

    asyncio.run(run())


def test_an_inbox_gives_each_key_once() -> None:
    async def case(at: Running) -> None:
        inbox = Inbox()
        at.cache.subscribe(inbox.of("configs"))
        await at.follows()
        config(at.api, "a", v="1")
        config(at.api, "a", v="2")
        config(at.api, "b", v="1")
        await at.follows()
        await eventually(lambda: (one := at.cache.get("default", "a")) and one.data["v"] == "2")
        assert await inbox.take() == {"configs": {Key("default", "a"), Key("default", "b")}}

    Running().run(case)


class Patient(QuickClock):
    """Whose waits of more than a second do not end."""

    async def sleep(self, seconds: float) -> None:
        if seconds > 1:
            self.slept.append(seconds)
            await asyncio.Event().wait()
        await QuickClock.sleep(self, seconds)


def test_who_is_answered_again_wakes_those_who_wait_for_the_same_server() -> None:
    async def story() -> None:
        async with StandIn() as api, Client(Access(api.url)) as client:
            quick, patient = QuickClock(), Patient()
            recovery = Recovery(QuickClock())
            there = Reflector(client, Cache(PODS), clock=quick, recovery=recovery)
            waiting = Reflector(
                client,
                Cache(CONFIG_MAPS),
                clock=patient,
                backoff=Backoff(60.0, 60.0),
                recovery=recovery,
            )
            tasks = [asyncio.create_task(one.run()) for one in (there, waiting)]
            await waiting.cache.synced.wait()
            await api.stop()
            await eventually(lambda: any(seconds > 1 for seconds in patient.slept))
            await api.start()
            config(api, "after")
            await eventually(lambda: waiting.cache.at(Key("default", "after")) is not None)
            assert waiting.progress.error == ""
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    asyncio.run(story())


def test_a_server_that_answers_and_fails_by_turns_wakes_nobody_each_time() -> None:
    async def story() -> None:
        clock, patient = QuickClock(), Patient()
        recovery = Recovery(clock)
        began = clock.monotonic()
        clock.move(1)
        recovery.answered("a")
        await recovery.wait("b", patient, 30, began)
        waiting = asyncio.create_task(recovery.wait("a", patient, 30, began))
        await asyncio.sleep(0.01)
        recovery.answered("b")
        await asyncio.sleep(0.01)
        assert not waiting.done(), "neither by its own answer nor so soon after the last"
        clock.move(11)
        recovery.answered("b")
        await waiting

    asyncio.run(story())
