"""ICMP errors about translated flows, both ways and in both families; echo requests for VIPs.

The error is written by hand around the packet that it is about, cut after any number of octets;
what it has to become is the same error around that packet as the other side knows it.
"""

from __future__ import annotations

import struct
from ipaddress import ip_address

import pytest
from scapy.layers.inet import ICMP, IP, IPOption_NOP
from scapy.layers.inet6 import ICMPv6EchoRequest, IPv6, IPv6ExtHdrDestOpt, PadN
from scapy.layers.l2 import Ether
from scapy.layers.sctp import SCTP, SCTPChunkData
from scapy.packet import Packet, Raw

from bpf.abi import AddressFlag, CtState, Place, Reason, VipFlag
from dataplane.model.addr import L4Addr, Protocol
from tests.bpf.rarepackets import (
    IcmpError,
    base,
    client_frame,
    error_of,
    folded,
    pseudo_header,
    service_address,
    tagged,
    untagged,
)
from tests.bpf.world import (
    CLIENT,
    CLIENT6,
    CLIENT_MAC,
    DNS,
    DNS6,
    GATEWAY_MAC,
    NODE_ADDRESS,
    NODE_ADDRESS6,
    NODE_PORT,
    OTHER_NODE_MAC,
    SERVICE_MAC,
    STRANGER,
    STRANGER6,
    UPLINK_MAC,
    VIP6_LOCAL,
    VIP6_TCP,
    VIP6_UDP,
    VIP_LOCAL,
    VIP_TCP,
    VIP_UDP,
    WEB,
    WEB6,
    XDP_DROP,
    XDP_PASS,
    XDP_REDIRECT,
    XDP_TX,
    To,
    World,
    from_backend,
    from_client,
    ip_of,
)

pytestmark = pytest.mark.bpf

ROUTER, ROUTER6 = "198.51.100.1", "2001:db8:f::1"
INSIDE_ROUTER, INSIDE_ROUTER6 = "10.16.0.254", "fd10::fe"
SERVED = pytest.mark.parametrize(
    ("vip", "target"),
    [(VIP_TCP, WEB), (VIP_UDP, DNS), (VIP6_TCP, WEB6), (VIP6_UDP, DNS6)],
    ids=["tcp", "udp", "tcp6", "udp6"],
)
CUTS = pytest.mark.parametrize("octets", [8, 12, 17, 18, 20, 40, None])
KINDS4 = {"unreachable": (3, 3, 0), "too big": (3, 4, 1400), "time": (11, 0, 0), "bad": (12, 0, 20)}
KINDS6 = {"unreachable": (1, 4, 0), "too big": (2, 0, 1400), "time": (3, 0, 0), "bad": (4, 1, 40)}


def quoted(frame: bytes, octets: int | None) -> bytes:
    """The IP packet of a frame, cut behind so many octets of its transport."""
    ip = bytes(ip_of(Ether(frame)))
    header = 40 if ip[0] >> 4 == 6 else (ip[0] & 15) * 4
    return ip if octets is None else ip[: header + octets]


def error(
    src: str, dst: str, about: bytes, kind: tuple[int, int, int] | None = None, **fields: object
) -> bytes:
    """An error as it comes in, by whichever side; its MACs are set by `outside` and `inside`."""
    six = ":" in src
    number, code, value = kind or (KINDS6 if six else KINDS4)["too big"]
    ip = IPv6(src=src, dst=dst, nh=58, **fields) if six else IP(src=src, dst=dst, proto=1, **fields)
    body = struct.pack("!BBHI", number, code, 0, value) + about
    head = pseudo_header(IPv6(bytes(ip / Raw(body))), 58, len(body)) if six else b""
    body = body[:2] + struct.pack("!H", ~folded(head + body) & 0xFFFF) + body[4:]
    return bytes(ip / Raw(body))


def outside(ip: bytes) -> bytes:
    head = Ether(src=CLIENT_MAC, dst=UPLINK_MAC, type=0x86DD if ip[0] >> 4 == 6 else 0x800)
    return bytes(head) + ip


def inside(ip: bytes) -> bytes:
    head = Ether(src=GATEWAY_MAC, dst=SERVICE_MAC, type=0x86DD if ip[0] >> 4 == 6 else 0x800)
    return bytes(head) + ip


def same_but_hops(got: bytes, wanted: bytes, half_a_checksum: bool = False) -> None:
    """The packet inside an error, as the other side sent it but for the hops since."""
    a, b = bytearray(got), bytearray(wanted)
    if a[0] >> 4 == 6:
        a[7] = b[7] = 0
    else:
        assert folded(bytes(a[: (a[0] & 15) * 4])) == 0xFFFF
        a[8] = b[8] = 0
        a[10:12] = b[10:12] = b"\0\0"
    # A checksum that is cut in two is left as it was.
    size = len(a) - 1 if half_a_checksum else len(a)
    assert (len(a), bytes(a[:size])) == (len(b), bytes(b[:size]))


@SERVED
@CUTS
def test_from_outside_about_a_reply(
    world: World, vip: L4Addr, target: L4Addr, octets: int | None
) -> None:
    six = vip.address.version == 6
    answer = from_backend(world.arrive(from_client(vip)).packet, payload=b"x" * 60)
    sent = world.deliver(answer).packet
    router = ROUTER6 if six else ROUTER
    for kind in (KINDS6 if six else KINDS4).values():
        seen = world.arrive(outside(error(router, str(vip.address), quoted(sent, octets), kind)))
        assert (seen.action, seen.reason) == (XDP_PASS, Reason.UPLINK_ICMP_ERROR)
        got = error_of(seen.packet)
        assert (got.type, got.code, got.value) == kind
        assert (got.src, got.dst) == (router, str(target.address))
        same_but_hops(got.quoted, quoted(bytes(answer), octets), octets == 17)
        assert Ether(seen.packet).dst == GATEWAY_MAC
        assert ip_of(Ether(seen.packet)).fields.get("ttl", 63) == 63


@SERVED
@CUTS
@pytest.mark.parametrize("by_router", [True, False], ids=["router", "backend"])
def test_from_inside_about_a_clients_packet(
    world: World, vip: L4Addr, target: L4Addr, octets: int | None, by_router: bool
) -> None:
    six = vip.address.version == 6
    asked = from_client(vip)
    sent = world.arrive(asked).packet
    router = INSIDE_ROUTER6 if six else INSIDE_ROUTER
    source = router if by_router else str(target.address)
    for kind in (KINDS6 if six else KINDS4).values():
        seen = world.deliver(
            inside(error(source, service_address(six), quoted(sent, octets), kind))
        )
        assert (seen.action, seen.reason) == (XDP_REDIRECT, Reason.SVC_ICMP_ERROR)
        got = error_of(seen.packet)
        assert (got.type, got.code, got.value) == kind
        wanted = router if by_router else str(vip.address)
        assert (got.src, got.dst) == (wanted, CLIENT6 if six else CLIENT)
        same_but_hops(got.quoted, quoted(bytes(asked), octets), octets == 17)
        assert (Ether(seen.packet).src, Ether(seen.packet).dst) == (UPLINK_MAC, CLIENT_MAC)


@pytest.mark.parametrize("vip", [VIP_LOCAL, VIP6_LOCAL], ids=["ipv4", "ipv6"])
def test_from_inside_to_a_client_whose_address_was_kept(world: World, vip: L4Addr) -> None:
    six = vip.address.version == 6
    asked = from_client(vip)
    sent = world.arrive(asked).packet
    client = CLIENT6 if six else CLIENT
    seen = world.deliver(inside(error(ip_of(Ether(sent)).dst, client, quoted(sent, 8))))
    assert (seen.action, seen.reason) == (XDP_REDIRECT, Reason.SVC_ICMP_ERROR)
    got = error_of(seen.packet)
    assert (got.src, got.dst) == (str(vip.address), client)
    same_but_hops(got.quoted, quoted(bytes(asked), 8))


def test_of_a_client_in_a_vlan(world: World) -> None:
    asked = from_client()
    sent = world.arrive(tagged(asked, 100, 200)).packet
    seen = world.deliver(inside(error(INSIDE_ROUTER, service_address(False), quoted(sent, 8))))
    assert (
        seen.packet[:20]
        == tagged(bytes(Ether(src=UPLINK_MAC, dst=CLIENT_MAC, type=0x800)), 100, 200)[:20]
    )
    same_but_hops(error_of(untagged(seen.packet)).quoted, quoted(bytes(asked), 8))
    back = world.deliver(from_backend(sent)).packet
    tagged_error = tagged(
        outside(error(ROUTER, str(VIP_TCP.address), quoted(untagged(back), 8))), 100, 200
    )
    seen = world.arrive(tagged_error)
    assert seen.reason is Reason.UPLINK_ICMP_ERROR
    assert error_of(seen.packet).dst == str(WEB.address)


@pytest.mark.parametrize("size", [8, 12, 13, None])
def test_about_sctp(world: World, size: int | None) -> None:
    vip = L4Addr(Protocol.SCTP, ip_address("192.0.2.10"), 3868)
    peer = L4Addr(Protocol.SCTP, ip_address("10.16.0.9"), 13868)
    world.serve(vip, [To(peer)])
    asked = client_frame(
        base(False, str(vip.address)),
        SCTP(sport=40000, dport=vip.port, tag=9) / SCTPChunkData(data=b"y" * 90),
    )
    sent = world.arrive(asked).packet
    seen = world.deliver(inside(error(INSIDE_ROUTER, service_address(False), quoted(sent, size))))
    assert seen.reason is Reason.SVC_ICMP_ERROR
    same_but_hops(error_of(seen.packet).quoted, quoted(bytes(asked), size))


def test_options_and_extension_headers_around_and_inside(world: World) -> None:
    asked = client_frame(
        base(False, str(VIP_UDP.address), options=[IPOption_NOP()] * 8),
        from_client(VIP_UDP)[IP].payload,
    )
    sent = world.arrive(asked).packet
    frame = inside(
        error(INSIDE_ROUTER, service_address(False), quoted(sent, 8), options=[IPOption_NOP()] * 4)
    )
    seen = world.deliver(frame)
    assert seen.reason is Reason.SVC_ICMP_ERROR
    same_but_hops(error_of(seen.packet).quoted, quoted(bytes(asked), 8))
    chain = base(True, str(VIP6_UDP.address)) / IPv6ExtHdrDestOpt(options=[PadN(optdata=b"\0" * 4)])
    asked = client_frame(chain, from_client(VIP6_UDP)[IPv6].payload)
    sent = world.arrive(asked).packet
    seen = world.deliver(inside(error(INSIDE_ROUTER6, service_address(True), quoted(sent, 16))))
    assert seen.reason is Reason.SVC_ICMP_ERROR
    same_but_hops(error_of(seen.packet).quoted, quoted(bytes(asked), 16))


def test_udp_without_a_checksum_stays_without(world: World) -> None:
    asked = from_client(VIP_UDP)
    asked["UDP"].chksum = 0
    sent = world.arrive(asked).packet
    seen = world.deliver(inside(error(INSIDE_ROUTER, service_address(False), quoted(sent, None))))
    assert error_of(seen.packet).quoted[26:28] == b"\0\0"


def test_about_a_flow_that_another_node_has(world: World) -> None:
    flags = VipFlag.VIP_SNAT | VipFlag.VIP_DSR
    world.serve(VIP_TCP, [To(WEB, Place.PLACE_REMOTE, mac=OTHER_NODE_MAC)], flags)
    asked = from_client()
    world.arrive(asked)
    about = IP(bytes(asked[IP]))
    about.src, about.dst = about.dst, about.src
    about["TCP"].sport, about["TCP"].dport = about["TCP"].dport, about["TCP"].sport
    frame = outside(error(ROUTER, str(VIP_TCP.address), bytes(about)[:28]))
    seen = world.arrive(frame)
    assert (seen.action, seen.reason) == (XDP_TX, Reason.UPLINK_ICMP_ERROR)
    assert seen.packet[12:] == frame[12:]
    assert Ether(seen.packet).dst == OTHER_NODE_MAC


def test_errors_do_not_keep_a_flow_alive_or_change_it(world: World) -> None:
    asked = from_client()
    sent = world.arrive(asked).packet
    before = {f.ends: f.fields for f in world.records()}
    world.pass_time(5)
    world.deliver(inside(error(INSIDE_ROUTER, service_address(False), quoted(sent, 20))))
    assert {f.ends: f.fields for f in world.records()} == before
    assert before[next(iter(before))]["state"] == CtState.CT_SYN


def test_an_error_about_a_flow_whose_time_is_over_is_none_of_ours(world: World) -> None:
    sent = world.arrive(from_client()).packet
    world.pass_time(31)
    frame = inside(error(INSIDE_ROUTER, service_address(False), quoted(sent, 20)))
    seen = world.deliver(frame)
    assert (seen.action, seen.reason, seen.packet) == (XDP_PASS, Reason.SVC_PASS_ICMP, frame)


def test_an_error_at_its_last_hop_is_dropped(world: World) -> None:
    sent = world.arrive(from_client()).packet
    frame = inside(error(INSIDE_ROUTER, service_address(False), quoted(sent, 20), ttl=1))
    seen = world.deliver(frame)
    assert (seen.action, seen.reason, seen.packet) == (XDP_DROP, Reason.DROP_VIP_TTL, frame)


STRANGE = {
    "too short inside": lambda sent: error(ROUTER, str(VIP_TCP.address), quoted(sent, 7)),
    "no packet inside": lambda sent: error(ROUTER, str(VIP_TCP.address), b""),
    "to another than sent it": lambda sent: error(ROUTER, STRANGER, quoted(sent, 8)),
    "of no flow": lambda sent: error(
        ROUTER, str(VIP_TCP.address), quoted(sent, 8)[:-8] + b"\0\1\0\2\0\0\0\0"
    ),
    "about a later fragment": lambda sent: error(
        ROUTER, str(VIP_TCP.address), sent[14:20] + b"\0\x10" + sent[22:60]
    ),
    "a redirect": lambda sent: error(ROUTER, str(VIP_TCP.address), quoted(sent, 8), (5, 0, 0)),
}


@pytest.mark.parametrize("made", STRANGE.values(), ids=list(STRANGE))
def test_what_is_about_no_flow_is_left_alone(world: World, made: object) -> None:
    back = world.deliver(from_backend(world.arrive(from_client()).packet)).packet
    assert callable(made)
    frame = outside(made(back))
    seen = world.arrive(frame)
    assert (seen.action, seen.reason, seen.packet) == (XDP_PASS, Reason.XSK_IPV4, frame)


def test_errors_to_the_node_are_the_kernels_unless_of_a_node_port(world: World) -> None:
    sent = bytes(from_client(NODE_PORT))
    own = IP(src=NODE_ADDRESS, dst=CLIENT) / from_client(tcp="A")["TCP"]
    frame = outside(error(ROUTER, NODE_ADDRESS, bytes(own)[:28]))
    seen = world.arrive(frame)
    assert (seen.action, seen.reason, seen.packet) == (XDP_PASS, Reason.PASS_IPV4, frame)
    answer = from_backend(world.arrive(sent).packet)
    back = world.deliver(answer).packet
    seen = world.arrive(outside(error(ROUTER, NODE_ADDRESS, quoted(back, 8))))
    assert seen.reason is Reason.UPLINK_ICMP_ERROR


OWNED = AddressFlag.ADDRESS_OWNED | AddressFlag.ADDRESS_VIP


def ping(six: bool, dst: str, **fields: object) -> Packet:
    request = ICMPv6EchoRequest(id=7, seq=1, data=b"abc") if six else ICMP(id=7, seq=1)
    return client_frame(base(six, dst, **fields), request / Raw(b"payload"))


@pytest.mark.parametrize("six", [False, True], ids=["ipv4", "ipv6"])
@pytest.mark.parametrize("tags", [(), (7,)], ids=["", "tagged"])
def test_a_vip_answers_an_echo_request(world: World, six: bool, tags: tuple[int, ...]) -> None:
    vip = str((VIP6_TCP if six else VIP_TCP).address)
    world.know(vip, OWNED)
    request = ping(six, vip)
    frame = tagged(request, *tags) if tags else bytes(request)
    seen = world.arrive(frame)
    assert (seen.action, seen.reason) == (XDP_TX, Reason.ANSWER_ECHO)
    got = untagged(seen.packet)
    assert (Ether(got).src, Ether(got).dst) == (UPLINK_MAC, CLIENT_MAC)
    answer = error_of(got)
    assert (answer.src, answer.dst) == (vip, CLIENT6 if six else CLIENT)
    assert (answer.type, answer.code) == (129 if six else 0, 0)
    assert answer.quoted == error_of(bytes(request)).quoted
    assert (answer.value, len(seen.packet)) == (7 << 16 | 1, len(frame))


@pytest.mark.parametrize(
    ("six", "dst", "reason"),
    [
        (False, str(VIP_TCP.address), Reason.XSK_IPV4),
        (True, str(VIP6_TCP.address), Reason.XSK_IPV6),
        (False, NODE_ADDRESS, Reason.PASS_IPV4),
        (True, NODE_ADDRESS6, Reason.PASS_IPV6),
        (False, STRANGER, Reason.XSK_IPV4),
        (True, STRANGER6, Reason.XSK_IPV6),
    ],
)
def test_other_echo_requests_are_left_alone(
    world: World, six: bool, dst: str, reason: Reason
) -> None:
    frame = bytes(ping(six, dst))
    seen = world.arrive(frame)
    assert (seen.action, seen.reason, seen.packet) == (XDP_PASS, reason, frame)


def test_icmp_at_svc0(world: World) -> None:
    world.know(str(VIP_TCP.address), OWNED)
    own = inside(bytes(ping(False, service_address(False))[IP]))
    seen = world.deliver(own)
    assert (seen.action, seen.reason, seen.packet) == (XDP_PASS, Reason.SVC_PASS_ICMP, own)
    seen = world.deliver(inside(bytes(ping(False, str(VIP_TCP.address))[IP])))
    assert (seen.action, seen.reason) == (XDP_TX, Reason.ANSWER_ECHO)
    assert (Ether(seen.packet).src, Ether(seen.packet).dst) == (SERVICE_MAC, GATEWAY_MAC)
    other = inside(bytes(ping(False, STRANGER)[IP]))
    seen = world.deliver(other)
    assert (seen.action, seen.reason, seen.packet) == (XDP_REDIRECT, Reason.SVC_UPLINK, other)


def test_an_error_that_is_cut_nowhere_changes_in_size(world: World) -> None:
    sent = world.arrive(from_client()).packet
    about = error(INSIDE_ROUTER, service_address(False), quoted(sent, 8))
    seen = world.deliver(inside(about) + b"\0" * 4)
    assert len(seen.packet) == len(about) + 14 + 4
    assert isinstance(error_of(seen.packet[:-4]), IcmpError)
