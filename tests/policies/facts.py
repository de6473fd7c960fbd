"""A cluster of tests as facts of the controller, and its rows as the whole compile has them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from controller.kinds.subnet import SUBNETS, Subnet
from controller.kube.resources import Key
from controller.network.aclrows import acl_rows, group_row, set_rows
from controller.network.facts import LEASES, NAMESPACES, PODS, NetNamespace, NetPod, NicLease
from controller.network.nets import NETS, Net
from controller.network.policies import NETWORK_POLICIES
from controller.network.rows import Row, RowKey
from controller.policy.model import NetworkPolicy
from dataplane.model.addr import Mac
from tests.policies.whole import Namespace, Pod, PolicyRows

Facts = dict[Any, dict[Any, Any]]


def facts_of(
    policies: Iterable[NetworkPolicy], pods: Iterable[Pod], namespaces: Iterable[Namespace]
) -> Facts:
    """The same things as the units read them."""
    found: Facts = {
        NETWORK_POLICIES: {Key(one.namespace, one.name): one for one in policies},
        NAMESPACES: {one.name: NetNamespace(one.name, one.labels) for one in namespaces},
        PODS: {},
        LEASES: {},
    }
    for at, pod in enumerate(pods):
        key = Key(pod.namespace, pod.name)
        named = {(protocol.name, name): number for (protocol, name), number in pod.named.items()}
        found[PODS][key] = NetPod(
            pod.namespace, pod.name, node=f"n{at % 2}", labels=pod.labels, named_ports=named
        )
        mac = Mac(f"0a:00:00:00:{at // 256:02x}:{at % 256:02x}")
        found[LEASES][pod.port] = NicLease(pod.port, key, "ovn", "sn", pod.addresses, mac)
    found[SUBNETS] = {"sn": Subnet("sn")}
    found[NETS] = {"sn": Net("sn", "vpc")}
    return found


def rows_of(rows: PolicyRows) -> Mapping[RowKey, Row]:
    """What the database should hold of a whole compile."""
    found = dict(group_row(name, ports) for name, ports in rows.port_groups.items())
    for base in {name[:-2] for name in rows.address_sets}:
        both = rows.address_sets[f"{base}_4"] | rows.address_sets[f"{base}_6"]
        found.update(set_rows(base, both))
    for acl in rows.acls.values():
        found.update(acl_rows(acl))
    return found
