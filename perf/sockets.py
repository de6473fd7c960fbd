"""`millrace perf sockets`: what connect-time translation costs connect() and datagrams.

Two processes do the same: one in a cgroup with the programs, one in none. They take turns, so that
a busy moment of the machine hits both. `none` is without the programs, `miss` with them and an
address that is no VIP, `hit` with a VIP of ten backends. What counts are the ratios to `none`; the
nanoseconds are whole calls from Python, the interpreter's part included. `program` is the time in
the programs alone, as the kernel takes it.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import signal
import socket
import statistics
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from bpf import abi
from bpf.objects import OBJECT_DIRECTORY
from dataplane.drivers import cgrouphook, processes
from dataplane.drivers.libbpf import Map
from dataplane.drivers.libbpf_programs import Object, read_image, run_statistics
from dataplane.drivers.sockprograms import CGROUP_FILESYSTEM, HOOKS, OBJECT, SocketProgramSet
from dataplane.model.addr import IPAddress
from dataplane.ports import DataplaneError
from perf import judge, verdicts
from perf.sockmaps import ECHO, ECHO6, PORT, Filler, Services

SCHEMA = "millrace.perf.sockets/1"
SERVICES = 3_000
NONE, MISS, HIT, EACH, BOUND = "none", "miss", "hit", "hit, each in turn", "hit, affinity"
CALLS = {"connect UDP": 20_000, "ask UDP": 4_000, "connect TCP": 1_000}
FAMILIES = {"IPv4": socket.AF_INET, "IPv6": socket.AF_INET6}
_PROGRAMS = {
    "connect UDP": ("connect",),
    "connect TCP": ("connect",),
    "ask UDP": ("sendmsg", "recvmsg"),
}


class SocketsError(DataplaneError):
    """The measurement cannot be made."""


@dataclass
class Row:
    """One thing in one condition: ns a call, one sample a round; and ns in the programs."""

    what: str
    family: str
    condition: str
    samples_ns: list[float] = field(default_factory=list)
    program_ns: float | None = None

    @property
    def median(self) -> float:
        """Of the samples."""
        return statistics.median(self.samples_ns)


class Worker:
    """A measured process; see perf.sockworker."""

    def __init__(self, cgroup: Path | None) -> None:
        command = [sys.executable, "-m", "perf.sockworker", *([str(cgroup)] if cgroup else [])]
        self._process = subprocess.Popen(  # noqa: S603 - our own interpreter
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def measure(self, what: str, family: int, targets: Sequence[IPAddress], times: int) -> float:
        """The mean of `times` calls [ns]."""
        ends = [(str(target), PORT) for target in targets]
        request = json.dumps([what, family, ends, times])
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(request + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            msg = f"the measured process ended at {what}, exit {self._process.wait()}"
            raise SocketsError(msg)
        return float(line)

    def close(self) -> None:
        """End it."""
        self._process.terminate()
        self._process.communicate()


def cgroup2_mount() -> Path:
    """Where cgroups of version 2 are.

    Raises:
        SocketsError: nowhere.
    """
    for line in Path("/proc/self/mountinfo").read_text(encoding="utf-8").splitlines():
        before, _, after = line.partition(" - ")
        if after.split()[0] == CGROUP_FILESYSTEM:
            return Path(before.split()[4])
    msg = "no cgroup2 is mounted; mount -t cgroup2 none /sys/fs/cgroup"
    raise SocketsError(msg)


@contextmanager
def own_cgroup() -> Iterator[Path]:
    """A cgroup for the measured process; its processes have ended by the end."""
    path = cgroup2_mount() / f"millrace-perf-{os.getpid()}"
    path.mkdir()
    try:
        yield path
    finally:
        path.rmdir()


@contextmanager
def own_maps() -> Iterator[dict[str, Map]]:
    """Maps of the object's own, pinned nowhere."""
    with ExitStack() as stack:
        made = stack.enter_context(Object(OBJECT_DIRECTORY / OBJECT))
        for name in abi.MAPS:
            made.keep_private(name)
        made.load()
        yield {name: stack.enter_context(made.map(name)) for name in abi.MAPS}


def _conditions(
    what: str, services: Services, echo: IPAddress
) -> Iterator[tuple[str, Sequence[IPAddress]]]:
    yield NONE, [echo]
    yield MISS, [echo]
    if what == "connect UDP":
        yield HIT, services.plain[:1]
        yield EACH, services.plain
        yield BOUND, [services.affinity]
    else:
        yield HIT, [services.echo]


@dataclass(frozen=True, slots=True)
class Lab:
    """Two processes that do the same, one of them in a cgroup with the programs."""

    outside: Worker
    inside: Worker
    served: Mapping[str, Services]
    loaded: SocketProgramSet

    def sample(self, row: Row, targets: Sequence[IPAddress], times: int) -> float:
        """The mean of so many calls [ns], by the process of the row's condition."""
        worker = self.outside if row.condition == NONE else self.inside
        return worker.measure(row.what, FAMILIES[row.family], targets, times)

    def rows(self, scale: float) -> Iterator[tuple[Row, Sequence[IPAddress], int]]:
        """Each row, what its calls are to, and how many calls a sample has."""
        for what, calls in CALLS.items():
            for family in FAMILIES:
                echo = ECHO if family == "IPv4" else ECHO6
                for condition, targets in _conditions(what, self.served[family], echo):
                    yield Row(what, family, condition), targets, max(10, int(calls * scale))


@contextmanager
def built(services: int) -> Iterator[Lab]:
    """Programs, maps with so many services of each family, a cgroup, the processes.

    Raises:
        DataplaneError: the programs cannot be loaded.
    """
    with ExitStack() as stack:
        maps = stack.enter_context(own_maps())
        filler = Filler(maps)
        served = {name: filler.family(4 if name == "IPv4" else 6, services) for name in FAMILIES}
        filler.write()
        cgroup = stack.enter_context(own_cgroup())
        path = OBJECT_DIRECTORY / OBJECT
        loaded = stack.enter_context(SocketProgramSet(maps, read_image(path), path))
        for hook, program in loaded.programs.items():
            stack.enter_context(cgrouphook.attach(cgroup, program, hook.attach_type))
        outside, inside = Worker(None), Worker(cgroup)
        stack.callback(inside.close)
        stack.callback(outside.close)
        yield Lab(outside, inside, served, loaded)


def sweep() -> None:
    """Remove the cgroups of processes that are no more."""
    for path in cgroup2_mount().glob("millrace-perf-*"):
        pid = path.name.rpartition("-")[2]
        if pid.isdigit() and not Path(f"/proc/{pid}").exists():
            for left in (path / "cgroup.procs").read_text(encoding="ascii").split():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(left), signal.SIGKILL)
            processes.wait_until(partial(_removed, path), f"{path} has no process any more")


def _removed(path: Path) -> bool:
    try:
        path.rmdir()
    except OSError:
        return not path.exists()
    return True


def measure(rounds: int, scale: float, services: int) -> list[Row]:
    """Every row, all in one run.

    Raises:
        DataplaneError: the programs cannot be loaded, or a process ended.
    """
    with built(services) as lab:
        rows = list(lab.rows(scale))
        for turn in range(rounds + 1):
            for row, targets, times in rows:
                took = lab.sample(row, targets, times)
                if turn:  # the first one warms up
                    row.samples_ns.append(took)
        _take_program_times(lab.loaded, lab.inside, rows)
    return [row for row, _, _ in rows]


def _take_program_times(
    loaded: SocketProgramSet,
    inside: Worker,
    rows: Sequence[tuple[Row, Sequence[IPAddress], int]],
) -> None:
    with run_statistics():
        for row, targets, times in rows:
            if row.condition == NONE:
                continue
            before = _run_times(loaded)
            inside.measure(row.what, FAMILIES[row.family], targets, times)
            after = _run_times(loaded)
            row.program_ns = sum(
                (after[name][0] - before[name][0]) / max(1, after[name][1] - before[name][1])
                for name in (f"{kind}{row.family[-1]}" for kind in _PROGRAMS[row.what])
            )


def _run_times(loaded: SocketProgramSet) -> Mapping[str, tuple[int, int]]:
    found = {}
    for hook in HOOKS:
        info = loaded.programs[hook].info()
        found[hook.name] = info.run_time_ns, info.run_cnt
    return found


def _table(rows: Sequence[Row]) -> str:
    base = {(row.what, row.family): row.median for row in rows if row.condition == NONE}
    lines = [f"{'what':<12} {'family':<6} {'condition':<18} {'ns':>8} {'ratio':>6} {'program':>8}"]
    for row in rows:
        ratio = row.median / base[row.what, row.family]
        program = "" if row.program_ns is None else f"{row.program_ns:.0f}"
        lines.append(
            f"{row.what:<12} {row.family:<6} {row.condition:<18} {row.median:>8.0f} "
            f"{ratio:>6.2f} {program:>8}"
        )
    return "\n".join(lines)


def main_command(argv: Sequence[str]) -> int:
    """Run it; 1 if a verdict is worse than its bound."""
    parser = argparse.ArgumentParser(prog="millrace perf sockets", description=__doc__)
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--scale", type=float, default=1.0, help="calls of a round, times this")
    parser.add_argument("--services", type=int, default=SERVICES, help="of each family")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(argv)
    try:
        rows = measure(options.rounds, options.scale, options.services)
    except (DataplaneError, OSError) as error:
        print(f"millrace perf sockets: {error}", file=sys.stderr)
        return 1
    result: dict[str, Any] = {
        "schema": SCHEMA,
        "kernel": platform.release(),
        "services": options.services,
        "rows": [asdict(row) for row in rows],
    }
    judged = judge.sockets(result)
    if options.json:
        print(json.dumps(result))
        return 0
    print(f"{_table(rows)}\n\n{verdicts.table(judged)}")
    return int(any(verdict.red for verdict in judged))


if __name__ == "__main__":
    sys.exit(main_command(sys.argv[1:]))
