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
from ipaddress import IPv4Address, IPv6Address
from typing import Any


class Limit(IntEnum):
    """`enum limit`: sizes of maps, and the constants that nodes have to agree on.

    Equal numbers make aliases: iterate over `__members__`.
    """

    ABI_VERSION = 3
    CT_WAYS = 8
    INDEX_WAYS = 14
    REPLY_WAYS = 7
    PICK_SLOTS = 65536
    LIST_MAX = 128
    FILTER_BITS = 2097152
    FILTER_BLOCK_BITS = 512
    LOCAL4_INLINE = 8
    MAX_SERVICES = 16384
    MAX_VIPS = 65536
    MAX_BACKENDS = 131072
    MAX_MEMBERS = 524288
    MAX_TABLES = 8
    MAX_FLOW_SLOTS = 262144
    MAX_AFFINITIES = 65536
    MAX_SOURCE_RANGES = 16384
    MAX_FRAGMENTS = 8192
    MAX_KNOWN_ADDRESSES = 65536
    MAX_TX_PORTS = 256
    MAX_XSK_QUEUES = 64
    MAX_REASONS = 128
    MAX_SWEEP_ENDS = 65536
    MAX_ADOPTIONS = 2048
    MAX_SOCK_REVERSE = 65536
    MAX_CONNECTED = 262144
    PICK_SEED = 0x6D72F10E
    PERF_HEAD = 80
    HOST_SOURCE4_HIGH = 0xA9FE
    HOST_SOURCE4_LOW = 0x6D73
    HOST_SOURCE6_FIRST = 0xFD6D
    HOST_SOURCE6_SECOND = 0x7273
    HOST_SOURCE6_LAST = 3
    SNAT_PORT_MIN = 1024
    DIRECT_PORT_MIN = 16384


class VipFlag(IntFlag):
    """`enum vip_flag`."""

    VIP_SNAT = 1
    VIP_LOCAL = 2
    VIP_INNER_LOCAL = 4
    VIP_REJECT = 8
    VIP_SOURCE_RANGES = 16
    VIP_AFFINITY = 32
    VIP_DSR = 64
    VIP_INNER_SNAT = 128
    VIP_HOSTS = 256


class Place(IntEnum):
    """`enum place`."""

    PLACE_UNKNOWN = 0
    PLACE_LOCAL = 1
    PLACE_REMOTE = 2
    PLACE_HOST = 3
    PLACE_OTHER_HOST = 4


class SetMode(IntEnum):
    """`enum set_mode`."""

    SET_EMPTY = 0
    SET_LIST = 1
    SET_WEIGHTED = 2
    SET_TABLE = 3


class AddressFlag(IntFlag):
    """`enum address_flag`."""

    ADDRESS_LOCAL = 1
    ADDRESS_OWNED = 2
    ADDRESS_VIP = 4


class CtState(IntEnum):
    """`enum ct_state`: the state of a flow, the index of `node.timeouts`."""

    CT_SYN = 0
    CT_SYN_ACK = 1
    CT_MIDDLE = 2
    CT_ESTABLISHED = 3
    CT_FIN = 4
    CT_TIME_WAIT = 5
    CT_RESET = 6
    CT_UDP_ONE_WAY = 7
    CT_UDP = 8
    CT_SCTP_NEW = 9
    CT_SCTP = 10
    CT_SCTP_SHUTDOWN = 11
    CT_UDP_ANSWERED = 12
    CT_STATES = 16


class FlowFlag(IntFlag):
    """`enum flow_flag`."""

    FLOW_DSR = 1
    FLOW_INNER = 2
    FLOW_CLIENT_FIN = 4
    FLOW_BACKEND_FIN = 8
    FLOW_NO_SNAT = 16
    FLOW_HANDED = 32
    FLOW_HOST = 64


class SweepSide(IntEnum):
    """`enum sweep_side`: what of a flow a sweep looks up."""

    SWEEP_VIP = 0
    SWEEP_VIP_ADDRESS = 1
    SWEEP_BACKEND = 2
    SWEEP_BACKEND_ADDRESS = 3
    SWEEP_CLIENT = 4
    SWEEP_CLIENT_ADDRESS = 5
    SWEEP_SERVICE_VIP = 6
    SWEEP_SERVICE_BACKEND = 7
    SWEEP_SERVICE_MAC = 8


class SweepFlag(IntFlag):
    """`enum sweep_flag`."""

    SWEEP_END = 1
    SWEEP_EVERY_SIDE = 2


class AdoptFlag(IntFlag):
    """`enum adopt_flag`."""

    ADOPT_END = 1
    ADOPT_ANYWHERE = 2


class SockFlag(IntFlag):
    """`enum sock_flag`."""

    SOCK_CONNECTED = 1
    SOCK_MORE = 2


class TrafficWay(IntEnum):
    """`enum traffic_way`."""

    TRAFFIC_FORWARD = 0
    TRAFFIC_REPLY = 1
    TRAFFIC_WAYS = 2


class SockSide(IntEnum):
    """`enum sock_side`."""

    SOCK_BY_VIP = 0
    SOCK_BY_BACKEND = 1


class NodeFlag(IntFlag):
    """`enum node_flag`."""

    NODE_VALID4 = 1
    NODE_VALID6 = 2
    NODE_MORE_LOCAL4_UNUSED = 4
    NODE_FIXED_CLOCK = 8
    NODE_CARRIED = 16
    NODE_CARRYING = 32


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
    VIP_DIRECT = 33
    VIP_FRAGMENT = 34
    UPLINK_ICMP_ERROR = 35
    SVC_ICMP_ERROR = 36
    SVC_FRAGMENT = 37
    SVC_FORWARD = 38
    SVC_NEW = 39
    ANSWER_ARP = 40
    ANSWER_ND = 41
    ANSWER_ECHO = 42
    ANSWER_RST = 43
    ANSWER_UNREACHABLE = 44
    ANSWER_TOO_BIG = 45
    ANSWER_TTL = 46
    DROP_SOURCE_RANGE = 47
    DROP_NO_LOCAL = 48
    DROP_FRAGMENT_MISS = 49
    DROP_CT_BUSY = 50
    DROP_VIP_PORT = 51
    DROP_EXTENSION = 52
    SVC_PASS_ND = 53
    PASS_VLAN = 54
    SOCK_CONNECT = 55
    SOCK_NEW = 56
    SOCK_FORWARD = 57
    SOCK_REPLY = 58
    DROP_SOCK_NO_BACKEND = 59
    DROP_SOCK_NO_LOCAL = 60
    DROP_ANSWER_LIMIT = 61
    DROP_TOO_BIG = 62
    HOST_REPLY = 63
    HOST_FRAGMENT = 64
    HOST_ICMP_ERROR = 65


HOST_SOURCE4 = IPv4Address(Limit.HOST_SOURCE4_HIGH << 16 | Limit.HOST_SOURCE4_LOW)
HOST_SOURCE6 = IPv6Address(
    (Limit.HOST_SOURCE6_FIRST << 16 | Limit.HOST_SOURCE6_SECOND) << 96 | Limit.HOST_SOURCE6_LAST
)
"""Clients behind OVN, as this node's own kernel sees them."""


class Event(IntEnum):
    """`enum event`: what is counted beside the packets' fates; an index of `counters`, too."""

    EVENT_EVICTED = 126
    EVENT_EVICTED_REPLY = 127


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


VIP_KEY = Layout(
    "vip_key",
    (
        ("addr", "16s"),
        ("port", "be16"),
        ("proto", "B"),
        ("pad", "B"),
    ),
)
VIP = Layout(
    "vip",
    (
        ("service_id", "I"),
        ("flags", "I"),
        ("affinity_ticks", "I"),
        ("pad", "I"),
    ),
)
SET = Layout(
    "set",
    (
        ("first", "I"),
        ("count", "H"),
        ("mode", "B"),
        ("pad", "B"),
    ),
)
MEMBER = Layout(
    "member",
    (
        ("backend_id", "I"),
        ("key", "I"),
    ),
)
BACKEND = Layout(
    "backend",
    (
        ("addr", "16s"),
        ("port", "be16"),
        ("proto", "B"),
        ("place", "B"),
        ("mtu", "H"),
        ("mac", "6s"),
        ("pad", "I"),
    ),
)
SOURCE_RANGE = Layout(
    "source_range",
    (
        ("prefix_length", "I"),
        ("service_id", "I"),
        ("addr", "16s"),
    ),
)
AFFINITY_KEY = Layout(
    "affinity_key",
    (
        ("service_id", "I"),
        ("client", "16s"),
    ),
)
AFFINITY = Layout(
    "affinity",
    (
        ("backend_id", "I"),
        ("seen", "I"),
    ),
)
INDEX_BUCKET = Layout(
    "index_bucket",
    (
        ("lock", "I"),
        ("spilled", "I"),
        ("words", f"{4 * Limit.INDEX_WAYS}s"),
    ),
)
REPLY_BUCKET = Layout(
    "reply_bucket",
    (
        ("lock", "I"),
        ("pad", "I"),
        ("words", f"{8 * Limit.REPLY_WAYS}s"),
    ),
)
FLOW4 = Layout(
    "flow4",
    (
        ("life", "I"),
        ("seen", "I"),
        ("client", "be32"),
        ("vip", "be32"),
        ("client_port", "be16"),
        ("vip_port", "be16"),
        ("proto", "B"),
        ("state", "B"),
        ("flags", "B"),
        ("wordless", "B"),
        ("backend", "be32"),
        ("source", "be32"),
        ("backend_port", "be16"),
        ("source_port", "be16"),
        ("ip_delta", "H"),
        ("l4_delta", "H"),
        ("service_id", "I"),
        ("mtu", "H"),
        ("ifindex", "H"),
        ("client_mac", "6s"),
        ("vip_mac", "6s"),
        ("vlan", "4s"),
    ),
)
FLOW6 = Layout(
    "flow6",
    (
        ("life", "I"),
        ("seen", "I"),
        ("client", "16s"),
        ("vip", "16s"),
        ("client_port", "be16"),
        ("vip_port", "be16"),
        ("proto", "B"),
        ("state", "B"),
        ("flags", "B"),
        ("wordless", "B"),
        ("backend", "16s"),
        ("source", "16s"),
        ("backend_port", "be16"),
        ("source_port", "be16"),
        ("pad2", "H"),
        ("l4_delta", "H"),
        ("service_id", "I"),
        ("mtu", "H"),
        ("ifindex", "H"),
        ("client_mac", "6s"),
        ("vip_mac", "6s"),
        ("vlan", "4s"),
        ("pad3", "16s"),
    ),
)
FRAGMENT_KEY = Layout(
    "fragment_key",
    (
        ("saddr", "16s"),
        ("daddr", "16s"),
        ("id", "I"),
        ("proto", "B"),
        ("pad", "3s"),
    ),
)
FRAGMENT = Layout(
    "fragment",
    (
        ("flow", "I"),
        ("life", "I"),
        ("seen", "I"),
        ("reply", "B"),
        ("pad", "3s"),
    ),
)
SOCK_PEER = Layout(
    "sock_peer",
    (
        ("vip", "16s"),
        ("backend", "16s"),
        ("vip_port", "be16"),
        ("backend_port", "be16"),
        ("backend_id", "I"),
        ("service_id", "I"),
        ("proto", "B"),
        ("flags", "B"),
        ("pad", "2s"),
    ),
)
SOCK_KEY = Layout(
    "sock_key",
    (
        ("cookie", "Q"),
        ("addr", "16s"),
        ("port", "be16"),
        ("side", "B"),
        ("pad", "5s"),
    ),
)
KNOWN_ADDRESS = Layout(
    "known_address",
    (("octets", "16s"),),
)
NODE = Layout(
    "node",
    (
        ("flags", "I"),
        ("tick", "I"),
        ("ct_seed", "I"),
        ("pick_seed", "I"),
        ("ct4_mask", "I"),
        ("ct4_reply_mask", "I"),
        ("ct6_mask", "I"),
        ("ct6_reply_mask", "I"),
        ("service_addr4", "be32"),
        ("uplink_ifindex", "I"),
        ("svc_ifindex", "I"),
        ("service_mac", "6s"),
        ("gateway_mac", "6s"),
        ("uplink_mac", "6s"),
        ("pad", "2s"),
        ("service_addr6", "16s"),
        ("local4", f"{4 * Limit.LOCAL4_INLINE}s"),
        ("timeouts", f"{4 * CtState.CT_STATES}s"),
    ),
)
COUNTER = Layout(
    "counter",
    (
        ("packets", "Q"),
        ("bytes", "Q"),
    ),
)
SERVICE_EVENTS = Layout(
    "service_events",
    (
        ("new_flows", "Q"),
        ("drops_no_backend", "Q"),
        ("drops_source_range", "Q"),
        ("drops_no_port", "Q"),
        ("drops_full", "Q"),
        ("drops_other", "Q"),
    ),
)
SWEEP_KEY = Layout(
    "sweep_key",
    (
        ("addr", "16s"),
        ("service_id", "I"),
        ("port", "be16"),
        ("proto", "B"),
        ("side", "B"),
    ),
)
SWEEP = Layout(
    "sweep",
    (
        ("first", "I"),
        ("count", "I"),
        ("flags", "I"),
        ("sides", "I"),
        ("states", "I"),
        ("proto", "I"),
        ("tick", "I"),
        ("ended", "I"),
        ("live", f"{4 * CtState.CT_STATES}s"),
    ),
)
ADOPTION = Layout(
    "adoption",
    (
        ("flow", f"{FLOW6.size}s"),
        ("family", "I"),
        ("orders", "I"),
        ("reason", "I"),
        ("number", "I"),
    ),
)
ADOPT = Layout(
    "adopt",
    (
        ("count", "I"),
        ("refused", "I"),
    ),
)
TIDY = Layout(
    "tidy",
    (
        ("first", "I"),
        ("count", "I"),
        ("cleared", "I"),
    ),
)
PERF_PLAN = Layout(
    "perf_plan",
    (
        ("head", f"{Limit.PERF_HEAD}s"),
        ("flows", "I"),
        ("next", "I"),
        ("services", "I"),
        ("stride", "I"),
    ),
)
PERF_FLOOR_KEY = Layout(
    "perf_floor_key",
    (
        ("vip", "be32"),
        ("port", "be16"),
        ("proto", "B"),
        ("pad", "B"),
    ),
)
PERF_FLOOR = Layout(
    "perf_floor",
    (
        ("backend", "be32"),
        ("port", "be16"),
        ("mac", "6s"),
    ),
)

LAYOUTS = (
    VIP_KEY,
    VIP,
    SET,
    MEMBER,
    BACKEND,
    SOURCE_RANGE,
    AFFINITY_KEY,
    AFFINITY,
    INDEX_BUCKET,
    REPLY_BUCKET,
    FLOW4,
    FLOW6,
    FRAGMENT_KEY,
    FRAGMENT,
    SOCK_PEER,
    SOCK_KEY,
    KNOWN_ADDRESS,
    NODE,
    COUNTER,
    SERVICE_EVENTS,
    SWEEP_KEY,
    SWEEP,
    ADOPTION,
    ADOPT,
    TIDY,
    PERF_PLAN,
    PERF_FLOOR_KEY,
    PERF_FLOOR,
)

U32, U64 = 4, 8
"""Sizes of keys and values that are plain numbers [bytes]."""


@dataclass(frozen=True, slots=True)
class MapShape:
    """What a pinned map must look like; `type` is the number of `enum bpf_map_type`."""

    type: int
    key_size: int
    value_size: int
    max_entries: int


_HASH, _ARRAY, _PERCPU_ARRAY, _LRU_HASH, _LPM_TRIE, _DEVMAP_HASH = 1, 2, 6, 9, 11, 25
_SK_STORAGE = 24

_BUCKETS = Limit.MAX_FLOW_SLOTS // Limit.CT_WAYS
_REPLY_BUCKETS = Limit.MAX_FLOW_SLOTS // 2

MAPS = {
    "vips": MapShape(_HASH, VIP_KEY.size, VIP.size, Limit.MAX_VIPS),
    "vip_bits": MapShape(_ARRAY, U32, U64, Limit.FILTER_BITS // 64),
    "sets": MapShape(_ARRAY, U32, SET.size, 2 * Limit.MAX_SERVICES),
    "members": MapShape(_ARRAY, U32, MEMBER.size, Limit.MAX_MEMBERS),
    "tables": MapShape(_ARRAY, U32, U32, Limit.MAX_TABLES * Limit.PICK_SLOTS),
    "backends": MapShape(_ARRAY, U32, BACKEND.size, Limit.MAX_BACKENDS),
    "source_ranges": MapShape(_LPM_TRIE, SOURCE_RANGE.size, U32, Limit.MAX_SOURCE_RANGES),
    "affinities": MapShape(_LRU_HASH, AFFINITY_KEY.size, AFFINITY.size, Limit.MAX_AFFINITIES),
    "ct4": MapShape(_ARRAY, U32, FLOW4.size, Limit.MAX_FLOW_SLOTS),
    "ct4_tags": MapShape(_ARRAY, U32, INDEX_BUCKET.size, _BUCKETS),
    "ct4_replies": MapShape(_ARRAY, U32, REPLY_BUCKET.size, _REPLY_BUCKETS),
    "ct6": MapShape(_ARRAY, U32, FLOW6.size, Limit.MAX_FLOW_SLOTS),
    "ct6_tags": MapShape(_ARRAY, U32, INDEX_BUCKET.size, _BUCKETS),
    "ct6_replies": MapShape(_ARRAY, U32, REPLY_BUCKET.size, _REPLY_BUCKETS),
    "fragments": MapShape(_LRU_HASH, FRAGMENT_KEY.size, FRAGMENT.size, Limit.MAX_FRAGMENTS),
    "sock_peers": MapShape(_SK_STORAGE, U32, SOCK_PEER.size, 0),
    "sock_reverse": MapShape(_LRU_HASH, SOCK_KEY.size, SOCK_PEER.size, Limit.MAX_SOCK_REVERSE),
    "known_addresses": MapShape(_HASH, KNOWN_ADDRESS.size, U32, Limit.MAX_KNOWN_ADDRESSES),
    "address_bits": MapShape(_ARRAY, U32, U64, Limit.FILTER_BITS // 64),
    "node": MapShape(_ARRAY, U32, NODE.size, 1),
    "counters": MapShape(_PERCPU_ARRAY, U32, COUNTER.size, Limit.MAX_REASONS),
    "service_events": MapShape(_PERCPU_ARRAY, U32, SERVICE_EVENTS.size, Limit.MAX_SERVICES),
    "service_traffic": MapShape(
        _ARRAY, U32, COUNTER.size, TrafficWay.TRAFFIC_WAYS * Limit.MAX_SERVICES
    ),
    "tx_ports": MapShape(_DEVMAP_HASH, U32, U32, Limit.MAX_TX_PORTS),
}
"""The pinned maps of bpf/include/maps.h, with their default sizes; TRAFFIC's is that of one CPU."""

EVENTS, TRAFFIC = "service_events", "service_traffic"
"""What is counted for services; TRAFFIC has its elements once for each possible CPU."""

TRAFFIC_SERVICES = ".rodata.services"
"""The section of the constant by which programs know how many services TRAFFIC has room for."""


def sizes_by_service(services: int) -> dict[str, int]:
    """Entries of the maps in which services are counted; of TRAFFIC, those of one CPU."""
    return {EVENTS: services, TRAFFIC: int(TrafficWay.TRAFFIC_WAYS) * services}
