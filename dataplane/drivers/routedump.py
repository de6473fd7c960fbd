"""The routes of one table, asked of the kernel alone.

pyroute2 asks for all routes and picks among them, which takes seconds on a node that has tens of
thousands. Here the kernel picks (NETLINK_GET_STRICT_CHK, kernel 4.20). Source: rtnetlink(7),
linux/netlink.h, linux/rtnetlink.h.
"""

from __future__ import annotations

import socket
import struct
from dataclasses import dataclass
from ipaddress import ip_address, ip_network

from dataplane.drivers.netlink import DUMP, WORD, answer, attribute, attributes, message
from dataplane.model.addr import IPAddress, IPNetwork
from dataplane.ports import ObserveError

_NETLINK_ROUTE = 0
_SOL_NETLINK, _GET_STRICT_CHK = 270, 12
_GETROUTE = 26
_DST, _OIF, _GATEWAY, _PREFSRC, _TABLE = 1, 4, 5, 7, 15
_ROUTE = struct.Struct("=BBBBBBBBI")
"""struct rtmsg: family, lengths of destination and source, tos, table, protocol, scope, type,
flags."""


@dataclass(frozen=True, slots=True)
class Route:
    """One route as the kernel has it; `via` and `source` are None where it names none."""

    network: IPNetwork
    device: int
    via: IPAddress | None
    source: IPAddress | None


def routes_of(table: int, protocol: int) -> list[Route]:
    """The routes of a table that have a protocol, both families.

    Raises:
        ObserveError: the kernel could not be asked.
    """
    try:
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_ROUTE) as asked:
            asked.setsockopt(_SOL_NETLINK, _GET_STRICT_CHK, 1)
            return [
                route
                for family in (socket.AF_INET, socket.AF_INET6)
                for route in _dumped(asked, family, table, protocol)
            ]
    except OSError as error:
        msg = f"the routes of table {table} cannot be read: {error}"
        raise ObserveError(msg) from error


def _dumped(asked: socket.socket, family: int, table: int, protocol: int) -> list[Route]:
    body = _ROUTE.pack(family, 0, 0, 0, 0, protocol, 0, 0, 0) + attribute(_TABLE, WORD.pack(table))
    # Numbered by the family: the two share a socket.
    asked.send(message(_GETROUTE, DUMP, family, body))
    try:
        return [_route(payload) for payload in answer(asked, family)[0]]
    except FileNotFoundError:
        return []  # a table that never had a route is none that the kernel knows


def _route(payload: bytes) -> Route:
    family, length, *_ = _ROUTE.unpack_from(payload)
    found = attributes(payload, _ROUTE.size)
    nothing = bytes(4 if family == socket.AF_INET else 16)
    device = found.get(_OIF)
    return Route(
        ip_network((found.get(_DST, nothing), length)),
        WORD.unpack(device)[0] if device else 0,
        ip_address(found[_GATEWAY]) if _GATEWAY in found else None,
        ip_address(found[_PREFSRC]) if _PREFSRC in found else None,
    )
