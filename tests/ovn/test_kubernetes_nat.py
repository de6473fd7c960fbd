"""EIPs, FIPs, SNAT, DNAT and SwitchLBRules as users of Kube-OVN write them, and real packets.

The objects have the fields of the examples in Kube-OVN's documentation, in words of our own.
Outside is a port of the provider's bridge: what comes out there is on the wire, with its tag.
"""

from __future__ import annotations

import struct
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path

import pytest

from controller.network.settings import NetSettings
from tests.labs.manifests import engine_of, gateways, stations
from tests.labs.nbrows import put
from tests.labs.ovnsandbox import OvnSandbox, wait_until
from tests.labs.packetlab import PacketLab, Station
from tests.labs.packets import Packet, arp_request, frame, frames, number_of

SETTINGS = NetSettings(external_subnet="external204", join_cidr="100.64.0.0/24")
OBJECTS = """
apiVersion: v1
kind: Node
metadata: {name: n1, labels: {ovn.kubernetes.io/external-gw: "true"}}
status: {addresses: [{type: InternalIP, address: 192.0.2.1}]}
---
apiVersion: v1
kind: Namespace
metadata: {name: vpc1}
---
apiVersion: kubeovn.io/v1
kind: ProviderNetwork
metadata: {name: phys}
spec: {defaultInterface: eth1}
---
apiVersion: kubeovn.io/v1
kind: Vlan
metadata: {name: vlan204}
spec: {id: 204, provider: phys}
---
apiVersion: kubeovn.io/v1
kind: Subnet
metadata: {name: external204}
spec:
  protocol: IPv4
  cidrBlock: 10.5.204.0/24
  gateway: 10.5.204.254
  vlan: vlan204
  excludeIps: [10.5.204.1..10.5.204.100]
---
apiVersion: kubeovn.io/v1
kind: Vpc
metadata: {name: vpc1}
spec:
  namespaces: [vpc1]
  enableExternal: true
  staticRoutes: [{cidr: 0.0.0.0/0, nextHopIP: 10.5.204.254, policy: policyDst}]
---
apiVersion: kubeovn.io/v1
kind: Subnet
metadata: {name: vpc1-subnet1}
spec: {vpc: vpc1, cidrBlock: 192.168.0.0/24, protocol: IPv4, namespaces: [vpc1], provider: ovn}
---
apiVersion: v1
kind: Pod
metadata: {name: one, namespace: vpc1}
---
apiVersion: v1
kind: Pod
metadata: {name: two, namespace: vpc1, labels: {app: nginx}}
status: {conditions: [{type: Ready, status: "True"}]}
---
apiVersion: v1
kind: Pod
metadata: {name: three, namespace: vpc1}
---
apiVersion: kubeovn.io/v1
kind: OvnEip
metadata: {name: eip-fip}
spec: {externalSubnet: external204, type: nat, v4Ip: 10.5.204.101}
---
apiVersion: kubeovn.io/v1
kind: OvnFip
metadata: {name: eip-fip}
spec: {ovnEip: eip-fip, ipName: one.vpc1, type: centralized}
---
apiVersion: kubeovn.io/v1
kind: OvnEip
metadata: {name: eip-local}
spec: {externalSubnet: external204, type: nat, v4Ip: 10.5.204.102}
---
apiVersion: kubeovn.io/v1
kind: OvnFip
metadata: {name: eip-local}
spec: {ovnEip: eip-local, ipName: three.vpc1, type: distributed}
---
apiVersion: kubeovn.io/v1
kind: OvnEip
metadata: {name: snat-for-subnet}
spec: {externalSubnet: external204, type: nat, v4Ip: 10.5.204.103}
---
apiVersion: kubeovn.io/v1
kind: OvnSnatRule
metadata: {name: snat-for-subnet}
spec: {ovnEip: snat-for-subnet, vpcSubnet: vpc1-subnet1}
---
apiVersion: kubeovn.io/v1
kind: OvnEip
metadata: {name: eip-dnat}
spec: {externalSubnet: external204, type: nat, v4Ip: 10.5.204.104}
---
apiVersion: kubeovn.io/v1
kind: OvnDnatRule
metadata: {name: eip-dnat}
spec: {ovnEip: eip-dnat, ipName: two.vpc1, protocol: tcp, internalPort: "22", externalPort: "2222"}
---
apiVersion: kubeovn.io/v1
kind: SwitchLBRule
metadata: {name: nginx}
spec:
  vip: 1.1.1.1
  sessionAffinity: ClientIP
  namespace: vpc1
  selector: ["app:nginx"]
  ports: [{name: dns, port: 8888, targetPort: 80, protocol: TCP}]
"""
OUTSIDE, ROUTER_OUTSIDE, MAC_OUTSIDE = "203.0.113.9", "10.5.204.254", "0a:00:00:00:99:01"
TAG = b"\x81\x00\x00\xcc"
WIRE = "wire"


@dataclass(frozen=True)
class Seen:
    """A frame as it came out: addresses and ports, and the MACs."""

    source: str
    target: str
    sport: int
    dport: int
    smac: str
    dmac: str
    tagged: bool


def seen(octets: bytes) -> Seen:
    tagged = octets[12:14] == TAG[:2]
    assert not tagged or octets[12:16] == TAG
    packet = octets[18 if tagged else 14 :]
    sport, dport = struct.unpack_from(">HH", packet, 20)
    source, target = (str(ip_address(packet[at : at + 4])) for at in (12, 16))
    return Seen(source, target, sport, dport, octets[6:12].hex(":"), octets[:6].hex(":"), tagged)


@dataclass
class World:
    """The network, its stations, and the wire."""

    box: OvnSandbox
    lab: PacketLab
    there: dict[str, Station]
    router: str
    router_mac: str
    number: int = 0

    def sent(self, port: str, packet: Packet, mac: str = "") -> None:
        """Give a packet to a pod's device as the pod sends it, or to the wire."""
        if port == WIRE:
            octets = frame(MAC_OUTSIDE, mac or self.router_mac, packet)
            self.on_wire(octets)
            return
        one = self.there[port]
        octets = frame(one.mac, mac or self.lab.router_macs[one.switch], packet)
        self.box.appctl("netdev-dummy/receive", self.device(port), octets.hex())

    def on_wire(self, octets: bytes) -> None:
        tagged = octets[:12] + TAG + octets[12:]
        self.box.appctl("netdev-dummy/receive", WIRE, tagged.hex())

    def device(self, port: str) -> str:
        return f"p{self.lab.stations.index(self.there[port])}"

    def arrived(self, port: str, number: int) -> Seen:
        """The packet of this number, once it has come out there."""
        name = WIRE if port == WIRE else self.device(port)
        path = self.box.directory / f"{name}.pcap"
        found: list[bytes] = []

        def there() -> bool:
            found[:] = [one for one in frames(path) if number_of(one) == number]
            return bool(found)

        wait_until(f"packet {number} comes out of {port}", there, 20)
        return seen(found[0])

    def next(self) -> int:
        self.number += 1
        return self.number


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    engine = engine_of(OBJECTS, SETTINGS)
    assert engine.book.problems == {}
    rows = dict(engine.book.rows)
    with tempfile.TemporaryDirectory(prefix="mrv-nat-") as directory:
        box = OvnSandbox(Path(directory))
        try:
            box.start()
            box.start_chassis("n1", "127.0.0.1", "phys", "br-phys")
            put(box, rows)
            there = stations(rows)
            hosts, macs = gateways(rows)
            lab = PacketLab(box, tuple(there.values()), macs, gateways=hosts)
            lab.attach()
            box.vsctl("add-port", "br-phys", WIRE, "--", "set", "Interface", WIRE, "type=dummy",
                      f"options:tx_pcap={box.directory / 'wire.pcap'}")  # fmt: skip
            lab.sync()
            made = World(box, lab, there, hosts["external204"], macs["external204"])
            # The provider's router asks for ours, and ours learns of it by that.
            made.on_wire(arp_request(MAC_OUTSIDE, ROUTER_OUTSIDE, made.router))
            wait_until(
                "our router knows the provider's",
                lambda: (
                    ROUTER_OUTSIDE in box.sbctl("--bare", "--columns=ip", "list", "MAC_Binding")
                ),
            )
            lab.sync()
            yield made
        finally:
            box.stop()


def address(world: World, port: str) -> str:
    return world.there[port].address(4)


@pytest.mark.parametrize(
    ("port", "outer", "mac"),
    [
        ("one.vpc1", "10.5.204.101", ""),
        ("three.vpc1", "10.5.204.102", "0a:58:0a:05:cc:66"),
    ],
    ids=["centralized", "distributed"],
)
def test_a_floating_address_works_from_both_sides(
    world: World, port: str, outer: str, mac: str
) -> None:
    asked = Packet(world.next(), OUTSIDE, outer, "TCP", 40000, 80)
    world.sent(WIRE, asked, mac)
    came = world.arrived(port, asked.number)
    assert (came.source, came.target, came.dport) == (OUTSIDE, address(world, port), 80)
    answer = Packet(world.next(), address(world, port), OUTSIDE, "TCP", 80, 40000, answer=True)
    world.sent(port, answer)
    left = world.arrived(WIRE, answer.number)
    assert (left.source, left.target, left.tagged) == (outer, OUTSIDE, True)
    assert left.dmac == MAC_OUTSIDE
    assert left.smac == (mac or world.router_mac)
    begun = Packet(world.next(), address(world, port), OUTSIDE, "UDP", 5000, 53)
    world.sent(port, begun)
    assert world.arrived(WIRE, begun.number).source == outer


def test_a_subnet_leaves_with_one_address_and_its_answers_come_back(world: World) -> None:
    asked = Packet(world.next(), address(world, "two.vpc1"), OUTSIDE, "UDP", 6000, 53)
    world.sent("two.vpc1", asked)
    left = world.arrived(WIRE, asked.number)
    assert (left.source, left.target, left.dport) == ("10.5.204.103", OUTSIDE, 53)
    answer = Packet(world.next(), OUTSIDE, left.source, "UDP", 53, left.sport, answer=True)
    world.sent(WIRE, answer)
    came = world.arrived("two.vpc1", answer.number)
    assert (came.target, came.dport) == (address(world, "two.vpc1"), 6000)


def test_one_port_of_an_address_leads_to_its_pod(world: World) -> None:
    asked = Packet(world.next(), OUTSIDE, "10.5.204.104", "TCP", 41000, 2222)
    world.sent(WIRE, asked)
    came = world.arrived("two.vpc1", asked.number)
    assert (came.source, came.target, came.dport) == (OUTSIDE, address(world, "two.vpc1"), 22)
    answer = Packet(world.next(), came.target, OUTSIDE, "TCP", 22, 41000, answer=True)
    world.sent("two.vpc1", answer)
    left = world.arrived(WIRE, answer.number)
    assert (left.source, left.sport) == ("10.5.204.104", 2222)


def test_the_provider_learns_who_has_an_address_by_asking(world: World) -> None:
    world.on_wire(arp_request(MAC_OUTSIDE, ROUTER_OUTSIDE, "10.5.204.104"))

    def answered() -> bool:
        wanted = ip_address("10.5.204.104").packed
        return any(
            one[16:18] == b"\x08\x06" and one[24:26] == b"\0\x02" and one[32:36] == wanted
            for one in frames(world.box.directory / "wire.pcap")
        )

    wait_until("our router answers", answered)


def test_an_address_within_the_vpc_leads_to_the_ready_pod(world: World) -> None:
    asked = Packet(world.next(), address(world, "one.vpc1"), "1.1.1.1", "TCP", 42000, 8888)
    world.sent("one.vpc1", asked)
    came = world.arrived("two.vpc1", asked.number)
    assert (came.target, came.dport) == (address(world, "two.vpc1"), 80)
    answer = Packet(world.next(), came.target, came.source, "TCP", 80, 42000, answer=True)
    world.sent("two.vpc1", answer, world.there["one.vpc1"].mac)
    back = world.arrived("one.vpc1", answer.number)
    assert (back.source, back.sport) == ("1.1.1.1", 8888)


def test_nobody_warns(world: World) -> None:
    # The chassis begins after the rows are there.
    assert [line for line in world.box.warnings() if "Unknown chassis 'n1'" not in line] == []
