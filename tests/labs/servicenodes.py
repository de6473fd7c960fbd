"""Two nodes that both serve, one segment with a client on it, containers in both families.

::

                    +--- up0 (AF_XDP)  <p>-node1  --- c1, c2
    <p>-client -- <p>-wire (bridge)       | Geneve
                    +--- up0 (AF_XDP)  <p>-node2  --- c3

The client reaches VIPs of the segment itself by ARP and ND, others (10.96.0.0/16, fd96::/64) by a
route to the first node. It has a second address, for what is decided by the client's address.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from cni.wire import RemoteError, WireError
from dataplane.drivers import processes
from tests.labs import logical, netns
from tests.labs.built import Built
from tests.labs.lab import LABS_DIR, PORT, ROUTER
from tests.labs.labnode import LabNode
from tests.labs.netns import Namespace
from tests.labs.nodefile import NodeFile, cluster_text
from tests.labs.workloads import POD_NAMESPACE, Server, Workload

CLIENT, CLIENT_TWO, CLIENT6, CLIENT6_TWO = "172.18.0.2", "172.18.0.3", "fd18::2", "fd18::3"
NODES = ("172.18.0.11", "172.18.0.12")
NODES6 = ("fd18::11", "fd18::12")
GATEWAYS = ("172.18.0.111", "172.18.0.112")
GATEWAYS6 = ("fd18::111", "fd18::112")
TUNNELS = ("10.0.0.1/24", "10.0.0.2/24")
ZONES = ("east", "west")
PODS = {"c1": (0, 11), "c2": (0, 12), "c3": (1, 13)}
"""By name: which node, and the last part of both addresses."""


def pod4(name: str) -> str:
    """A container's IPv4 address."""
    return f"10.1.0.{PODS[name][1]}"


def pod6(name: str) -> str:
    """A container's IPv6 address."""
    return f"fd01::{PODS[name][1]}"


def backends4(*names: str, port: int = PORT) -> str:
    """Backends as ovn-nbctl has them."""
    return ",".join(f"{pod4(name)}:{port}" for name in names)


def backends6(*names: str, port: int = PORT) -> str:
    """The same, IPv6."""
    return ",".join(f"[{pod6(name)}]:{port}" for name in names)


@dataclass(slots=True)
class ServiceLab(Built):
    """Both nodes and their surroundings; a context manager."""

    prefix: str
    progress: Callable[[str], None] = lambda _line: None
    client: Namespace = field(init=False)
    wire: Namespace = field(init=False)
    pods: dict[str, Namespace] = field(init=False)
    nodes: tuple[LabNode, LabNode] = field(init=False)
    workloads: dict[str, Workload] = field(init=False)
    servers: dict[str, Server] = field(init=False)

    def __post_init__(self) -> None:
        self.client = Namespace(f"{self.prefix}-client")
        self.wire = Namespace(f"{self.prefix}-wire")
        self.pods = {name: Namespace(f"{self.prefix}-{name}") for name in PODS}
        names = [f"{self.prefix}-node{number}" for number in (1, 2)]
        rundir = Path("/run/millrace") / names[0]
        first, second = (
            LabNode(
                Namespace(name),
                NodeFile(
                    name,
                    (("up0", "br-ex", True), ("phy0", "br-phy", False)),
                    TUNNELS[at],
                    nb_rundir=rundir if at else None,
                    services=f'zone = "{ZONES[at]}"\nannounce = true',
                ),
                self.dir / f"node{at + 1}.toml",
                None if at else self.dir / "cluster.toml",
                self.progress,
            )
            for at, name in enumerate(names)
        )
        self.nodes = (first, second)
        self.workloads = {
            name: Workload(
                name,
                f"{self.prefix}-{name}",
                self.nodes[PODS[name][0]].cni_socket,
                "veth",
                self.pods[name],
            )
            for name in PODS
        }
        self.servers = {
            name: Server(name, where, PORT, self.dir) for name, where in self.pods.items()
        }

    @property
    def dir(self) -> Path:
        """Configuration files and logs of the lab itself."""
        return LABS_DIR / self.prefix

    @property
    def nb(self) -> str:
        """The one northbound database's remote."""
        return logical.socket_remote(self.nodes[0].rundir)

    # -- life ----------------------------------------------------------------------------------

    def build(self) -> None:
        """Everything, from whatever a crashed run left."""
        self.remove()
        self._namespaces()
        self._files()
        self.nodes[0].up()
        self._declare()
        self.nodes[1].up()
        for node in self.nodes:
            node.let_pmd_sleep()
        for name in PODS:
            self._attach(name)
        self.progress("two nodes and three containers are up")

    def remove(self) -> None:
        """Everything of this prefix, in whatever state it is."""
        for server in self.servers.values():
            server.stop()
        for node in reversed(self.nodes):
            node.down()
        netns.sweep(self.prefix)
        shutil.rmtree(self.dir, ignore_errors=True)
        if LABS_DIR.is_dir() and not any(LABS_DIR.iterdir()):
            LABS_DIR.rmdir()

    def _namespaces(self) -> None:
        for where in (self.client, self.wire, *(n.namespace for n in self.nodes)):
            where.create()
            for scope in ("all", "default"):
                where.run("sysctl", "-q", "-w", f"net.ipv6.conf.{scope}.accept_dad=0")
        for where in self.pods.values():
            where.create()
            where.run("sysctl", "-q", "-w", "net.ipv6.conf.default.accept_dad=0")
        self.wire.run("ip", "link", "add", "br0", "type", "bridge", "mcast_snooping", "0")
        self.wire.run("ip", "link", "set", "br0", "up")
        ends = (
            (self.client, "eth0", "client", (CLIENT, CLIENT_TWO), (CLIENT6, CLIENT6_TWO)),
            *(
                (node.namespace, "up0", f"node{at + 1}", (NODES[at],), (NODES6[at],))
                for at, node in enumerate(self.nodes)
            ),
        )
        for where, device, port, four, six in ends:
            addresses = [*(f"{a}/24" for a in four), *(f"{a}/64" for a in six)]
            netns.veth(where, device, self.wire, port, left_addresses=addresses)
            self.wire.run("ip", "link", "set", port, "master", "br0")
            for here, name in ((where, device), (self.wire, port)):
                netns.finish_checksums(here, name)
            netns.receive_transmitted(self.wire, port)
            if where is not self.client:
                netns.receive_transmitted(self.wire, port)
        netns.veth(self.nodes[0].namespace, "phy0", self.nodes[1].namespace, "phy0")
        self.client.run("ip", "route", "add", "10.96.0.0/16", "via", NODES[0], "src", CLIENT)
        self.client.run("ip", "-6", "route", "add", "fd96::/64", "via", NODES6[0], "src", CLIENT6)

    def _files(self) -> None:
        self.dir.mkdir(parents=True, exist_ok=True)
        for node in self.nodes:
            node.file.write(node.config_path)
        names = [node.name for node in self.nodes]
        (self.dir / "cluster.toml").write_text(
            cluster_text(
                self.nodes[0].rundir,
                {name: f"{GATEWAYS[at]}/24" for at, name in enumerate(names)},
                ROUTER,
                {name: f"{GATEWAYS6[at]}/64" for at, name in enumerate(names)},
            ),
            encoding="utf-8",
        )

    def _declare(self) -> None:
        words = [
            "lr-add", ROUTER, "--", "ls-add", "sw0",
            "--", "lrp-add", ROUTER, f"{ROUTER}-sw0", "0a:58:0a:01:00:01",
            "10.1.0.1/24", "fd01::1/64",
            "--", "lsp-add", "sw0", f"sw0-{ROUTER}",
            "--", "lsp-set-type", f"sw0-{ROUTER}", "router",
            "--", "lsp-set-addresses", f"sw0-{ROUTER}", "router",
            "--", "lsp-set-options", f"sw0-{ROUTER}", f"router-port={ROUTER}-sw0",
        ]  # fmt: skip
        for name, (_, last) in PODS.items():
            port = f"{name}.{POD_NAMESPACE}"
            addresses = f"0a:58:0a:01:00:{last:02x} {pod4(name)} {pod6(name)}"
            words += ["--", "lsp-add", "sw0", port]
            words += ["--", "lsp-set-addresses", port, addresses]
        logical.nbctl(self.nb, *words)

    def _attach(self, name: str) -> None:
        self.workloads[name].attach()
        pod = self.pods[name]
        # The CNI plugin gives IPv4 addresses only, so far.
        pod.run("sysctl", "-q", "-w", "net.ipv6.conf.eth0.disable_ipv6=0")
        pod.run("ip", "-6", "address", "replace", f"{pod6(name)}/64", "dev", "eth0", "nodad")
        pod.run("ip", "-6", "route", "replace", "default", "via", "fd01::1", "dev", "eth0")
        self.servers[name].start()

    @contextmanager
    def processes_of_nodes(self, port: int) -> Iterator[None]:
        """A server in each node's own network, node1 and node2 by name, while the block runs."""
        found = [
            Server(f"node{at + 1}", node.namespace, port, self.dir)
            for at, node in enumerate(self.nodes)
        ]
        try:
            for server in found:
                server.start()
            yield
        finally:
            for server in found:
                server.stop()

    # -- services ------------------------------------------------------------------------------

    def declare(
        self,
        name: str,
        vips: Mapping[str, str],
        protocol: str = "tcp",
        options: Mapping[str, str] | None = None,
        **keys: str,
    ) -> None:
        """Write a load balancer row whole; `keys` are `millrace:` ids, `_` standing for `-`."""
        columns: dict[str, dict[str, str]] = {
            "vips": dict(vips),
            "external_ids": {"millrace:fast-path": "true"}
            | {f"millrace:{key.replace('_', '-')}": value for key, value in keys.items()},
            "options": dict(options or {}),
        }
        words = ["--if-exists", "destroy", "Load_Balancer", name] if self._has(name) else []
        words += ["--"] if words else []
        words += ["create", "Load_Balancer", f"name={name}", f"protocol={protocol}"]
        for column, values in columns.items():
            if values:
                pairs = ",".join(f"{json.dumps(k)}={json.dumps(v)}" for k, v in values.items())
                words.append(f"{column}={{{pairs}}}")
        logical.nbctl(self.nb, *words)

    @contextmanager
    def led_by_switches(self) -> Iterator[None]:
        """`east_west = "switch"` in the cluster's file while the block runs."""
        path = self.dir / "cluster.toml"
        before = path.read_text(encoding="utf-8")
        path.write_text(
            before.replace("[cluster]", '[cluster]\neast_west = "switch"', 1), encoding="utf-8"
        )
        try:
            self._reload_cluster(groups=1)
            yield
        finally:
            path.write_text(before, encoding="utf-8")
            self._reload_cluster(groups=0)

    def _reload_cluster(self, groups: int) -> None:
        pid = self.nodes[0].pid("central")
        assert pid is not None, "the cluster controller does not run"
        os.kill(pid, signal.SIGHUP)

        def has_groups() -> bool:
            column = ("--bare", "--columns=load_balancer_group", "list", "Logical_Switch", "sw0")
            return len(logical.nbctl(self.nb, *column).split()) == groups

        processes.wait_until(has_groups, f"sw0 has {groups} load balancer groups")
        logical.nbctl(self.nb, "--wait=hv", "sync")

    def withdraw(self, *names: str) -> None:
        """Remove load balancers."""
        for name in names:
            if self._has(name):
                logical.nbctl(self.nb, "destroy", "Load_Balancer", name)

    def _has(self, name: str) -> bool:
        found = logical.nbctl(self.nb, "--bare", "--columns=name", "find", "Load_Balancer",
                              f"name={name}")  # fmt: skip
        return bool(found.strip())

    def wait_settled(
        self, vips: Mapping[str, int], nodes: Sequence[int] = (0, 1), timeout_s: float = 60
    ) -> None:
        """Wait until these daemons serve each VIP ("address:port/protocol") with so many backends.

        The number is of the backends that the row names, whatever their state.
        """

        def settled() -> bool:
            try:
                return all(self._serves(self.nodes[at], vips) for at in nodes)
            except (WireError, RemoteError):
                return False

        processes.wait_until(settled, f"{dict(vips)} served on {nodes}", timeout_s=timeout_s)

    @staticmethod
    def _serves(node: LabNode, vips: Mapping[str, int]) -> bool:
        listed = {
            (f"{one['vip']}/{one['protocol']}", len(one["backends"]))
            for one in node.ask("services")["services"]
            if one["served_by"] == "xdp" and one["service_id"] is not None
        }
        return bool(node.ask("status")["converged"]) and vips.items() <= listed

    @contextmanager
    def serving(
        self,
        name: str,
        vips: Mapping[str, str],
        protocol: str = "tcp",
        options: Mapping[str, str] | None = None,
        nodes: Sequence[int] = (0, 1),
        **keys: str,
    ) -> Iterator[None]:
        """One load balancer row, served (by these nodes) while the block runs."""
        self.declare(name, vips, protocol, options, **keys)
        try:
            counts = {f"{vip}/{protocol}": len(b.split(",")) if b else 0 for vip, b in vips.items()}
            self.wait_settled(counts, nodes)
            yield
        finally:
            self.withdraw(name)
