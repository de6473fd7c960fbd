"""Frames made from plain values, checksums right: what comes off a wire."""

from __future__ import annotations

from collections.abc import Sequence

from tests.oracle.wire import (
    CHECK_AT,
    FRAGMENT,
    ICMP,
    ICMPV6,
    IPV4,
    IPV6,
    QINQ,
    SCTP,
    TCP,
    UDP,
    VLAN,
    checksum,
    crc32c,
    pseudo,
)

PROTOCOLS = {4: ICMP, 6: ICMPV6}


def eth(dst: bytes, src: bytes, kind: int, payload: bytes, tcis: Sequence[int] = ()) -> bytes:
    """An Ethernet frame; one tag is 802.1Q's, of two the outer one 802.1ad's."""
    tpids = (VLAN,) if len(tcis) == 1 else (QINQ, VLAN)
    tags = b"".join(
        tpid.to_bytes(2, "big") + tci.to_bytes(2, "big")
        for tpid, tci in zip(tpids, tcis, strict=False)
    )
    return dst + src + tags + kind.to_bytes(2, "big") + payload


def ip(
    src: bytes,
    dst: bytes,
    proto: int,
    payload: bytes,
    *,
    ttl: int = 64,
    ident: int = 0,
    offset: int = 0,
    more: bool = False,
    options: bytes = b"",
    extensions: Sequence[tuple[int, bytes]] = (),
    tos: int = 0,
    dont: bool = False,
) -> bytes:
    """A packet of either family.

    `options` are IPv4's (a multiple of 4 octets); `extensions` IPv6's: (type, content without the
    first two octets, 6 or 14 of them). A fragment if `offset` [octets] or `more`.
    """
    if len(src) == 4:
        word = offset // 8 | (0x2000 if more else 0) | (0x4000 if dont else 0)
        head = bytearray(20)
        head[0], head[1], head[8], head[9] = 0x45 + len(options) // 4, tos, ttl, proto
        head[2:4] = (20 + len(options) + len(payload)).to_bytes(2, "big")
        head[4:6], head[6:8] = (ident & 0xFFFF).to_bytes(2, "big"), word.to_bytes(2, "big")
        head[12:16], head[16:20] = src, dst
        head += options
        head[10:12] = checksum(bytes(head)).to_bytes(2, "big")
        return bytes(head) + payload
    chain = list(extensions)
    if offset or more:
        word = offset | more
        chain.append((FRAGMENT, word.to_bytes(2, "big") + (ident & 0xFFFFFFFF).to_bytes(4, "big")))
    kinds = [kind for kind, _ in chain] + [proto]
    headers = b""
    for (kind, content), following in zip(chain, kinds[1:], strict=True):
        size = 0 if kind == FRAGMENT else (len(content) + 2) // 8 - 1
        headers += bytes((following, size)) + content
    size = len(headers) + len(payload)
    head6 = bytes((0x60 | tos >> 4, (tos & 15) << 4, 0, 0)) + size.to_bytes(2, "big")
    return head6 + bytes((kinds[0], ttl)) + src + dst + headers + payload


def _summed(src: bytes, dst: bytes, proto: int, segment: bytes) -> bytes:
    body = segment if proto == ICMP else pseudo(src, dst, proto, len(segment)) + segment
    check = checksum(body)
    if proto == UDP and check == 0:
        check = 0xFFFF
    at = CHECK_AT[proto]
    return segment[:at] + check.to_bytes(2, "big") + segment[at + 2 :]


def tcp(
    src: bytes, dst: bytes, sport: int, dport: int, flags: int, data: bytes = b"", seq: int = 1,
    ack: int = 0, options: bytes = b"",
) -> bytes:  # fmt: skip
    """A TCP segment."""
    head = sport.to_bytes(2, "big") + dport.to_bytes(2, "big")
    head += seq.to_bytes(4, "big") + ack.to_bytes(4, "big")
    head += bytes(((5 + len(options) // 4) << 4, flags)) + b"\xff\xff\0\0\0\0" + options
    return _summed(src, dst, TCP, head + data)


def udp(
    src: bytes, dst: bytes, sport: int, dport: int, data: bytes = b"", *, summed: bool = True
) -> bytes:
    """A UDP datagram, without a checksum if not `summed`."""
    head = sport.to_bytes(2, "big") + dport.to_bytes(2, "big")
    segment = head + (8 + len(data)).to_bytes(2, "big") + b"\0\0" + data
    return _summed(src, dst, UDP, segment) if summed else segment


def sctp(sport: int, dport: int, chunk: int, data: bytes = b"") -> bytes:
    """An SCTP packet of one chunk."""
    data += bytes(-len(data) % 4)
    head = sport.to_bytes(2, "big") + dport.to_bytes(2, "big") + b"\x12\x34\x56\x78"
    rest = bytes((chunk, 0)) + (4 + len(data)).to_bytes(2, "big") + data
    crc = crc32c(head + bytes(4) + rest)
    return head + crc.to_bytes(4, "little") + rest


def segment(
    src: bytes, dst: bytes, sport: int, dport: int, proto: int, flags: int, data: bytes
) -> bytes:
    """A segment of any protocol with ports; `flags` are TCP's, or the type of SCTP's chunk."""
    if proto == TCP:
        return tcp(src, dst, sport, dport, flags, data)
    if proto == SCTP:
        return sctp(sport, dport, flags, data)
    return udp(src, dst, sport, dport, data)


def icmp(src: bytes, dst: bytes, kind: int, code: int, word: int, data: bytes) -> bytes:
    """An ICMP or ICMPv6 message by the family of its addresses; `word` is its second one."""
    head = bytes((kind, code, 0, 0)) + word.to_bytes(4, "big")
    return _summed(src, dst, PROTOCOLS[4 if len(src) == 4 else 6], head + data)


def arp(operation: int, mac: bytes, sender: bytes, target_mac: bytes, target: bytes) -> bytes:
    """ARP for IPv4 over Ethernet."""
    head = bytes.fromhex("000108000604") + operation.to_bytes(2, "big")
    return head + mac + sender + target_mac + target


def solicitation(src: bytes, dst: bytes, target: bytes, mac: bytes) -> bytes:
    """A neighbour solicitation; without its option if nobody sends it."""
    option = b"\x01\x01" + mac if any(src) else b""
    return icmp(src, dst, 135, 0, 0, target + option)


def kind_of(addr: bytes) -> int:
    """The ethertype of an address's family."""
    return IPV4 if len(addr) == 4 else IPV6
