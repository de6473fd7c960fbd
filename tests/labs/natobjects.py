"""Kube-OVN's documented external networks, as facts: a VPC with a pod, gateways, EIPs and rules."""

from __future__ import annotations

import json
from ipaddress import ip_address
from typing import Any

import msgspec

from controller.kinds import nat, subnet, vpc
from controller.kinds.reading import Form
from controller.kube.resources import Key
from controller.kube.structs import Custom
from controller.network.facts import LEASES, NODES, PODS, NetNode, NetPod, NicLease
from controller.network.settings import SETTINGS, NetSettings
from controller.network.view import Kind
from dataplane.model.addr import Mac

Facts = dict[Kind[Any], dict[Any, Any]]
GATEWAYS = ("gw1", "gw2")
FORMS: dict[str, tuple[Kind[Any], Form[Any]]] = {
    "Vpc": (vpc.VPCS, vpc.VPC),
    "Subnet": (subnet.SUBNETS, subnet.SUBNET),
    "OvnEip": (nat.EIPS, nat.EIP),
    "OvnFip": (nat.FIPS, nat.FIP),
    "OvnSnatRule": (nat.SNATS, nat.SNAT),
    "OvnDnatRule": (nat.DNATS, nat.DNAT),
}


def custom(kind: str, name: str, status: object = None, **spec: Any) -> dict[str, Any]:
    """An object of a custom kind as the API sends it."""
    meta = {"name": name, "annotations": spec.pop("annotations", {})}
    if created := spec.pop("created", ""):
        meta["creationTimestamp"] = created
    return {"kind": kind, "metadata": meta, "spec": spec, "status": status or {}}


def add(facts: Facts, *objects: dict[str, Any]) -> Facts:
    """Decode objects as the controller does, and put them to the facts."""
    for one in objects:
        kind, form = FORMS[one["kind"]]
        struct = msgspec.json.decode(json.dumps(one).encode(), type=Custom)
        name = one["metadata"]["name"]
        facts.setdefault(kind, {})[name] = form.decode(struct)
        if one["kind"] == "Vpc":
            facts.setdefault(nat.VPC_PORTS, {})[name] = nat.vpc_ports(struct)
    return facts


def external_lab(*objects: dict[str, Any]) -> Facts:
    """vpc1 with vpc1-subnet1 (192.168.0.0/24), its pod, external204 (10.5.204.0/24), gateways."""
    pod, port = Key("vpc1", "busybox01"), "busybox01.vpc1"
    label = {"ovn.kubernetes.io/external-gw": "true"}
    facts: Facts = {
        SETTINGS: {"": NetSettings(external_subnet="external204")},
        NODES: {
            "n1": NetNode("n1"),
            **{name: NetNode(name, labels=label) for name in GATEWAYS},
        },
        PODS: {pod: NetPod("vpc1", "busybox01", node="n1")},
        LEASES: {
            port: NicLease(
                port, pod, "ovn", "vpc1-subnet1", (ip_address("192.168.0.2"),),
                Mac("0a:00:00:00:00:12"),
            )
        },
    }  # fmt: skip
    base = (
        custom("Vpc", "vpc1", namespaces=["vpc1"], enableExternal=True),
        custom("Subnet", "vpc1-subnet1", vpc="vpc1", cidrBlock="192.168.0.0/24"),
        custom("Subnet", "external204", protocol="IPv4", cidrBlock="10.5.204.0/24",
               gateway="10.5.204.254", vlan="vlan204", excludeIps=["10.5.204.1..10.5.204.100"]),
    )  # fmt: skip
    return add(facts, *base, *objects)
