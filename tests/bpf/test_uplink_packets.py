"""One packet at the uplink: what becomes of it, and that nothing else is touched."""

from __future__ import annotations

import struct
from dataclasses import dataclass

import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import ICMPv6EchoRequest, ICMPv6ND_NA, ICMPv6ND_NS, IPv6
from scapy.layers.l2 import ARP, Ether
from scapy.packet import Packet, Raw

from bpf.abi import Reason
from dataplane.model.addr import L4Addr
from tests.bpf.rarepackets import shown
from tests.bpf.world import (
    CLIENT,
    CLIENT_MAC,
    DNS,
    NODE_ADDRESS,
    NODE_ADDRESS6,
    NODE_PORT,
    PAYLOAD,
    SERVICE_ADDRESS,
    STRANGER,
    STRANGER6,
    UPLINK_MAC,
    VIP_EMPTY,
    VIP_LOCAL,
    VIP_TCP,
    VIP_UDP,
    WEB,
    WEB_TWO,
    XDP_DROP,
    XDP_PASS,
    World,
    built,
    from_client,
)

pytestmark = pytest.mark.bpf

# XSKMAPs cannot hold a socket in a test run, so "to OVS" is seen as its fallback, XDP_PASS, and
# told from "to the kernel" by the reason.
TO_XSK = XDP_PASS
ETHER = Ether(src=CLIENT_MAC, dst=UPLINK_MAC)
BROADCAST = "ff:ff:ff:ff:ff:ff"


@dataclass(frozen=True)
class Case:
    """A packet that nothing is changed of, and what becomes of it."""

    id: str
    packet: Packet
    action: int
    reason: Reason


def ipv4(dst: str, l4: Packet, **fields: object) -> Packet:
    return built(ETHER / IP(src=CLIENT, dst=dst, **fields) / l4 / Raw(PAYLOAD))


def with_udp_checksum(packet: Packet, checksum: int) -> Packet:
    packet[UDP].chksum = checksum
    return packet


def cut(packet: Packet, size: int) -> Packet:
    return Ether(bytes(packet)[:size])


PASSED_OR_TO_OVS = [
    Case("arp for the node", ETHER / ARP(pdst=NODE_ADDRESS), XDP_PASS, Reason.PASS_ARP),
    Case("arp for another", ETHER / ARP(pdst=STRANGER), TO_XSK, Reason.XSK_ARP),
    Case("arp for the VIP", ETHER / ARP(pdst=str(VIP_TCP.address)), TO_XSK, Reason.XSK_ARP),
    Case(
        "arp reply to the node",
        ETHER / ARP(op=2, psrc=STRANGER, pdst=NODE_ADDRESS),
        XDP_PASS,
        Reason.PASS_ARP,
    ),
    Case(
        "arp of another protocol",
        ETHER / ARP(ptype=0x86DD, plen=16, pdst="fd00::11"),
        TO_XSK,
        Reason.XSK_ARP,
    ),
    Case("arp cut short", cut(ETHER / ARP(pdst=NODE_ADDRESS), 40), TO_XSK, Reason.XSK_ARP),
    Case("lldp", ETHER / Raw(b"\0" * 50), XDP_PASS, Reason.PASS_LLDP),
    Case("tcp to the node", ipv4(NODE_ADDRESS, TCP(dport=22)), XDP_PASS, Reason.PASS_IPV4),
    Case("icmp to the node", ipv4(NODE_ADDRESS, ICMP()), XDP_PASS, Reason.PASS_IPV4),
    Case(
        "later fragment to the node",
        ipv4(NODE_ADDRESS, Raw(b"x" * 64), frag=100, proto=17),
        XDP_PASS,
        Reason.PASS_IPV4,
    ),
    Case("tcp to another", ipv4(STRANGER, TCP(dport=80)), TO_XSK, Reason.XSK_IPV4),
    Case("ping of the VIP", ipv4(str(VIP_TCP.address), ICMP()), TO_XSK, Reason.XSK_IPV4),
    Case("another port of the VIP", ipv4("192.0.2.10", TCP(dport=81)), TO_XSK, Reason.XSK_IPV4),
    Case("another protocol of it", ipv4("192.0.2.10", UDP(dport=80)), TO_XSK, Reason.XSK_IPV4),
    Case("sctp to the VIP", ipv4("192.0.2.10", Raw(b"\0P\0P"), proto=132), TO_XSK, Reason.XSK_IPV4),
    Case("broadcast", ipv4("255.255.255.255", UDP(dport=67)), TO_XSK, Reason.XSK_IPV4),
    Case(
        "to svc0's address, of no flow",
        ipv4(SERVICE_ADDRESS, TCP(sport=8080, dport=40000)),
        TO_XSK,
        Reason.XSK_IPV4,
    ),
    Case(
        "ipv6 to the node",
        ETHER / IPv6(dst=NODE_ADDRESS6) / ICMPv6EchoRequest(),
        XDP_PASS,
        Reason.PASS_IPV6,
    ),
    Case(
        "ipv6 to another",
        ETHER / IPv6(dst=STRANGER6) / ICMPv6EchoRequest(),
        TO_XSK,
        Reason.XSK_IPV6,
    ),
    Case(
        "neighbour solicitation for the node",
        ETHER / IPv6(dst="ff02::1:ff00:11") / ICMPv6ND_NS(tgt=NODE_ADDRESS6),
        XDP_PASS,
        Reason.PASS_ND,
    ),
    Case(
        "neighbour solicitation for another",
        ETHER / IPv6(dst="ff02::1:ff00:99") / ICMPv6ND_NS(tgt=STRANGER6),
        TO_XSK,
        Reason.XSK_IPV6,
    ),
    Case(
        "advertisement of the node's address by another",
        ETHER / IPv6(dst="ff02::1") / ICMPv6ND_NA(tgt=NODE_ADDRESS6),
        TO_XSK,
        Reason.XSK_IPV6,
    ),
    Case("another ethertype", ETHER / Raw(b"\0" * 50), TO_XSK, Reason.XSK_OTHER),
    Case("ipv4 of version 5", ipv4("192.0.2.10", TCP(), version=5), TO_XSK, Reason.XSK_MALFORMED),
    Case("header of 16 octets", ipv4("192.0.2.10", TCP(), ihl=4), TO_XSK, Reason.XSK_MALFORMED),
]

REFUSED = [
    Case("VIP without backends", from_client(VIP_EMPTY), XDP_DROP, Reason.DROP_NO_BACKEND),
    Case(
        "longer than its frame",
        ipv4("192.0.2.10", TCP(dport=80), len=1400),
        XDP_DROP,
        Reason.DROP_VIP_MALFORMED,
    ),
    Case(
        "shorter than its headers",
        ipv4("192.0.2.10", TCP(dport=80), len=39),
        XDP_DROP,
        Reason.DROP_VIP_MALFORMED,
    ),
    Case(
        "tcp header of 16 octets",
        ipv4("192.0.2.10", TCP(dport=80, dataofs=4)),
        XDP_DROP,
        Reason.DROP_VIP_MALFORMED,
    ),
    Case(
        "tcp header longer than the packet",
        ipv4("192.0.2.10", TCP(dport=80, dataofs=15), len=50),
        XDP_DROP,
        Reason.DROP_VIP_MALFORMED,
    ),
    Case(
        "udp length of 7",
        ipv4("192.0.2.10", UDP(dport=53, len=7)),
        XDP_DROP,
        Reason.DROP_VIP_MALFORMED,
    ),
    Case(
        "udp length beyond the packet",
        ipv4("192.0.2.10", UDP(dport=53, len=999)),
        XDP_DROP,
        Reason.DROP_VIP_MALFORMED,
    ),
]


@dataclass(frozen=True)
class Forwarded:
    """A first packet, the backend that it goes to, and by what source address."""

    id: str
    packet: Packet
    target: L4Addr = WEB
    source: str = ""


TRANSLATED = [
    Forwarded("tcp to a VIP", from_client()),
    Forwarded("tcp in the middle of a flow", from_client(tcp="A")),
    Forwarded("udp to a VIP", from_client(VIP_UDP), DNS),
    Forwarded("policy local keeps the client", from_client(VIP_LOCAL), source=CLIENT),
    Forwarded("node port before the node's own address", from_client(NODE_PORT), WEB_TWO),
    Forwarded("no payload", from_client(payload=b"")),
    Forwarded("TTL 2 is enough", from_client(ttl=2)),
    Forwarded("don't fragment", from_client(flags="DF")),
]


def prepared(case: Case) -> bytes:
    octets = bytearray(bytes(case.packet))
    if case.reason in (Reason.PASS_LLDP, Reason.XSK_OTHER):
        octets[12:14] = struct.pack("!H", 0x88CC if case.reason is Reason.PASS_LLDP else 0x88F7)
    return bytes(octets)


@pytest.mark.parametrize("case", TRANSLATED, ids=lambda case: str(case.id))
def test_a_first_packet_at_the_uplink(world: World, case: Forwarded) -> None:
    seen = world.arrive(case.packet)
    assert (seen.action, seen.reason) == (TO_XSK, Reason.VIP_NEW)
    wanted = world.translated(case.packet, case.target, case.source)
    assert seen.packet == wanted, shown(seen.packet, wanted)


def test_what_a_frame_is_padded_with_stays(world: World) -> None:
    packet = from_client(payload=b"")
    seen = world.arrive(bytes(packet) + b"\0" * 6)
    assert (seen.action, seen.reason) == (TO_XSK, Reason.VIP_NEW)
    assert seen.packet == world.translated(packet, WEB) + b"\0" * 6


@pytest.mark.parametrize("case", PASSED_OR_TO_OVS + REFUSED, ids=lambda case: str(case.id))
def test_a_packet_at_the_uplink(world: World, case: Case) -> None:
    octets = prepared(case)
    seen = world.arrive(octets)
    assert (seen.action, seen.reason) == (case.action, case.reason)
    assert seen.packet == octets, shown(seen.packet, octets)


@pytest.mark.parametrize("case", PASSED_OR_TO_OVS + REFUSED, ids=lambda case: str(case.id))
def test_a_packet_that_is_not_translated_leaves_no_flow(world: World, case: Case) -> None:
    world.arrive(prepared(case))
    assert not world.flows()
    assert not world.flows(6)


def test_without_a_gateway_a_served_vip_is_dropped(world: World) -> None:
    world.set_node(flags=0)
    seen = world.arrive(from_client())
    assert (seen.action, seen.reason) == (XDP_DROP, Reason.DROP_NO_GATEWAY)
    assert seen.packet == bytes(from_client())


def test_an_empty_node_hands_everything_to_ovs(empty: World) -> None:
    seen = empty.arrive(from_client())
    assert (seen.action, seen.reason) == (TO_XSK, Reason.XSK_IPV4)


def test_a_vip_whose_set_is_empty_is_dropped(world: World) -> None:
    world.serve(VIP_TCP, [])
    assert world.arrive(from_client()).reason is Reason.DROP_NO_BACKEND


def test_a_pick_that_is_no_backend_any_more_is_dropped(world: World) -> None:
    world.remove_backend(WEB)
    assert world.arrive(from_client()).reason is Reason.DROP_NO_BACKEND


def test_udp_without_a_checksum_stays_without(world: World) -> None:
    seen = world.arrive(with_udp_checksum(from_client(VIP_UDP), 0))
    assert Ether(seen.packet)[UDP].chksum == 0
    assert Ether(seen.packet)[IP].dst == str(DNS.address)


def test_a_udp_checksum_is_never_computed_to_none(world: World) -> None:
    first = from_client(VIP_UDP, payload=b"\0\0")
    zero = Ether(world.arrive(first).packet)
    assert bytes(zero) == world.translated(first, DNS)
    # Putting the sum itself into the payload makes it 0, which is written as 0xffff.
    packet = from_client(VIP_UDP, payload=struct.pack("!H", zero[UDP].chksum))
    wanted = world.translated(packet, DNS)
    assert Ether(wanted)[UDP].chksum == 0xFFFF
    assert world.arrive(packet).packet == wanted


def test_a_wrong_checksum_stays_wrong(world: World) -> None:
    packet = from_client()
    packet[TCP].chksum ^= 0x0100
    out = Ether(world.arrive(packet).packet)
    got = out[TCP].chksum
    del out[TCP].chksum
    assert got != Ether(bytes(out))[TCP].chksum


@pytest.mark.parametrize("vip", [VIP_TCP, VIP_UDP], ids=["tcp", "udp"])
def test_a_truncated_packet_is_never_rewritten(world: World, vip: L4Addr) -> None:
    for size in range(14, 81):
        packet = bytes(from_client(vip, payload=b"x" * 64))[:size]
        seen = world.arrive(packet)
        assert seen.packet == packet, size
        assert seen.reason in (Reason.XSK_MALFORMED, Reason.DROP_VIP_MALFORMED), size
