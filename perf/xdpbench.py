"""The programs under measurement: the very objects of the node, over its maps or over our own.

Over a running node's pinned maps (filled by its daemon from OVN) two maps stay private: the
counters and the services' statistics, so that the node's metrics do not jump. What the benchmark
leaves in conntrack is known by its clients' addresses, and removed by `Bench.forget_flows`.
"""

from __future__ import annotations

import statistics
import struct
from contextlib import ExitStack
from dataclasses import dataclass
from ipaddress import IPv4Address
from pathlib import Path

from bpf import abi
from dataplane.drivers import bpfmaps
from dataplane.drivers.bpfstate import FUNCTIONS, TX_PORTS, version_directory
from dataplane.drivers.libbpf import Closing, LibbpfError, Map
from dataplane.drivers.libbpf_programs import Object, Program, ProgramInfo
from dataplane.model.addr import IPAddress, L4Addr, Mac, Protocol
from dataplane.model.rows import (
    BackendEntry,
    LocalAddress,
    MaglevTable,
    NodeEntry,
    ProgramKind,
    VipEntry,
    VipFlag,
)
from dataplane.model.service import Place
from dataplane.plan.maglev import maglev_table
from dataplane.ports import DataplaneError
from perf.xdpframes import CLIENTS

_PRIVATE = ("counters", "service_stats")
_BACKENDS_OF_MEASURED = 16
LOOPBACK = 1
"""ifindex of the loopback device, in every network namespace: test runs come in by it."""

_UPLINK = 4242
"""Key of tx_ports in maps of our own: another number than the loopback's, so that replies are
redirected through the map as on a node, and not sent back where they came from."""


class BenchError(DataplaneError):
    """The measurement would not be of what it says."""


@dataclass(frozen=True, slots=True)
class Timing:
    """ns per run of the wrapped program, over several measurements."""

    minimum: float
    median: float
    maximum: float


class Bench(Closing):
    """Both programs and the wrapper, loaded; `maps` as the drivers of tables want them.

    Attributes:
        infos: the programs as measured (tag, name).
        live: whether the maps are a running node's.

    Args:
        bpf_root: of a running node; None fills maps of our own with `services` services.
    """

    def __init__(self, bpf_root: str | None, services: int) -> None:
        self.maps: dict[str, Map] = {}
        self.infos: dict[ProgramKind, ProgramInfo] = {}
        self.live = bpf_root is not None
        self._programs: dict[ProgramKind, Program] = {}
        self._open = ExitStack()
        try:
            self._load_uplink(version_directory(bpf_root) if bpf_root else None)
            self._load(ProgramKind.SERVICE, self._open.enter_context(self._object("svc")))
            self._load_wrapper()
            if not self.live:
                self._fill(services)
        except BaseException:
            self._open.close()
            raise

    def close(self) -> None:
        """Forget the flows that were made, then let go of every descriptor."""
        try:
            self.forget_flows()
        finally:
            self._open.close()

    def _object(self, name: str) -> Object:
        """An object over the maps that we have by now; none of them is pinned by it."""
        made = Object(abi.OBJECT_DIRECTORY / f"{name}.bpf.o")
        for wanted in abi.MAPS:
            made.keep_private(wanted)
            if wanted in self.maps:
                made.reuse(wanted, self.maps[wanted])
        return made

    def _load_uplink(self, pins: Path | None) -> None:
        if pins is not None:
            for name in abi.MAPS:
                if name not in _PRIVATE:
                    self.maps[name] = self._open.enter_context(_pinned_map(pins / name))
        made = self._open.enter_context(self._object("uplink"))
        self._load(ProgramKind.UPLINK, made)
        for name in abi.MAPS:
            if name not in self.maps:
                self.maps[name] = self._open.enter_context(made.map(name))

    def _load(self, kind: ProgramKind, made: Object) -> None:
        made.load()
        self._programs[kind] = self._open.enter_context(made.program(FUNCTIONS[kind]))
        self.infos[kind] = self._programs[kind].info()

    def _load_wrapper(self) -> None:
        made = self._open.enter_context(Object(abi.OBJECT_DIRECTORY / "perf_wrapper.bpf.o"))
        made.load()
        self._wrapper = self._open.enter_context(made.program("perf_run"))
        self._bare = self._open.enter_context(made.program("perf_bare"))
        self._plan = self._open.enter_context(made.map("perf_plan"))
        self._target = self._open.enter_context(made.map("perf_target"))

    def _fill(self, services: int) -> None:
        """A node that serves `services` VIPs of two backends, and one of sixteen."""
        uplink, gateway = Mac("02:00:00:00:00:0a"), Mac("02:00:00:00:00:0b")
        node = NodeEntry(IPv4Address("100.64.255.1"), uplink, gateway, _UPLINK, uplink)
        rows: list[tuple[L4Addr, VipEntry]] = []
        tables: list[tuple[int, MaglevTable]] = []
        backends: dict[int, BackendEntry] = {}
        for number in range(1, services + 2):
            protocol = Protocol.UDP if number == 2 else Protocol.TCP
            members = []
            for each in range(_BACKENDS_OF_MEASURED if number <= 2 else 2):
                backend_id = number * _BACKENDS_OF_MEASURED + each
                target = L4Addr(protocol, IPv4Address(0x0A100000 + backend_id), 8080)
                backends[backend_id] = BackendEntry(target, Place.LOCAL)
                members.append((backend_id, target))
            rows.append(
                (L4Addr(protocol, IPv4Address(0xC0000200 + number), 80), _snat_entry(number))
            )
            tables.append((number, MaglevTable(maglev_table(members))))
        ours: list[tuple[IPAddress, LocalAddress]] = [(IPv4Address("192.0.2.254"), LocalAddress())]
        failed = (
            bpfmaps.NodeTable(self).upsert([(0, node)])
            or bpfmaps.BackendTable(self).upsert(list(backends.items()))
            or bpfmaps.MaglevMapTable(self).upsert(tables)
            or bpfmaps.VipTable(self).upsert(rows)
            or bpfmaps.LocalAddressTable(self).upsert(ours)
        )
        if failed:
            msg = f"the maps could not be filled: {failed}"
            raise BenchError(msg)
        self.maps[TX_PORTS].update(struct.pack("=I", _UPLINK), struct.pack("=I", LOOPBACK))

    def services(self) -> dict[Protocol, L4Addr]:
        """One VIP of each protocol that is served with SNAT."""
        found: dict[Protocol, L4Addr] = {}
        for vip, entry in sorted(bpfmaps.VipTable(self).observe().items()):
            if entry.flags == VipFlag.SNAT:
                found.setdefault(vip.protocol, vip)
        return found

    def local_address(self) -> IPv4Address | None:
        """An IPv4 address that stays with the kernel."""
        addresses = bpfmaps.LocalAddressTable(self).observe()
        return next((a for a in addresses if isinstance(a, IPv4Address)), None)

    def translated(self, frame: bytes) -> bytes:
        """One frame through the uplink's program; its replies are to leave by the node's uplink."""
        made = self._programs[ProgramKind.UPLINK].run(frame).packet
        for node in bpfmaps.NodeTable(self).observe().values():
            for key, value in self._replies_of_ours():
                fields = abi.FLOW_REPLY.unpack(value) | {"ifindex": node.uplink_ifindex}
                self.maps["ct_reply"].update(key, abi.FLOW_REPLY.pack(**fields))
        return made

    def run(self, kind: ProgramKind | None, frame: bytes, *, flows: int, repeat: int) -> int:
        """Run the wrapper `repeat` times; ns per run. `kind` None is the bare floor."""
        target = self._bare if kind is None else self._programs[kind]
        self._target.update(bytes(4), struct.pack("=I", target.fd))
        head = frame[: abi.Limit.PERF_HEAD]
        self._plan.update(bytes(4), abi.PERF_PLAN.pack(head=head, flows=flows))
        return self._wrapper.run(frame, repeat=repeat).duration_ns

    def counted(self) -> dict[abi.Reason, int]:
        """Packets by reason, of the benchmark only."""
        return {r: n.packets for r, n in bpfmaps.counted(self.maps["counters"]).items()}

    def _replies_of_ours(self) -> list[tuple[bytes, bytes]]:
        return [
            (key, value)
            for key, value in self.maps["ct_reply"].items()
            if IPv4Address(abi.FLOW_REPLY.unpack(value)["client_addr"]) in CLIENTS
        ]

    def forget_flows(self) -> None:
        """Remove the benchmark's own entries from conntrack, and nobody else's."""
        for key, _ in self._replies_of_ours():
            self.maps["ct_reply"].delete(key)
        for key in [key for key, _ in self.maps["ct_forward"].items()]:  # in one call, not 131,072
            if IPv4Address(abi.FLOW_KEY.unpack(key)["saddr"]) in CLIENTS:
                self.maps["ct_forward"].delete(key)


def _snat_entry(number: int) -> VipEntry:
    return VipEntry(number, VipFlag.SNAT)


def _pinned_map(path: Path) -> Map:
    try:
        return Map.at(path)
    except LibbpfError as error:
        msg = f"{path} cannot be opened ({error}); is the node up, and its bpf_root this one?"
        raise BenchError(msg) from error


def timing(samples: list[int]) -> Timing:
    """Minimum, median and maximum of some measurements."""
    return Timing(min(samples), statistics.median(samples), max(samples))
