"""SwitchLBRules and services' addresses within a VPC: rows of the VPC's group."""

from __future__ import annotations

from ipaddress import ip_address, ip_network
from typing import Any

import pytest

from controller.kinds import switchlbrule
from controller.kinds.addresses import VIPS, Vip
from controller.kube.resources import Key
from controller.kube.structs import Pod, PodCondition, PodStatus
from controller.network import services, switch_lb
from controller.network.facts import LEASES, PODS, NetPod, NicLease
from controller.network.nets import NETS, Net
from controller.network.reserved import RESERVED
from controller.network.rows import RowKey
from controller.network.units import ObjectRef
from dataplane.model.addr import Mac
from tests.labs.factview import FactView, Whole, whole
from tests.labs.natobjects import FORMS, Facts, add, custom
from tests.labs.serviceobjects import facts as service_facts
from tests.labs.serviceobjects import service_json, slice_json

FORMS["SwitchLBRule"] = (switchlbrule.RULES, switchlbrule.RULE)
SOURCE = "192.168.0.128"
"""Where health checks come from: an address of sub1 that its name says."""
PORTS = [{"name": "dns", "port": 8888, "targetPort": 80, "protocol": "TCP"}]
ROW = RowKey("Load_Balancer", "switch-lb-rule/slr/tcp/8888")


def rule(**spec: Any) -> dict[str, Any]:
    spec.setdefault("ports", PORTS)
    return custom("SwitchLBRule", "slr", **{"vip": "1.1.1.1", "namespace": "ns", **spec})


def world(*objects: dict[str, Any]) -> Facts:
    """vpc1 with two ready pods of app=nginx, one that is not ready, and one of another app."""
    facts: Facts = {PODS: {}, LEASES: {}, switchlbrule.READY: {}}
    for at, (name, app, ready) in enumerate(
        [("a", "nginx", True), ("b", "nginx", True), ("c", "nginx", False), ("d", "other", True)]
    ):
        key, port = Key("ns", name), f"{name}.ns"
        facts[PODS][key] = NetPod("ns", name, labels={"app": app})
        facts[switchlbrule.READY][key] = ready
        facts[LEASES][port] = NicLease(
            port, key, "ovn", "sub1", (ip_address(f"192.168.0.{at + 2}"),), Mac("0a:00:00:00:00:01")
        )
    base = (
        custom("Vpc", "vpc1"),
        custom("Vpc", "ovn-cluster"),
        custom("Subnet", "sub1", vpc="vpc1", cidrBlock="192.168.0.0/24"),
    )
    return add(facts, *base, *objects)


def made(*objects: dict[str, Any]) -> Whole:
    return whole(switch_lb.UNITS, world(*objects))


def test_pods_that_are_ready_are_behind_a_rule() -> None:
    facts = world(rule(selector=["app:nginx"], sessionAffinity="ClientIP"))
    said = whole(switch_lb.UNITS, facts)
    assert said.rows[ROW].columns == {
        "name": "switch-lb-rule/slr:8888/tcp",
        "protocol": "tcp",
        "vips": (("1.1.1.1:8888", "192.168.0.2:80,192.168.0.3:80"),),
        "options": (("reject", "true"),),
        "selection_fields": frozenset({"ip_src"}),
        "ip_port_mappings": (
            ("192.168.0.2", f"a.ns:{SOURCE}"), ("192.168.0.3", f"b.ns:{SOURCE}"),
        ),
    }  # fmt: skip
    assert services.balancers_of(FactView(facts), "vpc1") == {ROW}
    assert services.balancers_of(FactView(facts), "ovn-cluster") == frozenset()
    assert not said.problems


def test_addresses_may_be_listed_and_go_before_labels() -> None:
    facts = world(rule(endpoints=["192.168.0.101", "192.168.0.102"], selector=["app:nginx"]))
    row = whole(switch_lb.UNITS, facts).rows[ROW]
    assert row.columns["vips"] == (("1.1.1.1:8888", "192.168.0.101:80,192.168.0.102:80"),)
    assert services.balancers_of(FactView(facts), "vpc1") == {ROW}


def test_listed_addresses_of_no_subnet_are_for_the_default_vpc() -> None:
    facts = world(rule(endpoints=["203.0.113.7"]))
    assert services.balancers_of(FactView(facts), "ovn-cluster") == {ROW}
    assert not whole(switch_lb.UNITS, facts).problems


def test_an_annotation_says_the_vpc() -> None:
    here = {"ovn.kubernetes.io/logical_router": "ovn-cluster"}
    facts = world(rule(endpoints=["192.168.0.101"], annotations=here))
    assert services.balancers_of(FactView(facts), "ovn-cluster") == {ROW}


@pytest.mark.parametrize(
    ("spec", "word"),
    [
        ({"vip": "1.1.1"}, "1.1.1"),
        ({"selector": []}, "neither"),
        ({"selector": ["app:gone"]}, "no VPC"),
        ({"ports": []}, "no ports"),
        ({"ports": [{"port": 0}]}, "port 0"),
        ({"ports": [{"port": 80, "protocol": "ICMP"}]}, "icmp"),
        ({"endpoints": ["here", "192.168.0.9"]}, "endpoints"),
    ],
)
def test_what_is_wrong_is_said(spec: dict[str, Any], word: str) -> None:
    said = made(rule(**{"selector": ["app:nginx"], **spec}))
    problems = said.problems[ObjectRef("switch-lb-rules.kubeovn.io", "", "slr")]
    assert word in "; ".join(map(str, sorted(problems)))


def test_readiness_is_the_condition() -> None:
    def pod(*conditions: tuple[str, str]) -> Pod:
        return Pod(status=PodStatus(conditions=tuple(PodCondition(*one) for one in conditions)))

    assert switchlbrule.readiness(pod(("PodScheduled", "True"), ("Ready", "True"))) is True
    assert switchlbrule.readiness(pod(("Ready", "False"))) is False
    assert switchlbrule.readiness(pod()) is None


def test_a_services_address_within_its_vpc_is_a_row_that_ovn_serves() -> None:
    note = {"ovn.kubernetes.io/switch_lb_vip": "1.1.1.9", "ovn.kubernetes.io/vpc": "vpc1"}
    facts = service_facts(
        service_json("web", annotations=note), slice_json("web-1", "web", "192.168.0.2")
    )
    said = whole(services.UNITS, facts)
    key = RowKey("Load_Balancer", "service/ns/web/http/tcp/switch")
    assert said.rows[key].columns["vips"] == (("1.1.1.9:80", "192.168.0.2:8080"),)
    assert "external_ids" not in said.rows[key].columns
    assert services.balancers_of(FactView(facts), "vpc1") == {key}


def checks(said: Whole) -> dict[str, Any]:
    """Options of the health checks by VIP, all of one row."""
    found = {key: row for key, row in said.rows.items() if "Health_Check" in key.table}
    assert all(row.parent == (ROW, "health_check") for row in found.values())
    return {str(row.columns["vip"]): row.columns["options"] for row in found.values()}


def test_backends_are_asked_whether_they_live() -> None:
    said = made(rule(selector=["app:nginx"], vip="1.1.1.1,fd00::1"))
    told = {"interval": "5", "timeout": "20", "success_count": "3", "failure_count": "3"}
    assert {vip: dict(options) for vip, options in checks(said).items()} == {"1.1.1.1:8888": told}


def test_listed_backends_are_asked_if_they_are_ports_of_ours() -> None:
    facts = world(rule(endpoints=["192.168.0.5", "192.168.0.99", "10.9.9.9"]))
    network, gateway = ip_network("192.168.0.0/24"), ip_address("192.168.0.1")
    facts[NETS] = {"sub1": Net("sub1", "vpc1", (network,), (gateway,))}
    said = whole(switch_lb.UNITS, facts)
    assert said.rows[ROW].columns["ip_port_mappings"] == (("192.168.0.5", f"d.ns:{SOURCE}"),)
    assert set(checks(said)) == {"1.1.1.1:8888"}


@pytest.mark.parametrize(
    "spec",
    [
        {"annotations": {"ovn.kubernetes.io/service_health_check": "false"}},
        {"ports": [{"port": 8888, "targetPort": 80, "protocol": "SCTP"}]},
        {"vip": "fd00::1"},
    ],
    ids=["switched off", "sctp", "ipv6"],
)
def test_nobody_is_asked(spec: dict[str, Any]) -> None:
    said = made(rule(selector=["app:nginx"], **spec))
    (row,) = (row for key, row in said.rows.items() if key.table == "Load_Balancer")
    assert row.columns["ip_port_mappings"] == ()
    assert not checks(said)


def test_checks_come_from_the_vip_that_has_the_subnets_name() -> None:
    facts = world(rule(selector=["app:nginx"]))
    facts[VIPS] = {"sub1": Vip("sub1", "", "sub1", held=("192.168.0.77",))}
    columns = whole(switch_lb.UNITS, facts).rows[ROW].columns
    assert columns["ip_port_mappings"] == (
        ("192.168.0.2", "a.ns:192.168.0.77"), ("192.168.0.3", "b.ns:192.168.0.77"),
    )  # fmt: skip


def test_the_address_of_checks_is_no_workloads() -> None:
    facts = world(rule(selector=["app:nginx"]))
    whose = FactView(facts).ask(RESERVED, "")
    assert whose == {"sub1": {(4, int(ip_address(SOURCE))): "health checks of sub1"}}
    port = "e.ns"
    facts[LEASES][port] = NicLease(
        port, Key("ns", "e"), "ovn", "sub1", (ip_address(SOURCE),), Mac("0a:00:00:00:00:02")
    )
    ((number, _),) = FactView(facts).ask(RESERVED, "")["sub1"].items()
    assert number != (4, int(ip_address(SOURCE)))
