"""A whole cluster of one node but for its kubelet: what is applied to the API comes to packets.

Manifests are applied as `kubectl apply --server-side` does, to the API's stand-in with the
definitions of deploy/; the controller watches it and writes a real OVN, whose chassis has a device
for each pod.
"""

from __future__ import annotations

import asyncio
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from controller.config_kubernetes import KubernetesConfig
from controller.kube.auth import Access
from controller.kube.http import Client
from controller.kubenet import Controller
from controller.network.gateways import GatewayTemplate
from controller.network.settings import NetSettings
from tests.apistandin.probe import Api
from tests.apistandin.thread import Threaded
from tests.apistandin.thread import running as serving
from tests.labs import kubecluster
from tests.labs.definitions import CRDS
from tests.labs.kubernetesnet import Network
from tests.labs.ovnsandbox import OvnSandbox, wait_until
from tests.labs.packetlab import PacketLab, Station

NODE = "n1"


@dataclass
class Applied:
    """The API, and the OVN that the controller writes."""

    box: OvnSandbox
    server: Threaded
    probe: Api = field(init=False)
    _network: Network = field(init=False)

    def __post_init__(self) -> None:
        self.probe = Api(self.server.url)
        self._network = Network(self.box, PacketLab(self.box, ()), {})

    def apply(self, text: str) -> None:
        """Apply manifests; a pod without a node is put on the only one, as a scheduler would."""
        for document in yaml.safe_load_all(text):
            if document["kind"] == "Pod":
                document["spec"].setdefault("nodeName", NODE)
            reply = self.probe.apply(self.path(document), document, "kubectl", force="true")
            assert reply.code in (200, 201), reply.body

    def path(self, document: dict[str, Any]) -> str:
        """Where an object is in the API."""
        group, _, version = document["apiVersion"].rpartition("/")
        kind = next(
            one
            for one in self.server.api.cluster.kinds.values()
            if (one.group, one.version, one.kind) == (group, version, document["kind"])
        )
        base = f"/apis/{group}/{version}" if group else f"/api/{version}"
        meta = document["metadata"]
        if kind.namespaced:
            base += f"/namespaces/{meta.get('namespace', 'default')}"
        return f"{base}/{kind.plural}/{meta['name']}"

    def look(self, resource: str, name: str, namespace: str = "") -> dict[str, Any]:
        """An object as it is now; empty if there is none."""
        return self.server.do(lambda api: kubecluster.look(api, resource, name, namespace)) or {}

    def events(self) -> set[str]:
        """What the controller told of objects that are not as they should be."""
        return self.server.do(
            lambda api: {
                f"{one['involvedObject']['name']}: {one['message']}"
                for one in api.cluster.store.of(("", "events")).values()
            }
        )

    def pods(self) -> dict[str, dict[str, str]]:
        """Each pod's annotations."""
        return self.server.do(
            lambda api: {
                f"{name}.{space}": one["metadata"].get("annotations", {})
                for (space, name), one in api.cluster.store.of(("", "pods")).items()
            }
        )

    def stations(self) -> tuple[Station, ...]:
        """The interfaces that pods were told of."""
        found = []
        for pod, said in self.pods().items():
            for key, value in said.items():
                provider, mark, _ = key.partition(".kubernetes.io/allocated")
                if not mark or value != "true":
                    continue
                own = {
                    name: said.get(f"{provider}.kubernetes.io/{name}", "")
                    for name in ("logical_switch", "mac_address", "ip_address", "cidr")
                }
                lengths = {":" in part: part.partition("/")[2] for part in own["cidr"].split(",")}
                addresses = tuple(
                    f"{one}/{lengths[':' in one]}" for one in own["ip_address"].split(",")
                )
                port = pod if provider == "ovn" else f"{pod}.{provider}"
                switch, mac = own["logical_switch"], own["mac_address"].lower()
                found.append(Station(port, switch, mac, addresses))
        return tuple(found)

    def network(self, *ports: str) -> Network:
        """Devices for these ports, once they are there; packets of them and of those before."""
        listed = ("--bare", "--columns=name", "list", "Logical_Switch_Port")

        def there() -> bool:
            made = set(self.box.nbctl(*listed).split())
            return set(ports) <= made & {one.port for one in self.stations()}

        wait_until(f"{', '.join(ports)} are there", there)
        net = self._network
        since = len(net.lab.stations)
        new = tuple(o for o in self.stations() if o.port in ports and o.port not in net.there)
        net.lab.stations += new
        net.there |= {one.port: one for one in new}
        net.lab.router_macs, net.lab.gateways = self._gateways()
        net.lab.attach(since)
        return net

    def _gateways(self) -> tuple[dict[str, str], dict[str, str]]:
        text = self.box.nbctl("--bare", "--columns=name,mac,networks", "list",
                              "Logical_Router_Port")  # fmt: skip
        macs, hosts = {}, {}
        switches = self.box.nbctl("--bare", "--columns=name", "list", "Logical_Switch").split()
        for block in text.strip().split("\n\n"):
            name, mac, networks = (*block.split("\n"), "")[:3]
            for switch in switches:
                if name.endswith(f"-{switch}"):
                    macs[switch] = mac
                    four = [one for one in networks.split() if "." in one]
                    hosts[switch] = four[0].partition("/")[0] if four else ""
        return macs, hosts


@contextmanager
def running(
    settings: NetSettings,
    netns: str = "",
    gateways: Callable[[OvnSandbox], GatewayTemplate] | None = None,
) -> Iterator[Applied]:
    """The cluster, with one node and the namespace default, and its controller.

    `netns`: where the chassis's devices are, if they are no dummies.
    """
    # Not pytest's tmp_path: a unix socket's path has at most 107 bytes.
    with tempfile.TemporaryDirectory(prefix="mrv-app-") as directory, serving() as server:
        box = OvnSandbox(Path(directory), chassis_netns=netns)
        try:
            box.start()
            box.start_chassis(NODE, "127.0.0.1", "phys", "br-phys")
            server.do(_one_node)
            config = KubernetesConfig(
                box.nb,
                namespace="kube-system",
                network=settings,
                gateways=gateways(box) if gateways else None,
            )
            with controlling(server.url, config):
                yield Applied(box, server)
        finally:
            box.stop()


def define(api: Any) -> None:
    """Install our definitions, and those of other projects' kinds that are watched."""
    for path in sorted(CRDS.rglob("*.yaml")):
        kubecluster.put(api, yaml.safe_load(path.read_text(encoding="utf-8")))
    there = {one.group for one in api.cluster.kinds.values()}
    kubecluster.define(api, [one for one in kubecluster.customs() if one.group not in there])


def _one_node(api: Any) -> None:
    define(api)
    kubecluster.put(api, kubecluster.node(NODE, "192.0.2.1"))
    kubecluster.put(api, kubecluster.namespace("default"))


@contextmanager
def controlling(url: str, config: KubernetesConfig) -> Iterator[None]:
    """A controller in a thread of its own until the block ends."""
    loop = asyncio.new_event_loop()

    async def work() -> None:
        async with Client(Access(url)) as client:
            await Controller(config, client).run()

    task = loop.create_task(work())

    def keep() -> None:
        loop.run_until_complete(asyncio.gather(task, return_exceptions=True))

    thread = threading.Thread(target=keep, name="controller")
    thread.start()
    try:
        yield
    finally:
        loop.call_soon_threadsafe(task.cancel)
        thread.join(timeout=60)
        loop.close()
