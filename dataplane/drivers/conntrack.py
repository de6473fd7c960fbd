"""Conntrack from user space: what flows there are, how full it is, and the end of flows.

Listing reads the arrays of records in bulk: a picture, in which a record that changes meanwhile
may be half old, half new. Ending goes through a program (bpf/progs/sweep.bpf.c) that compares and
swaps, so that no flow is ended for another. Both tables are open at once; a sweep's keys are this
process's own map, and one sweep runs at a time.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bpf import abi
from bpf.abi import SweepFlag, SweepSide
from bpf.objects import OBJECT_DIRECTORY
from dataplane.drivers.libbpf import Closing, Map
from dataplane.drivers.mapbulk import array_chunks, distinct, dtype_of, read_hash
from dataplane.drivers.sweeps import EVERY_STATE, End, Sweeps, Swept, mask_of, packed
from dataplane.model.addr import IPAddress, L4Addr, Mac, Protocol
from dataplane.model.conntrack import (
    ENDS_WITH_BACKEND,
    Endings,
    Endpoint,
    FlowFilter,
    FlowState,
)
from dataplane.plan.flows_to_end import ServiceRows, flows_to_end, flows_without_service

VERSIONS = (4, 6)
_LAYOUTS = {4: abi.FLOW4, 6: abi.FLOW6}


@dataclass(frozen=True, slots=True)
class Fill:
    """How full one family's table is."""

    slots: int
    live: Mapping[FlowState, int]

    @property
    def flows(self) -> int:
        """Flows there are."""
        return sum(self.live.values())


@dataclass(frozen=True, slots=True)
class Flow:
    """One flow, for people; `idle` and `left` [ticks]: since its last packet, until it is dead."""

    number: int
    life: int
    protocol: int
    client: Endpoint
    vip: Endpoint
    backend: Endpoint
    source: Endpoint
    state: FlowState
    flags: abi.FlowFlag
    service_id: int
    idle: int
    left: int


@dataclass(frozen=True, slots=True)
class Records:
    """Live records of one family: their numbers, ticks since the last packet, and the structs."""

    numbers: NDArray[np.intp]
    idle: NDArray[np.int32]
    flows: NDArray[Any]

    def __len__(self) -> int:
        return len(self.numbers)


class Conntrack(Closing):
    """The conntrack of the node that `maps` are of.

    Raises:
        LibbpfError: the program cannot be loaded; with the verifier's words.
    """

    def __init__(self, maps: Mapping[str, Map], objects: Path = OBJECT_DIRECTORY) -> None:
        self._maps = maps
        self._sweeps = Sweeps(maps, objects)

    def close(self) -> None:
        """Let go of the programs."""
        self._sweeps.close()

    # -- looking ------------------------------------------------------------------------------

    def slots(self, version: int) -> int:
        """Records that the table of one family has room for."""
        return self._maps[f"ct{version}"].info.max_entries

    def fill(self) -> dict[int, Fill]:
        """How full both tables are, by IP version; counted by the program (a million: 10 ms)."""
        return {
            version: Fill(self.slots(version), self._sweeps.sweep(version).live)
            for version in VERSIONS
        }

    def tick(self) -> int:
        """The programs' clock [ticks]."""
        return self._sweeps.tick()

    def records(self, version: int, wanted: FlowFilter | None = None) -> Records:
        """Live records of one family that a filter takes."""
        layout = dtype_of(_LAYOUTS[version])
        octets = np.dtype((np.void, layout.itemsize))  # rows are copied whole, not field by field
        timeouts = self._timeouts()
        parts: list[Records] = []
        for first, values in array_chunks(self._maps[f"ct{version}"], layout):
            # The clock after the records: a packet that came meanwhile makes none look older.
            idle = (np.uint32(self._sweeps.tick()) - values["seen"]).view(np.int32)
            state = np.minimum(values["state"], len(FlowState))
            live = (values["life"] & 1).astype(bool) & (idle <= timeouts[state])
            live &= state < len(FlowState)
            if wanted is not None:
                live &= _matches(values, version, wanted)
            rows = np.flatnonzero(live)
            flows = values.view(octets)[rows].view(layout)
            parts.append(Records(rows + first, idle[rows], flows))
        return Records(
            np.concatenate([part.numbers for part in parts]),
            np.concatenate([part.idle for part in parts]),
            np.concatenate([part.flows.view(octets) for part in parts]).view(layout),
        )

    def flows(self, wanted: FlowFilter, limit: int | None = None) -> tuple[list[Flow], int]:
        """Flows that match, the most recently used first, and how many there are beyond `limit`."""
        tables = [(v, self.records(v, wanted)) for v in VERSIONS if wanted.version in (None, v)]
        total = sum(len(table) for _, table in tables)
        limit = total if limit is None else min(limit, total)
        timeouts = self._timeouts()
        found: list[Flow] = []
        for version, table in tables:
            order = np.argsort(table.idle, kind="stable")[:limit]
            found += [_flow(table, int(row), version, timeouts) for row in order]
        found.sort(key=lambda flow: flow.idle)
        return found[:limit], total - limit

    def by_service(self) -> dict[int, int]:
        """How many flows each service has, by its id."""
        found: dict[int, int] = {}
        for version in VERSIONS:
            ids, counts = np.unique(self.records(version).flows["service_id"], return_counts=True)
            for service_id, count in zip(ids.tolist(), counts.tolist(), strict=True):
                found[service_id] = found.get(service_id, 0) + count
        return found

    def _timeouts(self) -> NDArray[np.int64]:
        octets = self._maps["node"].lookup(bytes(abi.U32)) or bytes(abi.NODE.size)
        timeouts = abi.NODE.unpack(octets)["timeouts"]
        return np.frombuffer(timeouts, np.uint32).astype(np.int64)

    # -- ending -------------------------------------------------------------------------------

    def count(self, wanted: FlowFilter) -> Swept:
        """How many flows match, by state."""
        return self._filtered(wanted, SweepFlag(0))

    def flush(self, wanted: FlowFilter) -> Swept:
        """End the flows that match; their clients' next packets are those of new flows."""
        return self._filtered(wanted, SweepFlag.SWEEP_END)

    def follow(
        self,
        before: ServiceRows | None,
        after: ServiceRows,
        changed: Mapping[str, Mapping[Any, object]] | None = None,
    ) -> int:
        """End the flows that the change of services ends, and forget clients bound to what went.

        Call it when the maps hold `after`: then no new flow comes that would have to end.

        Args:
            before: what the maps held; None: not known, so every flow is looked at.
            after: what they hold now.
            changed: by table the only keys that differ, if that is known.

        Returns:
            How many flows were ended.
        """
        return self.end(flows_to_end(before, after, changed) if before else self.strays(after))

    def strays(self, after: ServiceRows) -> Endings:
        """What is to end by `after`, whatever was before: found by a listing of every flow."""
        vips: set[tuple[L4Addr, int]] = set()
        targets: set[tuple[int, L4Addr]] = set()
        nodes: set[tuple[int, Mac]] = set()
        for version in VERSIONS:
            flows = self.records(version).flows
            vips.update(_ends(flows, version, "vip"))
            handed_on = (flows["flags"] & abi.FlowFlag.FLOW_DSR) != 0
            targets.update((s, end) for end, s in _ends(flows[~handed_on], version, "backend"))
            nodes.update(_nodes(flows[handed_on]))
        keys, values = self._affinities()
        bound = set(zip(keys["service_id"].tolist(), values["backend_id"].tolist(), strict=True))
        return flows_without_service(vips, targets, nodes, bound, after)

    def end(self, endings: Endings) -> int:
        """Carry out what a plan wants ended; how many flows were."""
        weak = mask_of(ENDS_WITH_BACKEND)
        ends = [
            *(_end(SweepSide.SWEEP_VIP, vip) for vip in endings.vips),
            *(_end(SweepSide.SWEEP_SERVICE_VIP, vip, s, weak) for s, vip in endings.moved),
            *(_end(SweepSide.SWEEP_SERVICE_BACKEND, to, s, weak) for s, to in endings.backends),
            *(
                End(SweepSide.SWEEP_SERVICE_MAC, mac.packed(), service_id=s, states=weak)
                for s, mac in endings.nodes
            ),
        ]
        ended = 0
        for at in range(0, len(ends), self._sweeps.room):
            some = ends[at : at + self._sweeps.room]
            for version in sorted(endings.versions()):
                ended += self._sweeps.sweep(version, SweepFlag.SWEEP_END, some).ended
        self._unbind(endings.affinities)
        return ended

    def _affinities(self) -> tuple[NDArray[Any], NDArray[Any]]:
        return read_hash(
            self._maps["affinities"], dtype_of(abi.AFFINITY_KEY), dtype_of(abi.AFFINITY)
        )

    def _unbind(self, affinities: frozenset[tuple[int, int]]) -> None:
        if not affinities:
            return
        keys, values = self._affinities()
        found = keys["service_id"].astype(np.uint64) << np.uint64(32) | values["backend_id"]
        wanted = np.array([s << 32 | b for s, b in affinities], np.uint64)
        for key in keys[np.isin(found, wanted)]:
            self._maps["affinities"].delete(key.tobytes())

    # -- filters ------------------------------------------------------------------------------

    def _filtered(self, wanted: FlowFilter, flags: SweepFlag) -> Swept:
        ends: list[End] = []
        for end, exact, wide in (
            (wanted.vip, SweepSide.SWEEP_VIP, SweepSide.SWEEP_VIP_ADDRESS),
            (wanted.backend, SweepSide.SWEEP_BACKEND, SweepSide.SWEEP_BACKEND_ADDRESS),
            (wanted.client, SweepSide.SWEEP_CLIENT, SweepSide.SWEEP_CLIENT_ADDRESS),
        ):
            if end is None:
                continue
            addr = packed(end.address)
            if end.port is None:
                ends.append(End(wide, addr))
            else:
                ends += [End(exact, addr, end.port, protocol) for protocol in Protocol]
        flags |= SweepFlag.SWEEP_EVERY_SIDE
        states = mask_of(wanted.states) or EVERY_STATE
        swept = Swept()
        for version in VERSIONS:
            if wanted.version in (None, version):
                swept = swept.plus(
                    self._sweeps.sweep(version, flags, ends, states, wanted.protocol or 0)
                )
        return swept


def _end(side: SweepSide, to: L4Addr, service_id: int = 0, states: int = EVERY_STATE) -> End:
    return End(side, packed(to.address), to.port, to.protocol, service_id, states)


def _matches(values: NDArray[Any], version: int, wanted: FlowFilter) -> NDArray[np.bool_]:
    """Which records a filter takes."""
    found = np.ones(len(values), bool)
    for end, address, port in (
        (wanted.vip, "vip", "vip_port"),
        (wanted.client, "client", "client_port"),
        (wanted.backend, "backend", "backend_port"),
    ):
        if end is None:
            continue
        if end.address.version != version:
            return np.zeros(len(values), bool)
        if version == 4:
            found &= values[address] == int(end.address)
        else:
            found &= (values[address] == np.frombuffer(end.address.packed, np.uint8)).all(axis=1)
        if end.port is not None:
            found &= values[port] == end.port
    if wanted.states:
        found &= np.isin(values["state"], [int(state) for state in wanted.states])
    if wanted.protocol is not None:
        found &= values["proto"] == wanted.protocol
    return found


def _address(value: Any, version: int) -> IPAddress:
    return IPv4Address(int(value)) if version == 4 else IPv6Address(value.tobytes())


def _flow(records: Records, row: int, version: int, timeouts: NDArray[np.int64]) -> Flow:
    flow = records.flows[row]

    def end(name: str) -> Endpoint:
        return Endpoint(_address(flow[name], version), int(flow[f"{name}_port"]))

    state, idle = FlowState(int(flow["state"])), max(int(records.idle[row]), 0)
    return Flow(
        number=int(records.numbers[row]),
        life=int(flow["life"]),
        protocol=int(flow["proto"]),
        client=end("client"),
        vip=end("vip"),
        backend=end("backend"),
        source=end("source"),
        state=state,
        flags=abi.FlowFlag(int(flow["flags"])),
        service_id=int(flow["service_id"]),
        idle=idle,
        left=int(timeouts[state]) - idle,
    )


def _ends(flows: NDArray[Any], version: int, side: str) -> Iterator[tuple[L4Addr, int]]:
    """One end of flows and their service ids, each combination once.

    A half-written record may give one that no flow has: then nothing is found to end.
    """
    words = (
        [flows[side]]
        if version == 4
        else list(np.ascontiguousarray(flows[side]).view(np.uint64).reshape(-1, 2).T)
    )
    low = flows["proto"].astype(np.uint32) << np.uint32(16) | flows[f"{side}_port"]
    for row in flows[distinct([*words, low, flows["service_id"]])]:
        try:
            end = L4Addr(
                Protocol(int(row["proto"])), _address(row[side], version), int(row[f"{side}_port"])
            )
        except ValueError:
            continue
        yield end, int(row["service_id"])


def _nodes(flows: NDArray[Any]) -> Iterator[tuple[int, Mac]]:
    """Service ids and the MACs that DSR flows are handed to, each combination once."""
    octets = flows["vip_mac"].astype(np.int64)
    word = (octets << np.arange(40, -1, -8)).sum(axis=1)
    for row in flows[distinct([word, flows["service_id"]])]:
        yield int(row["service_id"]), Mac(row["vip_mac"].tobytes().hex(":"))
