"""Tables that are BPF maps with a row for each entry.

`vips`, `backends`, `source_ranges` and `known_addresses`; `sets` and `node` have modules of their
own.

How our own is recognised after a restart: every entry of a pinned map below our directory is
ours; nobody else writes there. `held_ids` reads service and backend ids back from them, so that
a restarted daemon keeps the numbers that running flows and counters go by.
"""

from __future__ import annotations

import errno
import sys
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from ipaddress import IPv6Address, ip_network
from typing import Generic, TypeVar

import numpy as np

from bpf import abi
from bpf.pick import filter_bit
from dataplane.drivers.bpfstate import MapOwner
from dataplane.drivers.libbpf import LibbpfError, Map
from dataplane.drivers.mapbulk import Looks, dtype_of, update_keys
from dataplane.drivers.mapfilter import Filter
from dataplane.drivers.servicestats import clear_counts, services_of
from dataplane.drivers.sweeps import tick_s
from dataplane.model.addr import IPAddress, IPNetwork, L4Addr, Mac, Protocol
from dataplane.model.rows import (
    AddressFlag,
    BackendEntry,
    KnownAddress,
    SourceRange,
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
    Place.OTHER_HOST: abi.Place.PLACE_OTHER_HOST,
}
_PLACE_OF = {number: place for place, number in _PLACES.items()}
_MAPPED = bytes(10) + b"\xff\xff"


def number(value: int) -> bytes:
    """A key or value that is a plain number."""
    return value.to_bytes(abi.U32, sys.byteorder)


def integer(octets: bytes) -> int:
    """The same back."""
    return int.from_bytes(octets, sys.byteorder)


def failure(error: LibbpfError, held: Map) -> Failure:
    """Why an entry could not be set."""
    if error.errno in {errno.E2BIG, errno.ENOSPC}:
        return Failure(f"map {held.info.name} is full ({held.info.max_entries} entries)")
    return Failure(str(error))


def packed(address: IPAddress) -> bytes:
    """An address as the maps have it: 16 octets, IPv4 mapped."""
    return address.packed if address.version == 6 else _MAPPED + address.packed


def unpacked(octets: bytes) -> IPAddress:
    """The same back."""
    address = IPv6Address(octets)
    return address.ipv4_mapped or address


class MapTable(ABC, Generic[K, V]):
    """A table whose rows are the entries of one hash map.

    Of ten thousand entries few change between two looks, and making the rows costs much more than
    reading the octets: those seen before are kept by their octets, those written as they were
    given, and where no octet differs the last look's rows are given again.
    """

    name: str
    steady = True

    def __init__(self, state: MapOwner) -> None:
        self._map = state.maps[self.name]
        self._seen: dict[tuple[bytes, bytes], tuple[K, V]] = {}
        self._last: tuple[tuple[bytes, bytes], Mapping[K, V]] | None = None

    @abstractmethod
    def _encode_key(self, key: K) -> bytes: ...

    @abstractmethod
    def _encode(self, value: V) -> bytes: ...

    @abstractmethod
    def _decode(self, key: bytes, value: bytes) -> tuple[K, V]: ...

    def observe(self) -> Mapping[K, V]:
        """Every entry of the map."""
        try:
            octets = self._map.octets()
            if self._last is None or self._last[0] != octets:
                seen, self._seen = self._seen, {}
                for entry in self._map.entries(*octets):
                    self._seen[entry] = seen.get(entry) or self._decode(*entry)
                self._last = octets, dict(self._seen.values())
        except LibbpfError as error:
            raise ObserveError(str(error)) from error
        except ValueError as error:
            msg = f"map {self.name} holds what is not ours: {error}; remove its pin"
            raise ObserveError(msg) from error
        return self._last[1]

    def upsert(self, batch: Sequence[tuple[K, V]]) -> Mapping[K, Failure]:
        """Set entries: in one call, or one by one to know which of them fail."""
        entries = [(self._encode_key(key), self._encode(value)) for key, value in batch]
        try:
            self._map.update_batch(entries)
        except LibbpfError:
            return self._upsert_singly(batch, entries)
        self._seen.update(zip(entries, batch, strict=True))
        return {}

    def _upsert_singly(
        self, batch: Sequence[tuple[K, V]], entries: Sequence[tuple[bytes, bytes]]
    ) -> dict[K, Failure]:
        failures: dict[K, Failure] = {}
        for (key, _), (encoded_key, encoded) in zip(batch, entries, strict=True):
            try:
                self._map.update(encoded_key, encoded)
            except LibbpfError as error:
                failures[key] = failure(error, self._map)
        return failures

    def delete(self, keys: Sequence[K]) -> Mapping[K, Failure]:
        """Remove entries."""
        failures: dict[K, Failure] = {}
        for key in keys:
            try:
                self._map.delete(self._encode_key(key))
            except LibbpfError as error:
                failures[key] = failure(error, self._map)
        return failures


class FilteredTable(MapTable[K, V]):
    """A table with a filter before it: a program looks a key up only if its bit is set."""

    filter_name: str

    def __init__(self, state: MapOwner) -> None:
        super().__init__(state)
        self._filter = Filter(state.maps[self.filter_name])
        self._entries: dict[K, V] = {}
        self._filtered: Mapping[K, V] | None = None

    @abstractmethod
    def _bit(self, key: K) -> int: ...

    def observe(self) -> Mapping[K, V]:
        """Every entry of the map; the filter is made to agree."""
        found = super().observe()
        if found is self._filtered:
            return found
        try:
            if self._entries.keys() != found.keys() or not self._entries:
                self._filter.reset(map(self._bit, found))
        except LibbpfError as error:
            raise ObserveError(str(error)) from error
        self._entries, self._filtered = dict(found), found
        return found

    def upsert(self, batch: Sequence[tuple[K, V]]) -> Mapping[K, Failure]:
        """Set entries, their bits first."""
        fresh = [key for key, _ in batch if key not in self._entries]
        try:
            self._filter.add(map(self._bit, fresh))
        except LibbpfError as error:
            return {key: failure(error, self._map) for key, _ in batch}
        failures = super().upsert(batch)
        self._entries.update({key: value for key, value in batch if key not in failures})
        self._filter.remove(self._bit(key) for key in fresh if key in failures)
        return failures

    def delete(self, keys: Sequence[K]) -> Mapping[K, Failure]:
        """Remove entries and then their bits."""
        failures = super().delete(keys)
        gone = [key for key in keys if key not in failures and key in self._entries]
        for key in gone:
            del self._entries[key]
        self._filter.remove(map(self._bit, gone))
        return failures


class VipTable(FilteredTable[L4Addr, VipEntry]):
    """Table `vips`. What was counted for a service begins at zero again when its last VIP goes."""

    name, filter_name = "vips", "vip_bits"

    def __init__(self, state: MapOwner) -> None:
        super().__init__(state)
        self._maps = state.maps
        self._tick_s = tick_s()
        self.observe()

    def _bit(self, key: L4Addr) -> int:
        return filter_bit(key.address.packed, key.port, key.protocol)

    def _encode_key(self, key: L4Addr) -> bytes:
        return abi.VIP_KEY.pack(addr=packed(key.address), port=key.port, proto=key.protocol)

    def _encode(self, value: VipEntry) -> bytes:
        return abi.VIP.pack(
            service_id=value.service_id,
            flags=value.flags,
            affinity_ticks=round(value.affinity_s / self._tick_s),
        )

    def _decode(self, key: bytes, value: bytes) -> tuple[L4Addr, VipEntry]:
        fields, entry = abi.VIP_KEY.unpack(key), abi.VIP.unpack(value)
        vip = L4Addr(Protocol(fields["proto"]), unpacked(fields["addr"]), fields["port"])
        seconds = round(entry["affinity_ticks"] * self._tick_s)
        return vip, VipEntry(entry["service_id"], VipFlag(entry["flags"]), seconds)

    def delete(self, keys: Sequence[L4Addr]) -> Mapping[L4Addr, Failure]:
        """Remove entries, and clear what was counted for their services."""
        before = {key: self._entries[key].service_id for key in keys if key in self._entries}
        failures = super().delete(keys)
        numbers = {service_id for key, service_id in before.items() if key not in failures}
        if numbers:
            clear_counts(self._maps, numbers - {row.service_id for row in self._entries.values()})
        return failures


class BackendTable:
    """Table `backends`: an array; a row is an entry with a protocol."""

    name = "backends"
    steady = True

    def __init__(self, state: MapOwner) -> None:
        self._map = state.maps[self.name]
        self._dtype = dtype_of(abi.BACKEND)
        self._written: dict[int, tuple[bytes, BackendEntry]] = {}
        self._looks = Looks(self._map, self._dtype)
        self._found: Mapping[int, BackendEntry] = {}

    def observe(self) -> Mapping[int, BackendEntry]:
        """Every backend there is."""
        try:
            if changed := self._looks.differing():
                self._found = self._refreshed(changed)
        except (LibbpfError, ObserveError) as error:
            # What is not ours is told again at the next look.
            self._looks.forget()
            self._found = {}
            raise ObserveError(str(error)) from error
        return self._found

    def _refreshed(self, changed: list[int]) -> Mapping[int, BackendEntry]:
        written, self._written = self._written, {}
        found = dict(self._found)
        for at in changed:
            row = self._looks.rows[at]
            octets = row.tobytes()
            given, entry = written.get(at, (b"", None))
            if not row["proto"]:
                found.pop(at, None)
            elif entry is not None and given == octets:
                found[at] = entry
            else:
                found[at] = self._decode(octets)
        return found

    @staticmethod
    def _decode(octets: bytes) -> BackendEntry:
        entry = abi.BACKEND.unpack(octets)
        try:
            target = L4Addr(Protocol(entry["proto"]), unpacked(entry["addr"]), entry["port"])
            place = _PLACE_OF[abi.Place(entry["place"])]
        except ValueError as error:
            msg = f"map backends holds what is not ours: {error}; remove its pin"
            raise ObserveError(msg) from error
        mac = Mac(entry["mac"].hex(":")) if any(entry["mac"]) else None
        return BackendEntry(target, place, entry["mtu"], mac)

    @staticmethod
    def _encode(value: BackendEntry) -> bytes:
        target = value.target
        return abi.BACKEND.pack(
            addr=packed(target.address),
            port=target.port,
            proto=target.protocol,
            place=_PLACES[value.place],
            mtu=value.mtu,
            mac=value.mac.packed() if value.mac else bytes(6),
        )

    def upsert(self, batch: Sequence[tuple[int, BackendEntry]]) -> Mapping[int, Failure]:
        """Set entries, in one call."""
        rows = [(key, self._encode(value)) for key, value in batch]
        failures = self._write(rows)
        if not failures:
            entries = zip(rows, batch, strict=True)
            self._written.update({at: (octets, row) for (at, octets), (_, row) in entries})
        return failures

    def delete(self, keys: Sequence[int]) -> Mapping[int, Failure]:
        """Clear entries."""
        return self._write([(key, bytes(abi.BACKEND.size)) for key in keys])

    def _write(self, rows: Sequence[tuple[int, bytes]]) -> dict[int, Failure]:
        if not rows:
            return {}
        self._looks.reach(key for key, _ in rows)
        keys = np.array([key for key, _ in rows], np.uint32)
        values = np.frombuffer(b"".join(row for _, row in rows), self._dtype)
        try:
            update_keys(self._map, keys, values)
        except LibbpfError as error:
            return {key: failure(error, self._map) for key, _ in rows}
        return {}


class SourceRangeTable(MapTable[tuple[int, IPNetwork], SourceRange]):
    """Table `source_ranges`: a longest-prefix trie; a prefix counts the service id's 32 bits."""

    name = "source_ranges"

    def _encode_key(self, key: tuple[int, IPNetwork]) -> bytes:
        service_id, network = key
        return abi.SOURCE_RANGE.pack(
            prefix_length=32 + network.prefixlen + (96 if network.version == 4 else 0),
            service_id=service_id,
            addr=packed(network.network_address),
        )

    def _encode(self, value: SourceRange) -> bytes:
        del value
        return number(1)

    def _decode(self, key: bytes, value: bytes) -> tuple[tuple[int, IPNetwork], SourceRange]:
        del value
        fields = abi.SOURCE_RANGE.unpack(key)
        address, bits = unpacked(fields["addr"]), fields["prefix_length"] - 32
        network = ip_network((address, bits - 96 if address.version == 4 else bits))
        return (fields["service_id"], network), SourceRange()


class KnownAddressTable(FilteredTable[IPAddress, KnownAddress]):
    """Table `known_addresses`."""

    name, filter_name = "known_addresses", "address_bits"

    def __init__(self, state: MapOwner) -> None:
        super().__init__(state)
        self.observe()

    def _bit(self, key: IPAddress) -> int:
        return filter_bit(key.packed, 0, 0)

    def _encode_key(self, key: IPAddress) -> bytes:
        return abi.KNOWN_ADDRESS.pack(octets=packed(key))

    def _encode(self, value: KnownAddress) -> bytes:
        return number(value.flags)

    def _decode(self, key: bytes, value: bytes) -> tuple[IPAddress, KnownAddress]:
        return unpacked(key), KnownAddress(AddressFlag(integer(value)))


def held_ids(state: MapOwner) -> HeldIds:
    """The ids that the pinned maps hold, and how many they have room for.

    Raises:
        ObserveError: a map cannot be read.
    """
    vips, backends = VipTable(state).observe(), BackendTable(state).observe()
    return HeldIds(
        services={vip: entry.service_id for vip, entry in vips.items()},
        backends={entry.target: key for key, entry in backends.items()},
        max_services=services_of(state.maps) - 1,
        max_backends=state.maps["backends"].info.max_entries - 1,
    )
