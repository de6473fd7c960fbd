"""Whether a connection is allowed where administrators have policies, too, from their JSON.

Written from the texts of network-policy-api v1alpha1 and v1alpha2; it shares no code with
`controller.policy`, neither reading nor matching. Slow and plain on purpose.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from ipaddress import ip_address, ip_network
from typing import Any

from tests.policies.evaluate import End, World, selects, side

Json = Any


@dataclass(frozen=True)
class Tiers:
    """Policies of a cluster: `admin` have kinds, the others are NetworkPolicies."""

    world: World
    admin: Sequence[Json]
    nodes: dict[str, dict[str, Any]] = field(default_factory=dict)


def allowed(tiers: Tiers, source: End, target: End, protocol: str, port: int) -> bool:
    """Whether a new connection from one end to another is let through."""
    for own, other, kind in ((source, target, "egress"), (target, source, "ingress")):
        if own.namespace and not one_side(tiers, own, other, (protocol, port, kind)):
            return False
    return True


def one_side(tiers: Tiers, own: End, other: End, what: tuple[str, int, str]) -> bool:
    """What all tiers say of one direction of one pod."""
    protocol, port, kind = what
    verdict = tier(tiers, "Admin", own, other, what)
    if verdict is not None:
        return verdict
    if is_isolated(tiers.world, own, kind):
        return side(tiers.world, own, other, protocol, port, kind.title())
    verdict = tier(tiers, "Baseline", own, other, what)
    return verdict if verdict is not None else True


def is_isolated(world: World, own: End, kind: str) -> bool:
    """Whether any NetworkPolicy is about this direction of the pod."""
    nobody = End("192.0.2.99")
    return any(
        one["metadata"]["namespace"] == own.namespace
        and selects(one["spec"].get("podSelector"), own.labels)
        and not side(
            World([{**one, "spec": {**one["spec"], "ingress": [], "egress": [],
                    "policyTypes": types(one["spec"])}}], world.namespaces),
            own, nobody, "TCP", 1, kind.title(),
        )
        for one in world.policies
    )  # fmt: skip


def types(spec: Json) -> list[str]:
    """The directions of a NetworkPolicy."""
    if spec.get("policyTypes"):
        return list(spec["policyTypes"])
    return ["Ingress", "Egress"] if spec.get("egress") else ["Ingress"]


def tier(tiers: Tiers, name: str, own: End, other: End, what: tuple[str, int, str]) -> bool | None:
    """The tier's final word; None: it has none, or passes."""
    in_tier = [one for one in tiers.admin if tier_of(one) == name]
    # A baseline policy has no priority: the one there is comes last.
    in_tier.sort(key=lambda one: (one["spec"].get("priority", 1001), one["metadata"]["name"]))
    for policy in in_tier:
        spec = policy["spec"]
        if not is_pod(tiers, spec["subject"], own):
            continue
        for rule in spec.get(what[2]) or []:
            peers = rule["from" if what[2] == "ingress" else "to"]
            owner = own if what[2] == "ingress" else other
            if not any(
                is_peer(tiers, one, other) and on_ports(rule, what, owner, one) for one in peers
            ):
                continue
            if rule["action"] == "Pass":
                return None
            return rule["action"] in ("Allow", "Accept")
    return None


def tier_of(policy: Json) -> str:
    """Admin or Baseline."""
    if policy["kind"] == "ClusterNetworkPolicy":
        return str(policy["spec"]["tier"])
    return "Admin" if policy["kind"] == "AdminNetworkPolicy" else "Baseline"


def is_pod(tiers: Tiers, chosen: Json, pod: End) -> bool:
    """Whether `namespaces` or `pods` have this pod."""
    if not pod.namespace:
        return False
    spaces = tiers.world.namespaces[pod.namespace]
    if "namespaces" in chosen:
        return selects(chosen["namespaces"], spaces)
    both = chosen["pods"]
    return selects(both.get("namespaceSelector"), spaces) and selects(
        both.get("podSelector"), pod.labels
    )


def is_peer(tiers: Tiers, peer: Json, other: End) -> bool:
    """Whether the other end is one that a rule names."""
    if "networks" in peer:
        host = ip_address(other.address)
        return any(host in ip_network(text) for text in peer["networks"])
    if "nodes" in peer:
        return any(
            other.address in node["addresses"] and selects(peer["nodes"], node["labels"])
            for node in tiers.nodes.values()
        )
    return is_pod(tiers, peer, other)


def on_ports(rule: Json, what: tuple[str, int, str], owner: End, peer: Json) -> bool:
    """Whether a rule is about this protocol and port. `owner`: the pod that it goes to.

    Networks and nodes have no names of ports (a rule with both is not valid).
    """
    protocol, port, _ = what
    if "networks" in peer or "nodes" in peer:
        owner = End(owner.address)
    if "ports" in rule:
        return any(_alpha1(one, protocol, port, owner) for one in rule["ports"])
    if "protocols" in rule:
        return any(_alpha2(one, protocol, port, owner) for one in rule["protocols"])
    return True


def _alpha1(one: Json, protocol: str, port: int, owner: End) -> bool:
    if "namedPort" in one:
        return owner.named.get((protocol, one["namedPort"])) == port
    inner = one.get("portNumber") or one["portRange"]
    if inner.get("protocol", "TCP") != protocol:
        return False
    if "portNumber" in one:
        return bool(inner["port"] == port)
    return bool(inner["start"] <= port <= inner["end"])


def _alpha2(one: Json, protocol: str, port: int, owner: End) -> bool:
    if "destinationNamedPort" in one:
        return owner.named.get((protocol, one["destinationNamedPort"])) == port
    if protocol.lower() not in one:
        return False
    wanted = one[protocol.lower()].get("destinationPort")
    if not wanted:
        return True
    if "number" in wanted:
        return bool(wanted["number"] == port)
    return bool(wanted["range"]["start"] <= port <= wanted["range"]["end"])
