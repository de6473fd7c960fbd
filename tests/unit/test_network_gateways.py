"""Nodes, Vpcs and Subnets to gateway routers; and how many rows that takes at 200 nodes."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Interface, ip_address, ip_network
from typing import Any

import pytest

from controller.network.facts import NODES, NetNode
from controller.network.gateways import (
    ADDRESS_ANNOTATION,
    TEMPLATE,
    UNITS,
    GatewayTemplate,
    cluster_config,
)
from controller.network.settings import SETTINGS, NetSettings
from controller.network.units import ObjectRef
from controller.translate.central import northbound
from controller.translate.nbrows import IN_TABLE, NatKey, NatRow, RouteKey, RouteRow
from dataplane.model.config import ClusterConfig, EastWest, Outgoing, OutgoingRule
from tests.labs.factview import FactView, whole
from tests.labs.natobjects import Facts, add, custom
from tests.labs.ovnrows import Lab

CLUSTER = ClusterConfig(
    "unix:nb", "unix:sb", "100.65.0.0/20", "100.65.128.0/20", (),
    service_ranges=(ip_network("10.96.0.0/12"),),
)  # fmt: skip
FRONT = GatewayTemplate(
    CLUSTER, addresses=("172.18.0.100-172.18.0.250",), next_hops=(ip_address("172.18.0.1"),)
)


def world(*objects: dict[str, Any], template: GatewayTemplate = FRONT) -> Facts:
    facts: Facts = {TEMPLATE: {"": template}, NODES: {n: NetNode(n) for n in ("n1", "n2")}}
    vpc = custom("Vpc", "ovn-cluster")
    pods = custom("Subnet", "ovn-default", cidrBlock="10.16.0.0/16", gateway="10.16.0.1")
    return add(facts, vpc, pods, *objects)


def config(facts: Facts) -> ClusterConfig:
    found = cluster_config(FactView(facts))
    assert found is not None
    return found


def test_every_node_gets_a_gateway_whose_address_it_keeps() -> None:
    facts = world()
    one, two = config(facts).gateways
    assert (one.chassis, two.chassis) == ("n1", "n2")
    assert one.address != two.address
    assert one.address.network == ip_network("172.18.0.0/24")
    assert (one.physnet, one.next_hop, one.routers) == ("external", "172.18.0.1", ("ovn-cluster",))
    (wanted,) = whole(UNITS, facts).writes[ObjectRef("nodes", "", "n1")]
    told = wanted.annotations[ADDRESS_ANNOTATION]
    assert told == str(one.address)
    # With another node, and with the annotations there, everything is as before.
    facts[NODES] = {
        "a0": NetNode("a0"),
        "n1": NetNode("n1", annotations={ADDRESS_ANNOTATION: told}),
        "n2": NetNode("n2", annotations={ADDRESS_ANNOTATION: str(two.address)}),
    }
    assert {one, two} < set(config(facts).gateways)


def test_a_nodes_annotations_go_before_the_template() -> None:
    facts = world()
    facts[NODES]["n1"] = NetNode("n1", annotations={
        ADDRESS_ANNOTATION: "192.0.2.11/28", "millrace.dev/gateway-physnet": "other"})  # fmt: skip
    one = config(facts).gateways[0]
    assert (one.address, one.physnet) == (IPv4Interface("192.0.2.11/28"), "other")


@pytest.mark.parametrize("text", ["", "here"])
def test_a_node_without_an_address_says_so_and_the_others_go_on(text: str) -> None:
    facts = world(template=replace(FRONT, addresses=()))
    facts[NODES] = {
        "n1": NetNode("n1", annotations={ADDRESS_ANNOTATION: text}),
        "n2": NetNode("n2", annotations={ADDRESS_ANNOTATION: "172.18.0.12/24"}),
    }
    assert [one.chassis for one in config(facts).gateways] == ["n2"]
    assert set(whole(UNITS, facts).problems) == {ObjectRef("nodes", "", "n1")}


def test_only_labelled_nodes_where_the_template_asks_for_a_label() -> None:
    facts = world(template=replace(FRONT, nodes=("gateway", "yes")))
    facts[NODES]["n2"] = NetNode("n2", labels={"gateway": "yes"})
    assert [one.chassis for one in config(facts).gateways] == ["n2"]
    assert cluster_config(FactView({})) is None


def test_nothing_leads_to_svc0_where_ovn_serves_workloads() -> None:
    facts = world()
    assert config(facts).service_ranges
    facts[SETTINGS] = {"": NetSettings(east_west=EastWest.SWITCH)}
    assert config(facts).service_ranges == ()


def test_subnets_that_leave_in_a_way_of_their_own() -> None:
    facts = world(
        custom("Subnet", "out", cidrBlock="10.17.0.0/24", natOutgoing=True),
        custom("Subnet", "middle", cidrBlock="10.17.1.0/24", gatewayType="centralized",
               gatewayNode="n2,gone", gatewayNodeSelectors=[{"matchLabels": {"gw": "1"}}]),
        custom("Subnet", "found", cidrBlock="10.17.3.0/24", gatewayType="centralized",
               gatewayNodeSelectors=[{"matchLabels": {"gw": "0"}}, {"matchLabels": {"gw": "1"}}]),
        custom("Subnet", "physical", cidrBlock="10.18.0.0/24", natOutgoing=True, vlan="v1"),
        custom("Subnet", "lost", cidrBlock="10.17.2.0/24", gatewayType="centralized"),
    )  # fmt: skip
    facts[NODES]["n1"] = NetNode("n1", labels={"gw": "1"})
    assert set(config(facts).outgoing) == {
        Outgoing("ovn-cluster", (ip_network("10.17.0.0/24"),), translated=True),
        Outgoing("ovn-cluster", (ip_network("10.17.1.0/24"),), chassis=("n2",)),
        Outgoing("ovn-cluster", (ip_network("10.17.3.0/24"),), chassis=("n1",)),
    }
    (ref,) = whole(UNITS, facts).problems
    assert ref == ObjectRef("subnets.kubeovn.io", "", "lost")


def test_rules_of_translation_are_told_in_their_order_and_void_ones_said() -> None:
    rules = [
        {"action": "forward", "match": {"srcIPs": "10.17.0.0/30, 10.17.0.254"}},
        {"action": "nat", "match": {"srcIPs": "10.17.0", "dstIPs": "8.8.8.8"}},
        {"action": "nat", "match": {"srcIPs": "10.17.0.8", "dstIPs": "2001:db8::8"}},
        {"action": "nat", "match": {"dstIPs": "8.8.8.8"}},
    ]
    subnet = custom("Subnet", "out", cidrBlock="10.17.0.0/24", natOutgoing=True,
                    natOutgoingPolicyRules=rules)  # fmt: skip
    facts = world(subnet)
    (way,) = config(facts).outgoing
    assert way.rules == (
        OutgoingRule((ip_network("10.17.0.0/30"), ip_network("10.17.0.254")), (), False),
        OutgoingRule((), (ip_network("8.8.8.8"),), True),
    )
    (problems,) = whole(UNITS, facts).problems.values()
    assert sorted(problem.cause.partition(":")[0] for problem in problems) == [
        "natOutgoingPolicyRules[1]", "natOutgoingPolicyRules[2]",
    ]  # fmt: skip


def test_a_gateway_node_may_have_an_address_for_the_subnet_alone() -> None:
    facts = world(
        custom("Subnet", "s0", cidrBlock="10.16.0.0/24", gatewayType="centralized",
               natOutgoing=True, gatewayNode="n1:172.18.0.100,n2:10.9.9.9"),
        custom("Subnet", "s1", cidrBlock="10.16.1.0/24", natOutgoing=True),
    )  # fmt: skip
    lab = network(0, 2).chassis("n1").chassis("n2")
    cluster = config(facts)
    outside = {one.chassis: str(one.address.ip) for one in cluster.gateways}
    assert "172.18.0.100" not in outside.values()
    assert northbound(cluster, lab.nb, lab.sb).nats == {
        NatKey("GR_n1", "10.16.0.0/24"): NatRow("172.18.0.100"),
        NatKey("GR_n1", "10.16.1.0/24"): NatRow(outside["n1"]),
        NatKey("GR_n2", "10.16.0.0/23"): NatRow(outside["n2"]),
    }
    ((problem,),) = whole(UNITS, facts).problems.values()
    assert "'10.9.9.9' is no address of the provider network of node n2" in problem.cause


def test_what_leaves_by_several_gateways_at_once_has_those_that_are_alive() -> None:
    facts = world(
        custom("Subnet", "s0", cidrBlock="10.16.0.0/24", gatewayType="centralized",
               gatewayNode="n1,n2", enableEcmp=True),
    )  # fmt: skip
    lab = network(0, 1).chassis("n1").chassis("n2")

    def hops(*down: str) -> tuple[str, ...]:
        policies = northbound(config(facts), lab.nb, lab.sb, down).policies
        (found,) = [row for key, row in policies.items() if "10.16.0.0/24" in key.match]
        return found.nexthops

    both = hops()
    assert len(both) == 2
    assert hops("n1") == both[1:]
    assert hops("n2") == both[:1]
    assert whole(UNITS, facts).problems == {}


def test_a_subnet_that_no_gateway_leads_to_says_so() -> None:
    subnet = custom("Subnet", "out", cidrBlock="10.17.0.0/24", natOutgoing=True)
    tenants = custom("Subnet", "own", cidrBlock="10.17.1.0/24", vpc="tenant",
                     gatewayType="centralized")  # fmt: skip
    facts = world(subnet, custom("Vpc", "tenant"), tenants)

    def causes() -> dict[str, str]:
        found = whole(UNITS, facts).problems
        return {ref.name: problem.cause for ref, (problem,) in found.items()}

    assert causes() == {"own": "gatewayType: centralized has no effect: no gateways lead to Vpc "
                               "tenant"}  # fmt: skip
    del facts[TEMPLATE]
    assert set(causes()) == {"out", "own"}
    assert "has no table [gateways]" in causes()["out"]


# -- rows -----------------------------------------------------------------------------------------


def network(nodes: int, subnets: int) -> Lab:
    """The default VPC with so many subnets, as the northbound database has it."""
    lab = Lab().router("ovn-cluster")
    for at in range(subnets):
        lab.switch(f"s{at}")
        mac, address = f"0a:00:00:00:01:{at:02x}", f"10.16.{at}.1/24"
        lab.router_port("ovn-cluster", f"s{at}", f"ovn-cluster-s{at}", mac, address)
    for at in range(nodes):
        lab.chassis(f"n{at}")
    return lab


def at_scale(nodes: int, subnets: int, **spec: Any) -> dict[str, int]:
    """Numbers of rows of one kind and another."""
    objects = [
        custom("Subnet", f"s{at}", cidrBlock=f"10.16.{at}.0/24", **spec) for at in range(subnets)
    ]
    template = replace(FRONT, addresses=("172.18.0.10-172.18.3.250",), lengths={4: 22})
    facts = add(world(template=template), *objects)
    facts[NODES] = {f"n{at}": NetNode(f"n{at}") for at in range(nodes)}
    lab = network(nodes, subnets)
    plan = northbound(config(facts), lab.nb, lab.sb)
    assert plan.problems == ()
    assert len(plan.routers) == nodes
    return {
        "routes": len(plan.routes),
        "policies": len(plan.policies),
        "nats": len(plan.nats),
    }


def test_routes_and_policies_at_200_nodes_and_100_subnets() -> None:
    """Kube-OVN has a policy for each pair of a subnet and a node: 20,000 of them."""
    small, large = at_scale(200, 1), at_scale(200, 100)
    assert small == large, "rows grow with subnets"
    # For each node: on its gateway router a route to svc0, one to the services' network, one out
    # and one in, and a policy; on the VPC's router a route to its svc0 and a policy.
    assert large["routes"] == 200 * 5 + 1
    assert large["policies"] == 200 * 2 + 1
    assert sum(large[name] for name in ("routes", "policies")) < 200 * 100 / 10


def test_translation_of_many_subnets_is_a_row_for_each_block() -> None:
    found = at_scale(10, 64, natOutgoing=True)
    assert found["nats"] == 10  # 10.16.0.0/18
    chosen = at_scale(10, 64, gatewayType="centralized", gatewayNode="n3,n4")
    assert chosen["policies"] == 10 * 2 + 1 + 1


def test_the_way_in_and_the_ways_out_of_one_gateway() -> None:
    facts = world(
        custom("Subnet", "s0", cidrBlock="10.16.0.0/24", natOutgoing=True),
        custom("Subnet", "s1", cidrBlock="10.16.1.0/24", gatewayType="centralized",
               gatewayNode="n1,n2"),
    )  # fmt: skip
    lab = network(0, 2).chassis("n1").chassis("n2")
    cluster = config(facts)
    plan = northbound(cluster, lab.nb, lab.sb)
    vpc = plan.router_ports["millrace-join-ovn-cluster"].networks[0].partition("/")[0]
    assert plan.router_ports["millrace-ext-n1"].table == IN_TABLE
    assert plan.routes[RouteKey("GR_n1", "0.0.0.0/0", IN_TABLE)] == RouteRow(vpc)
    assert plan.routes[RouteKey("GR_n1", "0.0.0.0/0")] == RouteRow("172.18.0.1")
    outside = str(cluster.gateways[0].address.ip)
    assert plan.nats[NatKey("GR_n1", "10.16.0.0/24")] == NatRow(outside)
    hops = {
        name: plan.router_ports[f"millrace-join-GR_{name}"].networks[0].partition("/")[0]
        for name in ("n1", "n2")
    }

    def first(down: frozenset[str]) -> str:
        policies = northbound(cluster, lab.nb, lab.sb, down).policies
        (found,) = [row for key, row in policies.items() if "10.16.1.0/24" in key.match]
        (hop,) = found.nexthops
        return hop

    assert first(frozenset()) == hops["n1"]
    assert first(frozenset({"n1"})) == hops["n2"]
    assert first(frozenset({"n1", "n2"})) == hops["n1"]
