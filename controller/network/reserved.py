"""Addresses of Subnets that somebody else than an interface has: given to no workload."""

from __future__ import annotations

from collections.abc import Hashable, Mapping

from controller.kinds.nat import EIPS
from controller.kinds.subnet import SUBNETS
from controller.kinds.switchlbrule import RULES
from controller.kinds.vpc import VPCS
from controller.network.external import GIVEN, externals_of
from controller.network.externalgw import external_subnet
from controller.network.probes import PROBED, SOURCE
from controller.network.servicefacts import FROM_SUBNET_ANNOTATION, SERVICES
from controller.network.settings import SETTINGS
from controller.network.units import Said, Unit
from controller.network.view import Derived, View

Reserved = Mapping[str, Mapping[tuple[int, int], str]]
"""By Subnet, then by family and number: whose it is."""


def _external(view: View) -> set[str]:
    """The Subnets that external addresses are asked of."""
    first, found = external_subnet(view), set[str]()
    for name in view.all(EIPS):
        if (eip := view.get(EIPS, name)) is not None:
            found.add(eip.subnet or first)
    for name in view.all(VPCS):
        if (vpc := view.get(VPCS, name)) is not None:
            found.update(externals_of(view, vpc))
    for key in view.by(SERVICES, "from_subnet", True):
        if (service := view.get(SERVICES, key)) is not None:
            found.add(service.annotations[FROM_SUBNET_ANNOTATION])
    return (found | set(view.by(SUBNETS, "u2o", True))) - {""}


def _reserved(view: View, _: Hashable) -> Reserved:
    found: dict[str, dict[tuple[int, int], str]] = {}
    for subnet in sorted(_external(view)):
        mine = found.setdefault(subnet, {})
        for who, given in view.ask(GIVEN, subnet).items():
            name = " ".join(map(str, who)) if isinstance(who, tuple) else str(who)
            mine |= {(a.version, int(a)): name for a in given.addresses.values()}
    for subnet in {one for name in view.all(RULES) for one in view.ask(PROBED, name)}:
        if (source := view.ask(SOURCE, subnet)) is not None:
            mine = found.setdefault(subnet, {})
            mine.setdefault((4, int(source)), f"health checks of {subnet}")
    return {subnet: mine for subnet, mine in found.items() if mine}


RESERVED: Derived[Reserved] = Derived("addresses that are no interface's", _reserved)
"""Of the key ""."""


def _kept(view: View, _: Hashable) -> Said:
    """Nothing: it has them computed anew by what changes, and not whenever they are asked for."""
    view.ask(RESERVED, "")
    return Said()


UNITS: tuple[Unit, ...] = (Unit("reserved addresses", SETTINGS, _kept),)
