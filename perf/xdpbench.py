"""The programs under measurement: the very objects of the node, over its maps or over our own.

Over a running node's pinned maps (filled by its daemon from OVN) two maps stay private: the
counters and the services' statistics, so that the node's metrics do not jump. What the benchmark
leaves in conntrack is known by its clients' addresses, and ended by `Bench.forget_flows`.
"""

from __future__ import annotations

import struct
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import Any

import numpy as np

from bpf import abi
from bpf.abi import CtState, SweepFlag, SweepSide, VipFlag
from bpf.objects import OBJECT_DIRECTORY
from dataplane.drivers.bpfstate import (
    FUNCTIONS,
    SETS,
    XSKS_MAP,
    version_directory,
)
from dataplane.drivers.libbpf import Closing, LibbpfError, Map
from dataplane.drivers.libbpf_programs import Object, Program, ProgramInfo
from dataplane.drivers.mapbulk import array_chunks, dtype_of, update_keys, write_array
from dataplane.drivers.sweeps import End, Sweeps, packed
from dataplane.model.addr import IPAddress, L4Addr, Protocol
from dataplane.model.rows import ProgramKind
from dataplane.ports import DataplaneError
from perf import xdptables
from perf.ctstate import FIRST_LIFE, Counted, counted
from perf.strides import IN_ORDER
from perf.xdpframes import CLIENT_PORTS, CLIENTS, frame

_PRIVATE = ("counters", abi.EVENTS, abi.TRAFFIC)
_DEVMAP = 14
FLOOR_SERVICES = 10_000
_LAYOUTS = {4: abi.FLOW4, 6: abi.FLOW6}
_BY_PACKETS = 8192
"""Up to so many flows are established by answers; more, in maps of our own, by their records."""

BARE, FLOOR = "perf_bare", "perf_floor"
Target = ProgramKind | str
"""A program of the node's, or one of the wrapper's own: nothing, or the floor."""


class BenchError(DataplaneError):
    """The measurement would not be of what it says."""


class Bench(Closing):
    """Both programs and the wrapper, loaded.

    Where a packet goes to OVS, the map of AF_XDP sockets is a map of devices that has an entry: the
    program's instructions are the same (its tag says so), and the redirect finds something.

    Attributes:
        infos: the programs as measured (tag, name).
        live: whether the maps are a running node's.
        services: how many are in maps of our own.
        floor_packet: of one of the floor's services.

    Args:
        bpf_root: of a running node; None fills maps of our own with `services` services.
        flows: how many flows conntrack is to have room for.
        backends: of the service that is measured.
    """

    def __init__(
        self,
        bpf_root: str | None,
        services: int = 1,
        flows: int = 1,
        backends: int = xdptables.MEASURED_BACKENDS,
    ) -> None:
        self.maps: dict[str, Map] = {}
        self.infos: dict[ProgramKind, ProgramInfo] = {}
        self.live = bpf_root is not None
        self.services = 0 if self.live else services
        self.floor_packet = frame(xdptables.vip_of(4, 0))
        self._programs: dict[Target, Program] = {}
        self._next_client = dict.fromkeys(CLIENTS, 0)
        self._open = ExitStack()
        try:
            sizes = xdptables.sizes(services, flows)
            if bpf_root is not None:
                self._take(version_directory(bpf_root))
                sizes = abi.sizes_by_service(self.maps[SETS].info.max_entries // 2)
            self._load_node(sizes)
            self._load_wrapper()
            self._sweeps = self._open.enter_context(Sweeps(self.maps))
            if not self.live:
                xdptables.fill(self.maps, services, backends)
        except BaseException:
            self._open.close()
            raise

    def close(self) -> None:
        """Forget the flows that were made, then let go of every descriptor."""
        try:
            if self.live:
                self.forget_flows()
        finally:
            self._open.close()

    # -- loading ------------------------------------------------------------------------------

    def _take(self, pins: Path) -> None:
        for name in abi.MAPS:
            if name not in _PRIVATE:
                self.maps[name] = self._open.enter_context(_pinned_map(pins / name))

    def _next_hop(self) -> Map:
        made = self._open.enter_context(
            Map.create(_DEVMAP, XSKS_MAP, abi.U32, abi.U32, abi.Limit.MAX_XSK_QUEUES)
        )
        made.update(bytes(4), struct.pack("=I", xdptables.LOOPBACK))
        return made

    def _load_node(self, sizes: Mapping[str, int]) -> None:
        next_hop = self._next_hop()
        for kind, function in FUNCTIONS.items():
            if kind is ProgramKind.HOST:
                continue  # of the kernel's own packets: nothing here is measured by it
            path = OBJECT_DIRECTORY / f"{kind.value}.bpf.o"
            made = self._open.enter_context(Object(path))
            for name in abi.MAPS:
                made.keep_private(name)
                if name in self.maps:
                    made.reuse(name, self.maps[name])
                elif name in sizes:
                    made.resize(name, sizes[name])
            if kind is ProgramKind.UPLINK:
                made.reuse(XSKS_MAP, next_hop)
            made.load()
            self._programs[kind] = self._open.enter_context(made.program(function))
            self.infos[kind] = self._programs[kind].info()
            for name in abi.MAPS:
                if name not in self.maps:
                    self.maps[name] = self._open.enter_context(made.map(name))

    def _load_wrapper(self) -> None:
        made = self._open.enter_context(Object(OBJECT_DIRECTORY / "perf_wrapper.bpf.o"))
        made.reuse("perf_xsks", self._next_hop())
        made.load()
        self._wrapper = self._open.enter_context(made.program("perf_run"))
        for name in (BARE, FLOOR):
            self._programs[name] = self._open.enter_context(made.program(name))
        self._plan = self._open.enter_context(made.map("perf_plan"))
        self._target = self._open.enter_context(made.map("perf_target"))
        with made.map("perf_floor_vips") as floor:
            _fill_floor(floor)

    # -- what there is to be measured ------------------------------------------------------------

    def service(self, version: int, protocol: Protocol) -> L4Addr | None:
        """A VIP that is served with SNAT, without affinity and source ranges."""
        if not self.live:
            return xdptables.vip_of(version, 0, protocol)
        other = VipFlag.VIP_AFFINITY | VipFlag.VIP_SOURCE_RANGES | VipFlag.VIP_DSR
        found = []
        for key, value in self.maps["vips"].items():
            fields, vip = abi.VIP_KEY.unpack(key), abi.VIP.unpack(value)
            address = _unmapped(fields["addr"])
            flags = VipFlag(vip["flags"])
            scope = 1 if flags & VipFlag.VIP_LOCAL else 0
            number = struct.pack("=I", 2 * vip["service_id"] + scope)
            has_members = abi.SET.unpack(self.maps["sets"].lookup(number) or bytes(8))["count"]
            if (
                (address.version, fields["proto"]) == (version, protocol)
                and has_members
                and flags & VipFlag.VIP_SNAT
                and not flags & other
            ):
                found.append(L4Addr(protocol, address, fields["port"]))
        return min(found, key=str, default=None)

    def own_address(self, version: int) -> IPAddress | None:
        """An address that stays with the kernel."""
        if not self.live:
            return xdptables.OWN[version]
        for key, value in self.maps["known_addresses"].items():
            address = _unmapped(key)
            flags = int.from_bytes(value, "little")
            if address.version == version and flags & abi.AddressFlag.ADDRESS_LOCAL:
                return address
        return None

    def fresh_client(self, version: int, flows: int) -> IPAddress:
        """The first of as many clients as so many tuples have, longer unused than all others."""
        clients, needed = CLIENTS[version], -(-flows // CLIENT_PORTS)
        first = self._next_client[version]
        if first + needed > clients.num_addresses:
            first = 0
        self._next_client[version] = first + needed
        return clients[first]

    # -- running ------------------------------------------------------------------------------

    def run(
        self,
        target: Target,
        packet: bytes,
        *,
        repeat: int,
        flows: int = 1,
        services: int = 1,
        stride: int = IN_ORDER,
    ) -> float:
        """Run the wrapper `repeat` times; ns of this thread's processor time per run.

        Args:
            target: what the wrapper calls.
            packet: of the first flow to the first service.
            repeat: so many are measured; two go before them.
            flows: how many are taken in turn.
            services: likewise; not both.
            stride: from one to the next of them, in the order in which they are numbered.
        """
        self._target.update(bytes(4), struct.pack("=I", self._programs[target].fd))
        head = packet[: abi.Limit.PERF_HEAD]
        plan = abi.PERF_PLAN.pack(head=head, flows=flows, services=services, stride=stride)
        self._plan.update(bytes(4), plan)
        empty = self._cpu_ns(packet, 1)
        return (self._cpu_ns(packet, 1 + repeat) - empty) / repeat

    def _cpu_ns(self, packet: bytes, repeat: int) -> int:
        began = time.thread_time_ns()
        self._wrapper.run(packet, repeat=repeat)
        return time.thread_time_ns() - began

    def answer(self, asked: bytes) -> bytes:
        """The answer to a packet, which is to leave by the node's uplink as a real one does."""
        self._programs[ProgramKind.UPLINK].run(asked)
        node = abi.NODE.unpack(self.maps["node"].lookup(bytes(4)) or b"")
        version = 4 if asked[12:14] == b"\x08\x00" else 6
        numbers, flows = self._records(version)
        flows["ifindex"] = node["uplink_ifindex"]
        self._write_records(version, numbers, flows)
        return answer_frame(flows[0])

    def establish(self) -> None:
        """Let every flow of the benchmark's have had its answer."""
        for version in (4, 6):
            numbers, flows = self._records(version)
            if not self.live and len(numbers) > _BY_PACKETS:
                udp = flows["proto"] == Protocol.UDP
                state = np.where(udp, CtState.CT_UDP, CtState.CT_ESTABLISHED).astype(np.uint8)
                flows["state"] = state
                self._write_records(version, numbers, flows)
                continue
            for flow in flows:
                self._programs[ProgramKind.SERVICE].run(answer_frame(flow))

    def forget_flows(self) -> None:
        """End the benchmark's own flows, and nobody else's."""
        flags = SweepFlag.SWEEP_END
        for version, clients in CLIENTS.items():
            side = SweepSide.SWEEP_CLIENT_ADDRESS
            ends = [End(side, packed(client)) for client in clients]
            self._sweeps.sweep(version, flags, ends)

    @contextmanager
    def filled(self, version: int) -> Iterator[None]:
        """Inside, every record is an established flow of nobody's; in maps of our own."""
        table = self.maps[f"ct{version}"]
        flows = np.zeros(table.info.max_entries, dtype_of(_LAYOUTS[version]))
        flows["life"], flows["seen"] = FIRST_LIFE, self._sweeps.tick()
        flows["state"], flows["proto"] = CtState.CT_ESTABLISHED, Protocol.TCP
        write_array(table, flows)
        try:
            yield
        finally:
            flows["life"] += 1
            write_array(table, flows)

    def never_used(self, version: int) -> int:
        """How many records no flow ever had."""
        chunks = array_chunks(self.maps[f"ct{version}"], dtype_of(_LAYOUTS[version]))
        return sum(int((values["life"] == 0).sum()) for _, values in chunks)

    def first_lives(self, version: int) -> int:
        """How many of the benchmark's own flows have a record that no flow had before."""
        return int((self._records(version)[1]["life"] <= FIRST_LIFE).sum())

    def counted(self) -> dict[Counted, int]:
        """Packets by reason and what else happened, of the benchmark only."""
        return counted(self.maps["counters"])

    def _records(self, version: int) -> tuple[Any, Any]:
        """Numbers and records of the benchmark's own flows."""
        numbers, found = [], []
        layout = dtype_of(_LAYOUTS[version])
        octets = np.dtype((np.void, layout.itemsize))  # numpy joins fields in its own byte order
        first = CLIENTS[version][0].packed
        for at, values in array_chunks(self.maps[f"ct{version}"], layout):
            if version == 4:
                mine = (values["client"] & 0xFFFFFF00) == int.from_bytes(first, "big")
            else:
                prefix = np.frombuffer(first[:15], np.uint8)
                mine = (values["client"][:, :15] == prefix).all(axis=1)
            rows = np.flatnonzero(mine & ((values["life"] & 1) != 0))
            numbers.append(rows + at)
            found.append(values[rows].view(octets))
        return np.concatenate(numbers), np.concatenate(found).view(layout)

    def _write_records(self, version: int, numbers: Any, flows: Any) -> None:
        if len(numbers):
            update_keys(self.maps[f"ct{version}"], numbers.astype(np.uint32), flows)


def answer_frame(flow: Any) -> bytes:
    """What the backend of a flow (a record) sends."""
    protocol = Protocol(int(flow["proto"]))
    backend, source = (
        L4Addr(protocol, _address(flow[name]), int(flow[f"{name}_port"]))
        for name in ("backend", "source")
    )
    return frame(source, backend)


def _address(raw: Any) -> IPAddress:
    """An address of a record: a number, or sixteen octets."""
    return IPv6Address(raw.tobytes()) if raw.shape else IPv4Address(int(raw))


def _unmapped(octets: bytes) -> IPAddress:
    address = IPv6Address(octets)
    mapped: IPv4Address | None = address.ipv4_mapped
    return mapped or address


def _fill_floor(floor: Map) -> None:
    """The floor's services: the addresses of ours, each with one backend."""
    keys = np.zeros(FLOOR_SERVICES, dtype_of(abi.PERF_FLOOR_KEY))
    values = np.zeros(FLOOR_SERVICES, dtype_of(abi.PERF_FLOOR))
    first = int(xdptables.vip_of(4, 0).address)
    keys["vip"] = first + np.arange(FLOOR_SERVICES)
    keys["port"], keys["proto"] = xdptables.PORT, Protocol.TCP
    values["backend"], values["port"] = int(IPv4Address("10.128.0.1")), xdptables.BACKEND_PORT
    update_keys(floor, keys, values)


def _pinned_map(path: Path) -> Map:
    try:
        return Map.at(path)
    except LibbpfError as error:
        msg = f"{path} cannot be opened ({error}); is the node up, and its bpf_root this one?"
        raise BenchError(msg) from error
