"""`millrace perf containers`: two containers of one node, by the trunk, by OVS ports, by a bridge.

One TCP stream (iperf3), and request and response (an echo request when the answer before it is
there). The ways take turns (A-B-C, C-B-A), in one lab after the other: with Ethernet's MTU below
the tunnel, and with the most that a link with an AF_XDP port carries. Runs from the source tree:
the node is the tests' lab.
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

SCHEMA = "millrace.perf.containers/2"
ECHOES = 3000
UNDERLAY_MTUS = range(1400, AF_XDP_MTU + 1)
"""IPv6 needs 1280 in the tunnel (RFC 8200)."""
MEASURED_MTUS = (ETHERNET_MTU, AF_XDP_MTU)
"""A stream costs by the frame: the least that is usual, and the most that works."""


@dataclass
class Way:
    """What was measured of one way; `again`: segments of the stream that were sent again."""

    name: str
    gbit_s: list[float] = field(default_factory=list)
    again: list[int] = field(default_factory=list)
    rtt_ms: list[float] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Underlay:
    """What was measured with one MTU below the tunnel; `mtu`: of all ways' containers."""

    underlay_mtu: int
    mtu: int
    ways: list[Way]


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


def report(underlays: Sequence[Underlay]) -> dict[str, Any]:
    """Everything that somebody needs who doubts the figures."""
    return {
        "schema": SCHEMA,
        "kernel": platform.release(),
        "cpus": os.cpu_count(),
        "load": os.getloadavg()[0],
        "echoes": ECHOES,
        "underlays": [asdict(one) for one in underlays],
    }


def table(underlays: Sequence[Underlay]) -> str:
    """For people: median (min..max)."""
    lines = [
        f"{'underlay':>8} {'MTU':>5} {'way':<8} {'Gbit/s':<20} {'round trip, ms':<24} sent again"
    ]
    for underlay in underlays:
        for way in underlay.ways:
            gbit_s, rtt_ms = _middle(way.gbit_s, 2), _middle(way.rtt_ms, 4)
            lines.append(
                f"{underlay.underlay_mtu:>8} {underlay.mtu:>5} {way.name:<8} {gbit_s:<20}"
                f" {rtt_ms:<24} {_middle(way.again, 0)}"
            )
    return "\n".join(lines)


def _middle(samples: Sequence[float], digits: int) -> str:
    low, high = min(samples), max(samples)
    return f"{statistics.median(samples):.{digits}f} ({low:.{digits}f}..{high:.{digits}f})"


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
        help="this one alone, of the link below the tunnel; containers have what it leaves (default"
        f" {' and '.join(map(str, MEASURED_MTUS))}, one lab after the other; at most {AF_XDP_MTU})",
    )
    options = parser.parse_args(argv)
    mtus = MEASURED_MTUS if options.underlay_mtu is None else (options.underlay_mtu,)
    if not all(mtu in UNDERLAY_MTUS for mtu in mtus):
        parser.error(
            f"--underlay-mtu {options.underlay_mtu}: from {UNDERLAY_MTUS[0]} to {AF_XDP_MTU}, which"
            " is what a link with an AF_XDP port carries"
        )

    def work(progress: Progress) -> list[Underlay]:
        from perf import containerlab

        found = []
        for mtu in mtus:
            with containerlab.built(progress, mtu) as made:
                progress(f"underlay {mtu}: {made.on_trunk()} containers on the trunk")
                ways = measure(made, options.seconds, options.rounds, progress)
                found.append(Underlay(mtu, made.mtu(), ways))
        return found

    underlays = in_lab("millrace perf containers", work)
    if underlays is None:
        return 1
    result = report(underlays)
    if options.json:
        print(json.dumps(result, indent=2))
        return 0
    print(table(underlays))
    print(f"\n{verdicts.table(judge.containers(result))}")
    return 0


if __name__ == "__main__":
    sys.exit(main_command(sys.argv[1:]))
