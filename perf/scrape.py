"""`millrace perf scrape`: what metrics cost a node with many guests' ports.

The node daemon runs as installed beside an OVS-DPDK whose ports all have guests, and is scraped as
often as Prometheus would. What metrics cost is the daemon's own word, the processor time of the
threads that read figures and answer scrapes (`millrace_metrics_cpu_seconds_total`); beside it
stands the process as a whole, whatever else it does meanwhile. The threads of vswitchd that are no
PMD threads, and the database server, are measured without the daemon and with it: the difference
is what asking them costs.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import platform
import statistics
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from dataplane.drivers import netns, processes
from dataplane.model.config import DpdkConfig
from perf import judgecontrol, verdicts
from perf.control import cpu_seconds, memory_mib
from perf.labrun import Progress, in_lab
from perf.scrapelab import METRICS, ScrapeLab
from perf.vhostlab import VhostLab

SCHEMA = "millrace.perf.scrape/1"
COST = "millrace_metrics_cpu_seconds_total"
NS = 1e9


@dataclass(frozen=True, slots=True)
class Sample:
    """One interval: shares of one core in percent. `metrics` is the part of `daemon` for them."""

    metrics: float
    daemon: float
    vswitchd: float
    ovsdb: float


@dataclass(frozen=True, slots=True)
class Result:
    """All of a run. `scrape_ms`: until a scrape was answered; `poll_ms`: vswitchd's part of one."""

    ports: int
    every_s: float
    alone: tuple[Sample, ...]
    scraped: tuple[Sample, ...]
    scrape_ms: tuple[float, ...]
    poll_ms: tuple[float, ...]
    series: int
    answer_bytes: int
    rss_mib: float


def main_command(argv: Sequence[str]) -> int:
    """Measure and print; 1 if the lab did not come up or the bound is broken."""
    parser = argparse.ArgumentParser(prog="millrace perf scrape", description=__doc__)
    parser.add_argument("--json", action="store_true", help="print JSON, samples included")
    parser.add_argument("--ports", type=int, default=200, help="of guests (default 200)")
    parser.add_argument("--every", type=float, default=10.0, help="seconds between scrapes")
    parser.add_argument("--seconds", type=float, default=30.0, help="of one sample (default 30)")
    parser.add_argument("--samples", type=int, default=5, help="with scrapes (default 5)")
    parser.add_argument("--pmd-core", type=int, default=None, help="CPU of the one PMD")
    options = parser.parse_args(argv)
    if options.ports < 1 or options.samples < 1 or options.every <= 0:
        parser.error("--ports, --samples and --every must be positive")
    cores = os.cpu_count() or 1
    pmd = cores - 1 if options.pmd_core is None else options.pmd_core
    dpdk = DpdkConfig(lcore=(0,), pmd=(pmd,), socket_mem_mib=512, extra=("--no-pci",))
    lab = ScrapeLab(VhostLab(dpdk, 0), options.ports)

    def work(progress: Progress) -> Result:
        try:
            lab.build()
            return measure(lab, options.every, options.seconds, options.samples, progress)
        finally:
            lab.remove()

    found = in_lab("millrace perf scrape", work)
    if found is None:
        return 1
    result = report(found)
    if options.json:
        print(json.dumps(result, indent=2))
    else:
        print(table(found))
        print(verdicts.table(judgecontrol.scrape(result)))
    return 1 if any(one.red for one in judgecontrol.scrape(result)) else 0


def measure(
    lab: ScrapeLab, every: float, seconds: float, samples: int, say: Callable[[str], None]
) -> Result:
    """Without the daemon, then with it.

    Raises:
        DataplaneError: the daemon did not come up.
    """
    vswitchd, ovsdb = lab.pid_of("ovs-vswitchd"), lab.pid_of("db")
    say(f"{lab.ports} ports connected")
    alone = tuple(_interval(seconds, None, vswitchd, ovsdb, lambda: 0.0) for _ in range(2))
    daemon = lab.start_daemon()
    processes.wait_until(
        lambda: "millrace_ovs_poll_seconds" in _scraped(lab), "figures of OVS in a scrape",
        timeout_s=120,
    )  # fmt: skip
    # What a start costs is no scrape's.
    time.sleep(2 * every)
    took: list[float] = []
    polls: list[float] = []
    text = ""

    def scrape() -> float:
        nonlocal text
        began = time.perf_counter()
        text = _scraped(lab)
        took.append((time.perf_counter() - began) * 1000)
        polls.append(_value(text, "millrace_ovs_poll_seconds") * 1000)
        return sum(_value(text, f'{COST}{{part="{part}"}}') for part in ("answer", "read"))

    scraped: list[Sample] = []
    for number in range(samples):
        scraped.append(_interval(seconds, daemon, vswitchd, ovsdb, scrape, every))
        one = scraped[-1]
        say(
            f"sample {number + 1}: metrics {one.metrics:.2f} %, daemon {one.daemon:.2f} % of a core"
        )
    return Result(
        ports=lab.ports,
        every_s=every,
        alone=alone,
        scraped=tuple(scraped),
        scrape_ms=tuple(took),
        poll_ms=tuple(polls),
        series=sum(not line.startswith("#") for line in text.splitlines()),
        answer_bytes=len(text),
        rss_mib=memory_mib(daemon),
    )


def _interval(
    seconds: float,
    daemon: int | None,
    vswitchd: int,
    ovsdb: int,
    scrape: Callable[[], float],
    every: float = 10.0,
) -> Sample:
    """Shares of a core over about `seconds`, with a scrape each `every`."""

    def clocks() -> tuple[float, float, float, float]:
        own = cpu_seconds(daemon) if daemon is not None else 0.0
        return scrape(), own, _without_pmds(vswitchd), cpu_seconds(ovsdb)

    before, began = clocks(), time.monotonic()
    while time.monotonic() - began < seconds:
        scrape()
        time.sleep(every)
    took = time.monotonic() - began
    return Sample(*((now - then) / took * 100 for now, then in zip(clocks(), before, strict=True)))


def _without_pmds(pid: int) -> float:
    """Processor time of vswitchd's threads that are no PMD threads [s] (proc(5), schedstat)."""
    total = 0
    for task in Path(f"/proc/{pid}/task").iterdir():
        try:
            if not (task / "comm").read_text(encoding="utf-8").startswith("pmd-"):
                total += int((task / "schedstat").read_text(encoding="ascii").split()[0])
        except FileNotFoundError:
            continue  # ended in between
    return total / NS


def _scraped(lab: ScrapeLab) -> str:
    """One scrape; empty while nobody answers."""

    def get() -> str:
        try:
            request = urllib.request.Request(f"http://{METRICS}/metrics")
            # As Prometheus does.
            request.add_header("Accept-Encoding", "gzip")
            with urllib.request.urlopen(request, timeout=30) as answer:  # noqa: S310 - http, ours
                return gzip.decompress(answer.read()).decode()
        except (urllib.error.URLError, OSError):
            return ""

    return netns.inside_named(lab.vhost.name, get)


def _value(text: str, name: str) -> float:
    for line in text.splitlines():
        if line.startswith(f"{name} "):
            return float(line.split()[1])
    return 0.0


def report(found: Result) -> dict[str, object]:
    """The whole result with what it was measured on."""
    return {
        "schema": SCHEMA,
        "machine": {
            "kernel": platform.release(),
            "cpus": os.cpu_count(),
            "load_1m": os.getloadavg()[0],
            "python": platform.python_version(),
        },
        **asdict(found),
    }


def table(found: Result) -> str:
    """The result for people."""

    def spread(samples: Sequence[float], form: str = "{:.2f}") -> str:
        middle = form.format(statistics.median(samples))
        return f"{middle} ({form.format(min(samples))}..{form.format(max(samples))})"

    def share(samples: Sequence[Sample], name: str) -> str:
        return spread([float(getattr(one, name)) for one in samples])

    return "\n".join(
        (
            f"{found.ports} ports with guests, a scrape each {found.every_s:g} s, "
            f"{found.series} series, {found.answer_bytes / 1024:.0f} KiB; load "
            f"{os.getloadavg()[0]:.1f}",
            f"metrics [% of a core]                       {share(found.scraped, 'metrics')}",
            f"the daemon, all of it                       {share(found.scraped, 'daemon')}",
            f"vswitchd without its PMDs, with the daemon  {share(found.scraped, 'vswitchd')}",
            f"  without the daemon                        {share(found.alone, 'vswitchd')}",
            f"ovsdb-server, with the daemon               {share(found.scraped, 'ovsdb')}",
            f"  without the daemon                        {share(found.alone, 'ovsdb')}",
            f"a scrape is answered after [ms]             {spread(found.scrape_ms, '{:.0f}')}",
            f"vswitchd's part of a poll [ms]              {spread(found.poll_ms, '{:.0f}')}",
            f"resident memory of the daemon [MiB]         {found.rss_mib:.0f}",
        )
    )
