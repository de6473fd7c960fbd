"""What the fast path would do with a packet, step by step: read from the maps, changing nothing.

The decisions are those of bpf/progs/uplink.bpf.c and svc.bpf.c for the first packet of a flow (TCP:
a SYN), or for the next one of a flow that is there. What a packet can have beside its tuple (TTL,
options, fragments, tags, the gateway's own MAC) is not asked, and whether conntrack has room
neither. The source port of a flow that is yet to begin is chosen by where there is room for its
record then, so none is told. A test lets the programs decide the same questions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address

from bpf import abi
from bpf.abi import (
    HOST_SOURCE4,
    HOST_SOURCE6,
    AddressFlag,
    FlowFlag,
    Limit,
    NodeFlag,
    Place,
    Reason,
    VipFlag,
)
from dataplane.drivers.conntrack import Flow
from dataplane.drivers.libbpf import Map
from dataplane.drivers.tracemaps import Members, NodeMaps, Question, unpacked
from dataplane.model.addr import IPAddress, Protocol
from dataplane.model.conntrack import Endpoint, FlowState

_PLACES = {
    Place.PLACE_LOCAL: "on this node",
    Place.PLACE_REMOTE: "on another node",
    Place.PLACE_HOST: "in this node's own network",
    Place.PLACE_OTHER_HOST: "in another node's own network",
    Place.PLACE_UNKNOWN: "at a place that OVN does not know",
}

_REOPENED = frozenset({FlowState.FIN, FlowState.TIME_WAIT, FlowState.RESET})
"""TCP states in which a SYN begins a new flow."""


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
    """The way of a packet; `reason` is what the program would count.

    `source` is what the backend sees; without a port where that is chosen when the flow begins.
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
        self._maps = NodeMaps(maps, tick)
        self._find_flow = find_flow
        self._port_in_use = port_in_use

    def trace(self, asked: Question) -> Trace:
        """What the program that the packet meets first would do."""
        way, node = _Way(), self._maps.node()
        if asked.inside:
            # svc0 sees replies before all else.
            reply = self._reply(asked, way, node)
            if reply is not None:
                return reply
        if not self._maps.may_be_vip(asked):
            way.step("filter", "clear: no service has this address, port and protocol")
            return self._of_no_service(asked, way, node)
        way.step("filter", "set: perhaps a service")
        known = self._find_flow(asked)
        over = known is not None and asked.protocol is Protocol.TCP and known.state in _REOPENED
        if known is not None and not over:
            return self._known(asked, known, way, node)
        if known is None:
            way.step("flow", "none: the first packet of a new one")
        else:
            way.step("flow", f"one that is over ({known.state.text}): a SYN begins a new one")
        vip = self._maps.vip(asked)
        if vip is None:
            way.step("vip", "no service: the filter's bit is another VIP's")
            return self._of_no_service(asked, way, node)
        way.step("vip", f"service {vip['service_id']}; flags: {_names(VipFlag(vip['flags']))}")
        if not node["flags"] & _valid(asked):
            return way.end(
                Reason.DROP_NO_GATEWAY, "this node's gateway router of the family is not known"
            )
        return self._new(asked, vip, way, node)

    # -- packets of no service ----------------------------------------------------------------

    def _reply(self, asked: Question, way: _Way, node: abi.Fields) -> Trace | None:
        """What becomes of a backend's packet; None: it is none, or none that is known."""
        address = asked.vip.address
        own = node["service_addr6" if address.version == 6 else "service_addr4"]
        if not asked.inside and (address.packed != own or not node["flags"] & _valid(asked)):
            return None
        if self._port_in_use(asked.protocol, asked.client, asked.vip):
            way.step("reply", "of a flow")
            reason = Reason.SVC_REPLY if asked.inside else Reason.UPLINK_REPLY
            return way.end(reason, "a backend's reply, reversed", next_hop="the client")
        if asked.inside and address.packed == own:
            return way.end(Reason.DROP_SVC_NO_FLOW, "for svc0's own address, but of no flow")
        return None

    def _of_no_service(self, asked: Question, way: _Way, node: abi.Fields) -> Trace:
        address = asked.vip.address
        if not asked.inside:
            reply = self._reply(asked, way, node)
            if reply is not None:
                return reply
        flags, six = self._maps.address_flags(address), address.version == 6
        if flags & AddressFlag.ADDRESS_VIP and (
            asked.inside or not flags & AddressFlag.ADDRESS_LOCAL
        ):
            way.step("address", "a VIP's, and no service has this port")
            return self._refuse(asked, way)
        if asked.inside:
            if not node["flags"] & (NodeFlag.NODE_VALID4 | NodeFlag.NODE_VALID6):
                return way.end(Reason.DROP_NO_GATEWAY, "this node's gateway router is not known")
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
            next_hop=_next_hop(node, host=bool(known.flags & FlowFlag.FLOW_HOST)),
        )  # fmt: skip

    # -- first packets ------------------------------------------------------------------------

    def _new(self, asked: Question, vip: abi.Fields, way: _Way, node: abi.Fields) -> Trace:
        flags, service_id = VipFlag(vip["flags"]), vip["service_id"]
        if flags & VipFlag.VIP_SOURCE_RANGES and not asked.inside:
            if not self._maps.admits(service_id, asked.client.address):
                way.step("source ranges", f"{asked.client.address} is in none of the service's")
                return way.end(Reason.DROP_SOURCE_RANGE, "the service does not admit this client")
            way.step("source ranges", f"{asked.client.address} is in one")
        local = bool(flags & (VipFlag.VIP_INNER_LOCAL if asked.inside else VipFlag.VIP_LOCAL))
        members = self._maps.members(service_id, local=local)
        scope = "of this node" if local else "of all nodes"
        way.step("set", f"{_counted(members)} {scope}")
        backend_id = self._choose(asked, vip, members, way) if members else 0
        backend = self._maps.backend(backend_id)
        if backend is None:
            if backend_id:
                way.step("backend", f"number {backend_id} is gone")
            return self._nobody(asked, vip, local, way)
        return self._to_backend(asked, flags, backend_id, backend, way, node)

    def _nobody(self, asked: Question, vip: abi.Fields, local: bool, way: _Way) -> Trace:
        rejects = bool(vip["flags"] & VipFlag.VIP_REJECT)
        if local and (not rejects or self._maps.members(vip["service_id"], local=False)):
            return way.end(Reason.DROP_NO_LOCAL, "policy local, and no backend on this node")
        if rejects:
            return self._refuse(asked, way)
        return way.end(Reason.DROP_NO_BACKEND, "the service has no endpoint, and is silent then")

    def _choose(self, asked: Question, vip: abi.Fields, members: Members, way: _Way) -> int:
        """The number of the backend that a new flow goes to."""
        affine = bool(vip["flags"] & VipFlag.VIP_AFFINITY)
        if affine:
            held = self._maps.bound_to(vip, asked.client.address)
            if held and self._maps.may_have(members, held):
                way.step("affinity", f"the client is bound to backend {held}")
                return held
            gone = f"to backend {held}, which is no member any more" if held else "to none"
            way.step("affinity", f"the client is bound {gone}")
        slot = self._maps.slot_of(asked, affine=affine)
        backend_id = self._maps.picked(members, slot)
        by = "the client's address" if affine else "the flow"
        way.step("pick", f"slot {slot} by {by}: backend {backend_id}")
        return backend_id

    def _to_backend(
        self,
        asked: Question,
        flags: VipFlag,
        backend_id: int,
        backend: abi.Fields,
        way: _Way,
        node: abi.Fields,
    ) -> Trace:
        target = Endpoint(unpacked(backend["addr"]), backend["port"])
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
        hidden = _wants_snat(asked, flags, target, place, node)
        ours = _ours(asked, node, place)
        source = self._source(asked, target, way, ours) if hidden else asked.client
        if not hidden:
            taken = self._port_in_use(asked.protocol, target, asked.client)
            way.step(
                "source",
                "kept, but another flow has it towards this backend"
                if taken
                else "kept: the backend sees the client's address",
            )
            if taken:
                return way.end(Reason.DROP_CONFLICT, "two flows cannot share a reply's tuple")
        return way.end(
            Reason.SVC_NEW if asked.inside else Reason.VIP_NEW, "translated, and a new flow",
            new=True, backend=target, backend_id=backend_id, source=source,
            next_hop=_next_hop(node, host=place is Place.PLACE_HOST),
        )  # fmt: skip

    def _source(self, asked: Question, target: Endpoint, way: _Way, ours: IPAddress) -> Endpoint:
        """The address that stands in for the client; with its port, if that can be told."""
        hairpin = target.address == asked.client.address
        why = "the client is the backend itself" if hairpin else "so that replies come back here"
        kept = Endpoint(ours, asked.client.port)
        later = "the port is chosen when the flow begins"
        if not 0 < (asked.client.port or 0) < Limit.SNAT_PORT_MIN:
            way.step("source", f"{ours}, {why}; {later}")
        elif self._port_in_use(asked.protocol, target, kept):
            way.step("source", f"{ours}, {why}; {later}, because another flow has the client's")
        else:
            way.step("source", f"{kept}, {why}; the port is the client's own")
            return kept
        return Endpoint(ours)


def _mac(octets: bytes) -> str:
    return ":".join(f"{octet:02x}" for octet in octets)


def _next_hop(node: abi.Fields, *, host: bool) -> str:
    return "kernel" if host else f"OVS, gateway router {_mac(node['gateway_mac'])}"


def _ours(asked: Question, node: abi.Fields, place: Place) -> IPAddress:
    """What a backend there sees in place of the client's address."""
    host, service = _stand_ins(asked, node)
    return host if place is Place.PLACE_HOST else service


def _stand_ins(asked: Question, node: abi.Fields) -> tuple[IPAddress, IPAddress]:
    """Addresses of ours that stand for clients, towards this node's kernel and others."""
    if asked.vip.address.version == 4:
        return HOST_SOURCE4, IPv4Address(node["service_addr4"])
    return HOST_SOURCE6, IPv6Address(node["service_addr6"])


def _valid(asked: Question) -> NodeFlag:
    return NodeFlag.NODE_VALID6 if asked.vip.address.version == 6 else NodeFlag.NODE_VALID4


def _wants_snat(
    asked: Question, flags: VipFlag, target: Endpoint, place: Place, node: abi.Fields
) -> bool:
    """Whether the backend has to see an address of ours (wants_snat of flows.h)."""
    if asked.client.address in _stand_ins(asked, node):
        return True
    if place is Place.PLACE_HOST:
        return asked.inside
    if target.address == asked.client.address:
        return True
    if flags & VipFlag.VIP_DSR and not asked.inside and place is Place.PLACE_LOCAL:
        return False
    return bool(flags & (VipFlag.VIP_INNER_SNAT if asked.inside else VipFlag.VIP_SNAT))


def _names(flags: VipFlag) -> str:
    names = [flag.name for flag in VipFlag if flag & flags and flag.name]
    return (
        ", ".join(name.removeprefix("VIP_").lower().replace("_", "-") for name in names) or "none"
    )


def _counted(members: Members) -> str:
    if members.table is not None:
        return f"table {members.table}"
    weights = ", with weights," if members.weighted else ""
    return f"{len(members.listed)} members{weights}"
