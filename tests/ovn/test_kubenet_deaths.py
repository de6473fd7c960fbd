"""The controller's real process killed at its writes, and two of them at once."""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.apistandin.faults import Fault
from tests.apistandin.server import StandIn
from tests.labs import kubecluster as objects
from tests.labs.deaths import Api, Process, Relay, Writes
from tests.labs.kubecontrol import until
from tests.ovn.test_kubenet_faults import (
    Databases,
    Running,
    _databases,
    _pods,
    _wanted,
    calm,
    cluster,
    nothing_to_do,
)

LIVES = int(os.environ.get("MILLRACE_LIVES", "4"))
"""How often it is killed; each life takes two seconds."""
IDLE_S = 0.7
"""So long without a write, it has nothing more to do and is killed, too [s]."""


@pytest.fixture
def nb() -> Iterator[Databases]:
    """One server."""
    yield from _databases(1)


SUBNETS = "subnets.kubeovn.io"


def ending(api: StandIn) -> list[str]:
    """Subnets that wait for somebody to let them go."""
    found = api.cluster.store.of(("kubeovn.io", "subnets"))
    return [name for (_, name), one in found.items() if "deletionTimestamp" in one["metadata"]]


class History:
    """Things that happen in a cluster, by chance."""

    def __init__(self, api: StandIn, seed: int) -> None:
        self._api, self._chance, self._count = api, random.Random(seed), 0

    def happen(self) -> None:
        """One thing."""
        self._count += 1
        number, space = self._count, self._chance.choice("ab")
        match self._chance.randrange(12):
            case 0 | 1 | 2:
                objects.put(self._api, objects.pod(space, f"n{number}"))
            case 3 | 4:
                self._drop("pods")
            case 5:
                self._relabel(number)
            case 6:
                objects.put(self._api, _policy(space, f"np{number}", self._chance.choice("xy")))
            case 7:
                self._drop("networkpolicies.networking.k8s.io")
            case 8 | 9:
                net = objects.subnet(f"x{number}", f"10.{100 + number % 100}.0.0/24")
                objects.put(self._api, net)
            case 10:
                self._drop(SUBNETS, but=("net-a", "net-b"))
            case _:
                for one in _service(space, f"s{number}", number):
                    objects.put(self._api, one)

    def _there(self, resource: str) -> list[tuple[str, str]]:
        plural, _, group = resource.partition(".")
        return sorted(self._api.cluster.store.of((group, plural)))

    def _drop(self, resource: str, but: tuple[str, ...] = ()) -> None:
        if there := [one for one in self._there(resource) if one[1] not in but]:
            space, name = self._chance.choice(there)
            objects.drop(self._api, resource, name, space)

    def _relabel(self, number: int) -> None:
        if there := self._there("pods"):
            space, name = self._chance.choice(there)
            pod = objects.look(self._api, "pods", name, space)
            assert pod is not None
            labels = {"app": self._chance.choice("xy"), "turn": str(number)}
            objects.put(self._api, {**pod, "metadata": {**pod["metadata"], "labels": labels}})


def _policy(space: str, name: str, app: str) -> dict[str, Any]:
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"namespace": space, "name": name},
        "spec": {
            "podSelector": {"matchLabels": {"app": app}},
            "ingress": [{"from": [{"podSelector": {"matchLabels": {"app": "web"}}}]}],
        },
    }


def _service(space: str, name: str, number: int) -> list[dict[str, Any]]:
    ports = [{"name": "http", "port": 80, "targetPort": 8080, "protocol": "TCP"}]
    return [
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"namespace": space, "name": name},
            "spec": {"clusterIP": f"10.96.0.{number % 250 + 1}", "ports": ports},
        },
        {
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {
                "namespace": space,
                "name": name,
                "labels": {"kubernetes.io/service-name": name},
            },
            "addressType": "IPv4",
            "endpoints": [{"addresses": ["10.64.0.200"], "conditions": {"ready": True}}],
            "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}],
        },
    ]


class Addresses:
    """Who was ever seen with which address; whoever has one keeps it as long as he is there."""

    def __init__(self, api: StandIn, nb: Databases) -> None:
        self._api, self._nb = api, nb
        self._seen: dict[tuple[str, str], str] = {}

    def look(self) -> None:
        """What is there now, in the database and in pods' annotations."""
        text = self._nb.nbctl("--bare", "--columns=name,addresses", "list", "Logical_Switch_Port")
        ports = dict(block.partition("\n")[::2] for block in text.strip().split("\n\n") if block)
        holders: dict[str, str] = {}
        for (space, name), pod in self._api.cluster.store.of(("", "pods")).items():
            port, uid = f"{name}.{space}", pod["metadata"]["uid"]
            notes = pod["metadata"].get("annotations", {})
            told = (ports.get(port, "").split()[1:2] or [""])[0]
            noted = notes.get("ovn.kubernetes.io/ip_address", "")
            for address in {told, noted} - {""}:
                assert self._seen.setdefault((port, uid), address) == address, port
                assert holders.setdefault(address, port) == port, (address, port)


async def same_as_anew(api: StandIn, nb: Databases, tmp_path: Path) -> None:
    """What is there is what a controller makes of these objects in an empty database."""
    (tmp_path / "anew").mkdir()
    other = _databases(1)
    anew = next(other)
    try:
        async with Running(api, anew) as controller:
            await calm(controller)
        assert anew.dump() == nb.dump()
    finally:
        assert list(other) == []


@pytest.mark.parametrize("stale", [False, True], ids=["true-lists", "stale-lists"])
def test_killed_at_any_write_of_either_side_it_ends_with_the_same_rows(
    nb: Databases, tmp_path: Path, stale: bool
) -> None:
    deaths: list[str] = []

    async def life(api: Api, number: int, history: History) -> None:
        writes = Writes(at=1 + number * 7 % 12, after=bool(number % 2))
        relay = Relay(nb.directory / f"relay{number}", nb.directory / "nb0.sock", writes)
        async with relay.serving():
            process = Process(tmp_path, api.url, f"unix:{relay.path}", "a")
            writes.strike, api.writes = process.kill, writes
            if stale and number:
                # Of before what the one who died wrote last, for as long as the first lists.
                api.faults.add(Fault.STALE, 1 + number * 5 % 30, times=40)
            await process.start()
            assert process.running is not None
            ended = asyncio.ensure_future(process.running.wait())
            calm_since, seen, made = 0.0, 0, 0
            while not ended.done() and calm_since < IDLE_S:
                await asyncio.sleep(0.05)
                begun = process.log.count("we lead") > number
                quiet = begun and len(writes.seen) == seen
                calm_since = calm_since + 0.05 if quiet else 0.0
                seen = len(writes.seen)
                if seen and made < 6:
                    history.happen()
                    made += 1
            deaths.append(writes.seen[-1] if ended.done() else "")
            await process.kill()
            await ended
            api.writes = None
            api.faults.clear()

    async def story() -> None:
        async with Api() as api:
            cluster(api, pods=8)
            history, addresses = History(api, 3 + stale), Addresses(api, nb)
            for number in range(LIVES):
                await life(api, number, history)
                addresses.look()
                for _ in range(3):
                    history.happen()
            # It died while it wrote, and not only when it was idle.
            assert sum(map(bool, deaths)) >= 2
            async with Running(api, nb) as last:
                await calm(last)
                await until("all is there", lambda: _pods(nb) == _wanted(api))
                await until("who is to go is gone", lambda: ending(api) == [])
                await calm(last)
            addresses.look()
            await nothing_to_do(api, nb)
            await same_as_anew(api, nb, tmp_path)

    asyncio.run(story())


def test_who_stood_still_while_another_took_over_writes_nothing_any_more(
    nb: Databases, tmp_path: Path
) -> None:
    """A transaction in flight, a process that goes on as if no time had passed."""

    async def story() -> None:
        async with Api() as api:
            cluster(api, pods=8)
            history, addresses = History(api, 5), Addresses(api, nb)
            relay = Relay(nb.directory / "relay", nb.directory / "nb0.sock", Writes())
            async with relay.serving():
                first = Process(tmp_path, api.url, f"unix:{relay.path}", "first")
                second = Process(tmp_path, api.url, nb.remote, "second")
                try:
                    await first.start()
                    await until("the first is done", lambda: _pods(nb) == _wanted(api))
                    # Nor is any request under way: what was sent cannot be taken back.
                    seen = -1
                    while seen != len(api.written):
                        seen = len(api.written)
                        await asyncio.sleep(1)
                    relay.held.clear()
                    objects.put(api, objects.pod("a", "late"))
                    await until("its transaction is under way", lambda: relay.waiting > 0)
                    first.halt()
                    await second.start()
                    for _ in range(5):
                        history.happen()
                    await until("the Lease is the second's", lambda: "we lead" in second.log)
                    before = len(api.written)
                    # The first still has the lock, and no probe finds that it does not answer.
                    await until("the second takes it", lambda: "lock_stolen" in second.log)
                    await until("the second works", lambda: "settled" in second.log)
                    assert _pods(nb) == _wanted(api)
                    addresses.look()
                    # What the first sent arrives at last.
                    relay.held.set()
                    await until("it was answered", lambda: not relay.waiting)
                    addresses.look()
                    first.go_on()
                    await until("the first sees it", lambda: "we do not lead" in first.log)
                    objects.put(api, objects.pod("b", "later"))
                    await until("all is there", lambda: _pods(nb) == _wanted(api))
                    assert [one for one in api.written[before:] if one[0] != "second"] == []
                    addresses.look()
                finally:
                    await first.kill()
                    await second.kill()
            async with Running(api, nb) as last:
                await calm(last)
            addresses.look()
            await nothing_to_do(api, nb)
            await same_as_anew(api, nb, tmp_path)

    asyncio.run(story())
