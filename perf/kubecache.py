"""What watching a large cluster costs: processor time, memory, and delay of a change.

    python -m perf.kubecache [--pods N] [--changes N] [--rate N] [--page N] [--rounds N] [--json]

Each round starts a process that serves the list (perf/kubeserver.py) and one that reads it into a
cache with three indexes, as the controller does. Processor time and memory are the reader's own:
memory above what the interpreter and its modules had before, kept and at its peak.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from controller.kube.auth import Access
from controller.kube.cache import Cache, by_namespace, by_node, by_owner
from controller.kube.http import Client
from controller.kube.reflector import PAGE, Reflector
from controller.kube.resources import PODS, Key

NOTE = "millrace.example/note"


@dataclass(frozen=True, slots=True)
class Round:
    """Figures of one round."""

    pods: int
    list_mb: float
    cpu_s: float
    wall_s: float
    kept_mb: float
    peak_mb: float
    change_p50_ms: float
    change_p99_ms: float
    change_max_ms: float
    change_cpu_us: float


def _resident_mb() -> float:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    return 0.0


def _cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


async def read(url: str, list_bytes: int, changes: int, page: int) -> Round:
    """List and watch once; the figures."""
    gc.collect()
    gc.freeze()
    before_mb, before_cpu, began = _resident_mb(), _cpu_s(), time.monotonic()
    delays: list[float] = []
    cache = Cache(PODS, {"namespace": by_namespace, "node": by_node, "owner": by_owner})
    async with Client(Access(url)) as client:
        reflector = Reflector(client, cache, page=page)
        task = asyncio.create_task(reflector.run())
        await cache.synced.wait()
        wall, cpu = time.monotonic() - began, _cpu_s() - before_cpu
        kept, peak = _resident_mb() - before_mb, _peak_mb() - before_mb
        done = asyncio.Event()

        def told(keys: frozenset[Key]) -> None:
            now = time.monotonic()
            for key in keys:
                pod = cache.at(key)
                if pod and (note := pod.metadata.annotations.get(NOTE)):
                    delays.append((now - float(note)) * 1000)
            if reflector.progress.events >= changes or len(delays) >= changes:
                done.set()

        cache.subscribe(told)
        watch_cpu = _cpu_s()
        if changes:
            async with asyncio.timeout(300):
                await done.wait()
        watch_cpu = _cpu_s() - watch_cpu
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    delays.sort()

    def rank(share: float) -> float:
        return delays[min(len(delays) - 1, int(share * len(delays)))] if delays else 0.0

    return Round(
        len(cache), list_bytes / 1e6, cpu, wall, kept, peak, rank(0.5), rank(0.99), rank(1.0),
        watch_cpu / max(1, changes) * 1e6,
    )  # fmt: skip


def _peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def one_round(pods: int, changes: int, rate: int, page: int) -> Round:
    """Serve and read in two processes."""
    serving = [sys.executable, "-m", "perf.kubeserver", str(pods), str(changes), str(rate)]
    with subprocess.Popen(serving, stdout=subprocess.PIPE, text=True) as server:  # noqa: S603
        try:
            assert server.stdout is not None
            url, size = server.stdout.readline().split()
            reading = [sys.executable, "-m", "perf.kubecache", "--read", url, "--bytes", size]
            reading += ["--changes", str(changes), "--page", str(page)]
            found = subprocess.run(reading, check=True, capture_output=True, text=True, timeout=600)  # noqa: S603
        finally:
            server.terminate()
    return Round(**json.loads(found.stdout))


def main(argv: Sequence[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--pods", type=int, default=10_000)
    parser.add_argument("--changes", type=int, default=5_000)
    parser.add_argument("--rate", type=int, default=1_000, help="changes per second")
    parser.add_argument("--page", type=int, default=PAGE, help="objects of a page; 0: no pages")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--read", help=argparse.SUPPRESS)
    parser.add_argument("--bytes", type=int, default=0, help=argparse.SUPPRESS)
    given = parser.parse_args(argv)
    if given.read:
        round_ = asyncio.run(read(given.read, given.bytes, given.changes, given.page))
        print(json.dumps(asdict(round_)))
        return 0
    rounds = [
        asdict(one_round(given.pods, given.changes, given.rate, given.page))
        for _ in range(given.rounds)
    ]
    if given.json:
        print(json.dumps(rounds))
        return 0
    print(f"{given.pods} pods, {rounds[0]['list_mb']:.0f} MB of JSON, {given.rounds} rounds")
    for name in rounds[0]:
        if name not in ("pods", "list_mb"):
            values = [one[name] for one in rounds]
            middle = statistics.median(values)
            print(f"{name:16} {middle:10.2f}   ({min(values):.2f} .. {max(values):.2f})")
    return 0


if __name__ == "__main__":
    sys.exit(main())
