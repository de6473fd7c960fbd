"""SecurityGroups: a port group of the interfaces that name one, and what may reach them. Pure.

What no rule allows is dropped. On an OVN without tiers the groups of tier 0 have ACL priorities
above administrators' policies, those of tier 1 below them and above NetworkPolicies; so where a
rule matches, or nothing does and all is dropped, NetworkPolicies are not asked, as in Kube-OVN.

    31999..31100  tier 0, rules          2999..2100  tier 1, rules
    31002         reaching each other    2082
    31001         DHCP, VRRP             2081
    31000         all else is dropped    2080
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

from controller.kinds.securitygroup import (
    LAST_PRIORITY,
    ONWARD,
    RESOURCE,
    SECURITY_GROUPS,
    GroupRule,
    SecurityGroup,
)
from controller.kinds.subnet import shared
from controller.kube.resources import Key
from controller.network.aclrows import acl_rows, group_row
from controller.network.facts import PODS, NetPod, security_groups
from controller.network.members import ENDS, LABELS
from controller.network.passing import OWN_END, none_of, onward
from controller.network.rows import Row, RowKey
from controller.network.units import ObjectRef, Said, Unit, Wanted
from controller.network.view import Derived, View
from controller.policy.model import Block, Direction
from controller.policy.rows import Acl, Match, tracking
from controller.translate.ovn import Problem

TOP = {0: 31999, 1: 2999}
WIDTH = 900
_OLD = 200
"""Priorities that Kube-OVN has always had; those above came later, and are seldom used."""
BASE = {0: 31000, 1: 2080}
"""The priority at which all is dropped; what is always allowed has the next ones."""
_ALWAYS = {
    Direction.INGRESS: "udp.src == 67 && udp.dst == 68",
    Direction.EGRESS: "udp.src == 68 && udp.dst == 67",
}
_ALWAYS6 = {
    Direction.INGRESS: "udp.src == 547 && udp.dst == 546",
    Direction.EGRESS: "udp.src == 546 && udp.dst == 547",
}


def port_group(name: str) -> str:
    """As Kube-OVN names them."""
    return f"ovn.sg.{name}".replace("-", ".")


def address_set(name: str, version: int) -> str:
    """As Kube-OVN names them."""
    return f"{port_group(name)}.associated.v{version}"


def _members(view: View, name: str) -> tuple[frozenset[str], frozenset[str]]:
    ports: set[str] = set()
    addresses: set[str] = set()
    for pod in view.by(PODS, "security_group", name):
        if view.ask(LABELS, pod) is None:
            continue
        groups = view.ask(GROUPS_OF, pod)
        named = dict(groups)
        ends = view.ask(ENDS, pod)
        # Its own, or those of its definition, of which the pod has several.
        mine = {
            provider
            for _, provider in ends.ports
            if name in named.get(provider, named.get(shared(provider), ()))
        }
        ports.update(port for port, provider in ends.ports if provider in mine)
        addresses.update(text for text, provider in ends.addresses if provider in mine)
    return frozenset(ports), frozenset(addresses)


def _groups_of(view: View, pod: Key) -> tuple[tuple[str, tuple[str, ...]], ...]:
    fact = view.get(PODS, pod)
    return () if fact is None else security_groups(fact)


GROUPS_OF: Derived[tuple[tuple[str, tuple[str, ...]], ...]] = Derived("groups-of-pod", _groups_of)
"""By provider, the SecurityGroups that a pod names."""


def _rows(view: View, name: str) -> dict[RowKey, Row]:
    ports, addresses = view.ask(MEMBERS, name)
    rows = dict([group_row(port_group(name), ports)])
    for version, mark in ((4, "."), (6, ":")):
        own = address_set(name, version)
        found = frozenset(text for text in addresses if mark in text)
        rows[RowKey("Address_Set", own)] = Row({"name": own, "addresses": found})
    return rows


MEMBERS: Derived[tuple[frozenset[str], frozenset[str]]] = Derived("security-group", _members)
"""Ports and addresses of the interfaces that name a group, whether there is one or not."""

ROWS: Derived[dict[RowKey, Row]] = Derived("security-group-rows", _rows)
"""Its port group and address sets: also of one that is only named."""


def _used(view: View, tier: Hashable) -> tuple[int, ...]:
    groups = (view.get(SECURITY_GROUPS, name) for name in view.all(SECURITY_GROUPS))
    return tuple(
        sorted(
            {
                rule.priority
                for group in groups
                if group is not None and group.tier == tier
                for direction in Direction
                for rule in group.rules(direction)
            }
        )
    )


USED: Derived[tuple[int, ...]] = Derived("security-group-priorities", _used)
"""Priorities that the rules of a tier have."""


def places(used: Iterable[int], tier: int) -> dict[int, int]:
    """The ACL priority of each rule's priority, for what it allows; what it drops is one above.

    Those up to 200 have places of their own. Of those above, of which OVN has not enough, each has
    one as long as those that are used leave it one; the order is always kept.
    """
    found: dict[int, int] = {}
    free = 0
    for priority in sorted(used):
        own = 2 * (priority - 1)
        if priority > _OLD:
            room = WIDTH - 2 * _OLD - 2
            own = 2 * _OLD + (priority - _OLD - 1) * room // (LAST_PRIORITY - _OLD)
        at = max(free, own)
        if at + 2 <= WIDTH:
            found[priority] = TOP[tier] - at - 1
            free = at + 2
    return found


def acls(group: SecurityGroup, placed: dict[int, int]) -> Iterator[Acl]:
    """A group's ACLs; rules whose priority has no place are left out."""
    own, base = port_group(group.name), BASE[group.tier]
    passed, _ = onward(group)
    yield from closed(group.name, group.tier, passed)
    for direction in Direction:
        if group.same:
            for version in (4, 6):
                sets = (address_set(group.name, version),)
                match = Match(own, direction, version, sets)
                yield from _without(match, passed[direction], base + 2, "allow-related")
        for rule in group.rules(direction):
            if rule.priority in placed and rule.action != ONWARD:
                at = placed[rule.priority] + (rule.action == "drop")
                before = [one for one in passed[direction] if one.priority < rule.priority]
                yield from _without(_match(own, direction, rule), before, at, rule.action)


def _without(
    match: Match, passed: Iterable[GroupRule], priority: int, action: str
) -> Iterator[Acl]:
    """What matches, and none of these rules does."""
    others = none_of(match.direction, match.version or 0, passed)
    if others is not None:
        only = " && ".join(filter(None, (match.only, *others)))
        yield Acl(replace(match, only=only), priority, action)


def closed(
    name: str, tier: int, passed: Mapping[Direction, Sequence[GroupRule]] | None = None
) -> Iterator[Acl]:
    """What every group has: all is dropped but what finds neighbours, and DHCP and VRRP.

    `passed`: rules that pass on what they match, which is not dropped.
    """
    own, base = port_group(name), BASE[tier]
    for direction in Direction:
        yield tracking(own, direction)
        onward = (passed or {}).get(direction, ())
        for version in (4, 6) if onward else (None,):
            yield from _without(Match(own, direction, version), onward, base, "drop")
        dhcp, vrrp = _ALWAYS[direction], "ip.proto == 112"
        yield Acl(Match(own, direction, 4, only=dhcp), base + 1, "allow-related")
        yield Acl(Match(own, direction, 6, only=_ALWAYS6[direction]), base + 1, "allow-related")
        yield Acl(Match(own, direction, only=vrrp), base + 1, "allow-related")


def _match(own: str, direction: Direction, rule: GroupRule) -> Match:
    sets = (address_set(rule.group, rule.version),) if rule.group else ()
    blocks = (Block(rule.remote),) if rule.remote else ()
    only = []
    if rule.local:
        only.append(f"ip{rule.version}.{OWN_END[direction]} == {rule.local}")
    if rule.protocol == "icmp":
        only.append(f"icmp{rule.version}")
    elif rule.protocol != "all":
        only.append(rule.protocol)
    for side, ports in (("dst", rule.ports), ("src", rule.source_ports)):
        if ports:
            name = f"{rule.protocol}.{side}"
            only.append(f"{name} >= {ports[0]} && {name} <= {ports[1]}")
    return Match(own, direction, rule.version, sets, blocks, only=" && ".join(only))


def _group(view: View, name: Hashable) -> Said:
    group = view.get(SECURITY_GROUPS, name)
    if group is None:
        return Said()
    own: dict[RowKey, Row] = view.ask(ROWS, name)
    rows = dict(own)
    used: tuple[int, ...] = view.ask(USED, group.tier)
    placed = places(used, group.tier)
    for acl in acls(group, placed):
        rows.update(acl_rows(acl))
    for direction in Direction:
        for other in {rule.group for rule in group.rules(direction) if rule.group}:
            remote: dict[RowKey, Row] = view.ask(ROWS, other)
            rows.update({key: row for key, row in remote.items() if key.table == "Address_Set"})
    ref = ObjectRef(str(RESOURCE), "", group.name)
    who = f"SecurityGroup {group.name}"
    others = {rule.group for d in Direction for rule in group.rules(d) if rule.group}
    problems = [
        Problem(
            who,
            f"there is no SecurityGroup {other} that can be read: only interfaces that name it "
            "are of it",
            "make it, or correct remoteSecurityGroup",
        )
        for other in sorted(others)
        if view.get(SECURITY_GROUPS, other) is None
    ]
    problems += [
        Problem(
            who,
            f"policy pass of priority {rule.priority} has no effect: OVN 23.03 would multiply it "
            "out to more flows than an ovn-controller can hold",
            "write pass for networks and not for a group, and few different ones of a protocol",
        )
        for rule in onward(group)[1]
    ]
    left = {rule.priority for d in Direction for rule in group.rules(d)} - placed.keys()
    problems += [
        Problem(
            who,
            f"priority {priority} has no place: tier {group.tier} has {len(used)} different ones",
            f"use priorities up to {_OLD}, or fewer different ones",
        )
        for priority in sorted(left)
    ]
    said = {ref: Wanted(status={"portGroup": port_group(group.name)})}
    return Said(rows, said, {ref: tuple(problems)} if problems else {})


def _pod(view: View, key: Hashable) -> Said:
    """A pod that names a group that is not there is shut, and told so."""
    assert isinstance(key, Key)
    rows: dict[RowKey, Row] = {}
    missing = []
    fact = view.get(PODS, key)
    for _, names in security_groups(fact) if fact is not None else ():
        for name in names:
            if view.get(SECURITY_GROUPS, name) is None:
                missing.append(name)
                own: dict[RowKey, Row] = view.ask(ROWS, name)
                rows.update(own)
                for acl in closed(name, 0):
                    rows.update(acl_rows(acl))
    problems = tuple(
        Problem(
            f"pod {key}",
            f"there is no SecurityGroup {name} that can be read: nothing reaches the interface",
            "make it, or take its name out of the annotation",
        )
        for name in missing
    )
    problems += tuple(_crossed(view, key, fact)) if fact is not None else ()
    ref = ObjectRef("pods", key.namespace, key.name)
    return Said(rows, problems={ref: problems} if problems else {})


def _crossed(view: View, pod: Key, fact: NetPod) -> Iterator[Problem]:
    """What one group passes on, another one of its tier drops: that cannot be told apart."""
    for _, names in security_groups(fact):
        found = (view.get(SECURITY_GROUPS, name) for name in names)
        first = [group for group in found if group is not None and group.tier == 0]
        for group in first if len(first) > 1 else ():
            if any(rule.action == ONWARD for d in Direction for rule in group.rules(d)):
                cause = (
                    f"what SecurityGroup {group.name} passes on, its other groups of tier 0 drop"
                )
                yield Problem(f"pod {pod}", cause, "have one group of tier 0, or write pass in all")


UNITS: tuple[Unit, ...] = (
    Unit("security-groups", SECURITY_GROUPS, _group),
    Unit("security-groups-missing", PODS, _pod, lambda pod: bool(security_groups(pod))),
)
