"""The labs that are a whole node of the tests' tree: services, east-west, containers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from dataplane.drivers import processes
from dataplane.plan.mtu import ETHERNET_MTU
from perf import containerlab, containers, eastlab, eastwest, hostway, hostwaylab, path, pathlab
from perf.harness import ovscount
from perf.harness.catalog import Scenario
from perf.harness.generator import HarnessError
from perf.harness.labs import Bench, Progress, Sample
from tests.labs.lab import Lab
from tests.labs.labnode import LabNode

EAST_FLOWS, EAST_SHARE = 256, 10


class _NodeBench:
    """What all have in common: a node whose OVS counts."""

    def __init__(self, node: LabNode) -> None:
        self._node = node

    def configuration(self, scenario: Scenario) -> dict[str, Any]:
        """OVS, its bridges' flows, the megaflows."""
        del scenario
        node = self._node
        bridges = tuple(
            bridge for bridge in node.vsctl("list-br").split() if bridge in ("br-int", "br-ex")
        )
        return ovscount.configuration(node.vsctl, self._flows, node.appctl, bridges)

    def _flows(self, bridge: str) -> str:
        manage = f"unix:{self._node.rundir}/{bridge}.mgmt"
        return processes.run(["ovs-ofctl", "dump-flows", manage])

    def _count(self) -> ovscount.Counted:
        return ovscount.counted(self._node.appctl, self._node.vsctl, self._node.rundir)


class PathBench(_NodeBench):
    """Outside to a guest and a container, as a service and without."""

    def __init__(self, made: pathlab.PathLab) -> None:
        super().__init__(made.lab.node)
        self._made = made

    def sample(self, scenario: Scenario, number: int, seconds: float) -> Sample:
        """One TCP stream, then a closed loop."""
        del number
        with self._made.reached(scenario.way):
            gbits = path.stream(self._made, scenario.way, max(1.0, seconds))
            way, before = path.Way(scenario.way), self._count()
            path.round_trips(self._made, way, seconds)
            done = self._count().since(before)
        values = {
            "cycles": way.cycles_per_round_trip[0],
            "passes": way.passes_per_packet[0],
            "krps": way.krps[0],
            "gbits": gbits,
        }
        return Sample(values, done.counters(), done.dropped())


class EastBench(_NodeBench):
    """Guest to guest, a tenth of it by a service."""

    def __init__(self, made: eastlab.EastLab) -> None:
        super().__init__(made.lab.node)
        self._made = made

    def sample(self, scenario: Scenario, number: int, seconds: float) -> Sample:
        """As many datagrams as OVS takes."""
        del number
        case, before = eastwest.Case(scenario.way, EAST_SHARE, stateful=False), self._count()
        with self._made.reached(scenario.way):
            eastwest.sample(self._made, case, seconds)
        done = self._count().since(before)
        values = {
            "cycles": case.cycles_per_packet[0],
            "passes": case.passes_per_packet[0],
            "krps": case.kpps[0],
        }
        return Sample(values, done.counters(), done.dropped())


class HostBench(_NodeBench):
    """The node's kernel to a container and a guest, and the container to the guest."""

    PINGS, ECHOES = 300, 10_000

    def __init__(self, made: hostwaylab.HostwayLab) -> None:
        super().__init__(made.lab.node)
        self._made = made

    def sample(self, scenario: Scenario, number: int, seconds: float) -> Sample:
        """Echoes one after the other, then a stream to the container or as many echoes as go."""
        del number
        made, before = self._made, self._count()
        to = hostwaylab.CONTAINER if scenario.way == "host-container" else hostwaylab.GUEST
        source = hostwaylab.CONTAINER if scenario.way == "container-guest" else hostway.AFXDP
        trips = made.round_trips(source, to, self.PINGS)
        if not trips:
            msg = f"{scenario.name}: {to} does not answer"
            raise HarnessError(msg)
        values = {"rtt": hostwaylab.median(trips)}
        if to == hostwaylab.CONTAINER:
            values["gbits"] = made.tcp(source, max(1.0, seconds), to_host=False)
        else:
            values["krps"] = made.echoes(source, self.ECHOES)
        done = self._count().since(before)
        lost = {"echo requests without an answer": self.PINGS - len(trips)}
        drops = {**done.dropped(), **{place: count for place, count in lost.items() if count}}
        return Sample(values, done.counters(), drops)


class ContainersBench(_NodeBench):
    """Container to container."""

    def __init__(self, made: containerlab.ContainerLab) -> None:
        super().__init__(made.lab.node)
        self._made = made

    def sample(self, scenario: Scenario, number: int, seconds: float) -> Sample:
        """One TCP stream, then echoes one after the other."""
        del number
        before = self._count()
        gbits, again = self._made.stream(scenario.way, max(1.0, seconds))
        done = self._count().since(before)
        rtt = self._made.round_trip(scenario.way, containers.ECHOES // 3)
        counters = {**done.counters(), "segments_sent_again": float(again)}
        return Sample({"gbits": gbits, "rtt": rtt}, counters, done.dropped())


@contextmanager
def _path(core: int, progress: Progress) -> Iterator[Bench]:
    with pathlab.built(progress, core) as made:
        yield PathBench(made)


@contextmanager
def _east(core: int, progress: Progress) -> Iterator[Bench]:
    with eastlab.built(progress, core, EAST_FLOWS) as made:
        yield EastBench(made)


@contextmanager
def _containers(core: int, progress: Progress) -> Iterator[Bench]:
    del core
    with containerlab.built(progress, ETHERNET_MTU) as made:
        yield ContainersBench(made)


@contextmanager
def _host(core: int, progress: Progress) -> Iterator[Bench]:
    with hostwaylab.built(progress, core) as made:
        yield HostBench(made)


BUILDERS: dict[str, Callable[[int, Progress], Any]] = {
    "path": _path,
    "eastwest": _east,
    "containers": _containers,
    "host": _host,
}
_PREFIXES = {
    "path": pathlab.PREFIX,
    "eastwest": eastlab.PREFIX,
    "containers": containerlab.PREFIX,
    "host": hostwaylab.PREFIX,
}


def sweep(name: str) -> None:
    """Remove what a killed run of a lab has left.

    Raises:
        ProcessError: something of it does not go away.
    """
    Lab(_PREFIXES[name], guests=False).remove()
