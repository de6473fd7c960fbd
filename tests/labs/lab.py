"""The lab: an embedded node in a namespace, a client outside, containers and guests on it.

::

    <p>-client eth0 --- up0 (AF_XDP, br-ex)  <p>-node1  br-int --- veth --- <p>-c1, -c2, -c3
                                                            `--- vhost-user --- vm1 (QEMU), vm2
    <p>-wire   eth0 --- phy0 (AF_XDP, br-phy)    Geneve endpoint 10.0.0.1 on br-phy

Everything carries the prefix, so that a test's lab and the demonstration's do not meet, and what
a crashed run left is found and removed before the next one begins.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from ipaddress import IPv4Interface
from pathlib import Path

from dataplane.drivers import processes
from tests.labs import logical, netns
from tests.labs.built import Built
from tests.labs.guests import QemuGuest, TestpmdGuest, sweep_eal
from tests.labs.labnode import LabNode
from tests.labs.logical import Network, Service, Switch
from tests.labs.netns import Namespace
from tests.labs.nodefile import NodeFile, cluster_text
from tests.labs.workloads import POD_NAMESPACE, Server, Workload

CLIENT_ADDRESS = "172.18.0.2"
NODE_ADDRESS = "172.18.0.11"
GATEWAY_ADDRESS = "172.18.0.111"
TUNNEL_ADDRESS = "10.0.0.1"
WIRE_ADDRESS = "10.0.0.9"
PORT = 8080
CONTAINERS = {"c1": "10.1.0.11", "c2": "10.1.0.12", "c3": "10.2.0.13"}
QEMU = ("vm1", "10.1.0.20")
TESTPMD = ("vm2", "10.1.0.30")
ROUTER = "vpc0"
VIP_VM, VIP_WEB, VIP_UDP, VIP_LOCAL = "10.96.0.10", "10.96.0.11", "10.96.0.12", "10.96.0.13"
VIP_FOREIGN = "10.97.0.10"
FAST_VIPS = (VIP_VM, VIP_WEB, VIP_UDP, VIP_LOCAL)
LABS_DIR = Path("/run/millrace-labs")
_WEB = tuple(f"{CONTAINERS[name]}:{PORT}" for name in ("c1", "c2"))

NETWORK = Network(
    router=ROUTER,
    switches=(
        Switch("sw0", IPv4Interface("10.1.0.1/24")),
        Switch("sw1", IPv4Interface("10.2.0.1/24")),
    ),
    workloads=tuple(
        logical.PodPort(
            f"{name}.{POD_NAMESPACE}",
            "sw1" if address.startswith("10.2.") else "sw0",
            IPv4Interface(f"{address}/24"),
        )
        for name, address in (*CONTAINERS.items(), QEMU, TESTPMD)
    ),
    services=(
        Service("vm", f"{VIP_VM}:80", "tcp", (f"{QEMU[1]}:{PORT}",)),
        Service("web", f"{VIP_WEB}:80", "tcp", _WEB),
        Service("udp", f"{VIP_UDP}:53", "udp", _WEB),
        Service("local", f"{VIP_LOCAL}:80", "tcp", _WEB, policy="local"),
        # On a switch of its own: it costs conntrack on every packet there.
        Service("foreign", f"{VIP_FOREIGN}:80", "tcp", _WEB, attached="sw1"),
    ),
)


@dataclass(slots=True)
class Lab(Built):
    """One node and its surroundings; a context manager, or `build` and `remove`."""

    prefix: str
    progress: Callable[[str], None] = lambda _line: None
    guests: bool = True
    mode: str = "af_xdp"
    underlay_mtu: int | None = None
    client: Namespace = field(init=False)
    namespace: Namespace = field(init=False)
    node: LabNode = field(init=False)
    wire: Namespace = field(init=False)
    containers: dict[str, Namespace] = field(init=False)
    workloads: dict[str, Workload] = field(init=False)
    servers: dict[str, Server] = field(init=False)

    def __post_init__(self) -> None:
        self.client = Namespace(f"{self.prefix}-client")
        self.namespace = Namespace(f"{self.prefix}-node1")
        self.node = LabNode(
            namespace=self.namespace,
            file=NodeFile(
                name=f"{self.prefix}-node1",
                uplinks=(("up0", "br-ex", True), ("phy0", "br-phy", False)),
                tunnel=f"{TUNNEL_ADDRESS}/24",
                mode=self.mode,
                mtu=self.underlay_mtu,
            ),
            config_path=self.dir / "node.toml",
            cluster_path=self.dir / "cluster.toml",
            progress=self.progress,
        )
        self.wire = Namespace(f"{self.prefix}-wire")
        self.containers = {name: Namespace(f"{self.prefix}-{name}") for name in CONTAINERS}
        self.servers = {
            name: Server(name, where, PORT, self.dir) for name, where in self.containers.items()
        }
        self.servers["node"] = Server("node", self.namespace, PORT, self.dir)
        self.workloads = {
            name: Workload(name, f"{self.prefix}-{name}", self.node.cni_socket, "veth", where)
            for name, where in self.containers.items()
        }
        for name in (QEMU[0], TESTPMD[0]) if self.guests else ():
            self.workloads[name] = Workload(
                name, f"{self.prefix}-{name}", self.node.cni_socket, "vhost-user"
            )

    # -- where things are ----------------------------------------------------------------------

    @property
    def dir(self) -> Path:
        """Configuration files and logs of the lab itself."""
        return LABS_DIR / self.prefix

    @property
    def nb(self) -> str:
        """The northbound database's remote."""
        return logical.socket_remote(self.node.rundir)

    @property
    def qemu(self) -> QemuGuest:
        """The real guest."""
        work = self.workloads[QEMU[0]]
        return QemuGuest(
            QEMU[0], work.socket, work.mac, f"{QEMU[1]}/24", "10.1.0.1", PORT, self.dir
        )

    @property
    def testpmd(self) -> TestpmdGuest:
        """The guest that is testpmd."""
        work = self.workloads[TESTPMD[0]]
        return TestpmdGuest(TESTPMD[0], work.socket, work.mac, self.dir)

    # -- life ----------------------------------------------------------------------------------

    def build(self) -> None:
        """Everything, from whatever a crashed run left."""
        self.prepare()
        self.start()

    def prepare(self) -> None:
        """The namespaces and files, in which nothing of Millrace runs yet."""
        self.remove()
        self._namespaces()
        self._files()

    def start(self) -> None:
        """The node, its network in OVN, and every workload on it."""
        self.node.up()
        logical.declare(self.nb, NETWORK)
        self.progress("OVN: switches sw0 sw1, router vpc0, five load balancers declared")
        self.node.let_pmd_sleep()
        took = self.node.wait_served(FAST_VIPS)
        self.progress(f"the daemon serves {len(FAST_VIPS)} VIPs by XDP ({took:.1f} s)")
        self.attach_all()

    def remove(self) -> None:
        """Everything of this prefix, in whatever state it is."""
        for name in (QEMU[0], TESTPMD[0]):
            marker = str(self.node.rundir / "vhost")
            processes.stop(processes.Daemon(name, self.dir / f"{name}.pid", marker), grace_s=3)
        sweep_eal(self.dir, TESTPMD[0])
        for server in self.servers.values():
            server.stop()
        self.node.down()
        netns.sweep(self.prefix)
        shutil.rmtree(self.dir, ignore_errors=True)
        if LABS_DIR.is_dir() and not any(LABS_DIR.iterdir()):
            LABS_DIR.rmdir()

    def attach_all(self) -> None:
        """Every workload through the CNI plugin, then its server or machine."""
        for name, work in self.workloads.items():
            began = time.monotonic()
            work.attach()
            self.progress(f"CNI ADD {name}: {(time.monotonic() - began) * 1000:.0f} ms")
            if name in self.containers:
                self.servers[name].start()
        self.servers["node"].start()
        if self.guests:
            self.testpmd.start()
            self.qemu.start()
            self.testpmd.wait_ready()
            self.progress(f"guest {TESTPMD[0]} (testpmd) listens")
            self.progress(f"guest {QEMU[0]} (QEMU) booted in {self.qemu.wait_ready():.1f} s")

    # -- parts ---------------------------------------------------------------------------------

    def _namespaces(self) -> None:
        for where in (self.namespace, self.client, self.wire, *self.containers.values()):
            where.create()
            where.quiet()
        netns.veth(
            self.client,
            "eth0",
            self.namespace,
            "up0",
            left_addresses=[f"{CLIENT_ADDRESS}/24"],
            right_addresses=[f"{NODE_ADDRESS}/24"],
        )
        netns.veth(self.wire, "eth0", self.namespace, "phy0", left_addresses=[f"{WIRE_ADDRESS}/24"])
        if self.underlay_mtu is not None:
            self.wire.run("ip", "link", "set", "eth0", "mtu", str(self.underlay_mtu))
        for where, device in ((self.client, "eth0"), (self.namespace, "up0"), (self.wire, "eth0")):
            netns.finish_checksums(where, device)
        # Redirected frames reach the client only with GRO (or a program) at its end.
        netns.receive_by_napi(self.client, "eth0")
        # One packet counted is one packet sent.
        self.client.run("ethtool", "-K", "eth0", "gso", "off")
        for network in ("10.96.0.0/16", "10.97.0.0/16"):
            self.client.run("ip", "route", "add", network, "via", NODE_ADDRESS)
        for network in ("10.1.0.0/24", "10.2.0.0/24"):
            self.client.run("ip", "route", "add", network, "via", GATEWAY_ADDRESS)
        self.progress(f"namespaces {self.prefix}-* made")

    def _files(self) -> None:
        self.dir.mkdir(parents=True, exist_ok=True)
        self.node.file.write(self.dir / "node.toml")
        (self.dir / "cluster.toml").write_text(
            cluster_text(self.node.rundir, {self.node.name: f"{GATEWAY_ADDRESS}/24"}, ROUTER),
            encoding="utf-8",
        )
