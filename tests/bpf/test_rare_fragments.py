"""Fragments follow their first one, both ways and in both families."""

from __future__ import annotations

from typing import Any

import pytest
from scapy.layers.inet import IP, TCP, UDP, fragment
from scapy.layers.inet6 import IPv6, IPv6ExtHdrFragment, defragment6, fragment6
from scapy.layers.l2 import Ether
from scapy.packet import Packet, Raw

from bpf.abi import AddressFlag, Place, Reason, VipFlag
from tests.bpf.rarepackets import (
    base,
    client_frame,
    error_of,
    service_address,
    tagged,
    to_backend,
    to_client,
    turned,
    untagged,
)
from tests.bpf.world import (
    CLIENT_PORT,
    DNS,
    DNS6,
    GATEWAY_MAC,
    NODE_ADDRESS,
    OTHER_NODE_MAC,
    SERVICE_MAC,
    STRANGER,
    UPLINK_MAC,
    VIP6_UDP,
    VIP_TCP,
    VIP_UDP,
    XDP_DROP,
    XDP_PASS,
    XDP_REDIRECT,
    XDP_TX,
    To,
    World,
    built,
)

pytestmark = pytest.mark.bpf

FAMILIES = pytest.mark.parametrize("six", [False, True], ids=["ipv4", "ipv6"])
BODY = bytes(range(256)) * 12


def parts(whole: Packet, size: int = 1200) -> list[bytes]:
    """The frames that carry a datagram in fragments."""
    frame = Ether(bytes(whole))
    if IPv6 in frame:
        six = frame[IPv6]
        long = IPv6(src=six.src, dst=six.dst, hlim=six.hlim) / IPv6ExtHdrFragment() / six.payload
        found = fragment6(long, size)
    else:
        found = fragment(frame[IP], fragsize=size)
    head = Ether(src=frame.src, dst=frame.dst)
    return [bytes(head / IPv6(bytes(p)) if IPv6 in frame else head / IP(bytes(p))) for p in found]


def whole_of(frames: list[bytes]) -> bytes:
    """The datagram of fragments, behind its IP header; put together by hand for IPv4."""
    if IPv6 in Ether(frames[0]):
        return bytes(defragment6([Ether(octets)[IPv6] for octets in frames]).payload)
    body = bytearray()
    for octets in frames:
        ip = Ether(octets)[IP]
        at = ip.frag * 8
        data = bytes(ip.payload)[: ip.len - ip.ihl * 4]
        body[at : at + len(data)] = data
    return bytes(body)


def asked(six: bool, body: bytes = BODY, **fields: Any) -> Packet:
    vip = VIP6_UDP if six else VIP_UDP
    fields.setdefault("id", 77) if not six else None
    return client_frame(
        base(six, str(vip.address), **fields), UDP(sport=CLIENT_PORT, dport=vip.port) / Raw(body)
    )


def answer(world: World, six: bool, body: bytes = BODY) -> Packet:
    """The backend's answer to `asked`, which has been there."""
    target = DNS6 if six else DNS
    ip = (IPv6 if six else IP)(src=str(target.address), dst=service_address(six))
    if not six:
        ip.id = 99
    udp = UDP(sport=target.port, dport=world.port_of(asked(six))) / Raw(body)
    return built(Ether(src=GATEWAY_MAC, dst=SERVICE_MAC) / ip / udp)


@FAMILIES
def test_a_datagram_in_fragments_and_its_answer(world: World, six: bool) -> None:
    vip, target = (VIP6_UDP, DNS6) if six else (VIP_UDP, DNS)
    sent = parts(asked(six))
    seen = [world.arrive(octets) for octets in sent]
    assert [s.reason for s in seen] == [Reason.VIP_NEW] + [Reason.VIP_FRAGMENT] * (len(sent) - 1)
    assert all(s.action == XDP_PASS for s in seen)
    wanted = bytes(Ether(to_backend(asked(six), target, world.port_of(asked(six))))[UDP])
    assert whole_of([s.packet for s in seen]) == wanted
    for before, after in zip(sent[1:], seen[1:], strict=True):
        assert after.packet == turned(
            before, src=service_address(six), dst=str(target.address), macs=(None, GATEWAY_MAC)
        )
    back = parts(answer(world, six))
    returned = [world.deliver(octets) for octets in back]
    assert [s.reason for s in returned] == [Reason.SVC_REPLY] + [Reason.SVC_FRAGMENT] * (
        len(back) - 1
    )
    assert all(s.action == XDP_REDIRECT for s in returned)
    wanted = bytes(Ether(to_client(answer(world, six), vip))[UDP])
    assert whole_of([s.packet for s in returned]) == wanted
    for octets in [s.packet for s in returned[1:]]:
        assert Ether(octets).src == UPLINK_MAC


@FAMILIES
def test_a_later_fragment_alone_is_counted(world: World, six: bool) -> None:
    later = parts(asked(six))[1]
    vip = VIP6_UDP if six else VIP_UDP
    world.know(str(vip.address), AddressFlag.ADDRESS_VIP | AddressFlag.ADDRESS_OWNED)
    seen = world.arrive(later)
    assert (seen.action, seen.reason) == (XDP_DROP, Reason.DROP_FRAGMENT_MISS)
    assert seen.packet == later
    world.arrive(asked(six))
    seen = world.deliver(parts(answer(world, six))[1])
    assert (seen.action, seen.reason) == (XDP_DROP, Reason.DROP_FRAGMENT_MISS)


@FAMILIES
def test_fragments_of_another_datagram_do_not_follow(world: World, six: bool) -> None:
    vip = VIP6_UDP if six else VIP_UDP
    world.know(str(vip.address), AddressFlag.ADDRESS_VIP)
    first = parts(asked(six))[0]
    assert world.arrive(first).reason is Reason.VIP_NEW
    other = bytearray(parts(asked(six))[1])
    other[14 + (44 if six else 4)] ^= 1
    assert world.arrive(bytes(other)).reason is Reason.DROP_FRAGMENT_MISS


@FAMILIES
def test_fragments_are_forgotten_with_their_flow_and_after_a_while(world: World, six: bool) -> None:
    vip = VIP6_UDP if six else VIP_UDP
    world.know(str(vip.address), AddressFlag.ADDRESS_VIP)
    sent = parts(asked(six), 1000)
    world.arrive(sent[0])
    assert world.arrive(sent[1]).reason is Reason.VIP_FRAGMENT
    world.pass_time(31)
    assert world.arrive(sent[2]).reason is Reason.DROP_FRAGMENT_MISS
    world.arrive(sent[0])
    (flow,) = world.flows(6 if six else 4).values()
    name = "ct6" if six else "ct4"
    key = flow.number.to_bytes(4, "little")
    octets = bytearray(world.maps[name].lookup(key) or b"")
    octets[0] = octets[0] + 1 & 0xFF  # its life: the flow ends
    world.maps[name].update(key, bytes(octets))
    assert world.arrive(sent[1]).reason is Reason.DROP_FRAGMENT_MISS


def test_tagged_fragments(world: World) -> None:
    sent = parts(asked(False))
    seen = [world.arrive(tagged(octets, 7)) for octets in sent]
    assert [s.reason for s in seen] == [Reason.VIP_NEW] + [Reason.VIP_FRAGMENT] * (len(sent) - 1)
    assert whole_of([s.packet for s in seen]) == bytes(
        Ether(to_backend(asked(False), DNS, world.port_of(asked(False))))[UDP]
    )
    back = [world.deliver(octets) for octets in parts(answer(world, False))]
    assert all(s.packet[12:16] == b"\x81\x00\x00\x07" for s in back)
    wanted = bytes(Ether(to_client(answer(world, False), VIP_UDP))[UDP])
    assert whole_of([untagged(s.packet) for s in back]) == wanted


def test_a_datagram_without_a_checksum_keeps_none(world: World) -> None:
    packet = asked(False)
    packet[UDP].chksum = 0
    del packet[IP].chksum
    seen = [world.arrive(octets) for octets in parts(packet)]
    assert whole_of([s.packet for s in seen])[6:8] == b"\0\0"


def test_a_first_fragment_has_to_have_its_header(world: World) -> None:
    tcp = client_frame(
        base(False, str(VIP_TCP.address), id=3), TCP(sport=CLIENT_PORT, dport=80) / Raw(BODY)
    )
    tiny = bytes(
        Ether(bytes(tcp)[:14]) / IP(bytes(parts(tcp, 16)[0])[14:])
    )  # 16 octets of TCP (RFC 1858)
    seen = world.arrive(tiny)
    assert (seen.action, seen.reason) == (XDP_DROP, Reason.DROP_VIP_MALFORMED)
    assert seen.packet == tiny


@pytest.mark.parametrize(
    ("dst", "reason"), [(NODE_ADDRESS, Reason.PASS_IPV4), (STRANGER, Reason.XSK_IPV4)]
)
def test_fragments_of_no_service(world: World, dst: str, reason: Reason) -> None:
    packet = client_frame(base(False, dst, id=4), UDP(sport=1, dport=2) / Raw(BODY))
    for octets in parts(packet):
        seen = world.arrive(octets)
        assert (seen.action, seen.reason, seen.packet) == (XDP_PASS, reason, octets)


def test_fragments_are_handed_to_another_node(world: World) -> None:
    flags = VipFlag.VIP_SNAT | VipFlag.VIP_DSR
    world.serve(VIP_UDP, [To(DNS, Place.PLACE_REMOTE, mac=OTHER_NODE_MAC)], flags)
    sent = parts(asked(False))
    seen = [world.arrive(octets) for octets in sent]
    assert [s.reason for s in seen] == [Reason.VIP_DIRECT] + [Reason.VIP_FRAGMENT] * (len(sent) - 1)
    for before, after in zip(sent, seen, strict=True):
        assert after.action == XDP_TX
        assert after.packet[12:] == before[12:]
        assert Ether(after.packet).dst == OTHER_NODE_MAC


@FAMILIES
def test_a_first_fragment_too_big_is_answered_and_the_rest_dropped(world: World, six: bool) -> None:
    vip, target = (VIP6_UDP, DNS6) if six else (VIP_UDP, DNS)
    world.know(str(vip.address), AddressFlag.ADDRESS_VIP)
    world.serve(vip, [To(target, mtu=1280)])
    first, *rest = parts(asked(six), 1400)
    seen = world.arrive(first)
    assert (seen.action, seen.reason) == (XDP_TX, Reason.ANSWER_TOO_BIG)
    error_of(seen.packet)
    assert world.arrive(rest[0]).reason is Reason.DROP_FRAGMENT_MISS
