"""A node and its own pods: by which addresses, and only where there are policies."""

from __future__ import annotations

from ipaddress import ip_address
from typing import Any

from controller.kube.resources import Key
from controller.network.facts import LEASES, NODES, PODS, NetNode, NetPod, NicLease
from controller.network.policies import NETWORK_POLICIES
from controller.network.policynodes import UNITS
from controller.network.rows import RowKey
from controller.policy.compiler import name_of
from controller.policy.parse import network_policy
from controller.translate.nbrows import host_port
from dataplane.model.addr import Mac
from tests.labs.factview import whole

POD, MAC = Key("ns", "a"), Mac("0a:00:00:00:00:01")


def facts(*, policies: bool = True, about: str = "ns", **pod: Any) -> dict[Any, dict[Any, Any]]:
    port = host_port("n0")
    leases = (
        NicLease("a.ns", POD, "ovn", "sn", (ip_address("10.0.0.1"),), MAC),
        NicLease(port, Key("", "n0"), "ovn", "join", (ip_address("100.64.0.2"),), MAC),
    )
    item = {"metadata": {"namespace": about, "name": "p"}, "spec": {"podSelector": {}}}
    return {
        NODES: {"n0": NetNode("n0", (ip_address("192.0.2.1"), ip_address("fd00::1")))},
        PODS: {POD: NetPod("ns", "a", node="n0", **pod)},
        LEASES: {lease.port: lease for lease in leases},
        NETWORK_POLICIES: {Key(about, "p"): network_policy(item)} if policies else {},
    }


def test_a_nodes_addresses_are_its_own_and_its_ports() -> None:
    rows = whole(UNITS, facts()).rows
    group = RowKey("Port_Group", name_of("node", "n0"))
    assert rows[group].refs["ports"] == {RowKey("Logical_Switch_Port", "a.ns")}
    acls = {
        (row.columns["direction"], row.columns["priority"],
         str(row.columns["match"]).partition(" && ")[2])
        for key, row in rows.items() if key.table == "ACL"
    }  # fmt: skip
    assert acls == {
        ("to-lport", 32000, "ip4 && (ip4.src == 100.64.0.2/32 || ip4.src == 192.0.2.1/32)"),
        ("to-lport", 32000, "ip6 && ip6.src == fd00::1/128"),
        ("from-lport", 3000, "ip4 && (ip4.dst == 100.64.0.2/32 || ip4.dst == 192.0.2.1/32)"),
        ("from-lport", 3000, "ip6 && ip6.dst == fd00::1/128"),
    }


def test_pods_of_the_nodes_own_network_and_those_that_are_over_are_left_out() -> None:
    assert whole(UNITS, facts(host_network=True)).rows == {}
    assert whole(UNITS, facts(over=True)).rows == {}


def test_pods_that_no_policy_closes_are_left_out() -> None:
    assert whole(UNITS, facts(about="far")).rows == {}


def test_without_policies_nothing_is_written() -> None:
    assert whole(UNITS, facts(policies=False)).rows == {}
