"""What the programs counted by service, summed over processors: all services in one go.

Source: struct service_stats of bpf/include/abi.h, a per-CPU array by service id.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from bpf import abi
from dataplane.drivers.mapbulk import array_chunks

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from dataplane.drivers.libbpf import Map

FIELDS = tuple(name for name, _ in abi.SERVICE_STATS.fields)
DROPS = tuple(name for name in FIELDS if name.startswith("drops_"))


@dataclass(frozen=True, slots=True)
class ServiceCounts:
    """Packets, octets, flows begun, and drops by reason (only those that there were)."""

    forward_packets: int = 0
    forward_octets: int = 0
    reply_packets: int = 0
    reply_octets: int = 0
    new_flows: int = 0
    drops: tuple[tuple[str, int], ...] = ()

    @property
    def packets(self) -> int:
        """Of both directions."""
        return self.forward_packets + self.reply_packets


def read_counts(stats: Map) -> NDArray[np.uint64]:
    """One row a service id, one column for each of FIELDS.

    Raises:
        LibbpfError: the kernel refused.
    """
    words = abi.SERVICE_STATS.size // 8
    cpus = stats.value_size // abi.SERVICE_STATS.size
    dtype: np.dtype[Any] = np.dtype((np.uint64, (cpus, words)))
    rows = np.zeros((stats.info.max_entries, words), np.uint64)
    for first, values in array_chunks(stats, dtype):
        rows[first : first + len(values)] = values.sum(axis=1)
    return rows


def counts_of(row: NDArray[np.uint64]) -> ServiceCounts:
    """One row in words."""
    values = dict(zip(FIELDS, row.tolist(), strict=True))
    return ServiceCounts(
        values["forward_packets"],
        values["forward_bytes"],
        values["reply_packets"],
        values["reply_bytes"],
        values["new_flows"],
        tuple((name.removeprefix("drops_"), values[name]) for name in DROPS if values[name]),
    )


def service_counts(stats: Map) -> dict[int, ServiceCounts]:
    """By service id, those of which anything was counted."""
    rows = read_counts(stats)
    return {int(number): counts_of(rows[number]) for number in np.flatnonzero(rows.any(axis=1))}
