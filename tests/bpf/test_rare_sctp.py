"""SCTP: ports and CRC32c, which is computed anew by scapy; and states by chunks."""

from __future__ import annotations

from ipaddress import ip_address

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scapy.layers.inet import IP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Ether
from scapy.layers.sctp import (
    SCTP,
    SCTPChunkAbort,
    SCTPChunkCookieAck,
    SCTPChunkCookieEcho,
    SCTPChunkData,
    SCTPChunkInit,
    SCTPChunkInitAck,
    SCTPChunkShutdown,
    SCTPChunkShutdownAck,
    SCTPChunkShutdownComplete,
)
from scapy.packet import Packet, Raw

from bpf.abi import CtState, Reason
from dataplane.model.addr import L4Addr, Protocol
from tests.bpf.rarepackets import (
    base,
    client_frame,
    service_address,
    shown,
    tagged,
    to_backend,
    to_client,
)
from tests.bpf.world import (
    CLIENT_PORT,
    GATEWAY_MAC,
    SERVICE_MAC,
    XDP_DROP,
    XDP_PASS,
    XDP_REDIRECT,
    To,
    World,
    built,
)

pytestmark = pytest.mark.bpf


def sctp(address: str, port: int) -> L4Addr:
    return L4Addr(Protocol.SCTP, ip_address(address), port)


VIP, VIP6 = sctp("192.0.2.10", 3868), sctp("2001:db8:1::10", 3868)
PEER, PEER6 = sctp("10.16.0.9", 13868), sctp("fd10::9", 13868)
FAMILIES = pytest.mark.parametrize("six", [False, True], ids=["ipv4", "ipv6"])
INIT, ACK = SCTPChunkInit(init_tag=1), SCTPChunkInitAck(init_tag=2)
DATA = SCTPChunkData(data=b"hello")


@pytest.fixture
def served(world: World) -> World:
    world.serve(VIP, [To(PEER)])
    world.serve(VIP6, [To(PEER6)])
    return world


def ask(chunk: Packet, six: bool = False, port: int = CLIENT_PORT) -> Packet:
    vip = VIP6 if six else VIP
    return client_frame(
        base(six, str(vip.address)), SCTP(sport=port, dport=vip.port, tag=9) / chunk
    )


def say(world: World, chunk: Packet, six: bool = False) -> Packet:
    """The backend's answer to `ask`, which has been there."""
    peer, port = PEER6 if six else PEER, world.port_of(ask(chunk, six))
    ip = (IPv6 if six else IP)(src=str(peer.address), dst=service_address(six))
    return built(
        Ether(src=GATEWAY_MAC, dst=SERVICE_MAC)
        / ip
        / SCTP(sport=peer.port, dport=port, tag=8)
        / chunk
    )


@FAMILIES
@pytest.mark.parametrize("size", [0, 1, 3, 4, 100, 1000, 1400, 3000])
def test_the_checksum_is_right_whatever_the_length(served: World, six: bool, size: int) -> None:
    vip, peer = (VIP6, PEER6) if six else (VIP, PEER)
    asked = ask(SCTPChunkData(data=b"\xa5" * size), six)
    seen = served.arrive(asked)
    assert (seen.action, seen.reason) == (XDP_PASS, Reason.VIP_NEW)
    wanted = to_backend(asked, peer, served.port_of(asked))
    assert seen.packet == wanted, shown(seen.packet, wanted)
    answer = say(served, SCTPChunkData(data=b"\x5a" * size), six)
    back = served.deliver(answer)
    assert (back.action, back.reason) == (XDP_REDIRECT, Reason.SVC_REPLY)
    assert back.packet == to_client(answer, vip)


def test_any_ports_and_octets(served: World) -> None:
    @settings(max_examples=150, deadline=None)
    @given(st.integers(1, 65535), st.binary(max_size=600))
    def check(port: int, data: bytes) -> None:
        asked = ask(SCTPChunkData(data=data), port=port)
        packet = served.arrive(asked).packet
        if port < 1024:
            assert packet == to_backend(asked, PEER, port)
        else:
            assert packet == to_backend(asked, PEER, served.port_of(asked))

    check()


def test_a_wrong_checksum_stays_wrong(served: World) -> None:
    asked = bytearray(bytes(ask(INIT)))
    asked[14 + 20 + 8] ^= 0x40
    got = served.arrive(bytes(asked)).packet
    wanted = bytearray(to_backend(ask(INIT), PEER, served.port_of(ask(INIT))))
    wanted[14 + 20 + 8] ^= 0x40
    assert got == bytes(wanted)


def test_in_a_vlan(served: World) -> None:
    assert served.arrive(tagged(ask(INIT), 7)).packet == to_backend(
        ask(INIT), PEER, served.port_of(ask(INIT))
    )
    assert served.deliver(say(served, ACK)).packet == tagged(to_client(say(served, ACK), VIP), 7)


def test_a_life(served: World) -> None:
    def state() -> CtState:
        (flow,) = served.flows().values()
        return CtState(flow.fields["state"])

    served.arrive(ask(INIT))
    assert state() is CtState.CT_SCTP_NEW
    served.deliver(say(served, ACK))
    served.arrive(ask(SCTPChunkCookieEcho(cookie=b"1234")))
    assert state() is CtState.CT_SCTP_NEW
    served.deliver(say(served, SCTPChunkCookieAck()))
    assert state() is CtState.CT_SCTP
    served.arrive(ask(DATA))
    assert state() is CtState.CT_SCTP
    served.arrive(ask(SCTPChunkShutdown()))
    served.deliver(say(served, SCTPChunkShutdownAck()))
    served.arrive(ask(SCTPChunkShutdownComplete()))
    assert state() is CtState.CT_SCTP_SHUTDOWN
    assert served.arrive(ask(INIT)).reason is Reason.VIP_NEW
    assert state() is CtState.CT_SCTP_NEW


def test_a_forged_abort_does_not_end_a_flow(served: World) -> None:
    served.arrive(ask(INIT))
    served.deliver(say(served, SCTPChunkCookieAck()))
    served.arrive(ask(SCTPChunkAbort()))
    assert served.arrive(ask(DATA)).reason is Reason.VIP_FORWARD
    served.deliver(say(served, DATA))
    (flow,) = served.flows().values()
    assert flow.fields["state"] == CtState.CT_SCTP


def test_fragments_of_sctp_are_refused(served: World) -> None:
    asked = ask(SCTPChunkData(data=b"x" * 100))
    asked[IP].flags = "MF"
    del asked[IP].chksum
    frame = bytes(asked)
    seen = served.arrive(frame)
    assert (seen.action, seen.reason) == (XDP_DROP, Reason.DROP_VIP_FRAGMENT)
    assert seen.packet == frame


def test_of_no_service(world: World) -> None:
    frame = client_frame(base(False, "192.0.2.10"), SCTP(sport=1, dport=80) / Raw(bytes(INIT)))
    seen = world.arrive(frame)
    assert (seen.action, seen.reason) == (XDP_PASS, Reason.XSK_IPV4)
    assert seen.packet == bytes(frame)
