"""The tables that are BPF maps: `vips`, `maglev`, `backends`, `local_addresses` and `node`.

How our own is recognised after a restart: every entry of a pinned map below our directory is
ours; nobody else writes there. `held_ids` reads service and backend ids back from them, so that
a restarted daemon keeps the numbers that running flows and counters go by.
"""

from __future__ import annotations

import errno
import struct
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from typing import Generic, TypeVar

from bpf import abi
from dataplane.drivers.bpfstate import BpfState
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
    return struct.pack("=I", value)


def _integer(octets: bytes) -> int:
    return int.from_bytes(octets, "little" if struct.pack("=H", 1) == b"\1\0" else "big")


def _failure(error: LibbpfError, info: Map) -> Failure:
    if error.errno == errno.E2BIG:
        return Failure(f"map {info.info.name} is full ({info.info.max_entries} entries)")
    return Failure(str(error))


class _MapTable(ABC, Generic[K, V]):
    """A table whose rows are the entries of one hash map."""

    name: str

    def __init__(self, state: BpfState) -> None:
        self._map = state.maps[self.name]

    @abstractmethod
    def _encode_key(self, key: K) -> bytes: ...

    @abstractmethod
    def _encode(self, value: V) -> bytes: ...

    @abstractmethod
    def _decode(self, key: bytes, value: bytes) -> tuple[K, V]: ...

    def observe(self) -> Mapping[K, V]:
        """Every entry of the map."""
        try:
            return dict(self._decode(key, value) for key, value in self._map.items())
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

    def __init__(self, state: BpfState) -> None:
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

    def __init__(self, state: BpfState) -> None:
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


class MaglevMapTable:
    """Table `maglev`: key service id; each row is an inner map, replaced whole.

    An inner map is filled before it is put in its place and never written again, so its id stands
    for its content: what was read once is not read twice.
    """

    name = "maglev"

    def __init__(self, state: BpfState) -> None:
        self._map = state.maps[self.name]
        self._known: dict[int, tuple[int, MaglevTable]] = {}

    def observe(self) -> Mapping[int, MaglevTable]:
        """The tables of all services that have one."""
        known: dict[int, tuple[int, MaglevTable]] = {}
        try:
            for service_id, inner_id in self._map.numbers():
                held = self._known.get(service_id)
                if held is None or held[0] != inner_id:
                    with Map.by_id(inner_id) as inner:
                        held = inner_id, MaglevTable(inner.lookup(_ZERO) or b"")
                known[service_id] = held
        except LibbpfError as error:
            raise ObserveError(str(error)) from error
        self._known = known
        return {service_id: table for service_id, (_, table) in known.items()}

    def upsert(self, batch: Sequence[tuple[int, MaglevTable]]) -> Mapping[int, Failure]:
        """Put new tables in their places; each changes at one stroke."""
        failures: dict[int, Failure] = {}
        size = abi.MAGLEV_TABLE.size
        for service_id, table in batch:
            if len(table.slots) != size:
                failures[service_id] = Failure(f"{len(table.slots)} octets, not {size}")
                continue
            try:
                with Map.create(MAP_TYPE_ARRAY, "maglev_table", abi.U32, size, 1) as inner:
                    inner.update(_ZERO, table.slots)
                    self._map.update(_number(service_id), _number(inner.fd))
                    self._known[service_id] = inner.info.id, table
            except LibbpfError as error:
                failures[service_id] = _failure(error, self._map)
        return failures

    def delete(self, keys: Sequence[int]) -> Mapping[int, Failure]:
        """Take tables away: new flows of these services are dropped."""
        failures: dict[int, Failure] = {}
        for service_id in keys:
            self._known.pop(service_id, None)
            try:
                self._map.delete(_number(service_id))
            except LibbpfError as error:
                failures[service_id] = _failure(error, self._map)
        return failures


def held_ids(state: BpfState) -> HeldIds:
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


def counters(state: BpfState) -> Mapping[abi.Reason, Count]:
    """Packets by the reason of their verdict, those that have any."""
    found: dict[abi.Reason, Count] = {}
    names = {reason.value: reason for reason in abi.Reason}
    for key, value in state.maps["counters"].items():
        packets, octets = _sums(value, abi.COUNTER)
        reason = names.get(_integer(key))
        if packets and reason is not None:
            found[reason] = Count(packets, octets)
    return found


def service_stats(state: BpfState) -> Mapping[int, ServiceStats]:
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
