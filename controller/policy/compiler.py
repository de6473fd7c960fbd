"""From network policies, pods and namespaces to OVN's rows. Pure.

A port group holds the pods that a selector of a namespace selects, and every policy with that
selector shares it; an address set holds the pods that a peer's selectors select, and every rule
with such a peer shares it. So a pod that comes, goes or changes its labels touches members of
groups and sets, and an ACL changes only with the policies.

A pod that a policy selects is isolated in the policy's directions: everything of the group is
dropped at DENY_PRIORITY, what any policy lets through is allowed above it. The union of several
policies follows by itself, for an allowing ACL of one group is above the dropping one of another.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from controller.policy.model import (
    Block,
    Direction,
    Namespace,
    NetworkPolicy,
    Pod,
    Pods,
    Ports,
    Rule,
    Selector,
)
from controller.policy.rows import (
    ALLOW_PRIORITY,
    DENY_PRIORITY,
    HOST_PRIORITY,
    Acl,
    Match,
    PolicyRows,
    PortRange,
)
from dataplane.model.addr import IPAddress, Protocol

HOSTS = "mr_hosts"
"""Address set of the nodes' own addresses, with the family behind it."""

_TRANSPORT = tuple(PortRange(protocol) for protocol in Protocol)


@dataclass(frozen=True, slots=True)
class Cluster:
    """What policies are about. `hosts`: addresses by which nodes reach their own pods.

    `lax`: drop only TCP, UDP and SCTP of isolated pods, so that ping and DHCP go on.
    """

    policies: tuple[NetworkPolicy, ...] = ()
    pods: tuple[Pod, ...] = ()
    namespaces: tuple[Namespace, ...] = ()
    hosts: frozenset[IPAddress] = frozenset()
    lax: bool = False


def compile_policies(cluster: Cluster) -> PolicyRows:
    """Every row that the cluster's network policies become."""
    return _Compiler(cluster).rows()


def name_of(kind: str, *parts: object) -> str:
    """A row's name: OVN takes letters, digits, "_" and ".", and at most 63 of them everywhere."""
    text = "\0".join(map(str, parts)).encode()
    return f"mr_{kind}_{hashlib.blake2b(text, digest_size=8).hexdigest()}"


@dataclass(slots=True)
class _Compiler:
    cluster: Cluster
    _by_namespace: dict[str, list[Pod]] = field(default_factory=dict)
    _labels: dict[str, Mapping[str, str]] = field(default_factory=dict)
    _groups: dict[str, frozenset[str]] = field(default_factory=dict)
    _sets: dict[str, frozenset[str]] = field(default_factory=dict)
    _acls: dict[tuple[Match, int, str], set[str]] = field(default_factory=dict)
    _peers: dict[tuple[str, Pods], tuple[Pod, ...]] = field(default_factory=dict)

    def rows(self) -> PolicyRows:
        for pod in self.cluster.pods:
            self._by_namespace.setdefault(pod.namespace, []).append(pod)
        self._labels = {one.name: one.labels for one in self.cluster.namespaces}
        if self.cluster.policies:
            self._set(HOSTS, self.cluster.hosts)
        for policy in self.cluster.policies:
            self._policy(policy)
        acls = [
            Acl(match, priority, action, tuple(sorted(said_by)))
            for (match, priority, action), said_by in self._acls.items()
        ]
        return PolicyRows(self._groups, self._sets, {acl.key: acl for acl in acls})

    def _policy(self, policy: NetworkPolicy) -> None:
        said_by = f"{policy.namespace}/{policy.name}"
        selected = self._selected(policy.namespace, policy.pods)
        group = self._group(name_of("pods", policy.namespace, policy.pods), selected)
        for direction in Direction:
            rules = policy.rules(direction)
            if rules is None:
                continue
            dropped = _TRANSPORT if self.cluster.lax else ()
            self._acl(Match(group, direction, ports=dropped), DENY_PRIORITY, "drop", said_by)
            if direction is Direction.INGRESS:
                for version in (4, 6):
                    match = Match(group, direction, version, (f"{HOSTS}_{version}",))
                    self._acl(match, HOST_PRIORITY, "allow-related", said_by)
            for rule in rules:
                self._rule(policy, group, selected, direction, rule, said_by)

    def _rule(
        self,
        policy: NetworkPolicy,
        group: str,
        selected: tuple[Pod, ...],
        direction: Direction,
        rule: Rule,
        said_by: str,
    ) -> None:
        plain = tuple(sorted({_range(one) for one in rule.ports or () if _is_plain(one)}, key=str))
        named = sorted({(p.protocol, p.port) for p in rule.ports or () if isinstance(p.port, str)})
        if rule.ports is None or plain:
            self._allow(policy, group, direction, rule, plain, said_by)
        for protocol, name in named:
            if direction is Direction.INGRESS:
                # The name is the selected pods' own, and each may mean another number by it.
                for number, pods in _by_number(selected, protocol, name).items():
                    members = name_of(
                        "named", policy.namespace, policy.pods, protocol, name, number
                    )
                    sub = self._group(members, pods)
                    ports = (PortRange(protocol, number),)
                    self._allow(policy, sub, direction, rule, ports, said_by)
            else:
                self._allow_named(policy, group, rule, (protocol, name), said_by)

    def _allow(
        self,
        policy: NetworkPolicy,
        group: str,
        direction: Direction,
        rule: Rule,
        ports: tuple[PortRange, ...],
        said_by: str,
    ) -> None:
        if rule.peers is None:
            self._acl(
                Match(group, direction, ports=ports), ALLOW_PRIORITY, "allow-related", said_by
            )
            return
        bases = sorted(
            {
                self._peer_set(policy.namespace, peer)
                for peer in rule.peers
                if isinstance(peer, Pods)
            }
        )
        for version in (4, 6):
            sets = tuple(f"{base}_{version}" for base in bases)
            found = {p for p in rule.peers if isinstance(p, Block) and p.network.version == version}
            blocks = tuple(sorted(found, key=str))
            if sets or blocks:
                match = Match(group, direction, version, sets, blocks, ports)
                self._acl(match, ALLOW_PRIORITY, "allow-related", said_by)

    def _allow_named(
        self,
        policy: NetworkPolicy,
        group: str,
        rule: Rule,
        wanted: tuple[Protocol, str],
        said_by: str,
    ) -> None:
        """Egress to a named port: of each peer the number that it means by the name."""
        protocol, name = wanted
        peers = [peer for peer in rule.peers or () if isinstance(peer, Pods)]
        pods: dict[str, Pod] = {}
        if rule.peers is None:
            pods = {pod.port: pod for pod in self.cluster.pods}
        for peer in peers:
            pods |= {pod.port: pod for pod in self._chosen(policy.namespace, peer)}
        who = sorted(map(str, peers)) if rule.peers is not None else "all"
        for number, found in _by_number(pods.values(), protocol, name).items():
            base = name_of("named", policy.namespace, who, protocol, name, number)
            self._set(base, (address for pod in found for address in pod.addresses))
            for version in (4, 6):
                ports = (PortRange(protocol, number),)
                match = Match(group, Direction.EGRESS, version, (f"{base}_{version}",), (), ports)
                self._acl(match, ALLOW_PRIORITY, "allow-related", said_by)

    def _acl(self, match: Match, priority: int, action: str, said_by: str) -> None:
        self._acls.setdefault((match, priority, action), set()).add(said_by)

    def _group(self, name: str, pods: Iterable[Pod]) -> str:
        self._groups[name] = frozenset(pod.port for pod in pods)
        return name

    def _set(self, base: str, addresses: Iterable[IPAddress]) -> None:
        every = tuple(addresses)
        for version in (4, 6):
            found = frozenset(str(address) for address in every if address.version == version)
            self._sets[f"{base}_{version}"] = found

    def _peer_set(self, namespace: str, peer: Pods) -> str:
        # A peer of the policy's own namespace is another one in each.
        base = name_of("peer", namespace if peer.namespaces is None else "", peer)
        if f"{base}_4" not in self._sets:
            pods = self._chosen(namespace, peer)
            self._set(base, (address for pod in pods for address in pod.addresses))
        return base

    def _chosen(self, namespace: str, peer: Pods) -> tuple[Pod, ...]:
        key = (namespace if peer.namespaces is None else "", peer)
        if key not in self._peers:
            names = (
                [namespace]
                if peer.namespaces is None
                else [n for n, labels in self._labels.items() if peer.namespaces.matches(labels)]
            )
            self._peers[key] = tuple(
                pod for name in sorted(names) for pod in self._selected(name, peer.pods)
            )
        return self._peers[key]

    def _selected(self, namespace: str, pods: Selector) -> tuple[Pod, ...]:
        return tuple(p for p in self._by_namespace.get(namespace, ()) if pods.matches(p.labels))


def _is_plain(ports: Ports) -> bool:
    return not isinstance(ports.port, str)


def _range(ports: Ports) -> PortRange:
    assert not isinstance(ports.port, str)
    return PortRange(ports.protocol, ports.port, ports.last)


def _by_number(pods: Iterable[Pod], protocol: Protocol, name: object) -> dict[int, tuple[Pod, ...]]:
    found: dict[int, list[Pod]] = {}
    for pod in pods:
        number = pod.named.get((protocol, str(name)))
        if number is not None:
            found.setdefault(number, []).append(pod)
    return {number: tuple(members) for number, members in sorted(found.items())}
