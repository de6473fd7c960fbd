"""VPCs and subnets from their making to their end, by the controller in a real database."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import yaml

from controller.config_kubernetes import KubernetesConfig
from controller.kube.auth import Access
from controller.kube.http import Client
from controller.kubenet import Controller
from tests.apistandin.probe import Api
from tests.apistandin.server import StandIn
from tests.labs import kubecluster as objects
from tests.labs.definitions import CRDS
from tests.labs.ovnsandbox import PATIENCE_S, OvnSandbox, northbound

SUBNETS, VPCS = "/apis/kubeovn.io/v1/subnets", "/apis/kubeovn.io/v1/vpcs"
S = ("subnets.kubeovn.io", "s")


class Cluster:
    """The API, a database, and one controller at a time."""

    def __init__(self, api: StandIn, nb: OvnSandbox) -> None:
        self.api, self.nb = api, nb
        self._probe = Api(api.url)
        self._running: asyncio.Task[None] | None = None
        self._client: Client | None = None

    async def begin(self, identity: str) -> None:
        """Start a controller; the one before is killed as by a power cut."""
        await self.end()
        self._client = await Client(Access(self.api.url)).__aenter__()
        config = KubernetesConfig(self.nb.nb, namespace="kube-system", identity=identity)
        self._running = asyncio.create_task(Controller(config, self._client).run())

    async def end(self) -> None:
        if self._running is not None and self._client is not None:
            self._running.cancel()
            await asyncio.gather(self._running, return_exceptions=True)
            await self._client.__aexit__(None, None, None)
            self._running = None

    async def make(self, path: str, kind: str, name: str, **spec: Any) -> None:
        body = {
            "apiVersion": "kubeovn.io/v1",
            "kind": kind,
            "metadata": {"name": name},
            "spec": spec,
        }
        reply = await asyncio.to_thread(self._probe.post, path, body)
        assert reply.code == 201, reply.body

    async def change(self, path: str, **spec: Any) -> None:
        reply = await asyncio.to_thread(self._probe.merge, path, {"spec": spec})
        assert reply.code == 200, reply.body

    async def delete(self, path: str) -> None:
        reply = await asyncio.to_thread(self._probe.delete, path)
        assert reply.code == 200, reply.body

    def told(self, resource: str, name: str, kind: str) -> tuple[str, str]:
        """A condition's status and message."""
        found = objects.look(self.api, resource, name) or {}
        for one in found.get("status", {}).get("conditions", ()):
            if one["type"] == kind:
                return one["status"], one["message"]
        return "", ""

    def status(self, name: str) -> dict[str, Any]:
        found = objects.look(self.api, "subnets.kubeovn.io", name) or {}
        return dict(found.get("status", {}))

    def rows(self, table: str, column: str = "name") -> set[str]:
        return set(self.nb.nbctl("--bare", f"--columns={column}", "list", table).split())


async def until(what: str, condition: Callable[[], bool]) -> None:
    try:
        async with asyncio.timeout(PATIENCE_S):
            while not condition():  # noqa: ASYNC110  # what is waited for is in another process
                await asyncio.sleep(0.02)
    except TimeoutError as error:
        raise AssertionError(what) from error


def test_a_vpc_and_its_subnet_from_their_making_to_their_end() -> None:
    async def story(nb: OvnSandbox) -> None:
        async with StandIn() as api:
            for path in sorted(CRDS.glob("*.yaml")):
                objects.put(api, yaml.safe_load(path.read_text(encoding="utf-8")))
            objects.put(api, objects.node("n1", "192.0.2.1"))
            objects.put(api, objects.namespace("shop"))
            cluster = Cluster(api, nb)
            try:
                await life(cluster)
            finally:
                await cluster.end()

    with northbound() as box:
        asyncio.run(story(box))


async def life(cluster: Cluster) -> None:
    api = cluster.api
    await cluster.begin("a")
    await cluster.make(VPCS, "Vpc", "v1", namespaces=["shop"])
    await cluster.make(
        SUBNETS, "Subnet", "s", vpc="v1", cidrBlock="10.40.0.0/24", namespaces=["shop"], colour=1
    )
    objects.put(api, objects.pod("shop", "a"))
    await until("the pod's port is there", lambda: "a.shop" in cluster.rows("Logical_Switch_Port"))
    await until("it counts", lambda: cluster.status("s").get("v4usingIPs") == 1)
    await until(
        "it is ready", lambda: cluster.told("subnets.kubeovn.io", "s", "Ready")[0] == "True"
    )
    assert cluster.status("s")["accepted"]["gateway"] == "10.40.0.1"
    events = api.cluster.store.of(("", "events"))
    await until(
        "the unknown field is told",
        lambda: any("spec.colour" in str(one["message"]) for one in events.values()),
    )

    # What would cut the pod off is refused, by the next controller, too.
    await cluster.change(f"{SUBNETS}/s", cidrBlock="10.41.0.0/24")
    for identity in ("a", "b"):
        await until(
            "the change is refused",
            lambda: "10.40.0.2 of a.shop" in cluster.told(*S, "Error")[1],
        )
        assert "10.40.0.1/24" in cluster.rows("Logical_Router_Port", "networks")
        assert cluster.status("s")["accepted"]["cidrBlock"] == "10.40.0.0/24"
        if identity == "a":
            await cluster.begin("b")
            objects.put(api, objects.pod("shop", "b"))
            await until("it works", lambda: "b.shop" in cluster.rows("Logical_Switch_Port"))
    assert "10.40.0.3" in cluster.nb.nbctl("lsp-get-addresses", "b.shop")

    # Both wait for what is within.
    await cluster.delete(f"{VPCS}/v1")
    await cluster.delete(f"{SUBNETS}/s")
    objects.put(api, objects.pod("shop", "c"))
    await until("c is another subnet's", lambda: "c.shop" in cluster.rows("Logical_Switch_Port"))
    assert cluster.nb.nbctl("lsp-get-addresses", "c.shop").split()[1].startswith("10.16.")
    assert {"s", "ovn-default", "join"} <= cluster.rows("Logical_Switch")
    for name in ("a", "b"):
        assert objects.look(api, *S) is not None
        objects.drop(api, "pods", name, "shop")
    await until("the subnet goes", lambda: objects.look(api, *S) is None)
    await until("the VPC goes", lambda: objects.look(api, "vpcs.kubeovn.io", "v1") is None)
    await until("its rows go", lambda: "s" not in cluster.rows("Logical_Switch"))
    await until("its router goes", lambda: "v1" not in cluster.rows("Logical_Router"))
    assert cluster.rows("Logical_Router") == {"ovn-cluster"}
