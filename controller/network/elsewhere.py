"""Endpoints of Services that are in another VPC than the Service is served in. Pure.

Two VPCs may have one network: whoever asks for the Service would come to whoever has that address
in the Service's VPC. Pods alone are asked for, and only those whose address is of another VPC's
network: with one VPC nothing is looked up.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable

from controller.kube.resources import Key
from controller.network.backends import Targets
from controller.network.facts import LEASES
from controller.network.nets import NETS
from controller.network.servicefacts import NetService
from controller.network.view import Derived, View
from dataplane.model.addr import IPAddress, IPNetwork

NAMED = 3
"""So many are told by name."""


def _others(view: View, vpc: Hashable) -> tuple[IPNetwork, ...]:
    nets = (view.get(NETS, name) for name in view.all(NETS))
    found = {one for net in nets if net and net.usable and net.vpc != vpc for one in net.networks}
    return tuple(sorted(found, key=str))


OTHERS: Derived[tuple[IPNetwork, ...]] = Derived("networks of other VPCs than one", _others)


def elsewhere(view: View, service: NetService, found: Iterable[Targets]) -> str:
    """Which endpoints are in another VPC, for a text; "": none is known to be."""
    others = view.ask(OTHERS, service.vpc)
    if not others:
        return ""
    told: set[str] = set()
    for targets in found:
        for (address, _), one in targets.items():
            if one.target and any(_within(address, network) for network in others):
                vpc = _vpc(view, Key(service.namespace, one.target), address)
                if vpc and vpc != service.vpc:
                    told.add(f"{one.target} ({address}) is in VPC {vpc}")
    names = sorted(told)
    more = f", and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more


def _within(address: IPAddress, network: IPNetwork) -> bool:
    return address.version == network.version and address in network


def _vpc(view: View, pod: Key, address: IPAddress) -> str:
    """The VPC in which a pod has this address; "": it has it in none."""
    for name in view.by(LEASES, "pod", pod):
        lease = view.get(LEASES, name)
        if lease is not None and address in lease.addresses:
            net = view.get(NETS, lease.subnet)
            return net.vpc if net is not None else ""
    return ""
