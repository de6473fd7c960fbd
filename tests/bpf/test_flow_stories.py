"""The life of a flow: each step's packet comes out of the one before. In both families."""

from __future__ import annotations

import struct
from dataclasses import dataclass

import pytest
from scapy.layers.inet import TCP, UDP
from scapy.layers.l2 import Ether

from bpf import abi
from bpf.abi import FlowFlag, Place, Reason, VipFlag
from dataplane.model.addr import L4Addr
from tests.bpf.world import (
    CLIENT,
    CLIENT6,
    CLIENT6_TWO,
    CLIENT_PORT,
    CLIENT_TWO,
    DNS,
    DNS6,
    GATEWAY_MAC,
    OTHER_NODE_MAC,
    ROUTER_MAC,
    SERVICE_ADDRESS,
    SERVICE_ADDRESS6,
    SERVICE_MAC,
    UPLINK_MAC,
    VIP6_LOCAL,
    VIP6_TCP,
    VIP6_UDP,
    VIP_LOCAL,
    VIP_TCP,
    VIP_UDP,
    WEB,
    WEB6,
    WEB6_TWO,
    WEB_TWO,
    XDP_DROP,
    XDP_PASS,
    XDP_REDIRECT,
    XDP_TX,
    To,
    World,
    from_backend,
    from_client,
    ip_of,
    reversed_to_client,
    tcp,
    udp,
)

pytestmark = pytest.mark.bpf


@dataclass(frozen=True)
class Family:
    """Names of one family."""

    version: int
    client: str
    second: str
    service: str
    vip: L4Addr
    udp: L4Addr
    local: L4Addr
    web: L4Addr
    web_two: L4Addr
    dns: L4Addr


FOUR = Family(
    4, CLIENT, CLIENT_TWO, SERVICE_ADDRESS, VIP_TCP, VIP_UDP, VIP_LOCAL, WEB, WEB_TWO, DNS
)
SIX = Family(
    6, CLIENT6, CLIENT6_TWO, SERVICE_ADDRESS6, VIP6_TCP, VIP6_UDP, VIP6_LOCAL, WEB6, WEB6_TWO, DNS6
)
both = pytest.mark.parametrize("ip", [FOUR, SIX], ids=["IPv4", "IPv6"])


@both
@pytest.mark.parametrize("kind", ["vip", "udp", "local"])
def test_a_reply_comes_back_as_the_vips(world: World, ip: Family, kind: str) -> None:
    asked = from_client(getattr(ip, kind))
    forward = world.arrive(asked)
    source = ip.client if kind == "local" else ip.service
    target = ip.dns if kind == "udp" else ip.web
    assert (forward.action, forward.reason) == (XDP_PASS, Reason.VIP_NEW)
    assert forward.packet == world.translated(asked, target, source)
    answer = from_backend(forward.packet)
    reply = world.deliver(answer)
    assert (reply.action, reply.reason) == (XDP_REDIRECT, Reason.SVC_REPLY)
    assert reply.packet == reversed_to_client(answer, asked)


@both
def test_a_reply_at_the_uplink_goes_out_where_it_came_in(world: World, ip: Family) -> None:
    asked = from_client(ip.vip)
    answer = from_backend(world.arrive(asked).packet)
    reply = world.arrive(answer)
    assert (reply.action, reply.reason) == (XDP_TX, Reason.UPLINK_REPLY)
    assert reply.packet == reversed_to_client(answer, asked)


@both
def test_the_first_packet_is_new_and_the_next_is_known(world: World, ip: Family) -> None:
    assert world.arrive(from_client(ip.vip)).reason is Reason.VIP_NEW
    for flags in ("S", "A", "PA", "FA"):
        packet = from_client(ip.vip, tcp=flags)
        seen = world.arrive(packet)
        assert seen.reason is Reason.VIP_FORWARD
        assert seen.packet == world.translated(packet, ip.web)


@both
def test_services_are_counted_by_id(world: World, ip: Family) -> None:
    service_id = world.service_id(ip.vip)
    before = world.stats(service_id)
    asked = from_client(ip.vip)
    answer = from_backend(world.arrive(asked).packet)
    world.arrive(from_client(ip.vip, tcp="A"))
    world.deliver(answer)
    after = world.stats(service_id)
    grown = {name: after[name] - before[name] for name in after if after[name] != before[name]}
    assert grown == {
        "forward_packets": 2,
        "forward_bytes": 2 * len(asked),
        "reply_packets": 1,
        "reply_bytes": len(answer),
        "new_flows": 1,
    }


@both
def test_a_reply_finds_the_client_that_moved(world: World, ip: Family) -> None:
    world.arrive(from_client(ip.vip))
    world.pass_time(1)
    moved = from_client(ip.vip, tcp="A")
    moved[Ether].src = ROUTER_MAC
    answer = from_backend(world.arrive(moved).packet)
    assert world.deliver(answer).packet == reversed_to_client(answer, moved)


@both
def test_a_reply_whose_uplink_is_gone_is_dropped(world: World, ip: Family) -> None:
    answer = from_backend(world.arrive(from_client(ip.vip)).packet)
    world.maps["tx_ports"].delete(struct.pack("=I", world.uplink))
    seen = world.deliver(answer)
    assert (seen.action, seen.reason) == (XDP_DROP, Reason.DROP_NO_TX_PORT)


@both
def test_a_reply_of_no_flow_is_dropped_or_goes_out(world: World, ip: Family) -> None:
    answer = from_backend(world.arrive(from_client(ip.vip)).packet)
    answer[TCP].dport += 1
    assert world.deliver(answer).reason is Reason.DROP_SVC_NO_FLOW
    kept = from_backend(world.arrive(from_client(ip.local)).packet)
    kept[TCP].dport += 1
    assert world.deliver(kept).reason is Reason.SVC_UPLINK


@both
def test_replies_of_several_flows_go_to_their_own_clients(world: World, ip: Family) -> None:
    asked = [from_client(ip.vip, port=port) for port in (30001, 30002, 30003)]
    answers = [from_backend(world.arrive(packet).packet) for packet in asked]
    for packet, answer in reversed(list(zip(asked, answers, strict=True))):
        assert world.deliver(answer).packet == reversed_to_client(answer, packet)


# --- source addresses ---------------------------------------------------------------------------


@both
def test_policy_local_cannot_change_the_port_and_says_so(world: World, ip: Family) -> None:
    other = tcp(str(ip.local.address + 1), 443)
    world.serve(other, [To(ip.web)], VipFlag(0))
    world.arrive(from_client(ip.local))
    seen = world.arrive(from_client(other))
    assert (seen.action, seen.reason) == (XDP_DROP, Reason.DROP_CONFLICT)


# --- backends and services come and go ----------------------------------------------------------


@both
def test_an_established_connection_stays_when_its_backend_goes(world: World, ip: Family) -> None:
    world.establish(from_client(ip.vip))
    world.serve(ip.vip, [To(ip.web_two)])
    world.remove_backend(ip.web)
    for flags in ("S", "A", "PA", "FA"):
        packet = from_client(ip.vip, tcp=flags)
        assert world.arrive(packet).packet == world.translated(packet, ip.web)


@both
def test_amid_new_flows_of_datagrams_a_known_one_stays_where_it_is(
    world: World, ip: Family
) -> None:
    """After new flows a datagram is taken for another's first; wrongly, here."""
    ports = range(CLIENT_PORT, CLIENT_PORT + 4)
    for port in ports:
        assert world.arrive(from_client(ip.udp, port=port)).reason is Reason.VIP_NEW
    other = udp(str(ip.dns.address + 1), 5353)
    world.serve(ip.udp, [To(other)])
    began = world.stats(world.service_id(ip.udp))["new_flows"]
    for port in ports:
        known = from_client(ip.udp, port=port)
        seen = world.arrive(known)
        assert (seen.reason, seen.packet) == (
            Reason.VIP_FORWARD,
            world.translated(known, ip.dns),
        )
    for port in range(CLIENT_PORT + 10, CLIENT_PORT + 14):
        late = from_client(ip.udp, port=port)
        seen = world.arrive(late)
        assert (seen.reason, seen.packet) == (Reason.VIP_NEW, world.translated(late, other))
    assert world.stats(world.service_id(ip.udp))["new_flows"] == began + 4
    assert len(world.flows(ip.version)) == 8
    assert not world.locks()


@both
def test_amid_new_flows_of_datagrams_a_source_range_still_counts(world: World, ip: Family) -> None:
    world.serve(ip.udp, [To(ip.dns)], ranges=[f"{ip.client}/{32 if ip.version == 4 else 128}"])
    for port in range(CLIENT_PORT, CLIENT_PORT + 4):
        assert world.arrive(from_client(ip.udp, port=port)).reason is Reason.VIP_NEW
    seen = world.arrive(from_client(ip.udp, client=ip.second))
    assert (seen.action, seen.reason) == (XDP_DROP, Reason.DROP_SOURCE_RANGE)


@both
def test_a_connection_outlives_the_last_backend_and_the_gateway(world: World, ip: Family) -> None:
    world.establish(from_client(ip.vip))
    world.serve(ip.vip, [])
    world.remove_backend(ip.web)
    world.set_node(flags=abi.NodeFlag.NODE_FIXED_CLOCK)
    packet = from_client(ip.vip, tcp="A")
    assert world.arrive(packet).packet == world.translated(packet, ip.web)
    late = world.arrive(from_client(ip.vip, client=ip.second))
    assert late.reason is Reason.DROP_NO_GATEWAY


@both
def test_a_vip_that_goes_takes_no_new_flows(world: World, ip: Family) -> None:
    world.withdraw(ip.vip)
    packet = from_client(ip.vip)
    seen = world.arrive(packet)
    assert seen.reason in {Reason.XSK_IPV4, Reason.XSK_IPV6}
    assert seen.packet == bytes(packet)


@both
def test_a_changed_policy_is_for_new_flows(world: World, ip: Family) -> None:
    world.establish(from_client(ip.vip))
    world.serve(ip.vip, [To(ip.web)], VipFlag(0))
    known, new = from_client(ip.vip, tcp="A"), from_client(ip.vip, client=ip.second)
    assert world.arrive(known).packet == world.translated(known, ip.web)
    assert world.arrive(new).packet == world.translated(new, ip.web, ip.second)


# --- ways ---------------------------------------------------------------------------------------


@both
def test_policy_local_goes_to_this_nodes_backends_alone(world: World, ip: Family) -> None:
    backends = [To(ip.web), To(ip.web_two, Place.PLACE_REMOTE)]
    world.serve(ip.local, backends, VipFlag.VIP_LOCAL)
    for port in range(41000, 41032):
        packet = from_client(ip.local, port=port)
        assert world.arrive(packet).packet == world.translated(packet, ip.web, ip.client)


@both
def test_policy_local_without_a_local_backend_drops(world: World, ip: Family) -> None:
    world.serve(ip.local, [To(ip.web, Place.PLACE_REMOTE)], VipFlag.VIP_LOCAL)
    seen = world.arrive(from_client(ip.local))
    assert (seen.action, seen.reason) == (XDP_DROP, Reason.DROP_NO_LOCAL)


@both
def test_dsr_hands_the_packet_over_as_it_is(world: World, ip: Family) -> None:
    flags = VipFlag.VIP_SNAT | VipFlag.VIP_DSR
    world.serve(ip.vip, [To(ip.web, Place.PLACE_REMOTE, mac=OTHER_NODE_MAC)], flags)
    for sent, reason in (("S", Reason.VIP_DIRECT), ("A", Reason.VIP_DIRECT)):
        packet = from_client(ip.vip, tcp=sent)
        seen = world.arrive(packet)
        assert (seen.action, seen.reason) == (XDP_TX, reason)
        wanted = packet.copy()
        wanted[Ether].dst, wanted[Ether].src = OTHER_NODE_MAC, UPLINK_MAC
        assert seen.packet == bytes(wanted)
    flow = next(iter(world.flows(ip.version).values()))
    assert flow.fields["flags"] & FlowFlag.FLOW_DSR


@both
def test_what_was_handed_over_stays_with_this_nodes_backends(world: World, ip: Family) -> None:
    flags = VipFlag.VIP_SNAT | VipFlag.VIP_DSR
    backends = [To(ip.web), To(ip.web_two, Place.PLACE_REMOTE, mac=OTHER_NODE_MAC)]
    world.serve(ip.vip, backends, flags)
    for port in range(42000, 42016):
        packet = from_client(ip.vip, port=port)
        packet[Ether].dst = GATEWAY_MAC
        assert world.arrive(packet).packet == world.translated(packet, ip.web, ip.client)


@both
def test_a_backend_reaches_itself_through_its_vip(world: World, ip: Family) -> None:
    # Its own address as source would never leave it again.
    asked = from_client(ip.local, client=str(ip.web.address))
    forward = world.arrive(asked)
    assert forward.packet == world.translated(asked, ip.web, ip.service)
    answer = from_backend(forward.packet)
    assert world.deliver(answer).packet == reversed_to_client(answer, asked)


@both
@pytest.mark.parametrize("snat", [False, True], ids=["keeps the client", "SNAT"])
def test_a_client_behind_ovn_is_served_at_svc0(world: World, ip: Family, snat: bool) -> None:
    flags = VipFlag.VIP_SNAT | (VipFlag.VIP_INNER_SNAT if snat else VipFlag(0))
    world.serve(ip.vip, [To(ip.web)], flags)
    asked = from_client(ip.vip)
    asked[Ether].src, asked[Ether].dst = GATEWAY_MAC, SERVICE_MAC
    forward = world.deliver(asked)
    assert (forward.action, forward.reason) == (XDP_TX, Reason.SVC_NEW)
    wanted = Ether(world.translated(asked, ip.web, ip.service if snat else ip.client))
    wanted[Ether].src, wanted[Ether].dst = SERVICE_MAC, GATEWAY_MAC
    assert forward.packet == bytes(wanted)
    answer = from_backend(forward.packet)
    reply = world.deliver(answer)
    assert (reply.action, reply.reason) == (XDP_TX, Reason.SVC_REPLY)
    back = Ether(reversed_to_client(answer, asked))
    back[Ether].src, back[Ether].dst = SERVICE_MAC, GATEWAY_MAC
    assert reply.packet == bytes(back)
    again = from_client(ip.vip, tcp="A")
    again[Ether].src, again[Ether].dst = GATEWAY_MAC, SERVICE_MAC
    assert world.deliver(again).reason is Reason.SVC_FORWARD


@both
def test_udp_without_a_checksum_stays_without_on_ipv4_only(world: World, ip: Family) -> None:
    packet = from_client(ip.udp)
    packet[UDP].chksum = 0
    got = Ether(world.arrive(packet).packet)
    assert got[UDP].chksum == 0
    assert ip_of(got).dst == str(ip.dns.address)
