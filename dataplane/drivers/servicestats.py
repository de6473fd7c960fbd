"""What the programs counted by service, summed over processors: all services in one go.

Sources: bpf/include/abi.h and maps.h. Packets and octets are in `service_traffic`, an array with a
row for each processor and way, which is mapped here: to ask for each value by itself would cost
the kernel 0.1 us for every service, processor and way. The rest is in `service_events`, an array by
processor of the kernel's. Programs count on meanwhile.
"""

from __future__ import annotations

import errno
import math
import mmap
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from bpf import abi
from bpf.abi import TrafficWay
from dataplane.drivers.bpfstate import SETS
from dataplane.drivers.libbpf import LibbpfError, Map, possible_cpus
from dataplane.drivers.libbpf_programs import of_one_cpu
from dataplane.drivers.mapbulk import array_chunks, update_keys

if TYPE_CHECKING:
    from numpy.typing import NDArray

_WAYS = int(TrafficWay.TRAFFIC_WAYS)
_WORDS = abi.COUNTER.size // 8

FIELDS = (
    *("forward_packets", "forward_bytes", "reply_packets", "reply_bytes"),
    *(name for name, _ in abi.SERVICE_EVENTS.fields),
)
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


def read_counts(maps: Mapping[str, Map]) -> NDArray[np.uint64]:
    """One row a service id, one column for each of FIELDS.

    Raises:
        LibbpfError: the kernel refused.
    """
    services = _counted(maps)
    traffic, events = _read_traffic(maps[abi.TRAFFIC]), _read_events(maps[abi.EVENTS])
    return np.hstack([traffic[:services], events[:services]])


def services_of(maps: Mapping[str, Map]) -> int:
    """How many services the maps have room for, the least of them."""
    return min(maps[SETS].info.max_entries // 2, _counted(maps))


def _counted(maps: Mapping[str, Map]) -> int:
    """How many services can be counted."""
    traffic = of_one_cpu(abi.TRAFFIC, maps[abi.TRAFFIC].info.max_entries)
    return min(traffic // _WAYS, maps[abi.EVENTS].info.max_entries)


def _by_cpu(traffic: Map, protection: int) -> NDArray[np.uint64]:
    """By processor, way and service: packets and octets, as they are in the map. Unmapped with it.

    Raises:
        LibbpfError: the kernel refused.
    """
    services = of_one_cpu(abi.TRAFFIC, traffic.info.max_entries) // _WAYS
    shape = (possible_cpus(), _WAYS, services, _WORDS)
    octets = traffic.info.max_entries * abi.COUNTER.size
    try:
        mapped = mmap.mmap(traffic.fd, octets, mmap.MAP_SHARED, protection)
    except OSError as error:
        what = f"map {abi.TRAFFIC} into memory"
        raise LibbpfError(what, error.errno or errno.EIO) from error
    return np.frombuffer(mapped, np.uint64, count=math.prod(shape)).reshape(shape)


def _read_traffic(traffic: Map) -> NDArray[np.uint64]:
    """By service: packets and octets of one way, then of the other."""
    by_way: NDArray[np.uint64] = _by_cpu(traffic, mmap.PROT_READ).sum(axis=0)
    return by_way.transpose(1, 0, 2).reshape(-1, _WAYS * _WORDS)


def _read_events(events: Map) -> NDArray[np.uint64]:
    words = abi.SERVICE_EVENTS.size // 8
    cpus = events.value_size // abi.SERVICE_EVENTS.size
    dtype: np.dtype[Any] = np.dtype((np.uint64, (cpus, words)))
    rows = np.zeros((events.info.max_entries, words), np.uint64)
    for first, values in array_chunks(events, dtype):
        rows[first : first + len(values)] = values.sum(axis=1)
    return rows


def clear_counts(maps: Mapping[str, Map], numbers: Iterable[int]) -> None:
    """Begin at zero for these services.

    Raises:
        LibbpfError: the kernel refused; some are cleared.
    """
    asked = np.fromiter(numbers, np.uint32)
    ids = asked[asked < _counted(maps)]
    if not len(ids):
        return
    events = maps[abi.EVENTS]
    update_keys(events, ids, np.zeros((len(ids), events.value_size), np.uint8))
    _by_cpu(maps[abi.TRAFFIC], mmap.PROT_READ | mmap.PROT_WRITE)[:, :, ids] = 0


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


def service_counts(maps: Mapping[str, Map]) -> dict[int, ServiceCounts]:
    """By service id, those of which anything was counted."""
    rows = read_counts(maps)
    return {int(number): counts_of(rows[number]) for number in np.flatnonzero(rows.any(axis=1))}
