"""Work that is not left half done when the task that awaits it is cancelled."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import ParamSpec, TypeVar

log = logging.getLogger(__name__)

T = TypeVar("T")
P = ParamSpec("P")


async def finish(work: Awaitable[T]) -> T:
    """Await `work` to its end even when cancelled meanwhile; then be cancelled."""
    task = asyncio.ensure_future(work)
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.wait({task})
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        if not task.cancelled() and task.exception() is not None:
            # Nobody waits for it any more, but it must not be lost either.
            log.warning("cancelled_work_failed error=%r", task.exception())
        raise cancelled
    return task.result()


async def in_thread(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Run a blocking call in a thread, to its end: a thread cannot be cancelled.

    If its caller could, undoing would begin while the thread was still doing.
    """
    return await finish(asyncio.to_thread(function, *args, **kwargs))
