"""When to apply the plan: events only say that something may have changed.

The loop knows nothing of tables but their names. It coalesces invalidations, keeps one apply at a
time, wakes up for the reconciler's next retry, and compares everything anew once in a while in
case an event was lost.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

log = logging.getLogger(__name__)

Scope = frozenset[str] | None
"""Names of the tables to apply; None: all."""

COALESCE_S = 0.005
"""Pause between the first event and the apply: the burst that follows an event joins it."""

PERIOD_S = 10.0
"""Longest time between two comparisons of everything."""


class RoundFailed(Exception):
    """A round did not look at all it was told to; it counts as over, and is tried again.

    `retry_s` is how long to wait for that, unless an event comes earlier.
    """

    def __init__(self, retry_s: float) -> None:
        super().__init__(retry_s)
        self.retry_s = retry_s


class ApplyLoop:
    """Calls `apply(scope)` until cancelled; `apply` returns seconds until its next retry.

    If it raises `RoundFailed`, its scope joins that of the next round. For the tables of `urgent`
    it does not wait for the rest of the burst: where their events come from, bursts are one event.
    """

    def __init__(
        self,
        apply: Callable[[Scope], Awaitable[float | None]],
        urgent: frozenset[str] = frozenset(),
    ) -> None:
        self._apply = apply
        self._urgent = urgent
        self._running = False
        self.periodic = False
        """Whether the round is one that nobody asked for: of everything, because it was time."""
        self._wake = asyncio.Event()
        self._scope: set[str] = set()
        self._all = True
        self._hurry = False
        self._round = 0
        self._finished = asyncio.Condition()

    def invalidate(self, *tables: str) -> None:
        """These tables (none named: all) may no longer equal the plan."""
        if tables:
            self._scope.update(tables)
        else:
            self._all = True
        self._wake.set()

    def hurry(self) -> None:
        """Do not wait for the rest of a burst before the next round: somebody waits for it.

        What comes while that round is under way is the next one's, so many are still few rounds.
        """
        self._hurry = True
        self._wake.set()

    def pressed(self) -> bool:
        """Whether somebody waits for the next round; any thread may ask."""
        return self._hurry or not self._urgent.isdisjoint(self._scope)

    async def applied(self) -> None:
        """Return after the next apply that began after this call."""
        async with self._finished:
            # The one under way may have read its inputs before the caller's change.
            target = self._round + 2 if self._running else self._round + 1
            await self._finished.wait_for(lambda: self._round >= target)

    async def run(self) -> None:
        """Apply whenever something changed, a retry is due, or PERIOD_S has passed."""
        self._wake.set()
        retry: float | None = None
        clock = asyncio.get_running_loop().time
        due = clock() + PERIOD_S
        while True:
            timed_out = False
            try:
                # However many events come: everything is compared when it is time.
                timeout = due - clock()
                if retry is not None:
                    timeout = min(max(retry, COALESCE_S), timeout)
                await asyncio.wait_for(self._wake.wait(), timeout)
            except TimeoutError:
                timed_out = True
            patient = self._all or not self._scope or not self._scope <= self._urgent
            if patient and not self._hurry:
                await asyncio.sleep(COALESCE_S)
            self._hurry = False
            self._wake.clear()
            self.periodic = timed_out and not self._all and not self._scope
            scope = None if timed_out or self._all else frozenset(self._scope)
            if scope is None:
                due = clock() + PERIOD_S
            self._scope.clear()
            self._all = False
            self._running = True
            try:
                retry = await self._apply(scope)
            except RoundFailed as failed:
                retry = failed.retry_s
                self._all |= scope is None
                self._scope.update(scope or ())
            async with self._finished:
                # Both at once: the round that is over must not pass for the next one.
                self._running = False
                self._round += 1
                self._finished.notify_all()
