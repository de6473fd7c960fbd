"""Manifests of Kube-OVN's shapes applied to the API, and containers that talk to each other.

The kernel's own TCP, ping and a DHCP client, in namespaces on a real OVN with OVS's userspace
datapath and no DPDK: what the packet labs (tests/ovn) try one by one is tried as a user would.
"""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import ip_address

import pytest

from controller.network.gateways import GatewayTemplate
from controller.network.settings import NetSettings
from dataplane.model.config import ClusterConfig
from tests.labs.applied import running
from tests.labs.containers import Container, Node, namespace
from tests.labs.manifests import joined, namespaces, pod
from tests.labs.ovnsandbox import OvnSandbox

SETTINGS = NetSettings(default_cidr="10.16.0.0/16,fd00:16::/64", join_cidr="100.64.0.0/24")
OBJECTS = f"""{namespaces("t1", "t2")}
kind: Vpc
apiVersion: kubeovn.io/v1
metadata: {{name: tenant-1}}
spec: {{namespaces: [t1]}}
---
kind: Vpc
apiVersion: kubeovn.io/v1
metadata: {{name: tenant-2}}
spec: {{namespaces: [t2]}}
---
kind: Subnet
apiVersion: kubeovn.io/v1
metadata: {{name: net-1}}
spec: {{vpc: tenant-1, cidrBlock: 10.0.1.0/24, protocol: IPv4, namespaces: [t1]}}
---
kind: Subnet
apiVersion: kubeovn.io/v1
metadata: {{name: side-1}}
spec: {{vpc: tenant-1, cidrBlock: 10.0.2.0/24, protocol: IPv4}}
---
kind: Subnet
apiVersion: kubeovn.io/v1
metadata: {{name: net-2}}
spec: {{vpc: tenant-2, cidrBlock: 10.0.1.0/24, protocol: IPv4, namespaces: [t2]}}
---
kind: Subnet
apiVersion: kubeovn.io/v1
metadata: {{name: leaves}}
spec:
  cidrBlock: 10.66.0.0/24
  natOutgoing: true
  natOutgoingPolicyRules:
    - {{action: forward, match: {{srcIPs: 10.66.0.77, dstIPs: 203.0.113.0/24}}}}
---
kind: Subnet
apiVersion: kubeovn.io/v1
metadata: {{name: asked}}
spec:
  cidrBlock: 10.67.0.0/24
  private: true
  enableDHCP: true
  dhcpV4Options: "lease_time=3600,router=10.67.0.1,server_id=169.254.0.254,server_mac=00:00:00:2E:2F:B8"
---
kind: Subnet
apiVersion: kubeovn.io/v1
metadata: {{name: six}}
spec: {{protocol: IPv6, cidrBlock: "fd00:77::/64"}}
---
apiVersion: kubeovn.io/v1
kind: SecurityGroup
metadata: {{name: sg}}
spec:
  egressRules:
    - {{ipVersion: ipv4, policy: allow, priority: 1, protocol: all, remoteAddress: 10.16.0.13,
       remoteType: address}}
---
{pod("one", "t1")}{pod("two", "t2", ip_address="10.0.1.77")}
{pod("side", "t1", logical_switch="side-1")}
{pod("fixed", ip_address="10.16.0.15,fd00:16::e", mac_address="00:00:00:53:6B:B6")}
{pod("thirteen", ip_address="10.16.0.13,fd00:16::13")}
{pod("grouped", security_groups="sg", port_security="true")}
{pod("out", logical_switch="leaves")}{pod("ruled", logical_switch="leaves", ip_address="10.66.0.77")}
{pod("guest", logical_switch="asked")}{pod("six", logical_switch="six")}
{pod("half", ip_family="ipv6")}
"""  # noqa: E501
WORLD, SERVER, OTHER = "172.18.0.1", "203.0.113.9", "198.51.100.9"


def gateways(box: OvnSandbox) -> GatewayTemplate:
    base = ClusterConfig(box.nb, box.sb, "100.65.0.0/24", "100.65.255.0/24", ())
    return GatewayTemplate(
        base, "phys", ("172.18.0.100-172.18.0.150",), next_hops=(ip_address(WORLD),)
    )


@pytest.fixture(scope="module")
def node() -> Iterator[Node]:
    with namespace("mrkco") as place, running(SETTINGS, str(place.path), gateways) as cluster:
        made = Node("mrkco", cluster, place)
        cluster.apply(joined(OBJECTS))
        made.run("one.t1", "two.t2", "side.t1", "fixed.default", "thirteen.default",
                 "grouped.default", "out.default", "ruled.default", "six.default",
                 "half.default")  # fmt: skip
        yield made


@pytest.fixture(scope="module")
def outside(node: Node) -> Container:
    found = node.outside(f"{WORLD}/24", SERVER, OTHER)
    said = node.cluster.look("nodes", "n1")["metadata"]["annotations"]
    gateway = said["millrace.dev/gateway-address"].partition("/")[0]
    found.netns.run("ip", "route", "add", "10.66.0.0/24", "via", gateway)
    return found


def test_containers_of_a_vpc_reach_each_other_and_no_others(node: Node) -> None:
    one, side = node.there["one.t1"], node.there["side.t1"]
    theirs = side.addresses[0].partition("/")[0]
    assert one.pings(theirs)
    assert one.seen_by(theirs) == one.addresses[0].partition("/")[0]
    # The other VPC has the same network: its address is nobody's here.
    assert node.there["two.t2"].addresses == ("10.0.1.77/24",)
    assert one.is_shut_from("10.0.1.77")
    assert side.is_shut_from("10.0.1.77")
    assert one.is_shut_from("10.16.0.15")


@pytest.mark.parametrize("address", ["10.16.0.15", "fd00:16::e"])
def test_a_container_has_the_addresses_that_its_pod_fixes(node: Node, address: str) -> None:
    thirteen = node.there["thirteen.default"]
    assert thirteen.pings(address)
    assert thirteen.seen_by(address) == ("fd00:16::13" if ":" in address else "10.16.0.13")
    neighbours = thirteen.netns.run("ip", "neighbour", "show", address)
    assert "00:00:00:53:6b:b6" in neighbours


def test_containers_with_ipv6_alone_reach_those_with_both(node: Node) -> None:
    six, half = node.there["six.default"], node.there["half.default"]
    assert len(six.addresses) == len(half.addresses) == 1
    mine, theirs = (one.addresses[0].partition("/")[0] for one in (six, half))
    assert six.pings(theirs)
    assert six.seen_by(theirs) == mine
    assert half.seen_by("fd00:16::e") == theirs
    assert node.there["fixed.default"].seen_by(mine) == "fd00:16::e"


def test_a_security_group_holds_a_container(node: Node) -> None:
    grouped = node.there["grouped.default"]
    assert grouped.seen_by("10.16.0.13")
    assert grouped.is_shut_from("10.16.0.15")
    mine = grouped.addresses[0].partition("/")[0]
    assert node.there["thirteen.default"].is_shut_from(mine)


def test_a_server_outside_sees_whom_the_rules_say(node: Node, outside: Container) -> None:
    said = node.cluster.look("nodes", "n1")["metadata"]["annotations"]
    gateway = said["millrace.dev/gateway-address"].partition("/")[0]
    out, ruled = node.there["out.default"], node.there["ruled.default"]
    assert out.seen_by(SERVER) == gateway
    assert ruled.seen_by(SERVER) == "10.66.0.77"
    assert ruled.seen_by(OTHER) == gateway
    assert out.pings(OTHER)
    assert outside.seen_by("10.66.0.77") == WORLD


def test_a_dhcp_client_of_a_private_subnet_is_given_the_pods_address(node: Node) -> None:
    guest = node.guest("guest.default")
    script = node.cluster.box.directory / "udhcpc.sh"
    script.write_text(
        '#!/bin/sh\n[ "$1" = bound ] || exit 0\n'
        "ip address add $ip/$mask dev $interface\nip route add default via $router\n"
    )
    script.chmod(0o755)
    guest.netns.run("busybox", "udhcpc", "-f", "-n", "-q", "-i", "eth0", "-t", "10", "-s",
                    str(script))  # fmt: skip
    held = guest.netns.run("ip", "-4", "-o", "address", "show", "dev", "eth0")
    assert guest.addresses[0] in held
    assert guest.pings("10.67.0.1")
    assert guest.is_shut_from("10.16.0.13")
