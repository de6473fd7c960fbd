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
