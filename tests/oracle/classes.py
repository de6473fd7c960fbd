"""What kinds of frames went through: told from the frames themselves, not from how they were drawn.

A campaign that has stopped sending a kind would go on finding no difference; so every kind that
there should be is listed here, and a test fails for each that did not occur.
"""

from __future__ import annotations

from collections.abc import Iterator

from tests.oracle.wire import (
    ARP,
    FRAGMENT,
    ICMP,
    ICMPV6,
    LLDP,
    QINQ,
    SCTP,
    TCP,
    UDP,
    VLAN,
    Fault,
    Frame,
)

PROTOCOLS = {TCP: "TCP", UDP: "UDP", SCTP: "SCTP", ICMP: "ICMP", ICMPV6: "ICMPv6"}
ERRORS = {4: (3, 11, 12), 6: (1, 2, 3, 4)}
ECHOES = {4: 8, 6: 128}
FAULTS = {Fault.SHORT: "malformed", Fault.FOREIGN: "no IP", Fault.DARK: "unfollowable"}
TAGS = {(): "untagged", (VLAN,): "VLAN", (QINQ, VLAN): "QinQ"}
HEADER = {4: 20, 6: 40}

_FAMILIES = ("IPv4", "IPv6")

EXPECTED = frozenset((
    *FAULTS.values(), *TAGS.values(), "odd tags", "ARP", "LLDP", "other ethertype",
    *(f"{family} {name}" for family in _FAMILIES for name in ("TCP", "UDP", "SCTP")),
    "IPv4 ICMP", "IPv6 ICMPv6", "IPv4 other protocol", "IPv6 other protocol",
    *(f"{family} {name}" for family in _FAMILIES for name in (
        "first fragment", "later fragment", "error", "echo", "TTL over", "no UDP checksum",
    )),
    *(f"{family} {name} in {tags}" for family in _FAMILIES for name in ("TCP", "UDP", "SCTP")
      for tags in ("VLAN", "QinQ")),
    "IPv4 options", "IPv6 extension headers", "octets behind the packet", "group MAC",
    "port of the first choice", "port of the second choice", "privileged port kept",
    "privileged port changed",
    "as drawn", "truncated", "bits flipped", "field overwritten", "octets inserted", "lengthened",
))  # fmt: skip
"""Every kind that a campaign has to show, of frames and of source ports that flows were given."""

EXPECTED_REASONS = frozenset((
    "PASS_ARP", "PASS_LLDP", "PASS_IPV4", "PASS_IPV6", "PASS_ND", "XSK_ARP", "XSK_IPV4",
    "XSK_IPV6", "XSK_VLAN", "XSK_OTHER", "XSK_MALFORMED", "VIP_FORWARD", "VIP_NEW",
    "VIP_DIRECT", "VIP_FRAGMENT", "UPLINK_REPLY", "UPLINK_ICMP_ERROR", "SVC_REPLY", "SVC_NEW",
    "SVC_FORWARD", "SVC_FRAGMENT", "SVC_ICMP_ERROR", "SVC_UPLINK", "SVC_PASS_ARP",
    "SVC_PASS_ICMP", "SVC_PASS_ND", "ANSWER_ARP", "ANSWER_ND", "ANSWER_ECHO", "ANSWER_RST",
    "ANSWER_UNREACHABLE", "ANSWER_TOO_BIG", "ANSWER_TTL", "DROP_VIP_FRAGMENT", "DROP_VIP_TTL",
    "DROP_VIP_MALFORMED", "DROP_NO_GATEWAY", "DROP_NO_BACKEND", "DROP_CONFLICT", "DROP_CT_FULL",
    "DROP_NO_TX_PORT", "DROP_SVC_NO_FLOW", "DROP_SVC_MULTICAST", "DROP_SVC_MALFORMED",
    "DROP_SVC_FRAGMENT", "DROP_SOURCE_RANGE", "DROP_NO_LOCAL", "DROP_FRAGMENT_MISS",
    "DROP_VIP_PORT", "DROP_EXTENSION", "DROP_TOO_BIG", "DROP_ANSWER_LIMIT",
))  # fmt: skip
"""Every reason that frames of one processor, one at a time, can be counted by."""


def classes(frame: Frame) -> Iterator[str]:
    """The kinds that a frame is of."""
    tags = TAGS.get(tuple(kind for kind, _ in frame.tags), "odd tags")
    yield tags
    if frame.group:
        yield "group MAC"
    if frame.fault is not Fault.NONE:
        yield FAULTS[frame.fault]
        if frame.fault is Fault.FOREIGN:
            kind = frame.ethertype
            yield "ARP" if kind == ARP else "LLDP" if kind == LLDP else "other ethertype"
        return
    version, octets, l4 = frame.version, frame.octets, frame.l4
    family = _FAMILIES[version == 6]
    if frame.ttl <= 1:
        yield f"{family} TTL over"
    if frame.end < frame.size:
        yield "octets behind the packet"
    if l4 - frame.l3 > HEADER[version] and not (version == 6 and octets[frame.l3 + 6] == FRAGMENT):
        yield "IPv4 options" if version == 4 else "IPv6 extension headers"
    if frame.frag_offset:
        yield f"{family} later fragment"
        return
    if frame.is_fragment:
        yield f"{family} first fragment"
    name = PROTOCOLS.get(frame.proto)
    if name is None:
        yield f"{family} other protocol"
        return
    yield f"{family} {name}"
    if tags != "untagged":
        yield f"{family} {name} in {tags}"
    if frame.proto == UDP and octets[l4 + 6 : l4 + 8] == b"\0\0":
        yield f"{family} no UDP checksum"
    if frame.proto == (ICMP if version == 4 else ICMPV6) and l4 + 8 <= frame.end:
        if octets[l4] in ERRORS[version]:
            yield f"{family} error"
        elif octets[l4] == ECHOES[version]:
            yield f"{family} echo"
