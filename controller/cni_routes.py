"""Which routes an interface gets, and how a CNI result says addresses and routes. Pure.

The pod's first interface has the default route by its network's router, unless its port in OVN says
otherwise. Routes of the port, which a pod's annotations made, go before the network's own.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Interface, IPv6Address, IPv6Interface, ip_network

from dataplane.model.state import LogicalPort, Route

FIRST_INTERFACE = "eth0"
"""What runtimes call it; a network that stands in for the cluster's (Multus) has this one, too."""

_ANYWHERE = {4: ip_network("0.0.0.0/0"), 6: ip_network("::/0")}


@dataclass(frozen=True, slots=True)
class Ways:
    """Out of an interface. No gateway where `routes` have a default route, or none is to be."""

    gateway: IPv4Address | None
    gateway6: IPv6Address | None
    routes: tuple[Route, ...]

    def defaults(self) -> tuple[Route, ...]:
        """The default routes by the gateways, as routes like all others."""
        gateways = (self.gateway, self.gateway6)
        return tuple(Route(_ANYWHERE[one.version], one) for one in gateways if one is not None)


def taken(routes: Iterable[Route]) -> frozenset[int]:
    """Families whose default route is among these: it is theirs, whoever has one now."""
    return frozenset(route.to.version for route in routes if not route.to.prefixlen)


def ways(port: LogicalPort, provider: str, ifname: str, own: Sequence[Route]) -> Ways:
    """The ways of an interface. `provider`: "" for a pod's first network; `own`: its network's."""
    routes = tuple({route.to: route for route in (*own, *port.routes)}.values())
    first = (not provider or ifname == FIRST_INTERFACE) and port.default_route
    without = taken(routes)
    return Ways(
        port.gateway if first and 4 not in without else None,
        port.gateway6 if first and 6 not in without else None,
        routes,
    )


def ip_objects(
    addresses: Iterable[IPv4Interface | IPv6Interface],
    gateway: IPv4Address | None,
    gateway6: IPv6Address | None,
    interface: int | None = None,
) -> list[dict[str, object]]:
    """`ips` of a CNI result; `interface`: the place of theirs in it, if it has any."""
    said: list[dict[str, object]] = []
    for address in addresses:
        one: dict[str, object] = {"address": str(address)}
        if interface is not None:
            one["interface"] = interface
        via = gateway if address.version == 4 else gateway6
        if via is not None:
            one["gateway"] = str(via)
        said.append(one)
    return said


def route_objects(routes: Iterable[Route]) -> list[dict[str, object]]:
    """`routes` of a CNI result."""
    said: list[dict[str, object]] = []
    for route in routes:
        one: dict[str, object] = {"dst": str(route.to)}
        if route.via is not None:
            one["gw"] = str(route.via)
        said.append(one)
    return said
