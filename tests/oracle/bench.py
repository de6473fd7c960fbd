"""The real programs under the oracle: a world is put into their maps, frames go through them.

The only module here that knows the maps. It plays the daemon: services become members and sets,
what ends with a service is swept. Buffers are made once; a run is one system call, and what was
counted another.
"""

from __future__ import annotations

import ctypes as c
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bpf import abi
from bpf.abi import AddressFlag, CtState, Limit, NodeFlag, Reason, SweepFlag, SweepSide, VipFlag
from bpf.objects import OBJECT_DIRECTORY
from bpf.pick import filter_bit
from dataplane.drivers import libbpf_types as t
from dataplane.drivers.bpfstate import BpfState
from dataplane.drivers.libbpf import LibbpfError, Map, library
from dataplane.drivers.mapbulk import dtype_of, update_keys
from dataplane.drivers.sweeps import End, Sweeps, mask_of
from dataplane.drivers.tidying import Tidying
from dataplane.model.addr import IPAddress, L4Addr, Protocol
from dataplane.model.conntrack import ENDS_WITH_BACKEND
from dataplane.model.rows import ProgramKind
from tests.bpf.world import To, World, mapped
from tests.oracle.declared import Backend, Known, Member, Place, Service
from tests.oracle.tables import Table
from tests.oracle.verdicts import Seen
from tests.oracle.wire import TCP
from tests.oracle.worlds import (
    GATEWAY_MAC,
    SERVICE4,
    SERVICE6,
    SERVICE_MAC,
    SVC,
    UPLINK,
    UPLINK_MAC,
    UPLINK_TWO,
    Setting,
)

ROOM = 4096
ACTIONS = ("ABORTED", "DROP", "PASS", "TX", "REDIRECT")
PLACES = {
    Place.LOCAL: abi.Place.PLACE_LOCAL,
    Place.REMOTE: abi.Place.PLACE_REMOTE,
    Place.HOST: abi.Place.PLACE_HOST,
}
LONGER_THAN_ANY_FLOW = 1_100_000
"""Ticks between two worlds: nothing of the one lives in the other."""

OWN_MAPS = ("ct_work", "scratch")
"""What a program keeps to itself from packet to packet: each world begins without, as the first."""

AHEAD = 1 << 30
"""Ticks that others' flows are ahead of any world's time."""

WIDE = 1 << 30
"""Ticks after which the tables are emptied: clocks of 32 bits go round."""


def sizes(slots: int) -> dict[str, int]:
    """Conntrack for so many records of each family."""
    found: dict[str, int] = {}
    for family in ("ct4", "ct6"):
        found |= {
            family: slots,
            f"{family}_tags": slots // Limit.CT_WAYS,
            f"{family}_replies": max(slots // 2, 1),
        }
    return found


def _ip(octets: bytes) -> IPAddress:
    return IPv4Address(octets) if len(octets) == 4 else IPv6Address(octets)


def _target(backend: Backend) -> L4Addr:
    return L4Addr(Protocol(backend.proto), _ip(backend.addr), backend.port)


def _to(member: Member) -> To:
    backend = member.backend
    return To(
        _target(backend), PLACES[backend.place], member.weight, backend.mtu, backend.mac.hex(":")
    )


class Bench:
    """One loaded pair of programs, and one world after another in their maps."""

    def __init__(self, state: BpfState, devices: dict[int, int], objects: Path) -> None:
        """`devices`: the ifindex of each door."""
        self._state, self._devices = state, devices
        self._sweeps = Sweeps(state.maps, objects)
        self._tidying, self._endings = Tidying(state.maps, objects), 0
        self._world = World(state, devices[UPLINK], devices[SVC])
        self._emptied = self._world.tick
        self._addresses: set[bytes] = set()
        self._declared: dict[str, Service] = {}
        self._programs = {
            UPLINK: state.program(ProgramKind.UPLINK).fd,
            UPLINK_TWO: state.program(ProgramKind.UPLINK).fd,
            SVC: state.program(ProgramKind.SERVICE).fd,
        }
        self.maps = state.maps
        self._buffers()
        self._own = list(self._own_maps())
        self._laden = False
        self._world.clear()

    def close(self) -> None:
        """Let go of the programs that sweep."""
        for held in self._own:
            held.close()
        self._tidying.close()
        self._sweeps.close()

    def _own_maps(self) -> Iterator[Map]:
        """Where each program keeps how far it is: none of these is pinned."""
        for kind in (ProgramKind.UPLINK, ProgramKind.SERVICE):
            for number in self._state.program_info(kind).map_ids:
                held = Map.by_id(number)
                if held.info.name in OWN_MAPS:
                    yield held
                else:
                    held.close()

    def _buffers(self) -> None:
        self._in, self._out = c.create_string_buffer(ROOM), c.create_string_buffer(ROOM)
        self._at_in, self._at_out = c.addressof(self._in), c.addressof(self._out)
        self._context = t.XdpMd()
        self._options = t.TestRunOptions(
            sz=c.sizeof(t.TestRunOptions),
            data_in=self._at_in,
            data_out=self._at_out,
            ctx_in=c.addressof(self._context),
            ctx_size_in=c.sizeof(self._context),
            repeat=1,
        )
        self._run = library().bpf_prog_test_run_opts
        self._ref = c.byref(self._options)
        counters = self._state.maps["counters"]
        self._counters_fd = counters.fd
        self._reasons = max(Reason) + 1
        self._keys = (c.c_uint32 * self._reasons)()
        self._values = bytearray(counters.value_size * self._reasons)
        self._at_values = (c.c_char * len(self._values)).from_buffer(self._values)
        self._packets = np.frombuffer(self._values, np.uint64).reshape(self._reasons, -1)[:, ::2]
        self._token, self._count = c.create_string_buffer(8), c.c_uint32()
        self._batch = t.BatchOptions(sz=c.sizeof(t.BatchOptions))
        self._read = library().bpf_map_lookup_batch
        self._before = self._count_packets()
        self._names = {int(reason): reason.name for reason in Reason}

    def _count_packets(self) -> NDArray[np.uint64]:
        self._count.value = self._reasons
        failed = self._read(
            self._counters_fd, None, self._token, self._keys, self._at_values,
            c.byref(self._count), c.byref(self._batch),
        )  # fmt: skip
        if failed:
            what = "read the counters"
            raise LibbpfError(what, -failed)
        found: NDArray[np.uint64] = self._packets.sum(axis=1)
        return found

    # -- a world ------------------------------------------------------------------------------

    def begin(self, setting: Setting) -> None:
        """An empty node with this setting; nothing of the last world lives."""
        world, maps = self._world, self._state.maps
        tick = world.tick + LONGER_THAN_ANY_FLOW
        if tick - self._emptied > WIDE or self._laden:
            world.clear()
            self._emptied = tick
        for held in self._own:
            held.update(bytes(4), bytes(held.value_size))
        for name in list(self._declared):
            self._forget(self._declared.pop(name))
        for addr in self._addresses:
            word = filter_bit(addr, 0, 0) // 64
            maps["address_bits"].update(word.to_bytes(4, "little"), bytes(8))
        self._addresses.clear()
        for name in ("known_addresses", "affinities", "fragments", "tx_ports"):
            for key in list(maps[name].keys()):
                maps[name].delete(key)
        used = self._world._services.values()
        empty = abi.SET.pack()
        maps["sets"].update_batch(
            [((2 * i + scope).to_bytes(4, "little"), empty) for i in used for scope in (0, 1)]
        )
        self._world = world = World(self._state, self._devices[UPLINK], self._devices[SVC])
        world.tick, world.seed = tick, setting.hash_seed ^ 0x5A5A
        flags = NodeFlag.NODE_FIXED_CLOCK
        flags |= NodeFlag.NODE_VALID4 if setting.ready4 else 0
        flags |= NodeFlag.NODE_VALID6 if setting.ready6 else 0
        world.set_node(
            flags=int(flags),
            ct_seed=setting.hash_seed,
            service_addr4=SERVICE4,
            service_addr6=SERVICE6,
            gateway_mac=GATEWAY_MAC,
            service_mac=SERVICE_MAC,
            uplink_mac=UPLINK_MAC,
            local4=b"",
        )
        for door in setting.leaving:
            key = self._devices[door].to_bytes(4, "little")
            maps["tx_ports"].update(key, key)
        self._laden = bool(setting.others)
        if setting.others:
            self._load(setting, tick)

    def _load(self, setting: Setting, tick: int) -> None:
        """Flows of others, established, whose last packets are always yet to come."""
        rng = np.random.default_rng(setting.hash_seed)
        for name, layout in (("ct4", abi.FLOW4), ("ct6", abi.FLOW6)):
            size = self._state.maps[name].info.max_entries
            keys = np.sort(rng.choice(size, setting.others, replace=False)).astype(np.uint32)
            flows = np.zeros(setting.others, dtype_of(layout))
            flows["life"], flows["seen"] = 1, (tick + AHEAD) % (1 << 32)
            flows["state"], flows["proto"] = CtState.CT_ESTABLISHED, TCP
            flows["source_port"], flows["client_port"] = keys % 65536, keys % 65521
            update_keys(self._state.maps[name], keys, flows)

    def know(self, addr: bytes, known: Known) -> None:
        """An address is this to the node."""
        flags = AddressFlag(0)
        flags |= AddressFlag.ADDRESS_LOCAL if known.local else 0
        flags |= AddressFlag.ADDRESS_OWNED if known.owned else 0
        flags |= AddressFlag.ADDRESS_VIP if known.vip else 0
        self._world.know(str(_ip(addr)), flags)
        if known.local and len(addr) == 4:
            # The first one stands in `node` as well.
            held = self._world._node
            self._world.set_node(**{**held, "local4": held["local4"] or addr})
        self._addresses.add(addr)

    def pass_time(self, ticks: int) -> None:
        """The programs' clock goes on."""
        self._world.tick += ticks
        self._world.set_node(**{**self._world._node, "tick": self._world.tick})

    def serve(self, service: Service) -> None:
        """Serve it as it is declared, and end what that ends."""
        before = self._declared.get(service.name)
        if before is not None:
            self._drop_ranges(before)
        flags = VipFlag(0)
        for wanted, flag in (
            (service.snat, VipFlag.VIP_SNAT),
            (service.inner_snat, VipFlag.VIP_INNER_SNAT),
            (service.local, VipFlag.VIP_LOCAL),
            (service.inner_local, VipFlag.VIP_INNER_LOCAL),
            (service.reject, VipFlag.VIP_REJECT),
            (service.dsr, VipFlag.VIP_DSR),
            (service.affinity is not None, VipFlag.VIP_AFFINITY),
            (service.ranges is not None, VipFlag.VIP_SOURCE_RANGES),
        ):
            flags |= flag if wanted else 0
        for addr, port in service.vips:
            vip = L4Addr(Protocol(service.proto), _ip(addr), port)
            self._world.serve(
                vip,
                [_to(member) for member in service.members],
                flags,
                local=[_to(member) for member in service.here],
                service=service.name,
                affinity_s=(service.affinity or 0) / 100,
                ranges=[f"{_ip(network)}/{length}" for network, length in service.ranges or ()],
            )
        self._declared[service.name] = service
        if before is not None:
            self._unbind(before, service)
            self._end_backends(before, service)

    def _unbind(self, before: Service, after: Service) -> None:
        """Clients are not bound any longer to what left."""
        left = {_target(m.backend) for m in before.members}
        left -= {_target(m.backend) for m in after.members}
        ids = {self._world.backend_id(target) for target in left}
        number, bound = self._world._services[after.name], self._state.maps["affinities"]
        for key, value in list(bound.items()) if ids else ():
            ours = abi.AFFINITY_KEY.unpack(key)["service_id"] == number
            if ours and abi.AFFINITY.unpack(value)["backend_id"] in ids:
                bound.delete(key)

    def _end_backends(self, before: Service, after: Service) -> None:
        """Flows to what left, that are nobody's connection yet, end (and UDP's)."""
        left = {m.backend for m in before.members} - {m.backend for m in after.members}
        macs = {b.mac for b in left if b.mac} - {m.backend.mac for m in after.members}
        states, number = mask_of(ENDS_WITH_BACKEND), self._world._services[after.name]
        ends = [
            End(
                SweepSide.SWEEP_SERVICE_BACKEND,
                mapped(_ip(b.addr)),
                b.port,
                b.proto,
                number,
                states,
            )
            for b in left
        ]
        ends += [
            End(SweepSide.SWEEP_SERVICE_MAC, m, service_id=number, states=states) for m in macs
        ]
        if ends:
            version = 4 if len(after.vips[0][0]) == 4 else 6
            self._end(version, ends)

    def end_clients(self, ends: Iterable[tuple[bytes, int, int]]) -> None:
        """Every flow of these clients (address, port, protocol) ends."""
        for addr, port, proto in ends:
            end = End(SweepSide.SWEEP_CLIENT, mapped(_ip(addr)), port, proto)
            self._end(4 if len(addr) == 4 else 6, [end])

    def forget_clients(self, addrs: Iterable[bytes]) -> None:
        """No service knows these clients."""
        known, bound = {mapped(_ip(addr)) for addr in addrs}, self._state.maps["affinities"]
        for key in list(bound.keys()):
            if abi.AFFINITY_KEY.unpack(key)["client"] in known:
                bound.delete(key)

    def withdraw(self, name: str) -> None:
        """Serve it no longer; its flows end."""
        service = self._declared.pop(name)
        self._forget(service)
        ends = [
            End(SweepSide.SWEEP_VIP, mapped(_ip(addr)), port, proto)
            for addr, port, proto in service.asked()
        ]
        version = 4 if len(service.vips[0][0]) == 4 else 6
        self._end(version, ends)

    def _end(self, version: int, ends: Sequence[End]) -> None:
        """End flows; every eighth time what they left is cleared, too: no packet may see it."""
        self._sweeps.sweep(version, SweepFlag.SWEEP_END, ends)
        self._endings += 1
        if not self._endings % 8:
            self._tidying.run()

    def _forget(self, service: Service) -> None:
        """Withdraw what is declared no more, and the bits that nobody else's VIPs have."""
        filters = self._state.maps["vip_bits"]
        served = {filter_bit(*vip) for other in self._declared.values() for vip in other.asked()}
        self._drop_ranges(service)
        for addr, port, proto in service.asked():
            self._world.withdraw(L4Addr(Protocol(proto), _ip(addr), port))
            bit = filter_bit(addr, port, proto)
            word = sum(1 << (b % 64) for b in served if b // 64 == bit // 64)
            filters.update((bit // 64).to_bytes(4, "little"), word.to_bytes(8, "little"))

    def _drop_ranges(self, service: Service) -> None:
        number = self._world._services[service.name]
        for network, length in service.ranges or ():
            bits = 32 + length + (96 if len(network) == 4 else 0)
            addr = mapped(_ip(network))
            key = abi.SOURCE_RANGE.pack(prefix_length=bits, service_id=number, addr=addr)
            self._state.maps["source_ranges"].delete(key)

    # -- frames -------------------------------------------------------------------------------

    def run(self, door: int, octets: bytes) -> Seen:
        """A frame goes through a door's program."""
        size, options = len(octets), self._options
        c.memmove(self._at_in, octets, size)
        options.data_size_in, options.data_size_out = size, ROOM
        self._context.data_end = size
        self._context.ingress_ifindex = self._devices[door]
        failed = self._run(self._programs[door], self._ref)
        if failed:
            what = f"run a program on {octets.hex()}"
            raise LibbpfError(what, -failed)
        out = c.string_at(self._at_out, options.data_size_out)
        now = self._count_packets()
        changed = np.nonzero(now != self._before)[0]
        if len(changed) == 1 and now[changed[0]] - self._before[changed[0]] == 1:
            reason = self._names[int(changed[0])]
        else:
            reason = "+".join(self._names[int(i)] for i in changed) or "(nothing counted)"
        self._before = now
        return Seen(ACTIONS[options.retval], reason, out)


@contextmanager
def bench(
    root: Path,
    devices: dict[int, int],
    table: Table = Table.ROOMY,
    objects: Path = OBJECT_DIRECTORY,
    cpu: int = 0,
) -> Iterator[Bench]:
    """A bench whose pins are below `root`, a directory on a BPF filesystem, on one CPU.

    Counters and the tokens of answers are each CPU's own.
    """
    home = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {cpu if cpu in home else min(home)})
    try:
        with BpfState(str(root), objects, sizes(table.records)) as state:
            made = Bench(state, devices, objects)
            try:
                yield made
            finally:
                made.close()
    finally:
        os.sched_setaffinity(0, home)
