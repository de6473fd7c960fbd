"""Page by page what Kube-OVN's documentation promises of VPCs, Subnets and SecurityGroups.

Each manifest has the fields of an example, in words of our own; what the page says of it is tried
with packets, what it shuts out as well. Other pages: `test_kubernetes_addresses` (pools, Vips, port
security, DHCP), `test_kubernetes_networks` (peering, several interfaces, VLAN),
`test_kubernetes_ways_out` (gateways), `test_kubernetes_policies`.
"""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import ip_address, ip_network

import pytest

from controller.network.settings import NetSettings
from tests.labs.kubernetesnet import Network, running
from tests.labs.manifests import NODE, joined, namespaces, pod
from tests.labs.ovnsandbox import wait_until
from tests.labs.packets import Packet, frame, igmp_report

SETTINGS = NetSettings(default_cidr="10.16.0.0/16", join_cidr="100.64.0.0/24")


VPC = f"""{NODE}{namespaces("default", "t1", "t2", "ns1", "ns2")}
kind: Vpc
apiVersion: kubeovn.io/v1
metadata: {{name: tenant-1}}
spec:
  namespaces: [t1]
  staticRoutes:
    - {{cidr: 0.0.0.0/0, nextHopIP: 10.0.1.254, policy: policyDst}}
    - {{cidr: 172.31.0.0/24, nextHopIP: 10.0.1.253, policy: policySrc, routeTable: "rtb1"}}
    - {{cidr: 198.51.100.0/24, nextHopIP: 10.0.1.253, policy: policyDst, ecmpMode: ecmp}}
    - {{cidr: 198.51.100.0/24, nextHopIP: 10.0.1.254, policy: policyDst, ecmpMode: ecmp}}
  policyRoutes:
    - {{action: drop, match: ip4.dst==$pool.of.few && ip4.dst==10.0.3.0/24, priority: 30}}
    - {{action: drop, match: ip4.src==10.0.1.0/24 && ip4.dst==10.0.3.250, priority: 11}}
    - {{action: reroute, match: ip4.src==10.0.1.0/24, nextHopIP: 10.0.1.252, priority: 10}}
    - action: reroute
      match: ip4.src==10.0.3.0/24 && ip4.dst==192.0.2.0/25
      nextHopIP: 10.0.1.252,10.0.1.253
      priority: 12
---
kind: Vpc
apiVersion: kubeovn.io/v1
metadata: {{name: tenant-2}}
spec: {{namespaces: [t2]}}
---
kind: Subnet
apiVersion: kubeovn.io/v1
metadata: {{name: t1-net}}
spec: {{vpc: tenant-1, cidrBlock: 10.0.1.0/24, protocol: IPv4, namespaces: [t1]}}
---
kind: Subnet
apiVersion: kubeovn.io/v1
metadata: {{name: t2-net}}
spec: {{vpc: tenant-2, cidrBlock: 10.0.1.0/24, protocol: IPv4, namespaces: [t2]}}
---
kind: Subnet
apiVersion: kubeovn.io/v1
metadata: {{name: t1-side}}
spec: {{vpc: tenant-1, cidrBlock: 10.0.3.0/24}}
---
kind: IPPool
apiVersion: kubeovn.io/v1
metadata: {{name: pool-of-few}}
spec: {{subnet: t1-side, ips: [10.0.3.200..10.0.3.209], enableAddressSet: true}}
---
kind: Subnet
apiVersion: kubeovn.io/v1
metadata: {{name: t1-table}}
spec: {{vpc: tenant-1, cidrBlock: 172.31.0.0/24, routeTable: rtb1}}
---{pod("one", "t1")}{pod("two", "t2", ip_address="10.0.1.77")}
{pod("gate", "t1", ip_address="10.0.1.254")}{pod("second", "t1", ip_address="10.0.1.253")}
{pod("third", "t1", ip_address="10.0.1.252")}{pod("side", "t1", logical_switch="t1-side")}
{pod("table", "t1", logical_switch="t1-table")}
{pod("few", "t1", ip_pool="pool-of-few")}
"""
SUBNET = f"""
apiVersion: kubeovn.io/v1
kind: Subnet
metadata: {{name: listed}}
spec:
  protocol: IPv4
  cidrBlock: 10.66.0.0/16
  excludeIps: [10.66.0.1..10.66.0.10, 10.66.0.101..10.66.0.151]
  gateway: 10.66.0.1
  gatewayType: distributed
  routeTable: ""
  namespaces: [ns1, ns2]
---
apiVersion: kubeovn.io/v1
kind: Subnet
metadata: {{name: acl}}
spec:
  allowEWTraffic: false
  acls:
    - {{action: drop, direction: to-lport, match: ip4.dst == 10.10.0.2 && ip, priority: 1002}}
    - action: allow-related
      direction: from-lport
      match: ip4.src == 10.10.0.2 && ip
      priority: 1002
  cidrBlock: 10.10.0.0/24
---
apiVersion: kubeovn.io/v1
kind: Subnet
metadata: {{name: inner}}
spec:
  allowEWTraffic: true
  acls:
    - {{action: drop, direction: to-lport, match: ip4.dst == 10.11.0.2 && ip, priority: 1002}}
  cidrBlock: 10.11.0.0/24
---
apiVersion: kubeovn.io/v1
kind: Subnet
metadata: {{name: choir}}
spec: {{cidrBlock: 10.12.0.0/24, enableMulticastSnoop: true, disableGatewayCheck: true}}
---{pod("first", "ns1")}{pod("next", "ns2")}
{pod("kept", logical_switch="acl", ip_address="10.10.0.2")}
{pod("mate", logical_switch="acl", ip_address="10.10.0.3")}
{pod("outer")}
{pod("within", logical_switch="inner", ip_address="10.11.0.2")}
{pod("beside", logical_switch="inner", ip_address="10.11.0.3")}
{pod("sings", logical_switch="choir")}{pod("hears", logical_switch="choir")}
{pod("deaf", logical_switch="choir")}
"""
GROUPS = f"""
apiVersion: kubeovn.io/v1
kind: SecurityGroup
metadata: {{name: sg-shut}}
spec:
  allowSameGroupTraffic: true
  egressRules:
    - ipVersion: ipv4
      policy: allow
      priority: 1
      protocol: all
      remoteAddress: 10.16.2.13
      remoteType: address
  ingressRules:
    - ipVersion: ipv4
      policy: deny
      priority: 1
      protocol: icmp
      remoteAddress: 10.16.2.14
      remoteType: address
---
apiVersion: kubeovn.io/v1
kind: SecurityGroup
metadata: {{name: sg-gw}}
spec:
  allowSameGroupTraffic: true
  egressRules:
    - {{ipVersion: ipv4, policy: allow, priority: 2, protocol: all, remoteAddress: 10.16.2.13,
       remoteType: address}}
    - {{ipVersion: ipv4, policy: allow, priority: 1, protocol: all, remoteAddress: 10.16.0.1,
       remoteType: address}}
  ingressRules:
    - {{ipVersion: ipv4, policy: deny, priority: 2, protocol: icmp, remoteAddress: 10.16.2.14,
       remoteType: address}}
    - {{ipVersion: ipv4, policy: allow, priority: 1, protocol: icmp, remoteAddress: 10.16.0.1,
       remoteType: address}}
---
apiVersion: kubeovn.io/v1
kind: SecurityGroup
metadata: {{name: sg-tier0}}
spec:
  tier: 0
  allowSameGroupTraffic: true
  ingressRules:
    - {{ipVersion: ipv4, policy: pass, priority: 1, protocol: tcp, remoteAddress: 10.16.2.0/24,
       remoteType: address, portRangeMin: 40, portRangeMax: 60}}
    - {{ipVersion: ipv4, policy: pass, priority: 1, protocol: tcp, remoteAddress: 10.16.2.0/24,
       remoteType: address, portRangeMin: 443, portRangeMax: 443}}
    - {{ipVersion: ipv4, policy: pass, priority: 1, protocol: udp, remoteAddress: 10.16.2.13,
       remoteType: address, portRangeMin: 70, portRangeMax: 79}}
    - {{ipVersion: ipv4, policy: deny, priority: 2, protocol: all, remoteAddress: 0.0.0.0/0,
       remoteType: address}}
---
apiVersion: kubeovn.io/v1
kind: SecurityGroup
metadata: {{name: sg-tier1}}
spec:
  tier: 1
  allowSameGroupTraffic: true
  ingressRules:
    - {{ipVersion: ipv4, policy: allow, priority: 1, protocol: tcp, remoteAddress: 10.16.2.13,
       remoteType: address, portRangeMin: 50, portRangeMax: 60}}
---
apiVersion: kubeovn.io/v1
kind: SecurityGroup
metadata: {{name: sg-local}}
spec:
  allowSameGroupTraffic: true
  ingressRules:
    - {{ipVersion: ipv4, policy: allow, priority: 1, protocol: tcp, remoteAddress: 10.16.0.0/16,
       remoteType: address, portRangeMin: 53, portRangeMax: 53, localAddress: 10.16.2.100,
       sourcePortRangeMin: 3000, sourcePortRangeMax: 3000}}
    - {{ipVersion: ipv4, policy: allow, priority: 2, protocol: udp, remoteAddress: 10.16.0.0/16,
       remoteType: address, sourcePortRangeMin: 4000, sourcePortRangeMax: 65535}}
---{pod("tiered", security_groups="sg-tier0,sg-tier1")}
{pod("local", security_groups="sg-local", ip_address="10.16.2.100")}
{pod("elsewhere", security_groups="sg-local")}
{pod("shut", security_groups="sg-shut", port_security="true")}
{pod("gated", security_groups="sg-gw", port_security="true")}
{pod("companion", security_groups="sg-gw", port_security="true")}
{pod("thirteen", ip_address="10.16.2.13")}{pod("fourteen", ip_address="10.16.2.14")}
"""


@pytest.fixture(scope="module")
def net() -> Iterator[Network]:
    with running(joined(VPC, SUBNET, GROUPS), SETTINGS) as found:
        yield found


# -- VPC ------------------------------------------------------------------------------------------


def test_two_vpcs_with_one_network_do_not_meet(net: Network) -> None:
    one, two = net.there["one.t1"], net.there["two.t2"]
    assert (one.switch, two.switch) == ("t1-net", "t2-net")
    assert ip_address(one.address(4)) in ip_network("10.0.1.0/24")
    assert net.passes("one.t1", "gate.t1")
    # Whether as a neighbour, whose MAC it might even know, or by the router.
    net.number += 2
    packet = Packet(net.number, one.address(4), two.address(4), "UDP", 3000, 53)
    assert net.reached("one.t1", frame(one.mac, two.mac, packet)) == set()
    assert net.routed("side.t1", two.address(4)) == set()


def test_a_default_route_leads_to_a_pod_that_is_a_gateway(net: Network) -> None:
    assert net.routed("side.t1", "203.0.113.5") == {"gate.t1"}


def test_a_route_by_source_in_a_table_is_for_who_has_that_table(net: Network) -> None:
    assert net.routed("table.t1", "203.0.113.5") == {"second.t1"}


def test_policy_routes_lead_or_drop_by_their_priority(net: Network) -> None:
    assert net.routed("one.t1", "203.0.113.5") == {"third.t1"}
    assert net.routed("one.t1", "10.0.3.250") == set()
    assert net.routed("one.t1", "10.0.3.251") == {"third.t1"}


@pytest.mark.parametrize(
    ("network", "hops"),
    [("198.51.100", {"gate.t1", "second.t1"}), ("192.0.2", {"second.t1", "third.t1"})],
    ids=["routes", "policy"],
)
def test_several_next_hops_share_what_goes_to_a_network(
    net: Network, network: str, hops: set[str]
) -> None:
    each = [net.routed("side.t1", f"{network}.{at}", "TCP") for at in range(2, 22)]
    assert all(len(one) == 1 for one in each)
    assert set().union(*each) == hops


# -- Subnet ---------------------------------------------------------------------------------------


def test_namespaces_of_a_subnet_get_what_it_does_not_exclude(net: Network) -> None:
    first, second = net.there["first.ns1"], net.there["next.ns2"]
    assert {first.address(4), second.address(4)} == {"10.66.0.11", "10.66.0.12"}
    assert net.passes("first.ns1", "next.ns2", protocol="TCP")
    assert net.passes("first.ns1", "outer.default")


def test_acls_let_one_address_out_and_nobody_in(net: Network) -> None:
    assert net.passes("kept.default", "mate.default")
    assert net.passes("kept.default", "outer.default", protocol="TCP")
    assert not net.passes("mate.default", "kept.default")
    assert not net.passes("outer.default", "kept.default", protocol="ICMP")
    assert net.passes("outer.default", "mate.default")


def test_what_is_within_a_subnet_is_before_its_acls_if_it_says_so(net: Network) -> None:
    assert net.passes("beside.default", "within.default")
    assert not net.passes("outer.default", "within.default")


def test_snooped_multicast_goes_to_who_joined(net: Network) -> None:
    group = "239.1.1.7"
    sings, hears = net.there["sings.default"], net.there["hears.default"]

    def sung() -> set[str]:
        net.number += 2
        packet = Packet(net.number, sings.address(4), group, "UDP", 3000, 5000)
        return net.reached("sings.default", frame(sings.mac, "01:00:5e:01:01:07", packet))

    assert sung() == set()
    net.give("hears.default", igmp_report(hears.mac, hears.address(4), group))
    wait_until(
        "OVN knows the member",
        lambda: group in net.box.sbctl("--bare", "--columns=address", "list", "IGMP_Group"),
    )
    net.lab.sync()
    assert sung() == {"hears.default"}
    # Without snooping it goes to everybody of the switch.
    net.number += 2
    loud = net.there["within.default"]
    packet = Packet(net.number, loud.address(4), group, "UDP", 3000, 5000)
    found = net.reached("within.default", frame(loud.mac, "01:00:5e:01:01:07", packet))
    assert found == {"beside.default"}


# -- security groups ------------------------------------------------------------------------------


def test_a_group_that_does_not_allow_the_gateway_has_no_gateway(net: Network) -> None:
    assert net.routed("shut.default", "10.16.0.1", "ICMP") == set()
    assert net.routed("gated.default", "10.16.0.1", "ICMP") == {"gated.default"}


@pytest.mark.parametrize("name", ["shut.default", "gated.default"])
def test_a_group_lets_out_and_in_what_it_says(net: Network, name: str) -> None:
    assert net.passes(name, "thirteen.default", protocol="TCP")
    assert not net.passes(name, "fourteen.default")
    assert not net.passes("fourteen.default", name, protocol="ICMP")
    assert not net.passes("thirteen.default", name)


def test_members_of_a_group_reach_each_other_if_it_says_so(net: Network) -> None:
    assert net.passes("gated.default", "companion.default")
    assert not net.passes("gated.default", "shut.default")


def test_a_tier_passes_on_what_the_next_one_judges(net: Network) -> None:
    """TCP of a network is passed on, and allowed there from one address on some ports."""
    assert net.passes("thirteen.default", "tiered.default", protocol="TCP")
    assert not net.passes("fourteen.default", "tiered.default", protocol="TCP")
    assert not net.passes("thirteen.default", "tiered.default")


def test_a_rule_may_name_the_local_address_and_the_source_ports(net: Network) -> None:
    assert net.passes("thirteen.default", "local.default", protocol="TCP")
    assert not net.passes("thirteen.default", "local.default")
    assert not net.passes("thirteen.default", "elsewhere.default", protocol="TCP")


def test_a_policy_may_name_a_pool(net: Network) -> None:
    few = net.there["few.t1"].address(4)
    assert few == "10.0.3.200"
    assert net.routed("second.t1", few) == set()
    assert net.routed("table.t1", net.there["side.t1"].address(4)) == {"side.t1"}
    assert net.routed("table.t1", few) == set()
    # Only what is routed: a neighbour reaches it.
    assert net.passes("side.t1", "few.t1")


def test_the_chassis_understands_every_row(net: Network) -> None:
    """What it cannot read it leaves out, and says so in its log alone."""
    assert [line for line in net.box.warnings("controller") if "|lflow|" in line] == []
    assert net.box.warnings() == []
