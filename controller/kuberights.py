"""What the Kubernetes controller must be allowed: exactly what it does. Pure.

`deploy/kubernetes/controller.yaml` holds the result; a test compares the two.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from controller.network.registry import WATCHED, Watched

Rule = dict[str, Any]

OWN_RULES: tuple[Rule, ...] = (
    {
        "apiGroups": ["coordination.k8s.io"],
        "resources": ["leases"],
        "verbs": ["create", "get", "update"],
    },
)
"""In its own namespace: the Lease of the one that works."""


def single_rules(watched: Iterable[Watched] = WATCHED) -> dict[str, list[Rule]]:
    """By namespace, the rules of its Role: objects that are watched one by one.

    A list or a watch whose fieldSelector names one object is asked for by that object's name.
    """
    found: dict[str, list[Rule]] = {}
    for one in watched:
        if one.only is not None:
            rule = _rule(one.resource.group, {one.resource.plural}, "list", "watch")
            named = rule | {"resourceNames": [one.only.name]}
            found.setdefault(one.only.namespace, []).append(named)
    return found


def rules(watched: Iterable[Watched] = WATCHED) -> list[Rule]:
    """The rules of the ClusterRole, in an order that does not change."""
    reads: dict[str, set[str]] = {}
    patched: dict[str, set[str]] = {}
    statuses: dict[str, set[str]] = {}
    for one in watched:
        if one.only is not None:
            continue
        group, plural = one.resource.group, one.resource.plural
        reads.setdefault(group, set()).add(plural)
        if one.writes & {"annotations", "finalizers"}:
            patched.setdefault(group, set()).add(plural)
        if "status" in one.writes:
            statuses.setdefault(group, set()).add(f"{plural}/status")
    found = [_rule(group, plurals, "list", "watch") for group, plurals in _sorted(reads)]
    found += [_rule(group, plurals, "patch") for group, plurals in _sorted(patched)]
    found += [_rule(group, plurals, "patch") for group, plurals in _sorted(statuses)]
    found.append(_rule("", {"events"}, "create", "patch"))
    return found


def _sorted(of: dict[str, set[str]]) -> list[tuple[str, set[str]]]:
    return sorted(of.items())


def _rule(group: str, plurals: set[str], *verbs: str) -> Rule:
    return {"apiGroups": [group], "resources": sorted(plurals), "verbs": list(verbs)}
