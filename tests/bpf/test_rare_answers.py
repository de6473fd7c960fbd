"""What the program says itself: RST, unreachable, too big, time exceeded, ARP and ND for VIPs."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP, IPOption_NOP
from scapy.layers.inet6 import (
    ICMPv6ND_NA,
    ICMPv6ND_NS,
    ICMPv6NDOptDstLLAddr,
    ICMPv6NDOptSrcLLAddr,
    IPv6,
    IPv6ExtHdrDestOpt,
    PadN,
)
from scapy.layers.l2 import ARP, Ether
from scapy.packet import Packet, Raw

from bpf.abi import AddressFlag, Reason, VipFlag
from dataplane.model.addr import L4Addr
from tests.bpf.rarepackets import base, client_frame, error_of, sound, tagged, untagged
from tests.bpf.world import (
    CLIENT,
    CLIENT6,
    CLIENT_MAC,
    CLIENT_PORT,
    DNS,
    DNS6,
    GATEWAY_MAC,
    NODE_ADDRESS,
    NODE_ADDRESS6,
    SERVICE_ADDRESS,
    SERVICE_ADDRESS6,
    SERVICE_MAC,
    STRANGER,
    STRANGER6,
    UPLINK_MAC,
    VIP6_TCP,
    VIP6_UDP,
    VIP_LOCAL,
    VIP_TCP,
    VIP_UDP,
    WEB,
    WEB6,
    XDP_DROP,
    XDP_PASS,
    XDP_TX,
    Seen,
    To,
    World,
    built,
    from_backend,
    from_client,
    ip_of,
    tcp,
    udp,
)

pytestmark = pytest.mark.bpf

REJECTING = VipFlag.VIP_SNAT | VipFlag.VIP_REJECT
EMPTY, EMPTY6 = tcp("192.0.2.40", 80), tcp("2001:db8:1::40", 80)
EMPTY_UDP, EMPTY6_UDP = udp("192.0.2.40", 53), udp("2001:db8:1::40", 53)
FAMILIES = pytest.mark.parametrize("six", [False, True], ids=["ipv4", "ipv6"])


@pytest.fixture
def refusing(world: World) -> World:
    """Services without backends that refuse, and their addresses known as VIPs'."""
    for vip in (EMPTY, EMPTY6, EMPTY_UDP, EMPTY6_UDP):
        world.serve(vip, [], REJECTING)
        world.know(str(vip.address), AddressFlag.ADDRESS_VIP | AddressFlag.ADDRESS_OWNED)
    return world


def back_to_client(seen: Seen, vip: L4Addr) -> Packet:
    """The answer, which goes from the VIP to the client."""
    assert seen.action == XDP_TX
    frame = Ether(seen.packet)
    six = vip.address.version == 6
    assert (frame.src, frame.dst) == (UPLINK_MAC, CLIENT_MAC)
    ip = ip_of(frame)
    assert (ip.src, ip.dst) == (str(vip.address), CLIENT6 if six else CLIENT)
    assert (ip.hlim if six else ip.ttl) == 64
    return frame


RESETS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "syn": ({"flags": "S", "seq": 100}, {"flags": "RA", "seq": 0, "ack": 101}),
    "syn with data": ({"flags": "S", "seq": 100, "data": 5}, {"flags": "RA", "ack": 106, "seq": 0}),
    "at the end of numbers": (
        {"flags": "S", "seq": 0xFFFFFFFF, "data": 5},
        {"flags": "RA", "ack": 5, "seq": 0},
    ),
    "fin without ack": ({"flags": "F", "seq": 7, "data": 3}, {"flags": "RA", "ack": 11, "seq": 0}),
    "ack": ({"flags": "A", "seq": 1, "ack": 77, "data": 9}, {"flags": "R", "seq": 77, "ack": 0}),
    "syn ack": ({"flags": "SA", "seq": 1, "ack": 78}, {"flags": "R", "seq": 78, "ack": 0}),
    "with options": (
        {"flags": "S", "seq": 1, "options": [("MSS", 1460), ("SAckOK", b"")]},
        {"flags": "RA", "seq": 0, "ack": 2},
    ),
}


@FAMILIES
@pytest.mark.parametrize(("sent", "wanted"), RESETS.values(), ids=list(RESETS))
def test_a_reset(refusing: World, six: bool, sent: dict[str, Any], wanted: dict[str, Any]) -> None:
    vip = EMPTY6 if six else EMPTY
    fields = {name: value for name, value in sent.items() if name != "data"}
    segment = TCP(sport=CLIENT_PORT, dport=80, **fields) / Raw(b"d" * sent.get("data", 0))
    seen = refusing.arrive(client_frame(base(six, str(vip.address)), segment))
    assert seen.reason is Reason.ANSWER_RST
    frame = back_to_client(seen, vip)
    sound(seen.packet)
    answer = frame[TCP]
    assert (answer.sport, answer.dport) == (80, CLIENT_PORT)
    assert {"flags": str(answer.flags), "seq": answer.seq, "ack": answer.ack} == wanted
    assert len(seen.packet) == 14 + (40 if six else 20) + 20
    assert answer.window == 0


@FAMILIES
def test_a_reset_of_a_rare_packet(refusing: World, six: bool) -> None:
    ip = base(six, str((EMPTY6 if six else EMPTY).address))
    if six:
        ip = ip / IPv6ExtHdrDestOpt(options=[PadN(optdata=b"\0" * 4)])
    else:
        ip.options = [IPOption_NOP()] * 4
    frame = client_frame(ip, TCP(sport=CLIENT_PORT, dport=80, seq=9) / Raw(b"12345"))
    for octets in (bytes(frame), tagged(frame, 7), tagged(frame, 7, 8)):
        seen = refusing.arrive(octets)
        assert (seen.action, seen.reason) == (XDP_TX, Reason.ANSWER_RST)
        if len(octets) > len(frame):
            assert (
                seen.packet[12 : 12 + len(octets) - len(frame)]
                == octets[12:][: len(octets) - len(frame)]
            )
        assert sound(untagged(seen.packet))[TCP].ack == 15


@FAMILIES
@pytest.mark.parametrize("size", [0, 1, 3, 35, 500, 1400])
def test_a_port_unreachable(refusing: World, six: bool, size: int) -> None:
    vip = EMPTY6_UDP if six else EMPTY_UDP
    asked = client_frame(
        base(six, str(vip.address)), UDP(sport=CLIENT_PORT, dport=53) / Raw(b"q" * size)
    )
    for octets in (bytes(asked), tagged(asked, 7), bytes(asked) + b"\0" * 18):
        seen = refusing.arrive(octets)
        assert seen.reason is Reason.ANSWER_UNREACHABLE
        back_to_client(replace(seen, packet=untagged(seen.packet)), vip)
        error = error_of(untagged(seen.packet))
        assert (error.type, error.code, error.value) == ((1, 4, 0) if six else (3, 3, 0))
        assert error.quoted == bytes(asked)[14:][: 1232 if six else 548]
        assert len(untagged(seen.packet)) <= 14 + (1280 if six else 576)


@FAMILIES
def test_a_port_without_service_is_refused(refusing: World, six: bool) -> None:
    vip = udp("2001:db8:1::40" if six else "192.0.2.40", 9999)
    asked = client_frame(base(six, str(vip.address)), UDP(sport=1, dport=9999) / Raw(b"hello"))
    seen = refusing.arrive(tagged(asked, 7))
    assert seen.reason is Reason.ANSWER_UNREACHABLE
    assert error_of(untagged(seen.packet)).quoted == bytes(asked)[14:]


def silent() -> dict[str, tuple[Packet, Reason]]:
    udp_to = UDP(sport=CLIENT_PORT, dport=53) / Raw(b"x" * 20)
    tcp_to = TCP(sport=CLIENT_PORT, dport=80, flags="R")
    dst, dst6 = str(EMPTY.address), str(EMPTY6.address)
    group = client_frame(base(False, dst), udp_to)
    group.dst = "ff:ff:ff:ff:ff:ff"
    drop = Reason.DROP_NO_BACKEND
    return {
        "a reset": (client_frame(base(False, dst), tcp_to), drop),
        "a reset of IPv6": (client_frame(base(True, dst6), tcp_to), drop),
        "to all of the link": (group, drop),
        "a first fragment": (client_frame(base(False, dst, flags="MF"), udp_to), drop),
        "from nobody": (client_frame(IP(src="0.0.0.0", dst=dst), udp_to), drop),
        "from a group": (client_frame(IP(src="224.0.0.1", dst=dst), udp_to), drop),
        "from this host": (client_frame(IP(src="127.0.0.1", dst=dst), udp_to), drop),
        "from all": (client_frame(IP(src="255.255.255.255", dst=dst), udp_to), drop),
        "from nobody, IPv6": (client_frame(IPv6(src="::", dst=dst6), udp_to), drop),
        "from a group, IPv6": (client_frame(IPv6(src="ff02::1", dst=dst6), udp_to), drop),
        "at its last hop from a group": (
            client_frame(IP(src="224.0.0.1", dst=str(VIP_UDP.address), ttl=1), udp_to),
            Reason.DROP_VIP_TTL,
        ),
    }


@pytest.mark.parametrize(("packet", "reason"), silent().values(), ids=list(silent()))
def test_what_is_not_answered(refusing: World, packet: Packet, reason: Reason) -> None:
    seen = refusing.arrive(packet)
    assert (seen.action, seen.reason, seen.packet) == (XDP_DROP, reason, bytes(packet))


@FAMILIES
def test_a_packet_at_its_last_hop(world: World, six: bool) -> None:
    vip = VIP6_UDP if six else VIP_UDP
    world.know(str(vip.address), AddressFlag.ADDRESS_VIP)
    asked = from_client(vip, hlim=1) if six else from_client(vip, ttl=1)
    for octets in (bytes(asked), tagged(asked, 7)):
        seen = world.arrive(octets)
        assert seen.reason is Reason.ANSWER_TTL
        back_to_client(replace(seen, packet=untagged(seen.packet)), vip)
        error = error_of(untagged(seen.packet))
        assert (error.type, error.code, error.value) == (3 if six else 11, 0, 0)
        assert error.quoted == bytes(asked)[14:]


@FAMILIES
def test_a_reply_at_its_last_hop_is_answered_by_svc0(world: World, six: bool) -> None:
    vip = VIP6_TCP if six else VIP_TCP
    answer = from_backend(world.arrive(from_client(vip)).packet)
    if six:
        answer[IPv6].hlim = 1
    else:
        answer[IP].ttl = 1
        del answer[IP].chksum
    seen = world.deliver(built(answer))
    assert (seen.action, seen.reason) == (XDP_TX, Reason.ANSWER_TTL)
    assert (Ether(seen.packet).src, Ether(seen.packet).dst) == (SERVICE_MAC, GATEWAY_MAC)
    error = error_of(seen.packet)
    assert error.src == (SERVICE_ADDRESS6 if six else SERVICE_ADDRESS)
    assert error.dst == str((WEB6 if six else WEB).address)
    assert error.quoted == bytes(built(answer))[14:]


def test_a_reply_to_a_kept_client_at_its_last_hop(world: World) -> None:
    answer = from_backend(world.arrive(from_client(VIP_LOCAL)).packet)
    # The rules of br-ex lead it to svc0, whatever MAC it was sent to.
    answer[Ether].dst = CLIENT_MAC
    answer[IP].ttl = 1
    del answer[IP].chksum
    seen = world.deliver(built(answer))
    assert (Ether(seen.packet).src, Ether(seen.packet).dst) == (SERVICE_MAC, GATEWAY_MAC)
    error = error_of(seen.packet)
    assert (error.src, error.dst) == (SERVICE_ADDRESS, str(WEB.address))


@FAMILIES
def test_a_packet_too_big_for_the_backends_path(world: World, six: bool) -> None:
    vip, target = (VIP6_UDP, DNS6) if six else (VIP_UDP, DNS)
    world.know(str(vip.address), AddressFlag.ADDRESS_VIP)
    world.serve(vip, [To(target, mtu=1400)])
    fits = 1400 - (48 if six else 28)
    for octets in (
        bytes(from_client(vip, payload=b"x" * fits)),
        tagged(from_client(vip, payload=b"x" * fits), 7),
    ):
        assert world.arrive(octets).reason in (Reason.VIP_NEW, Reason.VIP_FORWARD)
    asked = from_client(vip, payload=b"x" * (fits + 1))
    for octets in (bytes(asked), tagged(asked, 7)):
        seen = world.arrive(octets)
        assert seen.reason is Reason.ANSWER_TOO_BIG
        back_to_client(replace(seen, packet=untagged(seen.packet)), vip)
        error = error_of(untagged(seen.packet))
        assert (error.type, error.code, error.value) == ((2, 0, 1400) if six else (3, 4, 1400))
        assert error.quoted == bytes(asked)[14:][: 1232 if six else 548]


def test_a_flood_is_not_answered_without_end(refusing: World) -> None:
    frame = bytes(client_frame(base(False, str(EMPTY.address)), TCP(sport=1, dport=80)))
    reasons = [refusing.arrive(frame).reason for _ in range(600)]
    assert reasons[0] is Reason.ANSWER_RST
    assert set(reasons) == {Reason.ANSWER_RST, Reason.DROP_ANSWER_LIMIT}
    refusing.pass_time(10)
    assert refusing.arrive(frame).reason is Reason.ANSWER_RST


OWNED = AddressFlag.ADDRESS_OWNED | AddressFlag.ADDRESS_VIP
BROADCAST = "ff:ff:ff:ff:ff:ff"
VIP, VIP6 = str(VIP_TCP.address), str(VIP6_TCP.address)


def who_has(target: str, source: str = CLIENT, **fields: Any) -> bytes:
    question = ARP(hwsrc=CLIENT_MAC, psrc=source, pdst=target, **fields)
    return bytes(built(Ether(src=CLIENT_MAC, dst=BROADCAST) / question / Raw(b"\0" * 18)))


@pytest.mark.parametrize("tags", [(), (7,), (7, 8)], ids=["", "tagged", "qinq"])
@pytest.mark.parametrize("source", [CLIENT, "0.0.0.0"], ids=["asked", "tried out"])
def test_arp_for_a_vip(world: World, tags: tuple[int, ...], source: str) -> None:
    world.know(VIP, OWNED)
    question = who_has(VIP, source)
    octets = tagged(question, *tags) if tags else question
    seen = world.arrive(octets)
    assert (seen.action, seen.reason) == (XDP_TX, Reason.ANSWER_ARP)
    assert len(seen.packet) == len(octets)
    assert seen.packet[12 : 12 + 4 * len(tags)] == octets[12 : 12 + 4 * len(tags)]
    frame = Ether(untagged(seen.packet))
    assert (frame.src, frame.dst) == (UPLINK_MAC, CLIENT_MAC)
    answer = frame[ARP]
    assert (answer.op, answer.hwsrc, answer.psrc) == (2, UPLINK_MAC, VIP)
    assert (answer.hwdst, answer.pdst) == (CLIENT_MAC, source)


@pytest.mark.parametrize(
    ("octets", "reason"),
    [
        (who_has(VIP), Reason.XSK_ARP),
        (who_has(STRANGER), Reason.XSK_ARP),
        (who_has(NODE_ADDRESS), Reason.PASS_ARP),
        (tagged(who_has(NODE_ADDRESS), 7), Reason.XSK_ARP),
        (who_has("192.0.2.20", "192.0.2.20"), Reason.XSK_ARP),
        (who_has("192.0.2.20", op=2), Reason.XSK_ARP),
        (who_has("192.0.2.20")[:41], Reason.XSK_ARP),
    ],
    ids=["VIP of others", "stranger", "node", "node, tagged", "announced", "answer", "cut"],
)
def test_other_arp(world: World, octets: bytes, reason: Reason) -> None:
    world.know("192.0.2.20", OWNED)
    seen = world.arrive(octets)
    assert (seen.action, seen.reason, seen.packet) == (XDP_PASS, reason, octets)


def solicit(target: str, source: str = CLIENT6, *, option: bool = True, **fields: Any) -> bytes:
    question: Packet = ICMPv6ND_NS(tgt=target)
    if option:
        question = question / ICMPv6NDOptSrcLLAddr(lladdr=CLIENT_MAC)
    fields = {"dst": "ff02::1:ff00:10", "hlim": 255, **fields}
    frame = Ether(src=CLIENT_MAC, dst="33:33:ff:00:00:10") / IPv6(src=source, **fields) / question
    return bytes(built(frame))


@pytest.mark.parametrize("tags", [(), (7,)], ids=["", "tagged"])
@pytest.mark.parametrize("option", [True, False], ids=["with its MAC", "without"])
@pytest.mark.parametrize("source", [CLIENT6, "::"], ids=["asked", "tried out"])
def test_a_solicitation_for_a_vip(
    world: World, tags: tuple[int, ...], option: bool, source: str
) -> None:
    world.know(VIP6, OWNED)
    question = solicit(VIP6, source, option=option)
    octets = tagged(question, *tags) if tags else question
    seen = world.arrive(octets)
    assert (seen.action, seen.reason) == (XDP_TX, Reason.ANSWER_ND)
    assert seen.packet[12 : 12 + 4 * len(tags)] == octets[12 : 12 + 4 * len(tags)]
    frame = sound(untagged(seen.packet))
    tried_out = source == "::"
    assert frame.src == UPLINK_MAC
    assert frame.dst == ("33:33:00:00:00:01" if tried_out else CLIENT_MAC)
    assert (frame[IPv6].src, frame[IPv6].hlim) == (VIP6, 255)
    assert frame[IPv6].dst == ("ff02::1" if tried_out else CLIENT6)
    answer = frame[ICMPv6ND_NA]
    assert (answer.R, answer.S, answer.O, answer.tgt) == (0, not tried_out, 1, VIP6)
    assert frame[ICMPv6NDOptDstLLAddr].lladdr == UPLINK_MAC
    assert len(bytes(frame)) == 14 + 40 + 32


@pytest.mark.parametrize(
    ("octets", "reason"),
    [
        (solicit(VIP6), Reason.XSK_IPV6),
        (solicit(STRANGER6), Reason.XSK_IPV6),
        (solicit(NODE_ADDRESS6), Reason.PASS_ND),
        (tagged(solicit(NODE_ADDRESS6), 7), Reason.XSK_VLAN),
        (solicit("2001:db8:1::20", hlim=64), Reason.XSK_IPV6),
        (solicit("2001:db8:1::20", "2001:db8:1::20"), Reason.XSK_IPV6),
    ],
    ids=["VIP of others", "stranger", "node", "node, tagged", "from afar", "announced"],
)
def test_other_solicitations(world: World, octets: bytes, reason: Reason) -> None:
    world.know("2001:db8:1::20", OWNED)
    seen = world.arrive(octets)
    assert (seen.action, seen.reason, seen.packet) == (XDP_PASS, reason, octets)


def test_questions_at_svc0_are_the_kernels(world: World) -> None:
    world.know(VIP, OWNED)
    world.know(VIP6, OWNED)
    for octets, reason in (
        (who_has(VIP), Reason.SVC_PASS_ARP),
        (solicit(VIP6), Reason.SVC_PASS_ND),
        (solicit(SERVICE_ADDRESS6), Reason.SVC_PASS_ND),
    ):
        seen = world.deliver(octets)
        assert (seen.action, seen.reason, seen.packet) == (XDP_PASS, reason, octets)


def test_a_client_behind_ovn_is_answered_through_the_gateway(refusing: World) -> None:
    asked = client_frame(IP(src="10.16.0.50", dst=str(EMPTY_UDP.address)), UDP(dport=53))
    asked.src, asked.dst = GATEWAY_MAC, SERVICE_MAC
    seen = refusing.deliver(asked)
    assert (seen.action, seen.reason) == (XDP_TX, Reason.ANSWER_UNREACHABLE)
    assert (Ether(seen.packet).src, Ether(seen.packet).dst) == (SERVICE_MAC, GATEWAY_MAC)
    error = error_of(seen.packet)
    assert (error.src, error.dst) == (str(EMPTY_UDP.address), "10.16.0.50")
    assert ICMP in Ether(seen.packet)
