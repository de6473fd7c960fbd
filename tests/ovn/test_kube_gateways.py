"""Services, external addresses and gateways through the whole controller into a real OVN."""

from __future__ import annotations

import asyncio
from ipaddress import ip_address
from typing import Any

import pytest

from controller.config_kubernetes import KubernetesConfig
from controller.network.gateways import ADDRESS_ANNOTATION, GatewayTemplate
from controller.network.settings import NetSettings
from dataplane.model.config import ClusterConfig
from tests.apistandin.server import StandIn
from tests.labs import kubecluster as objects
from tests.labs.kubecontrol import controlling, until
from tests.labs.ovnsandbox import OvnSandbox


@pytest.fixture
def config(ovn: OvnSandbox) -> KubernetesConfig:
    cluster = ClusterConfig(ovn.nb, ovn.sb, "100.65.0.0/24", "100.65.255.0/24", ())
    hop = (ip_address("172.18.0.1"),)
    return KubernetesConfig(
        ovn.nb,
        namespace="kube-system",
        network=NetSettings(
            pools={"front": ("192.0.2.0/28",)}, default_pool="front", external_subnet="external"
        ),
        gateways=GatewayTemplate(cluster, addresses=("172.18.0.50-172.18.0.99",), next_hops=hop),
    )


def custom(kind: str, name: str, **spec: Any) -> dict[str, Any]:
    meta = {"name": name}
    return {"apiVersion": "kubeovn.io/v1", "kind": kind, "metadata": meta, "spec": spec}


def cluster(api: StandIn) -> None:
    objects.define(api)
    for name, address in (("n1", "192.0.2.101"), ("n2", "192.0.2.102")):
        node = objects.node(name, address)
        node["metadata"]["labels"] = {"ovn.kubernetes.io/external-gw": "true"}
        objects.put(api, node)
    objects.put(api, objects.namespace("shop"))
    objects.put(api, objects.pod("shop", "web0"))
    web = {"name": "http", "port": 80, "targetPort": 8080, "protocol": "TCP"}
    objects.put(api, {
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"namespace": "shop", "name": "web"},
        "spec": {"type": "LoadBalancer", "clusterIP": "10.96.0.10", "clusterIPs": ["10.96.0.10"],
                 "ports": [web]},
    })  # fmt: skip
    objects.put(api, {
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {"namespace": "shop", "name": "web-1",
                     "labels": {"kubernetes.io/service-name": "web"}},
        "addressType": "IPv4",
        "endpoints": [{"addresses": ["10.16.0.9"], "conditions": {"ready": True}}],
        "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}],
    })  # fmt: skip
    objects.put(api, custom("Vlan", "v204", id=204, provider="outside"))
    objects.put(api, custom("ProviderNetwork", "outside", defaultInterface="eth1"))
    objects.put(api, objects.subnet("external", "10.5.204.0/24", gateway="10.5.204.254",
                                    vlan="v204"))  # fmt: skip
    kept = {"action": "forward", "match": {"dstIPs": "198.51.100.0/24"}}
    objects.put(api, objects.subnet("ruled", "10.44.0.0/24", natOutgoing=True,
                                    natOutgoingPolicyRules=[kept]))  # fmt: skip
    objects.put(api, custom("Vpc", "ovn-cluster", enableExternal=True))
    objects.put(api, custom("OvnEip", "eip", externalSubnet="external", type="nat"))
    objects.put(api, custom("OvnFip", "fip", ovnEip="eip", ipName="web0.shop"))


def field(api: StandIn, resource: str, name: str, namespace: str, *path: str) -> Any:
    found: Any = objects.look(api, resource, name, namespace) or {}
    for key in path:
        found = found.get(key) or {}
    return found


def nat(ovn: OvnSandbox, router: str) -> str:
    return ovn.nbctl("lr-nat-list", router)


def sets(ovn: OvnSandbox) -> list[str]:
    return ovn.nbctl("--bare", "--columns=addresses", "list", "Address_Set").split()


def routers(ovn: OvnSandbox) -> set[str]:
    return set(ovn.nbctl("--bare", "--columns=name", "list", "Logical_Router").split())


def test_services_and_gateways_of_a_cluster(ovn: OvnSandbox, config: KubernetesConfig) -> None:
    async def story() -> None:
        async with StandIn() as api:
            cluster(api)
            async with controlling(api, config) as controller:
                await until("gateways", lambda: {"GR_n1", "GR_n2"} <= routers(ovn))
                await until(
                    "the nodes are told",
                    lambda: all(
                        field(api, "nodes", n, "", "metadata", "annotations", ADDRESS_ANNOTATION)
                        for n in ("n1", "n2")
                    ),
                )
                told = field(api, "nodes", "n1", "", "metadata", "annotations", ADDRESS_ANNOTATION)
                await until("the default Subnet leaves by NAT", lambda: "snat" in nat(ovn, "GR_n1"))
                assert told.partition("/")[0] in nat(ovn, "GR_n1")

                def ingress() -> Any:
                    return field(
                        api, "services", "web", "shop", "status", "loadBalancer", "ingress"
                    )

                await until("the service has an address", lambda: bool(ingress()))
                address = ingress()[0]["ip"]
                assert address.startswith("192.0.2.")
                vips = ovn.nbctl("--bare", "--columns=vips", "list", "Load_Balancer")
                assert f"{address}:80=10.16.0.9:8080" in vips
                assert "10.96.0.10:80=10.16.0.9:8080" in vips

                await until(
                    "the floating address",
                    lambda: bool(field(api, "ovn-fips.kubeovn.io", "fip", "", "status", "ready")),
                )
                outside = field(api, "ovn-fips.kubeovn.io", "fip", "", "status", "v4Eip")
                await until("its row", lambda: outside in nat(ovn, "ovn-cluster"))
                await until("the rules", lambda: "10.44.0.0/24" in nat(ovn, "GR_n2"))
                assert "198.51.100.0/24" in sets(ovn)
                assert controller.gateways.problems == ()
                before = {name: nat(ovn, name) for name in routers(ovn)}
            # Another controller finds everything as it is.
            async with controlling(api, config) as controller:
                await until("it is settled", lambda: bool(controller.counts.settled_at))
                assert controller.writer.written.rows == 0
                assert {name: nat(ovn, name) for name in routers(ovn)} == before
                objects.drop(api, "subnets.kubeovn.io", "ruled")
                await until("the rules go", lambda: "198.51.100.0/24" not in sets(ovn))
                objects.drop(api, "ovn-fips.kubeovn.io", "fip")
                await until("the row goes", lambda: outside not in nat(ovn, "ovn-cluster"))

    asyncio.run(story())
    ovn.sync()
    assert [line for line in ovn.warnings() if "syntax" in line] == []
