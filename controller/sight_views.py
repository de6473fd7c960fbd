"""What the daemon answers about services and their flows, as plain JSON values. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from bpf import abi
from dataplane.drivers.conntrack import Flow
from dataplane.drivers.servicestats import ServiceCounts
from dataplane.drivers.sweeps import Swept
from dataplane.drivers.trace import Trace
from dataplane.model.addr import L4Addr, Protocol
from dataplane.model.service import Backend, Forwarding, ServedBy, Service, TrafficPolicy

Json = dict[str, object]

BACKENDS_SHOWN = 256
"""Backends of one service that an answer lists; their numbers count all of them."""


@dataclass(frozen=True, slots=True)
class Traffic:
    """What XDP saw of one service port, and the flows that it has now."""

    service_id: int
    counts: ServiceCounts = field(default_factory=ServiceCounts)
    flows: int = 0


def mode_of(service: Service) -> str:
    """How packets of clients outside reach the backends: snat, kept (address), dsr."""
    if service.served_by is not ServedBy.XDP:
        return ""
    if service.policy is TrafficPolicy.LOCAL:
        return "kept"
    return "dsr" if service.forwarding is Forwarding.DSR else "snat"


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
    """One VIP of `millrace services --json`; `traffic` is its service port's, all VIPs together."""
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
        "mode": mode_of(service),
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


def ids_of_services(services: Sequence[Service], held: Mapping[L4Addr, int]) -> dict[str, int]:
    """Service ids by service port, from the ids of the VIPs that the maps hold.

    A node port's VIP has no address of its own: the port and protocol tell its rows, unless
    another VIP of the same service port told its id already.
    """
    found: dict[str, int] = {}
    of_ports: dict[tuple[Protocol, int, int], set[int]] = {}
    for vip, number in held.items():
        of_ports.setdefault((vip.protocol, vip.address.version, vip.port), set()).add(number)
    known = {service.vip: held[service.vip] for service in services if service.vip in held}
    for service in services:
        if service.vip in known:
            found[service.port_key or service.name] = known[service.vip]
    taken = set(known.values())
    for service in services:
        key = service.port_key or service.name
        if key in found or not service.vip.address.is_unspecified:
            continue
        port = service.vip.protocol, service.vip.address.version, service.vip.port
        left = of_ports.get(port, set()) - taken
        if len(left) == 1:
            found[key] = left.pop()
    return found


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
    """The answer to `trace`."""
    return {
        "steps": [{"step": step.name, "found": step.found} for step in trace.steps],
        "verdict": trace.reason.name.lower(),
        "new_flow": trace.new,
        "backend": str(trace.backend) if trace.backend else None,
        "source": str(trace.source) if trace.source else None,
        "next_hop": trace.next_hop or None,
    }
