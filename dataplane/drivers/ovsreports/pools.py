"""Packet buffers: the pools of `netdev-dpdk/get-mempool-info`, the heap of `dpdk/get-malloc-stats`.

Sources: rte_mempool_dump() and rte_malloc_dump_stats() of DPDK 22.11 to 25.11, which OVS prints.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_POOL = re.compile(r"^mempool <([^>]*)>", re.MULTILINE)
_FIELD = re.compile(r"^\s+(\w+)=(-?\d+)\s*$", re.MULTILINE)
_HEAP = re.compile(r"^Heap id:(\d+)", re.MULTILINE)
_HEAP_FIELD = re.compile(r"^\s+([A-Z]\w+):(\d+),?\s*$", re.MULTILINE)
_HEAP_NAME = re.compile(r"^\s+Heap name:(\S*)\s*$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Mempool:
    """One pool of packet buffers.

    `available` counts those in the pool itself and in its threads' caches; the latter belong to a
    thread, so a pool may run dry with some of them left. `numa` -1: any node.
    """

    name: str
    numa: int
    size: int
    available: int
    buffer_bytes: int

    @property
    def in_use(self) -> int:
        """Buffers that hold a packet or wait in a device's ring."""
        return max(self.size - self.available, 0)


@dataclass(frozen=True, slots=True)
class Heap:
    """DPDK's memory of one NUMA node, in octets."""

    name: str
    total: int
    free: int


def mempools(text: str) -> tuple[Mempool, ...]:
    """The pools, in the order given; one without its size or its fill is left out."""
    found: list[Mempool] = []
    for name, part in _parts(_POOL, text):
        fields = {match[1]: int(match[2]) for match in _FIELD.finditer(part)}
        if "size" not in fields or "common_pool_count" not in fields:
            continue
        found.append(
            Mempool(
                name=name,
                numa=fields.get("socket_id", -1),
                size=fields["size"],
                available=fields["common_pool_count"] + fields.get("total_cache_count", 0),
                buffer_bytes=fields.get("elt_size", 0),
            )
        )
    return tuple(found)


def heaps(text: str) -> tuple[Heap, ...]:
    """The heaps that hold anything."""
    found: list[Heap] = []
    for number, part in _parts(_HEAP, text):
        fields = {match[1]: int(match[2]) for match in _HEAP_FIELD.finditer(part)}
        if fields.get("Heap_size"):
            name = _HEAP_NAME.search(part)
            label = name[1] if name and name[1] else number
            found.append(Heap(label, fields["Heap_size"], fields.get("Free_size", 0)))
    return tuple(found)


def _parts(head: re.Pattern[str], text: str) -> list[tuple[str, str]]:
    """What each head names, and the text up to the next one."""
    heads = list(head.finditer(text))
    ends = [match.start() for match in heads[1:]] + [len(text)] * bool(heads)
    return [(match[1], text[match.end() : end]) for match, end in zip(heads, ends, strict=True)]
