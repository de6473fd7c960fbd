"""Histograms of what packets wait for inside the kernel, from kernelhops.c's maps. Pure.

A hop is the time from one tracepoint to the next that saw the same socket buffer: from "received"
at one device to "queued" at another is the stack, from there to "sent" the queueing discipline.
`ENTERED` to `SENT` is all of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from enum import IntEnum
from typing import Any

from perf.verdicts import aligned

SCHEMA = "millrace.perf.kernel-latency/1"
PERCENTILES = (50.0, 90.0, 99.0, 99.9)
_BAR = 40


class Event(IntEnum):
    """`enum event` of kernelhops.c."""

    ENTERED = 0
    POLLED = 1
    BACKLOG = 2
    RECEIVED = 3
    QUEUED = 4
    SENT = 5
    FREED = 6
    DROPPED = 7


SAID: Mapping[Event, str] = {
    Event.ENTERED: "in",
    Event.POLLED: "polled",
    Event.BACKLOG: "in the backlog",
    Event.RECEIVED: "received",
    Event.QUEUED: "queued",
    Event.SENT: "sent",
    Event.FREED: "freed",
    Event.DROPPED: "dropped",
}

SLICES = ("NET_TX waited", "NET_TX ran", "NET_RX waited", "NET_RX ran")
"""`enum work` of kernelhops.c."""

REDIRECTS = (
    "redirected", "redirect failed", "exception", "sent by a map", "dropped by a map",
)  # fmt: skip
"""`enum xdp` of kernelhops.c."""


def bounds(slot: int) -> tuple[int, int]:
    """What a slot counts [ns]: from the first to below the second; `slot_of` of kernelhops.c."""
    if slot < 8:
        return slot, slot + 1
    shift = slot // 8 - 1
    low = (8 + slot % 8) << shift
    return low, low + (1 << shift)


@dataclass(frozen=True, slots=True)
class Histogram:
    """How many by slot; percentiles are a slot's upper end, so at most an eighth too much [ns]."""

    slots: Mapping[int, int]

    @property
    def count(self) -> int:
        """Of everything."""
        return sum(self.slots.values())

    def percentile(self, percent: float) -> int:
        """At most so much for so many [ns].

        Raises:
            ValueError: nothing was counted.
        """
        if not self.count:
            msg = "a histogram of nothing has no percentiles"
            raise ValueError(msg)
        wanted, reached = self.count * percent / 100, 0
        for slot in sorted(self.slots):
            reached += self.slots[slot]
            if reached >= wanted:
                return bounds(slot)[1]
        return bounds(max(self.slots))[1]

    def told(self) -> dict[str, Any]:
        """For JSON."""
        shares = {f"p{each:g}_ns": self.percentile(each) for each in PERCENTILES}
        buckets = [[*bounds(slot), count] for slot, count in sorted(self.slots.items())]
        return {"count": self.count, **shares, "most_ns": self.percentile(100), "buckets": buckets}

    def bars(self) -> list[str]:
        """Lines of text, one for each power of two."""
        octaves: dict[int, int] = {}
        for slot, count in self.slots.items():
            power = max(bounds(slot)[0], 1).bit_length() - 1
            octaves[power] = octaves.get(power, 0) + count
        most = max(octaves.values())
        lines = []
        for power in range(min(octaves), max(octaves) + 1):
            count = octaves.get(power, 0)
            # Whatever was counted is seen.
            bar = "#" * max(round(_BAR * count / most), 1 if count else 0)
            lines.append(
                f"{duration(1 << power):>9} .. {duration(2 << power):>9} {count:>10} {bar}"
            )
        return lines


def duration(ns: int) -> str:
    """With the unit that leaves one to three digits before the point."""
    for unit, size in (("s", 10**9), ("ms", 10**6), ("us", 10**3)):
        if ns >= size:
            return f"{ns / size:.3g} {unit}" if ns < 1000 * size else f"{ns / size:.0f} {unit}"
    return f"{ns} ns"


@dataclass(frozen=True, slots=True)
class Hop:
    """From one event at a device to the next; `to_device` is empty where a packet ends."""

    before: Event
    from_device: str
    after: Event
    to_device: str
    took: Histogram

    @property
    def title(self) -> str:
        """For people."""
        there = f" {self.to_device}" if self.to_device else ""
        return f"{SAID[self.before]} {self.from_device} -> {SAID[self.after]}{there}"

    def touches(self, devices: Sequence[str]) -> bool:
        """Whether one of its ends is at one of these; of no device: yes."""
        return not devices or self.from_device in devices or self.to_device in devices


@dataclass(frozen=True, slots=True)
class Polls:
    """What NAPI did for a device: calls, packets, and how often the budget was used up."""

    device: str
    calls: int
    packets: int
    exhausted: int


@dataclass(frozen=True, slots=True)
class Drops:
    """Packets freed as dropped, by where they were seen last and the kernel's reason."""

    device: str
    reason: str
    packets: int


@dataclass(frozen=True, slots=True)
class Redirects:
    """What XDP did beside the stack; devices by number, 0 where there is none."""

    what: str
    from_index: int
    to_index: int
    packets: int


@dataclass(frozen=True, slots=True)
class Report:
    """What was seen in `seconds`.

    Attributes:
        untold: hops that the table had no room for.
        missed: events that the kernel did not show, because they interrupted the look at another.
        headers: the tree that was compiled with.
        absent: tracepoints that this kernel does not have.
    """

    seconds: float
    hops: tuple[Hop, ...]
    softirqs: Mapping[str, Histogram] = field(default_factory=dict)
    polls: tuple[Polls, ...] = ()
    drops: tuple[Drops, ...] = ()
    redirects: tuple[Redirects, ...] = ()
    untold: int = 0
    missed: int = 0
    kernel: str = ""
    headers: str = ""
    absent: tuple[str, ...] = ()

    def of(self, before: Event, from_device: str, after: Event, to_device: str) -> Hop | None:
        """One hop, if a packet took it."""
        wanted = (before, from_device, after, to_device)
        for hop in self.hops:
            if (hop.before, hop.from_device, hop.after, hop.to_device) == wanted:
                return hop
        return None

    def told(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "schema": SCHEMA,
            "kernel": self.kernel,
            "headers": self.headers,
            "seconds": self.seconds,
            "hops": [
                {
                    "from": {"event": hop.before.name.lower(), "device": hop.from_device},
                    "to": {"event": hop.after.name.lower(), "device": hop.to_device},
                    **hop.took.told(),
                }
                for hop in self.hops
            ],
            "softirqs": {name: took.told() for name, took in self.softirqs.items()},
            "polls": [asdict(each) for each in self.polls],
            "drops": [asdict(each) for each in self.drops],
            "redirects": [asdict(each) for each in self.redirects],
            "untold": self.untold,
            "missed": self.missed,
            "absent": list(self.absent),
        }

    def text(self) -> str:
        """For people: the figures, then a histogram for each way through a device and out."""
        parts = [f"{self.seconds:.1f} s; kernel {self.kernel}, headers {self.headers}"]
        parts += [f"this kernel has no tracepoint {name}" for name in self.absent]
        if not self.hops:
            parts.append("no socket buffer was seen twice: no traffic, or XDP served all of it")
        else:
            parts += ["", _table([(hop.title, hop.took) for hop in self.hops], "hop")]
        if self.softirqs:
            parts += ["", _table(list(self.softirqs.items()), "softirq")]
        parts += self._counts()
        for hop in self.hops:
            if hop.before is Event.ENTERED:
                parts += ["", hop.title, *hop.took.bars()]
        if self.untold:
            parts.append(f"\n{self.untold} hops are not in the figures: the table was full")
        if self.missed:
            parts.append(f"\n{self.missed} events interrupted the look at another, and are missing")
        return "\n".join(parts)

    def _counts(self) -> list[str]:
        parts: list[str] = []
        if self.polls:
            rows = [("NAPI", "polls", "packets/poll", "budget used up")]
            rows += [
                (each.device, str(each.calls), f"{each.packets / each.calls:.1f}",
                 str(each.exhausted))
                for each in self.polls
            ]  # fmt: skip
            parts += ["", aligned(rows)]
        if self.drops:
            rows3 = [("dropped after", "reason", "packets")]
            rows3 += [(each.device, each.reason, str(each.packets)) for each in self.drops]
            parts += ["", aligned(rows3)]
        if self.redirects:
            rows3 = [("XDP", "devices", "packets")]
            rows3 += [
                (each.what, f"{each.from_index} -> {each.to_index}", str(each.packets))
                for each in self.redirects
            ]
            parts += ["", aligned(rows3)]
        return parts


def _table(rows: Sequence[tuple[str, Histogram]], what: str) -> str:
    lines = [(what, "count", *(f"{each:g} %" for each in PERCENTILES), "most")]
    for name, took in rows:
        figures = [duration(took.percentile(each)) for each in (*PERCENTILES, 100.0)]
        lines.append((name, str(took.count), *figures))
    return aligned(lines)


def hops(counted: Iterable[tuple[int, str, int, str, int, int]]) -> tuple[Hop, ...]:
    """From (event, device, event, device, slot, count) to hops, the ways through first."""
    found: dict[tuple[int, str, int, str], dict[int, int]] = {}
    for before, here, after, there, slot, count in counted:
        if count:
            slots = found.setdefault((before, here, after, there), {})
            slots[slot] = slots.get(slot, 0) + count
    return tuple(
        Hop(Event(before), here, Event(after), there, Histogram(slots))
        for (before, here, after, there), slots in sorted(found.items())
    )
