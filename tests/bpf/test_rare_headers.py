"""IPv4 options and IPv6 extension headers stay; the packet is translated like any."""

from __future__ import annotations

import pytest
from scapy.layers.inet import IP, TCP, UDP, IPOption_NOP, IPOption_RR, IPOption_Timestamp
from scapy.layers.inet6 import (
    HBHOptUnknown,
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    IPv6ExtHdrHopByHop,
    IPv6ExtHdrRouting,
    PadN,
)
from scapy.layers.l2 import Ether
from scapy.packet import Packet, Raw

from bpf.abi import AddressFlag, Reason
from tests.bpf.rarepackets import base, client_frame, shown, to_backend, to_client
from tests.bpf.world import (
    CLIENT6,
    CLIENT_PORT,
    DNS6,
    GATEWAY_MAC,
    NODE_ADDRESS,
    NODE_ADDRESS6,
    PAYLOAD,
    SERVICE_ADDRESS,
    SERVICE_ADDRESS6,
    SERVICE_MAC,
    STRANGER,
    STRANGER6,
    VIP6_TCP,
    VIP6_UDP,
    VIP_TCP,
    WEB,
    WEB6,
    XDP_DROP,
    XDP_PASS,
    XDP_REDIRECT,
    World,
    built,
)

pytestmark = pytest.mark.bpf

OPTIONS = {
    "nop": [IPOption_NOP()] * 4,
    "record route": [IPOption_RR(pointer=4, routers=["0.0.0.0"] * 2)],
    "timestamp": [IPOption_Timestamp(flg=0)],
    "forty octets": [IPOption_NOP()] * 40,
}
FRAGMENT_OF_ONE = IPv6ExtHdrFragment(id=5)
CHAINS: dict[str, list[Packet]] = {
    "hop by hop": [IPv6ExtHdrHopByHop(options=[PadN(optdata=b"\0" * 4)])],
    "destination": [IPv6ExtHdrDestOpt(options=[HBHOptUnknown(otype=0x1E, optdata=b"x" * 12)])],
    "routing, at its end": [IPv6ExtHdrRouting(addresses=["fd00::1"], segleft=0)],
    "fragment of one": [FRAGMENT_OF_ONE],
    "all of them": [
        IPv6ExtHdrHopByHop(options=[PadN(optdata=b"\0" * 4)]),
        IPv6ExtHdrDestOpt(options=[PadN(optdata=b"\0" * 4)]),
        IPv6ExtHdrRouting(addresses=["fd00::1", "fd00::2"], segleft=0),
        FRAGMENT_OF_ONE,
        IPv6ExtHdrDestOpt(options=[PadN(optdata=b"\0" * 4)]),
    ],
    "eight": [IPv6ExtHdrDestOpt(options=[PadN(optdata=b"\0" * 4)])] * 8,
}


def chained(ip: Packet, chain: list[Packet]) -> Packet:
    for header in chain:
        ip = ip / header.copy()
    return ip


@pytest.mark.parametrize("options", OPTIONS.values(), ids=list(OPTIONS))
def test_options_stay(world: World, options: list[Packet]) -> None:
    ip = base(False, str(VIP_TCP.address), options=options)
    asked = client_frame(ip, TCP(sport=CLIENT_PORT, dport=80, flags="S") / Raw(PAYLOAD))
    seen = world.arrive(asked)
    assert (seen.action, seen.reason) == (XDP_PASS, Reason.VIP_NEW)
    port = world.port_of(asked)
    wanted = to_backend(asked, WEB, port)
    assert seen.packet == wanted, shown(seen.packet, wanted)
    answer = built(
        Ether(src=GATEWAY_MAC, dst=SERVICE_MAC)
        / IP(src=str(WEB.address), dst=SERVICE_ADDRESS, options=options)
        / TCP(sport=WEB.port, dport=port, flags="SA")
    )
    back = world.deliver(answer)
    assert (back.action, back.reason) == (XDP_REDIRECT, Reason.SVC_REPLY)
    assert back.packet == to_client(answer, VIP_TCP)


@pytest.mark.parametrize("chain", CHAINS.values(), ids=list(CHAINS))
def test_extension_headers_stay(world: World, chain: list[Packet]) -> None:
    ip = chained(base(True, str(VIP6_UDP.address)), chain)
    asked = client_frame(ip, UDP(sport=CLIENT_PORT, dport=53) / Raw(PAYLOAD))
    seen = world.arrive(asked)
    assert (seen.action, seen.reason) == (XDP_PASS, Reason.VIP_NEW)
    port = world.port_of(asked)
    wanted = to_backend(asked, DNS6, port)
    assert seen.packet == wanted, shown(seen.packet, wanted)
    answer = built(
        Ether(src=GATEWAY_MAC, dst=SERVICE_MAC)
        / chained(IPv6(src=str(DNS6.address), dst=SERVICE_ADDRESS6), chain)
        / UDP(sport=DNS6.port, dport=port)
        / Raw(PAYLOAD)
    )
    back = world.deliver(answer)
    assert (back.action, back.reason) == (XDP_REDIRECT, Reason.SVC_REPLY)
    assert back.packet == to_client(answer, VIP6_UDP)


def test_the_flow_is_the_one_of_plain_packets(world: World) -> None:
    plain = client_frame(base(True, str(VIP6_TCP.address)), TCP(sport=CLIENT_PORT, dport=80))
    assert world.arrive(plain).reason is Reason.VIP_NEW
    ip = chained(base(True, str(VIP6_TCP.address)), CHAINS["all of them"])
    rare = client_frame(ip, TCP(sport=CLIENT_PORT, dport=80, flags="A"))
    seen = world.arrive(rare)
    assert seen.reason is Reason.VIP_FORWARD
    assert seen.packet == to_backend(rare, WEB6, world.port_of(plain))
    assert len(world.flows(6)) == 1


NOT_FOLLOWED: dict[str, Packet] = {
    "nine": chained(
        IPv6(src=CLIENT6, dst=str(VIP6_TCP.address)), [*CHAINS["eight"], IPv6ExtHdrDestOpt()]
    ),
    "routing, on its way": IPv6(src=CLIENT6, dst=str(VIP6_TCP.address))
    / IPv6ExtHdrRouting(addresses=["fd00::1"], segleft=1),
    "hop by hop in the middle": IPv6(src=CLIENT6, dst=str(VIP6_TCP.address))
    / IPv6ExtHdrDestOpt(options=[PadN(optdata=b"\0" * 4)])
    / IPv6ExtHdrHopByHop(options=[PadN(optdata=b"\0" * 4)]),
}


@pytest.mark.parametrize("ip", NOT_FOLLOWED.values(), ids=list(NOT_FOLLOWED))
def test_headers_that_cannot_be_followed(world: World, ip: Packet) -> None:
    frame = client_frame(ip, TCP(sport=CLIENT_PORT, dport=80))
    seen = world.arrive(frame)
    assert (seen.action, seen.reason) == (XDP_PASS, Reason.XSK_IPV6)
    assert seen.packet == bytes(frame)
    world.know(str(VIP6_TCP.address), AddressFlag.ADDRESS_VIP)
    seen = world.arrive(frame)
    assert (seen.action, seen.reason) == (XDP_DROP, Reason.DROP_EXTENSION)
    assert seen.packet == bytes(frame)
    assert not world.flows(6)


@pytest.mark.parametrize("protocol", [50, 51, 59, 135])
def test_what_hides_the_ports_is_of_no_service(world: World, protocol: int) -> None:
    frame = client_frame(base(True, str(VIP6_TCP.address), nh=protocol), b"\0P" * 20)
    seen = world.arrive(frame)
    assert (seen.action, seen.reason) == (XDP_PASS, Reason.XSK_IPV6)
    assert seen.packet == bytes(frame)


@pytest.mark.parametrize(
    ("six", "dst", "reason"),
    [
        (False, NODE_ADDRESS, Reason.PASS_IPV4),
        (False, STRANGER, Reason.XSK_IPV4),
        (True, NODE_ADDRESS6, Reason.PASS_IPV6),
        (True, STRANGER6, Reason.XSK_IPV6),
    ],
)
def test_of_no_service(world: World, six: bool, dst: str, reason: Reason) -> None:
    ip = (
        chained(base(True, dst), CHAINS["all of them"])
        if six
        else base(False, dst, options=OPTIONS["nop"])
    )
    frame = client_frame(ip, TCP(sport=CLIENT_PORT, dport=22))
    seen = world.arrive(frame)
    assert (seen.action, seen.reason) == (XDP_PASS, reason)
    assert seen.packet == bytes(frame)
