"""Fields and predicates of OVN's matches: their widths, and what cannot be asked of them. Pure.

They are those of ovn-sb(5), "Expressions", of 23.03 and of later versions.
"""

from __future__ import annotations

import re

TEXT = 0
"""The width of a field that holds a name."""
UNKNOWN = 1 << 20
_WIDTHS = {
    1: "flags.loopback flags.force_snat_for_dnat flags.force_snat_for_lb flags.skip_snat_for_lb"
    " flags.use_snat_zone flags.localnet flags.icmp_snat flags.tunnel_rx flags.from_ctrl"
    " ct_mark.blocked ct_mark.natted ct_mark.skip_snat ct_mark.force_snat"
    " ct_mark.allow_established ct_label.blocked ct_label.natted ct_label.skip_snat"
    " ct_label.force_snat ct.new ct.est ct.rel ct.rpl ct.inv ct.trk ct.snat ct.dnat eth.mcast",
    2: "ip.ecn ip.frag ct_mark.obs_stage",
    3: "vlan.pcp",
    6: "ip.dscp",
    8: "ip.proto ip.ttl icmp4.type icmp4.code icmp6.type icmp6.code ct_mark.obs_collector_id",
    12: "vlan.vid tcp.flags",
    16: "eth.type vlan.tci arp.op rarp.op tcp.src tcp.dst udp.src udp.dst sctp.src sctp.dst"
    " ct_mark.ecmp_reply_port ct_label.ecmp_reply_port",
    20: "ip6.label",
    32: "flags ct_mark ct_state ip4.src ip4.dst arp.spa arp.tpa rarp.spa rarp.tpa pkt.mark"
    " ct_label.label ct_label.obs_point_id ct_nw_dst ct_nw_src",
    48: "eth.src eth.dst arp.sha arp.tha rarp.sha rarp.tha nd.sll nd.tll ct_label.ecmp_reply_eth",
    96: "ct_label.obs_unused",
    128: "ct_label ip6.src ip6.dst nd.target ct_ip6_dst ct_ip6_src",
    TEXT: "inport outport",
}
_POSITIVE_NAMES = (
    "ip ip4 ip6 arp rarp tcp udp sctp icmp icmp4 icmp6 igmp nd nd_ns nd_ns_mcast nd_na nd_rs nd_ra"
    " mldv1 mldv2"
)
_OTHER_NAMES = (
    "eth.bcast eth.mcastv6 vlan.present ip4.src_mcast ip4.mcast ip6.mcast_rsvd ip6.mcast_all_nodes"
    " ip6.mcast_all_rtrs ip6.mcast_sol_node ip6.mcast_flood ip6.mcast ip.is_frag ip.later_frag"
    " ip.first_frag"
)
_UNORDERED_NAMES = (
    "eth.type ip.proto ip.dscp ip.ecn ip.ttl icmp4.type icmp4.code icmp6.type icmp6.code arp.op"
    " rarp.op"
)
POSITIVE = frozenset(_POSITIVE_NAMES.split())
"""Predicates that OVN cannot negate: they are of fields that have no order."""
COSTLY = frozenset({"ip6.mcast_all_rtrs", "ip6.mcast_flood"})
"""Predicates whose negation an ovn-controller of 23.03 does not survive: gigabytes in a minute."""
PREDICATES = POSITIVE | frozenset(_OTHER_NAMES.split())
UNORDERED = frozenset(_UNORDERED_NAMES.split())
FIELDS = {name: width for width, names in _WIDTHS.items() for name in names.split()}
FIELDS |= dict.fromkeys(PREDICATES, 1)
_REGISTERS = {"reg": 32, "xreg": 64, "xxreg": 128}
_OPEN = re.compile(r"(ct_proto|ct_tp_src|ct_tp_dst|icmp[46]\.frag_mtu|udp\.|sctp\.flags)$")
"""Fields that some versions have, and whose widths are not asked for."""


def width_of(name: str) -> int | None:
    """A field's width [bits], TEXT or UNKNOWN; None: there is no such field."""
    if (width := FIELDS.get(name)) is not None:
        return width
    register = re.fullmatch(r"(x{0,2}reg)\d", name)
    if register is not None:
        return _REGISTERS[register.group(1)]
    return UNKNOWN if _OPEN.match(name) else None
