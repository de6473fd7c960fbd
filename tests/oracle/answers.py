"""Whether an answer is what the RFCs ask of it. Freedoms that they leave are left here, too.

Every check returns what is wrong, or None. `near` is the MAC that an answer comes from.
"""

from __future__ import annotations

from tests.oracle.wire import (
    ACK,
    FIN,
    ICMP,
    ICMPV6,
    RST,
    SYN,
    TCP,
    Fault,
    Frame,
    pseudo,
    total,
)

ALL_NODES = bytes.fromhex("ff020000000000000000000000000001")
ALL_NODES_MAC = bytes.fromhex("333300000001")
LEAST_HOPS = 32
"""An answer has to get home: fewer hops than this would be a reason to ask."""

LEAST_QUOTED, QUOTED4, QUOTED6 = 8, 576, 1280
"""RFC 792: the header and 8 octets; RFC 1812 4.3.2.3 and RFC 4443 3: no error longer than this."""


def is_host(addr: bytes) -> bool:
    """Whether an address can be one host's: neither a group's nor nobody's (RFC 1122, 4291)."""
    if len(addr) == 4:
        return addr[0] not in (0, 127) and addr[0] < 224
    return addr[0] != 0xFF and any(addr)


def _sums(got: Frame) -> str | None:
    if got.version == 4 and total(got.octets[got.l3 : got.l4]):
        return "the IPv4 header's checksum is wrong"
    segment = got.octets[got.l4 : got.end]
    if got.proto != ICMP:
        segment = pseudo(got.src, got.dst, got.proto, len(segment)) + segment
    return "the answer's checksum is wrong" if total(segment) else None


def _head(
    asked: Frame, octets: bytes, near: bytes | None, proto: int, source: bytes
) -> Frame | str:
    """The answer, read; or what is wrong with its way home."""
    got = Frame(octets)
    if got.fault is not Fault.NONE:
        return f"the answer cannot be read: {got.fault.value}"
    if got.dst_mac != asked.src_mac or got.src_mac != (near or asked.dst_mac):
        return "the answer's MACs are not those of the way back"
    if got.tags != asked.tags:
        return f"the answer has tags {got.tags}, the question had {asked.tags}"
    if (got.src, got.dst) != (source, asked.src):
        return f"the answer goes from {got.src.hex(':')} to {got.dst.hex(':')}"
    if got.proto != proto or got.is_fragment or got.ttl < LEAST_HOPS:
        return f"the answer has protocol {got.proto}, TTL {got.ttl}"
    if got.end != got.size:
        return "there is something behind the answer"
    return got


def reset(asked: Frame, octets: bytes, near: bytes | None) -> str | None:
    """A RST to a segment for nobody (RFC 9293 section 3.10.7.1)."""
    got = _head(asked, octets, near, TCP, asked.dst)
    if isinstance(got, str):
        return got
    if (got.sport, got.dport) != (asked.dport, asked.sport):
        return "the RST's ports are not the question's, the other way round"
    at = asked.l4
    header = (asked.octets[at + 12] >> 4) * 4
    seq = int.from_bytes(asked.octets[at + 4 : at + 8], "big")
    length = asked.end - at - header + bool(asked.flags & SYN) + bool(asked.flags & FIN)
    got_seq = int.from_bytes(got.octets[got.l4 + 4 : got.l4 + 8], "big")
    got_ack = int.from_bytes(got.octets[got.l4 + 8 : got.l4 + 12], "big")
    if asked.flags & ACK:
        wanted = (RST, int.from_bytes(asked.octets[at + 8 : at + 12], "big"), 0)
    else:
        wanted = (RST | ACK, 0, (seq + length) & 0xFFFFFFFF)
    if (got.flags, got_seq, got_ack if got.flags & ACK else 0) != wanted:
        return f"the RST is {(got.flags, got_seq, got_ack)}, not {wanted}"
    return _sums(got)


def error(
    asked: Frame,
    octets: bytes,
    near: bytes | None,
    source: bytes,
    kind: tuple[int, int],
    value: int = 0,
) -> str | None:
    """An ICMP error of this (type, code) about the frame, its second word `value`."""
    proto = ICMP if asked.version == 4 else ICMPV6
    got = _head(asked, octets, near, proto, source)
    if isinstance(got, str):
        return got
    at = got.l4
    said = (octets[at], octets[at + 1])
    if said != kind or int.from_bytes(octets[at + 4 : at + 8], "big") != value:
        return f"the error is {said} {octets[at + 4 : at + 8].hex()}, not {kind} {value}"
    quoted, packet = octets[at + 8 : got.end], asked.octets[asked.l3 : asked.end]
    if not packet.startswith(quoted):
        return "the error quotes another packet"
    most = QUOTED4 if asked.version == 4 else QUOTED6
    if got.total > most:
        return f"the error has {got.total} octets, {most} are allowed"
    least = asked.l4 - asked.l3 + LEAST_QUOTED if asked.version == 4 else most - (at - got.l3) - 8
    if len(quoted) < min(least, len(packet)):
        return f"the error quotes {len(quoted)} octets only"
    return _sums(got)


def echo(asked: Frame, octets: bytes, near: bytes | None) -> str | None:
    """An echo reply: the request with addresses exchanged (RFC 792, RFC 4443 section 4.2)."""
    got = Frame(octets)
    if got.fault is not Fault.NONE or got.size != asked.size or got.ttl < LEAST_HOPS:
        return "the echo reply cannot be read, or is not as long as the request"
    if got.dst_mac != asked.src_mac or got.src_mac != (near or asked.dst_mac):
        return "the echo reply's MACs are not those of the way back"
    if (got.src, got.dst, got.tags) != (asked.dst, asked.src, asked.tags):
        return "the echo reply goes elsewhere"
    if octets[got.l4] != (0 if got.version == 4 else 129):
        return f"the echo reply has type {octets[got.l4]}"
    if octets[got.l4 + 1] != asked.octets[asked.l4 + 1]:
        return "the echo reply has another code"
    if octets[got.l4 + 4 :] != asked.octets[asked.l4 + 4 :]:
        return "the echo reply brings something else back"
    segment, was = octets[got.l4 : got.end], asked.octets[asked.l4 : asked.end]
    if got.version == 6:
        segment = pseudo(got.src, got.dst, ICMPV6, len(segment)) + segment
        was = pseudo(asked.src, asked.dst, ICMPV6, len(was)) + was
    elif total(octets[got.l3 : got.l4]) != total(asked.octets[asked.l3 : asked.l4]):
        return "the IPv4 header's checksum is not as right as it was"
    if total(segment) != total(was):
        return "the echo reply's checksum is not as right as it was"
    return None


def is_arp_question(frame: Frame) -> bytes:
    """The address that an ARP request asks for (RFC 826); empty: it is none.

    Who asks for the address it has itself announces it (RFC 5227 section 3), and wants no answer.
    """
    body = frame.octets[frame.l3 :]
    if (
        len(body) < 28
        or body[:8] != bytes.fromhex("0001080006040001")
        or body[14:18] == body[24:28]
    ):
        return b""
    return body[24:28]


def arp_target(frame: Frame) -> bytes:
    """The target of any ARP packet of IPv4 over Ethernet; empty: it is none."""
    body = frame.octets[frame.l3 :]
    if len(body) < 28 or body[:6] != bytes.fromhex("000108000604"):
        return b""
    return body[24:28]


def arp(asked: Frame, octets: bytes, mac: bytes) -> str | None:
    """An ARP reply (RFC 826): sender and target exchanged, the MAC asked for put in."""
    body = asked.octets[asked.l3 :]
    said = bytes.fromhex("0001080006040002") + mac + body[24:28] + body[8:18]
    wanted = body[8:14] + mac + asked.octets[12 : asked.l3] + said + body[28:]
    return None if octets == wanted else "the ARP reply is not as RFC 826 has it"


def solicited(frame: Frame) -> bytes:
    """The target of a valid neighbour solicitation (RFC 4861 section 7.1.1); empty: it is none.

    The checksum is left out: see `has_right_sum`.
    """
    at = frame.l4
    if frame.ttl != 255 or at != frame.l3 + 40 or frame.end - at < 24:
        return b""
    if frame.octets[at] != 135 or frame.octets[at + 1]:
        return b""
    return frame.octets[at + 8 : at + 24]


def has_right_sum(frame: Frame) -> bool:
    """Whether an ICMPv6 packet's checksum is right."""
    segment = frame.octets[frame.l4 : frame.end]
    return not total(pseudo(frame.src, frame.dst, ICMPV6, len(segment)) + segment)


def advertisement(asked: Frame, octets: bytes, mac: bytes) -> str | None:
    """A neighbour advertisement (RFC 4861 section 7.2.4)."""
    got = Frame(octets)
    if got.fault is not Fault.NONE or got.proto != ICMPV6 or got.ttl != 255:
        return "the advertisement cannot be read, or came through a router"
    target = solicited(asked)
    to_all = not any(asked.src)
    to, to_mac = (ALL_NODES, ALL_NODES_MAC) if to_all else (asked.src, asked.src_mac)
    if (got.src, got.dst, got.dst_mac, got.src_mac) != (target, to, to_mac, mac):
        return "the advertisement goes elsewhere"
    if got.tags != asked.tags or got.end != got.size:
        return "the advertisement has other tags, or something behind it"
    flags = b"\x20\0\0\0" if to_all else b"\x60\0\0\0"
    said = octets[got.l4 : got.l4 + 2] + octets[got.l4 + 4 : got.end]
    if said != b"\x88\0" + flags + target + b"\x02\x01" + mac:
        return "the advertisement says something else"
    return _sums(got)
