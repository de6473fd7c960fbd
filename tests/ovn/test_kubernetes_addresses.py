"""Page by page what Kube-OVN's documentation promises of addresses and who may have them.

Each manifest has the fields of an example, in words of our own, and is tried with packets.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from ipaddress import ip_address, ip_network

import pytest

from controller.network.settings import NetSettings
from tests.labs.kubernetesnet import Network, running
from tests.labs.manifests import NODE, joined, namespaces, pod
from tests.labs.ovnsandbox import wait_until
from tests.labs.packets import Packet, arp_reply, arp_request, frame, frames, icmp6, udp6
from tests.oracle.wire import ICMPV6

SETTINGS = NetSettings(default_cidr="10.16.0.0/16,fd00:16::/64", join_cidr="100.64.0.0/24")
STATEFUL = """
apiVersion: v1
kind: Pod
metadata:
  name: web-{at}
  namespace: default
  ownerReferences:
    - {{apiVersion: apps/v1, kind: StatefulSet, name: web, uid: u, controller: true}}
  annotations:
    ovn.kubernetes.io/ip_pool: 10.16.4.15,fd00:16::4:e;10.16.4.16,fd00:16::4:f
spec: {{nodeName: n1}}
---"""
ADDRESSES = f"""
apiVersion: kubeovn.io/v1
kind: IPPool
metadata: {{name: pool-1}}
spec:
  subnet: ovn-default
  ips: ["10.16.0.201", "10.16.0.212/30", "10.16.0.220..10.16.0.221", "fd00:16::200/120"]
  namespaces: [pooled]
---
apiVersion: kubeovn.io/v1
kind: Vip
metadata: {{name: vip-dynamic}}
spec: {{subnet: ovn-default, type: ""}}
status: {{v4ip: 10.16.0.33, v6ip: "fd00:16::33", mac: "02:00:00:00:00:33"}}
---
apiVersion: kubeovn.io/v1
kind: Vip
metadata: {{name: vip-static}}
spec: {{subnet: ovn-default, V4ip: "10.16.0.121"}}
---
apiVersion: kubeovn.io/v1
kind: Vip
metadata: {{name: shared}}
spec: {{subnet: floats, V4ip: "10.13.0.100", namespace: default, selector: ["app: keeper"]}}
---
apiVersion: kubeovn.io/v1
kind: Subnet
metadata: {{name: floats}}
spec: {{cidrBlock: 10.13.0.0/24}}
---
{"".join(pod(f"p{at}", "pooled") for at in range(4))}{pod("plain")}
{pod("bound", vip="vip-dynamic")}{pod("fixed-vip", vip="vip-static")}
{pod("holder", logical_switch="floats", aaps="shared").replace("app: holder", "app: keeper")}
{
    pod("deputy", logical_switch="floats", aaps="shared", port_security="true").replace(
        "app: deputy", "app: keeper"
    )
}
{pod("neighbour", logical_switch="floats")}
{
    pod(
        "secure",
        port_security="true",
        ip_address="10.16.1.15,fd00:16::e",
        mac_address="00:00:00:53:6B:B6   // as on its label",
    )
}{pod("loose")}
{"".join(pod(f"backend-{at}", ip_pool="10.16.3.15,10.16.3.16,10.16.3.17") for at in "ab")}
{"".join(STATEFUL.format(at=at) for at in (1, 0))}
"""
DHCP = f"""
apiVersion: kubeovn.io/v1
kind: Subnet
metadata: {{name: leased}}
spec:
  cidrBlock: "10.0.0.0/24,240e::a00/120"
  default: false
  disableGatewayCheck: true
  disableInterConnection: false
  excludeIps: [10.0.0.1, "240e::a01"]
  gateway: 10.0.0.1,240e::a01
  gatewayNode: ''
  gatewayType: distributed
  natOutgoing: false
  private: false
  protocol: Dual
  provider: ovn
  vpc: tenant-3
  enableDHCP: true
  dhcpV4Options: "lease_time=3600,router=10.0.0.1,server_id=169.254.0.254,server_mac=00:00:00:2E:2F:B8"
  dhcpV6Options: "server_id=00:00:00:2E:2F:C5"
  enableIPv6RA: true
  ipv6RAConfigs: "address_mode=dhcpv6_stateful,max_interval=30,min_interval=5,send_periodic=true"
  mtu: 1300
---
kind: Vpc
apiVersion: kubeovn.io/v1
metadata: {{name: tenant-3}}
spec: {{}}
---{pod("guest", logical_switch="leased")}{pod("twin", logical_switch="leased")}
"""  # noqa: E501


@pytest.fixture(scope="module")
def net() -> Iterator[Network]:
    with running(joined(NODE, namespaces("default", "pooled"), ADDRESSES, DHCP), SETTINGS) as found:
        yield found


# -- addresses ------------------------------------------------------------------------------------


def test_a_pool_is_for_its_namespaces_alone(net: Network) -> None:
    four = {net.there[f"p{at}.pooled"].address(4) for at in range(4)}
    pool = {"10.16.0.201", *(f"10.16.0.{at}" for at in (212, 213, 214, 215, 220, 221))}
    assert four < pool
    assert all(
        ip_address(net.there[f"p{at}.pooled"].address(6)) in ip_network("fd00:16::200/120")
        for at in range(4)
    )
    others = {one.address(4) for name, one in net.there.items() if not name.endswith(".pooled")}
    assert not others & pool
    assert net.passes("p0.pooled", "p3.pooled", 6)
    assert net.passes("plain.default", "p2.pooled")


def test_workloads_have_the_addresses_that_their_templates_list(net: Network) -> None:
    backends = {net.there[f"backend-{at}.default"].address(4) for at in "ab"}
    assert backends == {"10.16.3.15", "10.16.3.16"}
    assert net.passes("backend-a.default", "backend-b.default")
    # By their numbers, whoever came first.
    for at, addresses in enumerate(
        (("10.16.4.15", "fd00:16::4:e"), ("10.16.4.16", "fd00:16::4:f"))
    ):
        one = net.there[f"web-{at}.default"]
        assert (one.address(4), one.address(6)) == addresses
    assert net.passes("web-0.default", "web-1.default", 6)
    assert net.passes("backend-a.default", "web-1.default", protocol="TCP")


def test_a_pod_has_the_address_of_the_vip_that_it_names(net: Network) -> None:
    assert net.there["fixed-vip.default"].address(4) == "10.16.0.121"
    assert net.passes("plain.default", "fixed-vip.default")
    assert net.passes("bound.default", "fixed-vip.default", protocol="TCP")


def test_a_shared_address_is_who_claims_its(net: Network) -> None:
    """Without a claim it is nobody's; a gratuitous ARP is one (RFC 5227, 3)."""
    vip = "10.13.0.100"
    assert net.routed("plain.default", vip) == set()
    for name in ("holder.default", "deputy.default", "holder.default"):
        net.give(name, arp_request(net.there[name].mac, vip, vip))
        wait_until(
            f"{name} has the address",
            lambda name=name: name in net.box.sbctl(
                "--bare", "--columns=virtual_parent", "find", "Port_Binding", "logical_port=shared"
            ),
        )  # fmt: skip
        net.lab.sync()
        assert net.routed("plain.default", vip) == {name}
    # And it may speak with that address, though it has port security.
    deputy, plain = net.there["deputy.default"], net.there["plain.default"]
    for source, came in ((vip, {"plain.default"}), ("10.13.0.101", set())):
        net.number += 2
        packet = Packet(net.number, source, plain.address(4), "UDP", 3000, 53)
        towards = net.lab.router_macs["floats"]
        assert net.reached("deputy.default", frame(deputy.mac, towards, packet)) == came


def test_port_security_holds_source_addresses_of_all_layers(net: Network) -> None:
    secure, loose = net.there["secure.default"], net.there["loose.default"]
    assert secure.mac == "00:00:00:53:6b:b6"
    assert net.passes("secure.default", "loose.default")
    assert net.passes("secure.default", "loose.default", 6)
    other = "0a:00:00:00:77:01"
    lies = [
        (secure.mac, "10.16.1.99", loose.address(4)),
        (secure.mac, "fd00:16::99", loose.address(6)),
        (other, secure.address(4), loose.address(4)),
        (other, secure.address(6), loose.address(6)),
    ]
    for sender, source, target in lies:
        for liar, came in (("secure.default", set()), ("plain.default", {"loose.default"})):
            net.number += 2
            octets = frame(sender, loose.mac, Packet(net.number, source, target, "UDP", 3000, 53))
            assert net.reached(liar, octets) == came
    # Nor does it claim a neighbour's address, by ARP or by IPv6's discovery.
    for liar, heard in (("secure.default", 0), ("plain.default", 2)):
        one = net.there[liar]
        ends = one.address(6), loose.address(6)
        claim = struct.pack(">BBHI", 136, 0, 0, 6 << 28) + ip_address("fd00:16::99").packed
        forged = [
            arp_reply(one.mac, "10.16.1.99", loose.mac, loose.address(4)),
            icmp6(one.mac, loose.mac, *ends, claim + b"\x02\x01" + octets_of(one.mac)),
        ]
        before = len(list(frames(net.capture("loose.default"))))
        for octets in forged:
            net.give(liar, octets)
        net.passes(liar, "loose.default")
        came_out = list(frames(net.capture("loose.default")))[before:]
        lies_heard = [
            octets
            for octets in came_out
            if ip_address("10.16.1.99").packed in octets
            or ip_address("fd00:16::99").packed in octets
        ]
        assert len(lies_heard) == heard


# -- DHCP and router advertisements ---------------------------------------------------------------


@pytest.mark.parametrize("version", [4, 6])
def test_a_subnet_of_both_families_has_both(net: Network, version: int) -> None:
    guest, twin = net.there["guest.default"], net.there["twin.default"]
    assert {guest.address(4), twin.address(4)} == {"10.0.0.2", "10.0.0.3"}
    assert {guest.address(6), twin.address(6)} == {"240e::a02", "240e::a03"}
    assert net.passes("guest.default", "twin.default", version)
    # It is another VPC's.
    assert net.routed("guest.default", net.there["plain.default"].address(version),
                      version=version) == set()  # fmt: skip


def test_a_guest_is_told_its_ipv6_address_and_its_router(net: Network) -> None:
    guest = net.there["guest.default"]
    local = "fe80::1234"
    client = struct.pack(">HHHH6s", 1, 10, 3, 1, octets_of(guest.mac))
    body = b"\x01\x00\x6d\x72" + client + struct.pack(">HHIII", 3, 12, 7, 0, 0)
    solicit = udp6(guest.mac, "33:33:00:01:00:02", local, "ff02::1:2", (546, 547), body)
    net.give("guest.default", solicit)
    wanted = ip_address(guest.address(6)).packed

    def advertised() -> bool:
        return any(
            octets[62:66] == b"\x02\x00\x6d\x72" and wanted in octets
            for octets in frames(net.capture("guest.default"))
        )

    wait_until("OVN offers the IPv6 address", advertised)
    ask = struct.pack(">BBHI", 133, 0, 0, 0) + b"\x01\x01" + octets_of(guest.mac)
    net.give("guest.default", icmp6(guest.mac, "33:33:00:00:00:02", local, "ff02::2", ask))

    def routers() -> list[bytes]:
        return [
            octets[54:]
            for octets in frames(net.capture("guest.default"))
            if octets[12:14] == b"\x86\xdd" and octets[20] == ICMPV6 and octets[54] == 134
        ]

    wait_until("the router advertises itself", lambda: bool(routers()))
    said = routers()[0]
    assert said[5] & 0x80, "addresses are DHCP's (RFC 4861, 4.2: M)"
    assert b"\x05\x01\x00\x00" + struct.pack(">I", 1300) in said
    assert ip_address("240e::a00").packed in said


def octets_of(mac: str) -> bytes:
    return bytes.fromhex(mac.replace(":", ""))
