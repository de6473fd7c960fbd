"""The Kubernetes controller running beside a test, in its event loop."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from controller.config_kubernetes import KubernetesConfig
from controller.kube.auth import Access
from controller.kube.http import Client
from controller.kubenet import Controller
from tests.apistandin.server import StandIn
from tests.labs.ovnsandbox import PATIENCE_S


@asynccontextmanager
async def controlling(api: StandIn, config: KubernetesConfig) -> AsyncIterator[Controller]:
    """A controller that runs until the block ends."""
    async with Client(Access(api.url)) as client:
        controller = Controller(config, client)
        working = asyncio.create_task(controller.run())
        try:
            yield controller
        finally:
            working.cancel()
            await asyncio.gather(working, return_exceptions=True)


async def until(what: str, condition: Callable[[], bool]) -> None:
    """Ask until it is so; what is waited for is in another process."""
    async with asyncio.timeout(PATIENCE_S):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.02)
    assert condition(), what
