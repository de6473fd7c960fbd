"""Rare packets that are cut short or damaged: never rewritten, never half, and always counted.

A packet that says it is longer than it is has to leave exactly as it came, or not at all, with one
reason. What is damaged elsewhere may be translated, but then as any packet.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scapy.layers.inet import TCP, UDP, IPOption_NOP
from scapy.layers.inet6 import IPv6ExtHdrDestOpt, IPv6ExtHdrFragment, IPv6ExtHdrHopByHop, PadN
from scapy.layers.sctp import SCTP, SCTPChunkInit
from scapy.packet import Raw

from bpf.abi import AddressFlag, Reason
from dataplane.model.addr import L4Addr, Protocol
from tests.bpf.rarepackets import base, client_frame, tagged
from tests.bpf.test_rare_answers import solicit, who_has
from tests.bpf.test_rare_icmp import error, inside, outside, ping, quoted
from tests.bpf.world import (
    CLIENT_PORT,
    SERVICE_ADDRESS,
    SERVICE_ADDRESS6,
    VIP6_TCP,
    VIP6_UDP,
    VIP_TCP,
    VIP_UDP,
    WEB,
    XDP_ABORTED,
    Seen,
    To,
    World,
    from_backend,
    from_client,
)

pytestmark = pytest.mark.bpf

SCTP_VIP = L4Addr(Protocol.SCTP, VIP_TCP.address, 3868)
SCTP_PEER = L4Addr(Protocol.SCTP, WEB.address, 13868)
PAD = PadN(optdata=b"\0" * 4)
DATA = Raw(b"0123456789" * 6)


@pytest.fixture
def known(world: World) -> World:
    """Flows of both families, and VIPs of the node's own."""
    world.serve(SCTP_VIP, [To(SCTP_PEER)])
    for vip in (VIP_TCP, VIP6_TCP):
        world.know(str(vip.address), AddressFlag.ADDRESS_OWNED | AddressFlag.ADDRESS_VIP)
    return world


def options() -> bytes:
    ip = base(False, str(VIP_TCP.address), options=[IPOption_NOP()] * 12)
    return bytes(client_frame(ip, TCP(sport=CLIENT_PORT, dport=80) / DATA))


def extensions() -> bytes:
    ip = base(True, str(VIP6_UDP.address))
    ip = ip / IPv6ExtHdrHopByHop(options=[PAD]) / IPv6ExtHdrDestOpt(options=[PAD])
    return bytes(client_frame(ip / IPv6ExtHdrFragment(id=3), UDP(sport=7, dport=53) / DATA))


def first_fragment(six: bool) -> bytes:
    if six:
        ip = base(True, str(VIP6_UDP.address)) / IPv6ExtHdrFragment(id=9, m=1)
        return bytes(client_frame(ip, UDP(sport=7, dport=53, len=999, chksum=1) / DATA))
    ip = base(False, str(VIP_UDP.address), id=9, flags="MF")
    return bytes(client_frame(ip, UDP(sport=7, dport=53, len=999, chksum=1) / DATA))


def later_fragment(six: bool) -> bytes:
    if six:
        ip = base(True, str(VIP6_UDP.address)) / IPv6ExtHdrFragment(id=9, offset=8, nh=17)
        return bytes(client_frame(ip, DATA))
    return bytes(client_frame(base(False, str(VIP_UDP.address), id=9, frag=8, proto=17), DATA))


def icmp_in(world: World, six: bool) -> bytes:
    vip = VIP6_TCP if six else VIP_TCP
    answer = from_backend(world.arrive(from_client(vip)).packet)
    sent = world.deliver(answer).packet
    router = "2001:db8:f::1" if six else "198.51.100.1"
    return outside(error(router, str(vip.address), quoted(sent, 20)))


def icmp_out(world: World, six: bool) -> bytes:
    sent = world.arrive(from_client(VIP6_UDP if six else VIP_UDP)).packet
    router, own = ("fd10::fe", SERVICE_ADDRESS6) if six else ("10.16.0.254", SERVICE_ADDRESS)
    return inside(error(router, own, quoted(sent, None)))


def sctp(_: World) -> bytes:
    header = SCTP(sport=CLIENT_PORT, dport=SCTP_VIP.port)
    chunk = SCTPChunkInit(init_tag=1)
    return bytes(client_frame(base(False, str(VIP_TCP.address)), header / chunk))


Maker = Callable[[World], bytes]
UPLINK: dict[str, Maker] = {
    "tag": lambda _: tagged(from_client(), 7),
    "two tags, IPv6": lambda _: tagged(from_client(VIP6_UDP), 7, 8),
    "options": lambda _: options(),
    "extension headers": lambda _: extensions(),
    "first fragment": lambda _: first_fragment(six=False),
    "first fragment, IPv6": lambda _: first_fragment(six=True),
    "later fragment": lambda _: later_fragment(six=False),
    "later fragment, IPv6": lambda _: later_fragment(six=True),
    "sctp": sctp,
    "icmp error": lambda world: icmp_in(world, six=False),
    "icmpv6 error": lambda world: icmp_in(world, six=True),
    "echo": lambda _: bytes(ping(False, str(VIP_TCP.address))),
    "echo, IPv6": lambda _: bytes(ping(True, str(VIP6_TCP.address))),
    "arp": lambda _: who_has(str(VIP_TCP.address))[:42],
    "solicitation": lambda _: solicit(str(VIP6_TCP.address)),
}
INSIDE: dict[str, Maker] = {
    "icmp error": lambda world: icmp_out(world, six=False),
    "icmpv6 error": lambda world: icmp_out(world, six=True),
    "reply of a client in a vlan": lambda world: bytes(
        from_backend(world.arrive(tagged(from_client(), 7)).packet)
    ),
}
BOTH = [(name, make, False) for name, make in UPLINK.items()] + [
    (f"svc0: {name}", make, True) for name, make in INSIDE.items()
]
CASES = pytest.mark.parametrize(
    ("make", "by_svc"), [(make, by_svc) for _, make, by_svc in BOTH], ids=[n for n, _, _ in BOTH]
)


def run(world: World, frame: bytes, by_svc: bool) -> Seen:
    return world.deliver(frame) if by_svc else world.arrive(frame)


@CASES
def test_every_prefix_is_left_as_it_is(known: World, make: Maker, by_svc: bool) -> None:
    frame = make(known)
    if make in (UPLINK["later fragment"], UPLINK["later fragment, IPv6"]):
        known.arrive(first_fragment(six=make is UPLINK["later fragment, IPv6"]))
    for size in range(14, len(frame)):
        seen = run(known, frame[:size], by_svc)
        assert seen.packet == frame[:size], size
        assert seen.action != XDP_ABORTED
        assert seen.reason is not Reason.REASON_UNUSED, size
    whole = run(known, frame, by_svc)
    assert whole.packet != frame
    assert whole.reason.name.split("_")[0] in ("VIP", "SVC", "UPLINK", "ANSWER")
    assert not known.locks()


@CASES
def test_damaged_octets(known: World, make: Maker, by_svc: bool) -> None:
    frame = make(known)

    @settings(
        max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
    )
    @given(
        st.lists(st.tuples(st.integers(0, len(frame) - 1), st.integers(1, 255)), max_size=6),
        st.integers(0, 40),
    )
    def check(changes: list[tuple[int, int]], less: int) -> None:
        octets = bytearray(frame)
        for at, change in changes:
            octets[at] ^= change
        damaged = bytes(octets[: max(14, len(octets) - less)])
        known.pass_time(1)
        seen = run(known, damaged, by_svc)
        assert seen.action != XDP_ABORTED
        if seen.reason.name.startswith(("DROP", "XSK", "PASS", "SVC_PASS")):
            assert seen.packet == damaged
        elif not seen.reason.name.startswith("ANSWER"):
            # Only tags come and go; what is behind all headers stays what it was.
            assert abs(len(seen.packet) - len(damaged)) in (0, 4, 8)
            if "ICMP" not in seen.reason.name and len(damaged) > 90:
                assert seen.packet[-4:] == damaged[-4:]

    check()
    assert not known.locks()
