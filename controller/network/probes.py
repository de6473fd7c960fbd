"""OVN's health checks of what is behind SwitchLBRules (IPv4; TCP and UDP).

The chassis of a backend asks it, from an address of the backend's Subnet that nobody else has: the
Vip's that has the Subnet's name, or one that is kept for this. A backend that does not answer gets
no new connections until it does (ovn-nb(5), Load_Balancer_Health_Check).
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from ipaddress import IPv4Address

from controller.kinds.addresses import VIPS
from controller.kinds.switchlbrule import RULES, RulePort
from controller.network.external import GIVEN, RANGES
from controller.network.facts import LEASES
from controller.network.giving import Claim, give
from controller.network.lbbackends import VPC, Located, located
from controller.network.rows import Row, RowKey, pairs
from controller.network.view import Derived, View
from dataplane.model.addr import IPAddress, readable

OPTIONS = {"interval": 5, "timeout": 20, "success_count": 3, "failure_count": 3}
"""Seconds, and how often in a row; a backend that was never asked counts as alive."""
PROTOCOLS = ("tcp", "udp")


def _source(view: View, subnet: Hashable) -> IPv4Address | None:
    """Where the checks of a Subnet's backends come from."""
    name = str(subnet)
    vip = view.get(VIPS, name)
    own = readable(vip.held) if vip is not None and vip.subnet == name else ()
    leases = (view.get(LEASES, key) for key in view.by(LEASES, "subnet", name))
    taken = [one for lease in leases if lease is not None for one in lease.addresses]
    others = view.ask(GIVEN, name).values()
    taken += [one for given in others for one in given.addresses.values()]
    who = "health checks of", name
    kept = give(view.ask(RANGES, name), [Claim(who, ())], taken)[who].addresses.get(4)
    fours = [one for one in (*own, kept) if isinstance(one, IPv4Address)]
    return fours[0] if fours else None


SOURCE: Derived[IPv4Address | None] = Derived("where health checks come from", _source)
"""Keys are Subnets' names."""


def checks(
    view: View,
    parent: RowKey,
    port: RulePort,
    vips: Iterable[IPAddress],
    backends: Located,
) -> tuple[tuple[tuple[str, str], ...], dict[RowKey, Row]]:
    """The column `ip_port_mappings` of a rule's row, and the rows of its checks."""
    if port.protocol not in PROTOCOLS:
        return (), {}
    mappings = {
        str(address): f"{name}:{source}"
        for address, (name, subnet) in backends.items()
        if (source := view.ask(SOURCE, subnet)) is not None
    }
    if not mappings:
        return (), {}
    rows = {
        RowKey("Load_Balancer_Health_Check", f"{parent.name}/{vip}"): Row(
            {"vip": f"{vip}:{port.port}", "options": pairs(OPTIONS)},
            parent=(parent, "health_check"),
        )
        for vip in vips
        if vip.version == 4
    }
    return pairs(mappings) if rows else (), rows


def _probed(view: View, name: Hashable) -> frozenset[str]:
    """The Subnets that a rule's checks need a source in."""
    rule = view.get(RULES, name)
    if rule is None or not rule.checked:
        return frozenset()
    found = located(view, rule, view.ask(VPC, name))
    return frozenset(subnet for _, subnet in found.values())


PROBED: Derived[frozenset[str]] = Derived("Subnets with health checks of a rule", _probed)
"""Keys are rules' names."""
