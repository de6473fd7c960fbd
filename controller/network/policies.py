"""NetworkPolicy: its ACLs, and the members of what they name. Pure.

Two units, so that a pod that comes or goes computes members anew and no ACL: only what a pod calls
its ports may make an ACL of a policy.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping

import msgspec

from controller.kinds.errors import KindError
from controller.kube.resources import Key, custom
from controller.kube.structs import Custom
from controller.network.aclrows import acl_rows, group_row, set_rows
from controller.network.members import MEMBERS, NUMBERS
from controller.network.rows import Row, RowKey
from controller.network.settings import settings
from controller.network.units import Said, Unit
from controller.network.view import Derived, Kind, View
from controller.policy import kubeovn
from controller.policy.compiler import Shape, compile_policy
from controller.policy.model import Chosen, NetworkPolicy
from controller.policy.parse import closed, network_policy
from controller.translate.ovn import Problem
from dataplane.model.addr import Protocol

NETWORK_POLICY_OBJECTS = custom(
    "networking.k8s.io", "v1", "networkpolicies", "NetworkPolicy", namespaced=True
)
NETWORK_POLICIES: Kind[NetworkPolicy] = Kind(
    "networkpolicies", {"namespace": lambda key, _: (key.namespace,)}
)
"""Keys are `Key(namespace, name)`."""


def _json(obj: Custom) -> dict[str, object]:
    meta = obj.metadata
    return {
        "metadata": {
            "namespace": meta.namespace,
            "name": meta.name,
            "annotations": meta.annotations,
        },
        "spec": msgspec.json.decode(obj.spec) or {},
    }


def policy_fact(obj: Custom) -> NetworkPolicy:
    """A policy; one whose rules cannot be read is closed: what it selects is isolated.

    Raises:
        KindError: it cannot be read what it selects.
    """
    item = _json(obj)
    try:
        return network_policy(item)
    except KindError:
        return closed(item)


def policy_problems(obj: Custom) -> tuple[Problem, ...]:
    """What cannot be read of a policy that counts all the same."""
    found = list(kubeovn.problems(obj.metadata.annotations))
    try:
        network_policy(_json(obj))
    except KindError as error:
        found.append(error)
    who = f"NetworkPolicy {obj.metadata.namespace}/{obj.metadata.name}"
    return tuple(Problem(who, f"{e.path}: {e.cause}", e.next_step) for e in found)


def _shape(view: View, key: Key) -> Shape:
    policy = view.get(NETWORK_POLICIES, key)
    if policy is None:
        return Shape()

    def numbers(chosen: Chosen, protocol: Protocol, name: str) -> tuple[int, ...]:
        return view.ask(NUMBERS, (chosen, protocol, name))

    return compile_policy(policy, numbers, lax=settings(view).lax)


SHAPE: Derived[Shape] = Derived("policy-shape", _shape)
"""A policy's ACLs, and whom their groups and sets are of."""


def _acls(view: View, key: Hashable) -> Said:
    rows: dict[RowKey, Row] = {}
    for acl in view.ask(SHAPE, key).acls:
        rows.update(acl_rows(acl))
    return Said(rows)


def _group(view: View, key: tuple[str, Chosen]) -> tuple[RowKey, Row]:
    name, chosen = key
    return group_row(name, view.ask(MEMBERS, chosen)[0])


GROUP: Derived[tuple[RowKey, Row]] = Derived("port-group", _group)
"""A port group's row, by name and whom it holds: made once for all who share it."""


def _set(view: View, key: tuple[str, Chosen]) -> Mapping[RowKey, Row]:
    name, chosen = key
    return set_rows(name, view.ask(MEMBERS, chosen)[1])


SET: Derived[Mapping[RowKey, Row]] = Derived("address-sets", _set)
"""Address sets of both families, by the name before the family and whom they hold."""


def _members(view: View, key: Hashable) -> Said:
    shape = view.ask(SHAPE, key)
    rows: dict[RowKey, Row] = dict(view.ask(GROUP, group) for group in shape.groups.items())
    for one in shape.sets.items():
        found: Mapping[RowKey, Row] = view.ask(SET, one)
        rows.update(found)
    return Said(rows)


UNITS: tuple[Unit, ...] = (
    Unit("policy-acls", NETWORK_POLICIES, _acls),
    Unit("policy-members", NETWORK_POLICIES, _members),
)
