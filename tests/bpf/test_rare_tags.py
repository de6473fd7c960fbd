"""VLAN tags: popped on the way to OVS, put back on the way to the client, left alone otherwise."""

from __future__ import annotations

import pytest
from scapy.layers.inet import IP, TCP
from scapy.layers.l2 import Ether

from bpf.abi import Reason
from dataplane.model.addr import L4Addr
from tests.bpf.rarepackets import client_frame, shown, tagged
from tests.bpf.world import (
    CLIENT,
    DNS,
    DNS6,
    NODE_ADDRESS,
    STRANGER,
    VIP6_TCP,
    VIP6_UDP,
    VIP_TCP,
    VIP_UDP,
    WEB,
    WEB6,
    XDP_PASS,
    XDP_REDIRECT,
    XDP_TX,
    World,
    from_backend,
    from_client,
    reversed_to_client,
)

pytestmark = pytest.mark.bpf

SERVED = pytest.mark.parametrize(
    ("vip", "target"),
    [(VIP_TCP, WEB), (VIP_UDP, DNS), (VIP6_TCP, WEB6), (VIP6_UDP, DNS6)],
    ids=["tcp", "udp", "tcp6", "udp6"],
)
TAGS = pytest.mark.parametrize("tags", [(7,), (0xE007,), (100, 200)], ids=["q", "priority", "qinq"])


@SERVED
@TAGS
def test_tags_are_popped_and_put_back(
    world: World, vip: L4Addr, target: L4Addr, tags: tuple[int, ...]
) -> None:
    asked = from_client(vip)
    seen = world.arrive(tagged(asked, *tags))
    assert (seen.action, seen.reason) == (XDP_PASS, Reason.VIP_NEW)
    assert seen.packet == world.translated(asked, target), shown(
        seen.packet, world.translated(asked, target)
    )
    answer = from_backend(seen.packet)
    back = world.deliver(answer)
    assert (back.action, back.reason) == (XDP_REDIRECT, Reason.SVC_REPLY)
    assert back.packet == tagged(reversed_to_client(answer, asked), *tags)
    again = world.arrive(tagged(from_client(vip, tcp="A"), *tags))
    assert (again.action, again.reason) == (XDP_PASS, Reason.VIP_FORWARD)
    assert again.packet == world.translated(from_client(vip, tcp="A"), target)


def test_a_tag_that_says_nothing_is_not_put_back(world: World) -> None:
    asked = from_client()
    seen = world.arrive(tagged(asked, 0))
    assert seen.packet == world.translated(asked, WEB)
    answer = from_backend(seen.packet)
    assert world.deliver(answer).packet == reversed_to_client(answer, asked)


@pytest.mark.parametrize(
    "frame",
    [
        tagged(client_frame(IP(src=CLIENT, dst=STRANGER), TCP(dport=80)), 7),
        tagged(client_frame(IP(src=CLIENT, dst=NODE_ADDRESS), TCP(dport=22)), 7),
        tagged(from_client(), 7, 8, types=(0x8100, 0x8100)),
        tagged(from_client(), 7, types=(0x88A8,)),
        tagged(from_client(), 7, 0),
        tagged(from_client(), 1, 2, 3, types=(0x88A8, 0x8100, 0x8100)),
        tagged(Ether(type=0x88CC) / (b"\0" * 50), 7),
    ],
    ids=["stranger", "node", "two of 802.1Q", "802.1ad alone", "no inner", "three", "lldp"],
)
def test_what_cannot_be_given_back_goes_to_ovs_as_it_is(world: World, frame: bytes) -> None:
    seen = world.arrive(frame)
    assert (seen.action, seen.reason) == (XDP_PASS, Reason.XSK_VLAN)
    assert seen.packet == frame
    assert not world.flows()


def test_a_client_that_leaves_its_vlan_is_followed(world: World) -> None:
    world.arrive(tagged(from_client(), 7))
    world.pass_time(1)
    answer = from_backend(world.arrive(from_client(tcp="A")).packet, tcp="A")
    assert world.deliver(answer).packet == reversed_to_client(answer, from_client())
    world.pass_time(1)
    world.arrive(tagged(from_client(tcp="A"), 9))
    assert world.deliver(answer).packet == tagged(reversed_to_client(answer, from_client()), 9)


def test_a_backend_on_the_wire_answers_a_client_in_a_vlan(world: World) -> None:
    answer = from_backend(world.arrive(tagged(from_client(), 7)).packet)
    back = world.arrive(answer)
    assert (back.action, back.reason) == (XDP_TX, Reason.UPLINK_REPLY)
    assert back.packet == tagged(reversed_to_client(answer, from_client()), 7)
