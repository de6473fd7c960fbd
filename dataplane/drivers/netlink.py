"""Messages and attributes of netlink, and the answers to what was asked of a plain socket.

For the questions that pyroute2 answers too slowly, or not: pods' links (podwire), the routes of one
table (routedump), sockets (sockdiag). Source: netlink(7), linux/netlink.h.
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterator, Mapping

REQUEST, ACK, DUMP = 0x1, 0x4, 0x300
WORD = struct.Struct("=I")
_HEADER = struct.Struct("=IHHII")
"""struct nlmsghdr: size, type, flags, sequence, port."""
_ATTRIBUTE = struct.Struct("=HH")
_TYPE_MASK = 0x3FFF
"""The upper bits of an attribute's type are flags (NLA_TYPE_MASK)."""
_ERROR, _DONE = 2, 3
_TORN = 0x10
"""NLM_F_DUMP_INTR: what was listed changed meanwhile, and the list may lack some of it."""
_RECEIVE_BYTES = 1 << 16


def message(kind: int, flags: int, sequence: int, body: bytes) -> bytes:
    """A message to the kernel."""
    return _HEADER.pack(_HEADER.size + len(body), kind, REQUEST | flags, sequence, 0) + body


def answer(source: socket.socket, sequence: int) -> tuple[list[bytes], bool]:
    """Payloads of the answer to that number, and whether it is a list torn by a change.

    Returns when the kernel has said that it is the end; other numbers' answers are passed over.

    Raises:
        OSError: the kernel refused, or the socket failed.
    """
    found: list[bytes] = []
    torn = False
    while True:
        for kind, flags, number, payload in messages(source.recv(_RECEIVE_BYTES)):
            if number != sequence:
                continue  # the rest of an answer that was given up
            torn |= bool(flags & _TORN)
            if kind in (_ERROR, _DONE):
                code = -struct.unpack_from("=i", payload)[0] if len(payload) >= 4 else 0
                if code:
                    raise OSError(code, os.strerror(code))
                return found, torn
            found.append(payload)


def messages(octets: bytes) -> Iterator[tuple[int, int, int, bytes]]:
    """Type, flags, sequence number and payload of each message of a datagram."""
    at = 0
    while at + _HEADER.size <= len(octets):
        size, kind, flags, sequence, _ = _HEADER.unpack_from(octets, at)
        if size < _HEADER.size:
            return
        yield kind, flags, sequence, octets[at + _HEADER.size : at + size]
        at += (size + 3) & ~3


def attribute(kind: int, value: bytes) -> bytes:
    """An attribute, filled up to whole words."""
    return _ATTRIBUTE.pack(_ATTRIBUTE.size + len(value), kind) + value + bytes(-len(value) % 4)


def attributes(payload: bytes, at: int) -> Mapping[int, bytes]:
    """The attributes from `at` on, by type."""
    found = {}
    while at + _ATTRIBUTE.size <= len(payload):
        size, kind = _ATTRIBUTE.unpack_from(payload, at)
        if size < _ATTRIBUTE.size:
            break
        found[kind & _TYPE_MASK] = payload[at + _ATTRIBUTE.size : at + size]
        at += (size + 3) & ~3
    return found
