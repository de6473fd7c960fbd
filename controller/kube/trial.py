"""Watch one collection for a while and say what it costs: for benchmarks, and for a real cluster.

    python -m controller.kube.trial [--server URL | --kubeconfig FILE] [--resource pods]
        [--changes N] [--seconds N] [--page N]

Prints one line of JSON: processor time and memory of the list, above what the interpreter and its
modules had before; then, once so many changes came or the time is over, their cost. A change whose
object says when it was made (annotation millrace.example/made, by the machine's monotonic clock)
is also timed until it is in the cache and its readers are told.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import json
import resource
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from controller.kube import auth, kubeconfig, resources
from controller.kube.cache import Cache, by_namespace, by_node, by_owner
from controller.kube.http import Client
from controller.kube.reflector import PAGE, Reflector
from controller.kube.resources import Key, Resource

MADE = "millrace.example/made"
WATCHED: dict[str, Resource[Any]] = {
    one.plural: one
    for one in (
        resources.PODS,
        resources.SERVICES,
        resources.NODES,
        resources.NAMESPACES,
        resources.ENDPOINT_SLICES,
        resources.NETWORK_POLICIES,
    )
}


@dataclass(frozen=True, slots=True)
class Cost:
    """What it came to. Delays are empty where no object said when it was made."""

    objects: int
    list_cpu_s: float
    list_wall_s: float
    kept_mb: float
    peak_mb: float
    changes: int
    change_cpu_us: float
    delays_ms: list[float]


def _resident_mb() -> float:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    return 0.0


def _peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


async def measure(
    access: auth.Access, watched: Resource[Any], changes: int, seconds: float, page: int
) -> Cost:
    """List, then watch until `changes` came or `seconds` [s] are over."""
    gc.collect()
    gc.freeze()
    before_mb, before_cpu, began = _resident_mb(), _cpu_s(), time.monotonic()
    cache = Cache(watched, {"namespace": by_namespace, "node": by_node, "owner": by_owner})
    delays: list[float] = []
    done = asyncio.Event()
    async with Client(access) as client:
        reflector = Reflector(client, cache, page=page)
        task = asyncio.create_task(reflector.run())
        await cache.synced.wait()
        wall, cpu = time.monotonic() - began, _cpu_s() - before_cpu
        kept, peak = _resident_mb() - before_mb, _peak_mb() - before_mb

        def told(keys: frozenset[Key]) -> None:
            now = time.monotonic()
            for key in keys:
                obj = cache.at(key)
                if obj and (made := obj.metadata.annotations.get(MADE)):
                    delays.append((now - float(made)) * 1000)
            if reflector.progress.events >= changes:
                done.set()

        cache.subscribe(told)
        watch_cpu = _cpu_s()
        if changes:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await done.wait()
        seen = reflector.progress.events
        watch_cpu = _cpu_s() - watch_cpu
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    each = watch_cpu / seen * 1e6 if seen else 0.0
    return Cost(len(cache), cpu, wall, kept, peak, seen, each, sorted(delays))


def main(argv: Sequence[str]) -> int:
    """The command."""
    options = argparse.ArgumentParser(prog="python -m controller.kube.trial")
    options.add_argument("--server", help="a server that wants no credentials")
    options.add_argument("--kubeconfig", type=Path)
    options.add_argument("--resource", choices=sorted(WATCHED), default="pods")
    options.add_argument("--changes", type=int, default=0)
    options.add_argument("--seconds", type=float, default=60.0)
    options.add_argument("--page", type=int, default=PAGE)
    given = options.parse_args(argv)
    if given.server:
        access = auth.Access(given.server)
    else:
        paths = [given.kubeconfig] if given.kubeconfig else kubeconfig.default_paths()
        access = kubeconfig.load(paths)
    watched = WATCHED[given.resource]
    cost = asyncio.run(measure(access, watched, given.changes, given.seconds, given.page))
    sys.stdout.write(json.dumps(asdict(cost)) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
