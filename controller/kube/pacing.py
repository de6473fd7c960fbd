"""Time and chance, injected: a clock, and back-off with jitter."""

from __future__ import annotations

import asyncio
import random
import time
from dataclasses import dataclass, field
from typing import Protocol


class Clock(Protocol):
    """What waits and measures; tests have one whose time is theirs."""

    def monotonic(self) -> float:
        """Seconds of a clock that is never set back."""

    async def sleep(self, seconds: float) -> None:
        """Wait."""


class RealClock:
    """The machine's clock."""

    def monotonic(self) -> float:
        """Seconds since some moment."""
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        """Wait in the event loop."""
        await asyncio.sleep(seconds)


@dataclass(slots=True)
class Backoff:
    """Delays that double up to a bound; each is drawn from its upper half.

    Without jitter, every watcher of every node comes back in the same instant after the API
    server's restart.
    """

    first_s: float = 0.2
    last_s: float = 30.0
    random: random.Random = field(default_factory=random.Random)
    failures: int = 0

    def delay(self, at_least: float | None = None) -> float:
        """The next delay [s]; `at_least` is the server's own wish (Retry-After)."""
        bound = min(self.last_s, self.first_s * 2.0 ** min(self.failures, 32))
        self.failures += 1
        drawn = self.random.uniform(bound / 2, bound)
        if at_least is None:
            return drawn
        # The server's wish is a bound from below, and the same for everybody: jitter on top.
        return max(drawn, at_least + self.random.uniform(0, self.first_s))

    def reset(self) -> None:
        """Begin anew: something worked."""
        self.failures = 0


@dataclass(slots=True)
class Recovery:
    """Those who wait for one server: who is answered first after a failure wakes the others.

    Attributes:
        clock: who is answered again sooner than `again_s` after the last time wakes nobody: a
            server that answers and fails by turns would be asked in a circle.
    """

    clock: Clock = field(default_factory=RealClock)
    again_s: float = 10.0
    random: random.Random = field(default_factory=random.Random)
    _waiting: dict[object, asyncio.Event] = field(default_factory=dict)
    _last: float = float("-inf")
    _by: object = None

    def answered(self, who: object) -> None:
        """Somebody who was not is answered again."""
        now = self.clock.monotonic()
        if now - self._last < self.again_s:
            return
        self._last, self._by = now, who
        for event in self._waiting.values():
            event.set()

    async def wait(self, who: object, clock: Clock, seconds: float, since: float) -> None:
        """Wait so long [s], or about a second from when somebody else is answered.

        Args:
            who: whose own answers count for nothing.
            clock: what to wait with.
            seconds: at most so long.
            since: when what failed began [s]: who was answered after that counts.
        """
        woken = self._waiting[who] = asyncio.Event()
        if self._by is not who and self._last > since:
            woken.set()
        tasks = [asyncio.ensure_future(clock.sleep(seconds)), asyncio.ensure_future(woken.wait())]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            del self._waiting[who]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        if woken.is_set():
            # Not all in one instant.
            await clock.sleep(min(seconds, self.random.uniform(0, 1)))
