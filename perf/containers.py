"""`millrace perf containers`: two containers of one node, by the trunk, by OVS ports, by a bridge.

One TCP stream (iperf3), and request and response (an echo request when the answer before it is
there). The ways take turns (A-B-C, C-B-A). Runs from the source tree: the node is the tests' lab.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from dataplane.plan.mtu import AF_XDP_MTU, ETHERNET_MTU
from perf import judge, verdicts
from perf.labrun import Progress, in_lab

if TYPE_CHECKING:
    from perf.containerlab import ContainerLab

SCHEMA = "millrace.perf.containers/1"
ECHOES = 3000
UNDERLAY_MTUS = range(1400, AF_XDP_MTU + 1)
"""IPv6 needs 1280 in the tunnel (RFC 8200)."""


@dataclass
class Way:
    """What was measured of one way; `again`: segments of the stream that were sent again."""

    name: str
    gbit_s: list[float] = field(default_factory=list)
    again: list[int] = field(default_factory=list)
    rtt_ms: list[float] = field(default_factory=list)


def measure(
    made: ContainerLab, seconds: float, rounds: int, progress: Callable[[str], None]
) -> list[Way]:
    """All ways, taking turns."""
    ways = [Way(name) for name in made.pairs]
    for way in ways:
        made.round_trip(way.name, 100)
    for number in range(rounds):
        for way in ways if number % 2 == 0 else ways[::-1]:
            gbit_s, again = made.stream(way.name, seconds)
            way.gbit_s.append(gbit_s)
            way.again.append(again)
            way.rtt_ms.append(made.round_trip(way.name, ECHOES))
        progress(f"round {number + 1} of {rounds}")
    return ways


def report(ways: Sequence[Way], underlay_mtu: int = ETHERNET_MTU) -> dict[str, Any]:
    """Everything that somebody needs who doubts the figures."""
    return {
        "schema": SCHEMA,
        "kernel": platform.release(),
        "cpus": os.cpu_count(),
        "load": os.getloadavg()[0],
        "echoes": ECHOES,
        "underlay_mtu": underlay_mtu,
        "ways": [asdict(way) for way in ways],
    }


def table(ways: Sequence[Way]) -> str:
    """For people: median (min..max)."""
    lines = [f"{'way':<8} {'Gbit/s':<20} {'round trip, ms':<24} sent again"]
    for way in ways:
        cells = [
            f"{statistics.median(one):.{digits}f} ({min(one):.{digits}f}..{max(one):.{digits}f})"
            for one, digits in ((way.gbit_s, 2), (way.rtt_ms, 4), (way.again, 0))
        ]
        lines.append(f"{way.name:<8} {cells[0]:<20} {cells[1]:<24} {cells[2]}")
    return "\n".join(lines)


def main_command(argv: Sequence[str]) -> int:
    """Measure and print; exit code 0, or 1 when something could not be measured."""
    parser = argparse.ArgumentParser(
        prog="millrace perf containers",
        description="two containers of one node: the trunk, OVS ports, a Linux bridge",
    )
    parser.add_argument("--json", action="store_true", help="print JSON, every sample included")
    parser.add_argument("--seconds", type=float, default=3.0, help="of one stream (default 3)")
    parser.add_argument("--rounds", type=int, default=5, help="samples of each way (default 5)")
    parser.add_argument(
        "--underlay-mtu",
        type=int,
        default=ETHERNET_MTU,
        help=f"of the link below the tunnel; containers have what it leaves (default"
        f" {ETHERNET_MTU}, at most {AF_XDP_MTU})",
    )
    options = parser.parse_args(argv)
    if options.underlay_mtu not in UNDERLAY_MTUS:
        parser.error(
            f"--underlay-mtu {options.underlay_mtu}: from {UNDERLAY_MTUS[0]} to {AF_XDP_MTU}, which"
            " is what a link with an AF_XDP port carries"
        )

    def work(progress: Progress) -> list[Way]:
        from perf import containerlab

        with containerlab.built(progress, options.underlay_mtu) as made:
            progress(f"{made.on_trunk()} containers on the trunk")
            return measure(made, options.seconds, options.rounds, progress)

    ways = in_lab("millrace perf containers", work)
    if ways is None:
        return 1
    result = report(ways, options.underlay_mtu)
    if options.json:
        print(json.dumps(result, indent=2))
        return 0
    print(table(ways))
    print(f"\n{verdicts.table(judge.containers(result))}")
    return 0


if __name__ == "__main__":
    sys.exit(main_command(sys.argv[1:]))
