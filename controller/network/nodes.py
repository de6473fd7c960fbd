"""Nodes' own ports on the join switch: how their kernels reach workloads, and are reached.

The default VPC's router is on that switch itself, so nobody needs a route for it: a workload's
answer goes to the node's address there, and the node daemon routes the VPC's networks to its own
port (docs/host.md). Nothing here grows with pods, nor with subnets times nodes: two rows a node.
"""

from __future__ import annotations

from collections.abc import Hashable

from controller.kube.resources import NODES as NODE_OBJECTS
from controller.network.facts import LEASES, NODES
from controller.network.nets import NETS
from controller.network.rows import Row, RowKey, pairs
from controller.network.subnet import switch
from controller.network.units import ObjectRef, Said, Unit, Wanted
from controller.network.view import View
from controller.translate.nbrows import host_port


def compute(view: View, key: Hashable) -> Said:
    """A node's port, and what its annotations say of it."""
    node = view.get(NODES, key)
    lease = view.get(LEASES, host_port(str(key)))
    net = view.get(NETS, lease.subnet) if lease is not None else None
    if node is None or lease is None or net is None:
        return Said()
    entry = " ".join((str(lease.mac), *map(str, lease.addresses)))
    row = Row(
        {
            "name": lease.port,
            "type": "",
            "addresses": frozenset({entry}),
            # A node is no way for others: what it forwards has their addresses, and is dropped.
            "port_security": frozenset({entry}),
            # No other chassis gets its packets by claiming its name.
            "options": pairs({"requested-chassis": node.name}),
        },
        parent=(switch(lease.subnet), "ports"),
    )
    told = {
        "allocated": "true",
        "ip_address": ",".join(map(str, lease.addresses)),
        "mac_address": str(lease.mac),
        "cidr": net.cidr,
        "gateway": net.gateway,
        "chassis": node.name,
        "port_name": lease.port,
        "logical_switch": lease.subnet,
    }
    wanted = Wanted(
        annotations={f"ovn.kubernetes.io/{name}": value for name, value in told.items()}
    )
    ref = ObjectRef(str(NODE_OBJECTS), "", node.name)
    return Said({RowKey("Logical_Switch_Port", lease.port): row}, {ref: wanted})


UNITS: tuple[Unit, ...] = (Unit("nodes", NODES, compute),)
