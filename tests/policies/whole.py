"""Every row of a whole cluster's network policies, from plain lists: what the units must equal.

It reads each pod for each selector, by no index and remembering nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from controller.policy.compiler import compile_policy
from controller.policy.model import Chosen, NetworkPolicy
from controller.policy.rows import Acl
from dataplane.model.addr import IPAddress, Protocol


@dataclass(frozen=True, slots=True)
class Namespace:
    """A namespace."""

    name: str
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Pod:
    """A pod that may have traffic: with addresses, not in its host's network, not over.

    `port` is the name of its logical switch port; `named` has its containers' named ports.
    """

    namespace: str
    name: str
    port: str
    addresses: tuple[IPAddress, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict)
    named: Mapping[tuple[Protocol, str], int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Cluster:
    """What policies are about. `lax`: as NetSettings has it."""

    policies: tuple[NetworkPolicy, ...] = ()
    pods: tuple[Pod, ...] = ()
    namespaces: tuple[Namespace, ...] = ()
    lax: bool = False


@dataclass(frozen=True, slots=True)
class PolicyRows:
    """All rows. Port groups have names of logical switch ports, address sets texts of addresses."""

    port_groups: dict[str, frozenset[str]] = field(default_factory=dict)
    address_sets: dict[str, frozenset[str]] = field(default_factory=dict)
    acls: dict[tuple[object, ...], Acl] = field(default_factory=dict)


def compile_policies(cluster: Cluster) -> PolicyRows:
    """Every row that the cluster's network policies become."""
    rows = PolicyRows()
    for policy in cluster.policies:
        shape = compile_policy(policy, lambda *asked: _numbers(cluster, *asked), lax=cluster.lax)
        rows.acls.update({acl.key: acl for acl in shape.acls})
        for name, chosen in shape.groups.items():
            rows.port_groups[name] = frozenset(pod.port for pod in _pods(cluster, chosen))
        for base, chosen in shape.sets.items():
            found = [address for pod in _pods(cluster, chosen) for address in pod.addresses]
            for version in (4, 6):
                texts = frozenset(str(one) for one in found if one.version == version)
                rows.address_sets[f"{base}_{version}"] = texts
    return rows


def _pods(cluster: Cluster, chosen: Chosen) -> Iterable[Pod]:
    for pod in cluster.pods:
        if isinstance(chosen.namespaces, str):
            fits = pod.namespace == chosen.namespaces
        else:
            labels = [one.labels for one in cluster.namespaces if one.name == pod.namespace]
            fits = any(map(chosen.namespaces.matches, labels))
        if fits and chosen.pods.matches(pod.labels):
            named = chosen.named
            if named is None or pod.named.get((named.protocol, named.name)) == named.number:
                yield pod


def _numbers(cluster: Cluster, chosen: Chosen, protocol: Protocol, name: str) -> tuple[int, ...]:
    found = (pod.named.get((protocol, name)) for pod in _pods(cluster, chosen))
    return tuple(sorted({number for number in found if number is not None}))
