"""Packets that are rare: tags, options, extension headers, SCTP, errors; and what becomes of them.

Everything wanted is built by scapy from the packet that went in, with every checksum computed anew.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import IPv6, _ICMPv6
from scapy.layers.l2 import Ether
from scapy.layers.sctp import SCTP
from scapy.packet import Packet, Raw

from tests.bpf.world import (
    CLIENT,
    CLIENT6,
    CLIENT_MAC,
    CLIENT_PORT,
    GATEWAY_MAC,
    SERVICE_ADDRESS,
    SERVICE_ADDRESS6,
    UPLINK_MAC,
    built,
    ip_of,
)

OVER = (TCP, UDP, SCTP)


def tagged(packet: Packet | bytes, *tags: int, types: Sequence[int] = ()) -> bytes:
    """The same frame with tags (TCI, outer first): 802.1Q, two of them 802.1ad and 802.1Q."""
    octets = bytes(packet)
    types = types or ((0x8100,) if len(tags) == 1 else (0x88A8, 0x8100))
    put_in = b"".join(struct.pack("!HH", kind, tci) for kind, tci in zip(types, tags, strict=True))
    return octets[:12] + put_in + octets[12:]


def untagged(packet: Packet | bytes) -> bytes:
    """The same frame without its tags."""
    frame = Ether(bytes(packet))
    at = 12
    while bytes(frame)[at : at + 2] in (b"\x81\x00", b"\x88\xa8"):
        at += 4
    return bytes(frame)[:12] + bytes(frame)[at:]


def client_frame(ip: Packet, payload: Packet | bytes) -> Packet:
    """A frame from the client's router, built."""
    body = payload if isinstance(payload, Packet) else Raw(payload)
    return built(Ether(src=CLIENT_MAC, dst=UPLINK_MAC) / ip / body)


def base(six: bool, dst: str, **fields: Any) -> Packet:
    """The client's IP header of either family."""
    return IPv6(src=CLIENT6, dst=dst, **fields) if six else IP(src=CLIENT, dst=dst, **fields)


def service_address(six: bool) -> str:
    """The address by which backends see clients."""
    return SERVICE_ADDRESS6 if six else SERVICE_ADDRESS


def without_sums(packet: Packet) -> Packet:
    """Every checksum left to scapy, also those of a packet inside an error."""
    layer: Packet | None = packet
    while layer:
        if isinstance(layer, (IP, TCP, UDP, SCTP, ICMP)):
            del layer.chksum
        elif isinstance(layer, _ICMPv6):
            del layer.cksum
        layer = layer.payload or None
    return packet


def turned(
    packet: Packet | bytes,
    *,
    src: str | None = None,
    dst: str | None = None,
    sport: int | None = None,
    dport: int | None = None,
    macs: tuple[str | None, str | None] = (None, None),
) -> bytes:
    """The packet with these addresses, ports and MACs (source, destination), one hop older."""
    wanted = Ether(bytes(packet))
    ip = ip_of(wanted)
    ip.src, ip.dst = src or ip.src, dst or ip.dst
    if isinstance(ip, IPv6):
        ip.hlim -= 1
    else:
        ip.ttl -= 1
    for layer in OVER:
        if layer in wanted:
            wanted[layer].sport = sport or wanted[layer].sport
            wanted[layer].dport = dport or wanted[layer].dport
            break
    wanted[Ether].src, wanted[Ether].dst = macs[0] or wanted.src, macs[1] or wanted.dst
    return bytes(without_sums(wanted))


def to_backend(packet: Packet | bytes, target: Any, port: int, source: str = "") -> bytes:
    """What the uplink has to make of a client's packet without tags; `port`: see World.port_of."""
    six = target.address.version == 6
    return turned(
        packet,
        src=source or service_address(six),
        dst=str(target.address),
        sport=port,
        dport=target.port,
        macs=(None, GATEWAY_MAC),
    )


def to_client(packet: Packet | bytes, vip: Any, client: str = "", port: int = CLIENT_PORT) -> bytes:
    """What svc0 has to make of a backend's packet, before tags."""
    six = vip.address.version == 6
    return turned(
        packet,
        src=str(vip.address),
        dst=client or (CLIENT6 if six else CLIENT),
        sport=vip.port,
        dport=port,
        macs=(UPLINK_MAC, CLIENT_MAC),
    )


def sound(octets: bytes) -> Packet:
    """The packet (no error), whose checksums are what scapy computes."""
    again = bytes(without_sums(Ether(octets)))
    assert octets == again, shown(octets, again)
    return Ether(octets)


def folded(octets: bytes) -> int:
    """The Internet checksum's sum (RFC 1071): 0xffff over what has a right one."""
    total: int = sum(
        struct.unpack(f"!{(len(octets) + 1) // 2}H", octets + b"\0" * (len(octets) % 2))
    )
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total


def pseudo_header(ip: Packet, protocol: int, size: int) -> bytes:
    """What a transport checksum is over beside the packet."""
    if isinstance(ip, IPv6):
        return bytes(ip)[8:40] + struct.pack("!II", size, protocol)
    return bytes(ip)[12:20] + struct.pack("!HH", protocol, size)


@dataclass(frozen=True, slots=True)
class IcmpError:
    """An ICMP error of either family, without its headers' checksums, which are right."""

    src: str
    dst: str
    type: int
    code: int
    value: int
    quoted: bytes


def error_of(octets: bytes) -> IcmpError:
    """The ICMP error that a frame is, read by hand: scapy guesses at extensions in it."""
    frame = Ether(octets)
    ip = ip_of(frame)
    at = 14 + (40 if isinstance(ip, IPv6) else ip.ihl * 4)
    body = octets[at:]
    if isinstance(ip, IPv6):
        assert ip.nh == 58
        assert ip.plen == len(body)
        assert folded(pseudo_header(ip, 58, len(body)) + body) == 0xFFFF
    else:
        assert ip.proto == 1
        assert ip.len == len(octets) - 14
        assert folded(octets[14:at]) == 0xFFFF
        assert folded(body) == 0xFFFF
    kind, code, _, value = struct.unpack("!BBHI", body[:8])
    return IcmpError(ip.src, ip.dst, kind, code, value, body[8:])


def shown(octets: bytes, wanted: bytes) -> str:
    """Both, for a failed comparison."""
    return f"{Ether(octets).show2(dump=True)}\nwanted\n{Ether(wanted).show2(dump=True)}"
