"""Whether OVN can parse a match that a user wrote. Pure.

Nobody else says so: the northbound database takes any text, ovn-northd hands it on, and each
ovn-controller leaves out what it cannot parse, with a line in its log. What is refused here it
refuses; what this does not know (which sets and groups there are, what a comparison needs besides)
passes. Fields are those of ovn-sb(5), "Expressions", of 23.03 and of later ones.

    or   = and {"||" and}        and = not {"&&" not}; both in one need parentheses
    not  = ["!"] primary         of a comparison only in parentheses
    primary = "(" or ")" | field | field relop constants | constants relop field [relop constants]
            | "0" | "1" | is_chassis_resident("port")
    constants = constant | "{" constant {"," constant} "}"
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from ipaddress import ip_address
from typing import NoReturn

_TOKEN = re.compile(
    r"""(?P<space>\s+|//[^\n]*|/\*.*?\*/)
    |(?P<text>"(?:[^"\\\n]|\\.)*")
    |(?P<set>[$@][A-Za-z_.][\w.:]*)
    |(?P<template>\^\w+)
    |(?P<number>(?:
        0[xX][0-9a-fA-F]+
        |[0-9a-fA-F]*:[0-9a-fA-F:.]*
        |\d+\.\d[\d.]*
        |\d+(?!\w))
        (?:/(?:0[xX][0-9a-fA-F]+|[0-9a-fA-F]*:[0-9a-fA-F:.]*|\d[\d.]*))?)
    |(?P<mark>\.\.|&&|\|\||[=!<>]=|[<>!(){}\[\],])
    |(?P<name>[A-Za-z_.][\w.]*)""",
    re.VERBOSE | re.DOTALL,
)
_RELATIONS = frozenset({"==", "!=", "<", "<=", ">", ">="})
_EXACT = frozenset({"==", "!="})

_TEXT = 0
_UNKNOWN = 1 << 20
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
    _TEXT: "inport outport",
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
_POSITIVE = frozenset(_POSITIVE_NAMES.split())
"""Predicates that OVN cannot negate: they are of fields that have no order."""
_PREDICATES = _POSITIVE | frozenset(_OTHER_NAMES.split())
_UNORDERED = frozenset(_UNORDERED_NAMES.split())
_FIELDS = {name: width for width, names in _WIDTHS.items() for name in names.split()}
_FIELDS |= dict.fromkeys(_PREDICATES, 1)
_REGISTERS = {"reg": 32, "xreg": 64, "xxreg": 128}
_OPEN = re.compile(r"(ct_proto|ct_tp_src|ct_tp_dst|icmp[46]\.frag_mtu|udp\.|sctp\.flags)$")
"""Fields that some versions have, and whose widths are not asked for."""


class _Fault(Exception):
    """What cannot be parsed."""


def _refuse(why: str) -> NoReturn:
    raise _Fault(why)


@dataclass(frozen=True, slots=True)
class _Token:
    kind: str
    text: str


@dataclass(frozen=True, slots=True)
class _Constants:
    """What a field is compared with.

    Attributes:
        bits: the most that one of them needs; 0 of masked ones.
        sets: address sets or port groups alone, of which nothing is known here.
    """

    texts: bool = False
    bits: int = 0
    zero: bool = False
    masked: bool = False
    many: bool = False
    sets: bool = False


@lru_cache(maxsize=1024)
def fault(match: str) -> str:
    """Why OVN cannot parse a match; "": nothing is known against it."""
    try:
        reader = _Reader(list(_tokens(match)))
        reader.alternatives()
        reader.end()
    except _Fault as problem:
        return str(problem)
    except RecursionError:
        return "it has too many parentheses"
    return ""


def _tokens(match: str) -> Iterator[_Token]:
    at = 0
    while at < len(match):
        found = _TOKEN.match(match, at)
        if found is None:
            _refuse(f"{match[at : at + 12]!r} is nothing that it knows")
        at = found.end()
        kind = found.lastgroup or ""
        if kind != "space":
            yield _Token(kind, found.group())


def _constant(text: str) -> _Constants:
    """A number or an address, with a mask or without; bits behind a mask do no harm."""
    value, slash, mask = text.partition("/")
    number, width = _value(value)
    if not slash:
        return _Constants(bits=number.bit_length(), zero=number == 0)
    if mask.isdigit() and width is not None:
        if int(mask) > width:
            _refuse(f"{text}: no prefix has this length")
    else:
        _value(mask)
    return _Constants(masked=True)


def _value(text: str) -> tuple[int, int | None]:
    """A number, and the width of what it is written as, if it is an address [bits]."""
    if text[:2] in ("0x", "0X"):
        return int(text, 16), None
    if text.isdigit():
        if text[0] == "0" and text != "0":
            _refuse(f"{text} begins with a zero")
        return int(text), None
    if re.fullmatch(r"(?:[0-9a-fA-F]{2}:){5}[0-9a-fA-F]{2}", text):
        return int(text.replace(":", ""), 16), 48
    try:
        found = ip_address(text)
    except ValueError:
        _refuse(f"{text!r} is no constant")
    return int(found), found.max_prefixlen


@dataclass(slots=True)
class _Reader:
    tokens: list[_Token]
    at: int = field(default=0)
    negated: bool = False

    def end(self) -> None:
        """Nothing is left."""
        if self.at < len(self.tokens):
            _refuse(f"{self._here()} is too much")

    def alternatives(self) -> None:
        """An expression; both operators in one only with parentheses."""
        self._operand()
        seen = ""
        while (mark := self._here()) in ("&&", "||"):
            if seen and mark != seen:
                _refuse("&& and || side by side; put parentheses around one of them")
            seen = mark
            self.at += 1
            self._operand()

    def _operand(self) -> None:
        if not self._take("!"):
            self._primary()
            return
        self.negated = not self.negated
        if not self._primary():
            _refuse("! before a comparison; put parentheses around that")
        self.negated = not self.negated

    def _primary(self) -> bool:
        """One operand. Returns: whether it stands by itself, so that ! may be before it."""
        if self._take("("):
            self.alternatives()
            self._need(")")
            return True
        token = self._token()
        if token.kind == "name":
            if token.text == "is_chassis_resident":
                self.at += 1
                self._need("(")
                if self._token().kind not in ("text", "template"):
                    _refuse("is_chassis_resident asks for a port's name in quotes")
                self.at += 1
                self._need(")")
                return True
            return self._field_first()
        following = self.tokens[self.at + 1].text if self.at + 1 < len(self.tokens) else ""
        if token.kind == "number" and following not in _RELATIONS:
            if token.text not in ("0", "1"):
                _refuse(f"{token.text} is compared with nothing")
            self.at += 1
            return True
        self._constants_first()
        return False

    def _field_first(self) -> bool:
        name, width = self._field()
        if (relation := self._here()) not in _RELATIONS:
            if width == _TEXT or (1 < width < _UNKNOWN and not self.negated):
                _refuse(f"{name} is compared with nothing")
            if self.negated and name in _POSITIVE:
                _refuse(f"{name} cannot be negated; compare what it stands for")
            return True
        self.at += 1
        self._compare(name, width, relation, self._constants())
        return False

    def _compare(self, name: str, width: int, relation: str, constants: _Constants) -> None:
        if not constants.sets and (width == _TEXT) != constants.texts:
            wanted = "a name in quotes" if width == _TEXT else "a number or an address"
            _refuse(f"{name} is compared with {wanted}")
        if constants.bits > width > 0:
            _refuse(f"{name} has {width} bits, what it is compared with {constants.bits}")
        inexact = constants.many or constants.masked or width == _TEXT
        if relation not in _EXACT and (inexact or name in _UNORDERED | _PREDICATES):
            _refuse(f"{relation} is for single numbers that have an order; write == or !=")
        single = not (constants.many or constants.masked or constants.sets or self.negated)
        if name in _POSITIVE and single and (relation == "==") == constants.zero:
            _refuse(f"{name} cannot be negated; compare what it stands for")

    def _constants_first(self) -> None:
        constants = self._constants()
        relation = self._relation()
        name, width = self._field()
        self._compare(name, width, relation, constants)
        if self._here() in _RELATIONS:
            second = self._relation()
            if (relation[0] != second[0]) or relation[0] not in "<>":
                _refuse(f"{relation} and {second} make no range; write 1 < {name} < 9")
            self._compare(name, width, second, self._constants())

    def _relation(self) -> str:
        found = self._here()
        if found not in _RELATIONS:
            _refuse(f"{found or 'its end'} is where ==, != or the like belongs")
        self.at += 1
        return found

    def _field(self) -> tuple[str, int]:
        token = self._token()
        if token.kind != "name":
            _refuse(f"{token.text} is where a field belongs")
        self.at += 1
        width = _width(token.text)
        if self._take("["):
            if width == _TEXT or token.text in _UNORDERED:
                _refuse(f"{token.text} has no bits to choose from")
            first = last = self._number()
            if self._take(".."):
                last = self._number()
            self._need("]")
            if not first <= last < width:
                _refuse(f"{token.text} has no bits {first} to {last}")
            # What a part is compared with may be wider, which OVN cuts.
            width = 1 if first == last else _UNKNOWN
        return token.text, width

    def _number(self) -> int:
        token = self._token()
        if token.kind != "number" or not token.text.isdigit():
            _refuse(f"{token.text} is where a bit's number belongs")
        self.at += 1
        return int(token.text)

    def _constants(self) -> _Constants:
        if not self._take("{"):
            return self._constant()
        found = []
        while not self._take("}"):
            found.append(self._constant())
            self._take(",")
        if not found:
            _refuse("{} names nothing")
        if len({one.texts for one in found if not one.sets}) > 1:
            _refuse("numbers and texts in one set")
        return _Constants(
            any(one.texts for one in found),
            max(one.bits for one in found),
            any(one.masked for one in found),
            many=True,
            sets=all(one.sets for one in found),
        )

    def _constant(self) -> _Constants:
        token = self._token()
        self.at += 1
        if token.kind == "text":
            return _Constants(texts=True)
        if token.kind in ("set", "template"):
            return _Constants(sets=True)
        if token.kind != "number":
            _refuse(f"{token.text} is where a constant belongs")
        return _constant(token.text)

    def _token(self) -> _Token:
        if self.at >= len(self.tokens):
            _refuse("it ends too early")
        return self.tokens[self.at]

    def _here(self) -> str:
        return self.tokens[self.at].text if self.at < len(self.tokens) else ""

    def _take(self, text: str) -> bool:
        found = self._here() == text
        self.at += found
        return found

    def _need(self, text: str) -> None:
        if not self._take(text):
            _refuse(f"{self._here() or 'its end'} is where {text} belongs")


def _width(name: str) -> int:
    if (width := _FIELDS.get(name)) is not None:
        return width
    register = re.fullmatch(r"(x{0,2}reg)\d", name)
    if register is not None:
        return _REGISTERS[register.group(1)]
    if _OPEN.match(name):
        return _UNKNOWN
    _refuse(f"{name} is no field of OVN's")
