"""Whether a connection is allowed by NetworkPolicy objects, straight from their JSON.

Written from the Kubernetes texts (API reference of NetworkPolicy v1, and "Network Policies"); it
shares no code with `controller.policy`, neither reading nor matching. Slow and plain on purpose.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import ip_address, ip_network
from typing import Any

Json = Any


@dataclass(frozen=True)
class End:
    """One end of a connection: a pod (with a namespace), or an address of the world outside."""

    address: str
    namespace: str = ""
    name: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    named: Mapping[tuple[str, str], int] = field(default_factory=dict)


@dataclass(frozen=True)
class World:
    """All there is. `namespaces`: each one's labels."""

    policies: Sequence[Json]
    namespaces: Mapping[str, Mapping[str, str]]
    hosts: frozenset[str] = frozenset()


def allowed(world: World, source: End, target: End, protocol: str, port: int) -> bool:
    """Whether a new connection from one end to another is let through."""
    if source.namespace and not side(world, source, target, protocol, port, "Egress"):
        return False
    if target.namespace and source.address not in world.hosts:
        return side(world, target, source, protocol, port, "Ingress")
    return True


def side(world: World, pod: End, other: End, protocol: str, port: int, kind: str) -> bool:
    """What the policies of one pod say of one direction."""
    isolated = False
    for policy in world.policies:
        spec = policy["spec"]
        if policy["metadata"]["namespace"] != pod.namespace:
            continue
        if not selects(spec.get("podSelector"), pod.labels) or kind not in types_of(spec):
            continue
        isolated = True
        for rule in spec.get(kind.lower()) or []:
            peers = rule.get("from" if kind == "Ingress" else "to")
            # The port's name is that of the pod that the connection goes to.
            owner = pod if kind == "Ingress" else other
            home = policy["metadata"]["namespace"]
            if peers and not any(is_peer(world, peer, other, home) for peer in peers):
                continue
            ports = rule.get("ports")
            if not ports or any(is_port(one, protocol, port, owner) for one in ports):
                return True
    return not isolated


def types_of(spec: Json) -> list[str]:
    """Which directions a policy is about."""
    if spec.get("policyTypes"):
        return list(spec["policyTypes"])
    return ["Ingress", "Egress"] if spec.get("egress") else ["Ingress"]


def selects(selector: Json, labels: Mapping[str, str]) -> bool:
    """Whether a label selector has these labels."""
    selector = selector or {}
    for key, value in (selector.get("matchLabels") or {}).items():
        if labels.get(key) != value:
            return False
    for one in selector.get("matchExpressions") or []:
        key, operator, values = one["key"], one["operator"], one.get("values") or []
        if operator == "In" and (key not in labels or labels[key] not in values):
            return False
        if operator == "NotIn" and key in labels and labels[key] in values:
            return False
        if operator == "Exists" and key not in labels:
            return False
        if operator == "DoesNotExist" and key in labels:
            return False
    return True


def is_peer(world: World, peer: Json, other: End, home: str) -> bool:
    """Whether the other end is one that a rule names."""
    if "ipBlock" in peer:
        host = ip_address(other.address)
        inside = host in ip_network(peer["ipBlock"]["cidr"])
        return inside and not any(
            host in ip_network(part) for part in peer["ipBlock"].get("except") or []
        )
    if not other.namespace:
        return False
    if peer.get("namespaceSelector") is None:
        if other.namespace != home:
            return False
    elif not selects(peer["namespaceSelector"], world.namespaces[other.namespace]):
        return False
    return selects(peer.get("podSelector"), other.labels)


def is_port(one: Json, protocol: str, port: int, owner: End) -> bool:
    """Whether a rule's port is this one."""
    if one.get("protocol", "TCP") != protocol:
        return False
    wanted = one.get("port")
    if wanted is None:
        return True
    if isinstance(wanted, str):
        return owner.named.get((protocol, wanted)) == port
    return bool(wanted <= port <= one.get("endPort", wanted))
