"""Whatever the server answers and whoever is slow, there are never two who lead."""

from __future__ import annotations

import asyncio
import datetime
import random

from hypothesis import given, settings
from hypothesis import strategies as st

from controller.kube.auth import Access
from controller.kube.http import Client
from controller.kube.lease import Election
from controller.kube.resources import Key
from tests.apistandin.clocks import QuickClock
from tests.apistandin.faults import Fault
from tests.apistandin.server import StandIn

LEASE = Key("kube-system", "millrace")
START = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
FAULTS = ((Fault.STATUS, 500), (Fault.DROP_BEFORE, 0), (Fault.DROP_AFTER, 0), (Fault.STATUS, 409))


class Reign:
    """Who led with which epoch, and that no two ever did at once."""

    def __init__(self, candidates: list[Election]) -> None:
        self.candidates = candidates
        self.epochs: list[tuple[int, str]] = []

    def look(self) -> None:
        leaders = [one for one in self.candidates if one.leads]
        assert len(leaders) <= 1, [one.identity for one in leaders]
        for one in leaders:
            if not self.epochs or self.epochs[-1] != (one.epoch, one.identity):
                self.epochs.append((one.epoch, one.identity))


async def play(chance: random.Random) -> Reign:
    clock = QuickClock()

    def now() -> datetime.datetime:
        return START + datetime.timedelta(seconds=clock.now)

    async with StandIn(seed=1) as api, Client(Access(api.url)) as client:
        names = ("a", "b", "c")
        candidates = [Election(client, LEASE, name, clock=clock, now=now) for name in names]
        reign = Reign(candidates)
        for _ in range(60):
            match chance.randrange(8):
                case 0 | 1 | 2:
                    await chance.choice(candidates).step()
                case 3:
                    await asyncio.gather(*(one.step() for one in candidates))
                case 4:
                    fault, argument = chance.choice(FAULTS)
                    verbs = frozenset({chance.choice(("get", "update", "create"))})
                    api.faults.add(fault, argument, times=chance.randint(1, 3), verbs=verbs)
                case 5:
                    await chance.choice(candidates).release()
                case _:
                    clock.move(chance.choice((0.5, 2.0, 6.0, 9.9, 16.0)))
            reign.look()
        api.faults.clear()
        clock.move(20)
        for one in candidates:
            await one.step()
        clock.move(16)
        await asyncio.gather(*(one.step() for one in candidates))
        reign.look()
        assert sum(one.leads for one in candidates) == 1, "the lease is not lost for ever"
    return reign


def check(reign: Reign) -> None:
    """An epoch has one holder; a change of hands raises it."""
    holders: dict[int, str] = {}
    for epoch, identity in reign.epochs:
        assert holders.setdefault(epoch, identity) == identity, reign.epochs
    assert [epoch for epoch, _ in reign.epochs] == sorted(epoch for epoch, _ in reign.epochs)


@given(st.integers(0, 2**32))
@settings(max_examples=40, deadline=None)
def test_at_most_one_leads(seed: int) -> None:
    check(asyncio.run(play(random.Random(seed))))


def test_the_lease_changes_hands_in_these_histories() -> None:
    reigns = [asyncio.run(play(random.Random(seed))) for seed in range(5)]
    assert sum(len(reign.epochs) for reign in reigns) > 10
