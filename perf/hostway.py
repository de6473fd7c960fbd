"""The node's kernel to workloads: ovn0, which PMD threads poll, beside a tap of OVS's main thread.

    python -m perf.hostway [--json] [--rounds N] [--seconds S] [--guest-core N]

Both ways are in one run on one node; each round takes them in turn, and begins with the other one
than the round before. What is slower is said as a ratio to the tap's median.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from perf import judge, verdicts
from perf.labrun import Progress, in_lab

if TYPE_CHECKING:
    from perf.hostwaylab import HostwayLab

SCHEMA = 1
AFXDP, TAP = "ovn0", "tap"
WAYS = (AFXDP, TAP)
PINGS, ECHOES = 1000, 40_000

LOWER, HIGHER = "lower", "higher"
FIGURES = (
    # key, in words, unit, which is better
    ("container_rtt_ms", "container, echo, median", "ms", LOWER),
    ("guest_rtt_ms", "guest, echo, median", "ms", LOWER),
    ("churn_p99_ms", "guest, echo, p99 while ports come and go", "ms", LOWER),
    ("tcp_out_gbit_s", "container, TCP from the host", "Gbit/s", HIGHER),
    ("tcp_in_gbit_s", "container, TCP to the host", "Gbit/s", HIGHER),
    ("guest_kpps", "guest, echoes of 1400 octets", "1000/s", HIGHER),
)

Samples = dict[str, dict[str, list[float]]]


def measure(
    made: HostwayLab, seconds: float, rounds: int, progress: Callable[[str], None]
) -> Samples:
    """Every figure's samples, by figure and way."""
    from perf.hostwaylab import CONTAINER, GUEST, median, percentile

    taken: dict[str, Callable[[str], float]] = {
        "container_rtt_ms": lambda way: median(made.round_trips(way, CONTAINER, PINGS)),
        "guest_rtt_ms": lambda way: median(made.round_trips(way, GUEST, PINGS)),
        "tcp_out_gbit_s": lambda way: made.tcp(way, seconds, to_host=False),
        "tcp_in_gbit_s": lambda way: made.tcp(way, seconds, to_host=True),
        "guest_kpps": lambda way: made.echoes(way, ECHOES),
    }
    found: Samples = {key: {way: [] for way in WAYS} for key, *_ in FIGURES}
    for number in range(rounds):
        order = WAYS if number % 2 == 0 else WAYS[::-1]
        for key, take in taken.items():
            for way in order:
                found[key][way].append(take(way))
        with made.ports_come_and_go():
            for way in order:
                trips = made.round_trips(way, GUEST, PINGS)
                found["churn_p99_ms"][way].append(percentile(trips, 0.99))
        progress(f"round {number + 1} of {rounds}: {_last(found)}")
    return found


def _last(found: Samples) -> str:
    return ", ".join(
        f"{key} {found[key][AFXDP][-1]:.3g}/{found[key][TAP][-1]:.3g}" for key, *_ in FIGURES
    )


def report(samples: Samples) -> dict[str, Any]:
    """Everything that somebody needs who doubts the figures."""
    return {
        "schema": SCHEMA,
        "kernel": platform.release(),
        "cpus": os.cpu_count(),
        "load": os.getloadavg()[0],
        "samples": samples,
    }


def table(samples: Samples) -> str:
    """For people: median (min..max) of both, and ovn0's by the tap's median."""
    lines: list[tuple[str, ...]] = [("", "unit", AFXDP, TAP, "ovn0 : tap")]
    for key, words, unit, _ in FIGURES:
        by_way = samples[key]
        ratio = verdicts.ratios(by_way[AFXDP], by_way[TAP])
        lines.append((words, unit, *(_spread(by_way[way]) for way in WAYS), _spread(ratio)))
    return verdicts.aligned(lines)


def _spread(samples: Sequence[float]) -> str:
    low, high = min(samples), max(samples)
    return f"{statistics.median(samples):.3g} ({low:.3g}..{high:.3g})"


def main_command(argv: Sequence[str]) -> int:
    """Measure and print; exit code 0, or 1 when something could not be measured."""
    parser = argparse.ArgumentParser(prog="python -m perf.hostway", description=__doc__)
    parser.add_argument("--json", action="store_true", help="print JSON, every sample included")
    parser.add_argument("--seconds", type=float, default=3.0, help="of one TCP stream (default 3)")
    parser.add_argument("--rounds", type=int, default=5, help="samples of each figure (default 5)")
    parser.add_argument("--guest-core", type=int, default=0, help="CPU of the guest")
    options = parser.parse_args(argv)

    def work(progress: Progress) -> Samples:
        from perf import hostwaylab

        with hostwaylab.built(progress, options.guest_core) as made:
            return measure(made, options.seconds, options.rounds, progress)

    samples = in_lab("perf.hostway", work)
    if samples is None:
        return 1
    if options.json:
        print(json.dumps(report(samples), indent=2))
        return 0
    print(table(samples))
    print(f"\n{verdicts.table(judge.hostway(report(samples)))}")
    return 0


if __name__ == "__main__":
    sys.exit(main_command(sys.argv[1:]))
