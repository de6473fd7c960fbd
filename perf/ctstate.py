"""What benchmarks of the programs read of their state, so that each row is what its name says."""

from __future__ import annotations

from collections.abc import Mapping

from bpf.abi import Event, Reason
from dataplane.drivers.counters import summed
from dataplane.drivers.libbpf import Map

FIRST_LIFE = 7
"""`life` of the first flow of a record that was never claimed before (bpf/include/ct_family.h)."""

Counted = Reason | Event
COUNTED: dict[int, Counted] = {int(one): one for one in (*Reason, *Event)}
"""By index of `counters`."""

NEVER: frozenset[Counted] = frozenset(
    {*Event, *(one for one in Reason if one.name.startswith("DROP_"))}
)
"""What no row counts: flows evicted for others, packets dropped."""


def counted(counters: Map) -> dict[Counted, int]:
    """Packets so far by what became of them, and how often what else happened; none that is 0.

    Args:
        counters: the map of that name.

    Raises:
        LibbpfError: the kernel refused.
    """
    return {
        COUNTED[number]: count.packets
        for number, count in summed(counters).items()
        if count.packets and number in COUNTED
    }


def grown(before: Mapping[Counted, int], after: Mapping[Counted, int]) -> dict[Counted, int]:
    """What was counted between two readings of the counters."""
    return {key: n - before.get(key, 0) for key, n in after.items() if n != before.get(key, 0)}


def named(counts: Mapping[Counted, int]) -> dict[str, int]:
    """For people."""
    return {key.name: count for key, count in counts.items()}
