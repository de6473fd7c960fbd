"""What vswitchd answers in text, as values: PMD threads, megaflows, coverage counters. Pure.

The formats differ between versions of OVS, so the parsers are tolerant: a line that they do not
know is left out, a value that is missing is 0 or None. Sources: dpif-netdev-perf.c, dpif-netdev.c,
dpctl.c, odp-util.c, coverage.c of OVS 2.17 to 3.7.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

_THREAD = re.compile(r"^(?:pmd thread numa_id (-?\d+) core_id (\d+)|main thread):")
# A whole number: averages, which have a fraction, are no counters.
_COUNTER = re.compile(r"^\s+(?:- )?([A-Za-z][\w ()-]*):\s+(\d+)(?![\d.])(.*)")
_RATIO = re.compile(r"(\d+(?:\.\d+)?) ([a-z ]+/[a-z]+)")
_RXQ = re.compile(
    r"^\s+port:\s+(\S+)\s+queue-id:\s+(\d+)\s+(?:\((enabled|disabled)\)\s+)?"
    r"pmd usage:\s+(\d+|NOT AVAIL)"
)
_ISOLATED = re.compile(r"^\s+isolated\s*:\s*(true|false)", re.MULTILINE)
_OVERHEAD = re.compile(r"^\s+overhead:\s+(\d+)", re.MULTILINE)
_DURATION = re.compile(r"^Measurement duration: (\d+(?:\.\d+)?) s", re.MULTILINE)
_CYCLES = re.compile(r"^\s+(idle|processing) cycles:\s+(\d+)", re.MULTILINE)
_USED = re.compile(r"^\s+- Used TSC cycles:\s+(\d+)", re.MULTILINE)
_BUSY_SHARE = re.compile(r"^\s+- busy iterations:\s+\d+\s+\(\s*(\d+(?:\.\d+)?) %", re.MULTILINE)
_COVERAGE = re.compile(r"^(\S+)" + 3 * r"\s+(\d+(?:\.\d+)?)/sec" + r"\s+total: (\d+)", re.MULTILINE)
_UFID = re.compile(r"^ufid:([0-9a-f-]{36}),\s*")
_PMD_OF_FLOWS = re.compile(r"^flow-dump from (?:pmd on cpu core: (\d+)|the (main) thread)")


@dataclass(frozen=True, slots=True)
class Rxq:
    """One receive queue. `usage` is its share of the thread's cycles [%]; None: not known yet."""

    interface: str
    queue: int
    enabled: bool
    usage: int | None


@dataclass(frozen=True, slots=True)
class PmdThread:
    """One PMD thread, since its start or `pmd-stats-clear`.

    `counters` are by OVS's own words ("Rx packets", "idle iterations"), `ratios` by its units
    ("cycles/pkt", which counts busy cycles only). `overhead` is in percent of its cycles.
    """

    numa: int
    cpu: int
    counters: Mapping[str, int] = field(default_factory=dict)
    ratios: Mapping[str, float] = field(default_factory=dict)
    isolated: bool | None = None
    overhead: int | None = None
    rxqs: tuple[Rxq, ...] = ()


@dataclass(frozen=True, slots=True)
class PmdCounters:
    """Sums over threads since their start (or `pmd-stats-clear`).

    Cycles are TSC cycles: at low rates they are those of cold caches and of a PMD that was
    preempted in the middle, and say nothing about the path.
    """

    rx_packets: int
    recirculations: int
    busy_cycles: int
    failed_upcalls: int

    def since(self, before: PmdCounters) -> PmdCounters:
        """The difference to an earlier answer."""
        return PmdCounters(
            self.rx_packets - before.rx_packets,
            self.recirculations - before.recirculations,
            self.busy_cycles - before.busy_cycles,
            self.failed_upcalls - before.failed_upcalls,
        )

    @property
    def passes_per_packet(self) -> float:
        """How often a packet went through the datapath."""
        return (self.rx_packets + self.recirculations) / max(self.rx_packets, 1)

    @property
    def cycles_per_packet(self) -> float:
        """TSC cycles that a packet cost."""
        return self.busy_cycles / max(self.rx_packets, 1)


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


def pmd_threads(counted: str, queues: str = "") -> tuple[PmdThread, ...]:
    """The threads that either text names, by core; the main thread is none of them.

    Args:
        counted: of `dpif-netdev/pmd-perf-show`, or of `pmd-stats-show` (gone in OVS 4.0).
        queues: of `dpif-netdev/pmd-rxq-show`: which receive queues a thread polls.
    """
    counters, polled = dict(_blocks(counted)), dict(_blocks(queues))
    found = {where for where in (*counters, *polled) if where is not None}
    return tuple(
        _thread(where, counters.get(where, []), polled.get(where, []))
        for where in sorted(found, key=lambda where: (where[1], where[0]))
    )


def pmd_counters(text: str, *, main_thread: bool = False) -> PmdCounters:
    """The sums over all PMD threads of `dpif-netdev/pmd-stats-show`.

    Chosen over `pmd-perf-show` because it prints cycles as whole numbers: differences of two
    answers are exact. `main_thread` adds the main thread's, which serves ports of type system; it
    counts no cycles.
    """
    sums: Counter[str] = Counter()
    for where, lines in _blocks(text):
        if where is not None or main_thread:
            sums.update(_counters(lines))
    return PmdCounters(
        sums["packets received"],
        sums["packet recirculations"],
        sums["processing cycles"],
        sums["miss with failed upcall"],
    )


def cycles_of_threads(text: str) -> Mapping[tuple[int, int], tuple[int, int]]:
    """TSC cycles that were idle and busy, by NUMA node and core.

    Of `dpif-netdev/pmd-stats-show`, to the cycle; of `pmd-perf-show` (OVS 4.0 has no other), which
    prints the sum and the busy share to a tenth of a percent.
    """
    found: dict[tuple[int, int], tuple[int, int]] = {}
    for where, lines in _blocks(text):
        block = "\n".join(lines)
        words = {match[1]: int(match[2]) for match in _CYCLES.finditer(block)}
        used, share = _USED.search(block), _BUSY_SHARE.search(block)
        if where is None:
            continue
        if len(words) == len(("idle", "processing")):
            found[where] = (words["idle"], words["processing"])
        elif used and share:
            busy = min(round(int(used[1]) * float(share[1]) / 100), int(used[1]))
            found[where] = (int(used[1]) - busy, busy)
    return found


def measured_seconds(text: str) -> float:
    """How long the counters of `pmd-perf-show` have run [s]."""
    found = _DURATION.search(text)
    return float(found[1]) if found else 0.0


def _blocks(text: str) -> list[tuple[tuple[int, int] | None, list[str]]]:
    """The lines below each thread's header, by NUMA node and core; None: the main thread's."""
    blocks: list[tuple[tuple[int, int] | None, list[str]]] = []
    lines: list[str] = []
    for line in text.splitlines():
        if not line or line[0].isspace():
            lines.append(line)
            continue
        lines = []
        if found := _THREAD.match(line):
            blocks.append(((int(found[1]), int(found[2])) if found[1] else None, lines))
    return blocks


def _thread(where: tuple[int, int], counted: list[str], queues: list[str]) -> PmdThread:
    polled = "\n".join(queues)
    isolated, overhead = _ISOLATED.search(polled), _OVERHEAD.search(polled)
    return PmdThread(
        numa=where[0],
        cpu=where[1],
        counters=_counters(counted),
        ratios=_ratios(counted),
        isolated=isolated[1] == "true" if isolated else None,
        overhead=int(overhead[1]) if overhead else None,
        rxqs=tuple(_rxqs(queues)),
    )


def _counters(lines: list[str]) -> dict[str, int]:
    return {found[1]: int(found[2]) for line in lines if (found := _COUNTER.match(line))}


def _ratios(lines: list[str]) -> dict[str, float]:
    behind = (found[3] for line in lines if (found := _COUNTER.match(line)))
    return {unit: float(value) for rest in behind for value, unit in _RATIO.findall(rest)}


def _rxqs(lines: list[str]) -> Iterator[Rxq]:
    for line in lines:
        if found := _RXQ.match(line):
            usage = int(found[4]) if found[4].isdigit() else None
            # Before 2.14 OVS did not say whether a queue is enabled.
            yield Rxq(found[1], int(found[2]), found[3] != "disabled", usage)


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
        used_s=float(used) if re.fullmatch(r"\d+(?:\.\d+)?", used) else None,
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
