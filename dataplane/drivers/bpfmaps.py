"""The tables that are BPF maps: `vips`, `maglev`, `backends`, `local_addresses` and `node`.

How our own is recognised after a restart: every entry of a pinned map below our directory is
ours; nobody else writes there. `held_ids` reads service and backend ids back from them, so that
a restarted daemon keeps the numbers that running flows and counters go by.
"""

from __future__ import annotations

import errno
import struct
import sys
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from typing import Generic, TypeVar

from bpf import abi
from dataplane.drivers.bpfstate import MapOwner
from dataplane.drivers.libbpf import MAP_TYPE_ARRAY, LibbpfError, Map
from dataplane.model.addr import IPAddress, L4Addr, Mac, Protocol
from dataplane.model.rows import (
    BackendEntry,
    LocalAddress,
    MaglevTable,
    NodeEntry,
    VipEntry,
    VipFlag,
)
from dataplane.model.service import Place
from dataplane.model.state import HeldIds
from dataplane.ports import Failure, ObserveError

K = TypeVar("K")
V = TypeVar("V")

_PLACES = {
    Place.UNKNOWN: abi.Place.PLACE_UNKNOWN,
    Place.LOCAL: abi.Place.PLACE_LOCAL,
    Place.REMOTE: abi.Place.PLACE_REMOTE,
    Place.HOST: abi.Place.PLACE_HOST,
}
_PLACE_OF = {number: place for place, number in _PLACES.items()}
_ZERO = bytes(abi.U32)


def _number(value: int) -> bytes:
    return value.to_bytes(abi.U32, sys.byteorder)


def _integer(octets: bytes) -> int:
    return int.from_bytes(octets, sys.byteorder)


def _failure(error: LibbpfError, info: Map) -> Failure:
    if error.errno == errno.E2BIG:
        return Failure(f"map {info.info.name} is full ({info.info.max_entries} entries)")
    return Failure(str(error))


class _MapTable(ABC, Generic[K, V]):
    """A table whose rows are the entries of one hash map.

    Of ten thousand entries few change between two looks, and making the rows costs much more than
    reading the octets: those seen before are kept by their octets.
    """

    name: str

    def __init__(self, state: MapOwner) -> None:
        self._map = state.maps[self.name]
        self._seen: dict[tuple[bytes, bytes], tuple[K, V]] = {}

    @abstractmethod
    def _encode_key(self, key: K) -> bytes: ...

    @abstractmethod
    def _encode(self, value: V) -> bytes: ...

    @abstractmethod
    def _decode(self, key: bytes, value: bytes) -> tuple[K, V]: ...

    def observe(self) -> Mapping[K, V]:
        """Every entry of the map."""
        try:
            seen, self._seen = self._seen, {}
            for entry in self._map.items():
                self._seen[entry] = seen.get(entry) or self._decode(*entry)
            return dict(self._seen.values())
        except LibbpfError as error:
            raise ObserveError(str(error)) from error
        except ValueError as error:
            msg = f"map {self.name} holds what is not ours: {error}; remove its pin"
            raise ObserveError(msg) from error

    def upsert(self, batch: Sequence[tuple[K, V]]) -> Mapping[K, Failure]:
        """Set entries: in one call, or one by one to know which of them fail."""
        entries = [(self._encode_key(key), self._encode(value)) for key, value in batch]
        try:
            self._map.update_batch(entries)
        except LibbpfError:
            return self._upsert_singly(batch, entries)
        return {}

    def _upsert_singly(
        self, batch: Sequence[tuple[K, V]], entries: Sequence[tuple[bytes, bytes]]
    ) -> dict[K, Failure]:
        failures: dict[K, Failure] = {}
        for (key, _), (encoded_key, encoded) in zip(batch, entries, strict=True):
            try:
                self._map.update(encoded_key, encoded)
            except LibbpfError as error:
                failures[key] = _failure(error, self._map)
        return failures

    def delete(self, keys: Sequence[K]) -> Mapping[K, Failure]:
        """Remove entries."""
        failures: dict[K, Failure] = {}
        for key in keys:
            try:
                self._map.delete(self._encode_key(key))
            except LibbpfError as error:
                failures[key] = _failure(error, self._map)
        return failures


class VipTable(_MapTable[L4Addr, VipEntry]):
    """Table `vips`. A service's statistics begin at zero again when its VIP goes."""

    name = "vips"

    def __init__(self, state: MapOwner) -> None:
        super().__init__(state)
        self._stats = state.maps["service_stats"]

    def _encode_key(self, key: L4Addr) -> bytes:
        return abi.VIP_KEY.pack(addr=key.address.packed, port=key.port, proto=key.protocol)

    def _encode(self, value: VipEntry) -> bytes:
        return abi.VIP.pack(service_id=value.service_id, flags=value.flags)

    def _decode(self, key: bytes, value: bytes) -> tuple[L4Addr, VipEntry]:
        fields, entry = abi.VIP_KEY.unpack(key), abi.VIP.unpack(value)
        vip = L4Addr(Protocol(fields["proto"]), IPv4Address(fields["addr"]), fields["port"])
        return vip, VipEntry(entry["service_id"], VipFlag(entry["flags"]))

    def delete(self, keys: Sequence[L4Addr]) -> Mapping[L4Addr, Failure]:
        """Remove entries, and clear what was counted for their services."""
        gone = [value for key in keys if (value := self._map.lookup(self._encode_key(key)))]
        failures = super().delete(keys)
        for value in gone:
            number = abi.VIP.unpack(value)["service_id"]
            self._stats.update(_number(number), bytes(self._stats.value_size))
        return failures


class BackendTable(_MapTable[int, BackendEntry]):
    """Table `backends`."""

    name = "backends"

    def _encode_key(self, key: int) -> bytes:
        return _number(key)

    def _encode(self, value: BackendEntry) -> bytes:
        target = value.target
        return abi.BACKEND.pack(
            addr=target.address.packed,
            port=target.port,
            proto=target.protocol,
            place=_PLACES[value.place],
        )

    def _decode(self, key: bytes, value: bytes) -> tuple[int, BackendEntry]:
        entry = abi.BACKEND.unpack(value)
        target = L4Addr(Protocol(entry["proto"]), IPv4Address(entry["addr"]), entry["port"])
        return _integer(key), BackendEntry(target, _PLACE_OF[abi.Place(entry["place"])])


class LocalAddressTable(_MapTable[IPAddress, LocalAddress]):
    """Table `local_addresses`; an IPv4 address is kept as ::ffff:a.b.c.d."""

    name = "local_addresses"

    def _encode_key(self, key: IPAddress) -> bytes:
        prefix = bytes(10) + b"\xff\xff" if key.version == 4 else b""
        return abi.LOCAL_ADDRESS.pack(octets=prefix + key.packed)

    def _encode(self, value: LocalAddress) -> bytes:
        del value
        return _number(1)

    def _decode(self, key: bytes, value: bytes) -> tuple[IPAddress, LocalAddress]:
        del value
        address = IPv6Address(key)
        return address.ipv4_mapped or address, LocalAddress()


class NodeTable:
    """Table `node`: key 0, the only entry of an array; one that is not valid is no row."""

    name = "node"

    def __init__(self, state: MapOwner) -> None:
        self._map = state.maps[self.name]

    def observe(self) -> Mapping[int, NodeEntry]:
        """The entry, if it is valid."""
        try:
            octets = self._map.lookup(_ZERO)
        except LibbpfError as error:
            raise ObserveError(str(error)) from error
        fields = abi.NODE.unpack(octets or bytes(abi.NODE.size))
        if not fields["valid"]:
            return {}
        entry = NodeEntry(
            IPv4Address(fields["service_addr"]),
            Mac(fields["service_mac"].hex(":")),
            Mac(fields["gateway_mac"].hex(":")),
            fields["uplink_ifindex"],
            Mac(fields["uplink_mac"].hex(":")),
        )
        return {0: entry}

    def upsert(self, batch: Sequence[tuple[int, NodeEntry]]) -> Mapping[int, Failure]:
        """Set the entry."""
        return {key: failed for key, entry in batch if (failed := self._write(key, entry))}

    def delete(self, keys: Sequence[int]) -> Mapping[int, Failure]:
        """Make the entry invalid: packets of VIPs are dropped from now on."""
        return {key: failed for key in keys if (failed := self._write(key, None))}

    def _write(self, key: int, entry: NodeEntry | None) -> Failure | None:
        octets = bytes(abi.NODE.size)
        if key:
            return Failure(f"table node has no row {key}, only row 0")
        if entry is not None:
            octets = abi.NODE.pack(
                service_addr=entry.service_address.packed,
                uplink_ifindex=entry.uplink_ifindex,
                service_mac=entry.service_mac.packed(),
                gateway_mac=entry.gateway_mac.packed(),
                uplink_mac=entry.uplink_mac.packed(),
                valid=1,
            )
        try:
            self._map.update(_ZERO, octets)
        except LibbpfError as error:
            return _failure(error, self._map)
        return None


_INNER_MAPS_AT_ONCE = 256
"""Each is an open file for a moment; 1,024 is the usual limit of a process."""

_TABLE, _NO_TABLE = "maglev_table", "maglev_none"
"""Names of inner maps in the kernel; the second stands for "no table" (see `delete`)."""


def _inner_map(name: str, slots: bytes) -> Map:
    size = abi.MAGLEV_TABLE.size
    if len(slots) != size:
        msg = f"a table of {len(slots)} octets, not {size}"
        raise ValueError(msg)
    made = Map.create(MAP_TYPE_ARRAY, name, abi.U32, size, 1)
    made.update(_ZERO, slots)
    return made


class MaglevMapTable:
    """Table `maglev`: key service id; each row is an inner map, replaced whole.

    An inner map is filled before it is put in its place and never written again, so its id stands
    for its content: what was read once is not read twice.

    The kernel waits out an RCU grace period, some milliseconds, after each system call that
    changes a map of maps. So many are changed by one call, which exists for updates only: a row
    is removed by putting a table without backends, known by its name, in its place.
    """

    name = "maglev"

    def __init__(self, state: MapOwner) -> None:
        self._map = state.maps[self.name]
        self._known: dict[int, tuple[int, MaglevTable | None]] = {}

    def observe(self) -> Mapping[int, MaglevTable]:
        """The tables of all services that have one."""
        known: dict[int, tuple[int, MaglevTable | None]] = {}
        try:
            for service_id, inner_id in self._map.numbers():
                held = self._known.get(service_id)
                if held is None or held[0] != inner_id:
                    held = inner_id, self._read(inner_id)
                known[service_id] = held
        except LibbpfError as error:
            raise ObserveError(str(error)) from error
        self._known = known
        return {number: table for number, (_, table) in known.items() if table is not None}

    def _read(self, inner_id: int) -> MaglevTable | None:
        with Map.by_id(inner_id) as inner:
            if inner.info.name == _NO_TABLE:
                return None
            return MaglevTable(inner.lookup(_ZERO) or b"")

    def upsert(self, batch: Sequence[tuple[int, MaglevTable]]) -> Mapping[int, Failure]:
        """Put new tables in their places; each changes at one stroke."""
        failures: dict[int, Failure] = {}
        for at in range(0, len(batch), _INNER_MAPS_AT_ONCE):
            made: dict[int, tuple[Map, MaglevTable | None]] = {}
            with ExitStack() as stack:
                for service_id, table in batch[at : at + _INNER_MAPS_AT_ONCE]:
                    try:
                        inner = stack.enter_context(_inner_map(_TABLE, table.slots))
                    except (LibbpfError, ValueError) as error:
                        failures[service_id] = Failure(str(error))
                    else:
                        made[service_id] = inner, table
                failures.update(self._put(made))
        return failures

    def delete(self, keys: Sequence[int]) -> Mapping[int, Failure]:
        """Take tables away: new flows of these services are dropped."""
        try:
            with _inner_map(_NO_TABLE, bytes(abi.MAGLEV_TABLE.size)) as none:
                return self._put(dict.fromkeys(keys, (none, None)))
        except LibbpfError as error:
            return {key: _failure(error, self._map) for key in keys}

    def _put(self, made: Mapping[int, tuple[Map, MaglevTable | None]]) -> dict[int, Failure]:
        failures: dict[int, Failure] = {}
        entries = [(_number(number), _number(inner.fd)) for number, (inner, _) in made.items()]
        try:
            self._map.update_batch(entries)
        except LibbpfError:  # one of them, or a kernel without batches: see which
            for number, (key, fd) in zip(made, entries, strict=True):
                try:
                    self._map.update(key, fd)
                except LibbpfError as error:
                    failures[number] = _failure(error, self._map)
        for number, (inner, table) in made.items():
            if number not in failures:
                self._known[number] = inner.info.id, table
        return failures


def held_ids(state: MapOwner) -> HeldIds:
    """The ids that the pinned maps hold.

    Raises:
        ObserveError: a map cannot be read.
    """
    vips, backends = VipTable(state).observe(), BackendTable(state).observe()
    return HeldIds(
        services={vip: entry.service_id for vip, entry in vips.items()},
        backends={entry.target: number for number, entry in backends.items()},
    )


@dataclass(frozen=True, slots=True)
class Count:
    """Packets and their octets, summed over CPUs."""

    packets: int
    octets: int


@dataclass(frozen=True, slots=True)
class ServiceStats:
    """What one service's packets came to, summed over CPUs."""

    forward: Count
    reply: Count
    new_flows: int


def _sums(octets: bytes, layout: abi.Layout) -> list[int]:
    words = struct.unpack(f"={len(octets) // 8}Q", octets)
    width = layout.size // 8
    return [sum(words[at::width]) for at in range(width)]


def counters(state: MapOwner) -> Mapping[abi.Reason, Count]:
    """Packets by the reason of their verdict, those that have any."""
    return counted(state.maps["counters"])


def counted(counters_map: Map) -> Mapping[abi.Reason, Count]:
    """The same, of a map of that layout."""
    sums = {_integer(key): _sums(value, abi.COUNTER) for key, value in counters_map.items()}
    return {r: Count(*sums[r]) for r in abi.Reason if sums[r][0]}


def service_stats(state: MapOwner) -> Mapping[int, ServiceStats]:
    """Traffic by service id, of those that have any."""
    found: dict[int, ServiceStats] = {}
    empty = bytes(state.maps["service_stats"].value_size)
    for key, value in state.maps["service_stats"].items():
        if value != empty:
            forward, forward_octets, reply, reply_octets, new = _sums(value, abi.SERVICE_STATS)
            found[_integer(key)] = ServiceStats(
                Count(forward, forward_octets), Count(reply, reply_octets), new
            )
    return found


def stats_by_vip(state: MapOwner) -> Mapping[L4Addr, ServiceStats]:
    """Traffic of the VIPs that the maps hold, of those that have any.

    Raises:
        ObserveError: the table of VIPs cannot be read.
    """
    counted = service_stats(state)
    return {
        vip: counted[entry.service_id]
        for vip, entry in VipTable(state).observe().items()
        if entry.service_id in counted
    }
