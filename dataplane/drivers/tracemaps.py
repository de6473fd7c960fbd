"""What one node's maps say to a packet's questions, entry by entry, as the programs ask them.

Source of the functions that are here in Python again: bpf/include/{flows,pick,hash}.h.
"""

from __future__ import annotations

import struct
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address

from bpf import abi, pick
from bpf.abi import AddressFlag, SetMode
from dataplane.drivers.libbpf import Map
from dataplane.drivers.sweeps import packed
from dataplane.model.addr import IPAddress, Protocol
from dataplane.model.conntrack import Endpoint


@dataclass(frozen=True, slots=True)
class Question:
    """A packet: a TCP one is a SYN. `inside`: it comes in by svc0, from a client behind OVN."""

    protocol: Protocol
    client: Endpoint
    vip: Endpoint
    inside: bool = False


@dataclass(frozen=True, slots=True)
class Members:
    """A set: its members, or the number of the table that has them by slot.

    `local`: it is the set of this node's own backends.
    """

    listed: tuple[pick.Candidate, ...] = ()
    table: int | None = None
    weighted: bool = False
    local: bool = False

    def __bool__(self) -> bool:
        return bool(self.listed) or self.table is not None


class NodeMaps:
    """One node's maps; `tick` is the programs' clock."""

    def __init__(self, maps: Mapping[str, Map], tick: Callable[[], int]) -> None:
        self._maps = maps
        self._tick = tick

    def _lookup(self, name: str, key: bytes) -> bytes | None:
        return self._maps[name].lookup(key)

    def _at(self, name: str, index: int) -> bytes:
        return self._lookup(name, struct.pack("=I", index)) or b""

    def node(self) -> abi.Fields:
        """The node's entry."""
        return abi.NODE.unpack(self._at("node", 0))

    def may_be_vip(self, asked: Question) -> bool:
        """Whether the filter's bit is set."""
        bit = pick.filter_bit(
            asked.vip.address.packed, asked.vip.port or 0, asked.protocol, sys.byteorder
        )
        word = int.from_bytes(self._at("vip_bits", bit // 64), sys.byteorder)
        return bool(word >> bit % 64 & 1)

    def vip(self, asked: Question) -> abi.Fields | None:
        """The service that the packet is sent to."""
        key = abi.VIP_KEY.pack(
            addr=packed(asked.vip.address), port=asked.vip.port or 0, proto=asked.protocol
        )
        octets = self._lookup("vips", key)
        return None if octets is None else abi.VIP.unpack(octets)

    def address_flags(self, address: IPAddress) -> AddressFlag:
        """Whose an address is."""
        octets = self._lookup("known_addresses", packed(address))
        flags = AddressFlag(int.from_bytes(octets, sys.byteorder) if octets else 0)
        node = self.node()
        if address.version == 4:
            inline = [node["local4"][at : at + 4] for at in range(0, len(node["local4"]), 4)]
            if address.packed in inline:
                flags |= AddressFlag.ADDRESS_LOCAL
        return flags

    def admits(self, service_id: int, client: IPAddress) -> bool:
        """Whether a client is in one of a service's source ranges."""
        key = abi.SOURCE_RANGE.pack(prefix_length=160, service_id=service_id, addr=packed(client))
        return self._lookup("source_ranges", key) is not None

    def members(self, service_id: int, *, local: bool) -> Members:
        """One of a service's two sets."""
        entry = abi.SET.unpack(self._at("sets", 2 * service_id + local))
        mode, first = SetMode(entry["mode"]), entry["first"]
        if mode is SetMode.SET_EMPTY:
            return Members()
        if mode is SetMode.SET_TABLE:
            return Members(table=first, local=local)
        weighted = mode is SetMode.SET_WEIGHTED
        members = []
        for number in range(entry["count"]):
            at = first + number * (2 if weighted else 1)
            member = abi.MEMBER.unpack(self._at("members", at))
            weight = abi.MEMBER.unpack(self._at("members", at + 1))["key"] if weighted else 1
            members.append(pick.Candidate(member["key"], member["backend_id"], weight))
        return Members(tuple(members), weighted=weighted, local=local)

    def may_have(self, members: Members, backend_id: int) -> bool:
        """Whether affinity to a backend holds: it is a member.

        The programs do not look through a table: what is bound to a removed backend is removed
        from `affinities` when the backend is. But the set of this node's own has no other node's.
        """
        if members.table is None:
            return backend_id in {one.backend_id for one in members.listed}
        place = abi.BACKEND.unpack(self._at("backends", backend_id))["place"]
        return not members.local or place in (abi.Place.PLACE_LOCAL, abi.Place.PLACE_HOST)

    def slot_of(self, asked: Question, *, affine: bool) -> int:
        """The slot that a packet falls into; under affinity its client."""
        seed, client = self.node()["pick_seed"], asked.client
        if affine:
            none: IPAddress = IPv4Address(0) if client.address.version == 4 else IPv6Address(0)
            return pick.flow_slot(client.address, 0, none, 0, asked.protocol, seed)
        ports = client.port or 0, asked.vip.port or 0
        return pick.flow_slot(
            client.address, ports[0], asked.vip.address, ports[1], asked.protocol, seed
        )

    def picked(self, members: Members, slot: int) -> int:
        """The number of the backend that a slot goes to."""
        if members.table is None:
            return pick.pick(slot, members.listed)
        words = self._at("tables", members.table * abi.Limit.PICK_SLOTS + slot)
        return int.from_bytes(words, sys.byteorder)

    def bound_to(self, vip: abi.Fields, client: IPAddress) -> int:
        """The number of the backend that a client is bound to; 0: to none, or not any more."""
        key = abi.AFFINITY_KEY.pack(service_id=vip["service_id"], client=packed(client))
        octets = self._lookup("affinities", key)
        if octets is None:
            return 0
        entry = abi.AFFINITY.unpack(octets)
        idle = (self._tick() - entry["seen"]) & 0xFFFFFFFF
        return 0 if vip["affinity_ticks"] < idle < 1 << 31 else int(entry["backend_id"])

    def backend(self, number: int) -> abi.Fields | None:
        """A backend by number."""
        octets = self._at("backends", number) if number else b""
        backend = abi.BACKEND.unpack(octets) if octets else None
        return backend if backend is not None and backend["proto"] else None


def unpacked(octets: bytes) -> IPAddress:
    """The address of 16 octets."""
    if octets[:12] == bytes(10) + b"\xff\xff":
        return IPv4Address(octets[12:])
    return IPv6Address(octets)
