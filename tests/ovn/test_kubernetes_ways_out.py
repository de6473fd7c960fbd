"""How Subnets of the default VPC leave the cluster: objects, two real chassis, real packets.

The objects have the fields of Kube-OVN's examples of gateways and of NAT policy rules, in words of
our own. Each chassis has its own wire, and what comes out there has left by that node's gateway.
"""

from __future__ import annotations

import struct
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address, ip_address
from pathlib import Path

import pytest

from controller.network.gateways import TEMPLATE, GatewayTemplate
from controller.network.settings import NetSettings
from dataplane.model.addr import mac_of_address
from dataplane.model.config import ClusterConfig
from tests.labs.centralrows import apply
from tests.labs.fleet import Chassis, beside, numbered, start_pair
from tests.labs.manifests import engine_of, gateways, stations
from tests.labs.nbrows import put
from tests.labs.ovnsandbox import OvnSandbox, wait_until
from tests.labs.packetlab import PacketLab, Station
from tests.labs.packets import Packet, arp_reply, ends_of, frame, neighbour_advertisement

SETTINGS = NetSettings(default_cidr="10.16.0.0/24", join_cidr="100.64.0.0/24")
OBJECTS = """
apiVersion: v1
kind: Node
metadata: {name: n1}
status: {addresses: [{type: InternalIP, address: 192.0.2.1}]}
---
apiVersion: v1
kind: Node
metadata: {name: n2, labels: {role: edge}}
status: {addresses: [{type: InternalIP, address: 192.0.2.2}]}
---
apiVersion: v1
kind: Namespace
metadata: {name: web}
---
apiVersion: kubeovn.io/v1
kind: Subnet
metadata: {name: own-node}
spec:
  protocol: IPv4
  cidrBlock: 10.66.0.0/24
  default: false
  excludeIps: [10.66.0.1]
  gateway: 10.66.0.1
  gatewayType: distributed
  natOutgoing: true
---
apiVersion: kubeovn.io/v1
kind: Subnet
metadata: {name: as-it-is}
spec: {cidrBlock: 10.67.0.0/24, gatewayType: distributed, natOutgoing: false}
---
apiVersion: kubeovn.io/v1
kind: Subnet
metadata: {name: one-node}
spec:
  protocol: IPv4
  cidrBlock: 10.68.0.0/24
  gatewayType: centralized
  gatewayNode: "n2:172.18.0.60, n1:172.18.0.61"
  natOutgoing: true
---
apiVersion: kubeovn.io/v1
kind: Subnet
metadata: {name: both-nodes}
spec:
  cidrBlock: 10.69.0.0/24
  gatewayType: centralized
  gatewayNode: n1,n2
  enableEcmp: true
  natOutgoing: true
---
apiVersion: kubeovn.io/v1
kind: Subnet
metadata: {name: by-label}
spec:
  cidrBlock: 10.70.0.0/24
  gatewayType: centralized
  gatewayNodeSelectors: [{matchLabels: {role: edge}}]
---
apiVersion: kubeovn.io/v1
kind: Subnet
metadata: {name: ruled}
spec:
  protocol: IPv4
  cidrBlock: "10.0.11.0/24,fd00:11::/64"
  natOutgoing: true
  natOutgoingPolicyRules:
    - {action: forward, match: {srcIPs: "10.0.11.4/30,10.0.11.254"}}
    - {action: nat, match: {srcIPs: 10.0.11.128/26, dstIPs: "203.0.113.9,203.0.113.10"}}
    - {action: forward, match: {srcIPs: 10.0.11.128/26, dstIPs: 203.0.113.0/24}}
    - {action: forward, match: {srcIPs: "fd00:11::5", dstIPs: "2001:db8:9::/48"}}
"""
POD = """
---
apiVersion: v1
kind: Pod
metadata:
  name: {name}
  namespace: web
  annotations:
    ovn.kubernetes.io/logical_switch: {subnet}
    ovn.kubernetes.io/ip_address: {address}
spec: {{nodeName: {node}}}
"""
PODS = {
    "near": ("own-node", "10.66.0.9", "n1"),
    "far": ("own-node", "10.66.0.10", "n2"),
    "plain": ("as-it-is", "10.67.0.9", "n1"),
    "led": ("one-node", "10.68.0.9", "n1"),
    "spread": ("both-nodes", "10.69.0.9", "n1"),
    "chosen": ("by-label", "10.70.0.9", "n1"),
    "exempt": ("ruled", "10.0.11.5,fd00:11::5", "n1"),
    "last": ("ruled", "10.0.11.254,fd00:11::254", "n2"),
    "partly": ("ruled", "10.0.11.130,fd00:11::130", "n1"),
    "others": ("ruled", "10.0.11.20,fd00:11::20", "n1"),
}
NEXT_HOP, NEXT_HOP_MAC = "172.18.0.1", "0a:00:00:00:99:01"
NEXT_HOP6 = "fd00:172::1"
WORLD, NEIGHBOUR, ELSEWHERE = "203.0.113.9", "203.0.113.77", "198.51.100.7"
WORLD6, ELSEWHERE6 = "2001:db8:9::9", "2001:db8:a::9"


@dataclass
class World:
    """Two chassis, their workloads, and what each gateway is called outside."""

    chassis: dict[str, Chassis]
    there: dict[str, Station]
    outside: dict[str, str]
    outside6: dict[str, str]
    cluster: ClusterConfig
    number: int = 0

    def next(self) -> int:
        self.number += 2
        return self.number

    def station(self, pod: str) -> tuple[Chassis, Station]:
        return self.chassis[PODS[pod][2]], self.there[f"{pod}.web"]

    def leaves(self, pod: str, target: str, sport: int = 3000) -> tuple[str, str]:
        """By which node a pod's packet leaves, and whom it comes from there; its answer returns."""
        home, one = self.station(pod)
        version = ip_address(target).version
        own = one.address(version)
        asked = Packet(self.next(), own, target, "TCP", sport, 443)
        home.from_pod(one, frame(one.mac, home.lab.router_macs[one.switch], asked))
        found: dict[str, bytes] = {}

        def out() -> bool:
            for name, chassis in self.chassis.items():
                for octets in numbered(chassis.wire, asked.number):
                    found[name] = octets
            return bool(found)

        wait_until(f"{pod}'s packet to {target} is on a wire", out, 20)
        ((node, octets),) = found.items()
        source, where = ends_of(octets)
        assert where == target
        # Of two that have one address and one port outside, one has another port.
        (seen,) = struct.unpack_from(">H", octets, 34 if version == 4 else 54)
        back = Packet(asked.number + 1, target, source, "TCP", 443, seen, answer=True)
        gateway = str(mac_of_address(IPv4Address(self.outside[node])))
        self.chassis[node].from_wire(frame(NEXT_HOP_MAC, gateway, back))
        pcap = home.to_pod(one)
        wait_until(f"the answer is at {pod}", lambda: bool(numbered(pcap, back.number)), 20)
        assert ends_of(numbered(pcap, back.number)[0]) == (target, own)
        return node, source


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    pods = "".join(
        POD.format(name=name, subnet=subnet, address=address, node=node)
        for name, (subnet, address, node) in PODS.items()
    )
    engine = engine_of(OBJECTS + pods, SETTINGS)
    with tempfile.TemporaryDirectory(prefix="mrv-out-") as directory:
        first = OvnSandbox(Path(directory))
        second = beside(first, "n2")
        try:
            first.start()
            start_pair(first, second)
            base = ClusterConfig(
                first.nb, first.sb, "100.65.0.0/24", "100.65.255.0/24", (),
                "fd00:65::/64", "fd00:66::/64",
            )  # fmt: skip
            template = GatewayTemplate(
                base, "phys", ("172.18.0.100-172.18.0.150", "fd00:172::100-fd00:172::150"),
                next_hops=(ip_address(NEXT_HOP), ip_address(NEXT_HOP6)),
            )  # fmt: skip
            engine.put(((TEMPLATE, "", template),))
            engine.update()
            assert engine.book.problems == {}
            cluster = engine.gateways()
            assert cluster is not None
            rows = dict(engine.book.rows)
            put(first, rows)
            apply(first, cluster)
            there = {name: one for name, one in stations(rows).items() if name.endswith(".web")}
            hosts, macs = gateways(rows)
            chassis = {}
            for name, box in (("n1", first), ("n2", second)):
                mine = tuple(one for key, one in there.items() if PODS[key[:-4]][2] == name)
                chassis[name] = Chassis(box, PacketLab(box, mine, macs, gateways=hosts))
                chassis[name].lab.attach()
            outside = {one.chassis: str(one.address.ip) for one in cluster.gateways}
            outside6 = {
                one.chassis: str(one.address6.ip) for one in cluster.gateways if one.address6
            }
            for name, one in chassis.items():
                mac = str(mac_of_address(IPv4Address(outside[name])))
                one.from_wire(arp_reply(NEXT_HOP_MAC, NEXT_HOP, mac, outside[name]))
                one.from_wire(neighbour_advertisement(NEXT_HOP_MAC, NEXT_HOP6, mac, outside6[name]))

            def learned() -> bool:
                listed = first.sbctl("--bare", "--columns=ip", "list", "MAC_Binding").split()
                return listed.count(NEXT_HOP) == 2 == listed.count(NEXT_HOP6)

            wait_until("both gateways know the provider's router", learned)
            settle(chassis)
            yield World(chassis, there, outside, outside6, cluster)
        finally:
            second.stop()
            first.stop()


def settle(chassis: dict[str, Chassis]) -> None:
    for one in chassis.values():
        one.lab.sync()


@pytest.mark.parametrize(("pod", "node"), [("near", "n1"), ("far", "n2")])
def test_a_pod_leaves_by_its_own_node_with_that_nodes_address(
    world: World, pod: str, node: str
) -> None:
    assert world.leaves(pod, WORLD) == (node, world.outside[node])


def test_without_translation_a_pod_is_seen_as_it_is(world: World) -> None:
    assert world.leaves("plain", WORLD) == ("n1", "10.67.0.9")


def test_a_centralized_subnet_leaves_by_its_node_wherever_the_pod_is(world: World) -> None:
    assert world.leaves("led", WORLD) == ("n2", "172.18.0.60")
    assert world.leaves("chosen", WORLD) == ("n2", "10.70.0.9")


def test_flows_of_a_subnet_with_several_gateways_are_spread_over_them(world: World) -> None:
    ways = [world.leaves("spread", WORLD, 20000 + at) for at in range(24)]
    assert set(ways) == set(world.outside.items())
    # By the packet's own ends, so that a connection keeps its way.
    for at in (0, 5, 17):
        assert world.leaves("spread", WORLD, 20000 + at) == ways[at]


@pytest.mark.parametrize(
    ("pod", "target", "translated"),
    [
        ("exempt", WORLD, False),
        ("exempt", ELSEWHERE, False),
        ("last", WORLD, False),
        ("partly", WORLD, True),
        ("partly", NEIGHBOUR, False),
        ("partly", ELSEWHERE, True),
        ("others", WORLD, True),
        ("exempt", WORLD6, False),
        ("exempt", ELSEWHERE6, True),
        ("others", WORLD6, True),
    ],
)
def test_rules_decide_who_is_translated_to_whom(
    world: World, pod: str, target: str, *, translated: bool
) -> None:
    node, four = PODS[pod][2], "." in target
    outside = world.outside if four else world.outside6
    own = PODS[pod][1].split(",")[0 if four else 1]
    assert world.leaves(pod, target) == (node, outside[node] if translated else own)


def test_who_loses_a_gateway_leaves_by_the_others(world: World) -> None:
    first = world.chassis["n1"].box
    apply(first, world.cluster, down=("n2",))
    settle(world.chassis)
    assert world.leaves("led", WORLD, 31000) == ("n1", "172.18.0.61")
    ways = {world.leaves("spread", WORLD, 31000 + at)[0] for at in range(8)}
    assert ways == {"n1"}
    apply(first, world.cluster)
    settle(world.chassis)
    assert world.leaves("led", WORLD, 32000) == ("n2", "172.18.0.60")


@pytest.mark.parametrize(
    ("source", "target", "version"),
    [("near", "far", 4), ("far", "near", 4), ("plain", "last", 4), ("last", "exempt", 6)],
)
def test_pods_of_two_nodes_reach_each_other_through_the_tunnel(
    world: World, source: str, target: str, version: int
) -> None:
    """Within a subnet and between two."""
    home, one = world.station(source)
    there, other = world.station(target)
    assert home is not there
    packet = Packet(world.next(), one.address(version), other.address(version), "UDP", 3000, 53)
    for chassis, sender, receiver, sent in (
        (home, one, other, packet),
        (there, other, one, packet.back(packet.number + 1)),
    ):
        near = sender.switch == receiver.switch
        towards = receiver.mac if near else chassis.lab.router_macs[sender.switch]
        chassis.from_pod(sender, frame(sender.mac, towards, sent))
        came = (there if chassis is home else home).to_pod(receiver)
        wait_until(
            f"it is at {receiver.port}",
            lambda came=came, sent=sent: bool(numbered(came, sent.number)),
            20,
        )


def test_northd_and_the_chassis_have_nothing_to_say(world: World) -> None:
    first = world.chassis["n1"].box
    assert [line for line in first.warnings() if "Unknown chassis" not in line] == []
    for one in world.chassis.values():
        assert [line for line in one.box.warnings("controller") if "syntax" in line] == []
