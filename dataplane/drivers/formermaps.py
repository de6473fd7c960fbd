"""Maps that this version of the layouts once had under other names.

A map whose meaning changes gets another name (bpf/include/maps.h), so that programs of both builds
may run while one takes the other's place. What was counted is taken along; the filters are made
from the VIPs and addresses, which have the maps that they had.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bpf import abi
from bpf.abi import TrafficWay
from dataplane.drivers.bpfstate import version_directory
from dataplane.drivers.libbpf import Map
from dataplane.drivers.mapbulk import array_chunks, update_keys
from dataplane.drivers.migration import older
from dataplane.drivers.servicestats import EVENTS, FIELDS, read_counts, services_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

COUNTS = "service_stats"
"""By processor and service: all of `servicestats.FIELDS`, in their order."""

FORMER = (COUNTS, "vip_filter", "address_filter")

_TRAFFIC_FIELDS = 2 * int(TrafficWay.TRAFFIC_WAYS)


def take_counts(bpf_root: str, maps: Mapping[str, Map]) -> bool:
    """Go on from what older programs counted for services, before a program over `maps` runs.

    What they count from now on until they are replaced is lost.

    Returns:
        Whether there was something; not if something was counted here already.

    Raises:
        LibbpfError: the kernel refused.
    """
    directories = [version_directory(bpf_root), *reversed(older(bpf_root).values())]
    found = next((path / COUNTS for path in directories if (path / COUNTS).exists()), None)
    if found is None or read_counts(maps).any():
        return False
    with Map.at(found) as former:
        rows = _summed(former)
    traffic, events = maps[abi.TRAFFIC], maps[EVENTS]
    services = services_of(traffic)
    rows = rows[: min(services, events.info.max_entries)]
    for way in range(TrafficWay.TRAFFIC_WAYS):
        counts = np.ascontiguousarray(rows[:, 2 * way : 2 * way + 2])
        keys = np.arange(way * services, way * services + len(rows), dtype=np.uint32)
        update_keys(traffic, keys, counts)
    values = np.zeros((len(rows), events.value_size // 8), np.uint64)
    values[:, : len(FIELDS) - _TRAFFIC_FIELDS] = rows[:, _TRAFFIC_FIELDS:]
    update_keys(events, np.arange(len(rows), dtype=np.uint32), values)
    return True


def _summed(former: Map) -> NDArray[np.uint64]:
    """One row a service id, over all processors."""
    cpus = former.value_size // (8 * len(FIELDS))
    dtype: np.dtype[Any] = np.dtype((np.uint64, (cpus, len(FIELDS))))
    return np.concatenate([values.sum(axis=1) for _, values in array_chunks(former, dtype)])


def remove_former(bpf_root: str) -> list[str]:
    """Remove their pins; which there were. No program that works on them is attached any more."""
    gone = [name for name in FORMER if (version_directory(bpf_root) / name).exists()]
    for name in gone:
        Path(version_directory(bpf_root) / name).unlink()
    return gone
