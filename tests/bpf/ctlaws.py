"""What holds of conntrack's tables when no packet is under way, computed from whole tables.

The hashes, the place of a word and the record that a port names are written here again, in numpy,
from what bpf/include/{abi,hash,ct,ct_family}.h say: a program that breaks its own rules in one
place, or follows other rules than another part expects, breaks a law.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bpf import abi
from bpf.abi import CtState, FlowFlag, Limit
from dataplane.drivers.libbpf import Map
from dataplane.drivers.mapbulk import read_array, write_array
from dataplane.model.addr import L4Addr

FILTER_FACTOR, FOLD_FACTOR = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xC2B2AE3D27D4EB4F)
DIRECT_PORT_MIN, SNAT_PORT_MIN = 16384, 1024
STRETCH_BITS = 14
CLAIMED = 2

_LAYOUTS = {4: abi.FLOW4, 6: abi.FLOW6}
_IN_MEMORY = {"be32": "=u4", "be16": "=u2", "16s": ("=u8", (2,))}
"""Addresses and ports as the programs load them: no octet is turned."""

SIDES = {
    "client": ("client", "vip", "client_port", "vip_port", "proto"),
    "reply": ("backend", "source", "backend_port", "source_port", "proto"),
}

Words = NDArray[np.uint64]


def _raw(layout: abi.Layout) -> np.dtype[Any]:
    fields: list[tuple[Any, ...]] = []
    for name, code in layout.fields:
        found = _IN_MEMORY.get(code, {"I": "=u4", "H": "=u2", "B": "u1"}.get(code))
        if found is None:
            found = ("u1", (int(code[:-1]),))
        fields.append((name, *found) if isinstance(found, tuple) else (name, found))
    return np.dtype(fields)


def _u64(value: Any) -> Words:
    return np.asarray(value).astype(np.uint64)


def _high(words: Words) -> Words:
    return words >> np.uint64(32)


def _mixed(words: Words) -> Words:
    words = (words ^ _high(words)) * FILTER_FACTOR
    return words ^ words >> np.uint64(29)


def tuple_hash(
    version: int, source: Any, target: Any, ports: Words, protocol: Words, seed: int
) -> Words:
    """tuple4_hash and tuple6_hash of ct.h, of many tuples.

    Args:
        version: 4 or 6.
        source: addresses as in memory: uint32[n], or uint64[n, 2].
        target: likewise.
        ports: uint64[n], source << 16 | target, as in memory.
        protocol: uint64[n].
        seed: uint32.
    """
    rest = ports ^ protocol << np.uint64(40)
    if version == 4:
        hashed = (_u64(source) << np.uint64(32) | _u64(target)) ^ np.uint64(seed << 16)
        hashed = hashed * FOLD_FACTOR
        return _mixed(((hashed ^ _high(hashed)) ^ rest) * FILTER_FACTOR)
    hashed = (source[:, 0] ^ np.uint64(seed)) * FOLD_FACTOR ^ source[:, 1]
    hashed = (hashed ^ _high(hashed)) * FILTER_FACTOR ^ target[:, 0]
    hashed = (hashed ^ hashed >> np.uint64(29)) * FOLD_FACTOR ^ target[:, 1]
    return _mixed(((hashed ^ _high(hashed)) ^ rest) * FILTER_FACTOR)


def direct(base: Words, port: Words, records: int) -> Words:
    """The record that a port names (ct?_direct); `records` is a mask of their numbers."""
    low = np.uint64((1 << STRETCH_BITS) - 1)
    mask = np.uint64(records)
    hashed = _high(base)
    step = (hashed | np.uint64(1)) << np.uint64(STRETCH_BITS)
    stretch = hashed + (port >> np.uint64(STRETCH_BITS)) * step
    return (stretch & mask & ~low) | ((base + port) & mask & low)


def again(records: NDArray[Any], names: Sequence[str]) -> NDArray[np.bool_]:
    """Whether records share these fields with another one."""
    octets = [
        np.ascontiguousarray(records[name]).view(np.uint8).reshape(len(records), size)
        for name in names
        for size in [records.dtype[name].itemsize]
    ]
    whole = np.ascontiguousarray(np.concatenate(octets, axis=1))
    tuples = whole.view(np.dtype((np.void, whole.shape[1]))).ravel()
    _, inverse, counts = np.unique(tuples, return_inverse=True, return_counts=True)
    found: NDArray[np.bool_] = counts[inverse.ravel()] > 1
    return found


def stretches(node: Mapping[str, Any], target: L4Addr) -> list[int]:
    """The numbers of the stretches that a backend's ports lead to, where clients are hidden."""
    version = target.address.version
    dtype, shape = (np.uint32, (1,)) if version == 4 else (np.uint64, (1, 2))
    source, ours = (
        np.frombuffer(octets, dtype).reshape(shape)
        for octets in (target.address.packed, node[f"service_addr{version}"])
    )
    ports = _u64([int.from_bytes(target.port.to_bytes(2, "big"), sys.byteorder) << 16])
    seed = ~int(node["ct_seed"]) & 0xFFFFFFFF
    base = tuple_hash(version, source, ours, ports, _u64([target.protocol]), seed)
    last = int(node[f"ct{version}_mask"]) * Limit.CT_WAYS + Limit.CT_WAYS - 1
    ports = _u64([high << STRETCH_BITS for high in (1, 2, 3)])
    found: list[int] = (direct(base, ports, last) >> np.uint64(STRETCH_BITS)).tolist()
    return found


@dataclass(frozen=True)
class Tables:
    """One family's tables, read while no program runs.

    Attributes:
        version: 4 or 6.
        node: the node's entry.
        records: every record, its addresses and ports as in memory.
        buckets: uint32[m, 16]: lock, spilled, words.
        replies: uint64[k, 8]: lock, words.
    """

    version: int
    node: abi.Fields
    records: NDArray[Any]
    buckets: NDArray[np.uint32]
    replies: Words

    @classmethod
    def read(cls, maps: Mapping[str, Map], version: int) -> Tables:
        """Copies of the tables."""
        name = f"ct{version}"
        node = abi.NODE.unpack(maps["node"].lookup(bytes(4)) or b"")
        whole = {
            "records": _raw(_LAYOUTS[version]),
            "buckets": np.dtype((np.uint32, (abi.INDEX_BUCKET.size // 4,))),
            "replies": np.dtype((np.uint64, (abi.REPLY_BUCKET.size // 8,))),
        }
        maps_of = {"records": name, "buckets": f"{name}_tags", "replies": f"{name}_replies"}
        return cls(
            version, node, **{key: read_array(maps[maps_of[key]], whole[key]) for key in whole}
        )

    # -- flows --------------------------------------------------------------------------------

    @cached_property
    def living(self) -> NDArray[np.intp]:
        """Numbers of the records that are flows, and whose time is not over."""
        timeouts = np.frombuffer(self.node["timeouts"], np.int32)
        idle = (np.uint32(self.node["tick"]) - self.records["seen"]).view(np.int32)
        state = self.records["state"] % CtState.CT_STATES
        alive = (self.records["life"] & 1).astype(bool) & (idle <= timeouts[state])
        return np.flatnonzero(alive)

    @cached_property
    def flows(self) -> NDArray[Any]:
        """Those records."""
        return self.records[self.living]

    def _hash(self, source: str, target: str, ports: Words, seed: int) -> Words:
        flows = self.flows
        return tuple_hash(
            self.version, flows[source], flows[target], ports, _u64(flows["proto"]), seed
        )

    @property
    def _seed(self) -> int:
        return int(self.node["ct_seed"])

    @property
    def last(self) -> int:
        """The last record's number: a mask."""
        return int(self.node[f"ct{self.version}_mask"]) * Limit.CT_WAYS + Limit.CT_WAYS - 1

    @cached_property
    def own_hash(self) -> Words:
        """Of the clients' tuples."""
        flows = self.flows
        ports = _u64(flows["client_port"]) << np.uint64(16) | _u64(flows["vip_port"])
        return self._hash("client", "vip", ports, self._seed)

    @property
    def first(self) -> Words:
        """The bucket that a flow's word is in if there is room."""
        return self.own_hash & np.uint64(self.node[f"ct{self.version}_mask"])

    @property
    def second(self) -> Words:
        """The bucket that it is in if not."""
        mask = np.uint64(self.node[f"ct{self.version}_mask"])
        return self.own_hash >> np.uint64(20) & mask

    @cached_property
    def ours(self) -> NDArray[np.bool_]:
        """Whose source address is one of ours: svc0's, or the one for this node's own kernel."""
        octets = [
            self.node[f"service_addr{self.version}"],
            (abi.HOST_SOURCE4 if self.version == 4 else abi.HOST_SOURCE6).packed,
        ]
        source = self.flows["source"]
        if self.version == 4:
            return np.isin(source, [int.from_bytes(o, sys.byteorder) for o in octets])
        each = [(source == np.frombuffer(o, np.uint64)).all(axis=1) for o in octets]
        found: NDArray[np.bool_] = np.logical_or(*each)
        return found

    def port(self, name: str) -> NDArray[np.int64]:
        """Ports of the flows as numbers."""
        return self.flows[name].byteswap().astype(np.int64)

    def flagged(self, flag: FlowFlag) -> NDArray[np.bool_]:
        """Whether flows have a flag."""
        found: NDArray[np.bool_] = (self.flows["flags"] & flag) != 0
        return found

    @cached_property
    def by_port(self) -> NDArray[np.bool_]:
        """Which flows a reply finds by its port alone."""
        dsr = self.flagged(FlowFlag.FLOW_DSR)
        return self.ours & (self.port("source_port") >= DIRECT_PORT_MIN) & ~dsr

    # -- laws ---------------------------------------------------------------------------------

    def broken(self) -> list[str]:
        """Each law that does not hold, with an example."""
        found: list[str] = []

        def law(claim: str, bad: NDArray[np.bool_], numbers: NDArray[Any]) -> None:
            if bad.any():
                some = ", ".join(map(str, numbers[bad][:4].tolist()))
                found.append(f"IPv{self.version}: {claim}: not of {bad.sum()}, as {some}")

        every = np.arange(len(self.records))
        claimed = (self.records["life"] & 3) == CLAIMED
        law("no record is claimed", claimed, every)
        law("no lock of a client's bucket is held", (self.buckets[:, 0] & 1) == 1,
            np.arange(len(self.buckets)))  # fmt: skip
        law("no lock of a reply's bucket is held", (self.replies[:, 0] & np.uint64(1)) == 1,
            np.arange(len(self.replies)))  # fmt: skip
        self._words(law, every)
        self._reply_words(law)
        self._tuples(law)
        self._ports(law)
        return found

    def _words(self, law: Any, every: NDArray[Any]) -> None:
        rows, ways = np.nonzero(self.buckets[:, 2:])
        words = self.buckets[rows, ways + 2]
        numbers = (words & np.uint32(self.last)).astype(np.intp)
        law("no record has two words", np.bincount(numbers, minlength=len(every)) > 1, every)
        law("no word names what never was a flow", self.records["life"][numbers] == 0, numbers)
        law("no word names what has none", self.records["wordless"][numbers] != 0, numbers)

        hashed, first, second = self.own_hash, self.first, self.second
        tag = (_high(hashed) & np.uint64(~self.last & 0xFFFFFFFF)) | np.uint64(self.last + 1)
        bucket_of, word_of = np.full(len(every), -1), np.zeros(len(every), np.uint64)
        bucket_of[numbers], word_of[numbers] = rows, words
        where = bucket_of[self.living]
        right = word_of[self.living] == (tag | _u64(self.living))
        in_first = where == first.astype(np.int64)
        spilled = self.buckets[first.astype(np.intp), 1] != 0
        in_second = (where == second.astype(np.int64)) & spilled
        away = first[in_second & ~in_first].astype(np.intp)
        law("a bucket counts what it has spilled",
            np.bincount(away, minlength=len(self.buckets)) > self.buckets[:, 1],
            np.arange(len(self.buckets)))  # fmt: skip
        law("a flow has a word", where < 0, self.living)
        law("its word has its tag", (where >= 0) & ~right, self.living)
        law("its word is in one of its buckets, and in the second only where the first says so",
            (where >= 0) & ~in_first & ~in_second, self.living)  # fmt: skip

    def _reply_words(self, law: Any) -> None:
        rows, ways = np.nonzero(self.replies[:, 1:])
        words = self.replies[rows, ways + 1]
        numbers = words & np.uint64(0xFFFFFFFF)
        once = np.unique(rows.astype(np.uint64) << np.uint64(32) | numbers, return_counts=True)
        law("no bucket of replies names a record twice", once[1] > 1, once[0])

        flows = self.flows
        worded = ~self.by_port & ~self.flagged(FlowFlag.FLOW_DSR)
        ports = _u64(flows["backend_port"]) << np.uint64(16) | _u64(flows["source_port"])
        hashed = self._hash("backend", "source", ports, ~self._seed & 0xFFFFFFFF)
        index = hashed & np.uint64(self.node[f"ct{self.version}_reply_mask"])
        wanted = (_high(hashed) | np.uint64(1)) << np.uint64(32) | _u64(self.living)
        count = (self.replies[index.astype(np.intp), 1:] == wanted[:, None]).sum(axis=1)
        law("a flow whose port does not name it has one word among the replies",
            worded & (count != 1), self.living)  # fmt: skip

    def _tuples(self, law: Any) -> None:
        for side, names in SIDES.items():
            rows = self.living
            if side == "reply":
                rows = rows[~self.flagged(FlowFlag.FLOW_DSR)]
            law(f"no two flows have one {side}'s tuple", again(self.records[rows], names), rows)

    def _ports(self, law: Any) -> None:
        flows, port = self.flows, self.port("source_port")
        kept = self.flagged(FlowFlag.FLOW_NO_SNAT)
        base = self._hash(
            "backend", "source", _u64(flows["backend_port"]) << np.uint64(16),
            ~self._seed & 0xFFFFFFFF,
        )  # fmt: skip
        number = direct(base, _u64(port), self.last)
        law("a port from 16,384 on names its record",
            self.by_port & (number != _u64(self.living)), self.living)  # fmt: skip
        same = flows["source"] == flows["client"]
        same = same if self.version == 4 else same.all(axis=1)
        own = self.port("client_port")
        dsr = self.flagged(FlowFlag.FLOW_DSR)
        law("a client that is kept is kept with its port",
            kept & ~(same & (port == own)), self.living)  # fmt: skip
        snat = ~kept & ~dsr
        law("every other flow comes from an address of ours", snat & ~self.ours, self.living)
        law("ports below 1,024 are the clients' own",
            snat & (port < SNAT_PORT_MIN) & (port != own), self.living)  # fmt: skip


def broken(maps: Mapping[str, Map]) -> list[str]:
    """The laws that do not hold of a node's conntrack, of either family."""
    return [claim for version in (4, 6) for claim in Tables.read(maps, version).broken()]


def write_records(maps: Mapping[str, Map], tables: Tables) -> None:
    """Put a family's records there as they are in `tables`, while no program runs."""
    write_array(maps[f"ct{tables.version}"], tables.records)


def twins(maps: Mapping[str, Map], version: int, side: str) -> int:
    """How many flows shared a side's tuple while programs may have run: alive at the same time.

    What had the same odd life in two pictures was that flow in between.
    """
    one, two = (Tables.read(maps, version).records for _ in range(2))
    same = (one["life"] == two["life"]) & ((one["life"] & 1) == 1)
    return int(again(two[same], SIDES[side]).sum())
