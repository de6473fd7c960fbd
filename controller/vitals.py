"""Signs of life of the chassis, for the cluster controller: asks, watches, and says who is down."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable

from controller.ovn import signs as databases
from controller.translate.pulse import Pulse, Signs
from dataplane.ports import DataplaneError

log = logging.getLogger(__name__)

MISSED_BEATS = 3
"""Questions without an answer after which a chassis is down: its vswitchd may restart meanwhile."""


class Vitals:
    """One watch; `run` it in the event loop, and it calls `on_change` there.

    Args:
        nb_remote: of the northbound database, where the question is written.
        sb_remote: of the southbound database, where the answers are.
        every_s: how often to ask.
        down: who was down when somebody looked last.
        may_ask: whether this controller is the one that works; the others only watch.
        on_change: another chassis is down, or one is no longer.
    """

    def __init__(
        self,
        nb_remote: str,
        sb_remote: str,
        every_s: float,
        down: frozenset[str],
        may_ask: Callable[[], bool],
        on_change: Callable[[], None],
    ) -> None:
        self.every_s = every_s
        self._pulse = Pulse(down=down)
        self._latest: Signs | None = None
        self._may_ask, self._on_change = may_ask, on_change
        self._question = databases.question(nb_remote)
        self._answers = databases.answers(sb_remote, self._saw)

    @property
    def down(self) -> frozenset[str]:
        """The chassis without a sign of life."""
        return self._pulse.down

    def _saw(self, signs: Signs) -> None:
        # In the database's thread: one reference changes, and the next look takes it.
        self._latest = signs

    async def run(self) -> None:
        """Ask and look until cancelled."""
        self._question.start()
        self._answers.start()
        try:
            while True:
                if self._may_ask():
                    await self._ask()
                for _ in range(4):
                    await asyncio.sleep(self.every_s / 4)
                    self._look()
        finally:
            await asyncio.to_thread(self._stop)

    async def _ask(self) -> None:
        try:
            await asyncio.to_thread(databases.ask, self._question)
        except DataplaneError as error:
            log.warning("heartbeat_not_asked error=%s", error)

    def _look(self) -> None:
        if self._latest is None or not self._answers.connected:
            return  # nothing can be said of anybody: what was said last stays
        before = self._pulse
        patience = MISSED_BEATS * self.every_s
        self._pulse = before.seen(self._latest, time.monotonic(), patience)
        if self._pulse.down != before.down:
            log.warning("chassis_down=%s before=%s", sorted(self.down), sorted(before.down))
            self._on_change()

    def _stop(self) -> None:
        self._question.stop()
        self._answers.stop()
