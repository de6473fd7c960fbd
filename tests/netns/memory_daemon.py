"""A process with the CNI socket over `tests.netns.memory_host`, to be killed by a test.

Run as `python -m tests.netns.memory_daemon DIRECTORY installs|hangs`; it prints a line when calls
are served. DIRECTORY gets `state` and `run`, as the real daemon's statedir and rundir.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from controller import cni_run, server
from controller.cni_server import CniServer
from tests.netns.memory_host import MemoryHost, logical_port

PODS = ("web", "db", "api")


async def main(directory: Path, installs: bool) -> None:
    ports = [logical_port(f"{name}-0.shop", 5 + at) for at, name in enumerate(PODS)]
    ports.append(logical_port(f"{PODS[0]}-0.shop.mac.shop", 9))
    host = MemoryHost(directory / "state", *ports)
    host.installs = installs
    handlers = CniServer(host, directory / "run", 1442)
    await handlers.sweep()
    path = directory / "run" / "cni.sock"
    async with await server.serve(path, 0o600, handlers.handlers(), {0}, runner=cni_run.run):
        print("serving", flush=True)
        if not installs:
            await host.waiting.wait()
            print("hanging", flush=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), sys.argv[2] == "installs"))
