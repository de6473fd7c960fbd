"""Ways to external networks: a default route, or policies past nodes' gateway routers."""

from __future__ import annotations

from ipaddress import ip_address
from typing import Any

import pytest

from controller.network.engine import Engine
from controller.network.gateways import TEMPLATE, GatewayTemplate
from controller.network.rows import RowKey
from controller.network.settings import NetSettings
from controller.network.units import ObjectRef
from dataplane.model.config import ClusterConfig
from tests.labs.manifests import engine_of, put

OBJECTS = """
apiVersion: v1
kind: Node
metadata: {name: n1, labels: {ovn.kubernetes.io/external-gw: "true"}}
---
apiVersion: kubeovn.io/v1
kind: Vlan
metadata: {name: vlan204}
spec: {id: 204, provider: outside}
---
apiVersion: kubeovn.io/v1
kind: ProviderNetwork
metadata: {name: outside}
spec: {defaultInterface: eth1}
---
apiVersion: kubeovn.io/v1
kind: Subnet
metadata: {name: external}
spec: {cidrBlock: 10.5.204.0/24, gateway: 10.5.204.254, vlan: vlan204}
---
apiVersion: kubeovn.io/v1
kind: Vpc
metadata: {name: ovn-cluster}
spec: {enableExternal: true}
---
apiVersion: v1
kind: Pod
metadata: {name: web, namespace: shop, annotations: {ovn.kubernetes.io/ip_address: 10.16.0.9}}
---
apiVersion: kubeovn.io/v1
kind: OvnEip
metadata: {name: eip}
spec: {externalSubnet: external, type: nat, v4Ip: 10.5.204.10}
"""
FIP = """
apiVersion: kubeovn.io/v1
kind: OvnFip
metadata: {name: rule}
spec: {ovnEip: eip, ipName: web.shop}
"""
SNAT = """
apiVersion: kubeovn.io/v1
kind: OvnSnatRule
metadata: {name: rule}
spec: {ovnEip: eip, vpcSubnet: ovn-default}
"""
DNAT = """
apiVersion: kubeovn.io/v1
kind: OvnDnatRule
metadata: {name: rule}
spec: {ovnEip: eip, ipName: web.shop, protocol: tcp, internalPort: "80", externalPort: "22"}
"""
PORT = 'outport == "millrace-join-ovn-cluster"'
SETTINGS = NetSettings(external_subnet="external")


def annotated(**annotations: str) -> str:
    told = "".join(f", ovn.kubernetes.io/{key}: {value}" for key, value in annotations.items())
    return (
        "apiVersion: v1\nkind: Pod\nmetadata: {name: web, namespace: shop, "
        f"annotations: {{ovn.kubernetes.io/ip_address: 10.16.0.9{told}}}}}"
    )


def with_gateways(*texts: str) -> Engine:
    cluster = ClusterConfig("unix:nb", "unix:sb", "100.65.0.0/24", "100.65.255.0/24", ())
    engine = engine_of("\n---\n".join((OBJECTS, *texts)), SETTINGS)
    engine.put(((TEMPLATE, "", GatewayTemplate(cluster)),))
    engine.update()
    return engine


def policies(engine: Engine) -> dict[str, tuple[Any, ...]]:
    found: dict[str, tuple[Any, ...]] = {}
    for key, row in engine.book.rows.items():
        if key.table == "Logical_Router_Policy":
            hops = row.columns["nexthops"]
            assert isinstance(hops, frozenset)
            words = (row.columns["priority"], row.columns["action"], *map(str, hops))
            found[str(row.columns["match"])] = words
    return found


def routes(engine: Engine, vpc: str) -> dict[str, str]:
    return {
        str(row.columns["ip_prefix"]): str(row.columns["nexthop"])
        for key, row in engine.book.rows.items()
        if key.table == "Logical_Router_Static_Route"
        and row.parent == (RowKey("Logical_Router", vpc), "static_routes")
    }


@pytest.mark.parametrize(
    ("rule", "match"),
    [
        (FIP, "ip4.src == {10.16.0.9}"),
        (SNAT, "ip4.src == {10.16.0.0/16}"),
        (DNAT, "ip4.src == 10.16.0.9 && tcp.src == 80"),
        (annotated(eip="10.5.204.77"), "ip4.src == {10.16.0.9}"),
        (annotated(snat="10.5.204.78"), "ip4.src == {10.16.0.9}"),
    ],
    ids=["fip", "snat", "dnat", "eip annotation", "snat annotation"],
)
def test_what_is_translated_goes_past_the_nodes_gateway_routers(rule: str, match: str) -> None:
    engine = with_gateways(rule)
    assert policies(engine) == {
        f"{PORT} && {match}": (20003, "reroute", "10.5.204.254"),
        f"{PORT} && ip4.dst == {{100.65.0.0/24, 100.65.255.0/24}}": (20004, "allow"),
    }
    assert routes(engine, "ovn-cluster") == {}


def test_without_a_rule_and_without_gateway_routers_there_are_no_policies() -> None:
    assert policies(with_gateways()) == {}
    engine = engine_of(OBJECTS + "---\n" + FIP, SETTINGS)
    assert policies(engine) == {}
    assert routes(engine, "ovn-cluster") == {"0.0.0.0/0": "10.5.204.254"}


def test_a_default_route_that_is_written_is_the_only_one() -> None:
    mine = """
apiVersion: kubeovn.io/v1
kind: Vpc
metadata: {name: own}
spec:
  enableExternal: true
  staticRoutes: [{cidr: 0.0.0.0/0, nextHopIP: 10.5.204.9, policy: policyDst}]
---
apiVersion: kubeovn.io/v1
kind: Vpc
metadata: {name: source}
spec:
  enableExternal: true
  staticRoutes: [{cidr: 10.9.0.0/24, nextHopIP: 10.5.204.9, policy: policySrc}]
---
apiVersion: kubeovn.io/v1
kind: Vpc
metadata: {name: none}
"""
    engine = engine_of(OBJECTS + "---\n" + mine, SETTINGS)
    assert routes(engine, "own") == {"0.0.0.0/0": "10.5.204.9"}
    assert routes(engine, "source") == {"10.9.0.0/24": "10.5.204.9", "0.0.0.0/0": "10.5.204.254"}
    assert routes(engine, "none") == {}


def test_an_annotation_does_not_take_an_address_that_somebody_has() -> None:
    engine = with_gateways(FIP, annotated(eip="10.5.204.10"))
    (problem,) = engine.book.problems[ObjectRef("pods", "shop", "web")]
    assert "10.5.204.10 is OvnEip eip's" in str(problem)
    names = {key.name for key in engine.book.rows if key.table == "NAT"}
    assert names == {"fip/rule/4"}
    put(engine, annotated(eip="10.5.204.11"))
    engine.update()
    assert ObjectRef("pods", "shop", "web") not in engine.book.problems
    assert ip_address("10.5.204.11") in {
        ip_address(str(row.columns["external_ip"]))
        for key, row in engine.book.rows.items()
        if key.table == "NAT"
    }
