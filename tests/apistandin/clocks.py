"""A clock for tests of the client: its waits are short, and count as long as they ought to be."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field


@dataclass(slots=True)
class QuickClock:
    """Time that only passes by sleeping, and `moved` by the test."""

    now: float = 1000.0
    slept: list[float] = field(default_factory=list)
    longest_s: float = 0.002
    """How long a sleep really lasts at most: other tasks get their turn."""

    def monotonic(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        await asyncio.sleep(min(seconds, self.longest_s))
        self.now += seconds

    def move(self, seconds: float) -> None:
        self.now += seconds


async def eventually(holds: object, timeout_s: float = 60.0, why: str = "") -> None:
    """Wait until a condition holds; `holds` is a function without arguments."""
    assert callable(holds)
    async with asyncio.timeout(timeout_s):
        while not holds():  # noqa: ASYNC110
            await asyncio.sleep(0.002)
    assert holds(), why
