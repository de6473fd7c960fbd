"""The lab's node below networks that Millrace did not make: Neutron's, and one made by hand.

The cluster controller runs beside, without gateways: all that it makes is the containers' trunk,
on which nobody else's ports may be put.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from ipaddress import IPv4Interface
from pathlib import Path
from typing import Any

from dataplane.drivers import processes
from tests.labs import logical, neutron
from tests.labs.guests import TestpmdGuest, sweep_eal
from tests.labs.lab import CLIENT_ADDRESS, GATEWAY_ADDRESS, PORT, Lab
from tests.labs.netns import Namespace
from tests.labs.neutron import Cloud, NeutronPort
from tests.labs.nodefile import cluster_text
from tests.labs.workloads import POD_NAMESPACE, CniRefused, Server, Workload

FLOATING = "172.18.0.150"
GUEST = "vm"
BY_HAND = "Büro 3"
HAND_SUBNET = "192.168.77.0/24"
LAMP = "Lampe am Fenster"
BY_NAME = "external_ids:neutron:port_name={pod}.{namespace}"
PORTS = {
    "web": NeutronPort(f"web.{POD_NAMESPACE}", "192.168.10.11", "default"),
    "app": NeutronPort("what the user called it", "192.168.10.12", "default"),
    "db": NeutronPort(f"db.{POD_NAMESPACE}", "192.168.10.13", "closed"),
    GUEST: NeutronPort(f"{GUEST}.{POD_NAMESPACE}", "192.168.10.20", "default"),
}
NETWORKS: dict[str, dict[str, object]] = {
    "web": {"iface_id": BY_NAME},
    "app": {"iface_id": "{args.port}", "args": {"cni": {"port": PORTS["app"].name}}},
    "db": {"iface_id": PORTS["db"].name},
    # By the node's own template.
    "desk": {},
    "lamp": {"iface_id": "{args.cni-port}", "args": {"cni": {"cni-port": LAMP}}},
    # Last: vswitchd takes no other port while it makes a guest's memory its own.
    GUEST: {"iface_id": BY_NAME},
}
"""What the network configuration of each workload has more, in the order of attaching."""


@dataclass(slots=True)
class ForeignLab(Lab):
    """A lab without a network, gateway or service of ours; a testpmd guest and five containers.

    `before` are the rows of others as they were before anything was attached.
    """

    guests: bool = False
    cloud: Cloud = field(init=False)
    before: dict[str, list[str]] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        # Not super(): a dataclass with slots is another class than the one that was written.
        Lab.__post_init__(self)
        self.node = replace(
            self.node, file=replace(self.node.file, ovn='iface_id = "{namespace}_{pod}"')
        )
        self.containers = {
            name: Namespace(f"{self.prefix}-{name}") for name in NETWORKS if name != GUEST
        }
        self.servers = {
            name: Server(name, where, PORT, self.dir) for name, where in self.containers.items()
        }
        self.workloads = {
            name: Workload(
                name,
                f"{self.prefix}-{name}",
                self.node.cni_socket,
                "vhost-user" if name == GUEST else "veth",
                self.containers.get(name),
            )
            for name in NETWORKS
        }
        self.cloud = Cloud(
            host=self.node.name,
            inside=IPv4Interface("192.168.10.1/24"),
            outside=IPv4Interface(f"{GATEWAY_ADDRESS}/24"),
            next_hop=CLIENT_ADDRESS,
            physnet="physnet1",
            ports=tuple(PORTS.values()),
            floating={PORTS["web"].called: FLOATING},
        )

    @property
    def guest(self) -> TestpmdGuest:
        """The machine."""
        work = self.workloads[GUEST]
        return TestpmdGuest(GUEST, work.socket, work.mac, self.dir)

    def start(self) -> None:
        """The node, and the rows that others write; nothing is attached."""
        self.node.up()
        self.cloud.declare(self.nb)
        hand = [LAMP, f"{POD_NAMESPACE}_desk"]
        neutron.by_hand(self.nb, BY_HAND, HAND_SUBNET, hand)
        self.node.let_pmd_sleep()
        # Not for chassis: one that registers meanwhile may leave that unanswered.
        logical.nbctl(self.nb, "--wait=sb", "sync")
        processes.wait_until(
            lambda: self.node.ask("status")["containers"]["now"] == "trunk", "the trunk is there"
        )

    def attach(self, name: str) -> dict[str, Any]:
        """CNI ADD of one workload, and what runs in it; the result."""
        work = self.workloads[name]
        done = work.call("ADD", **NETWORKS[name])
        if done.code != 0:
            msg = f"ADD of {name}: {done.answer} {done.stderr}"
            raise CniRefused(msg)
        work.result = done.answer
        if name in self.servers:
            self.servers[name].start()
        else:
            self.guest.start()
            self.guest.wait_ready()
        return done.answer

    def remove(self) -> None:
        """Everything of this prefix, in whatever state it is."""
        marker = str(self.node.rundir / "vhost")
        guest = processes.Daemon(GUEST, self.dir / f"{GUEST}.pid", marker)
        processes.stop(guest, grace_s=3)
        sweep_eal(self.dir, GUEST)
        Lab.remove(self)

    def _files(self) -> None:
        self.dir.mkdir(parents=True, exist_ok=True)
        self.node.file.write(self.dir / "node.toml")
        text = cluster_text(self.node.rundir, {}, "")
        (self.dir / "cluster.toml").write_text(text, encoding="utf-8")

    def dhcp(self, name: str) -> dict[str, str]:
        """What OVN's DHCP tells a container that asks; nothing is set."""
        script: Path = self.dir / "told.sh"
        script.write_text('#!/bin/sh\n[ "$1" = bound ] && env\nexit 0\n', encoding="utf-8")
        script.chmod(0o755)
        said = self.containers[name].run(
            "busybox", "udhcpc", "-f", "-n", "-q", "-i", "eth0", "-t", "5", "-s", str(script),
            "-O", "mtu", "-O", "staticroutes", timeout_s=60,
        )  # fmt: skip
        pairs = (line.partition("=") for line in said.splitlines())
        return {key: value for key, _, value in pairs}
