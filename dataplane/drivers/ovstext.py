"""What vswitchd answers in text, as values: PMD threads, megaflows, coverage counters.

The formats differ between versions of OVS, so the parsers are tolerant: a line that they do not
know is left out, a value that is missing is 0 or None. Sources: dpif-netdev-perf.c, dpctl.c,
odp-util.c, coverage.c of OVS 3.1.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

_PMD = re.compile(r"^pmd thread numa_id (-?\d+) core_id (\d+):")
_COUNTER = re.compile(r"^\s+(?:- )?([A-Za-z][A-Za-z ()-]*?):\s+(\d+)(?:\s+\((.*)\))?\s*$")
_CYCLES = re.compile(r"([\d.]+) cycles/pkt")
_PASSES = re.compile(r"([\d.]+) passes/pkt")
_LOOKUPS = re.compile(r"([\d.]+) subtbl lookups/hit")
_DURATION = re.compile(r"^Measurement duration: ([\d.]+) s", re.MULTILINE)
_COVERAGE = re.compile(
    r"^(\S+)\s+([\d.]+)/sec\s+([\d.]+)/sec\s+([\d.]+)/sec\s+total: (\d+)", re.MULTILINE
)
_UFID = re.compile(r"^ufid:([0-9a-f-]{36}),\s*")
_PMD_OF_FLOWS = re.compile(r"^flow-dump from (?:pmd on cpu core: (\d+)|the (main) thread)")


@dataclass(frozen=True, slots=True)
class PmdPerf:
    """One PMD thread, since its start or `pmd-stats-clear` (`dpif-netdev/pmd-perf-show`).

    `used_cycles` are TSC cycles, idle ones included; `cycles_per_packet` counts busy ones only.
    """

    numa: int
    core: int
    iterations: int
    idle_iterations: int
    busy_iterations: int
    sleep_iterations: int
    used_cycles: int
    rx_packets: int
    passes: int
    cycles_per_packet: float
    passes_per_packet: float
    phwol_hits: int
    simple_match_hits: int
    emc_hits: int
    smc_hits: int
    megaflow_hits: int
    lookups_per_hit: float
    upcalls: int
    lost_upcalls: int
    tx_packets: int
    tx_batches: int


@dataclass(frozen=True, slots=True)
class Megaflow:
    """One datapath flow (`dpctl/dump-flows -m`). `core` None: the main thread's."""

    core: int | None
    ufid: str
    match: str
    packets: int
    bytes: int
    used_s: float | None
    actions: str

    @property
    def recirculation(self) -> int:
        """recirc_id of the match: 0 on a packet's first pass."""
        found = re.search(r"recirc_id\((0x[0-9a-f]+|\d+)\)", self.match)
        return int(found[1], 0) if found else 0

    @property
    def tracks_connections(self) -> bool:
        """Whether it sends packets through conntrack."""
        return re.search(r"(?:^|,)ct(?:\(|,|$)", self.actions) is not None


@dataclass(frozen=True, slots=True)
class Coverage:
    """One event counter; rates are per second, over 5 seconds, a minute and an hour."""

    total: int
    rate_5s: float
    rate_minute: float
    rate_hour: float


def parse_pmd_perf(text: str) -> tuple[PmdPerf, ...]:
    """Every PMD thread of `dpif-netdev/pmd-perf-show`; the main thread is left out."""
    return tuple(_pmd(numa, core, block) for numa, core, block in _pmd_blocks(text))


def measured_seconds(text: str) -> float:
    """How long the counters of `pmd-perf-show` have run [s]."""
    found = _DURATION.search(text)
    return float(found[1]) if found else 0.0


def _pmd_blocks(text: str) -> Iterator[tuple[int, int, dict[str, tuple[int, str]]]]:
    current: tuple[int, int, dict[str, tuple[int, str]]] | None = None
    for line in text.splitlines():
        head = _PMD.match(line)
        if head is not None:
            if current is not None:
                yield current
            current = (int(head[1]), int(head[2]), {})
        elif line and not line.startswith(" "):
            if current is not None:
                yield current
            current = None
        elif current is not None and (found := _COUNTER.match(line)):
            current[2][found[1].strip().lower()] = (int(found[2]), found[3] or "")
    if current is not None:
        yield current


def _pmd(numa: int, core: int, block: Mapping[str, tuple[int, str]]) -> PmdPerf:
    def count(name: str) -> int:
        return block.get(name, (0, ""))[0]

    def ratio(name: str, pattern: re.Pattern[str]) -> float:
        found = pattern.search(block.get(name, (0, ""))[1])
        return float(found[1]) if found else 0.0

    return PmdPerf(
        numa=numa,
        core=core,
        iterations=count("iterations"),
        idle_iterations=count("idle iterations"),
        busy_iterations=count("busy iterations"),
        sleep_iterations=count("sleep iterations"),
        used_cycles=count("used tsc cycles"),
        rx_packets=count("rx packets"),
        passes=count("datapath passes"),
        cycles_per_packet=ratio("rx packets", _CYCLES),
        passes_per_packet=ratio("datapath passes", _PASSES),
        phwol_hits=count("phwol hits"),
        simple_match_hits=count("simple match hits"),
        emc_hits=count("emc hits"),
        smc_hits=count("smc hits"),
        megaflow_hits=count("megaflow hits"),
        lookups_per_hit=ratio("megaflow hits", _LOOKUPS),
        upcalls=count("upcalls"),
        lost_upcalls=count("lost upcalls"),
        tx_packets=count("tx packets"),
        tx_batches=count("tx batches"),
    )


def parse_pmd_stats(text: str) -> Mapping[int, Mapping[str, int]]:
    """Core -> counter name -> value, of `dpif-netdev/pmd-stats-show` (gone in OVS 4.0)."""
    return {
        core: {name: value for name, (value, _) in block.items()}
        for _, core, block in _pmd_blocks(text)
    }


def parse_megaflows(text: str) -> tuple[Megaflow, ...]:
    """The flows of `dpctl/dump-flows -m`, in the order given."""
    flows: list[Megaflow] = []
    core: int | None = None
    for line in text.splitlines():
        head = _PMD_OF_FLOWS.match(line)
        if head is not None:
            core = int(head[1]) if head[1] else None
            continue
        flow = _megaflow(line.strip(), core)
        if flow is not None:
            flows.append(flow)
    return tuple(flows)


def _megaflow(line: str, core: int | None) -> Megaflow | None:
    ufid = ""
    found = _UFID.match(line)
    if found is not None:
        ufid = found[1]
        line = line[found.end() :]
    match, comma, rest = line.partition(", packets:")
    if not comma:
        return None
    stats, _, tail = ("packets:" + rest).partition("actions:")
    numbers = dict(part.split(":", 1) for part in stats.split(", ") if ":" in part)
    used = numbers.get("used", "never").strip(", ").removesuffix("s")
    return Megaflow(
        core=core,
        ufid=ufid,
        match=match,
        packets=_number(numbers.get("packets", "")),
        bytes=_number(numbers.get("bytes", "")),
        used_s=float(used) if re.fullmatch(r"[\d.]+", used) else None,
        actions=tail.partition(", dp-extra-info:")[0].strip(),
    )


def _number(text: str) -> int:
    digits = text.strip(", ")
    return int(digits) if digits.isdigit() else 0


def parse_coverage(text: str) -> Mapping[str, Coverage]:
    """Event name -> counter, of `coverage/show`; events that never happened are not in it."""
    return {
        found[1]: Coverage(int(found[5]), float(found[2]), float(found[3]), float(found[4]))
        for found in _COVERAGE.finditer(text)
    }
