"""Packets of tests, whole and with right checksums, each with a number that comes out with it."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path

from tests.oracle.wire import ICMP, ICMPV6, SCTP, TCP, UDP, checksum, crc32c, pseudo

MARK = b"millrace#"
SYN, ACK = 2, 16
_NUMBERS = {"TCP": TCP, "UDP": UDP, "SCTP": SCTP}


@dataclass(frozen=True, slots=True)
class Packet:
    """One packet. `protocol`: TCP, UDP, SCTP or ICMP, which is ICMPv6 between IPv6 addresses.

    `answer`: the other direction of what a packet with the ports swapped began.
    """

    number: int
    source: str
    target: str
    protocol: str
    sport: int
    dport: int
    answer: bool = False

    def back(self, number: int) -> Packet:
        """The answer to it."""
        return Packet(
            number, self.target, self.source, self.protocol, self.dport, self.sport, answer=True
        )


def frame(source_mac: str, target_mac: str, packet: Packet) -> bytes:
    """The Ethernet frame."""
    source, target = ip_address(packet.source), ip_address(packet.target)
    four = source.version == 4
    number = _NUMBERS.get(packet.protocol, ICMP if four else ICMPV6)
    body = _segment(packet, number, source.packed, target.packed)
    if four:
        header = struct.pack(
            ">BBHHHBBH4s4s", 0x45, 0, 20 + len(body), packet.number & 0xFFFF, 0, 64, number, 0,
            source.packed, target.packed,
        )  # fmt: skip
        header = header[:10] + struct.pack(">H", checksum(header)) + header[12:]
    else:
        header = struct.pack(">IHBB", 6 << 28, len(body), number, 64)
        header += source.packed + target.packed
    kind = b"\x08\x00" if four else b"\x86\xdd"
    return _mac(target_mac) + _mac(source_mac) + kind + header + body


def _segment(packet: Packet, number: int, source: bytes, target: bytes) -> bytes:
    data = MARK + struct.pack(">I", packet.number)
    ports = struct.pack(">HH", packet.sport, packet.dport)
    if number == TCP:
        flags = SYN | ACK if packet.answer else SYN
        head = ports + struct.pack(">IIBBHHH", 1000, 1001 if packet.answer else 0, 0x50, flags,
                                   0xFFFF, 0, 0)  # fmt: skip
        return _summed(head + data, 16, pseudo(source, target, number, len(head + data)))
    if number == UDP:
        size = 8 + len(data)
        whole = ports + struct.pack(">HH", size, 0) + data
        return _summed(whole, 6, pseudo(source, target, number, size))
    if number == SCTP:
        # INIT has the tag 0; its answer the one that INIT named, which is in the data here.
        padded = data + b"\0" * (-len(data) % 4)
        kind = 2 if packet.answer else 1
        init = struct.pack(">IIHHI", 7, 0xFFFF, 1, 1, 1)
        size = 4 + len(init) + len(padded) + 4
        chunk = struct.pack(">BBH", kind, 0, size) + init
        chunk += struct.pack(">HH", 0x8001, 4 + len(padded)) + padded
        whole = ports + struct.pack(">II", 7 if packet.answer else 0, 0) + chunk
        return whole[:8] + struct.pack("<I", crc32c(whole)) + whole[12:]
    echo = (8, 0) if number == ICMP else (128, 129)
    whole = struct.pack(">BBHHH", echo[packet.answer], 0, 0, _identifier(packet), 1) + data
    under = pseudo(source, target, number, len(whole)) if number == ICMPV6 else b""
    return _summed(whole, 2, under)


def _identifier(packet: Packet) -> int:
    return packet.dport if packet.answer else packet.sport


def _summed(octets: bytes, at: int, under: bytes) -> bytes:
    return octets[:at] + struct.pack(">H", checksum(under + octets)) + octets[at + 2 :]


def arp_request(mac: str, address: str, wanted: str) -> bytes:
    """Who has `wanted`, asked by everybody's broadcast."""
    own = _mac(mac) + ip_address(address).packed
    head = b"\xff" * 6 + _mac(mac) + b"\x08\x06"
    return head + struct.pack(">HHBBH", 1, 0x0800, 6, 4, 1) + own + b"\0" * 6 + (
        ip_address(wanted).packed
    )  # fmt: skip


def neighbour_solicitation(mac: str, address: str, wanted: str) -> bytes:
    """Who has `wanted`, asked of its solicited-node group (RFC 4861, 4.3; RFC 4291, 2.7.1)."""
    source, target = ip_address(address).packed, ip_address(wanted).packed
    group = bytes.fromhex("ff0200000000000000000001ff") + target[-3:]
    body = struct.pack(">BBHI", 135, 0, 0, 0) + target + b"\x01\x01" + _mac(mac)
    body = _summed(body, 2, pseudo(source, group, ICMPV6, len(body)))
    header = struct.pack(">IHBB", 6 << 28, len(body), ICMPV6, 255) + source + group
    return b"\x33\x33" + group[-4:] + _mac(mac) + b"\x86\xdd" + header + body


def icmp6(source_mac: str, target_mac: str, source: str, target: str, message: bytes) -> bytes:
    """A frame with an ICMPv6 message, whose checksum is put in (RFC 4443, 2.3)."""
    one, other = ip_address(source).packed, ip_address(target).packed
    body = _summed(message, 2, pseudo(one, other, ICMPV6, len(message)))
    return _six(source_mac, target_mac, one + other, ICMPV6, body)


def neighbour_advertisement(mac: str, address: str, target_mac: str, target: str) -> bytes:
    """`target` is told who has `address`, as if it had asked (RFC 4861, 4.4)."""
    body = struct.pack(">BBHI", 136, 0, 0, 6 << 28) + ip_address(address).packed
    return icmp6(mac, target_mac, address, target, body + b"\x02\x01" + _mac(mac))


def udp6(
    source_mac: str, target_mac: str, source: str, target: str, ports: tuple[int, int], data: bytes
) -> bytes:
    """A frame with a UDP datagram over IPv6."""
    one, other = ip_address(source).packed, ip_address(target).packed
    size = 8 + len(data)
    whole = struct.pack(">HHHH", *ports, size, 0) + data
    return _six(source_mac, target_mac, one + other, UDP,
                _summed(whole, 6, pseudo(one, other, UDP, size)))  # fmt: skip


def igmp_report(mac: str, source: str, group: str) -> bytes:
    """A station joins a group of multicast (RFC 2236, 2)."""
    member = ip_address(group).packed
    body = struct.pack(">BBH4s", 0x16, 0, 0, member)
    body = _summed(body, 2, b"")
    head = struct.pack(">BBHHHBBH4s4s", 0x45, 0, 20 + len(body), 1, 0, 1, 2, 0,
                       ip_address(source).packed, member)  # fmt: skip
    head = head[:10] + struct.pack(">H", checksum(head)) + head[12:]
    towards = b"\x01\x00\x5e" + bytes((member[1] & 0x7F,)) + member[2:]
    return towards + _mac(mac) + b"\x08\x00" + head + body


def _six(source_mac: str, target_mac: str, ends: bytes, protocol: int, body: bytes) -> bytes:
    header = struct.pack(">IHBB", 6 << 28, len(body), protocol, 255) + ends
    return _mac(target_mac) + _mac(source_mac) + b"\x86\xdd" + header + body


def is_advertisement(octets: bytes, address: str) -> bool:
    """Whether a frame is a neighbour advertisement of an address (RFC 4861, 4.4)."""
    ours = octets[12:14] == b"\x86\xdd" and octets[20] == ICMPV6 and octets[54] == 136
    return ours and octets[62:78] == ip_address(address).packed


def arp_reply(mac: str, address: str, target_mac: str, target: str) -> bytes:
    """`target` is told who has `address`."""
    own = _mac(mac) + ip_address(address).packed
    body = struct.pack(">HHBBH", 1, 0x0800, 6, 4, 2) + own
    body += _mac(target_mac) + ip_address(target).packed
    return _mac(target_mac) + _mac(mac) + b"\x08\x06" + body


CAPTURE_HEAD = 24
"""Octets of a capture before its first frame (pcap)."""


def frames_since(path: Path, place: int) -> Iterator[tuple[bytes, int]]:
    """The frames of a capture from a place on, each with the place behind it.

    One that is half written is left out.
    """
    octets = path.read_bytes() if path.exists() else b""
    while place + 16 <= len(octets):
        (size,) = struct.unpack_from("<I", octets, place + 8)
        begin, place = place + 16, place + 16 + size
        if place > len(octets):
            return
        yield octets[begin:place], place


def frames(path: Path) -> Iterator[bytes]:
    """All frames of a capture."""
    return (octets for octets, _ in frames_since(path, CAPTURE_HEAD))


def ends_of(octets: bytes) -> tuple[str, str]:
    """Source and target of an untagged IPv4 or IPv6 frame."""
    four = octets[12:14] == b"\x08\x00"
    at, size = (26, 4) if four else (22, 16)
    source, target = octets[at : at + size], octets[at + size : at + 2 * size]
    return str(ip_address(source)), str(ip_address(target))


def number_of(octets: bytes) -> int | None:
    """The number that a frame carries; None: it is none of ours."""
    at = octets.find(MARK)
    return None if at < 0 else int.from_bytes(octets[at + len(MARK) : at + len(MARK) + 4], "big")


def _mac(text: str) -> bytes:
    return bytes.fromhex(text.replace(":", ""))
