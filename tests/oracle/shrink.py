"""A failure made small: events left out, then services simplified, as long as it still fails.

Source: Zeller and Hildebrandt, "Simplifying and Isolating Failure-Inducing Input", IEEE
Transactions on Software Engineering, 2002 (the ddmin algorithm).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import replace

from tests.oracle.campaign import Failure
from tests.oracle.declared import Service
from tests.oracle.pair import Pair, Subject
from tests.oracle.worlds import Comes, Event, Knows, Serves, Setting

TRIES = 600
"""Replays for one failure."""


def replay(subject: Subject, setting: Setting, events: list[Event]) -> tuple[str, int] | None:
    """What is wrong, and after which event; None: nothing."""
    pair = Pair(subject, setting)
    for number, event in enumerate(events):
        if wrong := pair.apply(event):
            return wrong, number
    return None


def shrunk(subject: Subject, failure: Failure) -> Failure | None:
    """The same failure with as little as it needs; None: it does not happen again."""
    left, kind = TRIES, _kind(failure.wrong)

    def fails(events: list[Event]) -> list[Event] | None:
        """The events up to the one that fails."""
        nonlocal left
        left -= 1
        if left < 0:
            return None
        found = replay(subject, failure.setting, events)
        if found is None or _kind(found[0]) != kind:
            return None
        return events[: found[1] + 1]

    events = fails(failure.events)
    if events is None:
        return None
    events = _fewer(events, fails)
    events = _simpler(events, fails)
    events = _fewer(events, fails)
    left = 1
    found = replay(subject, failure.setting, events)
    wrong = found[0] if found else failure.wrong
    return Failure(failure.seed, failure.setting, events, wrong)


def _kind(wrong: str) -> str:
    """What is wrong, without its figures: another fault on the way is not this one."""
    return re.sub(r"[0-9a-f:]{2,}|[0-9]", "", wrong)[:40]


def _fewer(events: list[Event], fails: Callable[[list[Event]], list[Event] | None]) -> list[Event]:
    size = max(len(events) // 2, 1)
    while True:
        at, shorter = 0, False
        while at < len(events) - 1:
            # What the node knows of addresses stays: no service is on one that it does not know.
            gone = [e for e in events[at : at + size] if not isinstance(e, Knows)]
            kept = [e for e in events[at : at + size] if isinstance(e, Knows)]
            rest = events[:at] + kept + events[at + size :]
            if gone and (found := fails(rest)) is not None:
                events, shorter = found, True
            else:
                at += size
        if size == 1 and not shorter:
            return events
        size = max(size // 2, 1)


def _simpler(
    events: list[Event], fails: Callable[[list[Event]], list[Event] | None]
) -> list[Event]:
    at = 0
    while at < len(events):
        event = events[at]
        if isinstance(event, Serves):
            for service in _simplifications(event.service):
                tried = [*events[:at], Serves(service), *events[at + 1 :]]
                if (found := fails(tried)) is not None:
                    events = found
                    break
            else:
                at += 1
        else:
            at += 1
    return events


def _simplifications(service: Service) -> Iterator[Service]:
    """The same service with one thing less."""
    for one in service.vips[1:] and service.vips:
        yield replace(service, vips=tuple(vip for vip in service.vips if vip != one))
    for member in service.members[:20]:
        members = tuple(m for m in service.members if m != member)
        here = tuple(m for m in service.here if m != member)
        yield replace(service, members=members, here=here)
    for plainer in (
        replace(service, affinity=None), replace(service, ranges=None),
        replace(service, dsr=False), replace(service, local=False),
        replace(service, inner_local=False), replace(service, inner_snat=False),
        replace(service, snat=True), replace(service, reject=True),
    ):  # fmt: skip
        if plainer != service:
            yield plainer


def told(failure: Failure) -> str:
    """The failure for people, and as values that `replay` takes."""
    lines = [
        f"seed {failure.seed}: {failure.wrong}",
        f"setting = {failure.setting!r}",
        "events = [",
    ]
    lines += [f"    {event!r}," for event in failure.events]
    lines.append("]")
    last = failure.events[-1]
    if isinstance(last, Comes):
        lines.append(f"the frame that is judged: door {last.door}, {last.octets.hex(' ')}")
    return "\n".join(lines)
