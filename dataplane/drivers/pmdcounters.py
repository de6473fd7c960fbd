"""What the PMDs of a vswitchd have done, from the text of `dpif-netdev/pmd-stats-show`.

Chosen over `pmd-perf-show` because it prints cycles as whole numbers: differences of two answers
are exact. Source: dpif-netdev.c (pmd_info_show_stats), OVS 2.17 to 3.7.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_LINE = re.compile(r"^\s+([a-z][a-z ./-]*): (\d+)")


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


def pmd_counters(text: str, *, main_thread: bool = False) -> PmdCounters:
    """Add up the blocks of all PMD threads.

    `main_thread` adds the main thread's, which serves ports of type system; it counts no cycles.
    """
    sums: dict[str, int] = {}
    wanted = False
    for line in text.splitlines():
        if not line.startswith(" "):
            wanted = line.startswith("pmd thread") or (main_thread and line.startswith("main"))
        elif wanted and (found := _LINE.match(line)):
            sums[found[1]] = sums.get(found[1], 0) + int(found[2])
    return PmdCounters(
        sums.get("packets received", 0),
        sums.get("packet recirculations", 0),
        sums.get("processing cycles", 0),
        sums.get("miss with failed upcall", 0),
    )
