"""The words that a match of OVN is made of: tokens and constants. Pure.

Source: ovn-sb(5), "Expressions".
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
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
    re.VERBOSE | re.DOTALL | re.ASCII,
)


class Fault(Exception):
    """What cannot be parsed."""


def refuse(why: str) -> NoReturn:
    """It cannot be parsed.

    Raises:
        Fault: always.
    """
    raise Fault(why)


@dataclass(frozen=True, slots=True)
class Token:
    """A word, and by which of the alternatives above it is one."""

    kind: str
    text: str


@dataclass(frozen=True, slots=True)
class Constants:
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


def tokens_of(match: str) -> Iterator[Token]:
    """The words of a match.

    Raises:
        Fault: something in it is none.
    """
    at = 0
    while at < len(match):
        found = _TOKEN.match(match, at)
        if found is None:
            refuse(f"{match[at : at + 12]!r} is nothing that it knows")
        at = found.end()
        kind = found.lastgroup or ""
        if kind != "space":
            yield Token(kind, found.group())


def constant(text: str) -> Constants:
    """A number or an address, with a mask or without; bits behind a mask do no harm.

    Raises:
        Fault: it is neither.
    """
    value, slash, mask = text.partition("/")
    number, kind = _value(value)
    if not slash:
        return Constants(bits=number.bit_length(), zero=number == 0)
    bits, mask_kind = _value(mask)
    if mask_kind == kind:
        return Constants(masked=True, masks=(bits.bit_count(),))
    if mask_kind != _DECIMAL or kind not in _ADDRESS_BITS:
        refuse(f"{text}: a mask has to be written as what it masks")
    if bits > _ADDRESS_BITS[kind]:
        refuse(f"{text}: no prefix has this length")
    return Constants(masked=True, masks=(bits,))


_DECIMAL, _HEXADECIMAL, _ETHERNET, _IPV4, _IPV6 = range(5)
_ADDRESS_BITS = {_IPV4: 32, _IPV6: 128}


def _value(text: str) -> tuple[int, int]:
    """A number, and what it is written as."""
    if text[:2] in ("0x", "0X"):
        return int(text, 16), _HEXADECIMAL
    if text.isdigit():
        return decimal(text), _DECIMAL
    if re.fullmatch(r"(?:[0-9a-fA-F]{2}:){5}[0-9a-fA-F]{2}", text):
        return int(text.replace(":", ""), 16), _ETHERNET
    try:
        found = ip_address(text)
    except ValueError:
        refuse(f"{text[:40]!r} is no constant")
    return int(found), _IPV4 if found.version == 4 else _IPV6


def decimal(text: str) -> int:
    """A number without a mark of its base.

    Raises:
        Fault: OVN reads none like it.
    """
    if text[0] == "0" and text != "0":
        refuse(f"{text[:40]} begins with a zero")
    # Python itself refuses to read some thousands of digits.
    if len(text) > 20 or int(text) >= 1 << 64:
        refuse(f"{text[:20]}... is 2**64 or more; larger numbers are written with 0x")
    return int(text)
