"""The controller with the rights that its manifest gives it, and with the kinds of deploy/."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
import yaml

from controller.config_kubernetes import KubernetesConfig
from controller.kube.errors import ApiError
from controller.kube.resources import PODS, Key
from controller.network.settings import NetSettings
from tests.apistandin.server import StandIn
from tests.labs import kubecluster as objects
from tests.labs.definitions import definitions
from tests.labs.kubecontrol import controlling, until
from tests.labs.ovnsandbox import northbound

MANIFEST = Path(__file__).parents[2] / "deploy" / "kubernetes" / "controller.yaml"
OWN = "millrace"
SERVICE: dict[str, Any] = {
    "apiVersion": "v1",
    "kind": "Service",
    "metadata": {"name": "web", "namespace": "shop"},
    "spec": {"type": "LoadBalancer", "selector": {"app": "x"}, "ports": [{"port": 80}]},
}


def granted(api: StandIn) -> None:
    """Have the stand-in allow what the manifest grants, and nothing else."""
    api.rules, api.roles = [], {}
    for obj in yaml.safe_load_all(MANIFEST.read_text(encoding="utf-8")):
        if obj["kind"] == "ClusterRole":
            api.rules += obj["rules"]
        elif obj["kind"] == "Role":
            api.roles[obj["metadata"]["namespace"]] = obj["rules"]


def custom(kind: str, name: str, **spec: Any) -> dict[str, Any]:
    head = {"apiVersion": "kubeovn.io/v1", "kind": kind}
    return {**head, "metadata": {"name": name}, "spec": spec}


def furnish(api: StandIn) -> None:
    for body in definitions().values():
        objects.put(api, body)
    for name in (OWN, "shop"):
        objects.put(api, objects.namespace(name))
    objects.put(api, objects.node("n1", "192.0.2.1"))
    objects.put(api, custom("Vpc", "v", namespaces=["shop"]))
    objects.put(api, custom("Subnet", "s", vpc="v", cidrBlock="10.30.0.0/24", namespaces=["shop"]))
    objects.put(api, custom("Subnet", "wrong", cidrBlock="10.30.0.0/33"))
    objects.put(api, custom("IPPool", "p", subnet="s", ips=["10.30.0.9"]))
    objects.put(api, custom("Vip", "vip", subnet="s", namespace="shop"))
    objects.put(api, custom("ProviderNetwork", "net", defaultInterface="eth1"))
    objects.put(api, custom("Vlan", "vlan", id=5, provider="net"))
    objects.put(api, custom("VpcNatGateway", "gw", vpc="v"))
    objects.put(api, objects.pod("shop", "web"))
    objects.put(api, SERVICE)


def status(api: StandIn, resource: str, name: str, space: str = "") -> Any:
    return (objects.look(api, resource, name, space) or {}).get("status", {})


def ingress(api: StandIn) -> Any:
    return status(api, "services", "web", "shop").get("loadBalancer", {}).get("ingress")


def condition(api: StandIn, resource: str, name: str, kind: str) -> str:
    found = status(api, resource, name).get("conditions", ())
    return next((one["status"] for one in found if one["type"] == kind), "")


def test_its_rights_are_enough_and_each_is_used() -> None:
    async def story() -> None:
        with northbound() as nb:
            async with StandIn() as api:
                furnish(api)
                granted(api)
                network = NetSettings(pools={"front": ("203.0.113.0/28",)}, default_pool="front")
                config = KubernetesConfig(nb.nb, namespace=OWN, identity="a", network=network)
                async with controlling(api, config) as controller:
                    await until("settled", lambda: bool(controller.counts.settled_at))
                    s = "subnets.kubeovn.io"
                    await until("Ready", lambda: condition(api, s, "s", "Ready") == "True")
                    await until("refused", lambda: condition(api, s, "wrong", "Error") == "True")
                    gateways = "vpc-nat-gateways.kubeovn.io"
                    await until(
                        "void", lambda: condition(api, gateways, "gw", "Supported") == "False"
                    )
                    await until("an address", lambda: bool(ingress(api)))
                    assert ingress(api)[0]["ipMode"] == "VIP", "as the API has it by itself"
                    await until("written", lambda: not controller.back.waiting)
                    await controller.back.recorder.flush()
                    assert api.denied == []
                    kept = objects.look(api, s, "s") or {}
                    assert kept["metadata"]["finalizers"] == ["millrace.dev/network"]
                    # What is written is what is kept: nothing of it is pruned, written and pruned.
                    # (What is still on its way back from the API may be written once more.)
                    sent = -1
                    while sent != controller.back.sent.statuses:
                        sent = controller.back.sent.statuses
                        assert sent < 50, "the same again and again"
                        controller.back.resume()
                        await until("looked at again", lambda: not controller.back.waiting)
                    wish = {**SERVICE["spec"], "loadBalancerIP": "198.51.100.1"}
                    objects.put(api, {**SERVICE, "spec": wish})
                    await until("none", lambda: not ingress(api))
                    used = {one for one in api.allowed if one[0] in ("list", "watch", "get")}
                    rules = [*(api.rules or ()), *(r for of in api.roles.values() for r in of)]
                    reads = {
                        (verb, group, plural)
                        for rule in rules
                        for verb in rule["verbs"]
                        for group in rule["apiGroups"]
                        for plural in rule["resources"]
                        if verb in ("list", "watch", "get")
                    }
                    foreign = {
                        ("watch", group, plural)
                        for group, plural in (
                            ("k8s.cni.cncf.io", "network-attachment-definitions"),
                            ("kubevirt.io", "virtualmachineinstances"),
                            ("kubevirt.io", "virtualmachines"),
                        )
                    }
                    foreign |= {("list", group, plural) for _, group, plural in foreign}
                    assert reads - foreign == used, "definitions of others are not installed"
                    with pytest.raises(ApiError, match="403"):
                        await controller.back.client.get(PODS, Key("shop", "web"))

    asyncio.run(story())
