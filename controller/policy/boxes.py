"""Traffic as boxes: whose pods, with which peers, on which ports; and one box without another.

A rule that passes traffic on takes it out of the rules behind it. OVN 23.03 has no action for that,
so the rules behind are written without that traffic: a box without a box is at most three boxes
(other pods; the same pods with other peers; both the same, on other ports). Pods and peers are
expressions, so that a pod that comes or goes changes members and no ACL. Pure.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from ipaddress import ip_network, summarize_address_range
from typing import NamedTuple

from controller.policy.model import Chosen, Selector
from controller.policy.rows import PortRange
from dataplane.model.addr import IPNetwork, Protocol

_LAST = 65535


@dataclass(frozen=True, slots=True)
class Nodes:
    """Addresses of the nodes that a selector chooses."""

    nodes: Selector


@dataclass(frozen=True, slots=True)
class Networks:
    """Addresses of these networks."""

    networks: tuple[IPNetwork, ...]


@dataclass(frozen=True, slots=True)
class Union:
    """All of several."""

    parts: tuple[Expression, ...]


@dataclass(frozen=True, slots=True)
class Without:
    """One without another."""

    all: Expression
    without: Expression


@dataclass(frozen=True, slots=True)
class Both:
    """What is in both."""

    one: Expression
    other: Expression


# No named tuples: two of them with the same parts are equal, whatever they are called.
Expression = Chosen | Nodes | Networks | Union | Without | Both
"""Pods, as members of a group, or addresses, as members of a set."""

Empty = Callable[[Expression, Expression], bool]
"""Whether a box of these pods and peers is known to hold nothing."""


class Span(NamedTuple):
    """Ports of a protocol, both ends included; protocol None: what has no ports of its own."""

    protocol: Protocol | None
    first: int = 0
    last: int = _LAST


EVERY: tuple[Span, ...] = (*(Span(protocol) for protocol in Protocol), Span(None))
"""All traffic."""


@dataclass(frozen=True, slots=True)
class Box:
    """Traffic of these pods with these peers on these ports (the ones that it goes to)."""

    pods: Expression
    peers: Expression
    spans: tuple[Span, ...] = EVERY


def subtract(box: Box, gone: Box, is_empty: Empty) -> Iterator[Box]:
    """A box without another."""
    left = tuple(span for one in box.spans for span in _span_without(one, gone.spans))
    if left == box.spans:
        yield box
        return
    shared = box.pods if box.pods == gone.pods else Both(box.pods, gone.pods)
    if is_empty(shared, Both(box.peers, gone.peers)):
        yield box
        return
    rest = []
    if box.pods != gone.pods:
        rest.append(Box(Without(box.pods, gone.pods), box.peers, box.spans))
    if box.peers != gone.peers:
        rest.append(Box(shared, Without(box.peers, gone.peers), box.spans))
    if left:
        peers = box.peers if box.peers == gone.peers else Both(box.peers, gone.peers)
        rest.append(Box(shared, peers, left))
    yield from (one for one in rest if not is_empty(one.pods, one.peers))


def without(boxes: Iterable[Box], gone: Iterable[Box], is_empty: Empty) -> tuple[Box, ...]:
    """Boxes without all of some others."""
    found = tuple(boxes)
    for one in gone:
        found = tuple(part for box in found for part in subtract(box, one, is_empty))
    return found


def _span_without(span: Span, gone: Iterable[Span]) -> tuple[Span, ...]:
    found = [span]
    for one in gone:
        if one.protocol is not span.protocol:
            continue
        parts: list[Span] = []
        for part in found:
            if one.last < part.first or part.last < one.first:
                parts.append(part)
                continue
            if part.first < one.first:
                parts.append(part._replace(last=one.first - 1))
            if one.last < part.last:
                parts.append(part._replace(first=one.last + 1))
        found = parts
    return tuple(found)


def ranges(spans: tuple[Span, ...]) -> tuple[PortRange, ...]:
    """Spans as an ACL has them; none: no condition."""
    if set(spans) == set(EVERY):
        return ()
    found = []
    for span in sorted(spans, key=str):
        if (span.first, span.last) == (0, _LAST):
            found.append(PortRange(span.protocol))
        else:
            last = span.last if span.last != span.first else None
            found.append(PortRange(span.protocol, span.first, last))
    return tuple(found)


Interval = tuple[int, int, int]
"""Version, first and last address."""


def intervals(texts: Iterable[str]) -> tuple[Interval, ...]:
    """Addresses and networks as disjoint intervals, sorted."""
    found = []
    for text in texts:
        network = ip_network(text)
        found.append(
            (network.version, int(network.network_address), int(network.broadcast_address))
        )
    return _joined(found)


def _joined(found: Iterable[Interval]) -> tuple[Interval, ...]:
    joined: list[Interval] = []
    for version, first, last in sorted(found):
        if joined and joined[-1][0] == version and first <= joined[-1][2] + 1:
            joined[-1] = (version, joined[-1][1], max(last, joined[-1][2]))
        else:
            joined.append((version, first, last))
    return tuple(joined)


def common(one: Iterable[Interval], other: Iterable[Interval]) -> tuple[Interval, ...]:
    """What is in both."""
    return _joined(
        (version, max(first, begin), min(last, end))
        for version, first, last in one
        for family, begin, end in other
        if version == family and max(first, begin) <= min(last, end)
    )


def apart(one: Iterable[Interval], other: tuple[Interval, ...]) -> tuple[Interval, ...]:
    """The first without the second."""
    found: list[Interval] = []
    for version, first, last in one:
        at = first
        for family, begin, end in other:
            if family != version or end < at or begin > last:
                continue
            if at < begin:
                found.append((version, at, begin - 1))
            at = max(at, end + 1)
        if at <= last:
            found.append((version, at, last))
    return tuple(found)


def texts(found: Iterable[Interval]) -> frozenset[str]:
    """Intervals as OVN's address sets have them: addresses, and networks."""
    said = set()
    for version, first, last in found:
        bits = 32 if version == 4 else 128
        ends = (ip_network((number, bits)).network_address for number in (first, last))
        for network in summarize_address_range(*ends):
            whole = network.prefixlen == bits
            said.add(str(network.network_address) if whole else str(network))
    return frozenset(said)
