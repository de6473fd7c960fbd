"""VPCs, subnets, ports and wires: the rows of their objects, and what these say of themselves."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import msgspec
import pytest

from controller.kinds.addresses import POOLS, VIPS, IpPool, Vip
from controller.kinds.attachments import ATTACHMENT, ATTACHMENTS, NetworkAttachment
from controller.kinds.subnet import SUBNET, SUBNETS, Subnet
from controller.kinds.underlay import PROVIDERS, VLANS, ProviderNetwork, Vlan
from controller.kinds.vpc import VPC, VPCS, Vpc
from controller.kinds.workloads import INSTANCES, Machine
from controller.kube.resources import Key
from controller.kube.structs import Custom, Meta
from controller.network import nodes, northgateway, ports, subnet, underlay, vpc
from controller.network.facts import NODES, PODS, NetNode, NetPod
from controller.network.rows import Row, RowKey
from controller.network.settings import SETTINGS, NetSettings
from controller.network.standins import stand_ins
from controller.network.unheeded import of_pod
from controller.network.units import ObjectRef, Wanted
from tests.labs.allocation import World, world
from tests.labs.factview import Whole, whole

O = "ovn.kubernetes.io/"  # noqa: E741
UNITS = (
    *vpc.UNITS, *subnet.UNITS, *ports.UNITS, *underlay.UNITS, *nodes.UNITS, *northgateway.UNITS,
)  # fmt: skip


def custom(name: str, spec: Any, namespace: str = "") -> Custom:
    raw = msgspec.Raw(json.dumps(spec).encode())
    return Custom(Meta(name=name, namespace=namespace), raw)


def a_vpc(name: str, **spec: Any) -> Vpc:
    return VPC.decode(custom(name, spec))


def a_subnet(name: str, **spec: Any) -> Subnet:
    return SUBNET.decode(custom(name, spec))


def with_vpcs(*vpcs: Vpc, subnets: tuple[Subnet, ...] = ()) -> World:
    found = world(*(subnets or (Subnet("none", cidr="192.0.2.0/24"),)))
    found.facts[VPCS] = {one.name: one for one in vpcs}
    return found


def said(w: World) -> Whole:
    found = whole(UNITS, w.facts)
    assert not found.disputed
    # Every row hangs on rows that are there, as the writer wants it.
    for key, row in found.rows.items():
        for parent in [row.parent[0]] if row.parent else []:
            if parent.table != "Logical_Router":
                assert parent in found.rows, f"{key} hangs on {parent}"
        for wanted in row.refs.values():
            assert wanted <= found.rows.keys(), key
    return found


def row(found: Whole, table: str, name: str) -> Row:
    return found.rows[RowKey(table, name)]


def column(found: Whole, table: str, name: str, column: str) -> Any:
    value = row(found, table, name).columns[column]
    return dict(value) if isinstance(value, tuple) else value


def causes(found: Whole, resource: str, name: str, namespace: str = "") -> str:
    problems = found.problems.get(ObjectRef(resource, namespace, name), set())
    return "; ".join(sorted(f"{one.cause}: {one.next_step}" for one in problems))


def wanted(found: Whole, resource: str, name: str, namespace: str = "") -> Wanted:
    (one,) = found.writes[ObjectRef(resource, namespace, name)]
    return one


def test_a_vpc_is_a_router_with_its_routes_and_policies() -> None:
    one = a_vpc(
        "v1",
        staticRoutes=[
            {"cidr": "0.0.0.0/0", "nextHopIP": "10.0.1.254", "policy": "policyDst"},
            {"cidr": "10.0.2.0/24", "nextHopIP": "10.0.1.253", "policy": "policySrc",
             "routeTable": "rt1"},
            {"cidr": "172.31.0.0/16", "nextHopIP": "10.0.1.1", "ecmpMode": "ecmp"},
            {"cidr": "172.31.0.0/16", "nextHopIP": "10.0.1.2", "ecmpMode": "ecmp"},
        ],
        policyRoutes=[
            {"action": "drop", "match": "ip4.src==10.0.1.0/24", "priority": 11},
            {"action": "reroute", "match": "ip4.src==10.0.2.0/24", "nextHopIP": "10.0.1.252",
             "priority": 10},
        ],
    )  # fmt: skip
    w = with_vpcs(one, subnets=(Subnet("s", vpc="v1", cidr="10.0.1.0/24"),)).start()
    found = said(w)
    assert column(found, "Logical_Router", "v1", "name") == "v1"
    route = row(found, "Logical_Router_Static_Route", "v1//dst-ip/0.0.0.0/0/10.0.1.254")
    assert route.columns["policy"] == frozenset({"dst-ip"})
    assert route.parent == (RowKey("Logical_Router", "v1"), "static_routes")
    name = "v1/rt1/src-ip/10.0.2.0/24/10.0.1.253"
    assert column(found, "Logical_Router_Static_Route", name, "route_table") == "rt1"
    assert sum(key.table == "Logical_Router_Static_Route" for key in found.rows) == 4
    policy = row(found, "Logical_Router_Policy", "v1/10/ip4.src==10.0.2.0/24")
    assert policy.columns["nexthops"] == frozenset({"10.0.1.252"})
    assert not causes(found, "vpcs.kubeovn.io", "v1")
    told = wanted(found, "vpcs.kubeovn.io", "v1")
    assert (told.status["subnets"], told.finalizer) == (["s"], True)
    assert told.conditions["Ready"][0] == "True"


def test_a_policy_that_drops_and_is_too_many_flows_drops_more_until_it_is_corrected() -> None:
    match, hop = "ip4.src != $friends", {"nextHopIP": "10.0.1.252"}
    policies = [
        {"action": "drop", "match": match, "priority": 12},
        {"action": "allow", "match": match, "priority": 11},
        {"action": "drop", "match": match, "priority": 10, **hop},
        {"action": "drop", "match": "ip5", "priority": 9},
    ]
    found = said(with_vpcs(a_vpc("v1", policyRoutes=policies)).start())
    (policy,) = (r for key, r in found.rows.items() if key.table == "Logical_Router_Policy")
    assert policy.columns["match"] == "(eth.type == 0x800)"
    assert (policy.columns["priority"], policy.columns["action"]) == (12, "drop")
    told = causes(found, "vpcs.kubeovn.io", "v1")
    assert told.count("each address of a set") == 3 and told.count("drop is of more") == 1


@pytest.mark.parametrize(
    ("spec", "cause"),
    [
        ({"staticRoutes": [{"cidr": "10.0.0/9", "nextHopIP": "10.0.0.1"}]}, "staticRoutes[0]"),
        ({"staticRoutes": [{"cidr": "10.0.0.0/9", "nextHopIP": "fd00::1"}]}, "two families"),
        (
            {"staticRoutes": [{"cidr": "10.0.0.0/9", "nextHopIP": f"10.0.0.{n}"} for n in (1, 2)]},
            "staticRoutes[1]: 10.0.0.0/9 leads to 10.0.0.1 already",
        ),
        ({"policyRoutes": [{"priority": 32768, "match": "ip", "action": "drop"}]}, "32768"),
        ({"policyRoutes": [{"priority": -1, "match": "ip", "action": "drop"}]}, "-1"),
        ({"policyRoutes": [{"priority": 1, "match": "ip", "action": "jump"}]}, "'jump'"),
        ({"policyRoutes": [{"priority": 1, "match": "ip", "action": "reroute"}]}, "no nextHopIP"),
        ({"policyRoutes": [{"priority": 1, "action": "drop"}]}, "no match"),
        ({"policyRoutes": [{"priority": 1, "match": "ip5", "action": "drop"}]}, "ip5 is no field"),
        ({"vpcPeerings": [{"remoteVpc": "nobody", "localConnectIP": "1.1.1.1/30"}]}, "'nobody'"),
        ({"vpcPeerings": [{"remoteVpc": "v2", "localConnectIP": "1.1.1.1"}]}, "no length"),
        ({"dynamicRouting": {"enabled": True}}, "dynamicRouting"),
        ({"enableBfd": True}, "no static route has a next hop to watch"),
    ],
)
def test_what_is_wrong_in_a_vpc_is_told_and_the_rest_is_made(spec: Any, cause: str) -> None:
    found = said(with_vpcs(a_vpc("v1", **spec), Vpc("v2")).start())
    assert cause in causes(found, "vpcs.kubeovn.io", "v1")
    assert RowKey("Logical_Router", "v1") in found.rows
    assert wanted(found, "vpcs.kubeovn.io", "v1").conditions["Ready"][0] == "False"


def test_a_next_hop_that_no_network_has_is_told() -> None:
    def told(hop: str, **more: Any) -> str:
        routes = [{"cidr": "10.9.0.0/16" if "." in hop else "fd09::/64", "nextHopIP": hop}]
        policies = [{"action": "reroute", "match": "ip", "nextHopIP": hop, "priority": 1}]
        one = a_vpc("v1", staticRoutes=routes, policyRoutes=policies, **more)
        other = a_vpc("v2", vpcPeerings=[{"remoteVpc": "v1", "localConnectIP": "169.254.0.2/30"}])
        w = with_vpcs(one, other, subnets=(Subnet("s", vpc="v1", cidr="10.0.1.0/24"),)).start()
        return causes(said(w), "vpcs.kubeovn.io", "v1")

    for where, what in (("spec.staticRoutes[0]", "route"), ("spec.policyRoutes[0]", "policy")):
        cause = f"{where}: no network of the VPC has its next hop 192.0.2.9: the {what} has no eff"
        assert cause in told("192.0.2.9")
    linked = {"vpcPeerings": [{"remoteVpc": "v2", "localConnectIP": "169.254.0.1/30"}]}
    assert told("169.254.0.2", **linked) == told("10.0.1.9") == told("fe80::1") == ""


def test_next_hops_outside_are_watched_where_the_vpc_says_so() -> None:
    hops = [
        {"cidr": "0.0.0.0/0", "nextHopIP": f"198.51.100.{n}", "ecmpMode": "ecmp"} for n in (1, 2)
    ]
    there = {"enableExternal": True, "extraExternalSubnets": ["out"], "staticRoutes": hops}
    one = a_vpc("v1", enableBfd=True, **there)
    outside = Subnet("out", vlan="v", cidr="198.51.100.0/24", gateway="198.51.100.254")
    found = said(with_vpcs(one, subnets=(outside,)).start())
    sessions = [RowKey("BFD", f"v1-out/198.51.100.{n}") for n in (1, 2)]
    assert [found.rows[key].columns["logical_port"] for key in sessions] == ["v1-out"] * 2
    watched = {key for one in found.rows.values() for key in one.refs.get("bfd", ())}
    assert watched == set(sessions)
    assert not causes(found, "vpcs.kubeovn.io", "v1")


def test_two_vpcs_that_want_each_other_are_linked() -> None:
    one = a_vpc("a", vpcPeerings=[{"remoteVpc": "b", "localConnectIP": "169.254.0.1/30"}])
    two = a_vpc("b", vpcPeerings=[{"remoteVpc": "a", "localConnectIP": "169.254.0.2/30"}])
    found = said(with_vpcs(one, two).start())
    assert column(found, "Logical_Router_Port", "a-b", "peer") == frozenset({"b-a"})
    assert column(found, "Logical_Router_Port", "b-a", "networks") == {"169.254.0.2/30"}
    assert wanted(found, "vpcs.kubeovn.io", "a").status["vpcPeerings"] == ["b"]
    alone = said(with_vpcs(one, Vpc("b")).start())
    assert "both sides have to want it" in causes(alone, "vpcs.kubeovn.io", "a")


def test_a_subnet_is_a_switch_with_its_routers_port_and_dhcp() -> None:
    one = a_subnet(
        "s", vpc="v1", cidrBlock="10.1.0.0/24,fd00:1::/64", gateway="10.1.0.1,fd00:1::1",
        mtu=1400, enableDHCP=True, dhcpV4Options="lease_time=60,dns_server={8.8.8.8;8.8.4.4}",
        enableIPv6RA=True, ipv6RAConfigs="address_mode=slaac", enableMulticastSnoop=True,
        routeTable="rt1",
    )  # fmt: skip
    w = with_vpcs(Vpc("v1"), subnets=(one,)).start()
    w.pod("a", annotations={O + "logical_switch": "s"})
    found = said(w)
    assert column(found, "Logical_Switch_Port", "s-v1", "options") == {"router-port": "v1-s"}
    networks = column(found, "Logical_Router_Port", "v1-s", "networks")
    assert networks == {"10.1.0.1/24", "fd00:1::1/64"}
    assert column(found, "Logical_Router_Port", "v1-s", "ipv6_ra_configs") == {
        "address_mode": "slaac", "max_interval": "30", "min_interval": "5",
        "send_periodic": "true", "mtu": "1400",
    }  # fmt: skip
    assert column(found, "Logical_Router_Port", "v1-s", "options") == {"route_table": "rt1"}
    options = column(found, "DHCP_Options", "s/v4", "options")
    assert (options["lease_time"], options["router"], options["mtu"]) == ("60", "10.1.0.1", "1400")
    assert options["dns_server"] == "{8.8.8.8, 8.8.4.4}"
    config = column(found, "Logical_Switch", "s", "other_config")
    assert (config["mtu"], config["mcast_snoop"], config["mcast_ip4_src"]) == (
        "1400", "true", "10.1.0.1",
    )  # fmt: skip
    pod = row(found, "Logical_Switch_Port", "a.ns")
    assert pod.refs["dhcpv4_options"] == frozenset({RowKey("DHCP_Options", "s/v4")})
    assert not causes(found, "subnets.kubeovn.io", "s")
    told = wanted(found, "subnets.kubeovn.io", "s")
    assert told.status["accepted"] == {
        "vpc": "v1", "cidrBlock": "10.1.0.0/24,fd00:1::/64", "gateway": "10.1.0.1,fd00:1::1",
        "excludeIps": [],
    }  # fmt: skip
    assert told.status["v4usingIPs"] == 1
    assert told.status["v4availableIPs"] == 252
    assert told.status["v6availableIPs"] == 2**53 - 1
    assert {name: one[0] for name, one in told.conditions.items()} == {
        "Validated": "True", "Ready": "True", "Error": "False",
    }  # fmt: skip


def test_a_pool_may_be_named_in_matches() -> None:
    w = world(Subnet("s", default=True, cidr="10.1.0.0/24,fd01::/64")).start()
    ips = ("10.1.0.9", "10.1.0.17/30", "10.1.0.20..10.1.0.23", "fd01::10/124")
    bad = IpPool("bad", "s", addresses=("nobody",), listed=True)
    w.facts[POOLS] = {
        "pool-1": IpPool("pool-1", "s", addresses=ips, listed=True),
        "quiet": IpPool("quiet", "s", addresses=("10.1.0.40",)),
        "bad": bad,
    }
    found = said(w)
    sets = {key.name: row.columns for key, row in found.rows.items() if key.table == "Address_Set"}
    assert sets == {
        "pool.1": {
            "name": "pool.1",
            "addresses": frozenset({"10.1.0.9", "10.1.0.16/29", "fd01::10/124"}),
        }
    }


def test_options_of_a_port_are_all_that_it_is_told() -> None:
    w = world(Subnet("s", default=True, cidr="10.1.0.0/24", dhcp=True,
                     dhcp4="lease_time=60,dns_server=9.9.9.9")).start()  # fmt: skip
    w.pod("own", annotations={O + "dhcp-v4-options": "lease_time=600"})
    told = column(said(w), "DHCP_Options", "own.ns//v4", "options")
    assert (told["lease_time"], told["router"]) == ("600", "10.1.0.1")
    assert "dns_server" not in told


def test_a_pods_port_and_what_is_written_to_the_pod() -> None:
    w = world(Subnet("s", default=True, cidr="10.1.0.0/24")).start()
    w.pod("a")
    w.pod("b", annotations={O + "port_security": "true", O + "port_vips": "10.1.0.99, junk"})
    w.pod("c", annotations={O + "dhcp-v4-options": "router=10.1.0.77", O + "north_gateway": "x"})
    w.pod("d", annotations={O + "layer2_forward": "true"})
    found = said(w)
    lease = w.lease("a.ns")
    assert lease
    a = row(found, "Logical_Switch_Port", "a.ns")
    assert a.columns["addresses"] == frozenset({f"{lease.mac} 10.1.0.2"})
    assert a.columns["port_security"] == frozenset()
    assert a.parent == (RowKey("Logical_Switch", "s"), "ports")
    # These are the node daemon's: a container on the trunk has them.
    assert not {"parent_name", "tag", "tag_request"} & a.columns.keys()
    (secure,) = column(found, "Logical_Switch_Port", "b.ns", "port_security")
    assert secure.split()[1:] == ["10.1.0.3", "10.1.0.99"]
    assert column(found, "DHCP_Options", "c.ns//v4", "options")["router"] == "10.1.0.77"
    assert f"{O}north_gateway: 'x' is no address" in causes(found, "pods", "c", "ns")
    assert "unknown" in column(found, "Logical_Switch_Port", "d.ns", "addresses")
    assert wanted(found, "pods", "a", "ns").annotations == {
        O + "allocated": "true",
        O + "ip_address": "10.1.0.2",
        O + "mac_address": str(lease.mac),
        O + "cidr": "10.1.0.0/24",
        O + "gateway": "10.1.0.1",
        O + "logical_switch": "s",
        O + "logical_router": "ovn-cluster",
        O + "pod_nic_type": "veth-pair",
        O + "routed": "true",
    }
    w.have(SETTINGS, "", NetSettings(port_security=True))
    secured = said(w)
    assert column(secured, "Logical_Switch_Port", "a.ns", "port_security")


@pytest.mark.parametrize("yes", ["true", "True", " true", "TRUE "])
def test_a_flag_that_is_not_told_as_false_is_true(yes: str) -> None:
    w = world(Subnet("s", default=True, cidr="10.1.0.0/24")).start()
    w.have(SETTINGS, "", NetSettings(port_security=True))
    asked = {O + "port_security": yes, O + "layer2_forward": yes}
    assert not any(of_pod(asked))
    w.pod("a", annotations=asked)
    assert column(said(w), "Logical_Switch_Port", "a.ns", "port_security")
    assert "unknown" in column(said(w), "Logical_Switch_Port", "a.ns", "addresses")


def test_a_north_gateway_is_a_policy_for_what_leaves_the_vpc() -> None:
    w = world(
        Subnet("s", default=True, cidr="10.1.0.0/24,fd00:1::/64"),
        Subnet("t", cidr="10.2.0.0/24"),
        Subnet("wire", vlan="v", cidr="192.0.2.0/24"),
    ).start()
    asked = {
        "a": ("10.2.0.9, fd00:1::9", ""),
        "b": ("10.2.0.9,198.51.100.1", "'10.2.0.9,198.51.100.1' is no address of"),
        "c": ("192.0.2.9", "'192.0.2.9' is no address of"),
    }
    for name, (gateway, _) in asked.items():
        w.pod(name, annotations={O + "north_gateway": gateway})
    w.pod("out", annotations={O + "logical_switch": "wire", O + "north_gateway": "10.2.0.9"})
    found = said(w)
    for name, (_, cause) in asked.items():
        assert (
            (cause in causes(found, "pods", name, "ns"))
            if cause
            else not found.problems.get(ObjectRef("pods", "ns", name))
        )
    made = {key.name: found.rows[key] for key in found.rows if key.name.startswith("north/")}
    assert made.keys() == {"north/a.ns/ip4", "north/a.ns/ip6", "north/b.ns/ip4"}
    four = made["north/a.ns/ip4"]
    assert four.columns["match"] == "ip4.src == 10.1.0.2 && ip4.dst != {10.1.0.0/24, 10.2.0.0/24}"
    assert four.columns["nexthops"] == frozenset({"10.2.0.9"})
    assert four.parent == (RowKey("Logical_Router", "ovn-cluster"), "policies")
    # Who is on a wire has a router there, which is nobody's row.
    assert "is no address of" in causes(found, "pods", "out", "ns")


def test_a_machine_that_migrates_is_bound_at_both_ends() -> None:
    w = world(Subnet("s", default=True, cidr="10.1.0.0/24")).start()
    w.have(INSTANCES, Key("ns", "vm"), Machine("n2"))
    w.pod("virt-launcher-vm-zzzzz", vm="vm", node="n2")
    options = column(said(w), "Logical_Switch_Port", "vm.ns", "options")
    assert options == {"requested-chassis": "n2"}
    w.pod("virt-launcher-vm-aaaaa", vm="vm", node="n1")
    assert column(said(w), "Logical_Switch_Port", "vm.ns", "options") == {
        "requested-chassis": "n2,n1", "activation-strategy": "rarp",
    }  # fmt: skip
    w.have(INSTANCES, Key("ns", "vm"), Machine("n1"))
    w.pod("virt-launcher-vm-zzzzz", vm="vm", node="n2", over=True)
    options = column(said(w), "Logical_Switch_Port", "vm.ns", "options")
    assert options == {"requested-chassis": "n1"}
    assert (
        wanted(said(w), "pods", "virt-launcher-vm-aaaaa", "ns").annotations[O + "virtualmachine"]
        == "vm"
    )


def test_further_interfaces_have_ports_unless_only_their_address_is_ours() -> None:
    w = world(
        Subnet("s", default=True, cidr="10.1.0.0/24"),
        Subnet("t", provider="net1.ns.ovn", cidr="10.2.0.0/24"),
        Subnet("u", provider="mac.ns", cidr="10.3.0.0/24"),
    )
    config = {"cniVersion": "0.3.0", "type": "kube-ovn", "provider": "net1.ns.ovn"}
    definition = ATTACHMENT.decode(custom("net1", {"config": json.dumps(config)}, "ns"))
    assert definition == NetworkAttachment("net1.ns.ovn", logical=True)
    plugin = {"type": "macvlan", "ipam": {"type": "kube-ovn", "provider": "mac.ns"}}
    only = ATTACHMENT.decode(custom("mac", {"config": json.dumps(plugin)}, "ns"))
    w.facts[ATTACHMENTS] = {Key("ns", "net1"): definition, Key("ns", "mac"): only}
    w.start()
    routes = "mac.ns.kubernetes.io/routes"
    w.pod("a", annotations={"k8s.v1.cni.cncf.io/networks": "net1,mac", routes: '[{"gw": "::9"}]'})
    found = said(w)
    mine = {key.name: found.rows[key] for key in found.rows if key.name.startswith("a.ns")}
    assert mine.keys() == {"a.ns", "a.ns.net1.ns.ovn", "a.ns.mac.ns"}
    # Of a network that only takes addresses nothing is carried: a port that is off, no router.
    assert "enabled" not in mine["a.ns.net1.ns.ovn"].columns
    off = mine["a.ns.mac.ns"].columns
    assert (off["enabled"], off["type"]) == (False, "")
    assert dict(off["external_ids"])["millrace:routes"] == "::/0 ::9"  # type: ignore[arg-type]
    assert not [key for key in found.rows if "u" in key.name.split("-") and "Router" in key.table]
    told_by = column(found, "Logical_Switch", "u", "external_ids")
    assert told_by == {"millrace:networks": "10.3.0.0/24 10.3.0.1"}
    assert row(found, "Logical_Switch", "u").refs == {"load_balancer_group": frozenset()}
    told = wanted(found, "pods", "a", "ns").annotations
    assert told["net1.ns.ovn.kubernetes.io/ip_address"] == "10.2.0.2"
    assert told["mac.ns.kubernetes.io/ip_address"] == "10.3.0.2"
    assert "mac.ns.kubernetes.io/logical_router" not in told


def test_a_vip_that_pods_share_is_a_virtual_port() -> None:
    w = world(Subnet("s", default=True, cidr="10.1.0.0/24")).start()
    w.have(VIPS, "v", Vip("v", "ns", "s", addresses=("10.1.0.50",), selector=("app:db",)))
    asks = {O + "aaps": "v", O + "port_security": "true"}
    w.pod("a", annotations=asks, labels={"app": "db"})
    w.pod("b", labels={"app": "db"})
    w.pod("c", annotations=asks)
    w.pod("d", annotations=asks | {O + "aaps": "v, other"}, labels={"app": "db"})
    found = said(w)
    assert column(found, "Logical_Switch_Port", "v", "options") == {
        "virtual-ip": "10.1.0.50", "virtual-parents": "a.ns,d.ns",
    }  # fmt: skip
    (secure,) = column(found, "Logical_Switch_Port", "a.ns", "port_security")
    assert secure.endswith("10.1.0.50")
    (other,) = column(found, "Logical_Switch_Port", "c.ns", "port_security")
    assert "10.1.0.50" not in other
    assert "Vip v is not for this pod" in causes(found, "pods", "c", "ns")
    assert "Vip other is not for this pod" in causes(found, "pods", "d", "ns")
    told = wanted(found, "vips.kubeovn.io", "v").status
    assert (told["v4ip"], told["ready"]) == ("10.1.0.50", True)
    w.have(VIPS, "v", Vip("v", "ns", "s", addresses=("10.1.0.50",), attached=("t",)))
    assert "attachSubnets has no effect" in causes(said(w), "vips.kubeovn.io", "v")


def test_an_underlays_switch_has_the_wire_and_no_router() -> None:
    w = world(Subnet("s", vlan="v", cidr="192.0.2.0/24", gateway="192.0.2.254"))
    w.facts[VLANS] = {
        "v": Vlan("v", 100, "phys"),
        "w": Vlan("w", 100, "phys"),
        "x": Vlan("x", 5000, ""),
    }
    w.facts[PROVIDERS] = {"phys": ProviderNetwork("phys", "eth1", excluded=("n2",))}
    w.facts[NODES] = {"n1": NetNode("n1"), "n2": NetNode("n2")}
    w.start()
    w.pod("a", annotations={O + "logical_switch": "s", O + "ip_address": "192.0.2.9"})
    found = said(w)
    wire = row(found, "Logical_Switch_Port", "localnet.s")
    assert wire.columns["tag"] == frozenset({100})
    assert dict(wire.columns["options"]) == {"network_name": "phys"}  # type: ignore[arg-type]
    assert not [key for key in found.rows if key.table == "Logical_Router_Port"]
    told = wanted(found, "pods", "a", "ns").annotations
    assert (told[O + "vlan_id"], told[O + "provider_network"]) == ("100", "phys")
    assert O + "logical_router" not in told
    assert wanted(found, "vlans.kubeovn.io", "v").status["subnets"] == ["s"]
    assert "Vlan v has the id 100" in causes(found, "vlans.kubeovn.io", "w")
    assert "5000" in causes(found, "vlans.kubeovn.io", "x")
    assert wanted(found, "provider-networks.kubeovn.io", "phys").status["readyNodes"] == ["n1"]


def test_a_refused_subnet_says_why_and_has_no_switch() -> None:
    w = world(
        Subnet("a", "1", cidr="10.1.0.0/24"),
        Subnet("b", "2", cidr="10.1.0.0/25", external_gateway="10.1.0.9"),
        Subnet("c", "3", cidr="10.2.0.0/24", dhcp=True, dhcp4="lease_time", vips=("10.2.0.9",)),
        Subnet("d", "4", vpc="nowhere", cidr="10.3.0.0/24"),
    ).start()
    w.facts[VPCS] = {"ovn-cluster": Vpc("ovn-cluster", namespaces=("x",))}
    w.facts[SUBNETS]["a"] = replace(w.facts[SUBNETS]["a"], namespaces=("ns",))
    found = said(w)
    assert RowKey("Logical_Switch", "b") not in found.rows
    told = wanted(found, "subnets.kubeovn.io", "b")
    assert told.conditions["Validated"][0] == "False"
    assert "overlaps 10.1.0.0/24 of Subnet a" in told.conditions["Error"][2]
    assert "externalEgressGateway has no effect" in causes(found, "subnets.kubeovn.io", "b")
    assert "'lease_time' is no name=value" in causes(found, "subnets.kubeovn.io", "c")
    assert "spec.vips has no effect" in causes(found, "subnets.kubeovn.io", "c")
    assert RowKey("DHCP_Options", "c/v4") in found.rows
    assert "no Vpc 'nowhere'" in causes(found, "subnets.kubeovn.io", "d")
    assert "namespace ns may not use" in causes(found, "subnets.kubeovn.io", "a")


def test_what_is_ending_keeps_its_finalizer_while_it_is_used() -> None:
    w = with_vpcs(Vpc("v1"), subnets=(Subnet("s", vpc="v1", cidr="10.1.0.0/24"),)).start()
    w.pod("a", annotations={O + "logical_switch": "s"})
    w.have(SUBNETS, "s", Subnet("s", vpc="v1", cidr="10.1.0.0/24", ending=True))
    w.have(VPCS, "v1", Vpc("v1", ending=True))
    found = said(w)
    assert wanted(found, "subnets.kubeovn.io", "s").finalizer is True
    assert wanted(found, "vpcs.kubeovn.io", "v1").finalizer is True
    subnet = wanted(found, "subnets.kubeovn.io", "s").conditions["Ready"]
    assert subnet[1] == "Ending" and subnet[2].endswith("addresses of it: a.ns")
    vpc = wanted(found, "vpcs.kubeovn.io", "v1").conditions["Ready"]
    assert vpc[1] == "Ending" and vpc[2].endswith("Subnets of it: s")
    w.have(PODS, Key("ns", "a"), None)
    assert wanted(said(w), "subnets.kubeovn.io", "s").finalizer is False
    w.have(SUBNETS, "s", None)
    assert wanted(said(w), "vpcs.kubeovn.io", "v1").finalizer is False


def test_nodes_are_on_the_join_switch_and_nothing_grows_with_subnets_times_nodes() -> None:
    def rows(count: int, subnets: int, pods: int) -> dict[str, int]:
        w = World({NODES: {f"n{n}": NetNode(f"n{n}") for n in range(count)}})
        for kind, key, fact in stand_ins(NetSettings()):
            w.have(kind, key, fact)
        for n in range(subnets):
            w.have(SUBNETS, f"s{n}", Subnet(f"s{n}", cidr=f"10.1.{n}.0/24"))
        for n in range(pods):
            w.have(PODS, Key("ns", f"p{n}"), NetPod("ns", f"p{n}"))
        found = said(w.start())
        assert not found.problems
        port = row(found, "Logical_Switch_Port", "node-n0")
        assert port.parent == (RowKey("Logical_Switch", "join"), "ports")
        assert dict(port.columns["options"]) == {"requested-chassis": "n0"}  # type: ignore[arg-type]
        assert port.columns["port_security"] == port.columns["addresses"]
        counts: dict[str, int] = {}
        for key in found.rows:
            counts[key.table] = counts.get(key.table, 0) + 1
        return counts

    few, many = rows(2, 3, 5), rows(12, 13, 25)
    assert "Logical_Router_Static_Route" not in many
    assert "Logical_Router_Policy" not in many
    assert many["Logical_Router_Port"] - few["Logical_Router_Port"] == 10
    assert many["Logical_Switch_Port"] - few["Logical_Switch_Port"] == 10 + 10 + 20


def test_stand_ins_say_nothing_of_objects_that_are_not_there() -> None:
    w = World()
    for kind, key, fact in stand_ins(NetSettings()):
        w.have(kind, key, fact)
    found = said(w.start())
    assert {key.name for key in found.rows if key.table == "Logical_Switch"} == {
        "join", "ovn-default",
    }  # fmt: skip
    assert found.writes == {}
