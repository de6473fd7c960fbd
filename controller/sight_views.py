"""What the daemon answers about services and their flows, as plain JSON values. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from bpf import abi
from controller.translate.served import mode_of
from dataplane.drivers.conntrack import Flow
from dataplane.drivers.servicestats import ServiceCounts
from dataplane.drivers.sweeps import Swept
from dataplane.drivers.trace import Trace
from dataplane.model.addr import L4Addr, Protocol
from dataplane.model.service import Backend, Service
from dataplane.plan.services import PortKey, port_key

Json = dict[str, object]

BACKENDS_SHOWN = 256
"""Backends of one service that an answer lists; their numbers count all of them."""


@dataclass(frozen=True, slots=True)
class Traffic:
    """What XDP saw of one family of a service port, and the flows that it has now."""

    service_id: int
    counts: ServiceCounts = field(default_factory=ServiceCounts)
    flows: int = 0


def _place(backend: Backend) -> str:
    return f"{backend.state.value} {backend.place.value}"


def backend_view(backend: Backend) -> Json:
    """One backend of `millrace services --json`."""
    return {
        "address": str(backend.target.address),
        "port": backend.target.port,
        "place": backend.place.value,
        "state": backend.state.value,
        "weight": backend.weight,
        "port_name": backend.port_name,
        "chassis": backend.chassis,
    }


def service_view(service: Service, traffic: Traffic | None) -> Json:
    """One VIP of `millrace services --json`; `traffic` is of all its service port's VIPs."""
    counts = traffic.counts if traffic else ServiceCounts()
    host = service.vip.address
    return {
        "name": service.name,
        "service": service.port_key or service.name,
        "service_id": traffic.service_id if traffic else None,
        "vip": f"{host if host.version == 4 else f'[{host}]'}:{service.vip.port}",
        "protocol": service.vip.protocol.name.lower(),
        "kind": service.kind.value,
        "served_by": service.served_by.value,
        "reason": service.reason,
        "mode": mode_of(service) or "",
        "policy": service.policy.value,
        "inner_policy": service.inner_policy.value,
        "affinity_s": service.affinity_s,
        "source_ranges": [str(network) for network in service.source_ranges],
        "reject": service.reject,
        "health_port": service.health_port,
        "backends": [backend_view(b) for b in service.backends[:BACKENDS_SHOWN]],
        "backend_counts": dict(sorted(Counter(map(_place, service.backends)).items())),
        "packets": counts.forward_packets,
        "bytes": counts.forward_octets,
        "reply_packets": counts.reply_packets,
        "reply_bytes": counts.reply_octets,
        "connections": counts.new_flows,
        "drops": dict(counts.drops),
        "flows": traffic.flows if traffic else 0,
    }


def ids_of_services(services: Iterable[Service], held: Mapping[L4Addr, int]) -> dict[PortKey, int]:
    """Service ids by service port and family, from the ids of the VIPs that the maps hold."""
    return {port_key(service): held[service.vip] for service in services if service.vip in held}


def names_of_ids(ids: Mapping[PortKey, int]) -> dict[int, str]:
    """The service port of each service id; both families of one have the same name."""
    return {number: name for (name, _), number in ids.items()}


def swept_view(swept: Swept) -> Json:
    """Flows by state, and how many were ended."""
    return {
        "flows": swept.total,
        "ended": swept.ended,
        "states": {state.text: count for state, count in sorted(swept.live.items()) if count},
    }


def flow_view(flow: Flow, service: str, tick_s: float) -> Json:
    """One flow of `millrace conntrack --json`; times in seconds."""
    return {
        "protocol": _protocol(flow.protocol),
        "client": str(flow.client),
        "vip": str(flow.vip),
        "backend": str(flow.backend),
        "source": str(flow.source),
        "state": flow.state.text,
        "flags": [
            flag.name.removeprefix("FLOW_").lower().replace("_", "-")
            for flag in abi.FlowFlag
            if flag & flow.flags and flag.name
        ],
        "service": service,
        "idle_s": round(flow.idle * tick_s, 3),
        "expires_s": round(flow.left * tick_s, 3),
    }


def _protocol(number: int) -> str:
    try:
        return Protocol(number).name.lower()
    except ValueError:
        return str(number)


def trace_view(trace: Trace) -> Json:
    """The answer to `trace`; a source without a port gets one when the flow begins."""
    return {
        "steps": [{"step": step.name, "found": step.found} for step in trace.steps],
        "verdict": trace.reason.name.lower(),
        "new_flow": trace.new,
        "backend": str(trace.backend) if trace.backend else None,
        "source": str(trace.source) if trace.source else None,
        "source_port": trace.source.port if trace.source else None,
        "next_hop": trace.next_hop or None,
    }
