"""Conntrack's laws (ctlaws) hold whatever happened: floods, two CPUs at once, ends, low ports.

Every test's tables are looked at in the end by the fixture, too.
"""

from __future__ import annotations

import random
import threading

import pytest
from scapy.layers.l2 import Ether
from scapy.packet import Packet

from bpf.abi import CtState, Reason, VipFlag
from dataplane.drivers.conntrack import Conntrack
from dataplane.drivers.servicestats import FIELDS, read_counts
from dataplane.model.addr import L4Addr
from dataplane.model.conntrack import FlowFilter
from tests.bpf import ctlaws
from tests.bpf.ctlaws import DIRECT_PORT_MIN, Tables
from tests.bpf.hurl import Hurler, at_once
from tests.bpf.world import (
    CLIENT_PORT,
    TIMEOUTS_S,
    VIP6_LOCAL,
    VIP6_TCP,
    VIP6_UDP,
    VIP_LOCAL,
    VIP_TCP,
    VIP_UDP,
    WEB,
    WEB6,
    XDP_DROP,
    Flow,
    To,
    World,
    from_backend,
    from_client,
    tcp,
    translated,
)

pytestmark = pytest.mark.bpf

VIPS = {
    "SNAT": VIP_TCP, "SNAT, IPv6": VIP6_TCP, "datagrams": VIP_UDP, "datagrams, IPv6": VIP6_UDP,
    "kept": VIP_LOCAL, "kept, IPv6": VIP6_LOCAL,
}  # fmt: skip
KINDS = pytest.mark.parametrize("vip", VIPS.values(), ids=list(VIPS))
FAMILIES = pytest.mark.parametrize("vip", [VIP_TCP, VIP6_TCP], ids=["IPv4", "IPv6"])
ROUNDS, TURNS = 6, 30_000


def slots(world: World, vip: L4Addr) -> int:
    return world.maps[f"ct{vip.address.version}"].info.max_entries


def spilled(world: World, vip: L4Addr) -> int:
    """How many buckets say that a second one may have words of theirs."""
    return int((Tables.read(world.maps, vip.address.version).buckets[:, 1] != 0).sum())


def gained(world: World, before: dict[Reason, int]) -> dict[Reason, int]:
    """Packets by reason since then."""
    after = world.counted()
    return {r: n - before.get(r, 0) for r, n in after.items() if n != before.get(r, 0)}


def refused_otherwise(world: World) -> int:
    """New flows of all services that were refused for another reason than a full table."""
    return int(read_counts(world.maps)[:, FIELDS.index("drops_other")].sum())


def packets_of(flow: Flow, version: int) -> Packet:
    client, port, address, vip_port = flow.ends
    return from_client(tcp(address, vip_port), client=client, port=port, tcp="A")


def meet_again(world: World, vip: L4Addr, some: int = 60) -> None:
    """Some of the flows are known to both of their sides, each by its own packets."""
    version = vip.address.version
    flows = list(world.flows(version).values())
    assert flows
    for flow in random.Random(1).sample(flows, min(some, len(flows))):
        client, port, _, _ = flow.ends
        asked = from_client(vip, client=client, port=port, tcp="A")
        seen = world.arrive(asked)
        assert seen.reason is Reason.VIP_FORWARD
        backend, backend_port, source, source_port = flow.reply_tuple
        target = L4Addr(vip.protocol, tcp(backend, 1).address, backend_port)
        assert seen.packet == translated(asked, target, source_port, source)
        back = world.deliver(from_backend(seen.packet, tcp="A"))
        assert back.reason is Reason.SVC_REPLY
        got = Ether(back.packet)
        assert (got[2].dport, got[1].dst) == (port, client)


@KINDS
def test_a_flood(world: World, first: Hurler, vip: L4Addr) -> None:
    """Four times what the table has room for."""
    packet, count = from_client(vip), 4 * slots(world, vip)
    before = world.counted()
    first.aim(packet, 1 << 20)
    for _ in range(4):
        first.hurl(packet, count // 4)
        assert world.laws() == []
    assert gained(world, before) == {Reason.VIP_NEW: count}
    assert len(world.flows(vip.address.version)) > slots(world, vip) * 3 // 4
    meet_again(world, vip)


@KINDS
def test_generations(world: World, first: Hurler, vip: L4Addr) -> None:
    """What is over makes room, also for the very same clients."""
    packet, count = from_client(vip), slots(world, vip) * 3 // 8
    state = "CT_SYN" if "SNAT" in str(vip) else "CT_MIDDLE"
    for generation in range(12):
        before = world.counted()
        first.aim(packet, 1 << 20, generation // 2 * count)
        first.hurl(packet, count)
        assert gained(world, before) == {Reason.VIP_NEW: count}
        assert world.laws() == []
        world.pass_time(TIMEOUTS_S[state] + 1)
        assert not world.flows(vip.address.version)


@KINDS
def test_what_buckets_have_spilled_comes_back(world: World, first: Hurler, vip: L4Addr) -> None:
    """After a flood few buckets are searched twice: each record was another flow's since."""
    packet, count = from_client(vip), slots(world, vip)
    first.aim(packet, 1 << 20)
    for _ in range(8):
        first.hurl(packet, count)
    flooded = spilled(world, vip)
    for _ in range(16):
        world.pass_time(TIMEOUTS_S["CT_ESTABLISHED"] + 1)
        first.hurl(packet, count // 4)
    after = spilled(world, vip)
    print(f"{flooded} buckets had spilled after the flood, {after} in the end")
    assert flooded > 20
    assert after < flooded // 4


@KINDS
def test_two_processors_make_the_same_flows(
    world: World, first: Hurler, second: Hurler, vip: L4Addr
) -> None:
    packet, clients = from_client(vip), slots(world, vip) * 3 // 8
    for turn in range(ROUNDS):
        before = world.counted()
        for each in (first, second):
            each.aim(packet, clients, turn * clients)
            # The loop of a plan ends at its number of clients.
            each.aim(packet, (turn + 1) * clients, turn * clients)
        at_once(*(lambda e=e: e.hurl(packet, clients) for e in (first, second)))
        found = gained(world, before)
        assert sum(found.values()) == 2 * clients
        assert set(found) <= {Reason.VIP_NEW, Reason.VIP_FORWARD, Reason.DROP_CT_BUSY}
        flows = world.flows(vip.address.version)
        assert len(flows) <= clients
        assert len(flows) > clients * 9 // 10
        assert world.laws() == []
        meet_again(world, vip, 10)
        world.pass_time(TIMEOUTS_S["CT_ESTABLISHED"] + 1)


@pytest.mark.parametrize("clients", [2, 16, 256])
@pytest.mark.parametrize(
    "vip", [VIP_TCP, VIP6_TCP, VIP_LOCAL, VIP6_LOCAL], ids=["SNAT", "SNAT6", "kept", "kept6"]
)
def test_two_processors_fight_over_few_tuples(
    world: World, first: Hurler, second: Hurler, vip: L4Addr, clients: int
) -> None:
    """One sends resets, so that the other's SYNs begin anew; both begin what is not there."""
    syn, reset = from_client(vip, tcp="S"), from_client(vip, tcp="R")
    before = world.counted()
    first.aim(syn, clients)
    second.aim(reset, clients)
    for turn in range(10 * ROUNDS):
        at_once(lambda: first.hurl(syn, 4 * TURNS), lambda: second.hurl(reset, 4 * TURNS))
        assert world.laws() == []
        assert 1 <= len(list(world.records(vip.address.version))) <= clients
        found = gained(world, before)
        assert sum(found.values()) == 8 * (turn + 1) * TURNS
        # A round that had no second processor shows nothing: flows begin anew where both were.
        if turn >= ROUNDS and found[Reason.VIP_NEW] > 50 * clients:
            break
    print(found)
    assert found[Reason.VIP_NEW] > 50 * clients
    first.aim(syn, clients)
    first.hurl(syn, clients)
    meet_again(world, vip)


@KINDS
def test_two_processors_in_a_full_table(
    world: World, first: Hurler, second: Hurler, vip: L4Addr
) -> None:
    """The same clients, others, and evictions all the while."""
    packet = from_client(vip)
    before, refused_so_far = world.counted(), refused_otherwise(world)
    first.aim(packet, 1 << 20)
    for turn in range(ROUNDS):
        # One plan for both, which may give them one client at a time; then one each.
        pair = (first, first) if turn % 2 else (first, second)
        second.aim(packet, 3 * slots(world, vip), slots(world, vip) * turn // 2)
        at_once(*(lambda e=e: e.hurl(packet, TURNS) for e in pair))
        assert world.laws() == []
    found = gained(world, before)
    assert sum(found.values()) == 2 * ROUNDS * TURNS
    assert found[Reason.VIP_NEW] > ROUNDS * TURNS
    dropped = {Reason.DROP_CT_BUSY, Reason.DROP_CT_FULL, Reason.DROP_CONFLICT}
    assert set(found) <= {Reason.VIP_NEW, Reason.VIP_FORWARD, *dropped}
    # A packet may find its flow and lose it to another processor's before it is translated. No new
    # flow was in conflict with another one: that would be counted as the service's.
    assert refused_otherwise(world) == refused_so_far
    refused = sum(found.get(reason, 0) for reason in dropped)
    print(f"refused: {refused} of {2 * ROUNDS * TURNS}: {found}")
    assert refused < 2 * ROUNDS * TURNS // 100
    meet_again(world, vip)


@KINDS
def test_two_processors_and_sweeps(
    world: World, first: Hurler, second: Hurler, vip: L4Addr
) -> None:
    """A third thread ends flows by the thousand meanwhile, as a change of services does."""
    packet, stop = from_client(vip), threading.Event()
    ended = 0
    first.aim(packet, 1 << 20)
    second.aim(packet, slots(world, vip) // 2)
    with Conntrack(world.maps) as conntrack:

        def sweep() -> None:
            nonlocal ended
            while not stop.is_set():
                ended += conntrack.flush(FlowFilter()).ended

        def hurl_all(each: Hurler) -> None:
            try:
                for _ in range(ROUNDS):
                    each.hurl(packet, TURNS)
            finally:
                if each is first:
                    stop.set()

        at_once(lambda: hurl_all(first), lambda: hurl_all(second), sweep)
    assert world.laws() == []
    assert ended > 1000
    first.aim(packet, 64, 0)
    first.hurl(packet, 64)
    meet_again(world, vip)


@pytest.mark.parametrize("vip", [VIP_LOCAL, VIP6_LOCAL], ids=["IPv4", "IPv6"])
def test_two_processors_want_the_same_reply_tuples(
    world: World, first: Hurler, second: Hurler, vip: L4Addr
) -> None:
    """The same clients, kept, at two VIPs of one backend: each may have one flow there."""
    other = tcp(str(vip.address + 1), vip.port)
    world.serve(other, [To(WEB if vip.address.version == 4 else WEB6)], VipFlag.VIP_LOCAL)
    packets, stop = (from_client(vip), from_client(other)), threading.Event()
    before, ended, twins = world.counted(), 0, 0
    for each, packet in zip((first, second), packets, strict=True):
        each.aim(packet, 64)
    with Conntrack(world.maps) as conntrack:

        def sweep() -> None:
            nonlocal ended, twins
            while not stop.is_set():
                twins += ctlaws.twins(world.maps, vip.address.version, "reply")
                ended += conntrack.flush(FlowFilter()).ended

        def hurl_all(each: Hurler, packet: Packet) -> None:
            try:
                for _ in range(10 * ROUNDS):
                    each.hurl(packet, TURNS)
            finally:
                stop.set()

        at_once(lambda: hurl_all(first, packets[0]), lambda: hurl_all(second, packets[1]), sweep)
    assert world.laws() == []
    for each, packet in zip((first, second), packets, strict=True):
        each.hurl(packet, 128)
    found = gained(world, before)
    print(found, ended, twins)
    assert twins == 0
    assert found[Reason.DROP_CONFLICT] >= 64
    assert found[Reason.VIP_NEW] > 1000
    assert ended > 1000


@FAMILIES
def test_low_ports_are_kept_until_they_collide(world: World, vip: L4Addr) -> None:
    version = vip.address.version
    ports: dict[int, list[Flow]] = {}
    prefix = "198.51.100." if version == 4 else "2001:db8:c::"
    for number in range(1, 200):
        port = 600 + number % 7
        asked = from_client(vip, client=f"{prefix}{number}", port=port)
        assert world.arrive(asked).reason is Reason.VIP_NEW
        ports.setdefault(port, []).append(world.flows(version)[_ends(asked, vip)])
    for port, flows in ports.items():
        got = [flow.fields["source_port"] for flow in flows]
        assert got[0] == port
        assert min(got[1:]) >= DIRECT_PORT_MIN
    assert world.laws() == []
    meet_again(world, vip, 200)


def _ends(packet: Packet, vip: L4Addr) -> tuple[str, int, str, int]:
    return packet[1].src, packet[2].sport, str(vip.address), vip.port


@FAMILIES
def test_in_a_table_of_strong_flows_a_new_one_is_refused(
    world: World, first: Hurler, vip: L4Addr
) -> None:
    version, packet = vip.address.version, from_client(vip)
    first.aim(packet, 1 << 20)
    for _ in range(64):
        first.hurl(packet, slots(world, vip) // 16)
        strengthen(world, version)
    full = Tables.read(world.maps, version)
    assert len(full.living) > slots(world, vip) * 9 // 10
    service_id = world.service_id(vip)
    before, late = world.stats(service_id), from_client(vip, port=CLIENT_PORT)
    refused = []
    for number in range(1, 100):
        client = f"198.51.100.{number}" if version == 4 else f"2001:db8:d::{number}"
        late = from_client(vip, client=client)
        seen = world.arrive(late)
        if seen.reason is not Reason.VIP_NEW:
            assert (seen.action, seen.reason) == (XDP_DROP, Reason.DROP_CT_FULL)
            assert seen.packet == bytes(late)
            refused.append(late)
    assert len(refused) > 50
    assert world.stats(service_id)["drops_full"] - before["drops_full"] == len(refused)
    assert world.laws() == []
    # Nobody was pushed out.
    after = Tables.read(world.maps, version)
    assert set(full.living.tolist()) <= set(after.living.tolist())
    same = full.records[full.living]["life"] == after.records[full.living]["life"]
    assert same.all()
    # Once they are over there is room again.
    world.pass_time(TIMEOUTS_S["CT_ESTABLISHED"] + 1)
    assert world.arrive(refused[0]).reason is Reason.VIP_NEW


def strengthen(world: World, version: int) -> None:
    """Every flow is established, as if it had been answered."""
    tables = Tables.read(world.maps, version)
    tables.records["state"][tables.living] = CtState.CT_ESTABLISHED
    ctlaws.write_records(world.maps, tables)
