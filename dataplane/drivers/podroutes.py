"""Routes inside a pod's namespace."""

from __future__ import annotations

import socket
from collections.abc import Collection
from ipaddress import IPv4Address, IPv6Address
from typing import Any

from pyroute2 import NetlinkError

from dataplane.drivers import netns
from dataplane.drivers.rtnl import route_socket
from dataplane.model.state import Attachment
from dataplane.ports import DataplaneError

RTNH_F_ONLINK = 4
_RT_TABLE_MAIN = 254
_RTN_UNICAST = 1
_FAMILIES = {4: socket.AF_INET, 6: socket.AF_INET6}


class RouteError(DataplaneError):
    """A pod's route could not be taken away."""


def clear_defaults(path: str, versions: Collection[int]) -> None:
    """Take the default routes of these families away in a namespace: another plugin sets its own.

    Raises:
        RouteError: the kernel refused.
        NetnsError: the namespace is not there.
    """

    def clear() -> None:
        with route_socket() as ipr:
            for version in sorted(versions):
                family = _FAMILIES[version]
                for index, gateway in defaults(ipr, family):
                    more = {"gateway": gateway} if gateway else {}
                    dst = "0.0.0.0/0" if version == 4 else "::/0"
                    ipr.route("del", dst=dst, oif=index, family=family, **more)

    with netns.opened(path) as fd:
        try:
            netns.inside(fd, path, clear)
        except NetlinkError as error:
            msg = f"the default route in {path} cannot be taken away: {error}"
            raise RouteError(msg) from error


def defaults(ipr: Any, family: int) -> list[tuple[int, str]]:
    """Interface index and gateway of each default route of a family in the main table."""
    return [
        (message.get_attr("RTA_OIF") or 0, message.get_attr("RTA_GATEWAY") or "")
        for message in ipr.get_routes(family=family, table=_RT_TABLE_MAIN)
        if message["dst_len"] == 0 and message["type"] == _RTN_UNICAST
    ]


def set_routes(ipr: Any, index: int, attachment: Attachment) -> None:
    """Give the interface of this index what the attachment says; others' routes stay.

    But for a default route among the attachment's own: it takes the place of any other.

    Raises:
        NetlinkError: the kernel refused.
    """
    for via in (attachment.gateway, attachment.gateway6):
        if via is not None:
            _set_default_route(ipr, index, attachment, via)
    for route in attachment.routes:
        wanted: dict[str, Any] = {"dst": str(route.to), "oif": index}
        if route.via is not None:
            wanted |= {"gateway": str(route.via), "flags": RTNH_F_ONLINK}
        ipr.route("replace", **wanted)


def _set_default_route(
    ipr: Any, index: int, attachment: Attachment, via: IPv4Address | IPv6Address
) -> None:
    gateway = str(via)
    routes = defaults(ipr, _FAMILIES[via.version])
    if any(oif != index for oif, _ in routes) or (index, gateway) in routes:
        # Right already; or another interface of the pod has the default route, and keeps it
        # (CNI specification, notes on IPAM: be prepared to skip it).
        return
    on_link = any(via in address.network for address in attachment.addresses)
    ipr.route(
        "replace",
        dst="0.0.0.0/0" if via.version == 4 else "::/0",
        gateway=gateway,
        oif=index,
        # Under a /32 the gateway is in no network of ours: say that it is on the wire all the same.
        flags=0 if on_link else RTNH_F_ONLINK,
    )
