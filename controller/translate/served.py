"""What XDP can really serve on this node: the last word on each service's path. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from dataplane.model.config import NodeConfig
from dataplane.model.service import ServedBy, Service
from dataplane.model.state import Gateway
from dataplane.plan.node import service_gateway, service_uplink
from dataplane.plan.services import usable


def as_served(
    services: Sequence[Service], gateway: Gateway | None, config: NodeConfig
) -> tuple[Service, ...]:
    """The services, those that OVN's rows give to XDP only where this node has the means.

    Without an uplink or a gateway router, nobody serves them here, and the reason says what is
    missing. A service of which no backend may be used stays XDP's: its packets are dropped there.
    """
    missing = _missing(gateway, config)
    return tuple(_as_served(service, missing) for service in services)


def _missing(gateway: Gateway | None, config: NodeConfig) -> str:
    uplink = service_uplink(config)
    if uplink is None:
        return "no uplink of this node has services = true and an XDP hook (mode af_xdp or kernel)"
    if gateway is None:
        return "OVN has no usable gateway router for this chassis; `millrace status` says why"
    if service_gateway(gateway, config) is None:
        return (
            f"the gateway router {gateway.router} is on {gateway.physnet}, but the service uplink "
            f"{uplink.device} is on bridge {uplink.bridge} of another physical network"
        )
    return ""


def _as_served(service: Service, missing: str) -> Service:
    if service.served_by is not ServedBy.XDP:
        return service
    if missing:
        return replace(
            service, served_by=ServedBy.NOBODY, reason=f"marked for the fast path, but {missing}"
        )
    if service.backends and not usable(service):
        reason = f"{service.reason}; no backend on this node: packets to it are dropped"
        return replace(service, reason=reason)
    return service
