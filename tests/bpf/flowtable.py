"""Conntrack's tables without a packet: records written as a program would leave them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from ipaddress import IPv4Address, IPv6Address
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bpf import abi
from bpf.abi import CtState, NodeFlag
from dataplane.drivers.libbpf import Map
from dataplane.drivers.mapbulk import dtype_of, write_array

NOW = 10_000_000
"""The fixed clock [ticks]."""

TIMEOUT = 1000
"""Of every state [ticks]."""


def node_octets(now: int = NOW, timeout: int = TIMEOUT) -> bytes:
    """struct node with a fixed clock and one timeout for all states."""
    timeouts = np.full(CtState.CT_STATES, timeout, np.uint32).tobytes()
    return abi.NODE.pack(flags=NodeFlag.NODE_FIXED_CLOCK, tick=now, timeouts=timeouts)


@contextmanager
def tables(slots: int = 4096) -> Iterator[dict[str, Map]]:
    """The maps that a sweep and a listing need, empty."""
    with ExitStack() as stack:
        made: dict[str, Map] = {}
        for name in ("ct4", "ct6", "node", "affinities"):
            shape = abi.MAPS[name]
            entries = slots if name.startswith("ct") else shape.max_entries
            made[name] = stack.enter_context(
                Map.create(shape.type, name, shape.key_size, shape.value_size, entries)
            )
        made["node"].update(bytes(4), node_octets())
        yield made


def flow4(**fields: Any) -> dict[str, Any]:
    """A live flow's fields; addresses as text."""
    flow: dict[str, Any] = {
        "life": 1,
        "seen": NOW,
        "client": "203.0.113.7",
        "client_port": 40000,
        "vip": "192.0.2.10",
        "vip_port": 80,
        "proto": 6,
        "state": CtState.CT_ESTABLISHED,
        "backend": "10.16.0.2",
        "backend_port": 8080,
        "source": "100.64.255.1",
        "source_port": 40000,
        "service_id": 1,
    }
    flow.update(fields)
    return flow


def flow6(**fields: Any) -> dict[str, Any]:
    """The same, IPv6."""
    addresses = {
        "client": "2001:db8::7",
        "vip": "2001:db8:1::10",
        "backend": "fd00:16::2",
        "source": "fd00:64::1",
    }
    return flow4(**(addresses | fields))


def put(maps: Mapping[str, Map], flows: Mapping[int, Mapping[str, Any]]) -> None:
    """Write records by number; the family is that of `vip`."""
    for number, fields in flows.items():
        version = 6 if ":" in str(fields["vip"]) else 4
        table = maps[f"ct{version}"]
        layout = abi.FLOW6 if version == 6 else abi.FLOW4
        kind = IPv6Address if version == 6 else IPv4Address
        values = {
            name: kind(value).packed if name in ("client", "vip", "backend", "source") else value
            for name, value in fields.items()
        }
        table.update(number.to_bytes(4, "little"), layout.pack(**values))


def alive(maps: Mapping[str, Map], version: int = 4) -> set[int]:
    """Numbers of the records whose life is odd."""
    from dataplane.drivers.mapbulk import read_array

    layout = abi.FLOW6 if version == 6 else abi.FLOW4
    values = read_array(maps[f"ct{version}"], dtype_of(layout))
    return set(np.flatnonzero(values["life"] & 1).tolist())


def many(count: int, seed: int = 1) -> NDArray[Any]:
    """That many live IPv4 flows of all states."""
    rng = np.random.default_rng(seed)
    flows = np.zeros(count, dtype_of(abi.FLOW4))
    flows["life"] = 1
    flows["seen"] = NOW - rng.integers(0, TIMEOUT, count)
    flows["client"] = rng.integers(1 << 24, 1 << 31, count)
    flows["client_port"] = rng.integers(1024, 65536, count)
    flows["vip"] = int(IPv4Address("192.0.2.0")) + rng.integers(0, 100, count)
    flows["vip_port"] = 80
    flows["proto"] = 6
    flows["state"] = rng.integers(0, 7, count)
    flows["backend"] = int(IPv4Address("10.16.0.0")) + rng.integers(0, 1000, count)
    flows["backend_port"] = 8080
    flows["source"] = int(IPv4Address("100.64.255.1"))
    flows["source_port"] = flows["client_port"]
    flows["service_id"] = flows["vip"] & 0xFF
    return flows


def write(maps: Mapping[str, Map], flows: NDArray[Any]) -> None:
    """Write IPv4 records from number 0 on."""
    write_array(maps["ct4"], flows)
