"""`millrace perf vhost`: packets between two vhost-user guests through OVS-DPDK.

What is compared across machines is cycles and datapath passes per packet; Mpps belong to the
machine, and here to the core that both guests share.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from dataplane.drivers import processes
from dataplane.drivers.ovstext import PmdCounters, pmd_counters
from dataplane.model.config import DpdkConfig
from perf.labrun import Progress, in_lab
from perf.vhostlab import VhostLab

SCHEMA = "millrace.perf.vhost/1"
FRAME_SIZE = 64
WARM_UP_S = 1.0


@dataclass(frozen=True, slots=True)
class Trial:
    """One measurement of one scenario, from differences of the PMDs' counters."""

    packets: int
    seconds: float
    mpps: float
    cycles_per_packet: float
    passes_per_packet: float
    failed_upcalls: int


@dataclass(frozen=True, slots=True)
class Scenario:
    """One way through OVS, and what was measured of it."""

    name: str
    trials: tuple[Trial, ...]


def main_command(argv: Sequence[str]) -> int:
    """Measure and print; exit code 0, or 1 when no packet went through."""
    parser = argparse.ArgumentParser(
        prog="millrace perf vhost",
        description="two vhost-user guests through OVS-DPDK: Mpps, cycles and passes per packet",
    )
    parser.add_argument("--json", action="store_true", help="print JSON, raw trials included")
    parser.add_argument("--seconds", type=float, default=3.0, help="of one trial (default 3)")
    parser.add_argument("--trials", type=int, default=5, help="of each scenario (default 5)")
    parser.add_argument("--pmd-core", type=int, default=None, help="CPU of the one PMD")
    parser.add_argument("--guest-core", type=int, default=0, help="CPU of both guests")
    options = parser.parse_args(argv)
    if options.trials < 1 or options.seconds <= 0:
        parser.error("--trials and --seconds must be positive")
    cores = os.cpu_count() or 1
    pmd = cores - 1 if options.pmd_core is None else options.pmd_core
    dpdk = DpdkConfig(lcore=(0,), pmd=(pmd,), socket_mem_mib=512, extra=("--no-pci",))

    def work(_: Progress) -> list[Scenario]:
        return measure(VhostLab(dpdk, options.guest_core), options.seconds, options.trials)

    scenarios = in_lab("millrace perf vhost", work)
    if scenarios is None:
        return 1
    if options.json:
        print(json.dumps(report(scenarios, options.seconds, pmd, options.guest_core), indent=2))
    else:
        print(table(scenarios))
    return 0 if all(t.packets for s in scenarios for t in s.trials) else 1


def measure(lab: VhostLab, seconds: float, trials: int) -> list[Scenario]:
    """Every scenario on one OVS.

    Raises:
        ProcessError: OVS, OVN or testpmd did not come up.
    """
    try:
        lab.build()
        lab.connect_by_flows()
        flows = _scenario(lab, "port-to-port flows", seconds, trials)
        lab.disconnect_flows()
        lab.connect_by_ovn()
        return [flows, _scenario(lab, "OVN logical switch", seconds, trials)]
    finally:
        lab.remove()


def report(
    scenarios: Sequence[Scenario], seconds: float, pmd: int, guest: int
) -> dict[str, object]:
    """The whole result with what it was measured on."""
    return {
        "schema": SCHEMA,
        "machine": {
            "kernel": platform.release(),
            "cpu": _cpu_model(),
            "cpus": os.cpu_count(),
            "load_1m": os.getloadavg()[0],
            "ovs": processes.run(["ovs-vsctl", "--version"]).splitlines()[0].split()[-1],
        },
        "parameters": {
            "frame_bytes": FRAME_SIZE,
            "seconds": seconds,
            "pmd_core": pmd,
            "guest_core": guest,
        },
        "scenarios": [
            {
                "name": scenario.name,
                "summary": {
                    name: spread(scenario, name)
                    for name in ("mpps", "cycles_per_packet", "passes_per_packet")
                },
                "trials": [asdict(trial) for trial in scenario.trials],
            }
            for scenario in scenarios
        ],
    }


def spread(scenario: Scenario, name: str) -> dict[str, float]:
    """Median, minimum and maximum of one figure over the trials."""
    values = [float(getattr(trial, name)) for trial in scenario.trials]
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def table(scenarios: Sequence[Scenario]) -> str:
    """The result for people: median (min..max)."""
    columns: list[tuple[str, str, str]] = [
        ("Mpps", "mpps", "{:.2f}"),
        ("cycles/packet", "cycles_per_packet", "{:.0f}"),
        ("passes/packet", "passes_per_packet", "{:.2f}"),
    ]
    rows = [["scenario", *(title for title, _, _ in columns), "trials"]]
    for scenario in scenarios:
        cells = [scenario.name]
        for _, name, form in columns:
            s = spread(scenario, name)
            low, middle, high = (form.format(s[key]) for key in ("min", "median", "max"))
            cells.append(f"{middle} ({low}..{high})")
        rows.append([*cells, str(len(scenario.trials))])
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
    return "\n".join(
        [f"two vhost-user guests, {FRAME_SIZE}-byte frames, one PMD; median (min..max)", "", *lines]
    )


def _scenario(lab: VhostLab, name: str, seconds: float, trials: int) -> Scenario:
    lab.start_guests()
    try:
        # Packets flow once vhost has connected and the flows are in the datapath's caches.
        _until_flowing(lambda: _counters(lab).rx_packets)
        time.sleep(WARM_UP_S)
        return Scenario(name, tuple(_trial(lab, seconds) for _ in range(trials)))
    finally:
        lab.stop_guests()


def _until_flowing(packets: Callable[[], int]) -> None:
    first = packets()
    processes.wait_until(
        lambda: packets() > first + 10_000, "packets between the guests", every_s=0.2
    )


def _trial(lab: VhostLab, seconds: float) -> Trial:
    before, began = _counters(lab), time.monotonic()
    time.sleep(seconds)
    done, took = _counters(lab).since(before), time.monotonic() - began
    return Trial(
        packets=done.rx_packets,
        seconds=took,
        mpps=done.rx_packets / took / 1e6,
        cycles_per_packet=done.cycles_per_packet,
        passes_per_packet=done.passes_per_packet,
        failed_upcalls=done.failed_upcalls,
    )


def _counters(lab: VhostLab) -> PmdCounters:
    return pmd_counters(lab.appctl("dpif-netdev/pmd-stats-show"))


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()
