"""A poll of everything that vswitchd says of itself over its unixctl socket.

unixctl runs on vswitchd's main thread, which also serves OpenFlow and the database, and some of
these commands take locks there. So no process is forked, the commands go one after the other, each
is timed, one that gets no answer in time ends the poll (the main thread is stuck, and more
questions would only wait behind the first), and a command that this version does not know is not
asked again until another process listens.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from dataplane.drivers.ovsreports import connections, datapath, pools, wires
from dataplane.drivers.ovstext import Coverage, PmdThread, cycles_of_threads, parse_coverage
from dataplane.drivers.ovstext import pmd_threads as threads_of
from dataplane.drivers.unixctl import ProcessId, UnixctlClient, UnixctlError

COMMANDS = (
    "dpif-netdev/pmd-perf-show",
    "dpif-netdev/pmd-stats-show",
    "dpif-netdev/pmd-rxq-show",
    "netdev-dpdk/get-mempool-info",
    "dpdk/get-malloc-stats",
    "coverage/show",
    "dpctl/show",
    "upcall/show",
    "memory/show",
    "dpctl/ct-get-nconns",
    "dpctl/ct-get-maxconns",
    "dpctl/ct-stats-show",
    "dpctl/ct-get-limits",
    "tnl/neigh/show",
    "bond/show",
    "lacp/show-stats",
)
"""In the order in which they are asked; pmd-stats-show is gone in OVS 4.0."""

UNKNOWN_COMMAND = "is not a valid command"


@dataclass(frozen=True, slots=True)
class OvsFigures:
    """What one poll brought; a command without an answer leaves its part empty.

    `tracked`: connections of conntrack, `tracked_most` how many there may be.
    `cycles`: idle and busy TSC cycles by NUMA node and core. `seconds`: how long each command that
    was asked took. `failures`: commands that got no answer so far, since the daemon's start.
    """

    pmds: tuple[PmdThread, ...] = ()
    cycles: Mapping[tuple[int, int], tuple[int, int]] = field(default_factory=dict)
    mempools: tuple[pools.Mempool, ...] = ()
    heaps: tuple[pools.Heap, ...] = ()
    coverage: Mapping[str, Coverage] = field(default_factory=dict)
    datapaths: tuple[datapath.Datapath, ...] = ()
    upcalls: tuple[datapath.Upcalls, ...] = ()
    memory: Mapping[str, int] = field(default_factory=dict)
    tracked: int | None = None
    tracked_most: int | None = None
    protocols: Mapping[str, int] = field(default_factory=dict)
    limits: connections.Limits = field(default_factory=connections.Limits)
    neighbours: tuple[wires.Neighbour, ...] = ()
    bonds: tuple[wires.Bond, ...] = ()
    lacp: tuple[wires.LacpMember, ...] = ()
    seconds: Mapping[str, float] = field(default_factory=dict)
    failures: Mapping[str, int] = field(default_factory=dict)

    @property
    def poll_seconds(self) -> float:
        """How long vswitchd's main thread, and its queue, took for all of it."""
        return sum(self.seconds.values())


class OvsPoll:
    """Asks, and remembers what a vswitchd does not know. For one thread at a time."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._process: ProcessId | None = None
        self._unknown: set[str] = set()
        self._failures: Counter[str] = Counter()

    def take(self, client: UnixctlClient) -> OvsFigures:
        """One poll. Never raises: what got no answer is counted and left out."""
        process = client.process()
        if process != self._process:
            self._process, self._unknown = process, set()
        texts: dict[str, str] = {}
        seconds: dict[str, float] = {}
        for command in COMMANDS if process is not None else ():
            if command in self._unknown:
                continue
            began = self._clock()
            try:
                texts[command] = client.call(command)
            except UnixctlError as error:
                if UNKNOWN_COMMAND in str(error):
                    self._unknown.add(command)
                    continue
                self._failures[command] += 1
                if self._clock() - began >= client.timeout:
                    seconds[command] = self._clock() - began
                    break
            seconds[command] = self._clock() - began
        return read(texts, seconds, dict(self._failures))


def read(
    texts: Mapping[str, str],
    seconds: Mapping[str, float] | None = None,
    failures: Mapping[str, int] | None = None,
) -> OvsFigures:
    """The figures in the answers, by command. Pure."""

    def of(command: str, parse: Callable[[str], Any]) -> Any:
        return parse(texts.get(command, ""))

    perf = texts.get("dpif-netdev/pmd-perf-show", "")
    return OvsFigures(
        pmds=threads_of(perf, texts.get("dpif-netdev/pmd-rxq-show", "")),
        cycles=cycles_of_threads(texts.get("dpif-netdev/pmd-stats-show", perf)),
        mempools=of("netdev-dpdk/get-mempool-info", pools.mempools),
        heaps=of("dpdk/get-malloc-stats", pools.heaps),
        coverage=of("coverage/show", parse_coverage),
        datapaths=of("dpctl/show", datapath.datapaths),
        upcalls=of("upcall/show", datapath.upcalls),
        memory=of("memory/show", datapath.memory),
        tracked=of("dpctl/ct-get-nconns", connections.number),
        tracked_most=of("dpctl/ct-get-maxconns", connections.number),
        protocols=of("dpctl/ct-stats-show", connections.by_protocol),
        limits=of("dpctl/ct-get-limits", connections.limits),
        neighbours=of("tnl/neigh/show", wires.neighbours),
        bonds=of("bond/show", wires.bonds),
        lacp=of("lacp/show-stats", wires.lacp_members),
        seconds=seconds or {},
        failures=failures or {},
    )
