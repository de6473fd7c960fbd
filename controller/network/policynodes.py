"""A node and the pods on it reach each other whatever policies say: Kubernetes has it so. Pure.

Kubelet's probes need it. The ACLs are on a port group for each node, of the interfaces that are
closed to anything: others need none, and an allow-related ACL makes their switches track.

Beside it is the group of the node's interfaces that need no connection tracking (openpods.py): by
node, so that one pod's change touches a group that is no larger than a node.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping
from ipaddress import ip_network

from controller.network.aclrows import acl_rows
from controller.network.facts import LEASES, NODES, PODS
from controller.network.judges import ANY
from controller.network.openpods import TRACKING
from controller.network.rows import Row, RowKey
from controller.network.units import Said, Unit
from controller.network.view import Derived, View
from controller.policy.compiler import name_of
from controller.policy.model import Block, Direction
from controller.policy.rows import (
    ALLOW_PRIORITY,
    NODE_PRIORITY,
    STATELESS,
    TO_NODE_PRIORITY,
    Acl,
    Match,
)
from controller.translate.nbrows import host_port
from dataplane.model.addr import IPAddress


def _node_addresses(view: View, node: str) -> tuple[IPAddress, ...]:
    fact, port = view.get(NODES, node), view.get(LEASES, host_port(node))
    found = {*(fact.addresses if fact else ()), *(port.addresses if port else ())}
    return tuple(sorted(found, key=lambda one: (one.version, int(one))))


NODE_ADDRESSES: Derived[tuple[IPAddress, ...]] = Derived("node-addresses", _node_addresses)
"""By which a node speaks to its pods: its own, and that of its port on the hosts' switch.

Not svc0's: behind that are a service's clients, whoever they are.
"""


def _node_acls(view: View, node: str) -> Mapping[RowKey, Row]:
    rows: dict[RowKey, Row] = {}
    addresses: tuple[IPAddress, ...] = view.ask(NODE_ADDRESSES, node)
    for acl in _acls(name_of("node", node), addresses):
        rows.update(acl_rows(acl))
    return rows


def _open_acls(_: View, node: str) -> Mapping[RowKey, Row]:
    rows: dict[RowKey, Row] = {}
    for direction in Direction:
        match = Match(name_of("open", node), direction)
        rows.update(acl_rows(Acl(match, ALLOW_PRIORITY, STATELESS)))
    return rows


NODE_ACLS: Derived[Mapping[RowKey, Row]] = Derived("acls-of-a-node", _node_acls)
OPEN_ACLS: Derived[Mapping[RowKey, Row]] = Derived("acls-of-open-pods", _open_acls)
"""Of a node's two groups; a pod that comes or goes leaves them as they are."""


def _node(view: View, node: Hashable) -> Said:
    if not view.ask(ANY, ""):
        return Said()
    assert isinstance(node, str)
    closed: list[RowKey] = []
    untracked: list[RowKey] = []
    for pod in view.by(PODS, "node", node):
        tracking = view.ask(TRACKING, pod)
        closed += tracking.closed
        untracked += tracking.untracked
    rows: dict[RowKey, Row] = {}
    if closed:
        group = name_of("node", node)
        rows[RowKey("Port_Group", group)] = Row({"name": group}, {"ports": frozenset(closed)})
        shut: Mapping[RowKey, Row] = view.ask(NODE_ACLS, node)
        rows.update(shut)
    if untracked:
        group = name_of("open", node)
        rows[RowKey("Port_Group", group)] = Row({"name": group}, {"ports": frozenset(untracked)})
        free: Mapping[RowKey, Row] = view.ask(OPEN_ACLS, node)
        rows.update(free)
    return Said(rows)


def _acls(group: str, addresses: Iterable[IPAddress]) -> Iterable[Acl]:
    for direction in Direction:
        for version in (4, 6):
            own = tuple(Block(ip_network(one)) for one in addresses if one.version == version)
            if own:
                match = Match(group, direction, version, blocks=own)
                ingress = direction is Direction.INGRESS
                priority = NODE_PRIORITY if ingress else TO_NODE_PRIORITY
                yield Acl(match, priority, "allow-related")


UNITS: tuple[Unit, ...] = (Unit("policy-nodes", NODES, _node),)
