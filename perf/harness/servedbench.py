"""The labs of perf.servedlab as the harness has them: a service by XDP, OVN, nftables, iptables."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from dataplane.model.config import DpdkConfig
from perf import peerlab
from perf.harness import kernellook, ovscount, pacedtrial
from perf.harness.catalog import Scenario
from perf.harness.generator import Counts, Traffic
from perf.harness.generators import Paced
from perf.harness.labs import Bench, Progress, Sample
from perf.servedlab import CLIENT_MAC, WAYS, Served, ServedLab, Way
from perf.vhostlab import VhostLab

DRAIN_MS = 50
FIRST_CLIENT = "198.51.100.1"


SOMEWHERE = "somewhere else"
"""Of frames that did not come, those that no counter of the way has."""


@dataclass(slots=True)
class Counting:
    """A paced generator that remembers what did not come through.

    Attributes:
        forget: called before each run, so that every frame opens a connection.
        lost: frames of all runs so far.
    """

    of: Paced
    forget: Callable[[], None] = lambda: None
    lost: int = field(default=0, init=False)

    @property
    def name(self) -> str:
        """For results and messages."""
        return self.of.name

    @property
    def paced(self) -> bool:
        """As the other."""
        return self.of.paced

    def start(self, traffic: Traffic, duration_s: float) -> Counts:
        """One trial.

        Raises:
            DataplaneError: as the other.
        """
        self.forget()
        counts = self.of.start(traffic, duration_s)
        self.lost += max(counts.lost, 0)
        return counts


def places(before: Mapping[str, int], now: Mapping[str, int], lost: int) -> dict[str, int]:
    """Where frames were dropped meanwhile; what of `lost` no place has counted is said, too."""
    found = {
        place: count - before.get(place, 0)
        for place, count in now.items()
        if count > before.get(place, 0)
    }
    rest = lost - sum(found.values())
    return {**found, SOMEWHERE: rest} if rest > 0 else found


class ServedBench:
    """One generator, and a router for each way."""

    def __init__(self, made: ServedLab) -> None:
        self._made = made

    def sample(self, scenario: Scenario, number: int, seconds: float) -> Sample:
        """The PDR, latency under load, and what a packet cost the router's processor."""
        del number
        name, _, kind = scenario.way.partition("/")
        way = self._made.arrange(name)
        paced = Paced(
            self._made.generator, way.ports, (CLIENT_MAC, way.router_mac),
            target=(str(peerlab.vip(way.services - 1)), peerlab.PORT), source=FIRST_CLIENT,
            drain_ms=DRAIN_MS,
        )  # fmt: skip
        way.forget()
        generator = Counting(paced, way.forget) if kind == "new" else Counting(paced)
        before, spent_ns = self._drops(way), 0.0

        def around(run: Callable[[], None]) -> None:
            nonlocal spent_ns
            measured = self._spent_ns(way)
            run()
            spent_ns = measured()

        found = pacedtrial.measure(
            generator, scenario.traffic, seconds, loads=scenario.loads, around=around
        )
        values = {**found.values(), "ns": spent_ns / max(found.loaded.rx, 1)}
        values["kcps"] = found.pdr_pps / 1e3
        counters = found.counters()
        if scenario.kernel:
            half = replace(scenario.traffic, rate_pps=found.pdr_pps * kernellook.SHARE)
            looked = kernellook.look(lambda: generator.start(half, seconds / 2), "r0", "r1")
            values |= looked.values()
            counters["seen_inside_the_kernel"] = float(looked.frames)
            counters["events_missed"] = float(looked.missed)
        values = {name: value for name, value in values.items() if name in scenario.metrics}
        drops = places(before, self._drops(way), generator.lost)
        encoded = {load: each.encoded for load, each in found.latency.items()}
        return Sample(values, counters, drops, encoded)

    def configuration(self, scenario: Scenario) -> dict[str, Any]:
        """OVS for OVN's way; the program for ours; the others have only their rules."""
        way = self._made.ways[scenario.way.partition("/")[0]]
        if way.busy_ns is not None:
            return self._made.described(way.name)
        lab = self._made.lab
        return ovscount.configuration(lab.vsctl, lab.flows_of, lab.appctl, ("br-int",))

    def _drops(self, way: Served) -> Mapping[str, int]:
        if way.busy_ns is None:
            lab = self._made.lab
            return {**way.drops(), **ovscount.counted(lab.appctl, lab.vsctl, lab.rundir).drops}
        return way.drops()

    def _spent_ns(self, way: Served) -> Callable[[], float]:
        """What the router's processor spends from now on until the result is called."""
        busy = way.busy_ns
        if busy is not None:
            first = busy()
            return lambda: float(busy() - first)
        lab = self._made.lab
        before, began = ovscount.counted(lab.appctl, lab.vsctl, lab.rundir), time.monotonic_ns()

        def until() -> float:
            took = time.monotonic_ns() - began
            return (
                ovscount.counted(lab.appctl, lab.vsctl, lab.rundir).since(before).busy_share * took
            )

        return until


@contextmanager
def built(
    dpdk: DpdkConfig, core: int, progress: Progress, ways: tuple[Way, ...] = WAYS
) -> Iterator[Bench]:
    """The lab with everything in it, removed at the end whatever happened."""
    made = ServedLab(VhostLab(dpdk, core), dpdk.pmd[0], progress, ways)
    try:
        made.build()
        yield ServedBench(made)
    finally:
        made.remove()
