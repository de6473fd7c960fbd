"""Links and addresses as rtnetlink tells them: what the drivers of this folder share."""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from pyroute2 import IPRoute, NetlinkError

from dataplane.ports import ObserveError

IFF_UP = 1


@dataclass(frozen=True, slots=True)
class LinkState:
    """One link of this network namespace. `peer_index` is a veth's other end, 0 if none."""

    index: int
    name: str
    kind: str
    alias: str
    mac: str
    mtu: int
    up: bool
    queues: int
    peer_index: int


@contextlib.contextmanager
def route_socket() -> Iterator[Any]:
    """A netlink socket of the calling thread's namespace.

    Raises:
        ObserveError: the kernel gives none, or an answer could not be read.
    """
    try:
        socket = IPRoute()
    except OSError as error:
        msg = f"no netlink socket: {error}"
        raise ObserveError(msg) from error
    try:
        yield socket
    finally:
        socket.close()


def links(ipr: Any) -> list[LinkState]:
    """All links.

    Raises:
        ObserveError: the kernel could not be asked.
    """
    try:
        return [link_state(message) for message in ipr.get_links()]
    except NetlinkError as error:
        msg = f"the links cannot be read: {error}"
        raise ObserveError(msg) from error


def find_link(ipr: Any, name: str) -> LinkState | None:
    """The link of this name.

    Raises:
        ObserveError: the kernel could not be asked.
    """
    try:
        for message in ipr.link("get", ifname=name):
            return link_state(message)
    except NetlinkError as error:
        if error.code != errno.ENODEV:
            msg = f"link {name} cannot be read: {error}"
            raise ObserveError(msg) from error
    return None


def link_state(message: Any) -> LinkState:
    """A link from an RTM_NEWLINK message."""
    info = message.get_attr("IFLA_LINKINFO")
    return LinkState(
        index=message["index"],
        name=message.get_attr("IFLA_IFNAME"),
        kind=(info.get_attr("IFLA_INFO_KIND") if info is not None else None) or "",
        alias=message.get_attr("IFLA_IFALIAS") or "",
        mac=message.get_attr("IFLA_ADDRESS") or "",
        mtu=message.get_attr("IFLA_MTU") or 0,
        up=bool(message["flags"] & IFF_UP),
        queues=min(
            message.get_attr("IFLA_NUM_RX_QUEUES") or 1, message.get_attr("IFLA_NUM_TX_QUEUES") or 1
        ),
        peer_index=message.get_attr("IFLA_LINK") or 0,
    )
