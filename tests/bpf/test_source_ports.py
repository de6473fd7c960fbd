"""The source port that a backend sees: chosen by the program, or a client's own below 1,024."""

from __future__ import annotations

import pytest
from scapy.layers.inet import TCP
from scapy.layers.l2 import Ether

from bpf.abi import Place, Reason, VipFlag
from tests.bpf.test_flow_stories import Family, both
from tests.bpf.world import (
    GATEWAY_MAC,
    SERVICE_MAC,
    To,
    World,
    from_backend,
    from_client,
    reversed_to_client,
    translated,
)

pytestmark = pytest.mark.bpf

PRIVILEGED = 700


@both
def test_two_clients_with_one_port_get_two_ports(world: World, ip: Family) -> None:
    asked = [from_client(ip.vip, client=client) for client in (ip.client, ip.second)]
    packets = [world.arrive(packet).packet for packet in asked]
    assert len({Ether(packet)[TCP].sport for packet in packets}) == 2
    for first, packet in zip(asked, packets, strict=True):
        assert packet == world.translated(first, ip.web)
        answer = from_backend(packet)
        assert world.deliver(answer).packet == reversed_to_client(answer, first)


@both
def test_a_flow_keeps_its_port_and_nobody_else_gets_it(world: World, ip: Family) -> None:
    asked = from_client(ip.vip)
    first = world.arrive(asked).packet
    port = Ether(first)[TCP].sport
    others = {
        Ether(world.arrive(from_client(ip.vip, client=ip.second, port=number)).packet)[TCP].sport
        for number in range(20000, 20100)
    }
    assert len(others | {port}) == 101
    again = world.arrive(asked)
    assert (again.reason, again.packet) == (Reason.VIP_FORWARD, first)
    answer = from_backend(first)
    assert world.deliver(answer).packet == reversed_to_client(answer, asked)


@both
@pytest.mark.parametrize("port", [1, PRIVILEGED, 1023])
def test_a_privileged_port_is_kept(world: World, ip: Family, port: int) -> None:
    """Some servers ask for one (RFC 2623)."""
    asked = from_client(ip.vip, port=port)
    forward = world.arrive(asked)
    assert (forward.reason, forward.packet) == (
        Reason.VIP_NEW,
        translated(asked, ip.web, port),
    )
    answer = from_backend(forward.packet)
    assert world.deliver(answer).packet == reversed_to_client(answer, asked)
    assert world.arrive(answer).packet == reversed_to_client(answer, asked)


@both
@pytest.mark.parametrize("port", [0, 1024])
def test_other_ports_are_not(world: World, ip: Family, port: int) -> None:
    asked = from_client(ip.vip, port=port)
    assert world.arrive(asked).packet == world.translated(asked, ip.web)


@both
def test_a_privileged_port_that_another_has_is_not_kept(world: World, ip: Family) -> None:
    first, late = (from_client(ip.vip, client=c, port=PRIVILEGED) for c in (ip.client, ip.second))
    assert world.arrive(first).packet == translated(first, ip.web, PRIVILEGED)
    # The program chooses another, of its own.
    packet = world.arrive(late).packet
    assert packet == world.translated(late, ip.web)
    for asked, sent in ((first, world.arrive(first).packet), (late, packet)):
        answer = from_backend(sent)
        assert world.deliver(answer).packet == reversed_to_client(answer, asked)
    # Towards another backend it is free.
    third = from_client(ip.udp, client=ip.second, port=PRIVILEGED)
    assert world.arrive(third).packet == translated(third, ip.dns, PRIVILEGED)


@both
def test_a_port_whose_owner_is_long_silent_is_taken_over(world: World, ip: Family) -> None:
    early, late = (from_client(ip.vip, client=c, port=PRIVILEGED) for c in (ip.client, ip.second))
    assert Ether(world.arrive(early).packet)[TCP].sport == PRIVILEGED
    world.pass_time(121)
    assert world.arrive(late).packet == translated(late, ip.web, PRIVILEGED)
    # The first client wakes up: it is a new flow, which must not reach the backend as the second's.
    awake = world.arrive(early)
    assert awake.reason is Reason.VIP_NEW
    assert awake.packet == world.translated(early, ip.web)


@both
@pytest.mark.parametrize("way", ["to the kernel", "handed over", "kept"])
def test_who_speaks_from_an_address_of_ours_gets_nobody_elses_tuple(
    world: World, ip: Family, way: str
) -> None:
    """It is forged, and must not reach the backend as another client's packet."""
    place = Place.PLACE_HOST if way == "to the kernel" else Place.PLACE_LOCAL
    flags = {"to the kernel": VipFlag.VIP_SNAT, "handed over": VipFlag.VIP_SNAT | VipFlag.VIP_DSR}
    world.serve(ip.vip, [To(ip.web, place)], flags.get(way, VipFlag(0)) | VipFlag.VIP_INNER_SNAT)
    asked = from_client(ip.vip)
    asked[Ether].src, asked[Ether].dst = GATEWAY_MAC, SERVICE_MAC
    assert world.deliver(asked).reason is Reason.SVC_NEW
    (flow,) = world.flows(ip.version).values()
    _, _, ours, port = flow.reply_tuple
    forged = from_client(ip.vip, client=ours, port=port)
    if way == "handed over":
        forged[Ether].dst = GATEWAY_MAC
    assert world.arrive(forged).reason is Reason.VIP_NEW
    assert len({one.reply_tuple for one in world.flows(ip.version).values()}) == 2
