"""A Kubernetes controller that tells what it writes and when: what `python -m perf.cluster` runs.

It is `millrace controller run`, but prints a line of JSON for each transaction: the moment [s,
CLOCK_MONOTONIC] at which it was known to be committed, the rows, and for how long the rows of pods
had waited since the change arrived here [s]. A line on the standard input is answered with the
controller's own status and its memory.
"""

from __future__ import annotations

import asyncio
import json
import logging
import resource
import sys
import time
from pathlib import Path
from typing import Any

from controller.config_kubernetes import KubernetesConfig
from controller.kube.auth import Access
from controller.kube.http import Client
from controller.kube.resources import Key
from controller.kubenet import Controller
from controller.network.book import Book
from controller.network.rows import RowKey
from controller.network.settings import NetSettings
from controller.ovn.keyed import BATCH
from dataplane.model.config import EastWest

PORT = "Logical_Switch_Port"
REMEMBERED = 20_000
"""Pods of which it is known when they were first seen."""


def memory_mb() -> dict[str, float]:
    """Resident now and at most [MB], the interpreter and its modules included."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"rss_mb": pages * resource.getpagesize() / 1e6, "rss_peak_mb": most}


def say(what: dict[str, Any]) -> None:
    """Print a line of JSON."""
    sys.stdout.write(json.dumps(what) + "\n")
    sys.stdout.flush()


async def run(url: str, nb: str, east_west: str = EastWest.AUTO) -> None:
    """Work until the standard input ends."""
    network = NetSettings(east_west=EastWest(east_west))
    config = KubernetesConfig(nb, namespace="kube-system", network=network)
    async with Client(Access(url)) as client:
        controller = Controller(config, client)

        def written(keys: tuple[RowKey, ...]) -> None:
            # A transaction's last row may bring others along, beyond the writer's measure.
            names = [str(key) for key in keys] if len(keys) <= 2 * BATCH else []
            now = time.monotonic()
            told: dict[str, Any] = {"at": now, "rows": len(keys), "keys": names}
            if len(keys) <= 50 and controller.engine is not None:
                told["by"] = {str(key): _sayers(controller.engine.book, key) for key in keys}
            told["waited"] = {one: now - arrived.pop(one) for one in names if one in arrived}
            say(told)

        arrived: dict[str, float] = {}

        def seen(keys: frozenset[Key]) -> None:
            now = time.monotonic()
            for key in keys:
                arrived.setdefault(f"{PORT} {key.name}.{key.namespace}", now)
                if len(arrived) > REMEMBERED:
                    del arrived[next(iter(arrived))]

        controller.sources.cache("pods").subscribe(seen)
        controller.writer.on_written = written
        working = asyncio.ensure_future(controller.run())
        telling = asyncio.ensure_future(_tell(controller))
        await asyncio.wait({working, telling}, return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            working.result()
        working.cancel()
        await asyncio.gather(working, return_exceptions=True)


def _sayers(book: Book, key: RowKey) -> list[str]:
    return [str(ref) for _, ref in book.sayers(key)]


async def _tell(controller: Controller) -> None:
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), sys.stdin
    )
    while not controller.counts.settled_at:  # noqa: ASYNC110  # half a second is exact enough
        await asyncio.sleep(0.005)
    say({"settled": controller.counts.settled_at})
    while await reader.readline():
        status = await controller.sight.status({})
        usage = resource.getrusage(resource.RUSAGE_SELF)
        say({**status, **memory_mb(), "cpu_s": usage.ru_utime + usage.ru_stime})


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING)
    asyncio.run(run(*sys.argv[1:]))
