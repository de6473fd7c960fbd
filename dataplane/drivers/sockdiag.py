"""The kernel's sockets of one network namespace, and how one is ended.

Only connected UDP sockets that were translated are of interest here: what they were made of is read
from the sockets themselves (the map sock_peers, which the kernel lists along with a socket).

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

from bpf import abi
from dataplane.drivers.libbpf import Map
from dataplane.model.addr import IPAddress, L4Addr, Protocol
from dataplane.model.sockets import SocketPeer
from dataplane.ports import CapabilityMissing, ObserveError

_NETLINK_SOCK_DIAG = 4
_SOCK_DIAG_BY_FAMILY, _SOCK_DESTROY = 20, 21
_NLMSG_ERROR, _NLMSG_DONE = 2, 3
_REQUEST, _ACK, _DUMP = 0x1, 0x4, 0x300
_REQ_BPF_STORAGES, _REQ_MAP_FD = 2, 1
_BPF_STORAGES, _STORAGE_MAP_VALUE = 20, 3
_NESTED = 0x8000
_TYPE_MASK = 0x3FFF
_ESTABLISHED = 1 << 1
"""A connected UDP socket's state (TCP_ESTABLISHED) in a mask of states."""

_HEADER = struct.Struct("=IHHII")
_REQUEST_V2 = struct.Struct("=BBBBI48s")
_ANSWER = struct.Struct("=BBBB48s20x")
"""struct inet_diag_msg: family, state, timer, retransmissions, the socket's id, and counts."""

_BUFFER = 1 << 16
_MAPPED = bytes(10) + b"\xff\xff"


@dataclass(frozen=True, slots=True)
class TranslatedSocket:
    """One connected UDP socket; `number` is struct inet_diag_sockid, which names it for good."""

    family: int
    number: bytes
    peer: SocketPeer


def _attribute(kind: int, payload: bytes) -> bytes:
    size = 4 + len(payload)
    return struct.pack("=HH", size, kind) + payload + bytes(-size % 4)


def _attributes(octets: bytes) -> Iterator[tuple[int, bytes]]:
    while len(octets) >= 4:
        size, kind = struct.unpack_from("=HH", octets)
        if size < 4:
            return
        yield kind & _TYPE_MASK, octets[4:size]
        octets = octets[(size + 3) // 4 * 4 :]


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


def _messages(source: socket.socket) -> Iterator[tuple[int, bytes]]:
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
            yield kind, payload


def _address(octets: bytes) -> IPAddress:
    if octets.startswith(_MAPPED):
        return IPv4Address(octets[12:])
    return IPv6Address(octets)


def _peer(value: bytes) -> SocketPeer | None:
    fields = abi.SOCK_PEER.unpack(value[: abi.SOCK_PEER.size])
    if not fields["flags"] & abi.SockFlag.SOCK_CONNECTED:
        return None
    protocol = Protocol(fields["proto"])
    return SocketPeer(
        L4Addr(protocol, _address(fields["vip"]), fields["vip_port"]),
        L4Addr(protocol, _address(fields["backend"]), fields["backend_port"]),
        fields["service_id"],
    )


def _storage(attributes: bytes) -> bytes | None:
    """What sock_peers has for the socket that these attributes are of."""
    for kind, storages in _attributes(attributes):
        if kind == _BPF_STORAGES:
            for _, storage in _attributes(storages):
                for part, value in _attributes(storage):
                    if part == _STORAGE_MAP_VALUE:
                        return value
    return None


def translated_sockets(sock_peers: Map) -> list[TranslatedSocket]:
    """The connected UDP sockets of the calling thread's namespace that have a VIP's backend.

    Raises:
        ObserveError: the kernel does not list them.
    """
    found = []
    wanted = _attribute(_REQ_MAP_FD, struct.pack("=I", sock_peers.fd))
    storages = _attribute(_REQ_BPF_STORAGES | _NESTED, wanted)
    for family in (socket.AF_INET, socket.AF_INET6):
        request = _REQUEST_V2.pack(family, socket.IPPROTO_UDP, 0, 0, _ESTABLISHED, bytes(48))
        with _netlink() as netlink:
            try:
                _send(netlink, _SOCK_DIAG_BY_FAMILY, _REQUEST | _DUMP, request + storages)
                for _, message in _messages(netlink):
                    of_family, _, _, _, number = _ANSWER.unpack_from(message)
                    value = _storage(message[_ANSWER.size :])
                    peer = _peer(value) if value else None
                    if peer is not None:
                        found.append(TranslatedSocket(of_family, number, peer))
            except OSError as error:
                msg = f"UDP sockets cannot be listed: {error}"
                raise ObserveError(msg) from error
    return found


def destroy(ended: TranslatedSocket) -> bool:
    """End a socket: what its process does with it next fails with ECONNABORTED, and so says why.

    Returns:
        False: it was gone already.

    Raises:
        CapabilityMissing: the kernel cannot (CONFIG_INET_DIAG_DESTROY), or we may not.
    """
    request = _REQUEST_V2.pack(ended.family, socket.IPPROTO_UDP, 0, 0, _ESTABLISHED, ended.number)
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
