"""Policies of a cluster's administrator: ACLs in the bands of their tiers, and members. Pure."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from functools import partial
from typing import NamedTuple

from controller.kinds import adminpolicy
from controller.kube.resources import Key, custom
from controller.network.aclrows import acl_rows, group_row, set_rows
from controller.network.facts import NODES
from controller.network.members import LABELS, MEMBERS, NAMESPACE_LABELS, NUMBERS
from controller.network.policies import GROUP, SET
from controller.network.rows import Row, RowKey
from controller.network.units import ObjectRef, Said, Unit
from controller.network.view import Derived, Kind, View
from controller.policy.admin import (
    Action,
    AdminPolicy,
    AdminShape,
    Tier,
    boxes,
    compile_admin,
    places,
    turns,
)
from controller.policy.boxes import (
    Both,
    Box,
    Expression,
    Interval,
    Networks,
    Nodes,
    Union,
    Without,
    apart,
    common,
    intervals,
    texts,
)
from controller.policy.model import Chosen, Direction, Selector
from controller.translate.ovn import Problem
from dataplane.model.addr import Protocol

GROUP_NAME = "policy.networking.k8s.io"
ANP_OBJECTS = custom(GROUP_NAME, "v1alpha1", "adminnetworkpolicies", "AdminNetworkPolicy")
BANP_OBJECTS = custom(
    GROUP_NAME, "v1alpha1", "baselineadminnetworkpolicies", "BaselineAdminNetworkPolicy"
)
CNP_OBJECTS = custom(
    GROUP_NAME, "v1beta1", "clusternetworkpolicies", "ClusterNetworkPolicy", others=("v1alpha2",)
)

ANPS: Kind[AdminPolicy] = Kind("adminnetworkpolicies")
BANPS: Kind[AdminPolicy] = Kind("baselineadminnetworkpolicies")
CNPS: Kind[AdminPolicy] = Kind("clusternetworkpolicies")
"""Keys of all three are names."""

FORMS = (
    (ANP_OBJECTS, ANPS, adminpolicy.ADMIN),
    (BANP_OBJECTS, BANPS, adminpolicy.BASELINE),
    (CNP_OBJECTS, CNPS, adminpolicy.CLUSTER),
)
_KINDS = {kind.name: kind for kind in (ANPS, BANPS, CNPS)}


class Who(NamedTuple):
    """A policy: its kind's name and its own."""

    kind: str
    name: str


def _fact(view: View, who: Who) -> AdminPolicy | None:
    return view.get(_KINDS[who.kind], who.name)


def _place(view: View, who: Who) -> tuple[Tier, int, int] | None:
    policy = _fact(view, who)
    return None if policy is None else (policy.tier, policy.priority, turns(policy))


PLACE: Derived[tuple[Tier, int, int] | None] = Derived("admin-policy-place", _place)
"""A policy's tier, priority and turns: what others need to know of it."""


def _order(view: View, tier: Tier) -> tuple[tuple[int, str, int], ...]:
    found = []
    for kind in _KINDS.values():
        for name in view.all(kind):
            place = view.ask(PLACE, Who(kind.name, name))
            if place is not None and place[0] is tier:
                found.append((place[1], f"{kind.name}/{name}", place[2]))
    return tuple(sorted(found))


ORDER: Derived[tuple[tuple[int, str, int], ...]] = Derived("admin-policy-order", _order)
"""A tier's policies as they are tried: priority, kind and name, turns."""


def _top(view: View, who: Who) -> int | None:
    place = view.ask(PLACE, who)
    if place is None:
        return None
    order: tuple[tuple[int, str, int], ...] = view.ask(ORDER, place[0])
    return places(order, place[0]).get(f"{who.kind}/{who.name}")


TOP: Derived[int | None] = Derived("admin-policy-priority", _top)
"""The highest ACL priority of a policy; None: the tier has none left."""


def _numbers(view: View, chosen: Chosen, protocol: Protocol, name: str) -> tuple[int, ...]:
    return view.ask(NUMBERS, (chosen, protocol, name))


def _passes(view: View, key: tuple[Who, Direction]) -> tuple[Box, ...]:
    who, direction = key
    policy = _fact(view, who)
    if policy is None:
        return ()
    return tuple(
        box
        for rule in policy.rules(direction)
        if rule.action is Action.PASS
        for box in boxes(policy, rule, direction, lambda *asked: _numbers(view, *asked))
    )


PASSES: Derived[tuple[Box, ...]] = Derived("admin-policy-passes", _passes)
"""What a policy passes on in a direction."""


def _before(view: View, key: tuple[Who, Direction]) -> tuple[Box, ...]:
    who, direction = key
    place = view.ask(PLACE, who)
    if place is None:
        return ()
    found: list[Box] = []
    for _, name, _ in view.ask(ORDER, place[0]):
        if name == f"{who.kind}/{who.name}":
            break
        kind, _, own = name.partition("/")
        earlier: tuple[Box, ...] = view.ask(PASSES, (Who(kind, own), direction))
        found += earlier
    return tuple(found)


BEFORE: Derived[tuple[Box, ...]] = Derived("admin-policy-passed-before", _before)
"""What policies before this one pass on, in its tier."""


def _ports(view: View, what: Expression) -> frozenset[str]:
    match what:
        case Chosen():
            return view.ask(MEMBERS, what)[0]
        case Union(parts):
            return frozenset().union(*(ports_of(view, part) for part in parts))
        case Without(whole, gone):
            return ports_of(view, whole) - ports_of(view, gone)
        case Both(one, other):
            return ports_of(view, one) & ports_of(view, other)
        case Nodes() | Networks():  # which are peers only
            return frozenset()


PORTS: Derived[frozenset[str]] = Derived("ports-of-expression", _ports)


def ports_of(view: View, what: Expression) -> frozenset[str]:
    """Logical ports of an expression of pods."""
    return view.ask(PORTS, what)


def _node_labels(view: View, name: str) -> Mapping[str, str]:
    node = view.get(NODES, name)
    return {} if node is None else node.labels


NODE_LABELS: Derived[Mapping[str, str]] = Derived("node-labels", _node_labels)


def _node_addresses(view: View, selector: Selector) -> frozenset[str]:
    chosen = [name for name in view.all(NODES) if selector.matches(view.ask(NODE_LABELS, name))]
    nodes = [view.get(NODES, name) for name in chosen]
    return frozenset(str(one) for node in nodes if node is not None for one in node.addresses)


NODE_ADDRESSES: Derived[frozenset[str]] = Derived("addresses-of-nodes", _node_addresses)


def _addresses(view: View, what: Expression) -> tuple[Interval, ...]:
    match what:
        case Chosen():
            return intervals(view.ask(MEMBERS, what)[1])
        case Nodes(selector):
            found: frozenset[str] = view.ask(NODE_ADDRESSES, selector)
            return intervals(found)
        case Networks(networks):
            return intervals(map(str, networks))
        case Union(parts):
            return intervals(t for part in parts for t in texts(addresses_of(view, part)))
        case Without(whole, gone):
            return apart(addresses_of(view, whole), addresses_of(view, gone))
        case Both(one, other):
            return common(addresses_of(view, one), addresses_of(view, other))


ADDRESSES: Derived[tuple[Interval, ...]] = Derived("addresses-of-expression", _addresses)


def addresses_of(view: View, what: Expression) -> tuple[Interval, ...]:
    """Addresses of an expression of peers."""
    return view.ask(ADDRESSES, what)


def _shape(view: View, who: Who) -> AdminShape:
    policy, top = _fact(view, who), view.ask(TOP, who)
    if policy is None or top is None:
        return AdminShape()
    return compile_admin(
        policy,
        top,
        lambda direction: view.ask(BEFORE, (who, direction)),
        lambda *asked: _numbers(view, *asked),
        lambda pods, peers: not (ports_of(view, pods) and addresses_of(view, peers)),
    )


SHAPE: Derived[AdminShape] = Derived("admin-policy-shape", _shape)
"""A policy's ACLs, and whom their groups and sets are of."""


def _say_acls(kind: Kind[AdminPolicy], view: View, name: Hashable) -> Said:
    who = Who(kind.name, str(name))
    rows: dict[RowKey, Row] = {}
    for acl in view.ask(SHAPE, who).acls:
        rows.update(acl_rows(acl))
    policy = view.get(kind, name)
    problems: dict[ObjectRef, tuple[Problem, ...]] = {}
    if policy is not None and view.ask(TOP, who) is None:
        said = Problem(
            f"{kind.name} {name}",
            f"the priorities of the tier {policy.tier.name.title()} are used up on an OVN without"
            f" tiers ({policy.tier.value[1]}): it has no effect",
            "have fewer changes between allowing and denying in the policies of the tier",
        )
        problems[ObjectRef(f"{kind.name}.{GROUP_NAME}", "", str(name))] = (said,)
    return Said(rows, problems=problems)


def _say_members(kind: Kind[AdminPolicy], view: View, name: Hashable) -> Said:
    shape = view.ask(SHAPE, Who(kind.name, str(name)))
    rows: dict[RowKey, Row] = {}
    for group, what in shape.groups.items():
        if isinstance(what, Chosen):
            key, row = view.ask(GROUP, (group, what))
        else:
            key, row = group_row(group, ports_of(view, what))
        rows[key] = row
    for base, what in shape.sets.items():
        if isinstance(what, Chosen):
            shared: Mapping[RowKey, Row] = view.ask(SET, (base, what))
            rows.update(shared)
        else:
            rows.update(set_rows(base, texts(addresses_of(view, what))))
    return Said(rows)


def _subjects(view: View, _: Hashable) -> tuple[Chosen, ...]:
    found = (view.get(kind, name) for kind in _KINDS.values() for name in view.all(kind))
    return tuple(policy.subject for policy in found if policy is not None)


SUBJECTS: Derived[tuple[Chosen, ...]] = Derived("subjects-of-admin-policies", _subjects)
"""Whom the administrator's policies are about."""


def touched(view: View, pod: Key) -> bool:
    """Whether a policy of the administrator's is about a pod."""
    return any(_is_subject(view, one, pod) for one in view.ask(SUBJECTS, ""))


def _is_subject(view: View, subject: Chosen, pod: Key) -> bool:
    assert isinstance(subject.namespaces, Selector)
    labels = view.ask(LABELS, pod)
    spaces = view.ask(NAMESPACE_LABELS, pod.namespace)
    return (
        labels is not None and subject.namespaces.matches(spaces) and subject.pods.matches(labels)
    )


UNITS: tuple[Unit, ...] = tuple(
    unit
    for kind in _KINDS.values()
    for unit in (
        Unit(f"{kind.name}-acls", kind, partial(_say_acls, kind)),
        Unit(f"{kind.name}-members", kind, partial(_say_members, kind)),
    )
)
