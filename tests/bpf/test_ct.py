"""Stories of flows: how they begin, change their state, share a table, and end."""

from __future__ import annotations

import os
import sys
import threading
from ipaddress import ip_address

import numpy as np
import pytest
from scapy.layers.l2 import Ether

from bpf import abi
from bpf.abi import CtState, FlowFlag, Limit, Place, Reason, VipFlag
from bpf.pick import Candidate, flow_slot, member_key, pick
from dataplane.drivers.counters import counted, evictions
from dataplane.drivers.mapbulk import dtype_of, read_array
from dataplane.drivers.servicestats import FIELDS, read_counts
from dataplane.model.addr import L4Addr
from dataplane.model.rows import ProgramKind
from tests.bpf.world import (
    CLIENT,
    CLIENT_TWO,
    DNS,
    DNS6,
    GATEWAY_MAC,
    OTHER_NODE_MAC,
    SERVICE_ADDRESS,
    SERVICE_MAC,
    TIMEOUTS_S,
    UPLINK_MAC,
    VIP6_LOCAL,
    VIP6_TCP,
    VIP6_UDP,
    VIP_LOCAL,
    VIP_TCP,
    VIP_UDP,
    WEB,
    WEB6,
    WEB_TWO,
    XDP_DROP,
    XDP_TX,
    Seen,
    To,
    World,
    built,
    from_backend,
    from_client,
    ip_of,
    reversed_to_client,
    tcp,
)

pytestmark = pytest.mark.bpf

FAR = To(WEB_TWO, Place.PLACE_REMOTE, mac=OTHER_NODE_MAC)


def target_of(seen: Seen) -> str:
    return str(ip_of(Ether(seen.packet)).dst)


def state_of(world: World) -> CtState:
    (flow,) = world.flows().values()
    return CtState(flow.fields["state"])


def establish(world: World, vip: L4Addr = VIP_TCP, **client: object) -> Seen:
    """SYN, SYN-ACK, ACK; what became of the ACK."""
    first = world.arrive(from_client(vip, tcp="S", **client))  # type: ignore[arg-type]
    world.deliver(from_backend(first.packet, tcp="SA"))
    return world.arrive(from_client(vip, tcp="A", **client))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("vip", "target"),
    [
        (VIP_TCP, WEB), (VIP_UDP, DNS), (VIP_LOCAL, WEB),
        (VIP6_TCP, WEB6), (VIP6_UDP, DNS6), (VIP6_LOCAL, WEB6),
    ],
    ids=str,
)  # fmt: skip
def test_a_packet_goes_out_and_its_answer_comes_back(
    world: World, vip: L4Addr, target: L4Addr
) -> None:
    asked = from_client(vip)
    source = str(ip_of(asked).src) if vip in {VIP_LOCAL, VIP6_LOCAL} else ""
    first, again = world.arrive(asked), world.arrive(asked)
    assert (first.reason, again.reason) == (Reason.VIP_NEW, Reason.VIP_FORWARD)
    assert first.packet == again.packet == world.translated(asked, target, source)
    answer = from_backend(first.packet)
    back = world.deliver(answer)
    assert back.reason is Reason.SVC_REPLY
    assert back.packet == reversed_to_client(answer, asked)
    assert world.locks() == 0


def test_tcp_goes_through_its_states(world: World) -> None:
    first = world.arrive(from_client(tcp="S"))
    assert state_of(world) is CtState.CT_SYN
    steps = [
        ("reply", "SA", CtState.CT_SYN_ACK), ("client", "A", CtState.CT_ESTABLISHED),
        ("client", "PA", CtState.CT_ESTABLISHED), ("reply", "FA", CtState.CT_FIN),
        ("client", "A", CtState.CT_FIN), ("client", "FA", CtState.CT_TIME_WAIT),
        ("reply", "A", CtState.CT_TIME_WAIT),
    ]  # fmt: skip
    for side, flags, state in steps:
        if side == "client":
            world.arrive(from_client(tcp=flags))
        else:
            world.deliver(from_backend(first.packet, tcp=flags))
        assert state_of(world) is state, (side, flags)


def test_a_forged_reset_does_not_end_a_connection(world: World) -> None:
    established = establish(world)
    world.arrive(from_client(tcp="R"))
    assert state_of(world) is CtState.CT_RESET
    assert world.arrive(from_client(tcp="A")).reason is Reason.VIP_FORWARD
    world.deliver(from_backend(established.packet, tcp="A"))
    assert state_of(world) is CtState.CT_ESTABLISHED


@pytest.mark.parametrize("state", ["CT_SYN", "CT_ESTABLISHED", "CT_FIN", "CT_RESET"])
def test_a_flow_is_over_when_its_state_has_lasted(world: World, state: str) -> None:
    world.arrive(from_client(tcp="S")) if state == "CT_SYN" else establish(world)
    if state in {"CT_FIN", "CT_RESET"}:
        world.arrive(from_client(tcp="FA" if state == "CT_FIN" else "R"))
    world.pass_time(TIMEOUTS_S[state])
    assert len(world.flows()) == 1
    world.pass_time(1)
    assert not world.flows()


def test_udp_that_is_idle_picks_anew_and_busy_udp_stays(world: World) -> None:
    first = world.arrive(from_client(VIP_UDP))
    world.deliver(from_backend(first.packet))
    world.arrive(from_client(VIP_UDP))
    world.serve(VIP_UDP, [To(tcp("10.16.0.9", 53))])
    for _ in range(4):
        world.pass_time(100)
        assert target_of(world.arrive(from_client(VIP_UDP))) == str(DNS.address)
    world.pass_time(181)
    assert target_of(world.arrive(from_client(VIP_UDP))) == "10.16.0.9"


def test_a_connection_stays_with_a_backend_that_goes_and_the_next_does_not(world: World) -> None:
    establish(world)
    world.serve(VIP_TCP, [To(WEB_TWO)])
    world.remove_backend(WEB)
    assert target_of(world.arrive(from_client(tcp="A"))) == str(WEB.address)
    assert target_of(world.arrive(from_client(tcp="S"))) == str(WEB.address)
    world.arrive(from_client(tcp="R"))
    anew = world.arrive(from_client(tcp="S"))
    assert (anew.reason, target_of(anew)) == (Reason.VIP_NEW, str(WEB_TWO.address))


def test_a_client_that_moved_is_answered_where_it_is(world: World) -> None:
    first = establish(world)
    world.pass_time(1)
    moved = from_client(tcp="A")
    moved[Ether].src = "02:00:00:00:00:c9"
    world.arrive(moved)
    back = Ether(world.deliver(from_backend(first.packet, tcp="A")).packet)
    assert back.dst == "02:00:00:00:00:c9"


def test_clients_with_one_port_get_ports_of_their_own(world: World) -> None:
    ports = set()
    for number in range(1, 200):
        seen = world.arrive(from_client(client=f"198.51.100.{number}"))
        assert seen.reason is Reason.VIP_NEW
        ports.add(Ether(seen.packet).sport)
    assert len(ports) == 199
    assert len({flow.reply_tuple for flow in world.flows().values()}) == 199


def test_policy_local_cannot_change_a_port_and_refuses(world: World) -> None:
    other = tcp("192.0.2.21", 443)
    world.serve(other, [To(WEB)], VipFlag.VIP_LOCAL)
    assert world.arrive(from_client(VIP_LOCAL)).reason is Reason.VIP_NEW
    seen = world.arrive(from_client(other))
    assert (seen.action, seen.reason) == (XDP_DROP, Reason.DROP_CONFLICT)


def test_a_flood_of_new_flows_ends_no_established_one(world: World) -> None:
    clients = [f"203.0.113.{number}" for number in range(1, 51)]
    for client in clients:
        establish(world, client=client)
    slots = world.maps["ct4"].info.max_entries
    syn = bytes(from_client(payload=b""))
    for number in range(2 * slots):
        address = (0x0A000000 + number).to_bytes(4, "big")
        world.state.program(ProgramKind.UPLINK).run(
            syn[:26] + address + syn[30:], ifindex=world.uplink
        )
    assert len(world.flows()) > slots // 2
    for client in clients:
        seen = world.arrive(from_client(client=client, tcp="A"))
        assert seen.reason is Reason.VIP_FORWARD, client
    assert world.locks() == 0


def flood(world: World, vip: L4Addr, first: int, count: int) -> None:
    """A SYN of each of `count` clients; `first` is the first one's address or its last octets."""
    syn = bytes(from_client(vip, payload=b""))
    at = 26 if vip.address.version == 4 else 22 + 12
    for number in range(first, first + count):
        world.state.program(ProgramKind.UPLINK).run(
            syn[:at] + number.to_bytes(4, "big") + syn[at + 4 :], ifindex=world.uplink
        )


@pytest.mark.parametrize("vip", [VIP_LOCAL, VIP6_LOCAL], ids=["v4", "v6"])
def test_a_flood_is_refused_nothing_while_there_are_weak_flows(world: World, vip: L4Addr) -> None:
    """Not by a full bucket of replies either, which comes long before the table is full."""
    version = vip.address.version
    slots = world.maps[f"ct{version}"].info.max_entries
    before = counted(world.maps["counters"])
    evicted = evictions(world.maps["counters"])
    flood(world, vip, 0x0A000000, 2 * slots)
    after = counted(world.maps["counters"])
    made = after[Reason.VIP_NEW].packets - (before[Reason.VIP_NEW].packets if before else 0)
    assert after.get(Reason.DROP_CT_FULL) is None
    assert made == 2 * slots
    live = list(world.records(version))
    assert len({flow.reply_tuple for flow in live}) == len(live) > slots // 2
    # No time has passed: what does not live any more was pushed out, and counted.
    gone = {table: n - evicted[table] for table, n in evictions(world.maps["counters"]).items()}
    assert sum(gone.values()) == 2 * slots - len(live)
    assert all(gone.values())
    assert world.locks() == 0


@pytest.mark.usefixtures("one_cpu")
@pytest.mark.parametrize("vip", [VIP_LOCAL, VIP6_LOCAL], ids=["v4", "v6"])
def test_flows_that_are_over_make_room_for_generations(world: World, vip: L4Addr) -> None:
    """Every record of the table was used in the end, and nobody was pushed out or refused.

    Nor did buckets fill up with words of flows that are over: who takes a record clears its word.
    """
    version = vip.address.version
    records, tags = world.maps[f"ct{version}"], world.maps[f"ct{version}_tags"]
    slots = records.info.max_entries
    evicted = evictions(world.maps["counters"])
    layout = dtype_of(abi.FLOW4 if version == 4 else abi.FLOW6)
    before = read_array(records, layout)["life"]
    for generation in range(32):
        flood(world, vip, 0x0A000000 + (generation << 16), slots // 8)
        assert len(world.flows(version)) == slots // 8
        world.pass_time(TIMEOUTS_S["CT_SYN"] + 1)
        assert not world.flows(version)
    assert evictions(world.maps["counters"]) == evicted
    assert world.locks() == 0
    births = (read_array(records, layout)["life"] - before) // 4
    # Records are taken in a row: four times around, none is left out.
    assert (births.min(), births.max()) == (4, 4)
    words = read_array(tags, dtype_of(abi.INDEX_BUCKET))["words"].view(np.uint32)
    assert words.shape == (slots // Limit.CT_WAYS, Limit.INDEX_WAYS)
    assert slots // 8 <= np.count_nonzero(words) <= slots
    assert world.laws() == []


def test_two_processors_never_give_one_tuple_twice(world: World) -> None:
    syn = bytes(from_client(payload=b""))

    def hurl(cpu: int) -> None:
        os.sched_setaffinity(0, {cpu})
        program = world.state.program(ProgramKind.UPLINK)
        for number in range(600):
            address = (0x0A000000 + number * 2 + cpu).to_bytes(4, "big")
            # The same flows from both, and flows of its own, all from one port.
            for source in (address, (0x0B000000 + number).to_bytes(4, "big")):
                program.run(syn[:26] + source + syn[30:], ifindex=world.uplink)

    home = os.sched_getaffinity(0)
    cpus = sorted(home)[:2]
    threads = [threading.Thread(target=hurl, args=(cpu,)) for cpu in cpus]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    live = list(world.records())
    assert len(live) >= 1000
    assert len({flow.ends for flow in live}) == len(live)
    assert len({flow.reply_tuple for flow in live}) == len(live)
    assert world.locks() == 0


# -- which backend ----------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 7, int(Limit.LIST_MAX), int(Limit.LIST_MAX) + 1])
@pytest.mark.parametrize("weights", [(1,), (1, 5, 9)], ids=["even", "weighted"])
def test_the_programs_pick_whom_python_picks(
    world: World, count: int, weights: tuple[int, ...]
) -> None:
    targets = [tcp(f"10.17.{number // 200}.{number % 200 + 1}", 8080) for number in range(count)]
    chosen = [To(t, weight=weights[at % len(weights)]) for at, t in enumerate(targets)]
    world.serve(VIP_TCP, chosen)
    members = sorted(
        Candidate(member_key(str(to.target)), world.backend_id(to.target), to.weight)
        for to in chosen
    )
    names = {world.backend_id(target): str(target.address) for target in targets}
    for port in range(20000, 20040):
        slot = flow_slot(ip_address(CLIENT), port, VIP_TCP.address, VIP_TCP.port, 6)
        assert target_of(world.arrive(from_client(port=port))) == names[pick(slot, members)]


def test_affinity_keeps_a_client_until_it_is_silent_or_its_backend_goes(world: World) -> None:
    everyone = [To(tcp(f"10.17.0.{number}", 8080)) for number in range(1, 9)]
    world.serve(VIP_TCP, everyone[:1], affinity_s=60)
    assert target_of(world.arrive(from_client(port=20000))) == "10.17.0.1"
    world.serve(VIP_TCP, everyone, affinity_s=60)
    slot = flow_slot(ip_address(CLIENT), 0, ip_address("0.0.0.0"), 0, 6)
    members = sorted(
        Candidate(member_key(str(to.target)), world.backend_id(to.target)) for to in everyone
    )
    own = pick(slot, members)
    assert own != world.backend_id(everyone[0].target), "choose another client"
    for port in range(20001, 20004):
        world.pass_time(50)
        assert target_of(world.arrive(from_client(port=port))) == "10.17.0.1"
    world.pass_time(61)
    moved = target_of(world.arrive(from_client(port=20010)))
    assert moved == str(
        next(t.target for t in everyone if world.backend_id(t.target) == own).address
    )
    left = [to for to in everyone if str(to.target.address) != moved]
    world.serve(VIP_TCP, left, affinity_s=60)
    assert target_of(world.arrive(from_client(port=20011))) != moved


def test_source_ranges_are_for_clients_outside(world: World) -> None:
    world.serve(VIP_TCP, [To(WEB)], ranges=[f"{CLIENT_TWO}/32"])
    assert world.arrive(from_client()).reason is Reason.DROP_SOURCE_RANGE
    assert world.arrive(from_client(client=CLIENT_TWO)).reason is Reason.VIP_NEW
    assert world.deliver(from_client()).reason is Reason.SVC_NEW


def test_policy_local_without_a_local_backend_is_silent(world: World) -> None:
    world.serve(VIP_LOCAL, [FAR], VipFlag.VIP_LOCAL)
    assert world.arrive(from_client(VIP_LOCAL)).reason is Reason.DROP_NO_LOCAL


def test_dsr_hands_over_and_takes_over(world: World) -> None:
    flags = VipFlag.VIP_SNAT | VipFlag.VIP_DSR
    world.serve(VIP_TCP, [FAR], flags)
    asked = from_client()
    seen = world.arrive(asked)
    assert (seen.action, seen.reason) == (XDP_TX, Reason.VIP_DIRECT)
    assert seen.packet[12:] == bytes(asked)[12:]
    out = Ether(seen.packet)
    assert (out.src, out.dst) == (UPLINK_MAC, OTHER_NODE_MAC)
    handed = from_client(client=CLIENT_TWO)
    handed[Ether].dst = GATEWAY_MAC
    assert world.arrive(built(handed)).reason is Reason.DROP_NO_LOCAL
    world.serve(VIP_TCP, [FAR, To(WEB)], flags)
    taken = world.arrive(built(handed))
    assert taken.packet == world.translated(handed, WEB, CLIENT_TWO)
    answer = from_backend(taken.packet)
    back = Ether(world.deliver(answer).packet)
    # The MACs are OVN's: this node never saw the client's.
    assert (back.src, back.dst) == (answer.src, answer.dst)
    assert str(ip_of(back).src) == str(VIP_TCP.address)


@pytest.mark.parametrize(("vip", "target"), [(VIP_TCP, WEB), (VIP6_TCP, WEB6)], ids=str)
def test_a_client_behind_ovn_is_translated_at_svc0_and_handed_back(
    world: World, vip: L4Addr, target: L4Addr
) -> None:
    world.serve(vip, [To(target)], VipFlag.VIP_INNER_SNAT)
    asked = from_client(vip, client="10.16.9.9" if vip is VIP_TCP else "fd10::99")
    seen = world.deliver(asked)
    assert (seen.action, seen.reason) == (XDP_TX, Reason.SVC_NEW)
    out = Ether(seen.packet)
    assert (out.src, out.dst) == (SERVICE_MAC, GATEWAY_MAC)
    assert seen.packet[12:] == world.translated(asked, target)[12:]
    back = world.deliver(from_backend(seen.packet))
    assert (back.action, back.reason) == (XDP_TX, Reason.SVC_REPLY)
    assert str(ip_of(Ether(back.packet)).dst) == str(ip_of(asked).src)


def test_a_backend_that_is_its_own_client_sees_svc0(world: World) -> None:
    world.serve(VIP_TCP, [To(WEB)], VipFlag(0))
    seen = world.deliver(from_client(client=str(WEB.address)))
    assert str(ip_of(Ether(seen.packet)).src) == SERVICE_ADDRESS
    (flow,) = world.flows().values()
    assert flow.fields["flags"] & FlowFlag.FLOW_INNER


def test_services_are_counted(world: World) -> None:
    service_id = world.serve(VIP_TCP, [To(WEB)])
    before = read_counts(world.maps)[service_id].tolist()
    first = establish(world)
    world.deliver(from_backend(first.packet, tcp="A"))
    after = read_counts(world.maps)[service_id].tolist()
    gained = dict(zip(FIELDS, (a - b for a, b in zip(after, before, strict=True)), strict=True))
    assert (gained["forward_packets"], gained["reply_packets"], gained["new_flows"]) == (2, 2, 1)
    assert gained["forward_bytes"] == 2 * len(bytes(from_client()))


def test_a_reply_whose_uplink_is_gone_is_dropped(world: World) -> None:
    first = world.arrive(from_client())
    world.maps["tx_ports"].delete(world.uplink.to_bytes(4, sys.byteorder))
    assert world.deliver(from_backend(first.packet)).reason is Reason.DROP_NO_TX_PORT
