"""What there is without any object: the default VPC, the default subnet, the nodes' network."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

from controller.kinds.subnet import SUBNETS, Subnet
from controller.kinds.vpc import VPCS, Vpc
from controller.network.settings import DEFAULT_VPC, NetSettings, settings
from controller.network.view import Kind, View


def stand_ins(decided: NetSettings) -> tuple[tuple[Kind[Any], Hashable, Any], ...]:
    """Facts to hold for as long as the API has no object of that name, by kind and key.

    They are `made`: nothing is written to an object, since there is none.
    """
    vpc = Vpc(DEFAULT_VPC, default_subnet=decided.default_subnet, made=True)
    found: list[tuple[Kind[Any], Hashable, Any]] = [(VPCS, vpc.name, vpc)]
    for name, cidr, default in (
        (decided.default_subnet, decided.default_cidr, True),
        (decided.join_subnet, decided.join_cidr, False),
    ):
        if name and cidr:
            subnet = Subnet(
                name, default=default, vpc=vpc.name, cidr=cidr, nat_outgoing=default, made=True
            )
            found.append((SUBNETS, name, subnet))
    return tuple(found)


def ends(view: View, name: str) -> bool:
    """Whether a Subnet is being deleted, and none of that name stands in for it then."""
    subnet, decided = view.get(SUBNETS, name), settings(view)
    if subnet is None or not subnet.ending:
        return False
    return all(key != name for kind, key, _ in stand_ins(decided) if kind is SUBNETS)
