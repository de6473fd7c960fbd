"""The operations of the control socket that look into services: what they are, do and would do."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from bpf.abi import FlowFlag
from cni.wire import CODE_BAD_REQUEST, RemoteError
from controller import sight_views as views
from controller.completion import in_thread
from controller.server import Args, Handler
from controller.views import problems_view
from dataplane.drivers.conntrack import Conntrack
from dataplane.drivers.counters import evictions
from dataplane.drivers.servicestats import ServiceCounts, service_counts
from dataplane.drivers.sweeps import tick_s
from dataplane.drivers.trace import KnownFlow, Tracer
from dataplane.drivers.tracemaps import Question
from dataplane.model.addr import L4Addr, Protocol
from dataplane.model.conntrack import Endpoint, FlowFilter, FlowState
from dataplane.model.service import Service
from dataplane.plan.services import PortKey, port_key

if TYPE_CHECKING:
    from controller.node import NodeDaemon
    from dataplane.drivers.libbpf import Map

T = TypeVar("T")

PAGE_OCTETS = 600_000
"""Of services in one answer: well below what a message may have (`cni.wire.MAX_SIZE`)."""

FLOWS_SHOWN = 1000
"""Flows in one answer, unless fewer are asked for."""


class SightApi:
    """Handlers over one daemon's maps; only `conntrack` with `flush` changes anything."""

    def __init__(self, daemon: NodeDaemon) -> None:
        self._daemon = daemon
        self._counted: dict[PortKey, views.Traffic] | None = None  # for the pages after the first

    def handlers(self) -> Mapping[str, Handler]:
        """Operation name to handler, for `controller.server.serve`."""
        return {"services": self.services, "conntrack": self.conntrack, "trace": self.trace}

    async def services(self, args: Args) -> Args:
        """VIPs from number `from` on, with what serves each, and where to go on (`next`)."""
        daemon = self._daemon
        view = daemon.sources.view(daemon.config)
        first = _given(args, "from", int, 0) or 0
        if view is None:
            return {"services": [], "next": None, "refused": []}
        page = await in_thread(self._page, view.services, first)
        # What cannot even be named as an address is in no service's line.
        return page | {"refused": [] if first else problems_view(daemon.sources.problems())}

    def _page(self, services: tuple[Service, ...], first: int) -> Args:
        if not first or self._counted is None:
            self._counted = self._traffic(services)
        traffic = self._counted
        rows: list[views.Json] = []
        size = 0
        ordered = sorted(services, key=lambda service: (service.vip, service.name))
        for service in ordered[first:]:
            row = views.service_view(service, traffic.get(port_key(service)))
            size += len(json.dumps(row))
            if rows and size > PAGE_OCTETS:
                break
            rows.append(row)
        end = first + len(rows)
        return {"services": rows, "next": end if end < len(ordered) else None}

    def _traffic(self, services: tuple[Service, ...]) -> dict[PortKey, views.Traffic]:
        daemon = self._daemon
        counts = service_counts(daemon.bpf.maps)
        flows = daemon.follow_up.conntrack.by_service()
        ids = views.ids_of_services(services, self._held())
        return {
            key: views.Traffic(number, counts.get(number, ServiceCounts()),
                                flows.get(number, 0))
            for key, number in ids.items()
        }  # fmt: skip

    def _held(self) -> dict[L4Addr, int]:
        planned = self._daemon.planned
        return {vip: row.service_id for vip, row in planned.vips.items()} if planned else {}

    async def conntrack(self, args: Args) -> Args:
        """Flows by filter: listed, only counted (`count`), or ended (`flush`)."""
        wanted = filter_of(args)
        limit = _given(args, "limit", int, FLOWS_SHOWN)
        conntrack = self._daemon.follow_up.conntrack
        if args.get("flush"):
            return views.swept_view(await in_thread(conntrack.flush, wanted))
        if args.get("count"):
            evicted = await in_thread(evictions, self._daemon.bpf.maps["counters"])
            return {**await in_thread(_counted, conntrack, wanted), "evicted": {**evicted}}
        return await in_thread(self._listed, wanted, max(0, min(limit or 0, FLOWS_SHOWN)))

    def _listed(self, wanted: FlowFilter, limit: int) -> Args:
        daemon = self._daemon
        view = daemon.sources.view(daemon.config)
        names = {}
        if view is not None:
            names = views.names_of_ids(views.ids_of_services(view.services, self._held()))
        flows, hidden = daemon.follow_up.conntrack.flows(wanted, limit)
        each = tick_s()
        return {
            "flows": [
                views.flow_view(flow, names.get(flow.service_id, str(flow.service_id)), each)
                for flow in flows
            ],
            "hidden": hidden,
        }

    async def trace(self, args: Args) -> Args:
        """What the fast path would do with a packet."""
        asked = question_of(args)
        answer = await in_thread(
            tracer(self._daemon.bpf.maps, self._daemon.follow_up.conntrack).trace, asked
        )
        return views.trace_view(answer)


def tracer(maps: Mapping[str, Map], conntrack: Conntrack) -> Tracer:
    """A tracer over a node's own conntrack."""

    def known(asked: Question) -> KnownFlow | None:
        wanted = FlowFilter(vip=asked.vip, client=asked.client, protocol=asked.protocol)
        flows, _ = conntrack.flows(wanted, 1)
        return KnownFlow.of(flows[0]) if flows else None

    def in_use(protocol: Protocol, backend: Endpoint, ours: Endpoint) -> bool:
        flows, _ = conntrack.flows(FlowFilter(backend=backend, protocol=protocol))
        return any(flow.source == ours and not flow.flags & FlowFlag.FLOW_DSR for flow in flows)

    return Tracer(maps, known, in_use, conntrack.tick)


def _counted(conntrack: Conntrack, wanted: FlowFilter) -> Args:
    fill = {
        f"ipv{version}": {"slots": found.slots, "flows": found.flows}
        for version, found in conntrack.fill().items()
    }
    return {**views.swept_view(conntrack.count(wanted)), "fill": fill}


def _given(args: Args, name: str, parse: Callable[[str], T], default: T | None = None) -> T | None:
    """An argument as `parse` reads it.

    Raises:
        RemoteError: it cannot be read.
    """
    value = args.get(name)
    if value is None:
        return default
    try:
        return parse(str(value))
    except (ValueError, KeyError) as error:
        claim = f"{name}: {error.args[0] if error.args else error}"
        raise RemoteError(CODE_BAD_REQUEST, claim) from error


@dataclass(frozen=True, slots=True)
class _Named:
    """Names to values, for people's words."""

    kind: str
    values: Mapping[str, int]

    def __call__(self, text: str) -> int:
        if text.lower() not in self.values:
            msg = f"there is no {self.kind} {text!r}; there are: {', '.join(self.values)}"
            raise ValueError(msg)
        return self.values[text.lower()]


_PROTOCOLS = _Named("protocol", {protocol.name.lower(): protocol for protocol in Protocol})
_STATES = _Named("state", {state.text: state for state in FlowState})


def _protocol_of(text: str) -> Protocol:
    return Protocol(_PROTOCOLS(text))


def filter_of(args: Args) -> FlowFilter:
    """The filter that a request asks for.

    Raises:
        RemoteError: something of it cannot be read.
    """
    states = args.get("states")
    return FlowFilter(
        vip=_given(args, "vip", Endpoint.parse),
        client=_given(args, "client", Endpoint.parse),
        backend=_given(args, "backend", Endpoint.parse),
        states=frozenset(
            FlowState(_given({"state": text}, "state", _STATES) or 0)
            for text in (states if isinstance(states, list) else ())
        ),
        protocol=_given(args, "protocol", _protocol_of),
    )


def question_of(args: Args) -> Question:
    """The packet that a request asks about.

    Raises:
        RemoteError: something of it is missing or cannot be read.
    """
    protocol = _given(args, "protocol", _protocol_of)
    client = _given(args, "client", Endpoint.parse)
    vip = _given(args, "vip", Endpoint.parse)
    if protocol is None or client is None or vip is None or vip.port is None:
        raise RemoteError(
            CODE_BAD_REQUEST, "a packet is a protocol, a client's address and a VIP with its port"
        )
    if client.address.version != vip.address.version:
        claim = f"client {client} and VIP {vip} are of different IP versions"
        raise RemoteError(CODE_BAD_REQUEST, claim)
    return Question(protocol, client, vip, inside=bool(args.get("inside")))
