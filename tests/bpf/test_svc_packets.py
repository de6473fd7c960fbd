"""One packet at svc0: replies go to their clients, nothing else goes up."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import ICMPv6EchoRequest, IPv6
from scapy.layers.l2 import ARP, Ether
from scapy.packet import Packet, Raw

from bpf.abi import Reason
from tests.bpf.world import (
    CLIENT,
    GATEWAY_MAC,
    SERVICE_ADDRESS,
    SERVICE_MAC,
    STRANGER,
    WEB,
    XDP_DROP,
    XDP_PASS,
    XDP_REDIRECT,
    World,
    built,
    from_backend,
    from_client,
)

pytestmark = pytest.mark.bpf

ETHER = Ether(src=GATEWAY_MAC, dst=SERVICE_MAC)


@dataclass(frozen=True)
class Case:
    """A packet of no flow of ours, and what becomes of it; it is never changed."""

    id: str
    packet: Packet
    action: int
    reason: Reason


def ipv4(dst: str, l4: Packet, **fields: object) -> Packet:
    return built(ETHER / IP(src=str(WEB.address), dst=dst, **fields) / l4 / Raw(b"payload"))


CASES = [
    Case(
        "arp request for svc0",
        Ether(src=GATEWAY_MAC, dst="ff:ff:ff:ff:ff:ff") / ARP(pdst=SERVICE_ADDRESS),
        XDP_PASS,
        Reason.SVC_PASS_ARP,
    ),
    Case("ping of svc0", ipv4(SERVICE_ADDRESS, ICMP()), XDP_PASS, Reason.SVC_PASS_ICMP),
    Case("tcp to svc0", ipv4(SERVICE_ADDRESS, TCP(dport=22)), XDP_DROP, Reason.DROP_SVC_NO_FLOW),
    Case("udp to svc0", ipv4(SERVICE_ADDRESS, UDP(dport=53)), XDP_DROP, Reason.DROP_SVC_NO_FLOW),
    Case("tcp to a client", ipv4(CLIENT, TCP(sport=8080)), XDP_REDIRECT, Reason.SVC_UPLINK),
    Case("ping of a stranger", ipv4(STRANGER, ICMP()), XDP_REDIRECT, Reason.SVC_UPLINK),
    Case(
        "ipv6 unicast",
        ETHER / IPv6(dst="fd00::1") / ICMPv6EchoRequest(),
        XDP_REDIRECT,
        Reason.SVC_UPLINK,
    ),
    Case(
        "ipv6 multicast",
        Ether(src=GATEWAY_MAC, dst="33:33:00:00:00:01") / IPv6(dst="ff02::1") / ICMPv6EchoRequest(),
        XDP_DROP,
        Reason.DROP_SVC_MULTICAST,
    ),
    Case(
        "ipv4 broadcast",
        Ether(src=GATEWAY_MAC, dst="ff:ff:ff:ff:ff:ff") / ipv4(STRANGER, UDP())[IP],
        XDP_DROP,
        Reason.DROP_SVC_MULTICAST,
    ),
    Case(
        "ipv4 of 16 octets header",
        ipv4(CLIENT, TCP(), ihl=4),
        XDP_DROP,
        Reason.DROP_SVC_MALFORMED,
    ),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: str(case.id))
def test_a_packet_of_no_flow_at_svc0(world: World, case: Case) -> None:
    seen = world.deliver(case.packet)
    assert (seen.action, seen.reason) == (case.action, case.reason)
    assert seen.packet == bytes(case.packet)


def test_without_a_gateway_nothing_is_sent_to_the_uplink(world: World) -> None:
    world.set_node(flags=0)
    seen = world.deliver(ipv4(CLIENT, TCP()))
    assert (seen.action, seen.reason) == (XDP_DROP, Reason.DROP_NO_GATEWAY)


def test_a_truncated_reply_is_never_rewritten(world: World) -> None:
    answer = bytes(from_backend(world.arrive(from_client()).packet, payload=b"x" * 64))
    for size in range(14, 81):
        seen = world.deliver(answer[:size])
        assert seen.packet == answer[:size], size
        assert seen.reason is Reason.DROP_SVC_MALFORMED, size
