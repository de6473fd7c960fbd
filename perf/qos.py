"""`millrace perf qos`: how exactly a port is held to its rate, under UDP overload.

Each case offers more than the limit for the whole window and counts what arrives. The window begins
with a full bucket, so the burst counts against the limit. A case is judged where the path without a
limit carries 1.5 times the rate; rates are of IP packets, which is what the policers count.

Each kind of port has an OVS of its own. Guests, and containers on the trunk, leave the PMD thread
its core; containers with OVS ports, which no PMD thread polls, run on that one and leave vswitchd's
main thread its own: what a packet socket loses while its reader does not run is paid for already,
and would be counted as the policer's.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

from dataplane.drivers import processes
from dataplane.model.bandwidth import Bandwidth, Limits
from dataplane.model.config import DpdkConfig
from perf.labrun import Progress, in_lab
from perf.qoslab import CONTAINER, KINDS, Counts, QosLab, built
from perf.vhostlab import VhostLab

SCHEMA = "millrace.perf.qos/1"
RATES = (1_000_000, 10_000_000, 100_000_000, 1_000_000_000)
FRAMES = {64: 64, 1500: 1514}
"""Name of a size to octets of the frame: the small one is of a frame, the large one of IP."""

ETHERNET = 14
BOUND = 0.05
HEADROOM = 1.5
OFFERED = 2.0
"""Times the limit."""

TRIES = 3
"""Of a case whose sender offered less than HEADROOM: on a shared core it may not have run."""

UNSHAPED_S = 3.0
LCORE = 0
"""CPU of vswitchd's main thread, which reads and writes containers' ports."""


@dataclass(frozen=True, slots=True)
class Case:
    """One rate, size and direction. `ratio`: what arrived, of IP packets, over the limit.

    `frame_ratio` is the same of whole frames. `unshaped` [bit/s of IP] is what arrives without a
    limit; `judged` whether that and `offered` are enough for the case to say anything.
    """

    kind: str
    rate: int
    size: int
    sending: bool
    seconds: float
    offered: float
    ratio: float
    frame_ratio: float
    unshaped: float
    judged: bool

    @property
    def holds(self) -> bool:
        """Within the bound, or not judged."""
        return not self.judged or abs(self.ratio - 1) <= BOUND


def ip_rate(counts: Counts) -> float:
    """Bits a second of IP packets that arrived."""
    return (counts.octets - ETHERNET * counts.received) * 8 / counts.seconds


def measure(
    lab: QosLab, rates: Sequence[int], seconds: float, told: Callable[[str], None]
) -> list[Case]:
    """Every rate, size and direction.

    Raises:
        DataplaneError: OVS did not take a limit, or the guests ended.
    """
    cases: list[Case] = []
    for size, frame in FRAMES.items():
        lab.limit(Limits(), sending=True)
        flood = ip_rate(lab.run(frame, 0, UNSHAPED_S))
        for rate in rates:
            pps = int(rate * OFFERED / 8 / (frame - ETHERNET))
            unshaped = flood
            if flood < HEADROOM * rate:
                # A flood may drown what reads it: a kernel's socket carries more of a little less.
                lab.limit(Limits(), sending=True)
                unshaped = max(flood, ip_rate(lab.run(frame, pps, UNSHAPED_S)))
            for sending in (True, False):
                wanted = Bandwidth(rate)
                limits = Limits(send=wanted) if sending else Limits(receive=wanted)
                lab.limit(limits, sending=sending)
                enough = unshaped >= HEADROOM * rate
                for _ in range(TRIES):
                    window = seconds if enough else min(seconds, UNSHAPED_S)
                    counts = lab.run(frame, pps, window)
                    case = case_of(lab.kind, rate, size, counts, unshaped, sending=sending)
                    # A sender that did not run says nothing of the policer.
                    if case.judged or not enough:
                        break
                told(line(case))
                cases.append(case)
    return cases


def case_of(
    kind: str, rate: int, size: int, counts: Counts, unshaped: float, *, sending: bool
) -> Case:
    """One case from what was counted."""
    frame = FRAMES[size]
    offered = counts.sent * (frame - ETHERNET) * 8 / counts.seconds
    return Case(
        kind=kind,
        rate=rate,
        size=size,
        sending=sending,
        seconds=counts.seconds,
        offered=offered,
        ratio=ip_rate(counts) / rate,
        frame_ratio=counts.octets * 8 / counts.seconds / rate,
        unshaped=unshaped,
        judged=min(unshaped, offered) >= HEADROOM * rate,
    )


def line(case: Case) -> str:
    """One case for people."""
    way = "sends" if case.sending else "receives"
    word = "not judged" if not case.judged else "holds" if case.holds else "FAILS"
    return (
        f"{case.kind:9s}  {case.rate / 1e6:6.0f} Mbit/s  {case.size:4d}  {way:8s}  "
        f"offered {case.offered / 1e6:8.1f}  unshaped {case.unshaped / 1e6:8.1f}  "
        f"{(case.ratio - 1) * 100:+6.2f} %  (frames {(case.frame_ratio - 1) * 100:+6.1f} %)  {word}"
    )


def report(cases: Sequence[Case], pmd: int) -> dict[str, object]:
    """The whole result with what it was measured on."""
    return {
        "schema": SCHEMA,
        "machine": {
            "kernel": platform.release(),
            "cpus": os.cpu_count(),
            "load_1m": os.getloadavg()[0],
            "ovs": processes.run(["ovs-vsctl", "--version"]).splitlines()[0].split()[-1],
        },
        "parameters": {"pmd_core": pmd, "bound": BOUND, "headroom": HEADROOM},
        "cases": [asdict(case) | {"holds": case.holds} for case in cases],
    }


def main_command(argv: Sequence[str]) -> int:
    """Measure and print; 1 when a limit does not hold, unless judge.qos is to say so."""
    parser = argparse.ArgumentParser(
        prog="millrace perf qos",
        description="rate limits of ports of VMs and containers: what arrives under overload",
    )
    parser.add_argument(
        "--json", action="store_true", help="print JSON; exit code 0 though a limit does not hold"
    )
    parser.add_argument("--seconds", type=float, default=10.0, help="of a case (default 10)")
    parser.add_argument("--rate", type=int, action="append", help="bit/s; may be repeated")
    parser.add_argument("--kind", choices=KINDS, action="append", help="of ports; default all")
    parser.add_argument("--pmd-core", type=int, default=None, help="CPU of the one PMD")
    parser.add_argument(
        "--guest-core", type=int, default=None, help="CPU of both ends; default: see above"
    )
    options = parser.parse_args(argv)
    pmd = (os.cpu_count() or 1) - 1 if options.pmd_core is None else options.pmd_core
    dpdk = DpdkConfig(lcore=(LCORE,), pmd=(pmd,), socket_mem_mib=512, extra=("--no-pci",))

    def told(text: str) -> None:
        print(text, file=sys.stderr if options.json else sys.stdout, flush=True)

    def work(_: Progress) -> list[Case]:
        cases: list[Case] = []
        for kind in options.kind or KINDS:
            core = options.guest_core
            if core is None:
                core = pmd if kind == CONTAINER else LCORE
            with built(VhostLab(dpdk, core), [kind]) as labs:
                labs[kind].start()
                cases += measure(labs[kind], options.rate or RATES, options.seconds, told)
        return cases

    cases = in_lab("millrace perf qos", work)
    if cases is None:
        return 1
    if options.json:
        print(json.dumps(report(cases, pmd), indent=2))
        return 0
    return 0 if all(case.holds for case in cases) else 1
