"""The loop that turns invalidations into rounds."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable

import pytest

from controller import loop as loop_module
from controller.loop import ApplyLoop, RoundFailed, Scope


async def _with_loop(
    apply: Callable[[Scope], Awaitable[float | None]],
    story: Callable[[ApplyLoop], Awaitable[None]],
) -> None:
    loop = ApplyLoop(apply)
    running = asyncio.create_task(loop.run())
    try:
        async with asyncio.timeout(20):
            await loop.applied()
            await story(loop)
    finally:
        running.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await running


def test_the_first_round_is_whole_and_a_burst_is_one_round() -> None:
    scopes: list[Scope] = []

    async def apply(scope: Scope) -> float | None:
        scopes.append(scope)
        return None

    async def story(loop: ApplyLoop) -> None:
        for table in ("ports", "flows", "ports"):
            loop.invalidate(table)
        await loop.applied()

    asyncio.run(_with_loop(apply, story))
    assert scopes == [None, frozenset({"ports", "flows"})]


def test_a_whole_round_swallows_the_tables_named_beside_it() -> None:
    scopes: list[Scope] = []

    async def apply(scope: Scope) -> float | None:
        scopes.append(scope)
        return None

    async def story(loop: ApplyLoop) -> None:
        loop.invalidate("ports")
        loop.invalidate()
        await loop.applied()

    asyncio.run(_with_loop(apply, story))
    assert scopes == [None, None]


def test_who_waits_during_a_round_waits_for_the_next_one() -> None:
    seen: list[str] = []
    value = "old"

    async def apply(_: Scope) -> float | None:
        taken = value
        await asyncio.sleep(0.05)
        seen.append(taken)
        return None

    async def story(loop: ApplyLoop) -> None:
        nonlocal value
        loop.invalidate()
        await asyncio.sleep(0.03)  # the round has taken its inputs by now
        value = "new"
        loop.invalidate()
        await loop.applied()

    asyncio.run(_with_loop(apply, story))
    assert seen[-1] == "new"


def test_who_is_in_a_hurry_gets_a_round_before_the_burst_is_over(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # So long that a round which waits for it is not seen.
    monkeypatch.setattr(loop_module, "COALESCE_S", 60.0)
    scopes: list[Scope] = []

    async def apply(scope: Scope) -> float | None:
        scopes.append(scope)
        return None

    async def story() -> None:
        loop = ApplyLoop(apply)
        loop.hurry()
        running = asyncio.create_task(loop.run())
        async with asyncio.timeout(20):
            await loop.applied()
            loop.invalidate("ports")
            loop.hurry()
            await loop.applied()
        running.cancel()

    asyncio.run(story())
    assert scopes == [None, frozenset({"ports"})]


def test_a_retry_comes_without_an_event() -> None:
    rounds = 0

    async def apply(_: Scope) -> float | None:
        nonlocal rounds
        rounds += 1
        return 0.01 if rounds < 4 else None

    async def story(loop: ApplyLoop) -> None:
        while rounds < 4:
            await loop.applied()

    asyncio.run(_with_loop(apply, story))
    assert rounds >= 4


def test_what_a_failed_round_was_to_look_at_is_looked_at_by_the_next() -> None:
    scopes: list[Scope] = []

    async def apply(scope: Scope) -> float | None:
        scopes.append(scope)
        if len(scopes) in (1, 3):
            raise RoundFailed(5.0)
        return None

    async def story(loop: ApplyLoop) -> None:
        loop.invalidate("links")  # an event before the retry is due
        await loop.applied()
        loop.invalidate("ports")
        await loop.applied()
        loop.invalidate("links")
        await loop.applied()

    asyncio.run(_with_loop(apply, story))
    assert scopes == [None, None, frozenset({"ports"}), frozenset({"ports", "links"})]


def test_an_urgent_table_does_not_wait_for_the_rest_of_a_burst() -> None:
    rounds: list[Scope] = []

    async def apply(scope: Scope) -> float | None:
        rounds.append(scope)
        return None

    async def story() -> None:
        loop = ApplyLoop(apply, urgent=frozenset({"plan"}))
        running = asyncio.create_task(loop.run())
        async with asyncio.timeout(20):
            await loop.applied()
            loop.invalidate("plan")
            # A few turns of the event loop are enough: nobody sleeps.
            for _ in range(10):
                await asyncio.sleep(0)
            assert rounds == [None, frozenset({"plan"})]
            loop.invalidate("plan")
            loop.invalidate("ports")
            for _ in range(10):
                await asyncio.sleep(0)
            assert len(rounds) == 2
            await loop.applied()
        running.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await running

    asyncio.run(story())
    assert rounds[2] == frozenset({"plan", "ports"})


def test_everything_is_compared_when_it_is_time_however_many_events_come(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(loop_module, "PERIOD_S", 0.05)
    scopes: list[Scope] = []

    async def apply(scope: Scope) -> float | None:
        scopes.append(scope)
        return None

    async def story(loop: ApplyLoop) -> None:
        # Never as long without an event as the loop waits for one.
        while scopes.count(None) < 3:
            loop.invalidate("ports")
            await asyncio.sleep(0.005)

    asyncio.run(_with_loop(apply, story))
    assert frozenset({"ports"}) in scopes


def test_a_round_that_nobody_asked_for_is_known_as_such(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop_module, "PERIOD_S", 0.05)
    rounds: list[tuple[Scope, bool]] = []

    async def story() -> None:
        timely = asyncio.Event()

        async def apply(scope: Scope) -> float | None:
            rounds.append((scope, loop.periodic))
            if loop.periodic:
                timely.set()
            return None

        loop = ApplyLoop(apply)
        running = asyncio.create_task(loop.run())
        async with asyncio.timeout(20):
            await timely.wait()
            loop.invalidate()
            asked = len(rounds)
            await loop.applied()
        running.cancel()
        assert not all(periodic for _, periodic in rounds[asked:])

    asyncio.run(story())
    assert rounds[0] == (None, False)


def test_who_waits_presses_only_if_it_is_urgent_or_in_a_hurry() -> None:
    async def apply(_: Scope) -> float | None:
        return None

    for hurried in (False, True):
        loop = ApplyLoop(apply, urgent=frozenset({"plan"}))
        loop.invalidate("ports")
        loop.invalidate()
        assert not loop.pressed()
        if hurried:
            loop.hurry()
        else:
            loop.invalidate("plan")
        assert loop.pressed()
