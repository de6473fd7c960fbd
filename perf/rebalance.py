"""`millrace perf rebalance`: a skewed load on two PMD threads, dealt out by OVS and by us.

Half of the guests are busy, the others hardly: the busy ones send most of it all, and each guest
most on its queue 0, as one with a few connections does or whose work is on one of its CPUs. OVS
deals queues out when guests come, and knows nothing of them then: which guests turn out to be the
busy ones is luck. Here it is bad luck: of four busy guests three have their queue 0 on one thread
(of all choices of four among eight it is so in 34 of 70, where the queues 0 are dealt out evenly).
Each round has other busy guests and all ways: OVS's `roundrobin` and `cycles` at start; from there
the pins that `dataplane.plan.rebalance` computes from the loads measured; and, for comparison,
OVS's own `pmd-rxq-rebalance` upon the same.

What is compared is pmd-rxq-show's highest load of a thread, and
the loads' variance; by the sum of all loads, too, since the ways are measured one after the other,
and what a packet costs changes with what else the machine does.

On two cores the guests run on the threads' cores. Both have real-time priorities, the guests before
the threads: so a load is a thread's own work and the little that guests take from it, and all ways
are offered the same. What is forwarded says nothing of a way then: rates are compared on machines
with four cores or more.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace

from dataplane.drivers.ovstext import PmdThread
from dataplane.drivers.pmdload import cores_of, queue_loads
from dataplane.model.config import DpdkConfig
from dataplane.plan.rebalance import highest, propose, variance
from perf.labrun import Progress, in_lab
from perf.rebalancelab import RebalanceLab
from perf.vhostlab import VhostLab

SCHEMA = "millrace.perf.rebalance/1"
INTERVAL_S = 5.0
"""OVS sums up queues' cycles in intervals of this length (dpif-netdev.c, PMD_INTERVAL_LEN)."""

SETTLE_S = 2.2 * INTERVAL_S
"""After a change: the interval that it fell into, and a whole one."""

FIGURES = ("highest", "variance", "share", "share_variance")
BUSY_SHARE = 0.9
"""Of all traffic, that of the busy guests."""

FIRST_QUEUE = 0.9
"""Of what a guest sends, on its queue 0."""

WAYS = ("roundrobin", "cycles", "computed", "rebalanced")
CORES_FOR_RATES = 4


@dataclass(frozen=True, slots=True)
class Sample:
    """One way in one round: loads by thread [%], and queues moved since it started.

    `kpps`: what came meanwhile, thousands a second. Where it differs, loads cannot be compared.
    """

    way: str
    loads: Mapping[int, float]
    moves: int
    kpps: float

    @property
    def highest(self) -> float:
        """The highest load of a thread [%]."""
        return highest(self.loads)

    @property
    def variance(self) -> float:
        """Of the threads' loads."""
        return variance(self.loads)

    @property
    def share(self) -> float:
        """The busiest thread's share of all load [%]: what the same traffic cost drops out."""
        return 100 * self.highest / (sum(self.loads.values()) or 1.0)

    @property
    def share_variance(self) -> float:
        """The variance of the threads' shares of all load [% squared]."""
        total = sum(self.loads.values()) or 1.0
        return variance({cpu: 100 * load / total for cpu, load in self.loads.items()})


def main_command(argv: Sequence[str]) -> int:
    """Measure and print; 1 if the pins were no better, unless judge.rebalance is to say so."""
    parser = argparse.ArgumentParser(prog="millrace perf rebalance", description=__doc__)
    parser.add_argument(
        "--json", action="store_true", help="print JSON, samples included; exit code 0"
    )
    parser.add_argument("--rounds", type=int, default=5, help="of all ways (default 5)")
    parser.add_argument("--guests", type=int, default=8, help="an even number (default 8)")
    parser.add_argument("--queues", type=int, default=2, help="of each guest (default 2)")
    parser.add_argument("--kpps", type=int, default=100, help="of all queues (default 100)")
    parser.add_argument("--pmd", type=int, nargs="+", default=None, help="the threads' CPUs")
    parser.add_argument(
        "--guest-cores", type=int, nargs="+", default=None, help="of the guests (default all)"
    )
    parser.add_argument("--seed", type=int, default=1, help="of which guests are busy")
    options = parser.parse_args(argv)
    if options.rounds < 1 or options.guests < 2 or options.guests % 2 or options.queues < 1:
        parser.error("--rounds and --queues must be positive, --guests even and positive")
    count = os.cpu_count() or 1
    pmd = tuple(options.pmd or range(max(count - 2, 0), count))
    guest_cores = tuple(options.guest_cores or range(count))
    dpdk = DpdkConfig(lcore=(0,), pmd=pmd, socket_mem_mib=512, extra=("--no-pci",))
    lab = RebalanceLab(VhostLab(dpdk, 0), options.guests, options.queues, guest_cores)

    def work(progress: Progress) -> list[Sample]:
        try:
            lab.build()
            return measure(lab, options.rounds, options.kpps * 1000, options.seed, progress)
        finally:
            lab.remove()

    samples = in_lab("millrace perf rebalance", work)
    if samples is None:
        return 1
    result = report(samples, vars(options) | {"pmd": list(pmd), "guest_cores": list(guest_cores)})
    if options.json:
        print(json.dumps(result, indent=2))
        return 0
    print(table(samples))
    return 0 if better(samples) else 1


def measure(
    lab: RebalanceLab, rounds: int, pps: int, seed: int, say: Callable[[str], None]
) -> list[Sample]:
    """All rounds; the two starts take turns in which comes first.

    Raises:
        DataplaneError: OVS or the guests did not come up.
    """
    chosen = random.Random(seed)  # noqa: S311 - the same shares each time
    samples: list[Sample] = []
    for number in range(rounds):
        starts = ("roundrobin", "cycles")
        for way in starts if number % 2 == 0 else starts[::-1]:
            lab.start(way)
            busy = busy_guests(_homes(lab), chosen)
            lab.load(shares(lab.guests, lab.queues, pps, busy))
            samples.append(_sample(lab, way, 0))
            if way == "cycles":
                samples += _computed(lab)
            lab.stop()
        words = (f"{s.way} {s.highest:.0f} % of {s.kpps:.0f} kpps" for s in samples[-len(WAYS) :])
        say(f"round {number + 1}: highest load: {', '.join(words)}")
    return samples


def _homes(lab: RebalanceLab) -> list[int]:
    """The CPU that polls each guest's queue 0."""
    places = _places(lab.threads(int(INTERVAL_S)))
    return [places[port, 0] for port in lab.ports]


def busy_guests(homes: Sequence[int], chosen: random.Random) -> frozenset[int]:
    """Half of the guests; three quarters of these have their queue 0 on one thread, if so many do.

    Args:
        homes: the CPU that polls each guest's queue 0.
        chosen: which of those that may be.
    """
    wanted = len(homes) // 2
    unlucky = max(sorted(set(homes)), key=homes.count)
    there = [guest for guest, cpu in enumerate(homes) if cpu == unlucky]
    together = chosen.sample(there, min(len(there), -(-3 * wanted // 4)))
    others = [guest for guest in range(len(homes)) if guest not in there] or there
    rest = [guest for guest in others if guest not in together]
    return frozenset([*together, *chosen.sample(rest, wanted - len(together))])


def shares(guests: int, queues: int, pps: int, busy: Collection[int]) -> list[int]:
    """A rate for each queue, the first guest's first: see the module."""
    first = FIRST_QUEUE if queues > 1 else 1.0
    within = [first, *[(1 - first) / max(queues - 1, 1)] * (queues - 1)]
    of_one = {True: BUSY_SHARE / len(busy), False: (1 - BUSY_SHARE) / (guests - len(busy))}
    return [round(pps * of_one[guest in busy] * part) for guest in range(guests) for part in within]


def _computed(lab: RebalanceLab) -> list[Sample]:
    """Upon what is there now: our pins, then OVS's own dealing instead."""
    threads = lab.threads(int(INTERVAL_S))
    found = propose(cores_of(threads), queue_loads(threads, lab.ports, {}, {}))
    lab.pin(found.affinity)
    ours = _sample(lab, "computed", len(found.moves))
    lab.pin({})
    before = _places(lab.threads(int(INTERVAL_S)))
    lab.deal_again()
    theirs = _sample(lab, "rebalanced", 0)
    after = _places(lab.threads(int(INTERVAL_S)))
    moved = sum(after.get(queue) != cpu for queue, cpu in before.items())
    return [ours, replace(theirs, moves=moved)]


def _places(threads: Sequence[PmdThread]) -> dict[tuple[str, int], int]:
    return {(rxq.interface, rxq.queue): t.cpu for t in threads for rxq in t.rxqs}


def _sample(lab: RebalanceLab, way: str, moves: int) -> Sample:
    time.sleep(SETTLE_S - INTERVAL_S)
    before, began = lab.received(), time.monotonic()
    time.sleep(INTERVAL_S)
    kpps = (lab.received() - before) / (time.monotonic() - began) / 1000
    threads = lab.threads(int(INTERVAL_S))
    loads = {t.cpu: float(sum(rxq.usage or 0 for rxq in t.rxqs)) for t in threads}
    return Sample(way, loads, moves, kpps)


def better(samples: Sequence[Sample]) -> bool:
    """Whether the computed pins deal better than OVS does at start, by the medians of shares."""

    def middle(way: str, name: str) -> float:
        return statistics.median(float(getattr(s, name)) for s in samples if s.way == way)

    return all(
        middle("computed", name) < middle(way, name)
        for name in ("share", "share_variance")
        for way in ("roundrobin", "cycles")
    )


def report(samples: Sequence[Sample], options: Mapping[str, object]) -> dict[str, object]:
    """The whole result."""
    return {
        "schema": SCHEMA,
        "machine": {"cpus": os.cpu_count(), "load_1m": os.getloadavg()[0]},
        "parameters": dict(options),
        "better": better(samples),
        "samples": [asdict(s) | {name: getattr(s, name) for name in FIGURES} for s in samples],
    }


def table(samples: Sequence[Sample]) -> str:
    """The result for people: median (min..max)."""
    columns = {
        "highest load, %": "highest",
        "variance": "variance",
        "highest of all, %": "share",
        "moves": "moves",
        "kpps": "kpps",
    }
    lines = [f"{'way':<12}" + "".join(f"{head:>20}" for head in columns) + "   n"]
    for way in WAYS:
        of = [s for s in samples if s.way == way]
        cells = [_spread([float(getattr(s, name)) for s in of]) for name in columns.values()]
        lines.append(f"{way:<12}" + "".join(f"{cell:>20}" for cell in cells) + f"   {len(of)}")
    if (os.cpu_count() or 1) < CORES_FOR_RATES:
        lines.append("the guests share the threads' cores: loads are compared, not rates")
    return "\n".join(lines)


def _spread(values: Sequence[float]) -> str:
    return f"{statistics.median(values):.0f} ({min(values):.0f}..{max(values):.0f})"
