"""Nodes of one OVN as they are with users, but for DPDK: each in a network namespace of its own,
with ovs-vswitchd (userspace datapath, kernel devices) and ovn-controller, Geneve between them.

::

    <p>-out (hosts on VLANs) --- <p>-wire (a switch) --- up0 <p>-NODE tun0 --- <p>-under (a bridge)
    <p>-POD (a container's namespace) --- a veth on its node's br-int

A third node lets a gateway tell the others' end from its own: ovn-controller takes nothing over
while no tunnel of its own is alive.

Containers have the addresses, routes and MACs that the controller's rows and annotations say.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from dataplane.drivers import processes
from tests.labs import image, netns
from tests.labs.netns import Namespace
from tests.labs.ovnsandbox import OvnSandbox, run, wait_until

SCHEMA = "/usr/share/openvswitch/vswitch.ovsschema"
MTU = "1400"


@dataclass
class Box(OvnSandbox):
    """An OVS in a namespace; with `central` the databases of OVN are that sandbox's."""

    namespace: Namespace | None = None
    central: OvnSandbox | None = None

    @property
    def sb(self) -> str:
        """The southbound database that its ovn-controller reads."""
        return self.central.sb if self.central else super().sb

    def _daemon(self, name: str, *command: str) -> None:
        inside = () if self.namespace is None else ("nsenter", f"--net={self.namespace.path}")
        super()._daemon(name, *inside, *command)

    def start_switch(self, **external_ids: str) -> None:
        """Start ovsdb-server and ovs-vswitchd with kernel devices on the userspace datapath."""
        here = self.directory
        run("ovsdb-tool", "create", str(here / "conf.db"), SCHEMA)
        self._daemon("ovsdb", "ovsdb-server", str(here / "conf.db"),
                     f"--remote=punix:{here}/db.sock")  # fmt: skip
        self.vsctl("--no-wait", "init")
        for key, value in external_ids.items():
            told = f"external_ids:{key.replace('_', '-')}={value}"
            self.vsctl("--no-wait", "set", "Open_vSwitch", ".", told)
        self.start_vswitchd()

    def start_vswitchd(self) -> None:
        """Start ovs-vswitchd, for the first time or again."""
        self._daemon("vswitchd", "ovs-vswitchd", f"unix:{self.directory}/db.sock",
                     "--disable-system")  # fmt: skip

    def start_controller(self) -> None:
        """Start ovn-controller."""
        self._daemon("controller", "ovn-controller", f"unix:{self.directory}/db.sock")

    def bridge(self, name: str, *ports: str) -> None:
        """Make a bridge of the userspace datapath with these devices."""
        words = ["add-br", name, "--", "set", "Bridge", name, "datapath_type=netdev"]
        for port in ports:
            words += ["--", "add-port", name, port]
        self.vsctl(*words)


@dataclass
class WiredNodes:
    """Nodes, a wire between and outside, and what is attached.

    `central`: the databases and northd, running. `physnet`: the provider network's name.
    """

    prefix: str
    central: OvnSandbox
    physnet: str = "external"
    names: tuple[str, ...] = ("n1", "n2", "n3")
    nodes: dict[str, Box] = field(default_factory=dict)
    places: dict[str, Namespace] = field(default_factory=dict)
    wire: Box | None = None

    def place(self, name: str) -> Namespace:
        """A new namespace."""
        made = Namespace(f"{self.prefix}-{name}").create()
        made.quiet()
        self.places[name] = made
        return made

    def start(self) -> None:
        """Start everything but ovn-controllers' knowledge: that comes by itself."""
        netns.sweep(self.prefix)
        wire = self.place("wire")
        self.place("out")
        under = self.place("under")
        under.run("ip", "link", "add", "br0", "up", "type", "bridge")
        ports = []
        for at, name in enumerate(self.names, 1):
            where = self.place(name)
            ports.append(f"w{at}")
            netns.veth(where, "up0", wire, f"w{at}")
            netns.veth(where, "tun0", under, f"u{at}")
            under.run("ip", "link", "set", f"u{at}", "master", "br0")
            self._switch_off(where, "tun0", "up0")
            self._switch_off(wire, f"w{at}")
            self._node(name, where, f"192.0.2.{at}")
        self.wire = Box(self._directory("wire"), namespace=wire)
        self.wire.start_switch()
        self.wire.bridge("br-wire", *ports)

    def _directory(self, name: str) -> Path:
        made = self.central.directory / name
        made.mkdir()
        return made

    @staticmethod
    def _switch_off(where: Namespace, *devices: str) -> None:
        for device in devices:
            netns.finish_checksums(where, device)
            where.run("ethtool", "-K", device, "gro", "off", "gso", "off", "tso", "off")

    def _node(self, name: str, where: Namespace, address: str) -> None:
        box = Box(self._directory(name), namespace=where, central=self.central)
        self.nodes[name] = box
        box.start_switch(
            system_id=name,
            hostname=name,
            ovn_remote=self.central.sb,
            ovn_encap_type="geneve",
            ovn_encap_ip=address,
            ovn_bridge_mappings=f"{self.physnet}:br-ex",
            ovn_bridge_datapath_type="netdev",
        )
        box.bridge("br-tun", "tun0")
        box.bridge("br-ex", "up0")
        # The userspace tunnel's way is looked up as the kernel's routes have it.
        where.run("ip", "address", "add", f"{address}/24", "dev", "br-tun")
        where.run("ip", "link", "set", "br-tun", "up")
        box.start_controller()

        def known() -> bool:
            listed = self.central.sbctl("--bare", "--columns=name", "list", "Chassis")
            return name in listed.split() and "br-int" in box.vsctl("list-br")

        wait_until(f"chassis {name} is known", known)

    def outside(self, device: str, address: str, tag: int = 0) -> Namespace:
        """A host on the wire: frames with this tag, or without one, are its own."""
        out = self.places["out"]
        assert self.wire is not None
        netns.veth(out, device, self.places["wire"], device, left_addresses=[address])
        self._switch_off(out, device)
        self._switch_off(self.places["wire"], device)
        access = (f"tag={tag}",) if tag else ()
        self.wire.vsctl("add-port", "br-wire", device, *access)
        return out

    def attach(self, node: str, port: str, mac: str, address: str, gateway: str) -> Namespace:
        """A container on a node: what a CNI plugin does."""
        name = f"p{len(self.places)}"
        where = self.place(name)
        self.places[port] = self.places.pop(name)
        there = self.places[node]
        netns.veth(where, "eth0", there, name)
        where.run("ip", "link", "set", "eth0", "address", mac, "mtu", MTU)
        where.run("ip", "address", "add", address, "dev", "eth0")
        self._switch_off(where, "eth0")
        self._switch_off(there, name)
        if gateway:
            where.run("ip", "route", "add", "default", "via", gateway)
        self.nodes[node].vsctl("add-port", "br-int", name, "--", "set", "Interface", name,
                               f"external_ids:iface-id={port}")  # fmt: skip
        wait_until(f"{port} is up", lambda: "up" in self.central.nbctl("lsp-get-up", port))
        return where

    def serve(self, port: str, number: int = 80) -> None:
        """Have a server answer in a container: who it is, and whom it sees."""
        where = self.places[port]
        name = port.partition(".")[0]
        processes.spawn(
            [str(image.answerd()), name, str(number)],
            log=self.central.directory / f"{port}-{number}.log",
            pidfile=self.central.directory / f"{port}-{number}.pid",
            netns=where.name,
        )

    def sync(self) -> None:
        """Wait until every chassis that lives forwards by what the database holds."""
        self.central.nbctl("--timeout=60", "--wait=hv", "sync")

    def crash(self, node: str) -> None:
        """Kill a node's switch and its ovn-controller, as if it had lost its power."""
        for name in ("controller", "vswitchd"):
            self.nodes[node].kill(name, signal.SIGKILL)

    def stop(self) -> None:
        """End everything."""
        for box in (*self.nodes.values(), *([self.wire] if self.wire else [])):
            box.stop()
        netns.sweep(self.prefix)


@contextmanager
def wired(
    prefix: str, central: OvnSandbox, physnet: str, names: tuple[str, ...] = ("n1", "n2", "n3")
) -> Iterator[WiredNodes]:
    """Nodes that run until the block ends."""
    made = WiredNodes(prefix, central, physnet, names)
    try:
        made.start()
        yield made
    finally:
        made.stop()


def addresses(annotations: Mapping[str, str]) -> tuple[str, str, str]:
    """A pod's MAC, address with its length, and gateway, as its annotations say (IPv4)."""
    domain = "ovn.kubernetes.io"
    length = annotations[f"{domain}/cidr"].partition(",")[0].partition("/")[2]
    address = annotations[f"{domain}/ip_address"].partition(",")[0]
    gateway = annotations[f"{domain}/gateway"].partition(",")[0]
    return annotations[f"{domain}/mac_address"], f"{address}/{length}", gateway
