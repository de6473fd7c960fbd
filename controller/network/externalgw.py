"""Which Subnet is the external one by default, which nodes are gateways to external networks.

Both may be said by the ConfigMap `ovn-external-gw-config`, which also gives the default VPC a port
there. Where no Subnet of its name was written it stands for one, with what it says of the wire.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

from controller.kinds.externalgw import EXTERNAL_GATEWAYS, PLACE, ExternalGateway
from controller.kinds.subnet import SUBNETS, Subnet
from controller.kinds.underlay import PROVIDERS, VLANS, ProviderNetwork, Vlan
from controller.network.facts import NODES
from controller.network.settings import NetSettings, settings
from controller.network.units import ObjectRef, Said, Unit
from controller.network.view import Kind, View
from controller.translate.ovn import Problem
from dataplane.model.addr import readable

GATEWAY_LABEL = ("ovn.kubernetes.io/external-gw", "true")
ENOUGH = 3
"""Nodes of which two tell each other that the third has died."""
DEFAULT_NAME = "external"
"""Of the external Subnet, where the ConfigMap is there and nobody names one."""


def external_gateway(view: View) -> ExternalGateway | None:
    """What the ConfigMap says, if it is there and says that it counts."""
    found = view.get(EXTERNAL_GATEWAYS, PLACE)
    return found if found is not None and found.enabled else None


def _name(gateway: ExternalGateway | None, decided: NetSettings) -> str:
    if gateway is None:
        return decided.external_subnet
    return gateway.subnet or decided.external_subnet or DEFAULT_NAME


def external_subnet(view: View) -> str:
    """The Subnet of EIPs and Vpcs that name none; "": there is none."""
    return _name(external_gateway(view), settings(view))


def gateway_nodes(view: View) -> tuple[str, ...]:
    """The nodes that have a label that says so, and those that the ConfigMap names."""
    labelled, gateway = view.by(NODES, "label", GATEWAY_LABEL), external_gateway(view)
    if gateway is None:
        return labelled
    named = view.all(NODES) if gateway.distributed else gateway.nodes
    there = [name for name in named if view.get(NODES, name) is not None]
    return tuple(sorted({*labelled, *there}))


def live_gateways(view: View) -> tuple[str, ...]:
    """The gateway nodes that a port may be on.

    They watch each other by BFD. But of two chassis neither knows of the other's end from its own,
    and OVN lets none take over whose tunnels are all dead: so in a cluster of two nodes those that
    Kubernetes calls not ready are left out, if another is there.
    """
    found = gateway_nodes(view)
    if len(view.all(NODES)) >= ENOUGH:
        return found
    ready = tuple(name for name in found if (node := view.get(NODES, name)) and node.ready)
    return ready or found


Fact = tuple[Kind[Any], Hashable, Any]


def stand_ins(gateway: ExternalGateway | None, decided: NetSettings) -> tuple[Fact, ...]:
    """The Subnet, its Vlan and its ProviderNetwork, for as long as there are no objects of them."""
    if gateway is None or not gateway.enabled or not gateway.gateways:
        return ()
    name, network = _name(gateway, decided), decided.external_network
    subnet = Subnet(
        name,
        cidr=",".join(str(one.network) for one in gateway.gateways),
        gateway=",".join(str(one.ip) for one in gateway.gateways),
        vlan=PLACE.name,
        made=True,
    )
    return (
        (SUBNETS, name, subnet),
        (VLANS, PLACE.name, Vlan(PLACE.name, decided.external_vlan, network, made=True)),
        (PROVIDERS, network, ProviderNetwork(network, "", made=True)),
    )


def compute(view: View, key: Hashable) -> Said:
    """What of the ConfigMap cannot be."""
    gateway = external_gateway(view)
    if gateway is None:
        return Said()
    problems: list[Problem] = []

    def say(cause: str, step: str) -> None:
        problems.append(Problem(f"ConfigMap {PLACE}", cause, step))

    for name in () if gateway.distributed else gateway.nodes:
        if view.get(NODES, name) is None:
            say(f"external-gw-nodes: there is no node {name}", "correct its name")
    subnet = view.get(SUBNETS, external_subnet(view))
    if subnet is None:
        say(
            f"there is no Subnet {external_subnet(view)}, and no external-gw-addr to make one of",
            "write one of them",
        )
    elif not subnet.made and gateway.gateways:
        theirs = readable(part for part in subnet.gateway.split(",") if part.strip())
        if theirs != tuple(one.ip for one in gateway.gateways):
            cause = f"external-gw-addr: Subnet {subnet.name} is there, and its gateway counts"
            say(cause, f"take it away, or correct it to {subnet.gateway or 'nothing'}")
    if gateway.nic:
        wire = settings(view).external_network
        if subnet is not None and (vlan := view.get(VLANS, subnet.vlan)) is not None:
            wire = vlan.provider
        say(
            f"external-gw-nic: which device carries {wire} is said by each node's own file",
            f"have [[uplinks]] there lead {wire} to {gateway.nic}",
        )
    ref = ObjectRef("configmaps", PLACE.namespace, PLACE.name)
    return Said({}, {}, {ref: tuple(problems)} if problems else {})


UNITS: tuple[Unit, ...] = (Unit("external gateway", EXTERNAL_GATEWAYS, compute),)
