"""Each of conntrack's laws can be broken: damage of one kind is found, by its name."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from dataplane.drivers.mapbulk import write_array
from tests.bpf.ctlaws import CLAIMED, Tables, write_records
from tests.bpf.world import VIP6_LOCAL, VIP6_TCP, VIP_LOCAL, VIP_TCP, World, from_client

pytestmark = pytest.mark.bpf

FLOWS = 40
Damage = Callable[[Tables], None]


def _words(tables: Tables) -> tuple[int, int]:
    """A bucket and a way (as a column) that have a word."""
    rows, ways = np.nonzero(tables.buckets[:, 2:])
    return int(rows[0]), int(ways[0]) + 2


def _of(tables: Tables, chosen: NDArray[np.bool_]) -> int:
    """The first living record for which that holds."""
    return int(tables.living[np.flatnonzero(chosen)[0]])


def _reply_word(tables: Tables) -> tuple[int, int]:
    rows, ways = np.nonzero(tables.replies[:, 1:])
    return int(rows[0]), int(ways[0]) + 1


def no_word(tables: Tables) -> None:
    tables.buckets[_words(tables)] = 0


def two_words(tables: Tables) -> None:
    row, way = _words(tables)
    tables.buckets[(row + 1) % len(tables.buckets), 2 + 13] = tables.buckets[row, way]


def moved_word(tables: Tables) -> None:
    row, way = _words(tables)
    tables.buckets[(row + 1) % len(tables.buckets), 2 + 13] = tables.buckets[row, way]
    tables.buckets[row, way] = 0


def spilled_in_secret(tables: Tables) -> None:
    """Each word goes into the same way of each bucket: one is its flow's second."""
    row, way = _words(tables)
    number = tables.buckets[row, way] & np.uint32(tables.last)
    flow = tables.living == number
    tables.buckets[int(tables.second[flow][0]), 2 + 13] = tables.buckets[row, way]
    tables.buckets[row, way] = 0
    tables.buckets[:, 1] = 0


def another_tag(tables: Tables) -> None:
    tables.buckets[_words(tables)] ^= np.uint32(1 << 31)


def word_of_nothing(tables: Tables) -> None:
    unused = np.setdiff1d(np.arange(tables.last), tables.living)[0]
    tables.records["life"][unused] = 0
    tables.buckets[0, 2 + 13] = np.uint32(tables.last + 1 | int(unused))


def word_of_the_wordless(tables: Tables) -> None:
    tables.records["wordless"][tables.living[0]] = 1


def no_reply_word(tables: Tables) -> None:
    tables.replies[_reply_word(tables)] = 0


def two_reply_words(tables: Tables) -> None:
    row, way = _reply_word(tables)
    tables.replies[row, 1 + way % 7] = tables.replies[row, way]


def another_port(tables: Tables) -> None:
    tables.records["source_port"][_of(tables, tables.by_port)] ^= np.uint16(1 << 8)


def same_client(tables: Tables) -> None:
    one, two = tables.living[tables.by_port][:2]
    for name in ("client", "client_port"):
        tables.records[name][two] = tables.records[name][one]


def same_reply(tables: Tables) -> None:
    one, two = tables.living[tables.by_port][:2]
    tables.records["source_port"][two] = tables.records["source_port"][one]


def other_port_of_a_kept_client(tables: Tables) -> None:
    tables.records["source_port"][_of(tables, ~tables.ours)] ^= np.uint16(1 << 8)


def strange_source(tables: Tables) -> None:
    tables.records["source"][_of(tables, tables.by_port)] ^= np.uint8(1)


def somebody_elses_low_port(tables: Tables) -> None:
    tables.records["source_port"][_of(tables, tables.by_port)] = np.uint16(77).byteswap()


def claimed(tables: Tables) -> None:
    tables.records["life"][0] = tables.records["life"][0] & ~np.uint32(3) | np.uint32(CLAIMED)


def held(tables: Tables) -> None:
    tables.buckets[3, 0] |= np.uint32(1)


def held_reply(tables: Tables) -> None:
    tables.replies[3, 0] |= np.uint64(1)


DAMAGES: dict[Damage, str] = {
    no_word: "a flow has a word",
    two_words: "no record has two words",
    moved_word: "its word is in one of its buckets",
    spilled_in_secret: "in the second only where the first says so",
    another_tag: "its word has its tag",
    word_of_nothing: "no word names what never was a flow",
    word_of_the_wordless: "no word names what has none",
    no_reply_word: "has one word among the replies",
    two_reply_words: "no bucket of replies names a record twice",
    another_port: "a port from 16,384 on names its record",
    same_client: "no two flows have one client's tuple",
    same_reply: "no two flows have one reply's tuple",
    other_port_of_a_kept_client: "a client that is kept is kept with its port",
    strange_source: "every other flow comes from an address of ours",
    somebody_elses_low_port: "ports below 1,024 are the clients' own",
    claimed: "no record is claimed",
    held: "no lock of a client's bucket is held",
    held_reply: "no lock of a reply's bucket is held",
}


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: str(damage.__name__))
def test_a_broken_law_is_told(world: World, version: int, damage: Damage) -> None:
    for vip in (VIP_TCP, VIP_LOCAL) if version == 4 else (VIP6_TCP, VIP6_LOCAL):
        for port in range(20_000, 20_000 + FLOWS):
            world.arrive(from_client(vip, port=port))
    assert world.laws() == []
    damaged, sound = Tables.read(world.maps, version), Tables.read(world.maps, version)
    damage(damaged)
    try:
        write(world, damaged)
        found = world.laws()
    finally:
        write(world, sound)
    assert any(DAMAGES[damage] in claim for claim in found), found
    assert world.laws() == []


def write(world: World, tables: Tables) -> None:
    write_records(world.maps, tables)
    for name, rows in (("tags", tables.buckets), ("replies", tables.replies)):
        octets = np.ascontiguousarray(rows).view(np.dtype((np.void, 64))).ravel()
        write_array(world.maps[f"ct{tables.version}_{name}"], octets)
