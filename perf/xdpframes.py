"""The frames that `millrace perf xdp` sends: 64 octets each, from TEST-NET-2 (RFC 5737)."""

from __future__ import annotations

import struct
from ipaddress import IPv4Address, IPv4Network

from dataplane.model.addr import L4Addr, Mac, Protocol

CLIENTS = IPv4Network("198.51.100.0/24")
"""Clients of the benchmark; nothing real comes from here, so its traces can be told apart."""

CLIENT, CLIENT_PORT = CLIENTS[0], 1024
CLIENT_MAC = Mac("02:00:00:00:00:c1")
FRAME_SIZE = 64

SYN, ACK = 0x02, 0x10
_ETHERTYPE_IPV4 = 0x0800
_TTL = 64


def _checksum(octets: bytes) -> int:
    total: int = sum(struct.unpack(f"!{len(octets) // 2}H", octets))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def frame(
    source: IPv4Address,
    source_port: int,
    target: L4Addr,
    *,
    tcp_flags: int = ACK,
    eth_dst: Mac = CLIENT_MAC,
    eth_src: Mac = CLIENT_MAC,
) -> bytes:
    """A TCP or UDP packet in a frame of 64 octets. Its L4 checksum is not computed."""
    size = FRAME_SIZE - 14
    ip = struct.pack(
        "!BBHHHBBH4s4s",
        0x45,
        0,
        size,
        1,
        0,
        _TTL,
        target.protocol,
        0,
        source.packed,
        target.address.packed,
    )
    ip = ip[:10] + struct.pack("!H", _checksum(ip)) + ip[12:]
    if target.protocol is Protocol.TCP:
        l4 = struct.pack("!HHIIBBHHH", source_port, target.port, 1, 1, 0x50, tcp_flags, 512, 1, 0)
    else:
        l4 = struct.pack("!HHHH", source_port, target.port, size - 20, 1)
    head = eth_dst.packed() + eth_src.packed() + struct.pack("!H", _ETHERTYPE_IPV4)
    return (head + ip + l4).ljust(FRAME_SIZE, b"\0")


def answer_to(translated: bytes) -> bytes:
    """A backend's answer to a translated frame: both directions' addresses and ports swapped."""
    octets = bytearray(translated)
    octets[0:6], octets[6:12] = translated[6:12], translated[0:6]
    octets[26:30], octets[30:34] = translated[30:34], translated[26:30]
    octets[34:36], octets[36:38] = translated[36:38], translated[34:36]
    return bytes(octets)
