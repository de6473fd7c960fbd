"""Routes inside a pod's namespace."""

from __future__ import annotations

from collections.abc import Collection
from ipaddress import IPv4Address, IPv6Address, ip_network

from pyroute2 import NetlinkError

from dataplane.drivers import netns
from dataplane.drivers.podwire import PodWire
from dataplane.model.state import Attachment
from dataplane.ports import DataplaneError

RTNH_F_ONLINK = 4
_DEFAULTS = {4: ip_network("0.0.0.0/0"), 6: ip_network("::/0")}


class RouteError(DataplaneError):
    """A pod's route could not be taken away."""


def clear_defaults(path: str, versions: Collection[int]) -> None:
    """Take the default routes of these families away in a namespace: another plugin sets its own.

    Raises:
        RouteError: the kernel refused.
        NetnsError: the namespace is not there.
    """

    def clear() -> None:
        with PodWire() as wire:
            for version in sorted(versions):
                for index, gateway in wire.default_routes(version):
                    wire.delete_route(_DEFAULTS[version], index, gateway)

    with netns.opened(path) as fd:
        try:
            netns.inside(fd, path, clear)
        except NetlinkError as error:
            msg = f"the default route in {path} cannot be taken away: {error}"
            raise RouteError(msg) from error


def set_routes(wire: PodWire, index: int, attachment: Attachment) -> None:
    """Give the interface of this index what the attachment says; others' routes stay.

    But for a default route among the attachment's own: it takes the place of any other.

    Raises:
        NetlinkError: the kernel refused.
    """
    for via in (attachment.gateway, attachment.gateway6):
        if via is not None:
            _set_default_route(wire, index, attachment, via)
    for route in attachment.routes:
        flags = 0 if route.via is None else RTNH_F_ONLINK
        wire.replace_route(route.to, index, route.via, flags)


def _set_default_route(
    wire: PodWire, index: int, attachment: Attachment, via: IPv4Address | IPv6Address
) -> None:
    gateway = str(via)
    routes = wire.default_routes(via.version)
    if any(oif != index for oif, _ in routes) or (index, gateway) in routes:
        # Right already; or another interface of the pod has the default route, and keeps it
        # (CNI specification, notes on IPAM: be prepared to skip it).
        return
    on_link = any(via in address.network for address in attachment.addresses)
    # Under a /32 the gateway is in no network of ours: say that it is on the wire all the same.
    wire.replace_route(_DEFAULTS[via.version], index, via, 0 if on_link else RTNH_F_ONLINK)
