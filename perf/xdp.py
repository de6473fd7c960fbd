"""`millrace perf xdp`: ns per packet of the XDP programs, by BPF_PROG_TEST_RUN.

The packet is put back before every run by a wrapper (bpf/progs/perf_wrapper.bpf.c). Each sample is
taken right after one of the floor: a program that looks one of 10,000 services up in a hash map of
the kernel's, changes destination, TTL and checksums, and redirects. What a case costs is its ratio
to that floor, wrapper included on both sides; ns are this thread's processor time.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import socket
import statistics
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from dataplane.drivers.netns import inside, opened
from dataplane.drivers.programs import program_info
from dataplane.ports import DataplaneError
from perf import xdpcases
from perf.judge import xdp as judge
from perf.verdicts import aligned
from perf.verdicts import table as verdict_table
from perf.xdpbench import FLOOR, Bench
from perf.xdpcases import Case

SCHEMA = "millrace.perf.xdp/3"
_FLOOR_REPEAT = 200_000
_MANY_BACKENDS = 1024
"""Of the service that has a million flows, so that none finds its backend's records taken.

A backend's flows are in three of the table's stretches of 16,384 records, which its address
chooses, and where others' are, too. Of two million records half are taken; of 128 backends some
have nothing but full stretches then (with 4 seeds in both families: in 6 of 8 tables, for up to
0.6 % of the flows).
"""


@dataclass(frozen=True, slots=True)
class Row:
    """One case measured: samples [ns], and the floor's beside them."""

    name: str
    version: int
    protocol: str
    program: str
    reason: str
    flows: int
    services: int
    uniform: bool
    repeat: int
    samples_ns: tuple[float, ...]
    floor_ns: tuple[float, ...]

    @property
    def ratios(self) -> tuple[float, ...]:
        """Each sample by the floor's beside it."""
        return tuple(a / b for a, b in zip(self.samples_ns, self.floor_ns, strict=True))


def measured(bench: Bench, case: Case, runs: int, repeat: int) -> Row:
    """One case, `runs` times.

    Raises:
        BenchError: packets took another path than the case's.
    """
    samples, floors = [], []
    many = xdpcases.repeats(bench, case, repeat)
    for number in range(runs):
        floor = bench.run(FLOOR, bench.floor_packet, repeat=min(repeat, _FLOOR_REPEAT))
        floors.append(round(floor, 2))
        samples.append(round(xdpcases.run(bench, case, many, number), 2))
    return Row(
        case.name,
        case.version,
        case.protocol,
        str(case.target),
        case.reason.name if case.reason else "",
        case.flows,
        case.services,
        case.uniform,
        many,
        tuple(samples),
        tuple(floors),
    )


Cases = Callable[[Bench], Iterator[Case]]


def _parts(arguments: argparse.Namespace) -> Iterator[tuple[Bench, Cases]]:
    """Benches one after the other, each with what is measured in its maps."""
    root = str(arguments.bpf_root) if arguments.bpf_root else None
    yield Bench(root, arguments.services), xdpcases.base_cases
    if root is not None or not arguments.scale:
        return
    one: Cases = xdpcases.established_only
    yield Bench(None, 1), one
    yield Bench(None, xdpcases.MOST_SERVICES), one
    yield (
        Bench(None, xdpcases.UNIFORM),
        lambda bench: xdpcases.established_only(bench, uniform=True),
    )
    yield (
        Bench(None, 1, xdpcases.MOST_FLOWS, _MANY_BACKENDS),
        lambda bench: xdpcases.established_only(bench, xdpcases.MOST_FLOWS),
    )


def rows(arguments: argparse.Namespace) -> tuple[list[Row], list[dict[str, str]]]:
    """Every case, measured; and the programs that were."""
    found: list[Row] = []
    programs: list[dict[str, str]] = []
    for bench, cases in _parts(arguments):
        with bench:
            programs = [{"name": info.name, "tag": info.tag} for info in bench.infos.values()]
            found += [
                measured(bench, case, arguments.runs, arguments.repeat) for case in cases(bench)
            ]
    return found, programs


def attached(netns: str | None) -> list[dict[str, str]]:
    """Programs of ours on devices of a network namespace; None: of this one."""
    if netns is None:
        return _attached_here()
    path = f"/run/netns/{netns}"
    with opened(path) as fd:
        return inside(fd, path, _attached_here)


def _attached_here() -> list[dict[str, str]]:
    found = []
    for _, device in socket.if_nameindex():
        info = program_info(device)
        if info is not None and info.name.startswith("millrace_"):
            found.append({"device": device, "name": info.name, "tag": info.tag})
    return found


def report(arguments: argparse.Namespace) -> dict[str, Any]:
    """Measure; everything that somebody needs who doubts the figures."""
    load = os.getloadavg()[0]
    found, programs = rows(arguments)
    return {
        "schema": SCHEMA,
        "kernel": platform.release(),
        "cpus": os.cpu_count(),
        "load": [load, os.getloadavg()[0]],
        "maps": str(arguments.bpf_root or "private"),
        "measured": programs,
        "attached": attached(arguments.netns),
        "rows": [asdict(row) | {"ratios": row.ratios} for row in found],
    }


def table(found: Sequence[dict[str, Any]]) -> str:
    """The rows for people: ns, and how many times the floor."""
    titles = ("program", "packet", "IP", "flows", "services", "min", "median", "max", "floors")
    lines = [titles]
    for row in found:
        samples = row["samples_ns"]
        figures = (min(samples), statistics.median(samples), max(samples))
        services = f"{row['services']:,}" + (" in turn" if row["uniform"] else "")
        lines.append(
            (
                row["program"],
                f"{row['protocol']} {row['name']}".strip(),
                f"v{row['version']}",
                f"{row['flows']:,}",
                services if row["services"] else "",
                *(f"{figure:.0f}" for figure in figures),
                f"{statistics.median(row['ratios']):.2f}",
            )
        )
    return aligned(lines, range(3, len(titles)))


def _arguments(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="millrace perf xdp",
        description="ns per packet of the XDP programs (BPF_PROG_TEST_RUN, packet put back)",
    )
    parser.add_argument(
        "--bpf-root", type=Path, help="measure over the pinned maps of the running node there"
    )
    parser.add_argument("--netns", help="of the node, to name what is attached there")
    parser.add_argument("--json", action="store_true", help="print JSON, every sample included")
    parser.add_argument(
        "--repeat", type=int, default=300_000, help="packets of one sample (default 300,000)"
    )
    parser.add_argument("--runs", type=int, default=9, help="samples of each row (default 9)")
    parser.add_argument(
        "--services", type=int, default=10_000, help="in private maps (default 10,000)"
    )
    parser.add_argument(
        "--no-scale",
        dest="scale",
        action="store_false",
        help="leave out 100,000 services and 1,000,000 flows",
    )
    return parser.parse_args(argv)


def main_command(argv: Sequence[str]) -> int:
    """Measure and print; exit code 0, or 1 when something could not be measured."""
    arguments = _arguments(argv)
    cpus = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {max(cpus)})  # caches and per-CPU maps of one, as a queue has it
        result = report(arguments)
    except DataplaneError as error:
        print(f"millrace perf xdp: {error}", file=sys.stderr)
        return 1
    finally:
        os.sched_setaffinity(0, cpus)
    if arguments.json:
        print(json.dumps(result, indent=2))
        return 0
    print(table(result["rows"]))
    loads = " to ".join(f"{load:.1f}" for load in result["load"])
    print(f"\nns per packet, {arguments.runs} samples; kernel {result['kernel']}, load {loads}")
    print(f"maps: {result['maps']}")
    for each in result["measured"]:
        print(f"measured: {each['name']} tag {each['tag']}")
    for each in result["attached"]:
        print(f"attached: {each['name']} tag {each['tag']} on {each['device']}")
    if not arguments.bpf_root and arguments.scale:
        print(f"\n{verdict_table(judge(result))}")
    return 0


if __name__ == "__main__":
    sys.exit(main_command(sys.argv[1:]))
