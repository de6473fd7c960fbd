"""SecurityGroup: rules for the interfaces that name it in their annotation. No I/O.

Source: Kube-OVN's definition of the kind and its documentation of security groups.
"""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import ip_network

from controller.kinds.reading import Form, Reading
from controller.kinds.vpc import GROUP, VERSION
from controller.kube.resources import custom
from controller.kube.structs import Meta
from controller.network.view import Kind
from controller.policy.model import Direction
from dataplane.model.addr import IPNetwork

RESOURCE = custom(GROUP, VERSION, "security-groups", "SecurityGroup")
LAST_PRIORITY = 16384
ONWARD = "pass"
_ACTIONS = {"allow": "allow-related", "drop": "drop", "deny": "drop", ONWARD: ONWARD}
"""Kube-OVN's documentation writes deny, its definition drop."""


@dataclass(frozen=True, slots=True)
class GroupRule:
    """One rule.

    Attributes:
        version: the family, 4 or 6.
        protocol: all, icmp, tcp or udp.
        priority: lower ones come first.
        action: as OVN has it; `pass`, of tier 0 alone: tier 1 judges what it matches.
        remote: addresses of the other end; None: any, or `group`'s.
        group: the SecurityGroup whose interfaces are the other end; "": none.
        local: the interface's own addresses that it is about; None: all.
        ports, source_ports: first and last; None: all.
    """

    version: int
    protocol: str
    priority: int
    action: str
    remote: IPNetwork | None = None
    group: str = ""
    local: IPNetwork | None = None
    ports: tuple[int, int] | None = None
    source_ports: tuple[int, int] | None = None


@dataclass(frozen=True, slots=True)
class SecurityGroup:
    """A SecurityGroup. `same`: its interfaces reach each other. `tier`: 0 is before 1."""

    name: str
    tier: int = 0
    same: bool = False
    ingress: tuple[GroupRule, ...] = ()
    egress: tuple[GroupRule, ...] = ()

    def rules(self, direction: Direction) -> tuple[GroupRule, ...]:
        """Of one direction."""
        return self.ingress if direction is Direction.INGRESS else self.egress


def _read(meta: Meta, spec: Reading, _: Reading) -> SecurityGroup:
    tier = spec.number("tier")
    if tier not in (0, 1):
        spec.fail("tier", f"{tier} is none", "write 0 or 1")
    return SecurityGroup(
        meta.name,
        tier,
        spec.flag("allowSameGroupTraffic"),
        tuple(_rule(one, tier) for one in spec.each("ingressRules")),
        tuple(_rule(one, tier) for one in spec.each("egressRules")),
    )


def _rule(rule: Reading, tier: int) -> GroupRule:
    version = 6 if rule.choice("ipVersion", ("ipv4", "ipv6"), "ipv4") == "ipv6" else 4
    protocol = rule.choice("protocol", ("all", "icmp", "tcp", "udp"), "all")
    priority = rule.number("priority", 1)
    if not 1 <= priority <= LAST_PRIORITY:
        rule.fail("priority", f"{priority} is none", f"give one from 1 to {LAST_PRIORITY}")
    said = rule.choice("policy", ("allow", "drop", "deny", "pass"))
    if said == ONWARD and tier:
        rule.fail("policy", "pass is of tier 0: behind tier 1 is none", "write allow or drop")
    if not said:
        rule.fail("policy", "is missing", "write allow or drop")
    remote, group = rule.text("remoteAddress"), rule.text("remoteSecurityGroup")
    if rule.choice("remoteType", ("address", "securityGroup"), "address") == "securityGroup":
        if not group:
            rule.fail("remoteSecurityGroup", "is missing", "name a SecurityGroup")
        remote = ""
    else:
        group = ""
    has_ports = protocol in ("tcp", "udp")
    ports = _ports(rule, "portRangeMin", "portRangeMax")
    sources = _ports(rule, "sourcePortRangeMin", "sourcePortRangeMax")
    return GroupRule(
        version,
        protocol,
        priority,
        _ACTIONS[said],
        _network(rule, "remoteAddress", remote, version),
        group,
        _network(rule, "localAddress", rule.text("localAddress"), version),
        ports if has_ports else None,
        sources if has_ports else None,
    )


def _ports(rule: Reading, low: str, high: str) -> tuple[int, int] | None:
    first, last = rule.number(low), rule.number(high)
    if not first and not last:
        return None
    for name, number in ((low, first), (high, last)):
        if not 1 <= number <= 65535:
            rule.fail(name, f"{number} is no port", "give 1 to 65535")
    if last < first:
        rule.fail(high, f"{last} is below {low}, {first}", "turn them round")
    return first, last


def _network(rule: Reading, name: str, text: str, version: int) -> IPNetwork | None:
    if not text:
        return None
    try:
        network = ip_network(text, strict=False)
    except ValueError:
        rule.fail(name, f"{text!r} is neither address nor network", "write 10.0.0.9 or 10.0.0.0/8")
    if network.version != version:
        rule.fail(name, f"{text} is not of ipv{version}", "correct it, or ipVersion")
    return network


SECURITY_GROUPS: Kind[SecurityGroup] = Kind("securitygroups")
"""Keys are names."""

SECURITY_GROUP = Form("SecurityGroup", _read)
