"""One world after another, packets through each; the first difference is made small and told."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random

from tests.oracle.classes import classes
from tests.oracle.pair import Pair, Subject
from tests.oracle.tables import Table
from tests.oracle.traffic import Traffic
from tests.oracle.worlds import Comes, Event, Setting, Worlds

PER_WORLD = 4000
"""Packets of one world."""


@dataclass(slots=True)
class Failure:
    """A difference: where, after what, and what is wrong."""

    seed: int
    setting: Setting
    events: list[Event]
    wrong: str


@dataclass(slots=True)
class Tally:
    """What went through."""

    packets: int = 0
    worlds: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    classes: Counter[str] = field(default_factory=Counter)
    began: float = field(default_factory=time.monotonic)

    @property
    def rate(self) -> float:
        """Packets a second, everything included."""
        return self.packets / max(time.monotonic() - self.began, 1e-9)


def one_world(
    subject: Subject, seed: int, packets: int, tally: Tally, table: Table = Table.ROOMY
) -> Failure | None:
    """So many packets through the world of this seed."""
    rng = Random(seed)
    worlds = Worlds(rng, table)
    setting = worlds.setting()
    pair = Pair(subject, setting)
    events: list[Event] = []
    for event in worlds.events():
        events.append(event)
        pair.apply(event)
    traffic = Traffic(rng, worlds, pair.model, flood=table.crowded)
    tally.worlds += 1
    left = packets
    while left:
        event = traffic.next()
        events.append(event)
        wrong = pair.apply(event)
        if isinstance(event, Comes):
            left -= 1
            tally.packets += 1
            if pair.last is not None and pair.model.last is not None:
                tally.reasons[pair.last.reason] += 1
                tally.classes.update(classes(pair.model.last))
                tally.classes[traffic.damage] += 1
        if wrong is not None:
            return Failure(seed, setting, events, wrong)
    tally.classes += pair.model.memory.given
    return None


def run(
    subject: Subject,
    packets: int,
    seed: int,
    table: Table = Table.ROOMY,
    *,
    per_world: int = PER_WORLD,
    progress: Callable[[Tally], None] = lambda _tally: None,
) -> tuple[Tally, Failure | None]:
    """Worlds with seeds from `seed` on, until so many packets went through or one differs."""
    tally = Tally()
    while tally.packets < packets:
        some = min(per_world, packets - tally.packets)
        failure = one_world(subject, seed + tally.worlds, some, tally, table)
        if failure is not None:
            return tally, failure
        progress(tally)
    return tally, None
