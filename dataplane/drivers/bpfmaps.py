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
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from ipaddress import IPv6Address, ip_network
from typing import Generic, TypeVar

import numpy as np

from bpf import abi
from bpf.pick import filter_bit
from dataplane.drivers.bpfstate import MapOwner
from dataplane.drivers.libbpf import LibbpfError, Map
from dataplane.drivers.mapbulk import dtype_of, read_array, update_keys
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


class _Filter:
    """`vip_filter`: bits that are set while any VIP has them.

    One for each hash of a VIP, and one of its address alone (port and protocol 0), by which what
    comes to another port of it is found.
    """

    def __init__(self, held: Map) -> None:
        self._map = held
        self._uses: Counter[int] = Counter()
        self._words = np.zeros(abi.Limit.FILTER_BITS // 64, np.uint64)

    @staticmethod
    def _bits(vip: L4Addr) -> tuple[int, int]:
        octets = vip.address.packed
        return filter_bit(octets, vip.port, vip.protocol), filter_bit(octets, 0, 0)

    def reset(self, vips: Iterable[L4Addr]) -> None:
        """Make the map equal to these VIPs, if it is not."""
        uses = Counter(bit for vip in vips for bit in self._bits(vip))
        words = np.zeros_like(self._words)
        bits = np.fromiter(uses, np.uint64, len(uses))
        np.bitwise_or.at(words, bits // 64, np.uint64(1) << (bits % 64))
        self._uses, self._words = uses, words
        held = read_array(self._map, np.dtype(np.uint64))
        wrong = np.flatnonzero(held != words).astype(np.uint32)
        if len(wrong):
            update_keys(self._map, wrong, np.ascontiguousarray(words[wrong]))

    def add(self, vips: Iterable[L4Addr]) -> None:
        """VIPs are about to be put in: before their entries."""
        self._change(vips, 1)

    def remove(self, vips: Iterable[L4Addr]) -> None:
        """VIPs were taken out: after their entries."""
        self._change(vips, -1)

    def _change(self, vips: Iterable[L4Addr], by: int) -> None:
        touched = set()
        for bit in (bit for vip in vips for bit in self._bits(vip)):
            self._uses[bit] += by
            word, mask = bit // 64, np.uint64(1 << (bit % 64))
            if self._uses[bit] > 0:
                self._words[word] |= mask
            else:
                del self._uses[bit]
                self._words[word] &= ~mask
            touched.add(word)
        if touched:
            keys = np.array(sorted(touched), np.uint32)
            update_keys(self._map, keys, np.ascontiguousarray(self._words[keys]))


class VipTable(MapTable[L4Addr, VipEntry]):
    """Table `vips`, with the filter before it.

    What was counted for a service begins at zero again when its last VIP goes.
    """

    name = "vips"

    def __init__(self, state: MapOwner) -> None:
        super().__init__(state)
        self._stats = state.maps["service_stats"]
        self._filter = _Filter(state.maps["vip_filter"])
        self._tick_s = tick_s()
        self._known: dict[L4Addr, int] = {}
        self.observe()

    def observe(self) -> Mapping[L4Addr, VipEntry]:
        """Every entry of the map; the filter is made to agree."""
        found = super().observe()
        try:
            if self._known.keys() != found.keys() or not self._known:
                self._filter.reset(found)
        except LibbpfError as error:
            raise ObserveError(str(error)) from error
        self._known = {vip: entry.service_id for vip, entry in found.items()}
        return found

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

    def upsert(self, batch: Sequence[tuple[L4Addr, VipEntry]]) -> Mapping[L4Addr, Failure]:
        """Set entries, their bits first."""
        fresh = [vip for vip, _ in batch if vip not in self._known]
        try:
            self._filter.add(fresh)
        except LibbpfError as error:
            return {vip: failure(error, self._map) for vip, _ in batch}
        failures = super().upsert(batch)
        self._known.update({v: row.service_id for v, row in batch if v not in failures})
        self._filter.remove([vip for vip in fresh if vip in failures])
        return failures

    def delete(self, keys: Sequence[L4Addr]) -> Mapping[L4Addr, Failure]:
        """Remove entries and then their bits, and clear what was counted for their services."""
        failures = super().delete(keys)
        gone = [key for key in keys if key not in failures and key in self._known]
        numbers = {self._known.pop(key) for key in gone}
        self._filter.remove(gone)
        if numbers:
            empty = bytes(self._stats.value_size)
            for service_id in numbers - set(self._known.values()):
                self._stats.update(number(service_id), empty)
        return failures


class BackendTable:
    """Table `backends`: an array; a row is an entry with a protocol."""

    name = "backends"

    def __init__(self, state: MapOwner) -> None:
        self._map = state.maps[self.name]
        self._dtype = dtype_of(abi.BACKEND)
        self._seen: dict[tuple[int, bytes], BackendEntry] = {}

    def observe(self) -> Mapping[int, BackendEntry]:
        """Every backend there is."""
        try:
            rows = read_array(self._map, self._dtype)
        except LibbpfError as error:
            raise ObserveError(str(error)) from error
        seen, self._seen = self._seen, {}
        found: dict[int, BackendEntry] = {}
        for at in np.flatnonzero(rows["proto"]).tolist():
            key = at, rows[at].tobytes()
            entry = seen.get(key) or self._decode(key[1])
            self._seen[key] = found[at] = entry
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
        return self._write([(key, self._encode(value)) for key, value in batch])

    def delete(self, keys: Sequence[int]) -> Mapping[int, Failure]:
        """Clear entries."""
        return self._write([(key, bytes(abi.BACKEND.size)) for key in keys])

    def _write(self, rows: Sequence[tuple[int, bytes]]) -> dict[int, Failure]:
        if not rows:
            return {}
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


class KnownAddressTable(MapTable[IPAddress, KnownAddress]):
    """Table `known_addresses`."""

    name = "known_addresses"

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
        max_services=state.maps["service_stats"].info.max_entries - 1,
        max_backends=state.maps["backends"].info.max_entries - 1,
    )
