"""The connected UDP sockets of one network namespace, and how one is ended.

Source: sock_diag(7); uapi linux/inet_diag.h, linux/sock_diag.h; SOCK_DESTROY needs
CONFIG_INET_DIAG_DESTROY.
"""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address

from dataplane.drivers.netlink import ACK, DUMP, answer, message
from dataplane.model.addr import IPAddress
from dataplane.ports import CapabilityMissing, ObserveError

_NETLINK_SOCK_DIAG = 4
_SOCK_DIAG_BY_FAMILY, _SOCK_DESTROY = 20, 21
_CONNECTED = 1 << 1
"""The state of a connected UDP socket (TCP_ESTABLISHED) in a mask of states."""

_REQUEST_V2 = struct.Struct("=BBBBI48s")
_ANSWER = struct.Struct("=BBBB48s")
"""struct inet_diag_msg, its beginning: family, state, timer, retransmissions, the socket's id."""

_NUMBER = struct.Struct(">HH16s16s")
"""struct inet_diag_sockid, its beginning: ports, source, destination."""

_COOKIE = struct.Struct("=II")
_COOKIE_AT = 40


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


def connected_sockets() -> list[ConnectedSocket]:
    """The connected UDP sockets of the calling thread's namespace.

    Raises:
        ObserveError: the kernel does not list them.
    """
    found = []
    for family in (socket.AF_INET, socket.AF_INET6):
        request = _REQUEST_V2.pack(family, socket.IPPROTO_UDP, 0, 0, _CONNECTED, bytes(48))
        with _netlink() as asked:
            try:
                asked.send(message(_SOCK_DIAG_BY_FAMILY, DUMP, 1, request))
                for payload in answer(asked, 1)[0]:
                    of_family, _, _, _, number = _ANSWER.unpack_from(payload)
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
    with _netlink() as asked:
        try:
            asked.send(message(_SOCK_DESTROY, ACK, 1, request))
            answer(asked, 1)
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
