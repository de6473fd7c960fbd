"""Which PMD thread should poll which receive queue, from what the queues cost. Pure.

OVS deals its queues out when something changes, by the cycles measured until then: what is started
at once is dealt out blind, and stays so (`pmd-auto-lb` deals anew, but only above its threshold of
load). Here the loads are given, and the answer is a partition with the lowest highest load that few
moves reach, said as pins (`pmd-rxq-affinity`, ovs-vswitchd.conf.db(5)).

A pin takes its thread away from all queues without one, and a queue that finds no thread is not
polled at all. So one thread of each NUMA node stays open: its queues are left without pins, OVS
has no choice but to give them to it, and whatever comes later finds it.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from statistics import pvariance

from dataplane.model.rows import Affinity

LEAST_POINTS = 5.0
"""A rearrangement has to take this much [percent of a thread] from the highest load."""

LEAST_SHARE = 0.1
"""And this share of the highest load."""

_SAME = 0.5
"""Loads that differ less [percent of a thread] are the same: OVS prints whole percents."""


class Hold(Enum):
    """Who decides where a queue is polled."""

    OURS = "ours"
    PINNED = "pinned by somebody else"
    LOOSE = "of a port that is not ours"


@dataclass(frozen=True, slots=True, order=True)
class Core:
    """A PMD thread's CPU and NUMA node."""

    cpu: int
    numa: int = 0


@dataclass(frozen=True, slots=True)
class QueueLoad:
    """A receive queue, the CPU that polls it now, and the share of that CPU that it takes [%].

    `pinned`: by us, now.
    """

    port: str
    queue: int
    cpu: int
    load: float
    hold: Hold = Hold.OURS
    pinned: bool = False

    @property
    def name(self) -> tuple[str, int]:
        """What tells it from others."""
        return self.port, self.queue


@dataclass(frozen=True, slots=True)
class Move:
    """One queue that is to be polled elsewhere."""

    port: str
    queue: int
    load: float
    before: int
    after: int


@dataclass(frozen=True, slots=True)
class Rebalance:
    """Loads by CPU as they are and as they would be, and the pins of our ports that say so.

    `affinity` is by port and queue, and whole: a queue of ours that is not in it has no pin.
    `reasons`, by NUMA node, say why nothing moves there; empty where something does.
    """

    present: Mapping[int, float]
    proposed: Mapping[int, float]
    moves: tuple[Move, ...] = ()
    affinity: Mapping[str, Mapping[int, int]] = field(default_factory=dict)
    reasons: Mapping[int, str] = field(default_factory=dict)

    @property
    def gain(self) -> float:
        """By how much the highest load falls [percent of a thread]."""
        return highest(self.present) - highest(self.proposed)


def highest(loads: Mapping[int, float]) -> float:
    """The highest load of a thread; 0 without any."""
    return max(loads.values(), default=0.0)


def variance(loads: Mapping[int, float]) -> float:
    """The population variance of the threads' loads, as OVS's auto-lb computes it."""
    return pvariance(loads.values()) if loads else 0.0


def pairs(pins: Mapping[int, int]) -> str:
    """Pins of one port as OVS wants them: queue:cpu, comma separated."""
    return ",".join(f"{queue}:{cpu}" for queue, cpu in sorted(pins.items()))


def pinned(
    pins: Mapping[str, Mapping[int, int]], ports: Container[str], pmd: Container[int]
) -> dict[str, Affinity]:
    """The rows of table `affinity`: the pins of ports that are planned.

    A port that is pinned to a CPU without a PMD thread is left to OVS: nobody would poll it there.
    """
    return {
        port: Affinity(pairs(queues))
        for port, queues in sorted(pins.items())
        if port in ports and queues and all(cpu in pmd for cpu in queues.values())
    }


def parsed(text: str) -> dict[int, int]:
    """The pins in OVS's words; what is none is left out."""
    words = (word.strip().split(":") for word in text.split(","))
    return {
        int(pair[0]): int(pair[1])
        for pair in words
        if len(pair) == 2 and all(part.isascii() and part.isdigit() for part in pair)
    }


def propose(
    cores: Iterable[Core], queues: Sequence[QueueLoad], *, isolates: bool = True
) -> Rebalance:
    """The pins that lower each NUMA node's highest load; those of now where it is not worth it.

    A queue stays on the NUMA node that polls it. The highest load never rises.

    Args:
        cores: the PMD threads.
        queues: every queue that is polled, each once; those of other CPUs are not looked at.
        isolates: a pin takes its thread away from queues without one (`pmd-rxq-isolate`).
    """
    by_numa: dict[int, list[int]] = {}
    for core in sorted(set(cores)):
        by_numa.setdefault(core.numa, []).append(core.cpu)
    present: dict[int, float] = {}
    proposed: dict[int, float] = {}
    moves: list[Move] = []
    affinity: dict[str, dict[int, int]] = {}
    reasons: dict[int, str] = {}
    for numa, cpus in sorted(by_numa.items()):
        here = sorted((q for q in queues if q.cpu in cpus), key=lambda q: (-q.load, *q.name))
        group = _Group(cpus, here, isolates=isolates)
        places, why = group.decide()
        present.update(group.loads(group.now))
        proposed.update(group.loads(places))
        if why:
            reasons[numa] = why
        moves += [
            Move(q.port, q.queue, q.load, q.cpu, places[q.name])
            for q in here
            if places[q.name] != q.cpu and q.hold is Hold.OURS
        ]
        for (port, queue), cpu in sorted(group.pins(places, kept=bool(why)).items()):
            affinity.setdefault(port, {})[queue] = cpu
    return Rebalance(present, proposed, tuple(moves), affinity, reasons)


Places = Mapping[tuple[str, int], int]


class _Group:
    """The threads of one NUMA node and their queues."""

    def __init__(self, cpus: list[int], queues: list[QueueLoad], *, isolates: bool) -> None:
        self._cpus = cpus
        self._queues = queues
        self._isolates = isolates
        self.now: Places = {q.name: q.cpu for q in queues}
        self._closed = {q.cpu for q in queues if q.hold is Hold.PINNED} if isolates else set[int]()
        """Threads that somebody else's pins keep from queues without one."""

    def loads(self, places: Places) -> dict[int, float]:
        """Load by CPU."""
        sums = dict.fromkeys(self._cpus, 0.0)
        for queue in self._queues:
            sums[places[queue.name]] += queue.load
        return sums

    def decide(self) -> tuple[Places, str]:
        """Where each queue is to be, and why nothing changes if that is where it is."""
        if len(self._cpus) < 2:
            return self.now, "one PMD thread: nothing to choose from"
        if not any(q.hold is Hold.OURS for q in self._queues):
            return self.now, "no queue of ours is polled here"
        if self._isolates and not set(self._cpus) - self._closed:
            return self.now, (
                "somebody else's pmd-rxq-affinity holds every thread: a queue without a pin has "
                "none; take one back"
            )
        before = highest(self.loads(self.now))
        least = max(LEAST_POINTS, LEAST_SHARE * before)
        best = self._best()
        after = highest(self.loads(best))
        if not self._safe():
            # Whatever it costs: a queue that nobody polls is worse than any load.
            return (best, "") if after <= before else (self.now, "")
        if before - after < least:
            return self.now, (
                f"the highest load would fall from {before:.0f} to {after:.0f} %: less than "
                f"{least:.0f} points"
            )
        return best, ""

    def pins(self, places: Places, *, kept: bool) -> dict[tuple[str, int], int]:
        """The pins of our queues that lead to `places`; those of now if nothing moves."""
        ours = [q for q in self._queues if q.hold is Hold.OURS]
        if kept:
            return {q.name: q.cpu for q in ours if q.pinned}
        opened = self._open(places) if self._isolates else set[int]()
        return {q.name: places[q.name] for q in ours if places[q.name] not in opened}

    def _safe(self) -> bool:
        """Whether the pins of now leave a thread for queues without one."""
        taken = self._closed | {q.cpu for q in self._queues if q.pinned}
        return not self._isolates or bool(set(self._cpus) - taken)

    def _open(self, places: Places) -> set[int]:
        """Threads without pins: those without a queue, or the one that has the loose ones."""
        free = [cpu for cpu in self._cpus if cpu not in self._closed]
        # A loose queue on a closed thread is moved by OVS before anything else happens.
        loose = {places[q.name] for q in self._queues if q.hold is Hold.LOOSE} & set(free)
        used = set(places.values())
        if loose:
            return loose
        if empty := {cpu for cpu in free if cpu not in used}:
            # OVS deals what has no pin out among all open threads: so the others have pins only.
            return empty
        loads = self.loads(places)
        return {min(free, key=lambda cpu: (loads[cpu], cpu))}

    def _best(self) -> Places:
        """The partition with the lowest highest load that few moves reach."""
        gathered = self._gathered()
        near = self._refined(dict(gathered))
        far = self._refined(self._longest_first(gathered))
        there = {name: highest(self.loads(p)) for name, p in (("near", near), ("far", far))}
        chosen = far if there["far"] < there["near"] - 2 * _SAME else near
        return self._trimmed(dict(chosen), gathered)

    def _gathered(self) -> Places:
        """As it is now, with the queues of others' ports together where they will be together.

        They have no pins: once ours are pinned, OVS gives them to the open thread.
        """
        loose = [q for q in self._queues if q.hold is Hold.LOOSE]
        if not loose or not self._isolates:
            return self.now
        where = dict.fromkeys((c for c in self._cpus if c not in self._closed), 0.0)
        for queue in loose:
            if queue.cpu in where:
                where[queue.cpu] += queue.load
        most = max(where, key=lambda cpu: (where[cpu], -cpu))
        return {**self.now, **{q.name: most for q in loose}}

    def _ours(self) -> list[QueueLoad]:
        return [q for q in self._queues if q.hold is Hold.OURS and q.load > 0]

    def _longest_first(self, start: Places) -> dict[tuple[str, int], int]:
        """The heaviest queue first, each to the thread with the least; where it is, if equal."""
        places = dict(start)
        ours = self._ours()
        sums = self.loads(places)
        for queue in ours:
            sums[places[queue.name]] -= queue.load
        for queue in ours:
            least = min(sums.values()) + _SAME
            cpus = [cpu for cpu in self._cpus if sums[cpu] <= least]
            cpu = queue.cpu if queue.cpu in cpus else cpus[0]
            places[queue.name] = cpu
            sums[cpu] += queue.load
        return places

    def _refined(self, places: dict[tuple[str, int], int]) -> dict[tuple[str, int], int]:
        """Moves and swaps of single queues, the best each time, until none makes it better."""
        ours = self._ours()
        for _ in range(4 * len(ours)):
            sums = self.loads(places)
            most, change = _SAME, None
            for index, one in enumerate(ours):
                here = places[one.name]
                for cpu in self._cpus:
                    if (gain := _gain(sums[here], sums[cpu], one.load)) > most and cpu != here:
                        most, change = gain, {one.name: cpu}
                for other in ours[index + 1 :]:
                    there = places[other.name]
                    gain = _gain(sums[here], sums[there], one.load - other.load)
                    if gain > most and there != here:
                        most, change = gain, {one.name: there, other.name: here}
            if change is None:
                break
            places.update(change)
        return places

    def _trimmed(self, places: dict[tuple[str, int], int], start: Places) -> Places:
        """Without the moves that gain nothing."""
        limit = highest(self.loads(places)) + _SAME
        for queue in reversed(self._ours()):
            back = {**places, queue.name: start[queue.name]}
            if highest(self.loads(back)) <= limit:
                places = back
        return places


def _gain(here: float, there: float, load: float) -> float:
    """By how much the sum of squares of the loads falls when `load` goes from here to there.

    Its root is a norm close to the highest load and, unlike that, tells two threads that are both
    at the top from one.
    """
    return 2 * load * (here - there - load)
