"""Anything may come off the wire: programs answer, count once, and change only what they serve."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scapy.layers.l2 import Ether

from bpf.abi import Reason
from tests.bpf.world import (
    VIP_LOCAL,
    VIP_TCP,
    VIP_UDP,
    XDP_ABORTED,
    World,
    from_backend,
    from_client,
)

pytestmark = pytest.mark.bpf

REWRITTEN = {
    Reason.VIP_NEW, Reason.VIP_FORWARD, Reason.VIP_FRAGMENT, Reason.UPLINK_REPLY,
    Reason.UPLINK_ICMP_ERROR, Reason.SVC_REPLY, Reason.SVC_NEW, Reason.SVC_FORWARD,
    Reason.SVC_FRAGMENT, Reason.SVC_ICMP_ERROR,
    *(reason for reason in Reason if reason.name.startswith("ANSWER_")),
}  # fmt: skip
"""What a packet is changed for; with these its length may change, too (tags, answers)."""

FUZZ = settings(
    max_examples=500,
    deadline=None,
    # The node is shared on purpose: flows of earlier examples are part of the input.
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)

SERVICE_PACKETS = st.sampled_from([VIP_TCP, VIP_UDP, VIP_LOCAL]).map(
    lambda vip: bytes(from_client(vip))
)


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """A packet of a service or a reply, with some octets changed, then perhaps cut."""
    packet = draw(SERVICE_PACKETS)
    if draw(st.booleans()):
        packet = bytes(from_backend(packet))
    octets = bytearray(packet)
    for _ in range(draw(st.integers(0, 6))):
        octets[draw(st.integers(0, len(octets) - 1))] = draw(st.integers(0, 255))
    return bytes(octets[: draw(st.integers(14, len(octets)))])


FRAMES = st.one_of(
    st.binary(min_size=14, max_size=256),
    st.binary(min_size=2, max_size=128).map(lambda rest: b"\x02" * 12 + b"\x08\x00" + rest),
    damaged(),
)


@FUZZ
@given(frame=FRAMES)
def test_any_frame_at_the_uplink(world: World, frame: bytes) -> None:
    seen = world.arrive(frame)
    assert seen.action != XDP_ABORTED
    assert seen.reason in REWRITTEN or seen.packet == frame, Ether(frame).show2(dump=True)


@FUZZ
@given(frame=FRAMES)
def test_any_frame_at_svc0(world: World, frame: bytes) -> None:
    world.arrive(from_client())
    seen = world.deliver(frame)
    assert seen.action != XDP_ABORTED
    assert seen.reason in REWRITTEN or seen.packet == frame, Ether(frame).show2(dump=True)


@FUZZ
@given(frame=damaged())
def test_behind_the_l4_header_nothing_is_ever_changed(world: World, frame: bytes) -> None:
    seen = world.arrive(frame)
    if len(seen.packet) == len(frame):
        assert seen.packet[54:] == frame[54:]
