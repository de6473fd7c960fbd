"""The drivers of the maps: what is written is observed, also after a restart."""

from __future__ import annotations

import socket
import sys
from collections.abc import Iterator
from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import Any

import numpy as np
import pytest

from bpf import abi
from bpf.abi import Limit, NodeFlag, SetMode
from bpf.pick import Candidate, filter_bit, member_key, table
from dataplane.drivers import setsmap
from dataplane.drivers.bpfmaps import (
    BackendTable,
    KnownAddressTable,
    SourceRangeTable,
    VipTable,
    held_ids,
    number,
)
from dataplane.drivers.bpfstate import BpfState
from dataplane.drivers.nodemap import NodeTable
from dataplane.drivers.setsmap import GRACE_S, NoRoom, Ranges, SetTable
from dataplane.model.addr import L4Addr, Mac, Protocol
from dataplane.model.config import ServicesConfig
from dataplane.model.rows import (
    AddressFlag,
    BackendEntry,
    KnownAddress,
    NodeEntry,
    SetEntry,
    SetScope,
    SourceRange,
    VipEntry,
    VipFlag,
)
from dataplane.model.service import Place
from dataplane.plan.capacity import map_sizes
from dataplane.ports import ObserveError, Table
from dataplane.reconcile.backoff import Backoff
from dataplane.reconcile.reconciler import Reconciler
from dataplane.reconcile.status import State
from tests.labs.netns import Namespace

pytestmark = pytest.mark.bpf

SIZES = map_sizes(ServicesConfig(flows=1024, services=64, backends=512))
SNAT = VipFlag.SNAT


@pytest.fixture
def state(bpf_root: str) -> Iterator[BpfState]:
    with BpfState(bpf_root, sizes=SIZES) as made:
        yield made


def tcp(address: str, port: int) -> L4Addr:
    return L4Addr(Protocol.TCP, ip_address(address), port)


def bit_is_set(state: BpfState, vip: L4Addr) -> bool:
    bit = filter_bit(vip.address.packed, vip.port, vip.protocol)
    word = int.from_bytes(state.maps["vip_bits"].lookup(number(bit // 64)) or b"", sys.byteorder)
    return bool(word >> (bit % 64) & 1)


def test_vips_of_both_families_are_what_they_were_and_have_their_bits(state: BpfState) -> None:
    vips = {
        tcp("192.0.2.10", 80): VipEntry(3, SNAT | VipFlag.AFFINITY, 10800),
        tcp("2001:db8::10", 443): VipEntry(4, VipFlag.LOCAL),
    }
    assert VipTable(state).upsert(list(vips.items())) == {}
    again = VipTable(state)
    assert again.observe() == vips
    assert all(bit_is_set(state, vip) for vip in vips)
    gone = tcp("192.0.2.10", 80)
    assert again.delete([gone, tcp("192.0.2.99", 80)]) == {}
    assert not bit_is_set(state, gone)
    assert set(again.observe()) == {tcp("2001:db8::10", 443)}


def test_a_filter_that_disagrees_is_put_right(state: BpfState) -> None:
    vip, stray = tcp("192.0.2.10", 80), tcp("192.0.2.11", 81)
    VipTable(state).upsert([(vip, VipEntry(1, SNAT))])
    for one in (vip, stray):
        bit = filter_bit(one.address.packed, one.port, one.protocol)
        word = 0 if one is vip else 1 << (bit % 64)
        state.maps["vip_bits"].update(number(bit // 64), word.to_bytes(8, sys.byteorder))
    VipTable(state).observe()
    assert bit_is_set(state, vip)
    assert not bit_is_set(state, stray)


def test_backends_ranges_and_addresses_are_what_they_were(state: BpfState) -> None:
    backends = {
        7: BackendEntry(tcp("10.1.0.11", 8080), Place.LOCAL, 1442),
        8: BackendEntry(tcp("fd01::11", 53), Place.REMOTE, 1400, Mac("0a:58:ac:12:00:70")),
    }
    ranges = {
        (1, ip_network("10.0.0.0/8")): SourceRange(),
        (2, ip_network("fd00::/8")): SourceRange(),
    }
    known = {
        IPv4Address("172.18.0.11"): KnownAddress(AddressFlag.LOCAL | AddressFlag.VIP),
        IPv6Address("fd18::200"): KnownAddress(AddressFlag.OWNED),
    }
    for make, rows in (
        (BackendTable, backends), (SourceRangeTable, ranges), (KnownAddressTable, known),
    ):  # fmt: skip
        assert make(state).upsert(list(rows.items())) == {}  # type: ignore[arg-type]
        assert make(state).observe() == rows
        first = next(iter(rows))
        assert make(state).delete([first]) == {}  # type: ignore[list-item]
        assert set(make(state).observe()) == set(rows) - {first}


def test_ids_and_room_are_read_back(state: BpfState) -> None:
    vip, target = tcp("192.0.2.10", 80), tcp("10.1.0.11", 8080)
    VipTable(state).upsert([(vip, VipEntry(9, SNAT))])
    BackendTable(state).upsert([(5, BackendEntry(target, Place.LOCAL))])
    held = held_ids(state)
    assert (held.services, held.backends) == ({vip: 9}, {target: 5})
    assert (held.max_services, held.max_backends) == (63, 511)


def test_a_full_map_names_itself(state: BpfState) -> None:
    many = [(tcp(f"192.0.{n // 256}.{n % 256}", 80), VipEntry(1, SNAT)) for n in range(300)]
    failures = VipTable(state).upsert(many)
    assert failures
    assert {failed.reason for failed in failures.values()} == {"map vips is full (256 entries)"}


def row(count: int, weight: int = 1) -> SetEntry:
    members = [(at + 1, member_key(f"10.0.{at}.1:80/tcp"), 1) for at in range(count)]
    members[0] = (*members[0][:2], weight)
    return SetEntry(tuple(sorted(members, key=lambda member: member[1])))


def test_sets_are_what_they_were_and_empty_ones_are_none(state: BpfState) -> None:
    rows = {
        (1, SetScope.CLUSTER): row(3),
        (1, SetScope.LOCAL): row(1),
        (2, SetScope.CLUSTER): row(4, 9),
    }
    assert SetTable(state).upsert(list(rows.items())) == {}
    again = SetTable(state)
    assert again.observe() == rows
    assert again.delete([(1, SetScope.LOCAL), (60, SetScope.LOCAL)]) == {}
    assert set(again.observe()) == set(rows) - {(1, SetScope.LOCAL)}
    assert again.upsert([((1, SetScope.CLUSTER), row(2))]) == {}
    assert SetTable(state).observe()[1, SetScope.CLUSTER] == row(2)


def test_a_table_gives_the_same_rows_until_somebody_writes(state: BpfState) -> None:
    vip, other = tcp("10.0.0.1", 80), tcp("10.0.0.2", 80)
    entry = BackendEntry(tcp("10.1.0.1", 8080), Place.REMOTE, 1442, None)
    tables: list[tuple[Table[Any, Any], Any, Any, str]] = [
        (VipTable(state), vip, VipEntry(1, SNAT, 0), "vips"),
        (BackendTable(state), 7, entry, "backends"),
        (SetTable(state), (1, SetScope.CLUSTER), row(3), "sets"),
        (KnownAddressTable(state), vip.address, KnownAddress(AddressFlag.VIP), "known_addresses"),
    ]
    for one, key, value, name in tables:
        assert one.upsert([(key, value)]) == {}
        first = one.observe()
        assert first == {key: value}
        assert one.observe() is first
        # What was read back is what was given, so that comparing it costs nothing.
        assert first[key] is value
        held = state.maps[name]
        (octets,) = [entry for entry in held.items() if any(entry[1])]
        # Another hand takes it away: an entry of an array becomes zeros.
        if name in {"backends", "sets"}:
            held.update(octets[0], bytes(len(octets[1])))
        else:
            held.delete(octets[0])
        assert one.observe() == {}
        assert first == {key: value}, "who has a look's rows keeps them as they were"
        assert one.upsert([(key, value)]) == {}
        assert one.observe() == {key: value}
        assert one.delete([key]) == {}
        assert one.observe() == {}
    addresses = VipTable(state)
    addresses.upsert([(vip, VipEntry(1, SNAT, 0)), (other, VipEntry(2, SNAT, 0))])
    addresses.observe()
    addresses.upsert([(other, VipEntry(3, SNAT, 0))])
    assert addresses.observe() == {vip: VipEntry(1, SNAT, 0), other: VipEntry(3, SNAT, 0)}


def test_what_is_not_ours_is_told_at_every_look(state: BpfState) -> None:
    backends = BackendTable(state)
    backends.upsert([(1, BackendEntry(tcp("10.1.0.1", 8080), Place.REMOTE, 1442, None))])
    octets = state.maps["backends"].lookup(number(1)) or b""
    fields = abi.BACKEND.unpack(octets) | {"proto": 1}
    state.maps["backends"].update(number(2), abi.BACKEND.pack(**fields))
    for _ in range(2):
        with pytest.raises(ObserveError, match="not ours"):
            backends.observe()
    state.maps["backends"].update(number(2), bytes(len(octets)))
    assert set(backends.observe()) == {1}


def test_a_set_by_another_hand_is_written_anew_or_removed(state: BpfState) -> None:
    sets, held = SetTable(state), state.maps["sets"]
    ours, other = (1, SetScope.CLUSTER), (2, SetScope.CLUSTER)
    reconciler = Reconciler([sets], Backoff())
    reconciler.apply({"sets": {ours: row(3)}}, now=0)
    word = held.lookup(number(2)) or b""
    held.update(number(4), word)
    report = reconciler.apply({"sets": {ours: row(3)}}, now=0)
    assert (report.writes, report.tables["sets"].deletes) == (1, 1)
    assert not any(held.lookup(number(4)) or b"")
    held.update(number(4), word)
    reconciler.apply({"sets": {ours: row(3), other: row(2)}}, now=0)
    assert SetTable(state).observe() == {ours: row(3), other: row(2)}


def test_two_words_of_one_range_are_no_two_sets(
    state: BpfState, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the range were free when one of them goes, and others' members written over it."""
    monkeypatch.setattr(setsmap, "GRACE_S", 0.0)
    ours, third = (1, SetScope.CLUSTER), (3, SetScope.CLUSTER)
    SetTable(state).upsert([(ours, row(3))])
    held = state.maps["sets"]
    held.update(number(4), held.lookup(number(2)) or b"")
    again = SetTable(state)
    reconciler = Reconciler([again], Backoff())
    others = SetEntry(tuple((at + 50, key, 1) for at, key, _ in row(3).members))
    reconciler.apply({"sets": {ours: row(3)}}, now=0)
    reconciler.apply({"sets": {ours: row(3), third: others}}, now=0)
    assert SetTable(state).observe() == {ours: row(3), third: others}


def test_a_set_of_many_is_a_table_of_what_the_list_would_give(state: BpfState) -> None:
    wanted = row(Limit.LIST_MAX + 10)
    sets = SetTable(state)
    assert sets.upsert([((1, SetScope.CLUSTER), wanted)]) == {}
    assert sets.observe() == {(1, SetScope.CLUSTER): wanted}
    octets = state.maps["sets"].lookup(number(2)) or b""
    assert octets[6] == SetMode.SET_TABLE
    first = int.from_bytes(octets[:4], sys.byteorder)
    expected = table([Candidate(key, backend, weight) for backend, key, weight in wanted.members])
    for slot in range(0, Limit.PICK_SLOTS, 997):
        held = state.maps["tables"].lookup(number(first * Limit.PICK_SLOTS + slot)) or b""
        assert np.frombuffer(held, np.uint32)[0] == expected[slot]


def test_a_table_of_a_service_that_went_meanwhile_goes_after_a_restart(state: BpfState) -> None:
    SetTable(state).upsert([((1, SetScope.CLUSTER), row(Limit.LIST_MAX + 10))])
    Reconciler([SetTable(state)], Backoff()).apply({"sets": {}}, now=0)
    assert not any(state.maps["sets"].lookup(number(2)) or b"")


def test_a_range_rests_before_it_is_used_again() -> None:
    ranges = Ranges(11)
    first, second = ranges.take(5, 0.0), ranges.take(5, 0.0)
    assert (first, second) == (1, 6)
    ranges.give_back(first, 5, 0.0)
    with pytest.raises(NoRoom):
        ranges.take(5, GRACE_S / 2)
    assert ranges.take(2, GRACE_S) == first
    assert ranges.take(3, GRACE_S) == first + 2
    assert Ranges(20, [(4, 3), (10, 2)]).take(8, 0.0) == 12


def test_no_room_for_a_set_is_said_and_the_others_are_made(state: BpfState) -> None:
    rows = [((at, SetScope.CLUSTER), row(100)) for at in range(1, 31)]
    failures = SetTable(state).upsert(rows)
    assert failures
    assert "raise [services] backends" in next(iter(failures.values())).reason
    assert len(SetTable(state).observe()) == 30 - len(failures)


ENTRY = NodeEntry(
    IPv4Address("100.64.255.1"), IPv6Address("fd00:101::1"), Mac("0a:58:64:40:ff:01"),
    Mac("0a:58:ac:12:00:6f"), 7, Mac("02:00:00:00:00:0a"), "svc0",
    (IPv4Address("172.18.0.11"), IPv4Address("172.18.0.12")),
)  # fmt: skip


def test_the_node_is_what_it_was_and_keeps_its_seed(state: BpfState) -> None:
    seeds = set()
    for entry in (ENTRY, NodeEntry(ENTRY.service_address, None, *_rest(ENTRY))):
        assert NodeTable(state).upsert([(0, entry)]) == {}
        assert NodeTable(state).observe() == {0: entry}
        seeds.add((state.maps["node"].lookup(number(0)) or b"")[8:12])
    assert NodeTable(state).delete([0]) == {}
    assert NodeTable(state).observe() == {}
    NodeTable(state).upsert([(0, ENTRY)])
    seeds.add((state.maps["node"].lookup(number(0)) or b"")[8:12])
    assert len(seeds) == 1
    assert seeds != {bytes(4)}
    assert NodeTable(state).upsert([(1, ENTRY)])[1].reason == "table node has no row 1, only row 0"


def _rest(entry: NodeEntry) -> tuple[Mac, Mac, int, Mac, str, tuple[IPv4Address, ...]]:
    return (
        entry.service_mac, entry.gateway_mac, entry.uplink_ifindex, entry.uplink_mac,
        entry.service_link, entry.local,
    )  # fmt: skip


LINK = "svcx"
OF_LINK = {"node": {0: replace(ENTRY, service_link=LINK)}}


@pytest.fixture
def link(namespace: Namespace) -> Iterator[Namespace]:
    """Where `LINK` may come and go."""
    try:
        yield namespace
    finally:
        namespace.run("ip", "link", "del", LINK, check=False)


def _make(link: Namespace, peer: str = f"{LINK}-peer") -> int:
    link.run("ip", "link", "add", LINK, "type", "veth", "peer", "name", peer)
    return socket.if_nametoindex(LINK)


def _fields(state: BpfState) -> abi.Fields:
    return abi.NODE.unpack(state.maps["node"].lookup(number(0)) or b"")


def _daemon(state: BpfState) -> Reconciler:
    """One that has just started."""
    return Reconciler([NodeTable(state)], Backoff())


def test_the_node_names_its_link_by_the_number_that_it_has_now(
    state: BpfState, link: Namespace
) -> None:
    first = _make(link)
    assert _daemon(state).apply(OF_LINK, 0).writes == 1
    assert _fields(state)["svc_ifindex"] == first
    one = _daemon(state)
    assert one.apply(OF_LINK, 0).writes == 0
    link.run("ip", "link", "del", LINK)
    second = _make(link)
    assert second != first
    assert one.apply(OF_LINK, 1).writes == 1
    assert _fields(state)["svc_ifindex"] == second
    assert one.apply(OF_LINK, 2).writes == 0
    assert _daemon(state).apply(OF_LINK, 0).writes == 0


def test_a_number_that_another_device_has_now_is_not_the_links(
    state: BpfState, link: Namespace
) -> None:
    _make(link)
    NodeTable(state).upsert([*OF_LINK["node"].items()])
    link.run("ip", "link", "set", LINK, "name", f"{LINK}-old")
    try:
        second = _make(link, f"{LINK}-other")
        assert _daemon(state).apply(OF_LINK, 0).writes == 1
        assert _fields(state)["svc_ifindex"] == second
    finally:
        link.run("ip", "link", "del", f"{LINK}-old")


def test_without_its_link_the_node_serves_and_waits(state: BpfState, link: Namespace) -> None:
    one = _daemon(state)
    assert one.apply(OF_LINK, 0).failed == 1
    status = one.statuses()["node", 0]
    assert (status.state, status.reason) == (State.PENDING, f"there is no device {LINK} yet")
    held = _fields(state)
    assert held["svc_ifindex"] == 0
    assert held["service_addr4"] == ENTRY.service_address.packed  # type: ignore[union-attr]
    assert NodeFlag(held["flags"]) & NodeFlag.NODE_VALID4
    made = _make(link)
    assert one.apply(OF_LINK, 10).failed == 0
    assert one.statuses()["node", 0].state is State.DONE
    assert _fields(state)["svc_ifindex"] == made
    assert _daemon(state).apply(OF_LINK, 0).writes == 0


def test_a_node_whose_link_is_gone_can_be_taken_back(state: BpfState, link: Namespace) -> None:
    _make(link)
    one = _daemon(state)
    one.apply(OF_LINK, 0)
    link.run("ip", "link", "del", LINK)
    assert one.apply({"node": {}}, 1).writes == 1
    assert NodeFlag(_fields(state)["flags"]) == NodeFlag(0)


def test_an_entry_gets_the_timeouts_of_a_newer_build_before_its_programs_run(
    state: BpfState, link: Namespace
) -> None:
    table = NodeTable(state)
    assert not table.take_derived(), "there is no entry"
    _make(link)
    assert _daemon(state).apply(OF_LINK, 0).failed == 0
    right = _fields(state)
    assert not table.take_derived()
    older = np.frombuffer(right["timeouts"], np.uint32).copy()
    older[abi.CtState.CT_UDP_ANSWERED] = 0
    state.maps["node"].update(number(0), abi.NODE.pack(**{**right, "timeouts": older.tobytes()}))
    assert table.take_derived()
    assert _fields(state) == right


def test_pinned_maps_keep_their_size_and_say_so(bpf_root: str) -> None:
    with BpfState(bpf_root, sizes=SIZES) as first:
        assert first.resized == {}
        assert first.maps["ct4"].info.max_entries == 2048
    with BpfState(bpf_root, sizes={**SIZES, "ct4": 4096}) as second:
        assert second.resized == {"ct4": (2048, 4096)}
        assert second.maps["ct4"].info.max_entries == 2048
