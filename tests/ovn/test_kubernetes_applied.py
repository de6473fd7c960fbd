"""Kube-OVN's pages step by step: what is applied first, what is changed behind it, and packets.

All of it passes the API, the definitions of deploy/, the controller and a real OVN; the manifests
have the fields of the pages' examples, in words of our own.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from controller.network.settings import NetSettings
from tests.labs.applied import Applied, running
from tests.labs.manifests import joined, pod
from tests.labs.ovnsandbox import wait_until

SETTINGS = NetSettings(default_cidr="10.16.0.0/16", join_cidr="100.64.0.0/24")


@pytest.fixture(scope="module")
def cluster() -> Iterator[Applied]:
    with running(SETTINGS) as found:
        yield found


def column(cluster: Applied, table: str, name: str, column: str) -> str:
    return cluster.box.nbctl("--bare", f"--columns={column}", "find", table, f"name={name}").strip()


def test_two_vpcs_are_made_apart_and_then_joined(cluster: Applied) -> None:
    cluster.apply(joined("""
kind: Vpc
apiVersion: kubeovn.io/v1
metadata: {name: left}
spec: {}
---
kind: Subnet
apiVersion: kubeovn.io/v1
metadata: {name: left-net}
spec: {vpc: left, cidrBlock: 10.20.0.0/16}
---
kind: Vpc
apiVersion: kubeovn.io/v1
metadata: {name: right}
spec: {}
---
kind: Subnet
apiVersion: kubeovn.io/v1
metadata: {name: right-net}
spec: {vpc: right, cidrBlock: 172.31.0.0/16}
---""", pod("at-left", logical_switch="left-net"), pod("at-right", logical_switch="right-net"),
        pod("gate", logical_switch="left-net", ip_address="10.20.0.254")))  # fmt: skip
    net = cluster.network("at-left.default", "at-right.default", "gate.default")
    assert not net.passes("at-left.default", "at-right.default")
    peerings = """
kind: Vpc
apiVersion: kubeovn.io/v1
metadata: {{name: {here}}}
spec:
  vpcPeerings: [{{remoteVpc: {there}, localConnectIP: {mine}/30}}]
  staticRoutes: [{{cidr: {network}, nextHopIP: {theirs}, policy: policyDst}}]
"""
    ends = ("169.254.0.1", "169.254.0.2")
    left = peerings.format(here="left", there="right", mine=ends[0], theirs=ends[1],
                           network="172.31.0.0/16")  # fmt: skip
    right = peerings.format(here="right", there="left", mine=ends[1], theirs=ends[0],
                            network="10.20.0.0/16")  # fmt: skip
    cluster.apply(joined(left, right))
    wait_until(
        "both have their routes",
        lambda: all(
            "169.254" in cluster.box.nbctl("lr-route-list", name) for name in ("left", "right")
        ),
    )
    net.lab.sync()
    assert net.passes("at-left.default", "at-right.default", protocol="ICMP")
    assert net.passes("at-right.default", "at-left.default", protocol="TCP")
    # A policy route of a router that is there takes effect, and goes again.
    policy = """
  policyRoutes:
    - {action: reroute, match: ip4.src==10.20.0.0/16, nextHopIP: 10.20.0.254, priority: 10}
"""
    for text, came in ((left + policy, {"gate.default"}), (left, {"at-right.default"})):
        cluster.apply(text)
        wait_until(
            "the router has what is written",
            lambda text=text: (
                ("reroute" in cluster.box.nbctl("lr-policy-list", "left")) == ("reroute" in text)
            ),
        )
        net.lab.sync()
        assert net.routed("at-left.default", net.there["at-right.default"].address(4)) == came


def test_a_part_of_a_subnet_changes_one_that_is_there(cluster: Applied) -> None:
    """Pages show such parts alone; what names no network leaves the one that is in force."""
    cluster.apply(joined("""
apiVersion: kubeovn.io/v1
kind: Subnet
metadata: {name: sample}
spec: {cidrBlock: 10.21.0.0/24, enableDHCP: true}
---""", pod("one", logical_switch="sample"), pod("two", logical_switch="sample")))  # fmt: skip
    net = cluster.network("one.default", "two.default")
    assert net.passes("one.default", "two.default")
    part = "apiVersion: kubeovn.io/v1\nkind: Subnet\nmetadata: {{name: sample}}\nspec: {{{}}}\n"
    for spec, key in (
        ("enableMulticastSnoop: true", "mcast_snoop=true"),
        ("mtu: 1300", "mtu=1300"),
        ("disableGatewayCheck: true", ""),
    ):
        cluster.apply(part.format(spec))
        wait_until(
            f"{spec} is in force",
            lambda key=key: key in column(cluster, "Logical_Switch", "sample", "other_config"),
        )
        net.lab.sync()
        assert net.passes("one.default", "two.default")
    cluster.apply(pod("three", logical_switch="sample").removesuffix("---"))
    assert cluster.network("three.default").there["three.default"].switch == "sample"
    conditions = cluster.look("subnets.kubeovn.io", "sample")["status"]["conditions"]
    said = {one["type"]: one["message"] for one in conditions}
    assert "it has no cidrBlock" in said["Validated"]


def test_a_vip_is_given_and_a_pod_takes_it(cluster: Applied) -> None:
    cluster.apply(joined("""
apiVersion: kubeovn.io/v1
kind: Vip
metadata: {name: dynamic}
spec: {subnet: ovn-default, type: ""}
---
apiVersion: kubeovn.io/v1
kind: Vip
metadata: {name: static}
spec: {subnet: ovn-default, V4ip: "10.16.0.121"}
---""", pod("taker", vip="dynamic"), pod("bystander")))  # fmt: skip
    net = cluster.network("taker.default", "bystander.default")

    def given(name: str) -> str:
        text: str = cluster.look("vips.kubeovn.io", name).get("status", {}).get("v4ip", "")
        return text

    assert net.there["taker.default"].address(4) == given("dynamic")
    assert net.passes("bystander.default", "taker.default")
    wait_until("the fixed one is given", lambda: given("static") == "10.16.0.121")


def test_a_group_is_changed_while_its_pod_runs(cluster: Applied) -> None:
    group = """
apiVersion: kubeovn.io/v1
kind: SecurityGroup
metadata: {{name: sg}}
spec:
  allowSameGroupTraffic: true
  egressRules:
    - {{ipVersion: ipv4, policy: allow, priority: 2, protocol: all, remoteAddress: 10.16.3.13,
       remoteType: address}}
{more}
"""
    cluster.apply(joined(group.format(more=""), pod("held", security_groups="sg"),
                         pod("thirteen", ip_address="10.16.3.13")))  # fmt: skip
    net = cluster.network("held.default", "thirteen.default")
    assert net.passes("held.default", "thirteen.default")
    assert net.routed("held.default", "10.16.0.1", "ICMP") == set()
    opened = """
    - {ipVersion: ipv4, policy: allow, priority: 1, protocol: all, remoteAddress: 10.16.0.1,
       remoteType: address}
  ingressRules:
    - {ipVersion: ipv4, policy: allow, priority: 1, protocol: icmp, remoteAddress: 10.16.0.1,
       remoteType: address}"""
    cluster.apply(group.format(more=opened))
    wait_until(
        "the group allows the gateway",
        lambda: re.search(r"\b10\.16\.0\.1\b", cluster.box.nbctl("list", "ACL")) is not None,
    )
    net.lab.sync()
    assert net.routed("held.default", "10.16.0.1", "ICMP") == {"held.default"}


def test_limits_are_changed_while_their_pod_runs(cluster: Applied) -> None:
    limited = pod("limited", ingress_rate="3", egress_rate="1").removesuffix("---")
    cluster.apply(limited)
    cluster.network("limited.default")
    row = ("Logical_Switch_Port", "limited.default")
    assert "qos_max_rate=1000000" in column(cluster, *row, "options")
    assert "ingress-rate=3000000" in column(cluster, *row, "external_ids")
    cluster.apply(limited.replace('ingress_rate: "3"', 'ingress_rate: "30"'))
    wait_until(
        "the new rate is there",
        lambda: "ingress-rate=30000000" in column(cluster, *row, "external_ids"),
    )
    assert "qos_max_rate=1000000" in column(cluster, *row, "options")
