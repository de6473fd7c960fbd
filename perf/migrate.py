"""`python -m perf.migrate`: how long a machine is out of reach while it moves to the other node.

Two whole nodes and a QEMU guest with vhost-user ports on both; the guest goes to and fro under
pings every 10 ms and two TCP streams, one from a container, one from outside through a service.
OVN's ways for a port of two chassis take turns: both at once, and the target dead until a RARP.

The first guest of a node has OVS make a memory pool of some 600 MiB. What DPDK has not taken of it
at its start the kernel has to clear just then, and vswitchd stands still: `--socket-mem 512`.

Seconds belong to a machine; the guest runs under TCG, beside both nodes on the same processors.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from perf.labrun import Progress, in_lab
from tests.labs import logical
from tests.labs.logical import Dhcp
from tests.labs.twonodes import TwoNodeLab
from tests.labs.vmlife import IFACE_ID, Cut, Life

SCHEMA = "millrace.perf.migrate/1"
PREFIX = "mrmig"
BOUND_MS = 1000
"""What the design promises."""

WAYS = ("both at once", "rarp")


@dataclass(frozen=True, slots=True)
class Result:
    """Migrations by way, in the order of the runs. `load`: 1-minute average before and after."""

    load: tuple[float, float]
    cuts: dict[str, list[Cut]]


def measure(runs: int, socket_mem_mib: int, progress: Progress) -> Result:
    """`runs` times two migrations each way.

    Raises:
        DataplaneError: something did not come up.
    """
    load = os.getloadavg()[0]
    cuts: dict[str, list[Cut]] = {way: [] for way in WAYS}
    with TwoNodeLab(PREFIX, progress, guests=False, socket_mem_mib=socket_mem_mib) as two:
        logical.offer_dhcp(two.nb, Dhcp.of_lab(), IFACE_ID)
        life = Life.begun(two, 0, "aaaaa")
        try:
            progress(f"booted in {life.machine.wait_ready():.1f} s")
            for run in range(runs):
                # Two of a way, so that each goes both directions.
                for number, way in enumerate(way for way in WAYS for _ in range(2)):
                    cut = life.migrate(f"m{run:02}{number:02}", rarp=way == "rarp")
                    cuts[way].append(cut)
                    progress(f"{way}: silence {cut.silence_ms:.0f} ms")
        finally:
            life.end()
    return Result((load, os.getloadavg()[0]), cuts)


def lost(cut: Cut) -> int:
    """Connections that did not outlive a migration."""
    return sum(1 for stream in cut.streams.values() if stream["error"] or not stream["lines"])


def table(result: Result) -> str:
    """What a reader wants of it."""
    lines = [f"{'way':<14} {'n':>3} {'pings silent [ms]':>24} {'streams':>16} {'QEMU':>14} lost"]
    for way, cuts in result.cuts.items():
        pings = [cut.silence_ms for cut in cuts]
        streams = [one["longest_silence_ms"] for cut in cuts for one in cut.streams.values()]
        own = [cut.downtime_ms for cut in cuts]
        lines.append(
            f"{way:<14} {len(cuts):>3} {_spread(pings):>24} {_spread(streams):>16} "
            f"{_spread(own):>14} {sum(map(lost, cuts))}"
        )
    return "\n".join(lines)


def _spread(values: Sequence[float]) -> str:
    return f"{statistics.median(values):.0f} ({min(values):.0f}..{max(values):.0f})"


def main_command(argv: Sequence[str]) -> int:
    """Measure and print; 0, or 1: nothing measured, a connection lost, or the bound missed."""
    parser = argparse.ArgumentParser(prog="python -m perf.migrate", description=__doc__)
    parser.add_argument("--runs", type=int, default=2, help="of two migrations each way")
    parser.add_argument("--socket-mem", type=int, default=900, help="of each node's DPDK [MiB]")
    parser.add_argument("--json", action="store_true", help="print JSON, every sample included")
    options = parser.parse_args(argv)
    if options.runs < 1:
        parser.error("--runs must be at least 1")
    result = in_lab(
        parser.prog, lambda progress: measure(options.runs, options.socket_mem, progress)
    )
    if result is None:
        return 1
    if options.json:
        machine = {"kernel": platform.release(), "cpus": os.cpu_count()}
        print(json.dumps({"schema": SCHEMA, "machine": machine, **asdict(result)}, indent=2))
    else:
        print(table(result))
    cuts = [cut for some in result.cuts.values() for cut in some]
    return int(any(cut.silence_ms > BOUND_MS or lost(cut) for cut in cuts))


if __name__ == "__main__":
    sys.exit(main_command(sys.argv[1:]))
