"""The lab of perf.pacedlab as the harness has it: rates that are searched, latency under load."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from dataplane.model.config import DpdkConfig
from perf.harness import ovscount, pacedtrial
from perf.harness.catalog import Scenario
from perf.harness.generators import Paced
from perf.harness.labs import Bench, Progress, Sample
from perf.pacedlab import PacedLab
from perf.vhostlab import VhostLab

DRAIN_MS = 10
"""No path here holds a frame so long."""

BRIDGES = ("br0", "br-int", "br-phy")


class PacedBench:
    """One generator, every path through one OVS."""

    def __init__(self, made: PacedLab) -> None:
        self._made = made

    def sample(self, scenario: Scenario, number: int, seconds: float) -> Sample:
        """The PDR, and latency where the scenario has it as a metric."""
        del number
        traffic, lab = scenario.traffic, self._made.lab
        way = self._made.arrange(scenario.way, max(size for size, _ in traffic.sizes))
        generator = Paced(
            self._made.generator, (way.tx, way.rx), way.macs, way.relays, drain_ms=DRAIN_MS
        )
        began = ovscount.counted(lab.appctl, lab.vsctl, lab.rundir)
        at_load: list[ovscount.Counted] = []

        def around(run: Callable[[], None]) -> None:
            before = ovscount.counted(lab.appctl, lab.vsctl, lab.rundir)
            run()
            at_load.append(ovscount.counted(lab.appctl, lab.vsctl, lab.rundir).since(before))

        if not scenario.loads:
            return self._pushed(generator, scenario, seconds)
        found = pacedtrial.measure(generator, traffic, seconds, loads=scenario.loads, around=around)
        done, frames = at_load[0], max(found.loaded.rx, 1)
        passes = done.threads.get("packets received", 0)
        passes += done.threads.get("packet recirculations", 0)
        values = {
            **found.values(),
            "cycles": done.threads.get("processing cycles", 0) / frames,
            "passes": passes / frames,
        }
        values = {name: value for name, value in values.items() if name in scenario.metrics}
        counters = {
            **done.counters(),
            "busy_share": done.busy_share,
            **found.counters(),
        }
        drops = ovscount.counted(lab.appctl, lab.vsctl, lab.rundir).since(began).dropped()
        encoded = {load: each.encoded for load, each in found.latency.items()}
        return Sample(values, counters, drops, encoded)

    def _pushed(self, generator: Paced, scenario: Scenario, seconds: float) -> Sample:
        """What the path carries at most, by itself, and what it cost."""
        lab = self._made.lab
        before = ovscount.counted(lab.appctl, lab.vsctl, lab.rundir)
        pps = pacedtrial.pushed(generator, scenario.traffic, seconds)
        told = ovscount.counted(lab.appctl, lab.vsctl, lab.rundir).since(before)
        counters = told.counters()
        values = {
            "pushed": pps / 1e6,
            "cycles": counters["cycles_per_packet"],
            "passes": counters["passes_per_packet"],
        }
        return Sample(values, counters, told.dropped())

    def configuration(self, scenario: Scenario) -> dict[str, Any]:
        """OVS, its bridges' flows, the megaflows."""
        del scenario
        lab = self._made.lab
        return ovscount.configuration(lab.vsctl, lab.flows_of, lab.appctl, BRIDGES)


@contextmanager
def built(dpdk: DpdkConfig, core: int, progress: Progress) -> Iterator[Bench]:
    """The lab with everything in it, removed at the end whatever happened."""
    made = PacedLab(VhostLab(dpdk, core), progress)
    try:
        made.build()
        yield PacedBench(made)
    finally:
        made.remove()
