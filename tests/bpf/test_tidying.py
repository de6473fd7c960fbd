"""What flows that are over left in conntrack's index is cleared, of them and of nobody else."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import numpy as np
import pytest

from bpf.abi import Reason
from dataplane.drivers.conntrack import Conntrack
from dataplane.drivers.tidying import Tidying
from dataplane.model.addr import L4Addr
from dataplane.model.conntrack import FlowFilter
from tests.bpf.ctlaws import CLAIMED, Tables, write_records
from tests.bpf.hurl import Hurler, at_once
from tests.bpf.world import VIP6_LOCAL, VIP6_TCP, VIP_LOCAL, VIP_TCP, World, from_client

pytestmark = pytest.mark.bpf

VIPS = {"SNAT": VIP_TCP, "SNAT, IPv6": VIP6_TCP, "kept": VIP_LOCAL, "kept, IPv6": VIP6_LOCAL}
KINDS = pytest.mark.parametrize("vip", VIPS.values(), ids=list(VIPS))
FLOWS, ROUNDS, TURNS = 1_000, 6, 30_000


@pytest.fixture
def tidying(world: World) -> Iterator[Tidying]:
    with Tidying(world.maps) as made:
        made.run()  # of what other tests left
        yield made


def tables(world: World, vip: L4Addr) -> Tables:
    return Tables.read(world.maps, vip.address.version)


def words(world: World, vip: L4Addr) -> int:
    return int(np.count_nonzero(tables(world, vip).buckets[:, 2:]))


def spilled(world: World, vip: L4Addr) -> int:
    return int(tables(world, vip).buckets[:, 1].sum())


def in_second(world: World, vip: L4Addr) -> int:
    """How many flows have their word in the second of their buckets."""
    found = tables(world, vip)
    numbers = found.buckets[found.first.astype(np.intp), 2:] & np.uint32(found.last)
    return int((~(numbers == found.living[:, None]).any(axis=1)).sum())


def end_all(world: World) -> int:
    with Conntrack(world.maps) as conntrack:
        return conntrack.flush(FlowFilter()).ended


@KINDS
def test_what_is_over_has_no_word_afterwards_and_what_lives_keeps_its_own(
    world: World, tidying: Tidying, first: Hurler, vip: L4Addr
) -> None:
    packet = from_client(vip)
    first.aim(packet, 1 << 20)
    first.hurl(packet, FLOWS)
    assert (end_all(world), words(world, vip)) == (FLOWS, FLOWS)
    first.aim(packet, 1 << 20, FLOWS)
    first.hurl(packet, FLOWS)
    assert words(world, vip) > FLOWS
    left = words(world, vip) - FLOWS
    assert (tidying.run(), words(world, vip)) == (left, FLOWS)
    assert world.laws() == []
    before = world.counted()
    first.aim(packet, 1 << 20, FLOWS)
    first.hurl(packet, FLOWS)
    assert world.counted()[Reason.VIP_FORWARD] - before.get(Reason.VIP_FORWARD, 0) == FLOWS
    assert tidying.run() == 0


@KINDS
def test_a_record_without_a_word_has_flows_as_any_other(
    world: World, tidying: Tidying, first: Hurler, vip: L4Addr
) -> None:
    """Round by round the same records, tidied or not, with other clients."""
    packet = from_client(vip)
    for turn in range(8):
        first.aim(packet, 1 << 20, turn * FLOWS)
        first.hurl(packet, FLOWS)
        assert len(world.flows(vip.address.version)) == FLOWS
        assert world.laws() == []
        assert end_all(world) == FLOWS
        if turn % 3:
            tidying.run()
            assert words(world, vip) == 0


@KINDS
def test_words_in_second_buckets_are_found_there_and_taken_off_the_firsts_count(
    world: World, tidying: Tidying, first: Hurler, vip: L4Addr
) -> None:
    """In a table as full as can be."""
    packet = from_client(vip)
    slots = world.maps[f"ct{vip.address.version}"].info.max_entries
    first.aim(packet, 1 << 20)
    first.hurl(packet, 4 * slots)
    away, before = in_second(world, vip), spilled(world, vip)
    assert 0 < away <= before
    end_all(world)
    tidying.run()
    assert words(world, vip) == 0
    assert world.laws() == []
    # One whose place another's word took in between is left on the count (index_bucket).
    assert spilled(world, vip) <= before - away


def test_what_is_claimed_or_was_never_used_is_left_alone(
    world: World, tidying: Tidying, first: Hurler
) -> None:
    packet = from_client(VIP_TCP)
    first.aim(packet, 10)
    first.hurl(packet, 10)
    claimed = tables(world, VIP_TCP)
    life = claimed.records["life"]
    # As a program leaves it that is in the middle of making a flow of it.
    life[claimed.living] = life[claimed.living] // 4 * 4 + CLAIMED
    write_records(world.maps, claimed)
    assert tidying.run() == 0
    after = tables(world, VIP_TCP)
    assert (after.records == claimed.records).all()
    assert words(world, VIP_TCP) == 10
    world.clear()


@KINDS
def test_two_processors_and_tidying(
    world: World, tidying: Tidying, first: Hurler, second: Hurler, vip: L4Addr
) -> None:
    """A third thread ends flows and clears words meanwhile, far more often than a node does."""
    packet, stop = from_client(vip), threading.Event()
    ended = cleared = 0
    slots = world.maps[f"ct{vip.address.version}"].info.max_entries
    first.aim(packet, 1 << 20)
    second.aim(packet, slots // 2)

    def tidy() -> None:
        nonlocal ended, cleared
        while not stop.is_set():
            ended += end_all(world)
            cleared += tidying.run()

    def hurl_all(each: Hurler) -> None:
        try:
            for _ in range(ROUNDS):
                each.hurl(packet, TURNS)
        finally:
            if each is first:
                stop.set()

    at_once(lambda: hurl_all(first), lambda: hurl_all(second), tidy)
    assert world.laws() == []
    assert min(ended, cleared) > 1000
    end_all(world)
    tidying.run()
    assert words(world, vip) == 0
