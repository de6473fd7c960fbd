"""Two embedded nodes in two namespaces: own OVS and daemon each, one OVN, Geneve between them.

::

    <p>-client --- up0  <p>-node1  phy0 --- phy0  <p>-node2
                        <p>-c1 (veth)             vm1 (vhost-user, QEMU)
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from ipaddress import IPv4Interface
from pathlib import Path

from dataplane.drivers import processes
from tests.labs import logical, netns
from tests.labs.built import Built
from tests.labs.guests import QemuGuest
from tests.labs.lab import (
    CLIENT_ADDRESS,
    GATEWAY_ADDRESS,
    LABS_DIR,
    NODE_ADDRESS,
    PORT,
    ROUTER,
    VIP_VM,
)
from tests.labs.labnode import LabNode
from tests.labs.logical import Network, PodPort, Service, Switch
from tests.labs.netns import Namespace
from tests.labs.nodefile import NodeFile, cluster_text
from tests.labs.workloads import POD_NAMESPACE, Server, Workload

CONTAINER = ("c1", "10.1.0.11")
GUEST = ("vm1", "10.1.0.20")

NETWORK = Network(
    router=ROUTER,
    switches=(Switch("sw0", IPv4Interface("10.1.0.1/24")),),
    workloads=tuple(
        PodPort(f"{name}.{POD_NAMESPACE}", "sw0", IPv4Interface(f"{address}/24"))
        for name, address in (CONTAINER, GUEST)
    ),
    services=(Service("vm", f"{VIP_VM}:80", "tcp", (f"{GUEST[1]}:{PORT}",)),),
)


@dataclass(slots=True)
class TwoNodeLab(Built):
    """Both nodes and their surroundings; a context manager. Without `guests` vm1 is not started.

    `socket_mem_mib` is what DPDK of each node takes at its start; more it takes when it needs it.
    """

    prefix: str
    progress: Callable[[str], None] = lambda _line: None
    guests: bool = True
    socket_mem_mib: int = 512
    client: Namespace = field(init=False)
    container: Namespace = field(init=False)
    nodes: tuple[LabNode, LabNode] = field(init=False)
    workload: Workload = field(init=False)
    guest: Workload = field(init=False)
    server: Server = field(init=False)

    def __post_init__(self) -> None:
        self.client = Namespace(f"{self.prefix}-client")
        self.container = Namespace(f"{self.prefix}-c1")
        first, second = (f"{self.prefix}-node{number}" for number in (1, 2))
        rundir = Path("/run/millrace") / first
        self.nodes = (
            LabNode(
                Namespace(first),
                NodeFile(
                    first,
                    (("up0", "br-ex", True), ("phy0", "br-phy", False)),
                    "10.0.0.1/24",
                    socket_mem_mib=self.socket_mem_mib,
                ),
                self.dir / "node1.toml",
                self.dir / "cluster.toml",
                self.progress,
            ),
            LabNode(
                Namespace(second),
                NodeFile(
                    second,
                    (("phy0", "br-phy", False),),
                    "10.0.0.2/24",
                    nb_rundir=rundir,
                    socket_mem_mib=self.socket_mem_mib,
                ),
                self.dir / "node2.toml",
                None,
                self.progress,
            ),
        )
        self.workload = Workload(
            "c1", f"{self.prefix}-c1", self.nodes[0].cni_socket, "veth", self.container
        )
        self.guest = Workload("vm1", f"{self.prefix}-vm1", self.nodes[1].cni_socket, "vhost-user")
        self.server = Server("c1", self.container, PORT, self.dir)

    @property
    def dir(self) -> Path:
        """Configuration files and logs of the lab itself."""
        return LABS_DIR / self.prefix

    @property
    def nb(self) -> str:
        """The one northbound database's remote."""
        return logical.socket_remote(self.nodes[0].rundir)

    @property
    def qemu(self) -> QemuGuest:
        """The guest on the second node."""
        name, address = GUEST
        return QemuGuest(
            name, self.guest.socket, self.guest.mac, f"{address}/24", "10.1.0.1", PORT, self.dir
        )

    def build(self) -> None:
        """Everything, from whatever a crashed run left."""
        self.remove()
        first, second = self.nodes
        for where in (first.namespace, second.namespace, self.client, self.container):
            where.create()
            where.quiet()
        netns.veth(
            self.client,
            "eth0",
            first.namespace,
            "up0",
            left_addresses=[f"{CLIENT_ADDRESS}/24"],
            right_addresses=[f"{NODE_ADDRESS}/24"],
        )
        netns.veth(first.namespace, "phy0", second.namespace, "phy0")
        for where, device in ((self.client, "eth0"), (first.namespace, "up0")):
            netns.finish_checksums(where, device)
        netns.receive_by_napi(self.client, "eth0")
        self.client.run("ip", "route", "add", "10.96.0.0/16", "via", NODE_ADDRESS)
        self.dir.mkdir(parents=True, exist_ok=True)
        for node in self.nodes:
            node.file.write(node.config_path)
        (self.dir / "cluster.toml").write_text(
            cluster_text(first.rundir, {first.name: f"{GATEWAY_ADDRESS}/24"}, ROUTER),
            encoding="utf-8",
        )
        first.up()
        logical.declare(self.nb, NETWORK)
        second.up()
        for node in self.nodes:
            node.let_pmd_sleep()
        first.wait_served([VIP_VM])
        self.workload.attach()
        self.server.start()
        if not self.guests:
            return
        self.guest.attach()
        self.qemu.start()
        self.progress(f"guest on {second.name} booted in {self.qemu.wait_ready():.1f} s")

    def remove(self) -> None:
        """Everything of this prefix, in whatever state it is."""
        marker = str(self.nodes[1].rundir / "vhost")
        processes.stop(processes.Daemon("vm1", self.dir / "vm1.pid", marker), grace_s=3)
        self.server.stop()
        for node in reversed(self.nodes):
            node.down()
        netns.sweep(self.prefix)
        shutil.rmtree(self.dir, ignore_errors=True)
        if LABS_DIR.is_dir() and not any(LABS_DIR.iterdir()):
            LABS_DIR.rmdir()
