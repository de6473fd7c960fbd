"""Annotations that have no effect are told, and nothing else is."""

from __future__ import annotations

from typing import Any

from controller.kinds.vpc import VPCS, Vpc
from controller.kube.resources import Key
from controller.network.facts import NODES, PODS, NetNode, NetPod
from controller.network.servicefacts import SERVICES, NetService
from controller.network.unheeded import UNITS
from controller.network.view import Kind
from tests.labs.factview import whole

O = "ovn.kubernetes.io/"  # noqa: E741


def told(kind: Kind[Any], key: Any, fact: Any, **vpcs: Vpc) -> str:
    problems = whole(UNITS, {kind: {key: fact}, VPCS: dict(vpcs)}).problems
    return "; ".join(str(one) for found in problems.values() for one in found)


def pod(**notes: str) -> str:
    said = {O + name: value for name, value in notes.items()}
    return told(PODS, Key("ns", "a"), NetPod("ns", "a", annotations=said))


def test_a_pods_annotations_without_effect_are_told() -> None:
    assert "ovn.kubernetes.io/bgp has no effect" in pod(bgp="true")
    assert "ovn.kubernetes.io/priority has no effect" in pod(priority="3")
    assert "mirror is 'maybe', which counts as false" in pod(mirror="maybe")
    found = pod(port_vips="10.0.0.9, bad")
    assert "'bad' is no address" in found and "10.0.0.9" not in found
    further = {"net1.ns.ovn.kubernetes.io/port_security": "yes"}
    assert "counts as false" in told(PODS, Key("ns", "a"), NetPod("ns", "a", annotations=further))


def test_what_has_an_effect_or_is_nobodys_is_not_told() -> None:
    assert pod(port_security="True", mirror="false", bgp="false", ip_address="10.0.0.2") == ""
    others = {"prometheus.io/scrape": "x", "cni.example.kubernetes.io/bgp": "true"}
    assert told(PODS, Key("ns", "a"), NetPod("ns", "a", annotations=others)) == ""


def test_a_nodes_and_a_services_are_told() -> None:
    said = {O + "tunnel_interface": "eth1"}
    assert "tunnel_interface has no effect" in told(NODES, "n1", NetNode("n1", annotations=said))
    of = Key("ns", "web")
    service = NetService("ns", "web", annotations={O + "router_lb_vip": "192.0.2.1"})
    assert "router_lb_vip has no effect" in told(SERVICES, of, service)
    abroad = NetService("ns", "web", annotations={O + "vpc": "v1"})
    assert "there is no Vpc 'v1' that can be read" in told(SERVICES, of, abroad)
    assert told(SERVICES, of, abroad, v1=Vpc("v1")) == ""
