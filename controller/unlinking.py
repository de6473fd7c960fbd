"""Pods' links removed, while nobody waits longer than the link is to be seen."""

from __future__ import annotations

import asyncio
import logging

from controller.completion import in_thread
from dataplane.drivers import podlink
from dataplane.drivers.podwire import PodWire

log = logging.getLogger(__name__)

LISTED_LOOK_S = 0.001
"""Between two looks whether a link that is being removed is out of sight [s]."""


class Unlinking:
    """Removes links by their host ends."""

    def __init__(self) -> None:
        self._ending: set[asyncio.Future[None]] = set()

    async def remove(self, device: str) -> None:
        """Remove a pod's link; return when both ends are out of sight.

        The kernel takes the link off its lists at once, and then holds the caller until the last
        of its readers is done, some 20 ms: that much goes on without the runtime.

        Raises:
            DataplaneError: the kernel refused or cannot be asked, or the link is not ours.
        """
        with PodWire() as wire:
            index = wire.index_of(device)
            if index is None:
                return
            removing = asyncio.ensure_future(in_thread(podlink.remove, device, index))
            while not removing.done() and wire.index_of(device) == index:
                await asyncio.wait({removing}, timeout=LISTED_LOOK_S)
        if removing.done():
            await removing
            return
        self._ending.add(removing)
        removing.add_done_callback(self._ended)

    def _ended(self, removing: asyncio.Future[None]) -> None:
        self._ending.discard(removing)
        if not removing.cancelled() and (error := removing.exception()) is not None:
            log.warning("link_removal_failed error=%s", error)
