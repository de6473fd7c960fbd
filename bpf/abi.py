"""The Python side of bpf/include/abi.h: numbers, layouts, and the one hash of both worlds.

`Layout.pack` and `Layout.unpack` work on plain integers and octets; what they mean is the
drivers' matter. Nothing here is believed: tests/abi compares every enumerator, size and offset
with the DWARF of the compiled objects, and `dataplane.drivers.bpfstate` compares sizes when it
loads them.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum, IntFlag
from functools import cached_property
from pathlib import Path
from typing import Any

OBJECT_DIRECTORY = Path(__file__).parent / "obj"
"""Where `make -C bpf` puts the compiled objects."""


class Limit(IntEnum):
    """`enum limit`: sizes of maps, and the constants that nodes have to agree on.

    Equal numbers make aliases: iterate over `__members__`.
    """

    ABI_VERSION = 1
    MAGLEV_SIZE = 4093
    MAX_SERVICES = 16384
    MAX_VIPS = 65536
    MAX_BACKENDS = 65536
    MAX_FLOWS = 131072
    MAX_LOCAL_ADDRESSES = 4096
    MAX_TX_PORTS = 256
    MAX_XSK_QUEUES = 64
    MAX_REASONS = 64
    HASH_SEED = 0x6D72F10E
    PERF_HEAD = 64


class VipFlag(IntFlag):
    """`enum vip_flag`."""

    VIP_SNAT = 1
    VIP_NO_BACKEND = 2


class Place(IntEnum):
    """`enum place`."""

    PLACE_UNKNOWN = 0
    PLACE_LOCAL = 1
    PLACE_REMOTE = 2
    PLACE_HOST = 3


class CtFlag(IntFlag):
    """`enum ct_flag`."""

    CT_ESTABLISHED = 1
    CT_CLOSING = 2


class Reason(IntEnum):
    """`enum reason`: why a packet went where it went; the index of map `counters`."""

    REASON_UNUSED = 0
    PASS_ARP = 1
    PASS_LLDP = 2
    PASS_IPV4 = 3
    PASS_IPV6 = 4
    PASS_ND = 5
    XSK_ARP = 6
    XSK_IPV4 = 7
    XSK_IPV6 = 8
    XSK_VLAN = 9
    XSK_OTHER = 10
    XSK_MALFORMED = 11
    VIP_FORWARD = 12
    VIP_NEW = 13
    DROP_VIP_FRAGMENT = 14
    DROP_VIP_OPTIONS = 15
    DROP_VIP_TTL = 16
    DROP_VIP_MALFORMED = 17
    DROP_NO_GATEWAY = 18
    DROP_NO_BACKEND = 19
    DROP_NO_PORT = 20
    DROP_CONFLICT = 21
    DROP_CT_FULL = 22
    UPLINK_REPLY = 23
    SVC_REPLY = 24
    DROP_NO_TX_PORT = 25
    SVC_PASS_ARP = 26
    SVC_PASS_ICMP = 27
    SVC_UPLINK = 28
    DROP_SVC_NO_FLOW = 29
    DROP_SVC_MULTICAST = 30
    DROP_SVC_MALFORMED = 31
    DROP_SVC_FRAGMENT = 32


class Fields(dict[str, Any]):
    """A struct's fields by name: `int`, or `bytes` where the layout says octets."""


@dataclass(frozen=True)
class Layout:
    """One struct of abi.h: its fields in order, each with its `struct` code.

    Codes: `I`, `H`, `B`, `Q` are integers in host order; `be32` and `be16` octets and integers in
    network order (a `be32` is four octets, a `be16` a port number); `6s` and the like are octets.
    Padding is a field as well, named `pad`; it is written as zeros.
    """

    name: str
    fields: tuple[tuple[str, str], ...]

    @cached_property
    def _codec(self) -> struct.Struct:
        native = {"be32": "4s", "be16": "2s"}
        return struct.Struct("=" + "".join(native.get(code, code) for _, code in self.fields))

    @property
    def size(self) -> int:
        """Size of the struct [bytes]."""
        return self._codec.size

    def offsets(self) -> dict[str, int]:
        """The offset of each field [bytes]."""
        offsets, at = {}, 0
        for name, code in self.fields:
            offsets[name] = at
            at += struct.calcsize("=" + {"be32": "4s", "be16": "2s"}.get(code, code))
        return offsets

    def pack(self, **values: int | bytes) -> bytes:
        """The struct's octets; fields not named are zero.

        Raises:
            KeyError: a value is for no field of this struct.
        """
        row: list[int | bytes] = []
        for name, code in self.fields:
            value = values.pop(name, None)
            if value is None:
                row.append(b"" if code.endswith("s") or code.startswith("be") else 0)
            elif code == "be16":
                row.append(int(value).to_bytes(2, "big"))
            else:
                row.append(value)
        if values:
            msg = f"struct {self.name} has no field {', '.join(sorted(values))}"
            raise KeyError(msg)
        return self._codec.pack(*row)

    def unpack(self, octets: bytes) -> Fields:
        """The fields by name, as `pack` takes them."""
        row = self._codec.unpack(octets)
        return Fields(
            (name, int.from_bytes(value, "big") if code == "be16" else value)
            for (name, code), value in zip(self.fields, row, strict=True)
        )


VIP_KEY = Layout("vip_key", (("addr", "be32"), ("port", "be16"), ("proto", "B"), ("pad", "B")))
VIP = Layout("vip", (("service_id", "I"), ("flags", "I")))
BACKEND = Layout("backend", (("addr", "be32"), ("port", "be16"), ("proto", "B"), ("place", "B")))
MAGLEV_TABLE = Layout("maglev_table", (("slots", f"{4 * Limit.MAGLEV_SIZE}s"),))
FLOW_KEY = Layout(
    "flow_key",
    (
        ("saddr", "be32"),
        ("daddr", "be32"),
        ("sport", "be16"),
        ("dport", "be16"),
        ("proto", "B"),
        ("pad", "3s"),
    ),
)
FLOW_FORWARD = Layout(
    "flow_forward",
    (
        ("backend_addr", "be32"),
        ("source_addr", "be32"),
        ("backend_port", "be16"),
        ("source_port", "be16"),
        ("backend_id", "I"),
        ("flags", "I"),
        ("ip_delta", "H"),
        ("l4_delta", "H"),
        ("tick", "I"),
        ("pad", "I"),
        ("seen_ns", "Q"),
    ),
)
FLOW_REPLY = Layout(
    "flow_reply",
    (
        ("client_addr", "be32"),
        ("vip_addr", "be32"),
        ("client_port", "be16"),
        ("vip_port", "be16"),
        ("service_id", "I"),
        ("ifindex", "I"),
        ("flags", "I"),
        ("ip_delta", "H"),
        ("l4_delta", "H"),
        ("client_mac", "6s"),
        ("vip_mac", "6s"),
        ("tick", "I"),
        ("pad", "I"),
        ("seen_ns", "Q"),
    ),
)
LOCAL_ADDRESS = Layout("local_address", (("octets", "16s"),))
NODE = Layout(
    "node",
    (
        ("service_addr", "be32"),
        ("uplink_ifindex", "I"),
        ("service_mac", "6s"),
        ("gateway_mac", "6s"),
        ("uplink_mac", "6s"),
        ("valid", "B"),
        ("pad", "5s"),
    ),
)
COUNTER = Layout("counter", (("packets", "Q"), ("bytes", "Q")))
SERVICE_STATS = Layout(
    "service_stats",
    (
        ("forward_packets", "Q"),
        ("forward_bytes", "Q"),
        ("reply_packets", "Q"),
        ("reply_bytes", "Q"),
        ("new_flows", "Q"),
    ),
)
PERF_PLAN = Layout("perf_plan", (("head", f"{Limit.PERF_HEAD}s"), ("flows", "I"), ("next", "I")))

LAYOUTS = (
    VIP_KEY,
    VIP,
    BACKEND,
    MAGLEV_TABLE,
    FLOW_KEY,
    FLOW_FORWARD,
    FLOW_REPLY,
    LOCAL_ADDRESS,
    NODE,
    COUNTER,
    SERVICE_STATS,
    PERF_PLAN,
)

U32 = 4
"""Size of a key or value that is a plain number [bytes]."""


@dataclass(frozen=True, slots=True)
class MapShape:
    """What a pinned map must look like; `type` is the number of `enum bpf_map_type`."""

    type: int
    key_size: int
    value_size: int
    max_entries: int


_HASH, _ARRAY, _PERCPU_ARRAY, _LRU_HASH, _ARRAY_OF_MAPS, _DEVMAP_HASH = 1, 2, 6, 9, 12, 25

MAPS = {
    "vips": MapShape(_HASH, VIP_KEY.size, VIP.size, Limit.MAX_VIPS),
    "maglev": MapShape(_ARRAY_OF_MAPS, U32, U32, Limit.MAX_SERVICES),
    "backends": MapShape(_HASH, U32, BACKEND.size, Limit.MAX_BACKENDS),
    "ct_forward": MapShape(_LRU_HASH, FLOW_KEY.size, FLOW_FORWARD.size, Limit.MAX_FLOWS),
    "ct_reply": MapShape(_LRU_HASH, FLOW_KEY.size, FLOW_REPLY.size, Limit.MAX_FLOWS),
    "local_addresses": MapShape(_HASH, LOCAL_ADDRESS.size, U32, Limit.MAX_LOCAL_ADDRESSES),
    "node": MapShape(_ARRAY, U32, NODE.size, 1),
    "counters": MapShape(_PERCPU_ARRAY, U32, COUNTER.size, Limit.MAX_REASONS),
    "service_stats": MapShape(_PERCPU_ARRAY, U32, SERVICE_STATS.size, Limit.MAX_SERVICES),
    "tx_ports": MapShape(_DEVMAP_HASH, U32, U32, Limit.MAX_TX_PORTS),
}
"""The pinned maps of bpf/include/maps.h."""

_WORD = 0xFFFFFFFF


def _rotate(word: int, by: int) -> int:
    return (word << by | word >> (32 - by)) & _WORD


def flow_hash(saddr: int, sport: int, daddr: int, dport: int, protocol: int, seed: int) -> int:
    """The programs' hash of a 5-tuple (`flow_hash` of lb.h); all integers in host order.

    Source: Bob Jenkins, lookup3.c (public domain), four words.
    """
    a = b = c = (0xDEADBEEF + (4 << 2) + seed) & _WORD
    a = (a + saddr) & _WORD
    b = (b + daddr) & _WORD
    c = (c + (sport << 16 | dport)) & _WORD
    for by_a, by_b, by_c in ((4, 6, 8), (16, 19, 4)):
        a = ((a - c) & _WORD) ^ _rotate(c, by_a)
        c = (c + b) & _WORD
        b = ((b - a) & _WORD) ^ _rotate(a, by_b)
        a = (a + c) & _WORD
        c = ((c - b) & _WORD) ^ _rotate(b, by_c)
        b = (b + a) & _WORD
    a = (a + protocol) & _WORD
    c = ((c ^ b) - _rotate(b, 14)) & _WORD
    a = ((a ^ c) - _rotate(c, 11)) & _WORD
    b = ((b ^ a) - _rotate(a, 25)) & _WORD
    c = ((c ^ b) - _rotate(b, 16)) & _WORD
    a = ((a ^ c) - _rotate(c, 4)) & _WORD
    b = ((b ^ a) - _rotate(a, 14)) & _WORD
    return ((c ^ b) - _rotate(b, 24)) & _WORD


def maglev_slot(saddr: int, sport: int, daddr: int, dport: int, protocol: int) -> int:
    """The slot of the Maglev table that a new flow takes."""
    digest = flow_hash(saddr, sport, daddr, dport, protocol, Limit.HASH_SEED)
    return digest * Limit.MAGLEV_SIZE >> 32
