"""Whether OVN can parse a match that a user wrote. Pure.

Nobody else says so: the northbound database takes any text, ovn-northd hands it on, and each
ovn-controller leaves out what it cannot parse, with a line in its log. What is refused here it
refuses; what this does not know (which sets and groups there are, what a comparison needs besides)
passes. Fields are those of ovn-sb(5), "Expressions", of 23.03 and of later ones.

One kind of match is refused that OVN does parse: that a field differs from each of several values
is multiplied out, to one flow for each choice of a bit of every value, and ovn-controller stops
answering over millions of them.

    or   = and {"||" and}        and = not {"&&" not}; both in one need parentheses
    not  = ["!"] primary         of a comparison only in parentheses
    primary = "(" or ")" | field | field relop constants | constants relop field [relop constants]
            | "0" | "1" | is_chassis_resident("port")
    constants = constant | "{" constant {"," constant} "}"
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from ipaddress import ip_address
from typing import NoReturn

from controller.network.matchfields import (
    COSTLY,
    POSITIVE,
    PREDICATES,
    TEXT,
    UNKNOWN,
    UNORDERED,
    width_of,
)

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
    re.VERBOSE | re.DOTALL | re.ASCII,
)
_RELATIONS = frozenset({"==", "!=", "<", "<=", ">", ">="})
_EXACT = frozenset({"==", "!="})

_MOST_FLOWS = 1 << 18
"""Of what is multiplied out; an ovn-controller of 23.03 took 5 s for 1 << 20."""


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
        masks: how many bits of a field each looks at; 0: all.
        sets: address sets or port groups alone, of which nothing is known here.
        unbounded: an address set is among them: nobody knows how many there will be.
    """

    texts: bool = False
    bits: int = 0
    zero: bool = False
    masked: bool = False
    many: bool = False
    sets: bool = False
    unbounded: bool = False
    masks: tuple[int, ...] = (0,)


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
    number, kind = _value(value)
    if not slash:
        return _Constants(bits=number.bit_length(), zero=number == 0)
    bits, mask_kind = _value(mask)
    if mask_kind == kind:
        return _Constants(masked=True, masks=(bits.bit_count(),))
    if mask_kind != _DECIMAL or kind not in _ADDRESS_BITS:
        _refuse(f"{text}: a mask has to be written as what it masks")
    if bits > _ADDRESS_BITS[kind]:
        _refuse(f"{text}: no prefix has this length")
    return _Constants(masked=True, masks=(bits,))


_DECIMAL, _HEXADECIMAL, _ETHERNET, _IPV4, _IPV6 = range(5)
_ADDRESS_BITS = {_IPV4: 32, _IPV6: 128}


def _value(text: str) -> tuple[int, int]:
    """A number, and what it is written as."""
    if text[:2] in ("0x", "0X"):
        return int(text, 16), _HEXADECIMAL
    if text.isdigit():
        return _decimal(text), _DECIMAL
    if re.fullmatch(r"(?:[0-9a-fA-F]{2}:){5}[0-9a-fA-F]{2}", text):
        return int(text.replace(":", ""), 16), _ETHERNET
    try:
        found = ip_address(text)
    except ValueError:
        _refuse(f"{text[:40]!r} is no constant")
    return int(found), _IPV4 if found.version == 4 else _IPV6


def _decimal(text: str) -> int:
    if text[0] == "0" and text != "0":
        _refuse(f"{text[:40]} begins with a zero")
    # Python itself refuses to read some thousands of digits.
    if len(text) > 20 or int(text) >= 1 << 64:
        _refuse(f"{text[:20]}... is 2**64 or more; larger numbers are written with 0x")
    return int(text)


@dataclass(slots=True)
class _Reader:
    tokens: list[_Token]
    at: int = field(default=0)
    negated: bool = False
    unlike: dict[str, int] = field(default_factory=dict)
    """What a field that differs from several values comes to, along the && around here [flows]."""

    def end(self) -> None:
        """Nothing is left."""
        if self.at < len(self.tokens):
            _refuse(f"{self._here()} is too much")

    def alternatives(self) -> None:
        """An expression; both operators in one only with parentheses."""
        before = dict(self.unlike)
        self._operand()
        seen, most = "", Counter(self.unlike)
        while (mark := self._here()) in ("&&", "||"):
            if seen and mark != seen:
                _refuse("&& and || side by side; put parentheses around one of them")
            seen = mark
            self.at += 1
            if (mark == "||") != self.negated:
                self.unlike = dict(before)
            self._operand()
            most |= Counter(self.unlike)
        self.unlike = dict(most)

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
            if width == TEXT or (1 < width < UNKNOWN and not self.negated):
                _refuse(f"{name} is compared with nothing")
            if self.negated:
                _refuse_negated(name)
            return True
        self.at += 1
        self._compare(name, width, relation, self._constants())
        return False

    def _compare(self, name: str, width: int, relation: str, constants: _Constants) -> None:
        if not constants.sets and (width == TEXT) != constants.texts:
            wanted = "a name in quotes" if width == TEXT else "a number or an address"
            _refuse(f"{name} is compared with {wanted}")
        if constants.bits > width > 0:
            _refuse(f"{name} has {width} bits, what it is compared with {constants.bits}")
        inexact = constants.many or constants.masked or width == TEXT
        if relation not in _EXACT and (inexact or name in UNORDERED | PREDICATES):
            _refuse(f"{relation} is for single numbers that have an order; write == or !=")
        single = not (constants.many or constants.masked or constants.sets)
        if single and ((relation == "==") == constants.zero) != self.negated:
            _refuse_negated(name)
        if relation in _EXACT and (relation == "!=") != self.negated and 0 < width < UNKNOWN:
            if constants.unbounded:
                _refuse(
                    f"{name} unlike each address of a set is as many flows as they multiply to;"
                    " write == for it in a rule of higher priority"
                )
            flows = math.prod(mask or width for mask in constants.masks) * self.unlike.get(name, 1)
            if flows > _MOST_FLOWS:
                _refuse(
                    f"{name} unlike each of such values is {flows:,} flows; write == for them"
                    " in a rule of higher priority"
                )
            self.unlike[name] = flows

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
        if (width := width_of(token.text)) is None:
            _refuse(f"{token.text} is no field of OVN's")
        if self._take("["):
            if width == TEXT or token.text in UNORDERED:
                _refuse(f"{token.text} has no bits to choose from")
            first = last = self._number()
            if self._take(".."):
                last = self._number()
            self._need("]")
            if not first <= last < width:
                _refuse(f"{token.text} has no bits {first} to {last}")
            # What a part is compared with may be wider, which OVN cuts.
            width = 1 if first == last else UNKNOWN
        return token.text, width

    def _number(self) -> int:
        token = self._token()
        if token.kind != "number" or not token.text.isdigit():
            _refuse(f"{token.text} is where a bit's number belongs")
        self.at += 1
        return _decimal(token.text)

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
            unbounded=any(one.unbounded for one in found),
            masks=tuple(bits for one in found if not one.sets for bits in one.masks),
        )

    def _constant(self) -> _Constants:
        token = self._token()
        self.at += 1
        if token.kind == "text":
            return _Constants(texts=True)
        if token.kind in ("set", "template"):
            return _Constants(sets=True, unbounded=token.text[0] == "$", masks=())
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


def _refuse_negated(name: str) -> None:
    if name in POSITIVE:
        _refuse(f"{name} cannot be negated; compare what it stands for")
    if name in COSTLY:
        _refuse(f"{name} negated is more flows than an ovn-controller can hold")
