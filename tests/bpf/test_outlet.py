"""Replies at the uplink's egress hook: as svc0's program would send them, or handed over to it.

The two programs share the rewriting of a packet; that they agree on which packets are rewritten,
and on what is counted and remembered, is shown by the same packets through both.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest
from scapy.layers.inet import IP, TCP, UDP, IPOption_NOP
from scapy.layers.l2 import ARP, Dot1Q, Ether
from scapy.packet import Packet, Raw

from bpf.abi import FlowFlag, Reason
from dataplane.model.addr import L4Addr
from tests.bpf.world import (
    GATEWAY_MAC,
    SERVICE_ADDRESS,
    SERVICE_MAC,
    TC_OK,
    TC_REDIRECT,
    TC_SHOT,
    TC_UNSPEC,
    VIP6_LOCAL,
    VIP6_TCP,
    VIP6_UDP,
    VIP_LOCAL,
    VIP_TCP,
    VIP_UDP,
    WEB,
    XDP_REDIRECT,
    XDP_TX,
    Seen,
    World,
    built,
    from_backend,
    from_client,
)

pytestmark = pytest.mark.bpf

VIPS = (VIP_TCP, VIP_UDP, VIP6_TCP, VIP6_UDP)
EACH_VIP = pytest.mark.parametrize("vip", VIPS, ids=str)
ETHERTYPE_AT = 12
SHORTEST = 54
"""The kernel's test run takes no shorter frame that says it is of IPv6 [octets]."""

LONG = b"an answer longer than any header of it" * 2
MUTATIONS = 4000


def version(vip: L4Addr) -> int:
    return vip.address.version


def a_conversation(world: World, vip: L4Addr, back: Callable[[Packet], Seen]) -> dict[str, Any]:
    """All that one leaves behind when its replies go a certain way."""
    world.clear().fill()
    before, said = world.stats(world.service_id(vip)), []
    for asked, answered in (("S", "SA"), ("A", "A"), ("PA", "PA"), ("FA", "FA"), ("A", "A")):
        forth = world.arrive(from_client(vip, tcp=asked))
        seen = back(from_backend(forth.packet, tcp=answered))
        said.append((seen.packet, seen.reason))
    after = world.stats(world.service_id(vip))
    flows = [flow.fields for flow in world.records(version(vip))]
    return {"said": said, "flows": flows, "stats": {k: after[k] - before[k] for k in after}}


@EACH_VIP
def test_a_conversation_leaves_by_either_way_the_same(world: World, vip: L4Addr) -> None:
    out = a_conversation(world, vip, world.leave)
    assert out == a_conversation(world, vip, world.deliver)
    assert {reason for _, reason in out["said"]} == {Reason.SVC_REPLY}
    assert len(out["flows"]) == 1
    assert out["stats"]["reply_packets"] == len(out["said"])


@EACH_VIP
def test_a_plain_reply_goes_on_by_the_uplink(world: World, vip: L4Addr) -> None:
    answer = from_backend(world.arrive(from_client(vip)).packet)
    seen = world.leave(answer)
    assert (seen.action, seen.reason) == (TC_OK, Reason.SVC_REPLY)
    assert seen.packet != bytes(answer)


def test_a_client_of_another_uplink_gets_it_there(world: World) -> None:
    answer = from_backend(world.arrive(from_client()).packet)
    # The client's packets come in elsewhere; only the number of that device is another.
    (flow,) = world.records()
    other = flow.fields | {"ifindex": world.service_link}
    world.put_flow(4, flow.number, other)
    seen = world.leave(answer)
    assert (seen.action, seen.reason) == (TC_REDIRECT, Reason.SVC_REPLY)
    assert seen.packet == world.deliver(answer).packet


def test_a_client_behind_ovn_gets_it_by_svc0(world: World) -> None:
    asked = from_client(client="10.16.0.77")
    asked[Ether].dst = SERVICE_MAC
    answer = from_backend(world.deliver(asked).packet)
    seen, usual = world.leave(answer), world.deliver(answer)
    assert (seen.action, usual.action) == (TC_REDIRECT, XDP_TX)
    assert seen.packet == usual.packet != bytes(answer)
    assert Ether(seen.packet).dst == GATEWAY_MAC


RARE: dict[str, dict[str, object]] = {
    "ttl": {"ttl": 1},
    "fragment": {"flags": "MF"},
    "options": {"options": [IPOption_NOP()] * 4},
}


def _changed(answer: Packet, **ip: object) -> Packet:
    made = Ether(bytes(answer))
    for name, value in ip.items():
        setattr(made[IP], name, value)
    made[IP].ihl = made[IP].len = made[IP].chksum = None
    return built(made)


@pytest.mark.parametrize("kind", RARE)
def test_what_is_rare_is_handed_over_as_it_is(world: World, kind: str) -> None:
    answer = _changed(from_backend(world.arrive(from_client()).packet), **RARE[kind])
    seen = world.leave(answer)
    assert (seen.action, dict(seen.reasons)) == (TC_REDIRECT, {})
    assert seen.packet == bytes(answer)


def test_a_reply_of_no_flow_is_handed_over(world: World) -> None:
    answer = from_backend(world.arrive(from_client()).packet)
    answer[TCP].dport += 1
    seen = world.leave(answer)
    assert (seen.action, seen.packet) == (TC_REDIRECT, bytes(answer))


@pytest.mark.parametrize("vip", [VIP_LOCAL, VIP6_LOCAL], ids=str)
def test_a_reply_that_another_node_handed_over_is_svc0s(world: World, vip: L4Addr) -> None:
    answer = from_backend(world.arrive(from_client(vip)).packet)
    answer[Ether].dst = SERVICE_MAC
    (flow,) = world.records(version(vip))
    handed = flow.fields | {"flags": flow.fields["flags"] | FlowFlag.FLOW_HANDED}
    world.put_flow(version(vip), flow.number, handed)
    seen = world.leave(answer)
    assert (seen.action, seen.packet) == (TC_REDIRECT, bytes(answer))


def test_frames_that_could_not_be_handed_over_whole_are_dropped_and_counted(world: World) -> None:
    ip = IP(src=str(WEB.address), dst=SERVICE_ADDRESS) / UDP(dport=9) / Raw(b"tagged")
    for frame in (
        Ether(src=GATEWAY_MAC, dst=SERVICE_MAC) / Dot1Q(vlan=7) / ip,
        Ether(src=GATEWAY_MAC, dst=SERVICE_MAC) / ARP(pdst=SERVICE_ADDRESS),
    ):
        seen = world.leave(built(frame))
        assert (seen.action, seen.reason) == (TC_SHOT, Reason.DROP_SVC_MALFORMED)


def test_the_kernels_own_packets_are_none_of_it(world: World) -> None:
    answer = from_backend(world.arrive(from_client()).packet)
    for changed in ({"svc_port_step": 0}, {"uplink_ifindex": world.service_link}):
        world.set_node(**changed)
        seen = world.leave(answer)
        assert (seen.action, dict(seen.reasons)) == (TC_UNSPEC, {}), changed
        assert seen.packet == bytes(answer)
    world.set_node()
    answer[Ether].dst = "02:00:00:00:00:c9"
    assert world.leave(answer).action == TC_UNSPEC


def _mutated(rng: random.Random, frame: bytes) -> bytes:
    """Octets changed, cut off or put behind; the destination stays svc0's."""
    octets = bytearray(frame)
    for _ in range(rng.choice((0, 1, 1, 2, 4))):
        at = rng.randrange(ETHERTYPE_AT, min(len(octets), 80))
        octets[at] = rng.choice((0, 1, 0xFF, rng.randrange(256)))
    if rng.random() < 0.2:
        del octets[rng.randrange(SHORTEST, len(octets) + 1) :]
    if rng.random() < 0.1:
        octets += rng.randbytes(rng.randrange(1, 30))
    return bytes(octets)


def _agree(world: World, frame: bytes) -> str:
    """Which way the frame took; both programs have to make the same of it."""
    out, usual = world.leave(frame), world.deliver(frame)
    if out.action == TC_SHOT:
        assert int.from_bytes(frame[ETHERTYPE_AT : ETHERTYPE_AT + 2]) not in (0x0800, 0x86DD)
        return "dropped"
    if Reason.SVC_REPLY in out.reasons:
        assert dict(out.reasons) == dict(usual.reasons)
        assert (out.action, usual.action) == (TC_OK, XDP_REDIRECT)
        assert out.packet == usual.packet
        return "reversed"
    assert (out.action, dict(out.reasons)) == (TC_REDIRECT, {})
    assert out.packet == frame
    return "handed over"


def test_random_frames_are_reversed_alike_or_handed_over_as_they_are(world: World) -> None:
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    rng, ways = random.Random(seed), dict.fromkeys(("reversed", "handed over", "dropped"), 0)
    answers = [
        bytes(from_backend(world.arrive(from_client(vip, tcp=tcp)).packet, tcp="A", payload=LONG))
        for vip in VIPS
        for tcp in ("S", "A")
    ]
    for _ in range(MUTATIONS):
        ways[_agree(world, _mutated(rng, rng.choice(answers)))] += 1
    assert min(ways.values()) > MUTATIONS / 100, ways
    assert world.locks() == 0
