"""What is behind SwitchLBRules, and in which VPC."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from ipaddress import IPv4Address

from controller.kinds.subnet import SUBNETS
from controller.kinds.switchlbrule import READY, RULES, SwitchLbRule
from controller.network.external import networks_of, vpc_of
from controller.network.facts import LEASES, PODS, NicLease
from controller.network.nets import NETS
from controller.network.settings import DEFAULT_VPC
from controller.network.view import Derived, View
from dataplane.model.addr import readable

Located = Mapping[IPv4Address, tuple[str, str]]
"""By address: the logical port and its Subnet."""


def leases_of(view: View, rule: SwitchLbRule, *, ready: bool) -> list[NicLease]:
    """What the pods behind a rule, those that have all of its labels, have on first interfaces."""
    keys: set[Hashable] | None = None
    for key, value in rule.selector:
        mine = set(view.by(PODS, "label", (rule.namespace, key, value)))
        keys = mine if keys is None else keys & mine
    found: list[NicLease] = []
    for pod in sorted(keys or (), key=str):
        if ready and not view.get(READY, pod):
            continue
        for name in view.by(LEASES, "pod", pod):
            lease = view.get(LEASES, name)
            if lease is not None and lease.provider == "ovn":
                found.append(lease)
    return found


def _vpc(view: View, name: Hashable) -> str:
    """The VPC that a rule is of; "": nothing tells it yet."""
    rule = view.get(RULES, name)
    if rule is None:
        return ""
    if rule.vpc:
        return rule.vpc
    if not rule.endpoints:
        subnets = {lease.subnet for lease in leases_of(view, rule, ready=False)}
        vpcs = sorted({vpc_of(view, subnet) for subnet in subnets})
        return vpcs[0] if vpcs else ""
    inside = readable(rule.endpoints)
    vpcs = sorted(
        {
            vpc_of(view, key)
            for key in view.all(SUBNETS)
            if (subnet := view.get(SUBNETS, key)) is not None
            and any(
                one in network
                for network in networks_of(subnet)
                for one in inside
                if one.version == network.version
            )
        },
        key=lambda vpc: (vpc != DEFAULT_VPC, vpc),
    )
    # Addresses of no subnet, a host's say, tell nothing: Kube-OVN takes the default VPC, too.
    return vpcs[0] if vpcs else DEFAULT_VPC


VPC: Derived[str] = Derived("the VPC of a SwitchLBRule", _vpc)


def _on(view: View, subnet: Hashable) -> Located:
    """Who has which address of a Subnet."""
    found: dict[IPv4Address, tuple[str, str]] = {}
    for name in view.by(LEASES, "subnet", subnet):
        if (lease := view.get(LEASES, name)) is not None:
            found |= _at(lease)
    return found


def _at(lease: NicLease) -> Located:
    mine = (one for one in lease.addresses if isinstance(one, IPv4Address))
    return dict.fromkeys(mine, (lease.port, lease.subnet))


ON: Derived[Located] = Derived("who has which address of a Subnet", _on)


def located(view: View, rule: SwitchLbRule, vpc: str) -> Located:
    """Where the backends of a rule are, as far as they are ports of OVN's."""
    found: dict[IPv4Address, tuple[str, str]] = {}
    if not rule.endpoints:
        for lease in leases_of(view, rule, ready=False):
            found |= _at(lease)
        return found
    wanted = [one for one in readable(rule.endpoints) if isinstance(one, IPv4Address)]
    for name in view.by(NETS, "vpc", vpc):
        net = view.get(NETS, name)
        mine = [one for one in wanted if net and any(one in n for n in net.networks)]
        there = view.ask(ON, name) if mine else {}
        found |= {one: there[one] for one in mine if one in there}
    return found
