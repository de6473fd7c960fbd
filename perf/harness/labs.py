"""The labs as the harness has them: build one, then take samples of its scenarios in any order.

Each adapter lends the benchmark of the same name; what a trial is, is decided there.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

from dataplane.model.config import DpdkConfig
from perf import peerlab, peers, xdp, xdpbench, xdpcases
from perf.harness import ovscount
from perf.harness.catalog import Scenario
from perf.harness.generator import HarnessError
from perf.peerrules import Rules
from perf.vhostlab import VhostLab

Progress = Callable[[str], None]
STEADY_WINDOW_S, STEADY_TRIES, STEADY_SHARE = 0.2, 25, 0.05


@dataclass(frozen=True, slots=True)
class Sample:
    """One trial's figures, as perf.harness.results.Trial has them."""

    values: dict[str, float]
    counters: dict[str, float] = field(default_factory=dict)
    drops: dict[str, int] = field(default_factory=dict)
    latency: dict[str, str] = field(default_factory=dict)


class Bench(Protocol):
    """A lab that is up."""

    def sample(self, scenario: Scenario, number: int, seconds: float) -> Sample:
        """One trial.

        Raises:
            DataplaneError: it could not be measured.
        """

    def configuration(self, scenario: Scenario) -> dict[str, Any]:
        """How the data plane is set for the scenario that was measured last."""


class VhostBench:
    """Two guests of one testpmd, and what is between them."""

    def __init__(self, lab: VhostLab) -> None:
        self._lab, self._way, self._size, self._ovn = lab, "", 0, False

    def sample(self, scenario: Scenario, number: int, seconds: float) -> Sample:
        """Let the loop turn for so long."""
        del number
        size = scenario.traffic.sizes[0][0]
        self._arrange(scenario.way, size)
        before, began = self._count(), time.monotonic()
        time.sleep(seconds)
        done, took = self._count().since(before), time.monotonic() - began
        told = done.counters()
        if not told["packets"]:
            msg = f"{scenario.name}: no packet went round in {took:.1f} s"
            raise HarnessError(msg)
        values = {
            "cycles": told["cycles_per_packet"],
            "passes": told["passes_per_packet"],
            "mpps": told["packets"] / took / 1e6,
        }
        return Sample(values, told, done.dropped())

    def configuration(self, scenario: Scenario) -> dict[str, Any]:
        """OVS, its bridges' flows, the megaflows."""
        bridge = "br0" if scenario.way == "flows" else "br-int"
        lab = self._lab
        return ovscount.configuration(lab.vsctl, lab.flows_of, lab.appctl, (bridge,))

    def _count(self) -> ovscount.Counted:
        return ovscount.counted(self._lab.appctl, self._lab.vsctl, self._lab.rundir)

    def _arrange(self, way: str, size: int) -> None:
        if (way, size) == (self._way, self._size):
            return
        lab = self._lab
        was, now = self._kind(self._way), self._kind(way)
        if was != now or size != self._size:
            lab.stop_guests()
            if was != now:
                self._replug(was, now)
            lab.start_guests(size)
        if now == "ovn":
            verb, _, count = way.partition(":")
            lab.set_acls(verb, int(count or 0))
        self._way, self._size = way, size
        self._until_steady()

    @staticmethod
    def _kind(way: str) -> str:
        if not way:
            return ""
        return "flows" if way == "flows" else "ovn"

    def _replug(self, was: str, now: str) -> None:
        lab = self._lab
        if was == "flows":
            lab.disconnect_flows()
        elif was == "ovn":
            lab.unplug_from_ovn()
        if now == "flows":
            lab.connect_by_flows()
            return
        if not self._ovn:
            lab.start_ovn()
            self._ovn = True
        lab.plug_into_ovn()

    def _until_steady(self) -> None:
        """Warm: packets flow, no upcalls, and cycles for a packet as in the window before.

        On a machine that is never steady it goes on after a while: the trials' spread tells.
        """
        last = 0.0
        for _ in range(STEADY_TRIES):
            before = self._count()
            time.sleep(STEADY_WINDOW_S)
            told = self._count().since(before).counters()
            cycles = told["cycles_per_packet"]
            near = abs(cycles - last) <= STEADY_SHARE * cycles
            if told["packets"] > 1000 and not told["upcalls"] and near:
                return
            last = cycles


class XdpBench:
    """The programs, by the kernel's test run."""

    REPEAT = 100_000

    def __init__(self, bench: xdpbench.Bench) -> None:
        self._bench = bench

    def sample(self, scenario: Scenario, number: int, seconds: float) -> Sample:
        """One measurement, with the floor's beside it."""
        del number, seconds
        cases = xdpcases.base_cases(self._bench)
        for case in cases:
            if (case.name, case.version, case.protocol) == (scenario.way, 4, "tcp"):
                row = xdp.measured(self._bench, case, 1, self.REPEAT)
                # What comes before the next case puts the maps back.
                next(cases, None)
                return Sample({"ns": row.samples_ns[0], "floors": row.ratios[0]})
        msg = f"{scenario.name}: there is no case {scenario.way!r}"
        raise HarnessError(msg)

    def configuration(self, scenario: Scenario) -> dict[str, Any]:
        """The programs' tags."""
        del scenario
        return {"programs": {info.name: info.tag for info in self._bench.infos.values()}}


class PeersBench:
    """Our program, nftables, iptables and nothing, in turn into the same sink."""

    def __init__(self, made: peers.Peers, found: list[peers.Contestant]) -> None:
        self._made = made
        self._ways = {
            f"{one.row.name}/{one.row.services}/"
            f"{'established' if one.row.flows == peers.ESTABLISHED else 'new'}": one
            for one in found
        }

    def sample(self, scenario: Scenario, number: int, seconds: float) -> Sample:
        """One run of packets, each counted where it ends."""
        del number, seconds
        one = self._ways[scenario.way]
        self._made.sample(one)
        counters = {"packets": float(one.packets), "delivered_share": one.row.delivered}
        lost = round(one.packets * (1 - min(one.row.delivered, 1.0)))
        return Sample(
            {"ns": one.row.samples_ns[-1]}, counters, {"on the way": lost} if lost else {}
        )

    def configuration(self, scenario: Scenario) -> dict[str, Any]:
        """The program's tag and how long rule sets took to load [s]."""
        del scenario
        return {"program_tag": self._made.tag, "load_s": self._made.load_s}


def _dpdk() -> DpdkConfig:
    pmd = (os.cpu_count() or 1) - 1
    return DpdkConfig(lcore=(0,), pmd=(pmd,), socket_mem_mib=512, extra=("--no-pci",))


@contextmanager
def _vhost(core: int, progress: Progress) -> Iterator[Bench]:
    del progress
    lab = VhostLab(_dpdk(), core)
    try:
        lab.build()
        yield VhostBench(lab)
    finally:
        lab.remove()


def _paced(core: int, progress: Progress) -> Any:
    from perf.harness import pacedbench

    return pacedbench.built(_dpdk(), core, progress)


def _served(core: int, progress: Progress) -> Any:
    from perf.harness import servedbench

    return servedbench.built(_dpdk(), core, progress)


def _served_sizes(core: int, progress: Progress) -> Any:
    from perf import servedlab
    from perf.harness import servedbench

    return servedbench.built(_dpdk(), core, progress, servedlab.SIZED)


@contextmanager
def _xdp(core: int, progress: Progress) -> Iterator[Bench]:
    del core, progress
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    with xdpbench.Bench(None, 10_000) as bench:
        yield XdpBench(bench)


def _peers_of(*services: int) -> Callable[[int, Progress], Any]:
    """One lab for each number of services."""

    @contextmanager
    def build(core: int, progress: Progress) -> Iterator[Bench]:
        del core
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
        # The destination alone is translated, as in all runs that are kept.
        made = peers.Peers(services, progress, (Rules.BARE,))
        try:
            with ExitStack() as stack:
                yield PeersBench(made, made.contestants(stack, "skb"))
        finally:
            made.close()

    return build


def _control(core: int, progress: Progress) -> Any:
    del core, progress
    from perf.harness import controlbench

    return controlbench.built()


def _sockets(core: int, progress: Progress) -> Any:
    del core, progress
    from perf.harness import socketbench

    return socketbench.built()


def _node_lab(name: str) -> Callable[[int, Progress], Any]:
    def build(core: int, progress: Progress) -> Any:
        # From the source tree: what is installed has no tests/labs.
        from perf.harness import nodelabs

        return nodelabs.BUILDERS[name](core, progress)

    return build


BUILDERS: dict[str, Callable[[int, Progress], Any]] = {
    "xdp": _xdp,
    "peers": _peers_of(1_000),
    "vhost": _vhost,
    "paced": _paced,
    "served": _served,
    "served-sizes": _served_sizes,
    "control": _control,
    "sockets": _sockets,
    "sizes": _peers_of(1, 10_000),
    "host": _node_lab("host"),
    "path": _node_lab("path"),
    "eastwest": _node_lab("eastwest"),
    "containers": _node_lab("containers"),
}
"""Context managers that build a lab and remove it, whatever happens in between."""


def sweep(name: str) -> None:
    """Remove what a lab has left whose process was killed.

    Raises:
        ProcessError: something of it does not go away.
    """
    if name in ("vhost", "paced"):
        VhostLab(_dpdk(), 0).sweep()
    elif name in ("served", "served-sizes"):
        VhostLab(_dpdk(), 0).sweep()
        peerlab.sweep()
    elif name in ("peers", "sizes"):
        peerlab.sweep()
    elif name == "control":
        from perf.harness import controlbench

        controlbench.sweep()
    elif name == "sockets":
        from perf import sockets

        sockets.sweep()
    elif name in ("path", "eastwest", "containers", "host"):
        from perf.harness import nodelabs

        nodelabs.sweep(name)
