"""The routes of one table, asked of the kernel alone.

pyroute2 asks for all routes and picks among them, which takes seconds on a node that has tens of
thousands. Here the kernel picks (NETLINK_GET_STRICT_CHK, kernel 4.20). Source: rtnetlink(7),
linux/netlink.h, linux/rtnetlink.h.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import ip_address, ip_network

from dataplane.model.addr import IPAddress, IPNetwork
from dataplane.ports import ObserveError

_NETLINK_ROUTE = 0
_SOL_NETLINK, _GET_STRICT_CHK = 270, 12
_NEWROUTE, _GETROUTE = 24, 26
_REQUEST, _DUMP = 0x1, 0x300
_ERROR, _DONE = 2, 3
_DST, _OIF, _GATEWAY, _PREFSRC, _TABLE = 1, 4, 5, 7, 15
_TYPE_MASK = 0x3FFF
"""The upper bits of an attribute's type are flags (NLA_TYPE_MASK)."""

_HEADER = struct.Struct("=IHHII")
"""struct nlmsghdr: size, type, flags, sequence, port."""

_ROUTE = struct.Struct("=BBBBBBBBI")
"""struct rtmsg: family, lengths of destination and source, tos, table, protocol, scope, type,
flags."""

_ATTRIBUTE = struct.Struct("=HH")
_WORD = struct.Struct("=I")
RECEIVE_BYTES = 1 << 16


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


def _dumped(asked: socket.socket, family: int, table: int, protocol: int) -> Iterator[Route]:
    attribute = _ATTRIBUTE.pack(_ATTRIBUTE.size + _WORD.size, _TABLE) + _WORD.pack(table)
    body = _ROUTE.pack(family, 0, 0, 0, 0, protocol, 0, 0, 0) + attribute
    asked.send(_HEADER.pack(_HEADER.size + len(body), _GETROUTE, _REQUEST | _DUMP, 1, 0) + body)
    while True:
        messages = asked.recv(RECEIVE_BYTES)
        at = 0
        while at + _HEADER.size <= len(messages):
            size, kind, *_ = _HEADER.unpack_from(messages, at)
            payload = messages[at + _HEADER.size : at + size]
            at += (size + 3) & ~3
            if kind in (_DONE, _ERROR):
                code = -struct.unpack_from("=i", payload)[0] if len(payload) >= 4 else 0
                # A table that never had a route is none that the kernel knows.
                if code not in (0, errno.ENOENT):
                    raise OSError(code, os.strerror(code))
                return
            if kind == _NEWROUTE:
                yield _route(payload)


def _route(payload: bytes) -> Route:
    family, length, *_ = _ROUTE.unpack_from(payload)
    found: dict[int, bytes] = {}
    at = _ROUTE.size
    while at + _ATTRIBUTE.size <= len(payload):
        size, kind = _ATTRIBUTE.unpack_from(payload, at)
        if size < _ATTRIBUTE.size:
            break
        found[kind & _TYPE_MASK] = payload[at + _ATTRIBUTE.size : at + size]
        at += (size + 3) & ~3
    nothing = bytes(4 if family == socket.AF_INET else 16)
    device = found.get(_OIF)
    return Route(
        ip_network((found.get(_DST, nothing), length)),
        _WORD.unpack(device)[0] if device else 0,
        ip_address(found[_GATEWAY]) if _GATEWAY in found else None,
        ip_address(found[_PREFSRC]) if _PREFSRC in found else None,
    )
