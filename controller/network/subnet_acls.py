"""What a Subnet says of who may reach its workloads. Pure.

`private`, `allowSubnets`, `allowEWTraffic` and `acls` are ACLs of its switch, with Kube-OVN's
priorities:

    3000  from the hosts' network, which nodes speak from
    1900  within the subnet (allowEWTraffic)
    1001  within a private subnet, and with the subnets that it allows
    1000  everything else is dropped that comes to a private subnet or leaves it

To leave is to come to the router's port of the switch, so one drop is both directions. What answers
a connection that is allowed is known by its state, there too.

Source: Kube-OVN's documentation of Subnet ("Subnet Isolation", "Subnet ACL").
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from dataclasses import replace
from ipaddress import ip_network

from controller.kinds.subnet import RESOURCE, SUBNETS, Subnet, SubnetAcl
from controller.network import matches
from controller.network.nets import NETS
from controller.network.rows import Row, RowKey, Value
from controller.network.settings import settings
from controller.network.units import ObjectRef, Said, Unit
from controller.network.view import View
from controller.policy.compiler import name_of
from controller.translate.ovn import Problem
from dataplane.model.addr import IPNetwork

HOSTS, WITHIN, ALLOWED, DROPPED = 3000, 1900, 1001, 1000
DIRECTIONS = ("to-lport", "from-lport")
ACTIONS = ("allow", "allow-related", "allow-stateless", "drop", "reject")
_ALLOW = "allow-related"


def _acls(view: View, name: Hashable) -> Said:
    subnet, net = view.get(SUBNETS, name), view.get(NETS, name)
    if subnet is None or net is None or not net.usable:
        return Said()
    problems: list[Problem] = []
    wanted = list(_within(subnet, net.networks))
    if subnet.private:
        join = view.get(NETS, settings(view).join_subnet)
        wanted += _private(subnet, net.networks, join.networks if join else (), problems)
    for at, acl in enumerate(subnet.acls):
        fault = _fault(acl)
        if fault is None:
            wanted.append(acl)
            continue
        cause, step, instead = fault
        problems.append(Problem(f"Subnet {name}", f"spec.acls[{at}].{cause}", step))
        if instead:
            wanted.append(replace(acl, match=instead))
    rows = {}
    for acl in wanted:
        key = RowKey("ACL", name_of("acl", name, acl))
        columns: dict[str, Value] = {
            "direction": acl.direction,
            "priority": acl.priority,
            "match": acl.match,
            "action": acl.action,
        }
        rows[key] = Row(columns, parent=(RowKey("Logical_Switch", subnet.name), "acls"))
    ref = ObjectRef(str(RESOURCE), "", subnet.name)
    return Said(rows, problems={ref: tuple(problems)} if problems else {})


def _within(subnet: Subnet, networks: tuple[IPNetwork, ...]) -> Iterator[SubnetAcl]:
    if subnet.allow_east_west:
        for network in networks:
            for direction in DIRECTIONS:
                yield SubnetAcl(direction, WITHIN, _between(network, network), _ALLOW)


def _private(
    subnet: Subnet,
    networks: tuple[IPNetwork, ...],
    hosts: tuple[IPNetwork, ...],
    problems: list[Problem],
) -> Iterator[SubnetAcl]:
    allowed = []
    for at, text in enumerate(subnet.allow_subnets):
        try:
            allowed.append(ip_network(text, strict=False))
        except ValueError:
            cause = f"spec.allowSubnets[{at}]: {text!r} is no network"
            problems.append(Problem(f"Subnet {subnet.name}", cause, "write it as 10.16.0.0/16"))
    yield SubnetAcl("to-lport", DROPPED, "ip", "drop")
    for network in networks:
        yield SubnetAcl("to-lport", ALLOWED, _between(network, network), _ALLOW)
        for other in allowed:
            if other.version == network.version:
                match = f"({_between(network, other)}) || ({_between(other, network)})"
                yield SubnetAcl("to-lport", ALLOWED, match, _ALLOW)
    for network in hosts:
        yield SubnetAcl("to-lport", HOSTS, f"ip{network.version}.src == {network}", _ALLOW)


def _between(source: IPNetwork, target: IPNetwork) -> str:
    field = f"ip{source.version}"
    return f"{field}.src == {source} && {field}.dst == {target}"


def _fault(acl: SubnetAcl) -> tuple[str, str, str] | None:
    """What cannot be written of an entry, what to write, and the match to have until then."""
    if acl.direction not in DIRECTIONS:
        return f"direction: {acl.direction!r} is none", f"write {' or '.join(DIRECTIONS)}", ""
    if not 0 <= acl.priority <= 32767:
        return f"priority: {acl.priority} is none", "give one from 0 to 32767", ""
    if acl.action not in ACTIONS:
        cause = f"action: {acl.action!r} is none of OVN 23.03"
        return cause, f"write one of {', '.join(ACTIONS)}", ""
    if not acl.match.strip():
        return "match: is empty", "write an expression of OVN's, as in ip4.src == 10.0.0.0/8", ""
    if refused := matches.fault(acl.match):
        cause = f"match: {acl.match!r} is not written: {refused}"
        # Without it all would pass that it is to keep out.
        instead = matches.broader(acl.match) if acl.action in ("drop", "reject") else ""
        if instead:
            cause += f"; until it is corrected {acl.action} is of more, of {instead!r}"
        return cause, "correct it", instead
    return None


UNITS: tuple[Unit, ...] = (Unit("subnet-acls", SUBNETS, _acls),)
