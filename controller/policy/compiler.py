"""From one network policy to the ACLs, port groups and address sets that it needs. Pure.

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
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from controller.policy.model import (
    EVERYTHING,
    Block,
    Chosen,
    Direction,
    Named,
    NetworkPolicy,
    Pods,
    Ports,
    Rule,
)
from controller.policy.rows import (
    ALLOW_PRIORITY,
    DENY_PRIORITY,
    LOGGED,
    Acl,
    Match,
    PortRange,
    tracking,
)
from dataplane.model.addr import Protocol

Numbers = Callable[[Chosen, Protocol, str], tuple[int, ...]]
"""What numbers these pods mean by a port's name."""

_TRANSPORT = tuple(PortRange(protocol) for protocol in Protocol)
_DHCP = {
    Direction.EGRESS: ((4, 68, 67), (6, 546, 547)),
    Direction.INGRESS: ((4, 67, 68), (6, 547, 546)),
}
"""Family, source and destination port of what a workload sends and what it hears."""


@dataclass(frozen=True, slots=True)
class Shape:
    """What a policy becomes, whoever its pods are.

    Attributes:
        groups: members of the port groups that ACLs are of, by the groups' names.
        sets: members of the address sets that ACLs name, by the names before their families.
    """

    acls: tuple[Acl, ...] = ()
    groups: Mapping[str, Chosen] = field(default_factory=dict)
    sets: Mapping[str, Chosen] = field(default_factory=dict)


def compile_policy(policy: NetworkPolicy, numbers: Numbers, *, lax: bool = False) -> Shape:
    """Everything that a policy needs.

    Args:
        policy: the policy.
        numbers: answers what pods mean by names of ports.
        lax: how the cluster is set, for a policy that does not say it.
    """
    own = Chosen(policy.namespace, policy.pods, policy.providers)
    one = _Compiler(policy, own, numbers, lax if policy.lax is None else policy.lax)
    for direction in Direction:
        rules = policy.rules(direction)
        if rules is not None:
            one.isolate(direction)
            for rule in rules:
                one.rule(direction, rule)
    return Shape(tuple(one.acls), one.groups, one.sets)


def name_of(kind: str, *parts: object) -> str:
    """A row's name: OVN takes letters, digits, "_" and ".", and at most 63 of them everywhere."""
    text = "\0".join(map(str, parts)).encode()
    return f"mr_{kind}_{hashlib.blake2b(text, digest_size=8).hexdigest()}"


@dataclass(slots=True)
class _Compiler:
    policy: NetworkPolicy
    own: Chosen
    numbers: Numbers
    lax: bool
    acls: list[Acl] = field(default_factory=list)
    groups: dict[str, Chosen] = field(default_factory=dict)
    sets: dict[str, Chosen] = field(default_factory=dict)

    def isolate(self, direction: Direction) -> None:
        group = self._group(self.own)
        self.acls.append(tracking(group, direction))
        if self.lax:
            self._acl(Match(group, direction, ports=_TRANSPORT), "drop")
            for version, source, port in _DHCP[direction]:
                ports = (PortRange(Protocol.UDP, port, source=source),)
                self._acl(Match(group, direction, version, ports=ports), "allow")
        else:
            self._acl(Match(group, direction), "drop")

    def rule(self, direction: Direction, rule: Rule) -> None:
        plain = tuple(sorted({_range(one) for one in rule.ports or () if _is_plain(one)}, key=str))
        named = sorted({(p.protocol, p.port) for p in rule.ports or () if isinstance(p.port, str)})
        if rule.ports is None or plain:
            self._allow(self._group(self.own), direction, rule, plain)
        for protocol, name in named:
            if direction is Direction.INGRESS:
                # The name is the selected pods' own, and each may mean another number by it.
                for number in self.numbers(self.own, protocol, name):
                    means = self.own._replace(named=Named(protocol, name, number))
                    ports = (PortRange(protocol, number),)
                    self._allow(self._group(means), direction, rule, ports)
            else:
                self._allow_named(rule, protocol, name)

    def _allow(
        self, group: str, direction: Direction, rule: Rule, ports: tuple[PortRange, ...]
    ) -> None:
        if rule.peers is None:
            self._acl(Match(group, direction, ports=ports), "allow-related")
            return
        bases = sorted({self._set(self._peer(p)) for p in rule.peers if isinstance(p, Pods)})
        for version in (4, 6):
            sets = tuple(f"{base}_{version}" for base in bases)
            found = {p for p in rule.peers if isinstance(p, Block) and p.network.version == version}
            blocks = tuple(sorted(found, key=str))
            if sets or blocks:
                match = Match(group, direction, version, sets, blocks, ports)
                self._acl(match, "allow-related")

    def _allow_named(self, rule: Rule, protocol: Protocol, name: str) -> None:
        """Egress to a named port: of each peer the number that it means by the name.

        A block has no names, but pods may be in it that do: of those, those in the block.
        """
        peers = [self._peer(peer) for peer in rule.peers or () if isinstance(peer, Pods)]
        blocks = sorted({peer for peer in rule.peers or () if isinstance(peer, Block)}, key=str)
        everyone = Chosen(EVERYTHING, EVERYTHING, self.policy.providers)
        if rule.peers is None:
            peers = [everyone]
        group, way = self._group(self.own), Direction.EGRESS
        for chosen in (*peers, *([everyone] if blocks else ())):
            for number in self.numbers(chosen, protocol, name):
                base = self._set(chosen._replace(named=Named(protocol, name, number)))
                ports = (PortRange(protocol, number),)
                for version in (4, 6):
                    sets = f"{base}_{version}"
                    if chosen in peers:
                        match = Match(group, way, version, (sets,), ports=ports)
                        self._acl(match, "allow-related")
                    here = tuple(one for one in blocks if one.network.version == version)
                    if chosen == everyone and here:
                        match = Match(group, way, version, (), here, ports, also=sets)
                        self._acl(match, "allow-related")

    def _acl(self, match: Match, action: str) -> None:
        logging = self.policy.logging
        dropped = action == "drop"
        priority = DENY_PRIORITY if dropped else ALLOW_PRIORITY
        if not (logging.dropped if dropped else logging.allowed):
            self.acls.append(Acl(match, priority, action))
            return
        name = f"np/{self.policy.name}.{self.policy.namespace}/{match.direction.value}"
        self.acls.append(Acl(match, priority + LOGGED, action, name, True, logging.rate))

    def _group(self, chosen: Chosen) -> str:
        name = name_of("pods", chosen)
        self.groups[name] = chosen
        return name

    def _set(self, chosen: Chosen) -> str:
        base = name_of("peer", chosen)
        self.sets[base] = chosen
        return base

    def _peer(self, peer: Pods) -> Chosen:
        # A peer of the policy's own namespace is another one in each.
        spaces = self.policy.namespace if peer.namespaces is None else peer.namespaces
        return Chosen(spaces, peer.pods, self.policy.providers)


def _is_plain(ports: Ports) -> bool:
    return not isinstance(ports.port, str)


def _range(ports: Ports) -> PortRange:
    assert not isinstance(ports.port, str)
    return PortRange(ports.protocol, ports.port, ports.last)
