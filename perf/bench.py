"""Every benchmark, one after the other, and one table of verdicts: what `make bench` runs.

    python -m perf.bench [--only NAME ...] [--results DIR]

Each benchmark is its own process, and its JSON is kept. The verdicts (perf.judge) compare ratios
within a run. Exit code 1 if one is worse than its bound, or a benchmark failed; a verdict of "too
noisy" says that the bound runs through the samples: run it again on a quieter machine.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from perf import judge, judgecontrol
from perf.verdicts import Verdict, Word, table

MAX_S = 3600


@dataclass(frozen=True, slots=True)
class Benchmark:
    """A command that prints JSON, as the interpreter's or the installed command's arguments."""

    name: str
    command: tuple[str, ...]
    judge: judge.Judge


MILLRACE = str(Path(sys.executable).with_name("millrace"))
BENCHMARKS = (
    Benchmark("xdp", (MILLRACE, "perf", "xdp", "--json"), judge.xdp),
    Benchmark("peers", (MILLRACE, "perf", "peers", "--json"), judge.peers),
    Benchmark("path", (MILLRACE, "perf", "path", "--json"), judge.path),
    Benchmark("eastwest", (MILLRACE, "perf", "eastwest", "--json"), judge.eastwest),
    Benchmark("sockets", (MILLRACE, "perf", "sockets", "--json"), judge.sockets),
    Benchmark("vhost", (MILLRACE, "perf", "vhost", "--json"), judge.vhost),
    Benchmark("qos", (MILLRACE, "perf", "qos", "--json"), judge.qos),
    Benchmark("rebalance", (MILLRACE, "perf", "rebalance", "--json"), judge.rebalance),
    Benchmark("containers", (MILLRACE, "perf", "containers", "--json"), judge.containers),
    Benchmark("control", (MILLRACE, "perf", "control", "--json"), judgecontrol.control),
    Benchmark("scrape", (MILLRACE, "perf", "scrape", "--json"), judgecontrol.scrape),
    Benchmark("ovsjson", (sys.executable, "-m", "perf.ovsjson", "--json"), judgecontrol.ovsjson),
    Benchmark("hostway", (sys.executable, "-m", "perf.hostway", "--json"), judge.hostway),
    Benchmark("cni", (sys.executable, "-m", "perf.cni", "--json"), judgecontrol.cni),
    Benchmark("cluster", (sys.executable, "-m", "perf.cluster", "--json"), judgecontrol.cluster),
    Benchmark(
        "clusterplane",
        (sys.executable, "-m", "perf.clusterplane", "--grid", "--json"),
        judgecontrol.clusterplane,
    ),
    Benchmark("cni_start", (sys.executable, "-m", "perf.cni_start"), judgecontrol.cni_start),
)


def run(benchmark: Benchmark, results: Path) -> list[Verdict] | str:
    """Run one, keep its JSON; its verdicts, or why there are none."""
    path = results / f"{benchmark.name}.json"
    with path.open("wb") as into:
        try:
            done = subprocess.run(  # noqa: S603 - our own commands
                benchmark.command,
                stdin=subprocess.DEVNULL,
                stdout=into,
                timeout=MAX_S,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return f"no end after {MAX_S} s"
    if done.returncode != 0:
        return f"exit {done.returncode}"
    return judge.judged(benchmark.judge, path.read_text(encoding="utf-8"))


def main_command(argv: Sequence[str]) -> int:
    """Run them and print the table; 1 if anything is red."""
    names = [benchmark.name for benchmark in BENCHMARKS]
    parser = argparse.ArgumentParser(prog="python -m perf.bench", description=__doc__)
    parser.add_argument("--only", nargs="+", choices=names, default=names)
    parser.add_argument("--results", type=Path, default=Path("bench/results"))
    options = parser.parse_args(argv)
    options.results.mkdir(parents=True, exist_ok=True)
    verdicts: list[Verdict] = []
    failures: list[str] = []
    for benchmark in BENCHMARKS:
        if benchmark.name not in options.only:
            continue
        print(f"== {benchmark.name} (load average {os.getloadavg()[0]:.1f})", flush=True)
        found = run(benchmark, options.results)
        if isinstance(found, str):
            failures.append(f"{benchmark.name}: {found}")
        else:
            verdicts += found
    print(f"\n{table(verdicts)}\n")
    for failure in failures:
        print(f"FAILED  {failure}")
    red = [one for one in verdicts if one.red]
    noisy = sum(one.word is Word.TOO_NOISY for one in verdicts)
    print(
        f"{len(verdicts)} verdicts, {len(red)} worse, {noisy} too noisy, {len(failures)} failed; "
        f"load average {os.getloadavg()[0]:.1f}; JSON in {options.results}"
    )
    return 1 if red or failures else 0


if __name__ == "__main__":
    sys.exit(main_command(sys.argv[1:]))
