"""The Kubernetes controller through faults: always the same rows, nobody's address twice."""

from __future__ import annotations

import asyncio
import os
import random
import re
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from controller.config_kubernetes import KubernetesConfig
from controller.kube.auth import Access
from controller.kube.http import Client
from controller.kubenet import Controller
from controller.network.rows import RowKey
from tests.apistandin.faults import Fault
from tests.apistandin.server import StandIn
from tests.labs import kubecluster as objects
from tests.labs.ovnsandbox import PATIENCE_S, SCHEMAS, is_running, run, wait_until

TABLES = {
    "Logical_Switch": "name,other_config,external_ids",
    "Logical_Switch_Port": "name,type,addresses,options,port_security,external_ids",
    "Logical_Router": "name,options,external_ids",
    "Logical_Router_Port": "name,mac,networks,external_ids",
    "Logical_Router_Policy": "priority,match,action,nexthops,external_ids",
    "Logical_Router_Static_Route": "ip_prefix,nexthop,output_port,external_ids",
    "Port_Group": "name,external_ids",
    "Address_Set": "name,addresses,external_ids",
    "ACL": "direction,priority,match,action,external_ids",
    "Load_Balancer": "name,vips,protocol,options,external_ids",
}


class Databases:
    """A northbound database of one or three servers, each killed and started by its number."""

    def __init__(self, directory: Path, servers: int) -> None:
        self.directory, self.pids = directory, dict.fromkeys(range(servers), 0)
        schema = str(SCHEMAS / "ovn-nb.ovsschema")
        first = f"unix:{directory}/raft0"
        for number in self.pids:
            file = str(directory / f"nb{number}.db")
            if servers == 1:
                run("ovsdb-tool", "create", file, schema)
            elif number == 0:
                run("ovsdb-tool", "create-cluster", file, schema, first)
            else:
                here = f"unix:{directory}/raft{number}"
                run("ovsdb-tool", "join-cluster", file, "OVN_Northbound", here, first)
            self.start(number)
        self.nbctl("init")

    @property
    def remote(self) -> str:
        return ",".join(f"unix:{self.directory}/nb{number}.sock" for number in self.pids)

    def start(self, number: int) -> None:
        here, pidfile = self.directory, self.directory / f"nb{number}.pid"
        run(
            "ovsdb-server", str(here / f"nb{number}.db"), "--detach", "--no-chdir",
            f"--remote=punix:{here}/nb{number}.sock", f"--unixctl={here}/nb{number}.ctl",
            f"--pidfile={pidfile}", f"--log-file={here}/nb{number}.log",
        )  # fmt: skip
        self.pids[number] = int(pidfile.read_text())

    def kill(self, number: int) -> None:
        pid, self.pids[number] = self.pids[number], 0
        os.kill(pid, signal.SIGKILL)
        wait_until("the server is gone", lambda: not is_running(pid))

    def leader(self) -> int:
        """The number of the leader; -1 while there is none."""
        for number, pid in self.pids.items():
            if pid:
                here = f"{self.directory}/nb{number}.ctl"
                told = run("ovs-appctl", "-t", here, "cluster/status", "OVN_Northbound")
                if "Role: leader" in told:
                    return number
        return -1

    def nbctl(self, *words: str) -> str:
        return run("ovn-nbctl", "--timeout=30", f"--db={self.remote}", *words)

    def dump(self) -> dict[str, list[str]]:
        """All that can be compared, without UUIDs."""
        found = {}
        for table, columns in TABLES.items():
            text = self.nbctl(
                "--format=csv", "--no-headings", f"--columns={columns}", "list", table
            )
            found[table] = sorted(
                re.sub(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-\w{12}", "U", text).split("\n")
            )
        return found


@pytest.fixture
def nb() -> Iterator[Databases]:
    """One server."""
    yield from _databases(1)


@pytest.fixture
def cluster_nb() -> Iterator[Databases]:
    """Three servers."""
    yield from _databases(3)


def _databases(servers: int) -> Iterator[Databases]:
    with tempfile.TemporaryDirectory(prefix="mrv-kf-") as directory:
        box = Databases(Path(directory), servers)
        try:
            yield box
        finally:
            for number, pid in box.pids.items():
                if pid:
                    box.kill(number)


class Running:
    """A controller that can be killed at any moment: everything it does ends there and then."""

    def __init__(self, api: StandIn, nb: Databases, batch: int = 2000) -> None:
        self._api, self._nb, self._batch = api, nb, batch

    async def __aenter__(self) -> Controller:
        config = KubernetesConfig(self._nb.remote, namespace="kube-system")
        self._client = Client(Access(self._api.url))
        await self._client.__aenter__()
        self.controller = Controller(config, self._client)
        self.controller.writer._turns.batch = self._batch
        self._task = asyncio.create_task(self.controller.run())
        return self.controller

    async def __aexit__(self, *_: object) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        await self._client.__aexit__(None, None, None)


async def until(what: str, condition: object) -> None:
    assert callable(condition)
    async with asyncio.timeout(PATIENCE_S):
        while not condition():  # noqa: ASYNC110  # what is waited for is in another process
            await asyncio.sleep(0.02)
    assert condition(), what


async def calm(controller: Controller) -> None:
    """Everything that is known is written, here and there, and nothing more comes of it."""
    await until("it is settled", lambda: bool(controller.counts.settled_at))
    for _ in range(3):
        await asyncio.wait_for(controller.writer.settled(), PATIENCE_S)
        await until("all is told", lambda: not controller.back.waiting)
        await asyncio.sleep(0.05)


def cluster(api: StandIn, pods: int = 30) -> None:
    objects.define(api)
    objects.put(api, objects.node("n1", "192.0.2.1"))
    objects.put(api, objects.node("n2", "192.0.2.2"))
    for name, cidr in (("a", "10.64.0.0/24"), ("b", "10.65.0.0/24")):
        objects.put(api, objects.namespace(name))
        objects.put(api, objects.subnet(f"net-{name}", cidr, name))
    for number in range(pods):
        objects.put(api, objects.pod("ab"[number % 2], f"p{number}", f"n{number % 2 + 1}"))
    objects.put(
        api,
        {
            "apiVersion": "networking.k8s.io/v1",
            "kind": "NetworkPolicy",
            "metadata": {"namespace": "a", "name": "deny"},
            "spec": {"podSelector": {}, "policyTypes": ["Ingress"]},
        },
    )


def addresses(nb: Databases) -> list[str]:
    text = nb.nbctl("--bare", "--columns=addresses", "list", "Logical_Switch_Port")
    return [line.split()[1] for line in text.splitlines() if len(line.split()) > 1]


async def nothing_to_do(api: StandIn, nb: Databases) -> None:
    """What is there is what the pure function gives: a new controller would write nothing."""
    async with Running(api, nb) as again:
        await calm(again)
        assert again.writer.written.rows == 0 and not again.writer.failures
    found = addresses(nb)
    assert len(found) == len(set(found))


def test_killed_at_any_write_it_goes_on_where_it_was(nb: Databases) -> None:
    async def story() -> None:
        async with StandIn() as api:
            cluster(api)
            seen: dict[str, str] = {}
            for kill_after in range(1, 12):
                enough = asyncio.Event()

                def written(
                    _: tuple[RowKey, ...],
                    count: list[int] = [0],  # noqa: B006  # each definition has its own
                    most: int = kill_after,
                    event: asyncio.Event = enough,
                ) -> None:
                    count[0] += 1
                    if count[0] >= most:
                        event.set()

                async with Running(api, nb, batch=7) as controller:
                    controller.writer.on_written = written
                    settled = asyncio.ensure_future(calm(controller))
                    killed = asyncio.ensure_future(enough.wait())
                    await asyncio.wait({settled, killed}, return_when=asyncio.FIRST_COMPLETED)
                    settled.cancel()
                    killed.cancel()
                text = nb.nbctl("--bare", "--columns=name,addresses", "list", "Logical_Switch_Port")
                for block in text.strip().split("\n\n"):
                    name, _, there = block.partition("\n")
                    # Whoever has an address keeps it, whatever happens.
                    assert seen.setdefault(name, there) == there
                objects.drop(api, "pods", f"p{kill_after}", "ab"[kill_after % 2])
                objects.put(api, objects.pod("a", f"new{kill_after}"))
                seen.pop(f"p{kill_after}.{'ab'[kill_after % 2]}", None)
            async with Running(api, nb) as last:
                await calm(last)
            await nothing_to_do(api, nb)

    asyncio.run(story())


def test_the_database_restarted_the_api_away_and_lists_stale_make_no_difference(
    nb: Databases,
) -> None:
    async def story() -> None:
        chance = random.Random(7)
        async with StandIn(port=0) as api:
            cluster(api)
            async with Running(api, nb) as controller:
                await calm(controller)
                for number in range(12):
                    match number % 4:
                        case 0:
                            nb.kill(0)
                        case 1:
                            await api.stop()
                        case 2:
                            api.faults.add(Fault.GONE_EVENT, 0, times=2)
                            api.faults.add(Fault.STALE, chance.randrange(1, 20), times=3)
                            api.cut_watches()
                        case _:
                            api.faults.add(Fault.DUPLICATE, times=3)
                    space = "ab"[number % 2]
                    if number % 4 == 1:
                        await asyncio.sleep(0.2)
                    objects.put(api, objects.pod(space, f"more{number}"))
                    objects.drop(api, "pods", f"p{number}", space)
                    await asyncio.sleep(0.1)
                    if number % 4 == 0:
                        nb.start(0)
                    if number % 4 == 1:
                        await api.start()
                await until(
                    "all is there",
                    lambda: f"{len(addresses(nb))}" and _pods(nb) == _wanted(api),
                )
                await calm(controller)
            await nothing_to_do(api, nb)

    asyncio.run(story())


def test_the_leader_of_three_databases_is_lost_and_nothing_else(cluster_nb: Databases) -> None:
    nb = cluster_nb

    async def story() -> None:
        async with StandIn() as api:
            cluster(api)
            async with Running(api, nb, batch=5) as controller:
                await until("it has begun", lambda: controller.writer.written.rows > 5)
                for number in range(3):
                    leader = nb.leader()
                    nb.kill(leader)
                    objects.put(api, objects.pod("a", f"lost{number}"))
                    await until("another leads", lambda was=leader: nb.leader() not in (-1, was))
                    name = f"lost{number}.a"
                    await until("it writes there", lambda name=name: name in _pods(nb))
                    nb.start(leader)
                await calm(controller)
                await until("all is there", lambda: _pods(nb) == _wanted(api))
            await nothing_to_do(api, nb)

    asyncio.run(story())


def _pods(nb: Databases) -> set[str]:
    text = nb.nbctl("--bare", "--columns=name", "list", "Logical_Switch_Port")
    return {name for name in text.split() if name.endswith((".a", ".b"))}


def _wanted(api: StandIn) -> set[str]:
    return {f"{name}.{space}" for space, name in api.cluster.store.of(("", "pods"))}
