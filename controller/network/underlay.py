"""Subnets on wires: the switch's port to a physical network, and what Vlans say of themselves.

The physical network's name is the ProviderNetwork's; each node's own file says which bridge that is
(`bridge_mappings`, by ovn-controller's external_ids:ovn-bridge-mappings).
"""

from __future__ import annotations

from collections.abc import Hashable

from controller.kinds.subnet import RESOURCE as SUBNET_RESOURCE
from controller.kinds.subnet import SUBNETS, is_logical
from controller.kinds.underlay import (
    PROVIDER_RESOURCE,
    PROVIDERS,
    VLAN_RESOURCE,
    VLANS,
    ProviderNetwork,
)
from controller.network.facts import NODES
from controller.network.nets import NETS
from controller.network.rows import Row, RowKey, pairs
from controller.network.subnet import switch
from controller.network.units import ObjectRef, Said, Unit, Wanted
from controller.network.view import View
from controller.translate.ovn import Problem

MAX_TAG = 4094
"""IEEE 802.1Q; 0 stands for frames without a tag."""


def localnet(subnet: str) -> str:
    """Name of a switch's port to its physical network."""
    return f"localnet.{subnet}"


def compute(view: View, key: Hashable) -> Said:
    """A subnet's port to its wire."""
    subnet, net = view.get(SUBNETS, key), view.get(NETS, key)
    if subnet is None or net is None or not subnet.vlan or not is_logical(subnet.provider):
        return Said()
    ref, who = ObjectRef(str(SUBNET_RESOURCE), "", subnet.name), f"Subnet {subnet.name}"
    vlan = view.get(VLANS, subnet.vlan)
    if vlan is None:
        problem = Problem(who, f"there is no Vlan {subnet.vlan!r}", "make it, or correct spec.vlan")
        return Said(problems={ref: (problem,)})
    if not net.usable or not vlan.provider or not 0 <= vlan.tag <= MAX_TAG:
        return Said()
    problems: tuple[Problem, ...] = ()
    if view.get(PROVIDERS, vlan.provider) is None:
        cause = f"there is no ProviderNetwork {vlan.provider!r}, of Vlan {vlan.name}"
        problems = (Problem(who, cause, "make it, or correct the Vlan's provider"),)
    row = Row(
        {
            "name": localnet(subnet.name),
            "type": "localnet",
            "addresses": frozenset({"unknown"}),
            "tag": frozenset({vlan.tag} if vlan.tag else ()),
            "options": pairs({"network_name": vlan.provider}),
        },
        parent=(switch(subnet.name), "ports"),
    )
    rows = {RowKey("Logical_Switch_Port", localnet(subnet.name)): row}
    return Said(rows, problems={ref: problems} if problems else {})


def vlans(view: View, key: Hashable) -> Said:
    """A Vlan's status."""
    vlan = view.get(VLANS, key)
    if vlan is None or vlan.made:
        return Said()
    ref, who = ObjectRef(str(VLAN_RESOURCE), "", vlan.name), f"Vlan {vlan.name}"
    problems = []
    if not 0 <= vlan.tag <= MAX_TAG:
        problems.append(
            Problem(who, f"the id {vlan.tag} is not of 0 to 4094", "choose one of these")
        )
    if not vlan.provider:
        problems.append(Problem(who, "it names no provider", "write spec.provider"))
    for name in view.by(VLANS, "provider", vlan.provider):
        other = view.get(VLANS, name)
        if other is not None and other.tag == vlan.tag and name < vlan.name:
            cause = f"Vlan {name} has the id {vlan.tag} of provider {vlan.provider}, too"
            problems.append(Problem(who, cause, "use that one, or choose another id"))
            break
    subnets = view.by(SUBNETS, "vlan", vlan.name)
    cause = str(problems[0]) if problems else ""
    wanted = Wanted(
        status={"subnets": list(subnets)},
        conditions={"Error": ("True", "Refused", cause) if cause else ("False", "None", "")},
        finalizer=bool(subnets) if vlan.ending else True,
    )
    return Said({}, {ref: wanted}, {ref: tuple(problems)} if problems else {})


def providers(view: View, key: Hashable) -> Said:
    """A ProviderNetwork's status: the nodes that it is for.

    Whether a node's bridge carries it is the node's own word (`millrace status`), not known here.
    """
    network = view.get(PROVIDERS, key)
    if network is None or network.made:
        return Said()
    nodes = [name for name in view.all(NODES) if _has(view, network, name)]
    ready = [name for name in nodes if (node := view.get(NODES, name)) and node.ready]
    vlans_ = view.by(VLANS, "provider", network.name)
    ref = ObjectRef(str(PROVIDER_RESOURCE), "", network.name)
    wanted = Wanted(
        status={
            "ready": len(ready) == len(nodes),
            "readyNodes": ready,
            "notReadyNodes": sorted(set(nodes) - set(ready)),
            "vlans": list(vlans_),
        },
        finalizer=bool(vlans_) if network.ending else True,
    )
    return Said(writes={ref: wanted})


def _has(view: View, network: ProviderNetwork, name: str) -> bool:
    node = view.get(NODES, name)
    if node is None or name in network.excluded:
        return False
    return network.nodes is None or network.nodes.matches(node.labels)


UNITS: tuple[Unit, ...] = (
    Unit("wires of subnets", SUBNETS, compute),
    Unit("vlans", VLANS, vlans),
    Unit("provider networks", PROVIDERS, providers),
)
