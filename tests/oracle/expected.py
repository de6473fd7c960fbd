"""What a translated frame looks like, octet by octet, with every checksum computed anew.

A frame that came with a wrong checksum has to leave with one that is wrong by as much: nothing on
the way may turn a damaged packet into a good one (RFC 1624 says how a sum changes; here it is
taken again over everything).
"""

from __future__ import annotations

from tests.oracle.wire import (
    CHECK_AT,
    IPV4,
    IPV6,
    PORTS,
    QINQ,
    SCTP,
    TCP,
    UDP,
    VLAN,
    Frame,
    Inside,
    crc32c,
    total,
)

End = tuple[bytes, int]
"""Address and port."""


def link(frame: Frame, dst_mac: bytes, src_mac: bytes, tcis: tuple[int, ...]) -> bytes:
    """An Ethernet header with these tags."""
    kinds = {0: (), 1: (VLAN,), 2: (QINQ, VLAN)}[len(tcis)]
    tags = b"".join(
        kind.to_bytes(2, "big") + tci.to_bytes(2, "big")
        for kind, tci in zip(kinds, tcis, strict=True)
    )
    return dst_mac + src_mac + tags + (IPV4 if frame.version == 4 else IPV6).to_bytes(2, "big")


def _ip(body: bytearray, frame: Frame, src: bytes, dst: bytes, ttl: int) -> None:
    if frame.version == 6:
        body[7] = ttl
        body[8:24], body[24:40] = src, dst
        return
    header = frame.l4 - frame.l3
    before = total(bytes(body[:header]))
    body[8] = ttl
    body[10:12] = b"\0\0"
    body[12:16], body[16:20] = src, dst
    body[10:12] = ((before - total(bytes(body[:header]))) % 65535).to_bytes(2, "big")


def carried(
    frame: Frame, head: bytes, src: End, dst: End, *, ttl: int | None = None
) -> tuple[bytes, ...]:
    """The frame behind `head`, from `src` to `dst`, one hop older (or with this TTL).

    More than one if the same checksum has two forms.
    """
    body = bytearray(frame.octets[frame.l3 :])
    _ip(body, frame, src[0], dst[0], frame.ttl - 1 if ttl is None else ttl)
    if frame.frag_offset or frame.proto not in PORTS:
        return (head + body,)
    at, end = frame.l4 - frame.l3, frame.end - frame.l3
    was = bytes(body[at:end])
    body[at : at + 4] = src[1].to_bytes(2, "big") + dst[1].to_bytes(2, "big")
    place = at + CHECK_AT[frame.proto]
    if frame.proto == SCTP:
        crc = int.from_bytes(was[8:12], "little")
        off = crc32c(was[:8] + bytes(4) + was[12:]) ^ crc
        now = crc32c(bytes(body[at : at + 8]) + bytes(4) + bytes(body[at + 12 : end]))
        body[place : place + 4] = (now ^ off).to_bytes(4, "little")
        return (head + body,)
    if frame.proto == UDP and was[6:8] == b"\0\0":
        return (head + body,)
    before = total(frame.src + frame.dst + was)
    body[place : place + 2] = b"\0\0"
    check = (before - total(src[0] + dst[0] + bytes(body[at:end]))) % 65535
    return _both_forms(head, body, place, check, udp=frame.proto == UDP)


def _both_forms(
    head: bytes, body: bytearray, place: int, check: int, *, udp: bool
) -> tuple[bytes, ...]:
    if check:
        body[place : place + 2] = check.to_bytes(2, "big")
        return (head + body,)
    # 0 and 0xffff are one number; of UDP 0 would say that there is none (RFC 768).
    zero = head + body
    body[place : place + 2] = b"\xff\xff"
    return (head + body,) if udp else (head + body, zero)


def error_turned(
    frame: Frame, inside: Inside, head: bytes, src: bytes, dst: bytes, inner: tuple[End, End]
) -> tuple[bytes, ...]:
    """An ICMP error from `src` to `dst` whose packet inside went from `inner[0]` to `inner[1]`."""
    body = bytearray(frame.octets[frame.l3 :])
    at, end = frame.l4 - frame.l3, frame.end - frame.l3
    was = frame.src + frame.dst + bytes(body[at:end]) if frame.version == 6 else bytes(body[at:end])
    before = total(was)
    _ip(body, frame, src, dst, frame.ttl - 1)
    forms = _inside(body, frame, inside, inner)
    found: list[bytes] = []
    for form in forms:
        form[at + 2 : at + 4] = b"\0\0"
        now = bytes(form[at:end])
        if frame.version == 6:
            now = src + dst + now
        found += _both_forms(head, form, at + 2, (before - total(now)) % 65535, udp=False)
    return tuple(found)


def _inside(
    body: bytearray, frame: Frame, inside: Inside, inner: tuple[End, End]
) -> list[bytearray]:
    """The packet inside, put back; `body` begins at the outer IP header."""
    (src, sport), (dst, dport) = inner
    at, l4, end = inside.l3 - frame.l3, inside.l4 - frame.l3, inside.end - frame.l3
    ports = sport.to_bytes(2, "big") + dport.to_bytes(2, "big")
    old_ports = bytes(body[l4 : l4 + 4])
    if frame.version == 4:
        before = total(bytes(body[at:l4]))
        body[at + 10 : at + 12] = b"\0\0"
        body[at + 12 : at + 16], body[at + 16 : at + 20] = src, dst
        body[at + 10 : at + 12] = ((before - total(bytes(body[at:l4]))) % 65535).to_bytes(2, "big")
    else:
        body[at + 8 : at + 24], body[at + 24 : at + 40] = src, dst
    body[l4 : l4 + 4] = ports
    place = l4 + CHECK_AT[inside.proto]
    if inside.proto == SCTP:
        if not inside.is_fragment and place + 4 <= end:
            # The rest of the packet is the same on both sides, there or not: it cancels out.
            rest = bytes(inside.total - (inside.l4 - inside.l3) - 4)
            change = crc32c(old_ports + rest) ^ crc32c(ports + rest)
            crc = int.from_bytes(body[place : place + 4], "little") ^ change
            body[place : place + 4] = crc.to_bytes(4, "little")
        return [body]
    check = bytes(body[place : place + 2])
    if place + 2 > end or (inside.proto == UDP and check == b"\0\0"):
        return [body]
    change = total(inside.src + inside.dst + old_ports) - total(src + dst + ports)
    now = (int.from_bytes(check, "big") + change) % 65535
    if now:
        body[place : place + 2] = now.to_bytes(2, "big")
        return [body]
    other = bytearray(body)
    body[place : place + 2] = b"\xff\xff"
    other[place : place + 2] = b"\0\0"
    return [body, other] if inside.proto == TCP else [body]
