"""A table of eight stretches: where flows of a backend find room, and what becomes of others.

A stretch has 16,384 records; a backend's flows are in three of them, which their ports name.
"""

from __future__ import annotations

import socket
import sys
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from scapy.layers.inet import TCP
from scapy.layers.l2 import Ether

from bpf.abi import CtState, Reason, VipFlag
from dataplane.drivers.bpfstate import BpfState, remove_pins
from dataplane.model.addr import L4Addr
from dataplane.model.config import ServicesConfig
from dataplane.plan.capacity import map_sizes
from tests.bpf.ctlaws import (
    DIRECT_PORT_MIN,
    SNAT_PORT_MIN,
    STRETCH_BITS,
    Tables,
    stretches,
    write_records,
)
from tests.bpf.hurl import Hurler, at_once, hurler
from tests.bpf.world import (
    TIMEOUTS_S,
    VIP6_TCP,
    VIP_TCP,
    WEB,
    WEB6,
    XDP_DROP,
    To,
    World,
    from_backend,
    from_client,
    reversed_to_client,
    tcp,
    translated,
)

pytestmark = [pytest.mark.bpf, pytest.mark.usefixtures("one_cpu")]

RECORDS = 1 << 17
STRETCH = 1 << STRETCH_BITS
BATCH = 4096
SNAT_TRIES = 16
CLIENT_ONE, CLIENT6_ONE = IPv4Address("198.51.100.0"), IPv6Address("2001:db8:d::")
FAMILIES = pytest.mark.parametrize(
    ("vip", "target"), [(VIP_TCP, WEB), (VIP6_TCP, WEB6)], ids=["IPv4", "IPv6"]
)


@pytest.fixture(scope="module")
def big_state(bpffs: Path) -> Iterator[BpfState]:
    sizes = map_sizes(ServicesConfig(flows=RECORDS // 2, services=1024, backends=4096))
    root = str(bpffs / "stretches")
    try:
        with BpfState(root, sizes=sizes) as state:
            yield state
    finally:
        remove_pins(root)


@pytest.fixture
def big(big_state: BpfState) -> Iterator[World]:
    devices = socket.if_nametoindex("up0"), socket.if_nametoindex("svc0")
    made = World(big_state, *devices).clear().fill()
    yield made
    assert made.laws() == []


@pytest.fixture
def clients(big: World) -> Iterator[Hurler]:
    with hurler(big) as made:
        yield made


def strengthen(world: World, version: int) -> Tables:
    """Every flow is established, as if it had been answered."""
    tables = Tables.read(world.maps, version)
    tables.records["state"][tables.living] = CtState.CT_ESTABLISHED
    write_records(world.maps, tables)
    return tables


def gained(world: World, before: dict[Reason, int]) -> dict[Reason, int]:
    after = world.counted()
    return {r: n - before.get(r, 0) for r, n in after.items() if n != before.get(r, 0)}


def fill_the_backends(world: World, clients: Hurler, vip: L4Addr, target: L4Addr) -> Tables:
    """Established flows in all records that a backend's ports name, and some more elsewhere."""
    packet, before = from_client(vip), world.counted()
    world.serve(vip, [To(target)])
    clients.aim(packet, 1 << 22)
    wanted = set(stretches(world._node, target))
    assert len(wanted) == 3  # as every backend's
    for _ in range(3 * STRETCH // BATCH):
        clients.hurl(packet, BATCH)
        tables = strengthen(world, vip.address.version)
    assert gained(world, before) == {Reason.VIP_NEW: 3 * STRETCH}
    assert tables.by_port.all()
    assert set((tables.living >> STRETCH_BITS).tolist()) == wanted
    assert len(tables.living) == 3 * STRETCH
    clients.hurl(packet, BATCH)
    return strengthen(world, vip.address.version)


@FAMILIES
def test_a_backend_has_its_stretches_and_then_others(
    big: World, clients: Hurler, vip: L4Addr, target: L4Addr
) -> None:
    version = vip.address.version
    before = big.counted()
    tables = fill_the_backends(big, clients, vip, target)
    assert big.laws() == []
    refused = gained(big, before).get(Reason.DROP_CT_FULL, 0)
    print(f"{(~tables.by_port).sum()} flows elsewhere, {refused} refused")
    assert (~tables.by_port).sum() + refused == BATCH
    # Five eighths of the table are free, wherever the hash of a port leads to.
    assert refused < BATCH // 100
    ports = tables.port("source_port")[~tables.by_port]
    assert ports.min() >= SNAT_PORT_MIN
    assert ports.max() < DIRECT_PORT_MIN
    # A flow that found room elsewhere is one like others, on both sides.
    met = 0
    for number in range(100):
        asked = from_client(vip, port=50_000 + number)
        seen = big.arrive(asked)
        if seen.reason is Reason.DROP_CT_FULL:
            continue
        assert seen.reason is Reason.VIP_NEW
        port = Ether(seen.packet)[TCP].sport
        met += port < DIRECT_PORT_MIN
        assert seen.packet == translated(asked, target, port)
        assert big.arrive(asked).packet == seen.packet
        answer = from_backend(seen.packet)
        assert big.deliver(answer).packet == reversed_to_client(answer, asked)
    assert met > 10
    # Flows to another backend have ports that name records in other stretches.
    full = set(stretches(big._node, target))
    each = (tcp(str(target.address + n), 8080) for n in range(1, 100))
    other = next(t for t in each if not full & set(stretches(big._node, t)))
    big.serve(vip, [To(other)])
    before = big.counted()
    packet = from_client(vip, port=1)
    clients.aim(packet, 1 << 22, 1 << 21)
    clients.hurl(packet, BATCH)
    assert gained(big, before) == {Reason.VIP_NEW: BATCH}
    after = Tables.read(big.maps, version)
    late = after.flows["state"] != CtState.CT_ESTABLISHED
    assert (late & after.by_port).sum() == BATCH
    # And of those that were there none has gone.
    assert np.isin(tables.living, after.living).all()
    same = tables.records["life"][tables.living] == after.records["life"][tables.living]
    assert same.all()


@FAMILIES
def test_a_flood_does_not_use_up_a_backends_ports(
    big: World, clients: Hurler, vip: L4Addr, target: L4Addr
) -> None:
    """More SYNs than there are ports, and room for all of them: the oldest of them end."""
    packet, before = from_client(vip), big.counted()
    big.serve(vip, [To(target)])
    clients.aim(packet, 1 << 22)
    count = 6 * STRETCH
    assert 1 << 16 < count < RECORDS
    clients.hurl(packet, count)
    assert gained(big, before) == {Reason.VIP_NEW: count}
    assert big.laws() == []
    tables = Tables.read(big.maps, vip.address.version)
    print(f"{len(tables.living)} of {count} live, {(~tables.by_port).sum()} of them elsewhere")


@FAMILIES
def test_new_flows_are_refused_only_when_nearly_all_are_strong(
    big: World, clients: Hurler, vip: L4Addr, target: L4Addr
) -> None:
    version, packet = vip.address.version, from_client(vip)
    big.serve(vip, [To(tcp(str(target.address + n), 8080)) for n in range(64)])
    clients.aim(packet, 1 << 22)
    before, filled = big.counted(), {}
    for _ in range(2 * RECORDS // BATCH):
        clients.hurl(packet, BATCH)
        strong = len(strengthen(big, version).living)
        filled[strong] = gained(big, before).get(Reason.DROP_CT_FULL, 0)
    first = min((strong for strong, refused in filled.items() if refused), default=RECORDS)
    print(f"the first is refused at {first / RECORDS:.3f}, in the end {max(filled) / RECORDS:.3f}")
    assert first > RECORDS * 3 // 4
    assert max(filled) > RECORDS * 9 // 10
    assert big.laws() == []
    assert set(gained(big, before)) <= {Reason.VIP_NEW, Reason.DROP_CT_FULL}


@FAMILIES
def test_when_every_port_tried_is_taken_the_flow_is_dropped(
    big: World, clients: Hurler, vip: L4Addr, target: L4Addr
) -> None:
    """With affinity the ports that are tried are one client's whatever VIP it asks."""
    fill_the_backends(big, clients, vip, target)
    each = (run_out_of_ports(big, vip, target, number) for number in range(1, 30))
    assert any(each)
    assert big.laws() == []


def run_out_of_ports(world: World, vip: L4Addr, target: L4Addr, number: int) -> bool:
    """Whether a client is refused a port in the end; else there was no room for its record."""
    client = str((CLIENT6_ONE if vip.address.version == 6 else CLIENT_ONE) + number)
    tried: list[int] = []
    for turn in range(SNAT_TRIES + 2):
        other = tcp(str(vip.address + 1000 + turn), 80)
        world.serve(other, [To(target)], affinity_s=1000, service="affine")
        asked = from_client(other, client=client)
        before = world.stats(world.service_id(other))["drops_no_port"]
        seen = world.arrive(asked)
        if seen.reason is not Reason.VIP_NEW:
            break
        tried.append(Ether(seen.packet)[TCP].sport)
        world.deliver(from_backend(seen.packet))
        assert world.arrive(from_client(other, client=client, tcp="A")).reason is Reason.VIP_FORWARD
    assert seen.action == XDP_DROP
    assert seen.packet == bytes(asked)
    assert len(set(tried)) == len(tried) <= SNAT_TRIES
    assert all(SNAT_PORT_MIN <= port < DIRECT_PORT_MIN for port in tried)
    refused = seen.reason is Reason.DROP_NO_PORT
    assert refused or seen.reason is Reason.DROP_CT_FULL
    assert world.stats(world.service_id(other))["drops_no_port"] == before + refused
    print(f"{client}: {len(tried)} ports, then {seen.reason.name}")
    return refused


@FAMILIES
def test_two_processors_make_the_same_flows(
    big: World, clients: Hurler, vip: L4Addr, target: L4Addr
) -> None:
    version, count = vip.address.version, 30_000
    big.serve(vip, [To(tcp(str(target.address + n), 8080)) for n in range(16)])
    packet = from_client(vip)
    with hurler(big) as others:
        for turn in range(6):
            before = big.counted()
            for each in (clients, others):
                each.aim(packet, (turn + 1) * count, turn * count)
            at_once(lambda: clients.hurl(packet, count), lambda: others.hurl(packet, count))
            found = gained(big, before)
            assert sum(found.values()) == 2 * count
            assert set(found) <= {Reason.VIP_NEW, Reason.VIP_FORWARD, Reason.DROP_CT_BUSY}
            assert big.laws() == []
            assert len(Tables.read(big.maps, version).living) == count
            print(found)
            big.pass_time(TIMEOUTS_S["CT_ESTABLISHED"] + 1)


@FAMILIES
def test_kept_clients_are_in_every_stretch(
    big: World, clients: Hurler, vip: L4Addr, target: L4Addr
) -> None:
    big.serve(vip, [To(target)], VipFlag(0))
    packet, before = from_client(vip), big.counted()
    clients.aim(packet, 1 << 22)
    clients.hurl(packet, RECORDS // 2)
    assert gained(big, before) == {Reason.VIP_NEW: RECORDS // 2}
    tables = Tables.read(big.maps, vip.address.version)
    print(f"{len(tables.living)} of {RECORDS // 2} kept clients live")
    assert not tables.by_port.any()
    each = np.bincount(tables.living >> STRETCH_BITS, minlength=RECORDS >> STRETCH_BITS)
    assert each.min() > STRETCH // 8


def fill_with_strangers(world: World, version: int) -> Tables:
    """Every record is an established flow of nobody's."""
    tables = Tables.read(world.maps, version)
    tables.records["life"] |= 3
    tables.records["seen"], tables.records["state"] = world.tick, CtState.CT_ESTABLISHED
    write_records(world.maps, tables)
    return tables


def end_all(world: World, tables: Tables, where: NDArray[np.bool_] | slice = slice(None)) -> None:
    lives = tables.records["life"]
    lives[where] += lives[where] & 1
    write_records(world.maps, tables)


def place_of(target: L4Addr) -> int:
    """Where it is remembered how it went with a backend (vain_of in bpf/include/flows.h)."""
    port = int.from_bytes(target.port.to_bytes(2, "big"), sys.byteorder)
    word = int.from_bytes(target.address.packed[-4:], "big")
    found = word + port + (target.protocol << 8) + target.address.version
    return (found * 0x9E3779B1 & 0xFFFFFFFF) >> 26


def within(tables: Tables, wanted: set[int]) -> NDArray[np.bool_]:
    """Which records are in one of these stretches."""
    return np.isin(np.arange(len(tables.records)) >> STRETCH_BITS, list(wanted))


def reason_of(world: World, vip: L4Addr, number: int) -> Reason:
    client = str((CLIENT_ONE if vip.address.version == 4 else CLIENT6_ONE) + number % 200)
    return world.arrive(from_client(vip, client=client, port=2000 + number)).reason


@FAMILIES
def test_a_backend_without_room_looks_everywhere_once_a_tick_and_refuses_no_other(
    big: World, vip: L4Addr, target: L4Addr
) -> None:
    version = vip.address.version
    own = set(stretches(big._node, target))
    other_vip = L4Addr(vip.protocol, vip.address + 1, vip.port)
    others = (L4Addr(vip.protocol, target.address + n, target.port) for n in range(1, 99))
    other = next(
        one
        for one in others
        if not set(stretches(big._node, one)) & own and place_of(one) != place_of(target)
    )
    big.serve(vip, [To(target)])
    big.serve(other_vip, [To(other)])
    tables = fill_with_strangers(big, version)
    before = big.stats(big.service_id(vip))
    assert {reason_of(big, vip, number) for number in range(100)} == {Reason.DROP_CT_FULL}
    assert big.stats(big.service_id(vip))["drops_full"] - before["drops_full"] == 100
    # There is room again, but in none of the stretches that a port of either backend's names.
    taken = own | set(stretches(big._node, other))
    end_all(big, tables, ~within(tables, taken))
    assert {reason_of(big, vip, number) for number in range(100, 150)} == {Reason.DROP_CT_FULL}
    # Three other ports, each with three stretches: all of them among the taken for one of twelve.
    found = [reason_of(big, other_vip, number) for number in range(150, 200)]
    assert found.count(Reason.VIP_NEW) > 30
    ticks = 0
    while reason_of(big, vip, 200 + ticks) is not Reason.VIP_NEW:
        big.pass_time(0.01)
        ticks += 1
        assert ticks < 10
    found = [reason_of(big, vip, number) for number in range(220, 250)]
    assert found.count(Reason.VIP_NEW) > 15
    end_all(big, Tables.read(big.maps, version))
    assert reason_of(big, vip, 250) is Reason.VIP_NEW


@FAMILIES
def test_who_looks_briefly_looks_in_each_stretch_in_turn(
    big: World, vip: L4Addr, target: L4Addr
) -> None:
    version = vip.address.version
    big.serve(vip, [To(target)])
    for turn, stretch in enumerate(stretches(big._node, target)):
        tables = fill_with_strangers(big, version)
        first = 1000 * turn
        refused = {reason_of(big, vip, first + number) for number in range(70)}
        assert refused == {Reason.DROP_CT_FULL}
        some = within(tables, {stretch})
        some[np.arange(len(some)) % 4 != 0] = False
        end_all(big, tables, some)
        found = [reason_of(big, vip, first + number) for number in range(70, 73)]
        assert Reason.VIP_NEW in found
        end_all(big, Tables.read(big.maps, version))


@FAMILIES
def test_one_who_is_refused_now_and_then_looks_everywhere_each_time(
    big: World, vip: L4Addr, target: L4Addr
) -> None:
    version = vip.address.version
    own = set(stretches(big._node, target))
    big.serve(vip, [To(target)])
    tables = fill_with_strangers(big, version)
    for number in range(100):
        assert reason_of(big, vip, number) is Reason.DROP_CT_FULL
        big.pass_time(0.01)
    end_all(big, tables, ~within(tables, own))
    assert reason_of(big, vip, 99) is Reason.VIP_NEW
    end_all(big, Tables.read(big.maps, version))
