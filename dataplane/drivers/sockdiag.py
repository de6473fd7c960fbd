"""The connected UDP sockets of one network namespace, and how one is ended.

Source: sock_diag(7); uapi linux/inet_diag.h, linux/sock_diag.h; SOCK_DESTROY needs
CONFIG_INET_DIAG_DESTROY.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address

from dataplane.model.addr import IPAddress
from dataplane.ports import CapabilityMissing, ObserveError

_NETLINK_SOCK_DIAG = 4
_SOCK_DIAG_BY_FAMILY, _SOCK_DESTROY = 20, 21
_NLMSG_ERROR, _NLMSG_DONE = 2, 3
_REQUEST, _ACK, _DUMP = 0x1, 0x4, 0x300
_CONNECTED = 1 << 1
"""The state of a connected UDP socket (TCP_ESTABLISHED) in a mask of states."""

_HEADER = struct.Struct("=IHHII")
_REQUEST_V2 = struct.Struct("=BBBBI48s")
_ANSWER = struct.Struct("=BBBB48s")
"""struct inet_diag_msg, its beginning: family, state, timer, retransmissions, the socket's id."""

_NUMBER = struct.Struct(">HH16s16s")
"""struct inet_diag_sockid, its beginning: ports, source, destination."""

_COOKIE = struct.Struct("=II")
_COOKIE_AT = 40
_BUFFER = 1 << 16


@dataclass(frozen=True, slots=True)
class ConnectedSocket:
    """One connected UDP socket; `number` is struct inet_diag_sockid, which names it for good."""

    family: int
    number: bytes

    @property
    def cookie(self) -> int:
        """The socket's own number, the same as BPF programs see."""
        low, high = _COOKIE.unpack_from(self.number, _COOKIE_AT)
        return int(high << 32 | low)

    @property
    def peer(self) -> tuple[IPAddress, int]:
        """What it is connected to; the port may be 0."""
        _, port, _, octets = _NUMBER.unpack_from(self.number)
        if self.family == socket.AF_INET:
            return IPv4Address(octets[:4]), port
        address = IPv6Address(octets)
        return address.ipv4_mapped or address, port


@contextmanager
def _netlink() -> Iterator[socket.socket]:
    try:
        made = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_SOCK_DIAG)
    except OSError as error:
        msg = f"the kernel lists no sockets (sock_diag): {error.strerror}"
        raise ObserveError(msg) from error
    with closing(made):
        yield made


def _send(to: socket.socket, kind: int, flags: int, payload: bytes) -> None:
    to.send(_HEADER.pack(_HEADER.size + len(payload), kind, flags, 1, 0) + payload)


def _messages(source: socket.socket) -> Iterator[bytes]:
    """Messages of one answer, up to its end; an error of the kernel's is an `OSError`."""
    while True:
        octets = source.recv(_BUFFER)
        while octets:
            size, kind, _, _, _ = _HEADER.unpack_from(octets)
            payload, octets = octets[_HEADER.size : size], octets[(size + 3) // 4 * 4 :]
            if kind == _NLMSG_ERROR:
                number = -struct.unpack_from("=i", payload)[0]
                if number:
                    raise OSError(number, os.strerror(number))
                return
            if kind == _NLMSG_DONE:
                return
            yield payload


def connected_sockets() -> list[ConnectedSocket]:
    """The connected UDP sockets of the calling thread's namespace.

    Raises:
        ObserveError: the kernel does not list them.
    """
    found = []
    for family in (socket.AF_INET, socket.AF_INET6):
        request = _REQUEST_V2.pack(family, socket.IPPROTO_UDP, 0, 0, _CONNECTED, bytes(48))
        with _netlink() as netlink:
            try:
                _send(netlink, _SOCK_DIAG_BY_FAMILY, _REQUEST | _DUMP, request)
                for message in _messages(netlink):
                    of_family, _, _, _, number = _ANSWER.unpack_from(message)
                    found.append(ConnectedSocket(of_family, number))
            except OSError as error:
                msg = f"UDP sockets cannot be listed: {error}"
                raise ObserveError(msg) from error
    return found


def destroy(ended: ConnectedSocket) -> bool:
    """End a socket: what its process does with it next fails with ECONNABORTED, and so says why.

    Returns:
        False: it was gone already.

    Raises:
        CapabilityMissing: the kernel cannot (CONFIG_INET_DIAG_DESTROY), or we may not.
    """
    request = _REQUEST_V2.pack(ended.family, socket.IPPROTO_UDP, 0, 0, _CONNECTED, ended.number)
    with _netlink() as netlink:
        try:
            _send(netlink, _SOCK_DESTROY, _REQUEST | _ACK, request)
            for _ in _messages(netlink):
                pass
        except OSError as error:
            if error.errno == errno.ENOENT:
                return False
            if error.errno in (errno.EOPNOTSUPP, errno.EPERM):
                msg = (
                    "sockets to backends that went cannot be ended: the kernel was built without "
                    "CONFIG_INET_DIAG_DESTROY, or this process lacks CAP_NET_ADMIN; such sockets "
                    "get no answer until their processes connect them anew"
                )
                raise CapabilityMissing(msg) from error
            raise
    return True
