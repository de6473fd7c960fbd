"""The datapath as a whole: `dpctl/show`, `upcall/show`, `memory/show`.

Sources: dpctl.c, ofproto-dpif-upcall.c, memory.c of OVS 2.17 to main of 2026.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

_NAME = re.compile(r"^([\w-]+)@([\w.-]+):\s*$")
_LOOKUPS = re.compile(r"^\s+lookups:\s*hit:\s*(\d+)\s+missed:\s*(\d+)\s+lost:\s*(\d+)")
_FLOWS = re.compile(r"^\s+flows:\s*(\d+)\s*$")
_COUNTS = re.compile(r"\((current|avg|max|limit) (\d+)\)")
_DUMP = re.compile(r"^\s+dump duration\s*:\s*(\d+)\s*ms")
_KEYS = re.compile(r"^\s+\d+:\s*\(keys (\d+)\)")
_MEMORY = re.compile(r"([A-Za-z][\w -]*?):(\d+)(?=\s|$)")


@dataclass(frozen=True, slots=True)
class Datapath:
    """One datapath: its flows, and what its look-ups came to since it was made."""

    type: str
    name: str
    flows: int
    hit: int
    missed: int
    lost: int


@dataclass(frozen=True, slots=True)
class Upcalls:
    """The flow table as its revalidators keep it. `limit` shrinks when a dump takes too long."""

    datapath: str
    flows: int
    average: int
    most: int
    limit: int
    dump_ms: int
    keys: int


def datapaths(text: str) -> tuple[Datapath, ...]:
    """The datapaths of `dpctl/show`; one without look-ups is left out."""
    found: list[Datapath] = []
    head: tuple[str, str] | None = None
    lookups: tuple[int, int, int] | None = None
    for line in text.splitlines():
        if match := _NAME.match(line):
            head, lookups = (match[1], match[2]), None
        elif match := _LOOKUPS.match(line):
            lookups = (int(match[1]), int(match[2]), int(match[3]))
        elif (match := _FLOWS.match(line)) and head and lookups:
            found.append(Datapath(*head, int(match[1]), *lookups))
            head = lookups = None
    return tuple(found)


def upcalls(text: str) -> tuple[Upcalls, ...]:
    """The datapaths of `upcall/show`."""
    found: list[Upcalls] = []
    name, counts, dump, keys = "", dict[str, int](), 0, 0

    def close() -> None:
        if name and counts:
            found.append(
                Upcalls(
                    name,
                    counts.get("current", 0),
                    counts.get("avg", 0),
                    counts.get("max", 0),
                    counts.get("limit", 0),
                    dump,
                    keys,
                )
            )

    for line in text.splitlines():
        if match := _NAME.match(line):
            close()
            name, counts, dump, keys = f"{match[1]}@{match[2]}", {}, 0, 0
        elif line.lstrip().startswith("flows") and (pairs := _COUNTS.findall(line)):
            counts = {word: int(number) for word, number in pairs}
        elif match := _DUMP.match(line):
            dump = int(match[1])
        elif match := _KEYS.match(line):
            keys += int(match[1])
    close()
    return tuple(found)


def memory(text: str) -> Mapping[str, int]:
    """What vswitchd counts of its own objects, by its own words ("udpif keys", "rules")."""
    return {match[1].strip(): int(match[2]) for match in _MEMORY.finditer(text)}
