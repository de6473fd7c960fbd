"""Below and beside the bridges: tunnel neighbours, bonds, LACP.

Sources: tnl-neigh-cache.c, bond.c, lacp.c of OVS 2.17 to main of 2026. Members of a bond were
called slaves before 2.15.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

_NEIGHBOUR = re.compile(r"^(\S+)\s+((?:[0-9a-f]{2}:){5}[0-9a-f]{2})\s+(\S+)\s*$", re.MULTILINE)
_TITLE = re.compile(r"^---- (.+?)(?: statistics)? ----\s*$")
_MEMBER = re.compile(r"^(?:member|slave):? ([^:]+): ?(.*)$")
_PAIR = re.compile(r"^\s*([\w -]+?)\s*: (.*)$")


@dataclass(frozen=True, slots=True)
class Neighbour:
    """Whom tunnels reach by which MAC, through which bridge."""

    address: str
    mac: str
    bridge: str


@dataclass(frozen=True, slots=True)
class Member:
    """One interface of a bond."""

    name: str
    enabled: bool
    active: bool


@dataclass(frozen=True, slots=True)
class Bond:
    """One bond. `lacp` is OVS's word: negotiated, configured, off."""

    name: str
    mode: str
    lacp: str
    members: tuple[Member, ...]


@dataclass(frozen=True, slots=True)
class LacpMember:
    """What LACP counted at one interface."""

    bond: str
    name: str
    expired: int
    defaulted: int
    carrier_changes: int
    bad_pdus: int


def neighbours(text: str) -> tuple[Neighbour, ...]:
    """The lines of `tnl/neigh/show`."""
    return tuple(Neighbour(*match.groups()) for match in _NEIGHBOUR.finditer(text))


def bonds(text: str) -> tuple[Bond, ...]:
    """The bonds of `bond/show`."""
    return tuple(_bond(name, lines) for name, lines in _sections(text))


def lacp_members(text: str) -> tuple[LacpMember, ...]:
    """The members of `lacp/show-stats`."""
    return tuple(
        LacpMember(
            bond=bond,
            name=name,
            expired=_count(pairs, "Link Expired"),
            defaulted=_count(pairs, "Link Defaulted"),
            carrier_changes=_count(pairs, "Carrier Status Changed"),
            bad_pdus=_count(pairs, "RX Bad PDUs"),
        )
        for bond, lines in _sections(text)
        for name, _, members in _members(lines)
        for pairs in [_pairs(members)]
    )


def _sections(text: str) -> Iterator[tuple[str, list[str]]]:
    """The lines below each title."""
    name, lines = "", list[str]()
    for line in text.splitlines():
        if match := _TITLE.match(line):
            if name:
                yield name, lines
            name, lines = match[1], []
        else:
            lines.append(line)
    if name:
        yield name, lines


def _members(lines: list[str]) -> Iterator[tuple[str, str, list[str]]]:
    """Each member's name, what is said beside it, and the lines below it."""
    current: tuple[str, str] | None = None
    below: list[str] = []
    for line in lines:
        if match := _MEMBER.match(line):
            if current:
                yield (*current, below)
            current, below = (match[1].strip(), match[2].strip()), []
        else:
            below.append(line)
    if current:
        yield (*current, below)


def _bond(name: str, lines: list[str]) -> Bond:
    first = next((at for at, line in enumerate(lines) if _MEMBER.match(line)), len(lines))
    pairs = _pairs(lines[:first])
    lacp = pairs.get("lacp_status", "negotiated" if pairs.get("lacp_negotiated") == "true" else "")
    return Bond(
        name=name,
        mode=pairs.get("bond_mode", ""),
        lacp=lacp,
        members=tuple(
            Member(
                member,
                enabled=beside == "enabled",
                active=any(line.strip() in {"active member", "active slave"} for line in below),
            )
            for member, beside, below in _members(lines[first:])
        ),
    )


def _pairs(lines: list[str]) -> dict[str, str]:
    return {match[1]: match[2].strip() for line in lines if (match := _PAIR.match(line))}


def _count(pairs: dict[str, str], word: str) -> int:
    value = pairs.get(word, "")
    return int(value) if value.isascii() and value.isdigit() else 0
