"""The stand-in in a thread of its own, for tests that are not asynchronous."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from tests.apistandin.server import StandIn

T = TypeVar("T")


class Threaded:
    """A running stand-in: `url`, and `do` for what has to happen in its event loop."""

    def __init__(self, api: StandIn, loop: asyncio.AbstractEventLoop) -> None:
        self.api, self.url, self._loop = api, api.url, loop

    def do(self, what: Callable[[StandIn], T]) -> T:
        """Call a function with the stand-in, in its loop, and wait for the result."""

        async def call() -> T:
            return what(self.api)

        return asyncio.run_coroutine_threadsafe(call(), self._loop).result(timeout=60)


@contextmanager
def running(api: StandIn | None = None) -> Iterator[Threaded]:
    """Serve in a thread until the block ends."""
    standin = api or StandIn()
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="api-stand-in")
    thread.start()
    asyncio.run_coroutine_threadsafe(standin.start(), loop).result(timeout=60)
    try:
        yield Threaded(standin, loop)
    finally:
        asyncio.run_coroutine_threadsafe(standin.stop(), loop).result(timeout=60)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(timeout=60)
        loop.close()
