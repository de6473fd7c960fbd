"""What each PMD thread of a vswitchd has done, from the text of two of its commands. Pure.

`dpif-netdev/pmd-perf-show` has the counters, `dpif-netdev/pmd-rxq-show` says which receive queues a
thread polls. Source: dpif-netdev-perf.c and dpif-netdev.c of OVS 2.17 to 3.7; a line that some
version does not print is simply not there.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

_THREAD = re.compile(r"^pmd thread numa_id (\d+) core_id (\d+):")
_COUNTER = re.compile(r"^\s+(?:- )?([A-Z][\w ()]*|[a-z]+ iterations):\s+(\d+)")
_RXQ = re.compile(
    r"^\s+port:\s+(\S+)\s+queue-id:\s+(\d+)\s+\((enabled|disabled)\)\s+pmd usage:\s+(\d+|NOT AVAIL)"
)
_ISOLATED = re.compile(r"^\s+isolated\s*:\s*(true|false)")
_OVERHEAD = re.compile(r"^\s+overhead:\s+(\d+)")


@dataclass(frozen=True, slots=True)
class Rxq:
    """One receive queue. `usage` is its share of the thread's cycles [%]; None: not known yet."""

    interface: str
    queue: int
    enabled: bool
    usage: int | None


@dataclass(frozen=True, slots=True)
class PmdThread:
    """One PMD thread. `counters` are by OVS's own words ("Rx packets", "idle iterations")."""

    numa: int
    cpu: int
    counters: Mapping[str, int] = field(default_factory=dict)
    isolated: bool | None = None
    overhead: int | None = None
    rxqs: tuple[Rxq, ...] = ()


def pmd_threads(perf: str, rxq: str) -> tuple[PmdThread, ...]:
    """The threads that either text names, by core."""
    counters = {where: _counters(lines) for where, lines in _blocks(perf)}
    queues = dict(_blocks(rxq))
    return tuple(
        PmdThread(
            numa=where[0],
            cpu=where[1],
            counters=counters.get(where, {}),
            isolated=_isolated(queues.get(where, [])),
            overhead=_overhead(queues.get(where, [])),
            rxqs=tuple(_rxqs(queues.get(where, []))),
        )
        for where in sorted({*counters, *queues}, key=lambda where: (where[1], where[0]))
    )


def _blocks(text: str) -> Iterator[tuple[tuple[int, int], list[str]]]:
    """The lines below each "pmd thread" header; the main thread's are left out."""
    where: tuple[int, int] | None = None
    lines: list[str] = []
    for line in text.splitlines():
        if line and not line[0].isspace():
            if where is not None:
                yield where, lines
            found = _THREAD.match(line)
            where = (int(found[1]), int(found[2])) if found else None
            lines = []
        else:
            lines.append(line)
    if where is not None:
        yield where, lines


def _counters(lines: list[str]) -> dict[str, int]:
    return {found[1]: int(found[2]) for line in lines if (found := _COUNTER.match(line))}


def _isolated(lines: list[str]) -> bool | None:
    found = next(filter(None, map(_ISOLATED.match, lines)), None)
    return found[1] == "true" if found else None


def _overhead(lines: list[str]) -> int | None:
    found = next(filter(None, map(_OVERHEAD.match, lines)), None)
    return int(found[1]) if found else None


def _rxqs(lines: list[str]) -> Iterator[Rxq]:
    for line in lines:
        if found := _RXQ.match(line):
            usage = int(found[4]) if found[4].isdigit() else None
            yield Rxq(found[1], int(found[2]), found[3] == "enabled", usage)
