"""What the programs counted by reason, summed over processors."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass

from bpf import abi
from dataplane.drivers.bpfmaps import integer
from dataplane.drivers.bpfstate import MapOwner
from dataplane.drivers.libbpf import Map


@dataclass(frozen=True, slots=True)
class Count:
    """Packets and their octets, summed over CPUs."""

    packets: int
    octets: int


def _sums(octets: bytes, layout: abi.Layout) -> list[int]:
    words = struct.unpack(f"={len(octets) // 8}Q", octets)
    width = layout.size // 8
    return [sum(words[at::width]) for at in range(width)]


def counters(state: MapOwner) -> Mapping[abi.Reason, Count]:
    """Packets by the reason of their verdict, those that have any."""
    return counted(state.maps["counters"])


def counted(counters_map: Map) -> Mapping[abi.Reason, Count]:
    """The same, of a map of that layout."""
    sums = summed(counters_map)
    return {r: sums[r] for r in abi.Reason if sums[r].packets}


def summed(counters_map: Map) -> dict[int, Count]:
    """All of such a map by number: reasons, events, and those that are neither."""
    return {integer(key): Count(*_sums(value, abi.COUNTER)) for key, value in counters_map.items()}


EVICTED_BY = {"flows": abi.Event.EVENT_EVICTED, "replies": abi.Event.EVENT_EVICTED_REPLY}
"""Whose bucket was full when a weak flow ended for a new one: its own, or its reply's."""


def evictions(counters_map: Map) -> Mapping[str, int]:
    """Flows that new ones have pushed out of conntrack, by EVICTED_BY."""
    found = {}
    for table, event in EVICTED_BY.items():
        octets = counters_map.lookup(struct.pack("=I", event)) or b""
        found[table] = _sums(octets, abi.COUNTER)[0]
    return found
