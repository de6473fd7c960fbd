"""`millrace perf eastwest`: services for virtual machines, by svc0 or by OVN on the switch.

One virtual machine sends 64-octet datagrams to another on its switch, a given share of them to a
service of it, and each is sent back. A load balancer of OVN's on the switch has every packet of the
switch pay conntrack; a range of services that is routed to svc0 has service packets alone pay, and
more. The sender sends as much as OVS takes from it, so that OVS's one thread is what is measured,
with all of the kernel's work for AF_XDP and the programs, which runs in it. Both ways take turns
(A-B-B-A). Runs from the source tree: the node is the tests' lab.
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
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from dataplane.drivers import processes
from perf import judge, verdicts
from perf.labrun import Progress, in_lab

if TYPE_CHECKING:
    from perf.eastlab import EastLab

SCHEMA = "millrace.perf.eastwest/1"
SVC0, SWITCH = "svc0", "switch"
WAYS = (SVC0, SWITCH)
"""How service packets are led: to svc0, or through OVN's load balancer on the switch."""

SHARES = (0, 10, 50)
"""Service packets of a hundred."""

WARM_UP_S, WARM_UP_PPS = 0.4, 100_000


@dataclass
class Case:
    """What was measured of one way with one mix.

    `stateful`: the switch has ACLs with allow-related, as a network policy makes them. `kpps`:
    datagrams that came back to the sender [1000/s]. Cycles and passes through OVS's datapath are
    for each packet that a machine sent, and there are two of them to a datagram that came back;
    `recirculated`: of them, what was not a packet's first pass from a port.
    """

    way: str
    share: int
    stateful: bool
    kpps: list[float] = field(default_factory=list)
    lost_percent: list[float] = field(default_factory=list)
    cycles_per_packet: list[float] = field(default_factory=list)
    passes_per_packet: list[float] = field(default_factory=list)
    recirculated: list[float] = field(default_factory=list)
    megaflows: list[int] = field(default_factory=list)


def sample(made: EastLab, case: Case, seconds: float) -> None:
    """One run of one case.

    Raises:
        ProcessError: what came back is not what was asked for.
    """
    node = made.lab.node
    # Each flow's first packets find megaflows and conntrack as they will be.
    made.run(case.way, case.share, WARM_UP_PPS, WARM_UP_S)
    before = node.pmd()
    told = made.run(case.way, case.share, 0, seconds)
    done = node.pmd().since(before)
    sent, back = sum(told.sent), sum(told.replies)
    if not sent or not back or (case.share and not told.replies[1]):
        msg = f"{case.way}, {case.share} % of services: of {told.sent} came back {told.replies}"
        raise processes.ProcessError(msg)
    case.kpps.append(back / told.seconds / 1e3)
    case.lost_percent.append(100 * (sent - back) / sent)
    case.cycles_per_packet.append(done.busy_cycles / told.packets)
    case.passes_per_packet.append((done.rx_packets + done.recirculations) / told.packets)
    case.recirculated.append(done.recirculations / told.packets)
    case.megaflows.append(len(node.megaflows()))


def measure(
    made: EastLab, seconds: float, rounds: int, progress: Callable[[str], None]
) -> list[Case]:
    """All cases: A-B, B-A, and so on."""
    cases = [Case(way, share, stateful) for stateful in (False, True) for share in SHARES
             for way in WAYS]  # fmt: skip
    for stateful in (False, True):
        with made.with_policy(stateful=stateful):
            for number in range(rounds):
                for way in WAYS if number % 2 == 0 else WAYS[::-1]:
                    with made.reached(way):
                        for case in cases:
                            if (case.way, case.stateful) == (way, stateful):
                                sample(made, case, seconds)
                acls = "with stateful ACLs" if stateful else "without ACLs"
                progress(f"{acls}, round {number + 1} of {rounds}")
    return cases


def break_even(cases: Sequence[Case], *, stateful: bool) -> float | None:
    """The share of service packets [%] at which both ways give the same rate, if there is one.

    A packet's time is taken to be linear between two shares that were measured.
    """

    def time_of(way: str, share: int) -> float:
        case = next(c for c in cases if (c.way, c.share, c.stateful) == (way, share, stateful))
        return 1 / statistics.median(case.kpps)

    differences = [(share, time_of(SVC0, share) - time_of(SWITCH, share)) for share in SHARES]
    for (low, before), (high, after) in pairwise(differences):
        if before <= 0 < after:
            return low + (high - low) * -before / (after - before)
    return None


def report(cases: Sequence[Case], flows: int) -> dict[str, Any]:
    """Everything that somebody needs who doubts the figures."""
    return {
        "schema": SCHEMA,
        "kernel": platform.release(),
        "cpus": os.cpu_count(),
        "load": os.getloadavg()[0],
        "flows": flows,
        "break_even_percent": {
            name: break_even(cases, stateful=stateful)
            for name, stateful in (("without ACLs", False), ("stateful ACLs", True))
        },
        "cases": [asdict(case) for case in cases],
    }


def table(cases: Sequence[Case]) -> str:
    """For people: median (min..max); the ratio of rates is svc0's by the switch's median."""
    lines: list[tuple[str, ...]] = [
        ("ACLs", "services", "way", "1000/s", "of the switch's", "lost", "cycles/packet",
         "passes/packet", "megaflows")
    ]  # fmt: skip
    for case in cases:
        other = next(
            c for c in cases if (c.way, c.share, c.stateful) == (SWITCH, case.share, case.stateful)
        )
        lines.append(
            (
                "stateful" if case.stateful else "none",
                f"{case.share} %",
                case.way,
                _spread(case.kpps, "{:.0f}"),
                _spread(verdicts.ratios(case.kpps, other.kpps), "{:.2f}"),
                f"{statistics.median(case.lost_percent):.2f} %",
                _spread(case.cycles_per_packet, "{:.0f}"),
                _spread(case.passes_per_packet, "{:.2f}"),
                _spread(case.megaflows, "{:.0f}"),
            )
        )
    return verdicts.aligned(lines)


def _spread(samples: Sequence[float], form: str) -> str:
    low, middle, high = (
        form.format(s) for s in (min(samples), statistics.median(samples), max(samples))
    )
    return middle if low == high else f"{middle} ({low}..{high})"


def main_command(argv: Sequence[str]) -> int:
    """Measure and print; exit code 0, or 1 when something could not be measured."""
    parser = argparse.ArgumentParser(
        prog="millrace perf eastwest",
        description="services for VMs: routed to svc0, or by OVN's load balancer on the switch",
    )
    parser.add_argument("--json", action="store_true", help="print JSON, every sample included")
    parser.add_argument("--seconds", type=float, default=1.0, help="of one sample (default 1)")
    parser.add_argument("--rounds", type=int, default=6, help="samples of each case (default 6)")
    parser.add_argument("--flows", type=int, default=256, help="of each kind (default 256)")
    parser.add_argument("--guest-core", type=int, default=0, help="CPU of both guests")
    options = parser.parse_args(argv)
    if options.rounds < 1 or options.seconds <= 0 or not 0 < options.flows <= 32768:
        parser.error("--rounds and --seconds must be positive, --flows 1 to 32768")

    def work(progress: Progress) -> list[Case]:
        from perf import eastlab

        with eastlab.built(progress, options.guest_core, options.flows) as made:
            return measure(made, options.seconds, options.rounds, progress)

    cases = in_lab("millrace perf eastwest", work)
    if cases is None:
        return 1
    result = report(cases, options.flows)
    if options.json:
        print(json.dumps(result, indent=2))
        return 0
    print(table(cases))
    for name, share in result["break_even_percent"].items():
        even = "no break-even between these" if share is None else f"even at {share:.0f} %"
        print(f"{name}: {even}")
    print(f"\n{verdicts.table(judge.eastwest(result))}")
    return 0


if __name__ == "__main__":
    sys.exit(main_command(sys.argv[1:]))
