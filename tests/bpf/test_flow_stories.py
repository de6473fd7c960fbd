"""The life of a flow: each step's packet comes out of the one before."""

from __future__ import annotations

import struct
import threading
from ipaddress import IPv4Address

import pytest
from scapy.layers.inet import IP, TCP
from scapy.layers.l2 import Ether

from bpf import abi
from bpf.abi import Reason
from dataplane.drivers.bpfmaps import Count, service_stats
from dataplane.model.addr import L4Addr, Protocol
from dataplane.model.rows import ProgramKind, VipFlag
from tests.bpf.world import (
    CLIENT,
    CLIENT_PORT,
    CLIENT_TWO,
    DNS,
    ROUTER_MAC,
    SERVICE_ADDRESS,
    VIP_LOCAL,
    VIP_TCP,
    VIP_UDP,
    WEB,
    WEB_TWO,
    XDP_DROP,
    XDP_REDIRECT,
    XDP_TX,
    World,
    built,
    from_backend,
    from_client,
    reversed_to_client,
    translated,
)

pytestmark = pytest.mark.bpf

DNS_TWO = L4Addr(Protocol.UDP, IPv4Address("10.16.0.5"), 5353)
WEB_THREE = L4Addr(Protocol.TCP, IPv4Address("10.16.0.9"), 8080)
UDP_IDLE_S, ESTABLISHED_S = 121, 7441


def target_of(packet: bytes) -> str:
    return str(Ether(packet)[IP].dst)


@pytest.mark.parametrize(
    "vip", [VIP_TCP, VIP_UDP, VIP_LOCAL], ids=["tcp", "udp", "tcp, policy local"]
)
def test_a_reply_comes_back_as_the_vips(world: World, vip: L4Addr) -> None:
    asked = from_client(vip)
    forward = world.arrive(asked)
    answer = from_backend(forward.packet)
    reply = world.deliver(answer)
    assert (reply.action, reply.reason) == (XDP_REDIRECT, Reason.SVC_REPLY)
    assert reply.packet == reversed_to_client(answer, asked)


def test_a_reply_at_the_uplink_goes_out_where_it_came_in(world: World) -> None:
    asked = from_client()
    answer = from_backend(world.arrive(asked).packet)
    reply = world.arrive(answer)
    assert (reply.action, reply.reason) == (XDP_TX, Reason.UPLINK_REPLY)
    assert reply.packet == reversed_to_client(answer, asked)


def test_the_first_packet_is_new_and_the_next_is_known(world: World) -> None:
    assert world.arrive(from_client()).reason is Reason.VIP_NEW
    for flags in ("S", "A", "PA", "FA"):
        packet = from_client(tcp=flags)
        seen = world.arrive(packet)
        assert seen.reason is Reason.VIP_FORWARD
        assert seen.packet == translated(packet, WEB)


def test_services_are_counted_by_id(world: World) -> None:
    service_id = world.vips.observe()[VIP_TCP].service_id
    before = service_stats(world.state).get(service_id)
    asked = from_client()
    answer = from_backend(world.arrive(asked).packet)
    world.arrive(from_client(tcp="A"))
    world.deliver(answer)
    after = service_stats(world.state)[service_id]
    old_forward, old_reply, old_new = (
        (before.forward, before.reply, before.new_flows)
        if before
        else (Count(0, 0), Count(0, 0), 0)
    )
    assert after.forward == Count(old_forward.packets + 2, old_forward.octets + 2 * len(asked))
    assert after.reply == Count(old_reply.packets + 1, old_reply.octets + len(answer))
    assert after.new_flows == old_new + 1


def test_a_reply_finds_the_client_that_moved(world: World) -> None:
    world.arrive(from_client())
    moved = from_client(tcp="A")
    moved[Ether].src = ROUTER_MAC
    answer = from_backend(world.arrive(moved).packet)
    assert world.deliver(answer).packet == reversed_to_client(answer, moved)


def test_a_reply_whose_uplink_is_gone_is_dropped(world: World) -> None:
    answer = from_backend(world.arrive(from_client()).packet)
    world.state.maps["tx_ports"].delete(struct.pack("=I", world.uplink))
    seen = world.deliver(answer)
    assert (seen.action, seen.reason) == (XDP_DROP, Reason.DROP_NO_TX_PORT)


# --- source ports -----------------------------------------------------------------------------


def test_two_clients_with_one_port_get_two_ports(world: World) -> None:
    first, second = from_client(client=CLIENT), from_client(client=CLIENT_TWO)
    packets = [world.arrive(first).packet, world.arrive(second).packet]
    ports = [Ether(packet)[TCP].sport for packet in packets]
    assert ports[0] == CLIENT_PORT != ports[1]
    for asked, packet in zip((first, second), packets, strict=True):
        assert packet == translated(asked, WEB, SERVICE_ADDRESS, Ether(packet)[TCP].sport)
        answer = from_backend(packet)
        assert world.deliver(answer).packet == reversed_to_client(answer, asked)


def test_one_client_port_to_two_backends_keeps_its_number(world: World) -> None:
    world.serve(VIP_TCP, [WEB])
    world.arrive(from_client())
    world.serve(VIP_TCP, [WEB_TWO])
    packet = from_client(client=CLIENT_TWO)
    assert world.arrive(packet).packet == translated(packet, WEB_TWO)


def test_when_every_port_tried_is_taken_the_flow_is_dropped(world: World) -> None:
    world.arrive(from_client())
    taken = next(value for _, value in world.state.maps["ct_reply"].items())
    late = from_client(client=CLIENT_TWO)
    saddr, daddr = int(IPv4Address(CLIENT_TWO)), int(VIP_TCP.address)
    for attempt in range(1, 16):
        digest = abi.flow_hash(saddr, CLIENT_PORT, daddr, VIP_TCP.port, 6, attempt)
        key = abi.FLOW_KEY.pack(
            saddr=WEB.address.packed,
            daddr=IPv4Address(SERVICE_ADDRESS).packed,
            sport=WEB.port,
            dport=1024 + (digest * (65536 - 1024) >> 32),
            proto=6,
        )
        world.state.maps["ct_reply"].update(key, taken)
    seen = world.arrive(late)
    assert (seen.action, seen.reason) == (XDP_DROP, Reason.DROP_NO_PORT)
    assert seen.packet == bytes(late)
    assert not [key for key in world.flows() if key[0] == CLIENT_TWO]


def test_a_port_whose_owner_is_long_silent_is_taken_over(world: World) -> None:
    world.arrive(from_client(tcp="A"))
    world.age(ESTABLISHED_S)
    late = from_client(client=CLIENT_TWO)
    assert world.arrive(late).packet == translated(late, WEB)
    # The first client wakes up: its packets must not reach the backend as the second's.
    awake = from_client(tcp="A")
    seen = world.arrive(awake)
    assert (seen.action, seen.reason) == (XDP_DROP, Reason.DROP_CONFLICT)
    again = from_client(tcp="S")
    assert world.arrive(again).reason is Reason.VIP_NEW


def test_a_port_whose_owner_is_only_resting_is_not(world: World) -> None:
    world.arrive(from_client(tcp="A"))
    world.age(ESTABLISHED_S - 10)
    packet = world.arrive(from_client(client=CLIENT_TWO)).packet
    assert Ether(packet)[TCP].sport != CLIENT_PORT


def test_two_cpus_never_give_one_port_to_two_clients(world: World) -> None:
    program = world.state.program(ProgramKind.UPLINK)
    clients = [str(IPv4Address("198.18.0.0") + number) for number in range(1200)]
    packets = [bytes(from_client(client=client)) for client in clients]

    def arrive_all(mine: list[bytes]) -> None:
        for packet in mine:
            program.run(packet, ifindex=world.uplink)

    # Both walk the same clients, from either end: they race for ports, and for flows as well.
    threads = [threading.Thread(target=arrive_all, args=(w,)) for w in (packets, packets[::-1])]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    flows, replies = world.flows(), world.replies()
    assert {key[0] for key in flows} <= set(clients)
    ports = [flow["source_port"] for flow in flows.values()]
    assert len(set(ports)) == len(ports)
    for (client, port, _, _), flow in flows.items():
        reply = replies[str(WEB.address), WEB.port, SERVICE_ADDRESS, flow["source_port"]]
        assert (str(IPv4Address(reply["client_addr"])), reply["client_port"]) == (client, port)


def test_policy_local_cannot_change_the_port_and_says_so(world: World) -> None:
    other = L4Addr(Protocol.TCP, IPv4Address("192.0.2.21"), 443)
    world.serve(other, [WEB], VipFlag(0))
    world.arrive(from_client(VIP_LOCAL))
    seen = world.arrive(from_client(other))
    assert (seen.action, seen.reason) == (XDP_DROP, Reason.DROP_CONFLICT)


# --- eviction ---------------------------------------------------------------------------------


def test_an_evicted_forward_entry_is_made_again_with_the_same_port(world: World) -> None:
    world.arrive(from_client(client=CLIENT))
    before = world.arrive(from_client(client=CLIENT_TWO))
    for key in list(world.state.maps["ct_forward"].keys()):
        world.state.maps["ct_forward"].delete(key)
    after = world.arrive(from_client(client=CLIENT_TWO))
    assert after.reason is Reason.VIP_NEW
    assert after.packet == before.packet


def test_an_evicted_reply_entry_is_put_back(world: World) -> None:
    asked = from_client(tcp="A")
    packet = world.arrive(asked).packet
    for key in list(world.state.maps["ct_reply"].keys()):
        world.state.maps["ct_reply"].delete(key)
    answer = from_backend(packet)
    assert world.deliver(answer).reason is Reason.DROP_SVC_NO_FLOW
    world.age(1)
    world.arrive(asked)
    assert world.deliver(answer).packet == reversed_to_client(answer, asked)


def test_a_known_flow_renews_both_entries(world: World) -> None:
    packet = from_client(tcp="A")
    world.arrive(packet)
    world.age(5)
    old = [next(iter(table.values()))["seen_ns"] for table in (world.flows(), world.replies())]
    world.arrive(packet)
    new = [next(iter(table.values()))["seen_ns"] for table in (world.flows(), world.replies())]
    assert new[0] == new[1]
    assert new[0] - max(old) >= 4_900_000_000


# --- backends come and go -----------------------------------------------------------------------


def test_an_established_connection_stays_when_its_backend_goes(world: World) -> None:
    world.arrive(from_client(tcp="S"))
    world.arrive(from_client(tcp="A"))
    world.serve(VIP_TCP, [WEB_TWO])
    world.remove_backend(WEB)
    world.age(1)
    for flags in ("A", "PA", "FA"):
        packet = from_client(tcp=flags)
        assert world.arrive(packet).packet == translated(packet, WEB)


def test_an_established_connection_outlives_the_last_backend(world: World) -> None:
    world.arrive(from_client(tcp="A"))
    world.serve(VIP_TCP, [], VipFlag.SNAT | VipFlag.NO_BACKEND)
    world.remove_backend(WEB)
    packet = from_client(tcp="A")
    assert world.arrive(packet).packet == translated(packet, WEB)
    assert world.arrive(from_client(client=CLIENT_TWO)).reason is Reason.DROP_NO_BACKEND


def test_a_syn_leaves_a_backend_that_is_gone(world: World) -> None:
    asked = from_client(tcp="S")
    answer = from_backend(world.arrive(asked).packet)
    world.serve(VIP_TCP, [WEB_TWO])
    world.remove_backend(WEB)
    seen = world.arrive(asked)
    assert seen.packet == translated(asked, WEB_TWO)
    assert world.deliver(answer).reason is Reason.DROP_SVC_NO_FLOW


def test_a_syn_out_of_the_blue_does_not_move_an_established_connection(world: World) -> None:
    world.arrive(from_client(tcp="S"))
    world.arrive(from_client(tcp="A"))
    world.serve(VIP_TCP, [WEB_TWO])
    for flags in ("S", "A"):
        packet = from_client(tcp=flags)
        assert world.arrive(packet).packet == translated(packet, WEB)


def test_a_tuple_used_again_after_close_picks_anew(world: World) -> None:
    for flags in ("S", "A", "FA"):
        world.arrive(from_client(tcp=flags))
    world.serve(VIP_TCP, [WEB_TWO])
    late = from_client(tcp="A")
    assert world.arrive(late).packet == translated(late, WEB)
    again = from_client(tcp="S")
    assert world.arrive(again).packet == translated(again, WEB_TWO)


def test_a_tuple_that_the_backend_reset_picks_anew(world: World) -> None:
    for flags in ("S", "A"):
        packet = world.arrive(from_client(tcp=flags)).packet
    world.deliver(from_backend(packet, tcp="RA"))
    world.serve(VIP_TCP, [WEB_TWO])
    again = from_client(tcp="S")
    assert world.arrive(again).packet == translated(again, WEB_TWO)


def test_a_tuple_used_again_with_its_backend_still_there_is_established_again(
    world: World,
) -> None:
    for flags in ("S", "A", "FA", "S"):
        world.arrive(from_client(tcp=flags))
    assert next(iter(world.flows().values()))["flags"] == 0
    world.arrive(from_client(tcp="A"))
    assert next(iter(world.flows().values()))["flags"] == abi.CtFlag.CT_ESTABLISHED


def test_a_backend_id_given_to_another_target_is_another_backend(world: World) -> None:
    asked = from_client(tcp="S")
    world.arrive(asked)
    world.remove_backend(WEB)
    number = world.backend_id(WEB)
    row = world.backends.observe()[world.backend_id(WEB_TWO)]
    assert not world.backends.upsert([(number, row)])
    assert target_of(world.arrive(asked).packet) == str(WEB_TWO.address)


def test_busy_udp_stays_and_idle_udp_picks_anew(world: World) -> None:
    packet = from_client(VIP_UDP)
    world.arrive(packet)
    world.serve(VIP_UDP, [DNS_TWO])
    world.remove_backend(DNS)
    world.age(UDP_IDLE_S - 10)
    assert world.arrive(packet).packet == translated(packet, DNS)
    world.age(UDP_IDLE_S)
    seen = world.arrive(packet)
    assert seen.reason is Reason.VIP_NEW
    assert seen.packet == translated(packet, DNS_TWO)


def test_udp_that_only_the_backend_speaks_on_is_not_idle(world: World) -> None:
    packet = from_client(VIP_UDP)
    answer = from_backend(world.arrive(packet).packet)
    world.serve(VIP_UDP, [DNS_TWO])
    world.age(UDP_IDLE_S)
    world.deliver(answer)
    assert world.arrive(packet).packet == translated(packet, DNS)


def test_a_changed_policy_is_for_new_flows(world: World) -> None:
    world.arrive(from_client(tcp="A"))
    world.serve(VIP_TCP, [WEB], VipFlag(0))
    known, new = from_client(tcp="A"), from_client(client=CLIENT_TWO)
    assert world.arrive(known).packet == translated(known, WEB)
    assert world.arrive(new).packet == translated(new, WEB, CLIENT_TWO)


# --- Maglev -------------------------------------------------------------------------------------


def test_the_kernel_picks_the_slot_that_python_computes(world: World) -> None:
    world.serve(VIP_TCP, [WEB, WEB_TWO, WEB_THREE])
    service_id = world.vips.observe()[VIP_TCP].service_id
    slots = struct.unpack("=4093I", world.maglev.observe()[service_id].slots)
    names = {world.backend_id(target): target for target in (WEB, WEB_TWO, WEB_THREE)}
    picked = set()
    for port in range(20000, 20200):
        packet = from_client(port=port)
        slot = abi.maglev_slot(int(IPv4Address(CLIENT)), port, int(VIP_TCP.address), 80, 6)
        wanted = names[slots[slot]]
        picked.add(wanted)
        assert world.arrive(packet).packet == translated(packet, wanted, SERVICE_ADDRESS, port)
    assert picked == set(names.values())


def test_packets_of_one_flow_in_two_directions_are_independent_of_others(world: World) -> None:
    asked = [from_client(port=port) for port in (30001, 30002, 30003)]
    answers = [from_backend(world.arrive(packet).packet) for packet in asked]
    for packet, answer in reversed(list(zip(asked, answers, strict=True))):
        assert world.deliver(answer).packet == reversed_to_client(answer, packet)


def test_a_client_that_is_a_backend_reaches_itself_through_the_vip(world: World) -> None:
    asked = from_client(client=str(WEB.address))
    forward = world.arrive(asked)
    assert forward.packet == translated(asked, WEB)
    answer = from_backend(forward.packet)
    assert world.deliver(answer).packet == reversed_to_client(answer, asked)


def test_a_reply_with_options_is_reversed_too(world: World) -> None:
    asked = from_client()
    answer = from_backend(world.arrive(asked).packet)
    answer[IP].options = [b"\x01\x01\x01\x00"]
    del answer[IP].ihl, answer[IP].len, answer[IP].chksum
    answer = built(answer)
    assert world.deliver(answer).packet == reversed_to_client(answer, asked)
