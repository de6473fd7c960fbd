"""Policies of a cluster's administrator, by tiers, and what they become on an OVN without tiers.

Sources: network-policy-api, v1alpha1 (AdminNetworkPolicy, BaselineAdminNetworkPolicy) and v1alpha2
(ClusterNetworkPolicy). Rules are tried in their order, policies by priority (lower first); Admin
comes before NetworkPolicy, Baseline behind it. Pure.

On OVN 23.03, which has neither tiers nor "pass", a tier is a band of ACL priorities:

    32000        a node to its own pods; neighbour discovery
    30999..3100  Admin      (27 and more for each of the 1001 priorities)
    2001, 2002   what NetworkPolicies allow (2002: and log)
    1999, 2000   what they drop
    1899..1100   Baseline

Within a policy neighbouring rules of one action need no order, so they share a priority: what is
counted is how often a policy changes its mind. Rules that pass are compiled away (boxes.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from itertools import product

from controller.policy.boxes import (
    EVERY,
    Box,
    Empty,
    Expression,
    Networks,
    Nodes,
    Span,
    Union,
    ranges,
    without,
)
from controller.policy.compiler import Numbers, name_of
from controller.policy.model import Chosen, Direction, Named
from controller.policy.rows import Acl, Match, PortRange, tracking
from dataplane.model.addr import Protocol


class Tier(Enum):
    """Which policies come first. The value: the highest priority, and how many there are."""

    ADMIN = (30999, 27900)
    BASELINE = (1899, 800)


PRIORITIES = 1001
"""Priorities that a policy may have: from 0 to 1000."""

_LAST_ROOM = 100
"""ACL priorities for the last of them, behind which is no more of the band."""


class Action(Enum):
    """What a rule does with its traffic."""

    ALLOW = "allow-related"
    DENY = "drop"
    PASS = "pass"  # noqa: S105


AdminPeer = Chosen | Nodes | Networks


@dataclass(frozen=True, slots=True)
class PortName:
    """A port by its name, of any protocol (None) or one."""

    name: str
    protocol: Protocol | None = None


@dataclass(frozen=True, slots=True)
class AdminRule:
    """One rule. `ports` None: all traffic."""

    action: Action
    peers: tuple[AdminPeer, ...]
    ports: tuple[Span | PortName, ...] | None = None
    name: str = ""


@dataclass(frozen=True, slots=True)
class AdminPolicy:
    """One policy; `subject` are pods of selected namespaces."""

    name: str
    tier: Tier
    priority: int
    subject: Chosen
    ingress: tuple[AdminRule, ...] = ()
    egress: tuple[AdminRule, ...] = ()

    def rules(self, direction: Direction) -> tuple[AdminRule, ...]:
        """Of one direction."""
        return self.ingress if direction is Direction.INGRESS else self.egress


@dataclass(frozen=True, slots=True)
class AdminShape:
    """What a policy becomes: its ACLs, and whom their groups and sets are of, by name."""

    acls: tuple[Acl, ...] = ()
    groups: Mapping[str, Expression] = field(default_factory=dict)
    sets: Mapping[str, Expression] = field(default_factory=dict)


def turns(policy: AdminPolicy) -> int:
    """How many priorities a policy needs: one more than it changes between allowing and denying."""
    return max(len(_turns(policy.rules(direction))) for direction in Direction)


def _turns(rules: Iterable[AdminRule]) -> list[Action]:
    found: list[Action] = []
    for rule in rules:
        if rule.action is not Action.PASS and found[-1:] != [rule.action]:
            found.append(rule.action)
    return found


def places(wanted: Iterable[tuple[int, str, int]], tier: Tier) -> dict[str, int]:
    """The highest ACL priority of each policy.

    A policy has the place that its priority says, whatever others there are, unless those before
    it need more than is between them. What does not fit at all is left out.

    Args:
        wanted: (priority, key, turns) of every policy of the tier.
        tier: the tier.
    """
    top, width = tier.value
    found, used = {}, 0
    for priority, key, needed in sorted(wanted):
        at = max(used, priority * (width - _LAST_ROOM) // (PRIORITIES - 1))
        if at + needed <= width:
            found[key] = top - at
            used = at + needed
    return found


def boxes(
    policy: AdminPolicy, rule: AdminRule, direction: Direction, numbers: Numbers
) -> tuple[Box, ...]:
    """A rule's traffic."""
    peers: Expression = rule.peers[0] if len(rule.peers) == 1 else Union(rule.peers)
    if rule.ports is None:
        return (Box(policy.subject, peers, EVERY),)
    spans = tuple(sorted({one for one in rule.ports if isinstance(one, Span)}, key=str))
    found = [Box(policy.subject, peers, spans)] if spans else []
    for one in rule.ports:
        if isinstance(one, PortName):
            protocols = tuple(Protocol) if one.protocol is None else (one.protocol,)
            for protocol in protocols:
                found += _named(policy, rule, direction, numbers, (protocol, one.name))
    return tuple(found)


def _named(
    policy: AdminPolicy,
    rule: AdminRule,
    direction: Direction,
    numbers: Numbers,
    wanted: tuple[Protocol, str],
) -> list[Box]:
    """A name is the subject's own at ingress, each peer's own at egress."""
    peers: Expression = rule.peers[0] if len(rule.peers) == 1 else Union(rule.peers)
    if direction is Direction.INGRESS:
        return [
            Box(policy.subject._replace(named=Named(*wanted, number)), peers,
                (Span(wanted[0], number, number),))
            for number in numbers(policy.subject, *wanted)
        ]  # fmt: skip
    return [
        Box(policy.subject, peer._replace(named=Named(*wanted, number)),
            (Span(wanted[0], number, number),))
        for peer in rule.peers if isinstance(peer, Chosen)
        for number in numbers(peer, *wanted)
    ]  # fmt: skip


def compile_admin(
    policy: AdminPolicy,
    top: int,
    before: Callable[[Direction], tuple[Box, ...]],
    numbers: Numbers,
    is_empty: Empty,
) -> AdminShape:
    """A policy's ACLs.

    Args:
        policy: the policy.
        top: the highest priority that it has.
        before: what policies before it in its tier pass on.
        numbers: answers what pods mean by names of ports.
        is_empty: whether a box is known to hold nothing; it is left out then.
    """
    acls: dict[Acl, None] = {}
    groups: dict[str, Expression] = {}
    sets: dict[str, Expression] = {}
    for direction in Direction:
        gone = list(before(direction))
        at, action = top, None
        for rule in policy.rules(direction):
            if rule.action is Action.PASS:
                gone += boxes(policy, rule, direction, numbers)
                continue
            if action not in (None, rule.action):
                at -= 1
            action = rule.action
            for box in without(boxes(policy, rule, direction, numbers), gone, is_empty):
                group = name_of("pods", box.pods)
                groups[group] = box.pods
                parts = box.peers.parts if isinstance(box.peers, Union) else (box.peers,)
                bases = {name_of("peer", part): part for part in parts}
                sets.update(bases)
                if rule.action is Action.DENY:
                    acls[tracking(group, direction)] = None
                for version, ports in product((4, 6), _by_protocol(box.spans)):
                    names = tuple(f"{base}_{version}" for base in sorted(bases))
                    match = Match(group, direction, version, names, (), ports)
                    acls[Acl(match, at, rule.action.value)] = None
    return AdminShape(tuple(acls), groups, sets)


def _by_protocol(spans: tuple[Span, ...]) -> list[tuple[PortRange, ...]]:
    """One ACL each: OVN multiplies what is about several fields, and adds what is about one."""
    found = ranges(spans)
    if not found:
        return [()]
    protocols = dict.fromkeys(one.protocol for one in found)
    return [tuple(one for one in found if one.protocol is protocol) for protocol in protocols]
