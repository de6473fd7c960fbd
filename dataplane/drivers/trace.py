"""What the fast path would do with a packet, step by step: read from the maps, changing nothing.

The decisions are those of bpf/progs/uplink.bpf.c and svc.bpf.c for the first packet of a flow (TCP:
a SYN), or for the next one of a flow that is there. What a packet can have beside its tuple (TTL,
options, fragments, tags) is not asked. A test lets the programs decide the same questions.
"""

from __future__ import annotations

import struct
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address

from bpf import abi, pick
from bpf.abi import (
    AddressFlag,
    FlowFlag,
    NodeFlag,
    Place,
    Reason,
    SetMode,
    VipFlag,
)
from dataplane.drivers.conntrack import Flow
from dataplane.drivers.libbpf import Map
from dataplane.drivers.sweeps import packed
from dataplane.model.addr import IPAddress, Protocol
from dataplane.model.conntrack import Endpoint, FlowState

_PLACES = {
    Place.PLACE_LOCAL: "on this node",
    Place.PLACE_REMOTE: "on another node",
    Place.PLACE_HOST: "in a host's own network",
    Place.PLACE_UNKNOWN: "at a place that OVN does not know",
}
_REOPENED = frozenset({FlowState.FIN, FlowState.TIME_WAIT, FlowState.RESET})
"""TCP states in which a SYN begins a new flow."""


@dataclass(frozen=True, slots=True)
class Question:
    """A packet: a TCP one is a SYN. `inside`: it comes in by svc0, from a client behind OVN."""

    protocol: Protocol
    client: Endpoint
    vip: Endpoint
    inside: bool = False


@dataclass(frozen=True, slots=True)
class KnownFlow:
    """What conntrack holds of the packet's flow."""

    state: FlowState
    flags: FlowFlag
    backend: Endpoint
    source: Endpoint
    idle: int

    @classmethod
    def of(cls, flow: Flow) -> KnownFlow:
        """Of a flow that was listed."""
        return cls(flow.state, flow.flags, flow.backend, flow.source, flow.idle)


FindFlow = Callable[[Question], KnownFlow | None]
PortInUse = Callable[[Protocol, Endpoint, Endpoint], bool]
"""Whether a flow has (backend, our side) as its reply tuple already."""


@dataclass(frozen=True, slots=True)
class Step:
    """One thing that was looked at, and what came of it."""

    name: str
    found: str


@dataclass(frozen=True, slots=True)
class Trace:
    """The way of a packet. `reason` is what the program would count.

    `source` is None where the client's own port is taken: the program then takes another by hash.
    """

    steps: tuple[Step, ...]
    reason: Reason
    new: bool = False
    backend: Endpoint | None = None
    backend_id: int = 0
    source: Endpoint | None = None
    next_hop: str = ""


class _Way:
    """The steps so far."""

    def __init__(self) -> None:
        self._steps: list[Step] = []

    def step(self, name: str, found: str) -> None:
        self._steps.append(Step(name, found))

    def end(self, reason: Reason, why: str, **rest: object) -> Trace:
        self.step("verdict", f"{reason.name}: {why}")
        return Trace(tuple(self._steps), reason, **rest)  # type: ignore[arg-type]


def _mac(octets: bytes) -> str:
    return ":".join(f"{octet:02x}" for octet in octets)


class Tracer:
    """Answers questions from one node's maps.

    Args:
        maps: the pinned maps by name.
        find_flow: conntrack, by the client's tuple.
        port_in_use: conntrack, by the backend's.
        tick: the programs' clock.
    """

    def __init__(
        self,
        maps: Mapping[str, Map],
        find_flow: FindFlow,
        port_in_use: PortInUse,
        tick: Callable[[], int],
    ) -> None:
        self._maps = maps
        self._find_flow = find_flow
        self._port_in_use = port_in_use
        self._tick = tick

    def trace(self, asked: Question) -> Trace:
        """What the program that the packet meets first would do."""
        way = _Way()
        node = self._node()
        vip = self._vip(asked, way)
        if vip is None:
            return self._of_no_service(asked, way, node)
        valid = NodeFlag.NODE_VALID6 if asked.vip.address.version == 6 else NodeFlag.NODE_VALID4
        if not node["flags"] & valid:
            return way.end(
                Reason.DROP_NO_GATEWAY, "this node's gateway router of the family is not known"
            )
        known = self._find_flow(asked)
        if known is not None and not (asked.protocol is Protocol.TCP and known.state in _REOPENED):
            return self._known(asked, known, way, node)
        if known is None:
            way.step("flow", "none: the first packet of a new one")
        else:
            way.step("flow", f"one that is over ({known.state.text}): a SYN begins a new one")
        return self._new(asked, vip, way, node)

    # -- what the maps say --------------------------------------------------------------------

    def _lookup(self, name: str, key: bytes) -> bytes | None:
        return self._maps[name].lookup(key)

    def _at(self, name: str, index: int) -> bytes:
        return self._lookup(name, struct.pack("=I", index)) or b""

    def _node(self) -> abi.Fields:
        return abi.NODE.unpack(self._at("node", 0))

    def _filter_bit(self, asked: Question) -> bool:
        bit = pick.filter_bit(
            asked.vip.address.packed, asked.vip.port or 0, asked.protocol, sys.byteorder
        )
        word = int.from_bytes(self._at("vip_filter", bit // 64), sys.byteorder)
        return bool(word >> bit % 64 & 1)

    def _vip(self, asked: Question, way: _Way) -> abi.Fields | None:
        if not self._filter_bit(asked):
            way.step("filter", "clear: no service has this address, port and protocol")
            return None
        way.step("filter", "set: perhaps a service")
        key = abi.VIP_KEY.pack(
            addr=packed(asked.vip.address), port=asked.vip.port or 0, proto=asked.protocol
        )
        octets = self._lookup("vips", key)
        if octets is None:
            way.step("vip", "no service: the filter's bit is another VIP's")
            return None
        vip = abi.VIP.unpack(octets)
        flags = VipFlag(vip["flags"])
        names = ", ".join(flag.name.removeprefix("VIP_").lower().replace("_", "-")
                          for flag in VipFlag if flag & flags and flag.name) or "none"  # fmt: skip
        way.step("vip", f"service {vip['service_id']}; flags: {names}")
        return vip

    def _address_flags(self, address: IPAddress) -> AddressFlag:
        octets = self._lookup("known_addresses", packed(address))
        return AddressFlag(int.from_bytes(octets, sys.byteorder) if octets else 0)

    # -- packets of no service ----------------------------------------------------------------

    def _of_no_service(self, asked: Question, way: _Way, node: abi.Fields) -> Trace:
        address = asked.vip.address
        flags = self._address_flags(address)
        local4 = [node["local4"][at : at + 4] for at in range(0, 4 * abi.Limit.LOCAL4_INLINE, 4)]
        if address.version == 4 and address.packed in local4:
            flags |= AddressFlag.ADDRESS_LOCAL
        six = address.version == 6
        if flags & AddressFlag.ADDRESS_VIP and not flags & AddressFlag.ADDRESS_LOCAL:
            way.step("address", "a VIP's, and no service has this port")
            return self._refuse(asked, way)
        if asked.inside:
            return way.end(
                Reason.SVC_UPLINK, "of no service: out by the uplink, unchanged", next_hop="uplink"
            )
        if flags & AddressFlag.ADDRESS_LOCAL:
            way.step("address", "this node's own")
            reason = Reason.PASS_IPV6 if six else Reason.PASS_IPV4
            return way.end(reason, "to this node's kernel", next_hop="kernel")
        way.step("address", "neither this node's nor a VIP's")
        reason = Reason.XSK_IPV6 if six else Reason.XSK_IPV4
        return way.end(reason, "to OVS, unchanged", next_hop="OVS")

    def _refuse(self, asked: Question, way: _Way) -> Trace:
        if asked.protocol is Protocol.TCP:
            return way.end(Reason.ANSWER_RST, "refused with a TCP reset", next_hop="the client")
        return way.end(
            Reason.ANSWER_UNREACHABLE, "refused with ICMP port unreachable", next_hop="the client"
        )

    # -- packets of a flow --------------------------------------------------------------------

    def _known(self, asked: Question, known: KnownFlow, way: _Way, node: abi.Fields) -> Trace:
        way.step(
            "flow",
            f"known, {known.state.text}, to {known.backend}, as from {known.source},"
            f" silent for {known.idle} ticks",
        )
        if known.flags & FlowFlag.FLOW_DSR:
            return way.end(
                Reason.VIP_DIRECT, "handed to the backend's node as it is",
                backend=known.backend, source=known.source, next_hop="the backend's node",
            )  # fmt: skip
        reason = Reason.SVC_FORWARD if asked.inside else Reason.VIP_FORWARD
        return way.end(
            reason, "translated as the flow is", backend=known.backend, source=known.source,
            next_hop=f"OVS, gateway router {_mac(node['gateway_mac'])}",
        )  # fmt: skip

    # -- first packets ------------------------------------------------------------------------

    def _new(self, asked: Question, vip: abi.Fields, way: _Way, node: abi.Fields) -> Trace:
        flags, service_id = VipFlag(vip["flags"]), vip["service_id"]
        if flags & VipFlag.VIP_SOURCE_RANGES and not asked.inside:
            if not self._in_ranges(service_id, asked.client.address):
                way.step("source ranges", f"{asked.client.address} is in none of the service's")
                return way.end(Reason.DROP_SOURCE_RANGE, "the service does not admit this client")
            way.step("source ranges", f"{asked.client.address} is in one")
        local = bool(flags & (VipFlag.VIP_INNER_LOCAL if asked.inside else VipFlag.VIP_LOCAL))
        members = self._members(service_id, local, way)
        if not members:
            return self._nobody(asked, flags, local, way)
        backend_id = self._choose(asked, vip, members, way)
        octets = self._at("backends", backend_id)
        backend = abi.BACKEND.unpack(octets) if octets else None
        if backend is None or not backend["proto"]:
            way.step("backend", f"number {backend_id} is gone")
            return way.end(Reason.DROP_NO_BACKEND, "the picked backend is gone")
        return self._to_backend(asked, flags, backend_id, backend, way, node)

    def _in_ranges(self, service_id: int, client: IPAddress) -> bool:
        key = abi.SOURCE_RANGE.pack(prefix_length=160, service_id=service_id, addr=packed(client))
        return self._lookup("source_ranges", key) is not None

    def _nobody(self, asked: Question, flags: VipFlag, local: bool, way: _Way) -> Trace:
        if local:
            return way.end(Reason.DROP_NO_LOCAL, "policy local, and no backend on this node")
        if flags & VipFlag.VIP_REJECT:
            return self._refuse(asked, way)
        return way.end(Reason.DROP_NO_BACKEND, "the service has no endpoint")

    def _members(self, service_id: int, local: bool, way: _Way) -> Sequence[pick.Candidate] | int:
        """The members of the set; of a table its number + 1, since a table is never empty."""
        entry = abi.SET.unpack(self._at("sets", 2 * service_id + local))
        name = f"{'local' if local else 'cluster'} set of service {service_id}"
        mode, first = SetMode(entry["mode"]), entry["first"]
        if mode is SetMode.SET_EMPTY:
            way.step("set", f"{name}: empty")
            return ()
        if mode is SetMode.SET_TABLE:
            way.step("set", f"{name}: table {first}")
            return int(first) + 1
        weighted = mode is SetMode.SET_WEIGHTED
        members = []
        for number in range(entry["count"]):
            at = first + number * (2 if weighted else 1)
            member = abi.MEMBER.unpack(self._at("members", at))
            weight = abi.MEMBER.unpack(self._at("members", at + 1))["key"] if weighted else 1
            members.append(pick.Candidate(member["key"], member["backend_id"], weight))
        way.step("set", f"{name}: {len(members)} members{' with weights' if weighted else ''}")
        return members

    def _choose(
        self, asked: Question, vip: abi.Fields, members: Sequence[pick.Candidate] | int, way: _Way
    ) -> int:
        affine = bool(vip["flags"] & VipFlag.VIP_AFFINITY)
        seed = self._node()["pick_seed"]
        client = asked.client.address
        zero: IPAddress = IPv4Address(0) if client.version == 4 else IPv6Address(0)
        slot = (
            pick.flow_slot(client, 0, zero, 0, asked.protocol, seed)
            if affine
            else pick.flow_slot(
                client, asked.client.port or 0, asked.vip.address, asked.vip.port or 0,
                asked.protocol, seed,
            )
        )  # fmt: skip
        if affine:
            held = self._affinity(vip, client)
            if held and self._is_member(held, members, slot):
                way.step("affinity", f"the client is bound to backend {held}")
                return held
            way.step(
                "affinity",
                f"bound to backend {held}, which is no member any more" if held else "not bound",
            )
        if isinstance(members, int):
            words = self._at("tables", (members - 1) * abi.Limit.PICK_SLOTS + slot)
            backend_id = int.from_bytes(words, sys.byteorder)
        else:
            backend_id = pick.pick(slot, members)
        by = "the client's address" if affine else "the flow"
        way.step("pick", f"slot {slot} by {by}: backend {backend_id}")
        return backend_id

    def _affinity(self, vip: abi.Fields, client: IPAddress) -> int:
        key = abi.AFFINITY_KEY.pack(service_id=vip["service_id"], client=packed(client))
        octets = self._lookup("affinities", key)
        if octets is None:
            return 0
        entry = abi.AFFINITY.unpack(octets)
        idle = (self._tick() - entry["seen"]) & 0xFFFFFFFF
        live = idle >= 1 << 31 or idle <= vip["affinity_ticks"]
        return int(entry["backend_id"]) if live else 0

    def _is_member(
        self, backend_id: int, members: Sequence[pick.Candidate] | int, slot: int
    ) -> bool:
        del slot
        if not isinstance(members, int):
            return backend_id in {member.backend_id for member in members}
        first = (members - 1) * abi.Limit.PICK_SLOTS
        return any(
            int.from_bytes(self._at("tables", first + at), sys.byteorder) == backend_id
            for at in range(abi.Limit.PICK_SLOTS)
        )

    def _to_backend(
        self,
        asked: Question,
        flags: VipFlag,
        backend_id: int,
        backend: abi.Fields,
        way: _Way,
        node: abi.Fields,
    ) -> Trace:
        target = Endpoint(_unpacked(backend["addr"]), backend["port"])
        place = Place(backend["place"])
        path = f", path MTU {backend['mtu']}" if backend["mtu"] else ""
        way.step("backend", f"number {backend_id}: {target}, {_PLACES[place]}{path}")
        direct = (
            flags & VipFlag.VIP_DSR
            and not asked.inside
            and place is Place.PLACE_REMOTE
            and any(backend["mac"])
        )
        if direct:
            way.step("source", "kept: the backend's node answers the client itself (DSR)")
            return way.end(
                Reason.VIP_DIRECT, "handed to the backend's node as it is",
                new=True, backend=target, backend_id=backend_id, source=asked.client,
                next_hop=f"{_mac(backend['mac'])}, on the uplink",
            )  # fmt: skip
        source = self._source(asked, flags, target, way, node)
        return way.end(
            Reason.SVC_NEW if asked.inside else Reason.VIP_NEW, "translated, and a new flow",
            new=True, backend=target, backend_id=backend_id, source=source,
            next_hop=f"OVS, gateway router {_mac(node['gateway_mac'])}",
        )  # fmt: skip

    def _source(
        self, asked: Question, flags: VipFlag, target: Endpoint, way: _Way, node: abi.Fields
    ) -> Endpoint | None:
        hairpin = target.address == asked.client.address
        wanted = VipFlag.VIP_INNER_SNAT if asked.inside else VipFlag.VIP_SNAT
        if not flags & wanted and not hairpin:
            way.step("source", "kept: the backend sees the client's address")
            return asked.client
        ours: IPAddress = (
            IPv4Address(node["service_addr4"])
            if asked.vip.address.version == 4
            else IPv6Address(node["service_addr6"])
        )
        why = "the client is the backend itself" if hairpin else "so that replies come back here"
        mine = Endpoint(ours, asked.client.port)
        if self._port_in_use(asked.protocol, target, mine):
            way.step("source", f"{ours}, {why}; port {mine.port} is taken there, so one by hash")
            return None
        way.step("source", f"{mine}, {why}")
        return mine


def _unpacked(octets: bytes) -> IPAddress:
    if octets[:12] == bytes(10) + b"\xff\xff":
        return IPv4Address(octets[12:])
    return IPv6Address(octets)
