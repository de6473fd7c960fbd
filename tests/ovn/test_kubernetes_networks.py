"""Objects as users of Kube-OVN write them, applied unchanged, and packets through what they make.

Each manifest has the fields of one of the kinds of examples of Kube-OVN's documentation (VPC,
peering, subnet, fixed address, IPPool, several interfaces, VLAN), in words of our own.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path

import pytest

from controller.network.settings import NetSettings
from tests.labs.kubernetesnet import Network, running
from tests.labs.ovnsandbox import wait_until
from tests.labs.packetlab import Station
from tests.labs.packets import Packet, frame
from tests.oracle.wire import checksum

SETTINGS = NetSettings(default_cidr="10.16.0.0/24,fd00:16::/64", join_cidr="100.64.0.0/24")
OBJECTS = """
apiVersion: v1
kind: Node
metadata: {name: n1}
status: {addresses: [{type: InternalIP, address: 192.0.2.1}]}
---
apiVersion: v1
kind: Namespace
metadata: {name: blue}
---
apiVersion: v1
kind: Namespace
metadata: {name: green}
---
apiVersion: v1
kind: Namespace
metadata: {name: red, labels: {net: red}}
---
apiVersion: kubeovn.io/v1
kind: Vpc
metadata: {name: shop}
spec:
  namespaces: [blue]
  staticRoutes:
    - {cidr: 10.77.0.0/16, nextHopIP: 169.254.0.2, policy: policyDst}
  policyRoutes:
    - {action: drop, match: ip4.src == 10.0.2.66, priority: 11}
  vpcPeerings:
    - {remoteVpc: books, localConnectIP: 169.254.0.1/30}
---
apiVersion: kubeovn.io/v1
kind: Vpc
metadata: {name: books}
spec:
  staticRoutes:
    - {cidr: 10.0.0.0/16, nextHopIP: 169.254.0.1, policy: policyDst}
  vpcPeerings:
    - {remoteVpc: shop, localConnectIP: 169.254.0.2/30}
---
apiVersion: kubeovn.io/v1
kind: Subnet
metadata: {name: shop1, creationTimestamp: "2026-01-01T00:00:00Z"}
spec: {vpc: shop, cidrBlock: 10.0.1.0/24, protocol: IPv4, namespaces: [blue]}
---
apiVersion: kubeovn.io/v1
kind: Subnet
metadata: {name: shop2}
spec: {vpc: shop, cidrBlock: 10.0.2.0/24, gateway: 10.0.2.254, excludeIps: [10.0.2.1..10.0.2.9]}
---
apiVersion: kubeovn.io/v1
kind: Subnet
metadata: {name: books1}
spec:
  vpc: books
  cidrBlock: 10.77.1.0/24
  namespaceSelectors: [{matchLabels: {net: red}}]
---
apiVersion: kubeovn.io/v1
kind: Subnet
metadata: {name: island}
spec: {vpc: alone, cidrBlock: 10.0.1.0/24}
---
apiVersion: kubeovn.io/v1
kind: Vpc
metadata: {name: alone}
spec: {}
---
apiVersion: kubeovn.io/v1
kind: IPPool
metadata: {name: few}
spec: {subnet: ovn-default, ips: [10.16.0.200, "10.16.0.210..10.16.0.211", "fd00:16::200/126"]}
---
apiVersion: k8s.cni.cncf.io/v1
kind: NetworkAttachmentDefinition
metadata: {name: fast, namespace: green}
spec: {config: '{"cniVersion": "0.3.0", "type": "kube-ovn", "provider": "fast.green.ovn"}'}
---
apiVersion: kubeovn.io/v1
kind: Subnet
metadata: {name: fast}
spec: {protocol: IPv4, provider: fast.green.ovn, cidrBlock: 172.17.0.0/24, gateway: 172.17.0.1}
---
apiVersion: kubeovn.io/v1
kind: ProviderNetwork
metadata: {name: phys}
spec: {defaultInterface: eth1, customInterfaces: [{interface: eth2, nodes: [n1]}]}
---
apiVersion: kubeovn.io/v1
kind: Vlan
metadata: {name: v100}
spec: {id: 100, provider: phys}
---
apiVersion: kubeovn.io/v1
kind: Subnet
metadata: {name: wire}
spec:
  protocol: IPv4
  cidrBlock: 198.51.100.0/24
  gateway: 198.51.100.1
  vlan: v100
---
apiVersion: kubeovn.io/v1
kind: Vlan
metadata: {name: v200}
spec: {id: 200, provider: phys}
---
apiVersion: kubeovn.io/v1
kind: Subnet
metadata: {name: second-wire}
spec: {provider: out.green.ovn, vlan: v200, cidrBlock: 198.18.0.0/24, gateway: 198.18.0.254}
---
apiVersion: k8s.cni.cncf.io/v1
kind: NetworkAttachmentDefinition
metadata: {name: out, namespace: green}
spec: {config: '{"cniVersion": "0.3.0", "type": "kube-ovn", "provider": "out.green.ovn"}'}
---
apiVersion: v1
kind: Pod
metadata:
  name: both
  namespace: green
  annotations:
    k8s.v1.cni.cncf.io/networks: out
    out.green.ovn.kubernetes.io/ip_address: 198.18.0.77
---
apiVersion: kubeovn.io/v1
kind: Subnet
metadata: {name: told}
spec:
  cidrBlock: 10.88.0.0/24
  enableDHCP: true
  dhcpV4Options: lease_time=600,dns_server={9.9.9.9;9.9.9.10}
  mtu: 1400
---
apiVersion: v1
kind: Pod
metadata: {name: asking, namespace: green, annotations: {ovn.kubernetes.io/logical_switch: told}}
---
apiVersion: v1
kind: Pod
metadata: {name: a, namespace: blue}
---
apiVersion: v1
kind: Pod
metadata: {name: b, namespace: blue, annotations: {ovn.kubernetes.io/logical_switch: shop2}}
---
apiVersion: v1
kind: Pod
metadata:
  name: barred
  namespace: blue
  annotations: {ovn.kubernetes.io/logical_switch: shop2, ovn.kubernetes.io/ip_address: 10.0.2.66}
---
apiVersion: v1
kind: Pod
metadata: {name: reader, namespace: red}
---
apiVersion: v1
kind: Pod
metadata:
  name: hermit
  namespace: green
  annotations: {ovn.kubernetes.io/logical_switch: island, ovn.kubernetes.io/ip_address: 10.0.1.2}
---
apiVersion: v1
kind: Pod
metadata:
  name: fixed
  namespace: green
  annotations:
    ovn.kubernetes.io/ip_address: 10.16.0.15,fd00:16::15
    ovn.kubernetes.io/mac_address: 00:00:00:53:6B:B6
---
apiVersion: v1
kind: Pod
metadata:
  name: pooled
  namespace: green
  annotations: {ovn.kubernetes.io/ip_pool: few}
---
apiVersion: v1
kind: Pod
metadata:
  name: two
  namespace: green
  annotations: {k8s.v1.cni.cncf.io/networks: green/fast}
---
apiVersion: v1
kind: Pod
metadata:
  name: three
  namespace: green
  annotations:
    k8s.v1.cni.cncf.io/networks: '[{"name": "fast", "namespace": "green"}]'
    fast.green.ovn.kubernetes.io/ip_address: 172.17.0.33
    ovn.kubernetes.io/port_security: "true"
---
apiVersion: v1
kind: Pod
metadata:
  name: below
  namespace: green
  annotations: {ovn.kubernetes.io/logical_switch: wire, ovn.kubernetes.io/ip_address: 198.51.100.9}
"""


@pytest.fixture(scope="module")
def net() -> Iterator[Network]:
    with running(OBJECTS, SETTINGS) as found:
        yield found


def test_pods_of_a_vpc_reach_each_other_across_its_subnets(net: Network) -> None:
    assert net.there["a.blue"].addresses == ("10.0.1.2/24",)
    assert net.there["b.blue"].addresses == ("10.0.2.10/24",)
    assert net.passes("a.blue", "b.blue")
    assert net.passes("b.blue", "a.blue", protocol="ICMP")


def test_a_policy_route_drops_what_it_says(net: Network) -> None:
    assert not net.passes("barred.blue", "a.blue")


def test_vpcs_are_apart_even_with_equal_addresses(net: Network) -> None:
    assert net.there["hermit.green"].addresses == net.there["a.blue"].addresses
    # From a's switch the address is a's own: nothing ever comes out at the hermit.
    assert net.passes("b.blue", "a.blue")
    assert not net.passes("fixed.green", "b.blue")


def test_peers_reach_each_other_by_their_routes(net: Network) -> None:
    assert net.there["reader.red"].switch == "books1"
    assert net.passes("a.blue", "reader.red")
    assert net.passes("reader.red", "b.blue", protocol="TCP")


@pytest.mark.parametrize("version", [4, 6])
def test_a_fixed_address_and_one_of_a_pool_in_both_families(net: Network, version: int) -> None:
    fixed, pooled = net.there["fixed.green"], net.there["pooled.green"]
    assert (fixed.mac, fixed.address(4)) == ("00:00:00:53:6b:b6", "10.16.0.15")
    assert (fixed.address(6), pooled.address(4)) == ("fd00:16::15", "10.16.0.200")
    assert pooled.address(6).startswith("fd00:16::20")
    assert net.passes("fixed.green", "pooled.green", version)


def test_a_second_interface_is_on_its_own_network(net: Network) -> None:
    assert net.there["three.green.fast.green.ovn"].address(4) == "172.17.0.33"
    assert net.passes("two.green.fast.green.ovn", "three.green.fast.green.ovn")
    assert net.passes("two.green", "three.green")


def test_port_security_is_for_who_asks_for_it(net: Network) -> None:
    def spoofs(source: str) -> bool:
        one, other = net.there[source], net.there["fixed.green"]
        liar = Station(one.port, one.switch, one.mac, ("10.16.0.99/24",))
        net.number += 1
        packet = Packet(net.number, liar.address(4), other.address(4), "UDP", 3000, 53)
        return bool(net.lab.send([(one, other, packet)]))

    assert spoofs("two.green")
    assert not spoofs("three.green")


def test_a_nodes_own_port_reaches_pods_and_they_it(net: Network) -> None:
    node = net.there["node-n1"]
    assert (node.switch, node.address(4)) == ("join", "100.64.0.2")
    assert net.passes("node-n1", "fixed.green", protocol="TCP")
    assert net.passes("pooled.green", "node-n1", protocol="ICMP")


@pytest.fixture(scope="module")
def wire(net: Network) -> Path:
    """What leaves the chassis by the physical network's bridge."""
    capture = net.box.directory / "wire.pcap"
    net.box.vsctl("add-port", "br-phys", "wire", "--", "set", "Interface", "wire", "type=dummy",
                  f"options:tx_pcap={capture}")  # fmt: skip
    net.lab.sync()
    return capture


@pytest.mark.parametrize(
    ("port", "address", "tag"),
    [
        ("below.green", "198.51.100.9", 100),
        ("both.green.out.green.ovn", "198.18.0.77", 200),
    ],
)
def test_a_subnet_with_a_vlan_is_on_the_wire_with_its_tag(
    net: Network, wire: Path, port: str, address: str, tag: int
) -> None:
    below, gateway = net.there[port], "0a:00:00:00:99:01"
    assert below.address(4) == address
    net.number += 2
    packet = Packet(net.number, address, "203.0.113.9", "UDP", 3000, 53)
    at = net.lab.stations.index(below)
    octets = frame(below.mac, gateway, packet)
    net.box.appctl("netdev-dummy/receive", f"p{at}", octets.hex())
    # To a MAC that nobody here has: it can only be out there.
    out = octets[:12] + struct.pack(">HH", 0x8100, tag) + octets[12:]
    wait_until("it is on the wire", lambda: wire.exists() and out in wire.read_bytes())
    back = frame(gateway, below.mac, packet.back(net.number + 1))
    tagged = back[:12] + struct.pack(">HH", 0x8100, tag) + back[12:]
    net.box.appctl("netdev-dummy/receive", "wire", tagged.hex())
    inside = net.box.directory / f"p{at}.pcap"
    wait_until("it came in", lambda: inside.exists() and back in inside.read_bytes())


def test_a_pod_is_on_the_overlay_and_on_a_wire_at_once(net: Network) -> None:
    assert net.there["both.green"].switch == "ovn-default"
    assert net.passes("both.green", "fixed.green")


def test_the_rows_are_named_as_tools_of_the_field_know_them(net: Network) -> None:
    ports = net.box.nbctl("--bare", "--columns=name", "list", "Logical_Switch_Port").split()
    named = {"a.blue", "shop1-shop", "localnet.wire", "node-n1", "two.green.fast.green.ovn"}
    assert named <= set(ports)
    assert net.box.nbctl("lrp-list", "shop").count("shop-") == 3
    assert net.box.warnings() == []


def test_a_guest_is_answered_by_dhcp_as_its_subnet_says(net: Network) -> None:
    """RFC 2131: DISCOVER by broadcast, and OFFER with the address and the options (RFC 2132)."""
    guest = net.there["asking.green"]
    at = net.lab.stations.index(guest)
    mac = bytes.fromhex(guest.mac.replace(":", ""))
    bootp = struct.pack(">BBBBIHH16x", 1, 1, 6, 0, 0x6D72, 0, 0x8000) + mac + b"\0" * (10 + 192)
    bootp += b"\x63\x82\x53\x63" + b"\x35\x01\x01" + b"\x37\x04\x01\x03\x06\x1a" + b"\xff"
    udp = struct.pack(">HHHH", 68, 67, 8 + len(bootp), 0) + bootp
    head = struct.pack(
        ">BBHHHBBH4s4s", 0x45, 0, 20 + len(udp), 1, 0, 64, 17, 0, b"\0" * 4, b"\xff" * 4
    )
    head = head[:10] + struct.pack(">H", checksum(head)) + head[12:]
    discover = b"\xff" * 6 + mac + b"\x08\x00" + head + udp
    capture = net.box.directory / f"p{at}.pcap"
    before = len(capture.read_bytes()) if capture.exists() else 0
    net.box.appctl("netdev-dummy/receive", f"p{at}", discover.hex())
    address = ip_address(guest.address(4)).packed

    def offered() -> bool:
        seen = capture.read_bytes()[before:] if capture.exists() else b""
        place = seen.find(b"\x63\x82\x53\x63\x35\x01\x02")
        if place < 0:
            return False
        options = seen[place:]
        assert seen[place - 236 :][16:20] == address
        assert b"\x03\x04" + ip_address("10.88.0.1").packed in options
        assert b"\x06\x08" + bytes((9, 9, 9, 9, 9, 9, 9, 10)) in options
        assert b"\x1a\x02" + struct.pack(">H", 1400) in options
        return True

    wait_until("OVN offers the address", offered)
