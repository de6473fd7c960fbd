"""Frames read, by the RFCs and nothing else: the oracle's own parser and checksums.

Whole checksums only: a sum is taken over all octets that it is defined over, and so is the CRC.
Addresses are octets (4 or 16 of them), ports and lengths integers.
"""

from __future__ import annotations

from enum import Enum

ARP, IPV4, IPV6, LLDP, VLAN, QINQ = 0x0806, 0x0800, 0x86DD, 0x88CC, 0x8100, 0x88A8
ICMP, TCP, UDP, ICMPV6, SCTP, FRAGMENT = 1, 6, 17, 58, 132, 44
HOP_BY_HOP, ROUTING, DESTINATION = 0, 43, 60
FIN, SYN, RST, PSH, ACK = 1, 2, 4, 8, 16
PORTS = (TCP, UDP, SCTP)
CHECK_AT = {TCP: 16, UDP: 6, SCTP: 8, ICMP: 2, ICMPV6: 2}
"""Where a header keeps its checksum [octets]."""

MOST_EXTENSIONS = 8
"""Extension headers that a receiver follows; a packet with more is nobody's honest packet."""


def total(octets: bytes) -> int:
    """The ones' complement sum of 16-bit words (RFC 1071) modulo 65535: 0 where all is right."""
    if len(octets) & 1:
        octets += b"\0"
    return int.from_bytes(octets, "big") % 65535


def checksum(octets: bytes) -> int:
    """The Internet checksum of octets whose checksum field is zero (RFC 1071)."""
    return (-total(octets)) % 65535 if any(octets) else 0xFFFF


def _crc32c_of_octet(octet: int) -> int:
    for _ in range(8):
        octet = octet >> 1 ^ 0x82F63B78 if octet & 1 else octet >> 1
    return octet


_CRC32C = tuple(_crc32c_of_octet(octet) for octet in range(256))


def crc32c(octets: bytes) -> int:
    """CRC32c (RFC 9260 appendix A); on the wire its lowest octet comes first."""
    crc, table = 0xFFFFFFFF, _CRC32C
    for octet in octets:
        crc = crc >> 8 ^ table[(crc ^ octet) & 0xFF]
    return crc ^ 0xFFFFFFFF


def pseudo(src: bytes, dst: bytes, proto: int, size: int) -> bytes:
    """What a transport checksum is over beside the segment (RFC 9293, 768; RFC 8200 8.1)."""
    if len(src) == 4:
        return src + dst + proto.to_bytes(2, "big") + size.to_bytes(2, "big")
    return src + dst + size.to_bytes(4, "big") + proto.to_bytes(4, "big")


class Fault(Enum):
    """Whether a frame can be acted upon."""

    NONE = "none"
    SHORT = "cut short, or its lengths contradict each other"
    FOREIGN = "no IP, or tags that say nothing to us"
    DARK = "headers that cannot be followed"


class Frame:
    """A frame that was read. What is not there is zero or empty."""

    __slots__ = (
        "dport",
        "dst",
        "dst_mac",
        "end",
        "ethertype",
        "fault",
        "flags",
        "frag_id",
        "frag_offset",
        "is_fragment",
        "l3",
        "l4",
        "more",
        "octets",
        "proto",
        "size",
        "sport",
        "src",
        "src_mac",
        "tags",
        "total",
        "ttl",
        "version",
    )  # fmt: skip

    def __init__(self, octets: bytes) -> None:
        self.octets = octets
        self.size = len(octets)
        self.dst_mac, self.src_mac = octets[0:6], octets[6:12]
        self.tags: tuple[tuple[int, int], ...] = ()
        self.ethertype = self.version = self.l3 = self.l4 = self.end = self.total = 0
        self.src = self.dst = b""
        self.proto = self.ttl = self.frag_offset = self.frag_id = self.sport = self.dport = 0
        self.is_fragment = self.more = False
        self.flags = 0
        """TCP: its flags; SCTP: the type of its first chunk."""
        self.fault = self._link()

    @property
    def group(self) -> bool:
        """Sent to a group of the link."""
        return bool(self.dst_mac[0] & 1)

    @property
    def tcis(self) -> tuple[int, ...]:
        """Tags as a flow keeps them: one of 802.1Q, or 802.1ad's and 802.1Q's."""
        return tuple(tci for _, tci in self.tags)

    def _link(self) -> Fault:
        octets, at = self.octets, 12
        tags: list[tuple[int, int]] = []
        while True:
            kind = int.from_bytes(octets[at : at + 2], "big")
            if at + 4 > self.size:
                self.tags, self.ethertype, self.l3 = tuple(tags), kind, at + 2
                return Fault.SHORT
            if kind not in (VLAN, QINQ) or len(tags) == 2:
                break
            tags.append((kind, int.from_bytes(octets[at + 2 : at + 4], "big")))
            at += 4
        self.tags, self.ethertype, self.l3 = tuple(tags), kind, at + 2
        if kind not in (IPV4, IPV6):
            return Fault.FOREIGN
        kinds = [tpid for tpid, _ in tags]
        if kinds not in ([], [VLAN], [QINQ, VLAN]):
            return Fault.FOREIGN
        if len(tags) == 2 and not (tags[0][1] and tags[1][1]):
            return Fault.FOREIGN
        self.version = 4 if kind == IPV4 else 6
        self.end = self.size
        return self._ipv4() if kind == IPV4 else self._ipv6()

    def _ipv4(self) -> Fault:
        octets, l3 = self.octets, self.l3
        if l3 + 20 > self.size:
            return Fault.SHORT
        header = (octets[l3] & 15) * 4
        self.total = octets[l3 + 2] << 8 | octets[l3 + 3]
        self.src, self.dst = octets[l3 + 12 : l3 + 16], octets[l3 + 16 : l3 + 20]
        self.ttl, self.proto = octets[l3 + 8], octets[l3 + 9]
        self.l4 = l3 + header
        if octets[l3] >> 4 != 4 or header < 20 or self.total < header:
            return Fault.SHORT
        word = octets[l3 + 6] << 8 | octets[l3 + 7]
        self.frag_offset, self.more = (word & 0x1FFF) * 8, bool(word & 0x2000)
        self.is_fragment = bool(self.frag_offset or self.more)
        self.frag_id = octets[l3 + 4] << 8 | octets[l3 + 5]
        return self._fits()

    def _ipv6(self) -> Fault:
        octets, l3 = self.octets, self.l3
        if l3 + 40 > self.size or octets[l3] >> 4 != 6:
            return Fault.SHORT
        self.total = (octets[l3 + 4] << 8 | octets[l3 + 5]) + 40
        self.src, self.dst = octets[l3 + 8 : l3 + 24], octets[l3 + 24 : l3 + 40]
        self.ttl = octets[l3 + 7]
        following, at = octets[l3 + 6], l3 + 40
        for turn in range(MOST_EXTENSIONS + 1):
            if following not in (HOP_BY_HOP, ROUTING, DESTINATION, FRAGMENT):
                break
            if turn == MOST_EXTENSIONS or (following == HOP_BY_HOP and turn):
                return Fault.DARK
            if at + 8 > self.size:
                return Fault.SHORT
            kind, following = following, octets[at]
            if kind == FRAGMENT:
                word = octets[at + 2] << 8 | octets[at + 3]
                self.frag_offset, self.more = word & ~7 & 0xFFFF, bool(word & 1)
                # One fragment of one is a whole datagram (RFC 6946).
                if word & ~6:
                    self.is_fragment = True
                    self.frag_id = int.from_bytes(octets[at + 4 : at + 8], "big")
                at += 8
                if self.frag_offset:
                    self.l4, self.proto = at, FRAGMENT
                    return self._fits()
                continue
            # With segments left the last destination is another: checksums are over that one.
            if kind == ROUTING and octets[at + 3]:
                return Fault.DARK
            at += (octets[at + 1] + 1) * 8
        self.l4, self.proto = at, following
        return self._fits()

    def _fits(self) -> Fault:
        if self.l3 + self.total > self.size:
            self._ports(self.size)
            return Fault.SHORT
        self.end = self.l3 + self.total
        if self.l4 > self.end:
            return Fault.SHORT
        if self.frag_offset or self.proto not in PORTS:
            return Fault.NONE
        return self._transport()

    def _ports(self, end: int) -> None:
        if self.proto in PORTS and not self.frag_offset and self.l4 + 4 <= end:
            at = self.l4
            self.sport = self.octets[at] << 8 | self.octets[at + 1]
            self.dport = self.octets[at + 2] << 8 | self.octets[at + 3]

    def _transport(self) -> Fault:
        octets, at, room = self.octets, self.l4, self.end - self.l4
        self._ports(self.end)
        if self.proto == UDP:
            if room < 8:
                return Fault.SHORT
            size = octets[at + 4] << 8 | octets[at + 5]
            if size < 8 or (size > room and not self.is_fragment):
                return Fault.SHORT
        elif self.proto == TCP:
            if room < 20:
                return Fault.SHORT
            header = (octets[at + 12] >> 4) * 4
            if header < 20 or header > room:
                return Fault.SHORT
            self.flags = octets[at + 13]
        else:
            # A common header and at least one chunk's own (RFC 9260 section 3).
            if room < 16:
                return Fault.SHORT
            self.flags = octets[at + 12]
        return Fault.NONE


class Inside:
    """The packet that an ICMP error is about: its end may be missing (RFC 792, RFC 4443 2.4 c)."""

    __slots__ = ("dport", "dst", "end", "is_fragment", "l3", "l4", "proto", "sport", "src", "total")

    def __init__(self, frame: Frame, at: int) -> None:
        """`at`: where it begins. `src` is empty if it names no flow."""
        self.l3, self.end = at, frame.end
        self.src = self.dst = b""
        self.l4 = self.proto = self.sport = self.dport = self.total = 0
        self.is_fragment = False
        # The same reader, over what is there, told that the rest is only missing.
        whole = Frame.__new__(Frame)
        whole.octets, whole.size, whole.l3, whole.end = frame.octets, frame.end, at, frame.end
        whole.version = frame.version
        whole.src = whole.dst = b""
        whole.frag_offset = whole.proto = whole.sport = whole.dport = whole.l4 = whole.total = 0
        whole.flags = 0
        whole.is_fragment = whole.more = False
        fault = whole._ipv4() if frame.version == 4 else whole._ipv6()
        if fault is Fault.DARK or not whole.src or whole.frag_offset or whole.proto not in PORTS:
            return
        header = whole.l4 - at
        if header < (20 if frame.version == 4 else 40) or whole.total < header:
            return
        if frame.version == 4 and frame.octets[at] >> 4 != 4:
            return
        self.end = min(frame.end, at + whole.total)
        if whole.l4 + 8 > self.end:
            return
        whole._ports(self.end)
        self.l4, self.proto, self.total = whole.l4, whole.proto, whole.total
        self.sport, self.dport = whole.sport, whole.dport
        self.is_fragment = whole.is_fragment
        self.src, self.dst = whole.src, whole.dst
