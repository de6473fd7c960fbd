"""Conntrack of the userspace datapath: how many connections, of what, and how many there may be.

Sources: dpctl.c, ct-dpif.c of OVS 2.17 to main of 2026. Limits of zones are printed for the zones
that have one; a zone without a limit of its own has the default, 0 for none.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

_TOTAL = re.compile(r"^\s*Total:\s*(\d+)", re.MULTILINE)
_PROTOCOL = re.compile(r"^ {1,3}(?!Total)([A-Z][A-Za-z0-9]+):\s*(\d+)", re.MULTILINE)
_DEFAULT = re.compile(r"^\s*default limit\s*=\s*(\d+)", re.MULTILINE)
_ZONE = re.compile(r"^\s*zone\s*=\s*(\d+)\s*,\s*limit\s*=\s*(\d+)\s*,\s*count\s*=\s*(\d+)",
                   re.MULTILINE)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Zone:
    """A zone with a limit of its own."""

    limit: int
    connections: int


@dataclass(frozen=True, slots=True)
class Limits:
    """`dpctl/ct-get-limits`. `default` is of each zone without a limit of its own; 0: none."""

    default: int = 0
    zones: Mapping[int, Zone] = field(default_factory=dict)


def number(text: str) -> int | None:
    """The one number of `dpctl/ct-get-nconns` and `ct-get-maxconns`."""
    word = text.strip()
    return int(word) if word.isascii() and word.isdigit() else None


def by_protocol(text: str) -> Mapping[str, int]:
    """Connections by protocol, in lower case; protocols without any are not there.

    Of `dpctl/ct-stats-show`. What its total has beyond its protocols is "other".
    """
    found = {match[1].lower(): int(match[2]) for match in _PROTOCOL.finditer(text)}
    total = _TOTAL.search(text)
    rest = int(total[1]) - sum(found.values()) if total else 0
    return {**found, "other": rest} if rest > 0 else found


def limits(text: str) -> Limits:
    """The limits of zones; nothing is said of a datapath that knows none."""
    default = _DEFAULT.search(text)
    return Limits(
        int(default[1]) if default else 0,
        {
            int(match[1]): Zone(limit=int(match[2]), connections=int(match[3]))
            for match in _ZONE.finditer(text)
        },
    )
