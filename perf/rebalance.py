"""`millrace perf rebalance`: a skewed load on two PMD threads, dealt out by OVS and by us.

The guests differ as guests do: the k-th busiest sends 1/k of what the first does, most of it on its
queue 0, as one with a few connections does or whose work is on one of its CPUs. Each round gives
the guests other places in that order, the same for every way in that round: OVS's `roundrobin` and
`cycles` at start, when no queue has cost anything yet; from there the pins that
`dataplane.plan.rebalance` computes from the loads measured; and, for comparison, OVS's own
`pmd-rxq-rebalance` upon the same. What is compared is pmd-rxq-show's highest load of a thread, and
the loads' variance.

On two cores the guests run on the threads' cores. The threads have a real-time priority, so their
loads count their own work alone, and what they leave is the guests'. What is forwarded then says
nothing of a way: rates are compared on machines with four cores or more.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass

from dataplane.drivers.ovstext import PmdThread
from dataplane.drivers.pmdload import cores_of, queue_loads
from dataplane.model.config import DpdkConfig
from dataplane.plan.rebalance import highest, propose, variance
from dataplane.ports import DataplaneError
from perf.rebalancelab import RebalanceLab
from perf.vhostlab import VhostLab

SCHEMA = "millrace.perf.rebalance/1"
INTERVAL_S = 5.0
"""OVS sums up queues' cycles in intervals of this length (dpif-netdev.c, PMD_INTERVAL_LEN)."""

SETTLE_S = 2.2 * INTERVAL_S
"""After a change: the interval that it fell into, and a whole one."""

FIRST_QUEUE = 0.9
"""Of what a guest sends, on its queue 0."""

WAYS = ("roundrobin", "cycles", "computed", "rebalanced")
CORES_FOR_RATES = 4


@dataclass(frozen=True, slots=True)
class Sample:
    """One way in one round: loads by thread [%], and queues moved since it started."""

    way: str
    loads: Mapping[int, float]
    moves: int

    @property
    def highest(self) -> float:
        """The highest load of a thread [%]."""
        return highest(self.loads)

    @property
    def variance(self) -> float:
        """Of the threads' loads."""
        return variance(self.loads)


def main_command(argv: Sequence[str]) -> int:
    """Measure and print; 1 if the pins were no better, unless judge.rebalance is to say so."""
    parser = argparse.ArgumentParser(prog="millrace perf rebalance", description=__doc__)
    parser.add_argument(
        "--json", action="store_true", help="print JSON, samples included; exit code 0"
    )
    parser.add_argument("--rounds", type=int, default=5, help="of all ways (default 5)")
    parser.add_argument("--guests", type=int, default=8, help="an even number (default 8)")
    parser.add_argument("--queues", type=int, default=2, help="of each guest (default 2)")
    parser.add_argument("--kpps", type=int, default=200, help="of all queues (default 200)")
    parser.add_argument("--pmd", type=int, nargs="+", default=None, help="the threads' CPUs")
    parser.add_argument(
        "--guest-cores", type=int, nargs="+", default=None, help="of the guests (default all)"
    )
    parser.add_argument("--seed", type=int, default=1, help="of the shares (default 1)")
    options = parser.parse_args(argv)
    if options.rounds < 1 or options.guests < 2 or options.guests % 2 or options.queues < 1:
        parser.error("--rounds and --queues must be positive, --guests even and positive")
    if os.geteuid() != 0:
        print("millrace perf rebalance: needs root (hugepages, namespaces)", file=sys.stderr)
        return 1
    count = os.cpu_count() or 1
    pmd = tuple(options.pmd or range(max(count - 2, 0), count))
    guest_cores = tuple(options.guest_cores or range(count))
    dpdk = DpdkConfig(lcore=(0,), pmd=pmd, socket_mem_mib=512, extra=("--no-pci",))
    lab = RebalanceLab(VhostLab(dpdk, 0), options.guests, options.queues, guest_cores)
    try:
        lab.build()
        samples = measure(lab, options.rounds, options.kpps * 1000, options.seed, _say)
    except DataplaneError as error:
        print(f"millrace perf rebalance: {error}", file=sys.stderr)
        return 1
    finally:
        lab.remove()
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
    taken: Mapping[str, object] = {}
    for number in range(rounds):
        rates = shares(lab.guests, lab.queues, pps, chosen)
        starts = ("roundrobin", "cycles")
        for way in starts if number % 2 == 0 else starts[::-1]:
            lab.start(way, rates)
            samples.append(_sample(lab, way, 0))
            if way == "cycles":
                samples += _computed(lab)
            taken = lab.stop()
        words = (f"{s.way} {s.highest:.0f} %" for s in samples[-len(WAYS) :])
        say(f"round {number + 1}: highest load: {', '.join(words)}; {_rate(taken)}")
    return samples


def shares(guests: int, queues: int, pps: int, chosen: random.Random) -> list[int]:
    """A rate for each queue, the first guest's first: see the module."""
    ranks = [1 / (rank + 1) for rank in range(guests)]
    chosen.shuffle(ranks)
    first = FIRST_QUEUE if queues > 1 else 1.0
    within = [first, *[(1 - first) / max(queues - 1, 1)] * (queues - 1)]
    return [round(pps * rank / sum(ranks) * part) for rank in ranks for part in within]


def _rate(taken: Mapping[str, object]) -> str:
    sent, seconds = taken.get("sent"), taken.get("seconds")
    if not isinstance(sent, list) or not isinstance(seconds, float):
        return "the guests counted nothing"
    return f"{sum(sent) / seconds / 1000:.0f} kpps"


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
    return [ours, Sample("rebalanced", theirs.loads, moved)]


def _places(threads: Sequence[PmdThread]) -> dict[tuple[str, int], int]:
    return {(rxq.interface, rxq.queue): t.cpu for t in threads for rxq in t.rxqs}


def _sample(lab: RebalanceLab, way: str, moves: int) -> Sample:
    time.sleep(SETTLE_S)
    threads = lab.threads(int(INTERVAL_S))
    loads = {t.cpu: float(sum(rxq.usage or 0 for rxq in t.rxqs)) for t in threads}
    return Sample(way, loads, moves)


def better(samples: Sequence[Sample]) -> bool:
    """Whether the computed pins have the lower highest load and variance, by their medians."""

    def middle(way: str, name: str) -> float:
        return statistics.median(float(getattr(s, name)) for s in samples if s.way == way)

    return all(
        middle("computed", name) < middle(way, name)
        for name in ("highest", "variance")
        for way in ("roundrobin", "cycles")
    )


def report(samples: Sequence[Sample], options: Mapping[str, object]) -> dict[str, object]:
    """The whole result."""
    return {
        "schema": SCHEMA,
        "machine": {"cpus": os.cpu_count(), "load_1m": os.getloadavg()[0]},
        "parameters": dict(options),
        "better": better(samples),
        "samples": [{**asdict(s), "highest": s.highest, "variance": s.variance} for s in samples],
    }


def table(samples: Sequence[Sample]) -> str:
    """The result for people: median (min..max)."""
    lines = [f"{'way':<12}{'highest load, %':>22}{'variance':>24}{'moves':>12}   n"]
    for way in WAYS:
        of = [s for s in samples if s.way == way]
        cells = [
            _spread([getattr(s, name) for s in of]) for name in ("highest", "variance", "moves")
        ]
        lines.append(f"{way:<12}{cells[0]:>22}{cells[1]:>24}{cells[2]:>12}   {len(of)}")
    if (os.cpu_count() or 1) < CORES_FOR_RATES:
        lines.append("the guests share the threads' cores: loads are compared, not rates")
    return "\n".join(lines)


def _spread(values: Sequence[float]) -> str:
    return f"{statistics.median(values):.0f} ({min(values):.0f}..{max(values):.0f})"


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
