"""`millrace perf control`: what the daemons cost as a cluster grows.

For each number of logical switch ports (and a tenth as many services): start of the daemon with
empty maps, restart after kill -9, one service's other backends from the northbound database to
the node's BPF map, the cluster controller's start and its mending of one lost row, processor time,
memory. Seconds belong to a machine; what is compared are ratios of one run: a large cluster to a
small one, a restart to a start, our way of a change to northd's.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from bpf import abi
from dataplane.drivers import processes
from dataplane.drivers.libbpf import Map
from dataplane.drivers.processes import Daemon
from dataplane.drivers.turns import short_turns
from perf.controllab import (
    PATIENCE_S,
    PORTS_OF_SERVICE,
    ControlLab,
    bump_operation,
    synced,
)
from perf.labrun import Progress, in_lab
from perf.ovsdbwire import Database, Json
from perf.verdicts import aligned

SCHEMA = "millrace.perf.control/1"
SIZES = (100, 1_000, 10_000)
STATUS_EVERY_S = 0.05
"""How often a starting daemon is asked whether it has converged: the grain of these figures."""

MAP_EVERY_S = 0.0005
NORTHD_EVERY_S = 0.005
IDLE_S = 21.0
"""Two periods of the daemon's comparison of everything."""


@dataclass(frozen=True, slots=True)
class Start:
    """From fork to converged. `writes`: rows that it wrote; `cpu_s`: all its threads'."""

    seconds: float
    cpu_s: float
    rss_mib: float
    writes: int


@dataclass(frozen=True, slots=True)
class Change:
    """One service's backends: from the transaction's sending to the map, and to northd's end.

    `after_commit_ms`: to the map from the server's word that the row is in the database, on disk;
    what comes before is the server's.
    """

    map_ms: float
    northd_ms: float
    after_commit_ms: float


@dataclass(frozen=True, slots=True)
class CentralStart:
    """The cluster controller: from fork until its rows are there."""

    seconds: float
    cpu_s: float
    rss_mib: float


@dataclass(frozen=True, slots=True)
class Size:
    """Everything measured at one number of ports. `load`: 1-minute average before and after."""

    ports: int
    services: int
    load: tuple[float, float]
    northd_s: float
    central_first: CentralStart
    central_mends: tuple[CentralStart, ...]
    first: Start
    starts: tuple[Start, ...]
    restarts: tuple[Start, ...]
    changes: tuple[Change, ...]
    change_cpu_ms: float
    idle_cpu_percent: float
    rss_mib: float
    peak_rss_mib: float


def cpu_seconds(pid: int) -> float:
    """Processor time of all threads of a process, in nanosecond steps (clock_getcpuclockid(3))."""
    return time.clock_gettime((~pid << 3) | 2)


def memory_mib(pid: int, field: str = "VmRSS") -> float:
    """A size in /proc/<pid>/status."""
    for line in Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) / 1024
    msg = f"process {pid} has no {field}"
    raise processes.ProcessError(msg)


def measure(lab: ControlLab, starts: int, changes: int, progress: Callable[[str], None]) -> Size:
    """Everything at one size.

    Raises:
        DataplaneError: a daemon did not come up, or did not converge.
    """
    load = os.getloadavg()[0]
    try:
        lab.build()
        progress(f"{lab.ports} ports, {lab.services} services: databases are in sync")
        northd_s = lab.sync()
        with lab.nb() as nb:
            central_first = start_central(lab, nb)
            mends = tuple(start_central(lab, nb, lost=True) for _ in range(starts))
        processes.stop(lab.central)
        progress(f"cluster controller: {central_first.seconds:.2f} s")
        lab.sync()
        first = start_node(lab)
        progress(f"first start: {first.seconds:.2f} s, {first.writes} writes")
        restarts = tuple(start_node(lab) for _ in range(starts))
        empty = tuple(start_node(lab, forget=True) for _ in range(starts))
        progress(f"restart: {_middle([r.seconds for r in restarts]):.2f} s")
        pid = _pid(lab.node)
        began = cpu_seconds(pid)
        done = changes_of(lab, changes)
        change_cpu = (cpu_seconds(pid) - began) / changes
        progress(f"one change: {_middle([c.map_ms for c in done]):.1f} ms")
        idle, began = cpu_seconds(pid), time.monotonic()
        time.sleep(IDLE_S)
        idle = (cpu_seconds(pid) - idle) / (time.monotonic() - began)
        return Size(
            ports=lab.ports,
            services=lab.services,
            load=(load, os.getloadavg()[0]),
            northd_s=northd_s,
            central_first=central_first,
            central_mends=mends,
            first=first,
            starts=empty,
            restarts=restarts,
            changes=done,
            change_cpu_ms=change_cpu * 1e3,
            idle_cpu_percent=idle * 100,
            rss_mib=memory_mib(pid),
            peak_rss_mib=memory_mib(pid, "VmHWM"),
        )
    finally:
        lab.remove()


def _pid(daemon: Daemon) -> int:
    pid = processes.running_pid(daemon)
    if pid is None:
        msg = f"{daemon.name} has ended: {processes.tail(daemon.pidfile.with_suffix('.log'))}"
        raise processes.ProcessError(msg)
    return pid


def start_node(lab: ControlLab, *, forget: bool = False) -> Start:
    """Kill the daemon if it runs, start it, and wait until it has converged."""
    lab.kill(lab.node)
    if forget:
        lab.forget_maps()
    (lab.rundir / "agent.sock").unlink(missing_ok=True)
    began = time.monotonic()
    pid = lab.spawn(lab.node)
    while (writes := lab.total_writes()) is None:
        _still(lab.node, began)
        time.sleep(STATUS_EVERY_S)
    return Start(time.monotonic() - began, cpu_seconds(pid), memory_mib(pid), writes)


def _still(daemon: Daemon, began: float) -> None:
    _pid(daemon)
    if time.monotonic() - began > PATIENCE_S:
        log = processes.tail(daemon.pidfile.with_suffix(".log"))
        msg = f"{daemon.name} has not converged after {PATIENCE_S:g} s:\n{log}"
        raise processes.ProcessError(msg)


def start_central(lab: ControlLab, nb: Database, *, lost: bool = False) -> CentralStart:
    """Kill the cluster controller, take a row of its away if `lost`, start it, wait for its rows.

    Its rows are all there once the MAC bindings are: three for one gateway with one VPC.
    """
    wanted = 1
    lab.kill(lab.central)
    if lost:
        wanted = len(nb.select("Static_MAC_Binding", ["ip"]))
        nb.transact({"op": "delete", "table": "Static_MAC_Binding", "where": []})
    began = time.monotonic()
    pid = lab.spawn(lab.central)
    while len(nb.select("Static_MAC_Binding", ["ip"])) < wanted:
        _still(lab.central, began)
        time.sleep(0.005)
    return CentralStart(time.monotonic() - began, cpu_seconds(pid), memory_mib(pid))


def changes_of(lab: ControlLab, count: int, first: int = 0) -> tuple[Change, ...]:
    """Give services, one after the other, the backends of their neighbours.

    `first`: how many changes came before, for a service gets others each time.
    """
    done = []
    with (
        short_turns(),
        lab.nb() as nb,
        Map.at(lab.map_path("vips")) as vips,
        Map.at(lab.map_path("sets")) as sets,
    ):
        for number in range(first, first + count):
            service = number * 7 % lab.services
            entry = vips.lookup(lab.vip_key(service))
            if entry is None:
                msg = f"service {service} is not in the map of VIPs"
                raise processes.ProcessError(msg)
            # Of all backends: the even one of a service's two sets.
            key = (2 * int(abi.VIP.unpack(entry)["service_id"])).to_bytes(abi.U32, sys.byteorder)
            # Another neighbour at each visit: a set that was seen before may cost less.
            neighbour = service + 1 + number // lab.services % (lab.services - 1)
            backends = lab.backends_text(service, neighbour)
            done.append(_change(nb, sets, key, lab.change(service, backends)))
            # Not in step with anything periodic.
            time.sleep(0.2 + 0.013 * (number % 7))
    return tuple(done)


def _change(nb: Database, sets: Map, key: bytes, operation: dict[str, Json]) -> Change:
    # A set that changes is written elsewhere, so its word changes.
    before = sets.lookup(key)
    target = int(nb.select("NB_Global", ["nb_cfg"])[0]["nb_cfg"]) + 1
    began = time.monotonic()
    nb.transact(operation, bump_operation())
    committed = time.monotonic()
    # The database is not asked for northd before the map has the change: the asking would be
    # part of what is measured.
    while sets.lookup(key) == before:
        if time.monotonic() - began > PATIENCE_S:
            msg = f"a service has its old table after {PATIENCE_S:g} s"
            raise processes.ProcessError(msg)
        time.sleep(MAP_EVERY_S)
    seen = time.monotonic()
    while synced(nb) < target:
        if time.monotonic() - began > PATIENCE_S:
            msg = f"northd has not done a change after {PATIENCE_S:g} s"
            raise processes.ProcessError(msg)
        time.sleep(NORTHD_EVERY_S)
    northd = time.monotonic()
    return Change((seen - began) * 1e3, (northd - began) * 1e3, (seen - committed) * 1e3)


def _middle(values: Sequence[float]) -> float:
    return statistics.median(values)


def spread(values: Sequence[float], form: str = ".2f") -> str:
    """Median (min..max)."""
    return f"{_middle(values):{form}} ({min(values):{form}}..{max(values):{form}})"


def table(sizes: Sequence[Size]) -> str:
    """The figures for people, a column for each size."""
    lines = [["", *(f"{size.ports:,} ports" for size in sizes)]]

    def row(title: str, cell: Callable[[Size], str]) -> None:
        lines.append([title, *(cell(size) for size in sizes)])

    row("services", lambda s: f"{s.services:,}")
    row("start, maps empty [s]", lambda s: spread([x.seconds for x in s.starts]))
    row("  its processor time [s]", lambda s: spread([x.cpu_s for x in s.starts]))
    row("restart after kill -9 [s]", lambda s: spread([x.seconds for x in s.restarts]))
    row("  its processor time [s]", lambda s: spread([x.cpu_s for x in s.restarts]))
    row("  its writes", lambda s: str(max(x.writes for x in s.restarts)))
    row("a change to the BPF map [ms]", lambda s: spread([x.map_ms for x in s.changes], ".1f"))
    row(
        "  from the commit on [ms]", lambda s: spread([x.after_commit_ms for x in s.changes], ".1f")
    )
    row("  northd done with it [ms]", lambda s: spread([x.northd_ms for x in s.changes], ".1f"))
    row("  processor time of a change [ms]", lambda s: f"{s.change_cpu_ms:.1f}")
    row("resident memory [MiB]", lambda s: f"{s.rss_mib:.0f}, at most {s.peak_rss_mib:.0f}")
    row("idle, of one CPU [%]", lambda s: f"{s.idle_cpu_percent:.2f}")
    row("cluster controller, first [s]", lambda s: f"{s.central_first.seconds:.2f}")
    row("  mends a lost row [s]", lambda s: spread([x.seconds for x in s.central_mends]))
    row("  resident memory [MiB]", lambda s: f"{s.central_first.rss_mib:.0f}")
    row("load average, before and after", lambda s: f"{s.load[0]:.1f}, {s.load[1]:.1f}")
    return aligned(lines)


def main_command(argv: Sequence[str]) -> int:
    """Measure and print; exit code 0, or 1 when something did not come up."""
    parser = argparse.ArgumentParser(prog="millrace perf control", description=__doc__)
    parser.add_argument("--ports", type=int, nargs="+", default=list(SIZES), metavar="N")
    parser.add_argument(
        "--ports-of-service", type=int, default=PORTS_OF_SERVICE, metavar="N",
        help="one service for each N ports (default 10)",
    )  # fmt: skip
    parser.add_argument("--starts", type=int, default=3, help="of each kind (default 3)")
    parser.add_argument("--changes", type=int, default=20, help="at each size (default 20)")
    parser.add_argument("--json", action="store_true", help="print JSON, every sample included")
    options = parser.parse_args(argv)
    if min(options.ports) < 100 or min(options.starts, options.changes) < 1:
        parser.error("--ports must be at least 100, --starts and --changes at least 1")
    if not 1 <= options.ports_of_service <= 10:
        parser.error("--ports-of-service must be 1 to 10")

    def work(progress: Progress) -> list[Size]:
        return [
            measure(
                ControlLab(ports, options.ports_of_service),
                options.starts,
                options.changes,
                progress,
            )
            for ports in options.ports
        ]

    sizes = in_lab("millrace perf control", work)
    if sizes is None:
        return 1
    if options.json:
        machine = {"kernel": platform.release(), "cpus": os.cpu_count()}
        result = {"schema": SCHEMA, "machine": machine, "sizes": [asdict(s) for s in sizes]}
        print(json.dumps(result, indent=2))
    else:
        print(table(sizes))
    return 0


if __name__ == "__main__":
    sys.exit(main_command(sys.argv[1:]))
