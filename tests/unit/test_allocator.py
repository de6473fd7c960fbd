"""The stage that gives addresses out: who gets what, what is kept, what is refused and why."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address

from controller.kinds.addresses import IPS, POOLS, VIPS, IpObject, IpPool, Vip
from controller.kinds.attachments import ATTACHMENTS, NetworkAttachment
from controller.kinds.subnet import SUBNETS, Accepted, Subnet
from controller.kinds.vpc import VPCS, Vpc
from controller.kinds.workloads import INSTANCES, MACHINES, SETS, Machine, OrdinalSet
from controller.kube.resources import Key
from controller.network.facts import (
    LEASES,
    NAMESPACES,
    NODES,
    PODS,
    NetNamespace,
    NetNode,
)
from controller.network.nets import USAGE
from controller.network.settings import SETTINGS, NetSettings
from controller.policy.model import Expression, Operator, Selector
from dataplane.model.addr import Mac
from tests.labs.allocation import world

O = "ovn.kubernetes.io/"  # noqa: E741


def test_a_pod_gets_the_first_address_behind_the_gateway_and_gives_it_back() -> None:
    w = world().start()
    w.pod("a")
    assert w.ip("a.ns") == "10.16.0.2"
    assert w.net("ovn-default").gateway == "10.16.0.1"
    assert w.facts[USAGE]["ovn-default", ""].using == {4: 1}
    w.have(PODS, Key("ns", "a"), None)
    assert w.lease("a.ns") is None
    w.pod("b")
    assert w.ip("b.ns") == "10.16.0.3", "what was released comes again as late as possible"


def test_pods_on_the_hosts_network_and_ended_ones_get_nothing() -> None:
    w = world().start()
    w.pod("a", host_network=True)
    w.pod("b")
    w.pod("b", over=True)
    assert LEASES not in w.facts or not w.facts[LEASES]


def test_a_namespaces_subnets_come_before_the_default() -> None:
    w = world(
        Subnet("ovn-default", default=True, cidr="10.16.0.0/24"),
        Subnet("listed", namespaces=("ns",), cidr="10.17.0.0/24"),
        Subnet("other", cidr="10.18.0.0/24"),
        Subnet(
            "selected",
            selectors=(Selector((Expression("team", Operator.IN, ("b",)),)),),
            cidr="10.19.0.0/24",
        ),
    ).start()
    w.pod("a")
    w.pod("b", annotations={O + "logical_switch": "other"})
    assert (w.ip("a.ns"), w.ip("b.ns")) == ("10.17.0.2", "10.18.0.2")
    w.have(SUBNETS, "listed", Subnet("listed", cidr="10.17.0.0/24"))
    w.have(NAMESPACES, "ns", NetNamespace("ns", {"team": "b"}))
    w.pod("c")
    assert w.ip("c.ns") == "10.19.0.2"
    assert w.ip("a.ns") == "10.17.0.2", "a pod's network is for life"
    w.have(NAMESPACES, "ns", NetNamespace("ns", {}, {O + "logical_switch": "other"}))
    w.pod("d")
    assert w.ip("d.ns") == "10.18.0.3"
    w.have(NAMESPACES, "ns", NetNamespace("ns"))
    w.have(VPCS, "v", Vpc("v", namespaces=("ns",), default_subnet="other"))
    w.pod("e")
    assert w.ip("e.ns") == "10.18.0.4"


def test_a_fixed_address_and_mac_and_the_older_annotations() -> None:
    w = world().start()
    w.pod("a", annotations={O + "ip_address": "10.16.0.77", O + "mac_address": "00:00:00:53:6B:B6"})
    w.pod("b", annotations={"kube-ovn/ipv4": "10.16.0.78", "kube-ovn/mac": "02:00:00:00:00:78"})
    w.pod("c", annotations={O + "ip_address": "10.16.0.77"})
    lease = w.lease("a.ns")
    assert lease and (w.ip("a.ns"), str(lease.mac)) == ("10.16.0.77", "00:00:00:53:6b:b6")
    assert w.ip("b.ns") == "10.16.0.78"
    assert w.lease("c.ns") is None
    assert "10.16.0.77 of subnet ovn-default is taken by a.ns" in w.why("pods", "ns", "c")
    w.have(PODS, Key("ns", "a"), None)
    assert w.ip("c.ns") == "10.16.0.77", "who waits is given it as soon as it is free"
    assert not w.why("pods", "ns", "c")


def test_a_pool_is_for_those_who_name_it_and_for_its_namespaces() -> None:
    w = world().start()
    w.have(POOLS, "p", IpPool("p", "ovn-default", addresses=("10.16.0.50..10.16.0.51",)))
    w.pod("a")
    w.pod("b", annotations={O + "ip_pool": "p"})
    assert (w.ip("a.ns"), w.ip("b.ns")) == ("10.16.0.2", "10.16.0.50")
    w.have(POOLS, "p", IpPool("p", "ovn-default", ("ns",), ("10.16.0.50..10.16.0.51",)))
    w.pod("c")
    w.pod("d")
    assert w.ip("c.ns") == "10.16.0.51"
    assert "pool p has no IPv4 address left" in w.why("pods", "ns", "d")
    w.have(POOLS, "p", IpPool("p", "ovn-default", ("ns",), ("10.16.0.50..10.16.0.52",)))
    assert w.ip("d.ns") == "10.16.0.52"


def test_a_pools_network_may_be_written_with_one_of_its_hosts() -> None:
    w = world().start()
    w.have(POOLS, "p", IpPool("p", "ovn-default", ("ns",), ("10.16.0.98/30",)))
    for name in "abcd":
        w.pod(name)
    assert [w.ip(f"{name}.ns") for name in "abcd"] == [f"10.16.0.{n}" for n in range(96, 100)]


def test_a_list_of_addresses_is_a_statefulsets_by_number() -> None:
    w = world().start()
    said = {O + "ip_pool": "10.16.0.20,10.16.0.21"}
    w.have(SETS, Key("ns", "web"), OrdinalSet(0, 2))
    w.pod("web-1", owner=("StatefulSet", "web"), annotations=said)
    w.pod("web-0", owner=("StatefulSet", "web"), annotations=said)
    assert (w.ip("web-0.ns"), w.ip("web-1.ns")) == ("10.16.0.20", "10.16.0.21")


def test_a_statefulsets_addresses_stay_until_it_shrinks() -> None:
    w = world().start()
    w.have(SETS, Key("ns", "web"), OrdinalSet(0, 2))
    for number in (0, 1):
        w.pod(f"web-{number}", owner=("StatefulSet", "web"))
        w.have(PODS, Key("ns", f"web-{number}"), None)
    assert (w.ip("web-0.ns"), w.ip("web-1.ns")) == ("10.16.0.2", "10.16.0.3")
    w.pod("other")
    w.pod("web-1", owner=("StatefulSet", "web"))
    assert (w.ip("other.ns"), w.ip("web-1.ns")) == ("10.16.0.4", "10.16.0.3")
    w.have(SETS, Key("ns", "web"), OrdinalSet(0, 1))
    assert w.ip("web-1.ns") == "10.16.0.3", "its pod is there yet"
    w.have(PODS, Key("ns", "web-1"), None)
    assert w.lease("web-1.ns") is None
    w.have(SETS, Key("ns", "web"), None)
    assert w.lease("web-0.ns") is None


def test_a_machines_address_is_its_own_through_a_migration() -> None:
    w = world().start()
    w.have(MACHINES, Key("ns", "vm"), Machine())
    w.have(INSTANCES, Key("ns", "vm"), Machine("n1"))
    w.pod("virt-launcher-vm-bbbbb", vm="vm", node="n1")
    w.annotate("virt-launcher-vm-bbbbb")
    w.pod("virt-launcher-vm-aaaaa", vm="vm", node="n2")
    lease = w.lease("vm.ns")
    assert lease and lease.pod.name == "virt-launcher-vm-bbbbb", "there it runs"
    w.have(INSTANCES, Key("ns", "vm"), Machine("n2"))
    assert (lease := w.lease("vm.ns")) and lease.pod.name == "virt-launcher-vm-aaaaa"
    w.have(PODS, Key("ns", "virt-launcher-vm-bbbbb"), None)
    w.have(PODS, Key("ns", "virt-launcher-vm-aaaaa"), None)
    w.have(INSTANCES, Key("ns", "vm"), None)
    assert w.ip("vm.ns") == "10.16.0.2"
    w.have(MACHINES, Key("ns", "vm"), None)
    assert w.lease("vm.ns") is None


def test_a_new_controller_gives_everybody_the_same() -> None:
    w = world().start()
    w.have(SETS, Key("ns", "web"), OrdinalSet(0, 1))
    for name in ("c", "b", "a", "web-0"):
        w.pod(name, owner=("StatefulSet", "web") if name == "web-0" else ("", ""))
    w.annotate("a")
    w.have(PODS, Key("ns", "web-0"), None)
    before = dict(w.facts[LEASES])
    # b and c were never told; only OVN's database has what they were given, and web-0's.
    again = w.again(w.held())
    assert {p: (one.addresses, one.mac) for p, one in again.facts[LEASES].items()} == {
        p: (one.addresses, one.mac) for p, one in before.items()
    }
    again.pod("0")
    assert again.ip("0.ns") == "10.16.0.6"


def test_who_claims_what_somebody_else_has_is_told_whose_it_is() -> None:
    w = world()
    told = {
        O + "allocated": "true",
        O + "ip_address": "10.16.0.9",
        O + "mac_address": "02:00:00:00:00:09",
        O + "logical_switch": "ovn-default",
    }
    for name in ("a", "b"):
        w.pod(name, annotations=told)
    w.start()
    assert (w.ip("a.ns"), w.ip("b.ns")) == ("10.16.0.9", "none")
    assert "taken by a.ns" in w.why("pods", "ns", "b")


def test_an_ip_object_reserves_and_a_vip_has_one_too() -> None:
    w = world().start()
    w.have(
        IPS, "a.ns", IpObject("a.ns", "a", "ns", "ovn-default", ("10.16.0.2",), "02:00:00:00:00:02")
    )
    w.have(VIPS, "v", Vip("v", "ns", "ovn-default"))
    w.pod("b")
    w.pod("a")
    assert (w.ip("vip/v"), w.ip("b.ns"), w.ip("a.ns")) == ("10.16.0.3", "10.16.0.4", "10.16.0.2")
    w.have(PODS, Key("ns", "a"), None)
    assert w.ip("a.ns") == "10.16.0.2"
    w.have(IPS, "a.ns", None)
    assert w.lease("a.ns") is None


def test_a_pod_has_a_vips_address_as_its_own_and_gives_it_back() -> None:
    w = world().start()
    w.pod("a", annotations={O + "vip": "v"})
    assert "names the Vip v, and there is none" in w.why("pods", "ns", "a")
    w.have(VIPS, "v", Vip("v", "ns", "ovn-default"))
    assert "has no address yet" in w.why("pods", "ns", "a")
    lease = w.lease("a.ns")
    assert lease, "its address is under the name of the port that will have it"
    told = Vip("v", "ns", "ovn-default", held=(w.ip("a.ns"),), held_mac=str(lease.mac))
    w.have(VIPS, "v", told)
    assert (w.ip("a.ns"), w.why("pods", "ns", "a")) == ("10.16.0.2", "")
    w.pod("b", annotations={O + "vip": "v"})
    assert "10.16.0.2 of subnet ovn-default is taken by a.ns" in w.why("pods", "ns", "b")
    w.annotate("a")
    again = w.again(w.held())
    assert (again.ip("a.ns"), again.ip("b.ns")) == ("10.16.0.2", "none")
    w.have(PODS, Key("ns", "b"), None)
    w.have(PODS, Key("ns", "a"), None)
    assert (w.ip("vip/v"), w.lease("a.ns")) == ("10.16.0.2", None)
    w.pod("c", annotations={O + "vip": "v"})
    assert (w.ip("c.ns"), w.lease("vip/v")) == ("10.16.0.2", None)
    assert (found := w.lease("c.ns")) and found.mac == lease.mac
    assert found.pod == Key("ns", "c")
    w.annotate("c")
    w.have(VIPS, "v", None)
    assert w.ip("c.ns") == "10.16.0.2", "what a pod has is its own for life"


def test_nodes_have_addresses_of_the_join_subnet() -> None:
    w = world(Subnet("join", cidr="100.64.0.0/16"))
    w.have(NODES, "n2", NetNode("n2", annotations={
        O + "allocated": "true", O + "ip_address": "100.64.0.9",
        O + "mac_address": "02:00:00:00:00:09", O + "logical_switch": "join",
    }))  # fmt: skip
    w.have(NODES, "n1", NetNode("n1"))
    w.start()
    assert (w.ip("node-n1"), w.ip("node-n2")) == ("100.64.0.2", "100.64.0.9")


def test_further_interfaces_are_of_their_providers_subnets() -> None:
    w = world(
        Subnet("ovn-default", default=True, cidr="10.16.0.0/24"),
        Subnet("second", provider="net1.ns.ovn", cidr="10.20.0.0/24"),
        Subnet("mac", provider="mac.ns", cidr="10.21.0.0/24"),
    ).start()
    w.pod("early", annotations={"k8s.v1.cni.cncf.io/networks": "net1"})
    assert "no such definition" in w.why("pods", "ns", "early")
    assert w.ip("early.ns") == "10.16.0.2"
    w.have(ATTACHMENTS, Key("ns", "net1"), NetworkAttachment("net1.ns.ovn", logical=True))
    w.have(ATTACHMENTS, Key("ns", "mac"), NetworkAttachment("mac.ns"))
    w.have(ATTACHMENTS, Key("ns", "foreign"), NetworkAttachment())
    assert w.ip("early.ns.net1.ns.ovn") == "10.20.0.2"
    w.pod(
        "a",
        annotations={
            "k8s.v1.cni.cncf.io/networks": "ns/net1@eth5, mac,foreign",
            "net1.ns.ovn.kubernetes.io/ip_address": "10.20.0.40",
        },
    )
    assert (w.ip("a.ns.net1.ns.ovn"), w.ip("a.ns.mac.ns")) == ("10.20.0.40", "10.21.0.2")
    w.pod(
        "b",
        annotations={
            "k8s.v1.cni.cncf.io/networks": '[{"name": "net1", "ips": ["10.20.0.50/24"],'
            ' "mac": "02:00:00:00:00:50"}]'
        },
    )
    lease = w.lease("b.ns.net1.ns.ovn")
    assert lease and (lease.addresses, lease.mac) == (
        (ip_address("10.20.0.50"),),
        Mac("02:00:00:00:00:50"),
    )
    assert not w.why("pods", "ns", "a") + w.why("pods", "ns", "b")


def test_interfaces_of_one_definition_have_addresses_of_their_own() -> None:
    w = world(
        Subnet("ovn-default", default=True, cidr="10.16.0.0/24"),
        Subnet("second", provider="net1.ns.ovn", cidr="10.20.0.0/24"),
    )
    w.facts[ATTACHMENTS] = {Key("ns", "net1"): NetworkAttachment("net1.ns.ovn", logical=True)}
    w.start()
    networks = "k8s.v1.cni.cncf.io/networks"
    w.pod(
        "a",
        annotations={
            networks: '[{"name": "net1", "interface": "east"}, {"name": "net1"}, {"name": "net1",'
            ' "interface": "west"}]',
            "net1.ns.kubernetes.io/ip_address.east": "10.20.0.40",
            "net1.ns.kubernetes.io/mac_address.east": "02:00:00:00:00:40",
            "net1.ns.ovn.kubernetes.io/ip_address.west": "10.20.0.41",
        },
    )
    first = w.lease("a.ns.net1.ns.ovn.east")
    assert first is not None
    assert (str(first.addresses[0]), str(first.mac)) == ("10.20.0.40", "02:00:00:00:00:40")
    # Multus calls the second further network net2.
    assert w.ip("a.ns.net1.ns.ovn.net2") == "10.20.0.2"
    assert w.ip("a.ns.net1.ns.ovn.west") == "10.20.0.41"
    assert w.lease("a.ns.net1.ns.ovn") is None
    # One interface that is called something has its annotations as well.
    said = {networks: "net1@east", "net1.ns.kubernetes.io/ip_address.east": "10.20.0.50"}
    w.pod("b", annotations=said)
    assert w.ip("b.ns.net1.ns.ovn") == "10.20.0.50"
    # A second one that is added later leaves the first what it has.
    w.annotate("b", "net1.ns.ovn")
    pod = w.facts[PODS][Key("ns", "b")]
    w.have(PODS, Key("ns", "b"), replace(pod, annotations={
        **pod.annotations, networks: "net1@east,net1@west",
    }))  # fmt: skip
    assert w.ip("b.ns.net1.ns.ovn") == "10.20.0.50"
    assert w.lease("b.ns.net1.ns.ovn.east") is None
    assert w.ip("b.ns.net1.ns.ovn.west")
    w.annotate("b", "net1.ns.ovn.west")
    assert w.ip("b.ns.net1.ns.ovn.west")
    w.pod("c", annotations={networks: "net1@same,net1@same"})
    assert "have one name" in w.why("pods", "ns", "c")
    w.pod("d", annotations={networks: "net1@ok,net1@North_1"})
    assert "'North_1'" in w.why("pods", "ns", "d")


def test_a_network_that_was_told_is_for_life_whatever_goes_or_breaks_meanwhile() -> None:
    w = world(
        Subnet("ovn-default", default=True, cidr="10.16.0.0/24"),
        Subnet("second", provider="net1.ns.ovn", cidr="10.20.0.0/24"),
    )
    w.facts[ATTACHMENTS] = {Key("ns", "net1"): NetworkAttachment("net1.ns.ovn", logical=True)}
    w.start()
    w.pod("a", annotations={"k8s.v1.cni.cncf.io/networks": "net1"})
    for provider in ("ovn", "net1.ns.ovn"):
        w.annotate("a", provider)
    w.have(ATTACHMENTS, Key("ns", "net1"), None)
    pod = w.facts[PODS][Key("ns", "a")]
    broken = {**pod.annotations, O + "ip_family": "ipv5", "k8s.v1.cni.cncf.io/networks": "[{"}
    w.have(PODS, Key("ns", "a"), replace(pod, annotations=broken, labels={"new": "label"}))
    assert (w.ip("a.ns"), w.ip("a.ns.net1.ns.ovn")) == ("10.16.0.2", "10.20.0.2")
    assert "write names, or a JSON list" in w.why("pods", "ns", "a")
    again = w.again(w.held())
    assert again.ip("a.ns.net1.ns.ovn") == "10.20.0.2"


def test_the_default_network_of_multus_takes_the_place_of_the_first_interface() -> None:
    w = world(
        Subnet("ovn-default", default=True, cidr="10.16.0.0/24"),
        Subnet("second", provider="net1.ns.ovn", cidr="10.20.0.0/24"),
    )
    w.facts[ATTACHMENTS] = {Key("ns", "net1"): NetworkAttachment("net1.ns.ovn", logical=True)}
    w.start()
    w.pod("a", annotations={"v1.multus-cni.io/default-network": "ns/net1"})
    assert w.lease("a.ns") is None
    assert w.ip("a.ns.net1.ns.ovn") == "10.20.0.2"


def test_overlapping_subnets_of_a_vpc_the_older_keeps_and_both_are_named() -> None:
    w = world(
        Subnet("new", "2026-01-02", cidr="10.16.0.128/25"),
        Subnet("old", "2026-01-01", cidr="10.16.0.0/24"),
        Subnet("elsewhere", "2026-01-03", vpc="other", cidr="10.16.0.0/24"),
    ).start()
    assert w.net("old").usable
    assert w.net("elsewhere").usable
    assert not w.net("new").usable
    assert "10.16.0.128/25 overlaps 10.16.0.0/24 of Subnet old" in w.why(
        "subnets.kubeovn.io", "", "new"
    )
    w.pod("a", annotations={O + "logical_switch": "new"})
    assert "Subnet new cannot be used" in w.why("pods", "ns", "a")
    w.have(SUBNETS, "old", None)
    assert w.ip("a.ns") == "10.16.0.130"


def test_gateways_are_checked_and_chosen() -> None:
    w = world(
        Subnet("dual", cidr="10.1.0.0/24,fd00:1::/64", gateway="10.1.0.254"),
        Subnet("outside", cidr="10.2.0.0/24", gateway="10.3.0.1"),
        Subnet("hostbits", cidr="10.4.0.7/24", excluded=("10.4.0.1..10.4.0.9",)),
        Subnet("mac", vlan="v"),
        Subnet("nothing"),
        Subnet("broken", cidr="10.0.0/33"),
    ).start()
    assert w.net("dual").gateway == "10.1.0.254,fd00:1::1"
    assert "10.3.0.1 is not in the cidrBlock" in w.why("subnets.kubeovn.io", "", "outside")
    assert w.net("hostbits").cidr == "10.4.0.0/24"
    assert w.net("mac").usable
    for name in ("nothing", "broken"):
        assert not w.net(name).usable
        assert w.why("subnets.kubeovn.io", "", name)
    for name, subnet in (("a", "hostbits"), ("b", "mac"), ("c", "dual")):
        w.pod(name, annotations={O + "logical_switch": subnet})
    assert (w.ip("a.ns"), w.ip("b.ns")) == ("10.4.0.10", "")
    assert w.ip("c.ns") == "10.1.0.1,fd00:1::2"


def test_a_network_changes_only_if_everybody_can_keep_their_address() -> None:
    w = world().start()
    w.pod("a")
    narrow = Subnet("ovn-default", default=True, cidr="10.17.0.0/24")
    w.have(SUBNETS, "ovn-default", narrow)
    assert w.net("ovn-default").cidr == "10.16.0.0/24"
    assert "10.16.0.2 of a.ns is not in its networks" in w.why(
        "subnets.kubeovn.io", "", "ovn-default"
    )
    w.have(SUBNETS, "ovn-default", replace(narrow, cidr="10.16.0.0/16"))
    assert w.net("ovn-default").cidr == "10.16.0.0/16"
    w.have(SUBNETS, "ovn-default", replace(narrow, cidr="10.16.0.0/16", vpc="other"))
    assert w.net("ovn-default").vpc == "ovn-cluster"
    w.have(SUBNETS, "ovn-default", replace(narrow, cidr="10.16.0.0/16", gateway="10.16.0.2"))
    assert w.net("ovn-default").gateway == "10.16.0.1"
    assert "is the address of a.ns" in w.why("subnets.kubeovn.io", "", "ovn-default")


def test_a_network_that_is_not_left_after_all_is_nobody_elses() -> None:
    w = world(
        Subnet("x", "2", default=True, cidr="10.0.0.0/24"),
        Subnet("y", "1", cidr="10.5.0.0/24"),
    ).start()
    w.pod("a")
    w.have(SUBNETS, "y", Subnet("y", "1", cidr="10.0.0.0/24"))
    assert "overlaps" in w.why("subnets.kubeovn.io", "", "y")
    w.have(SUBNETS, "x", Subnet("x", "2", default=True, cidr="10.1.0.0/24"))
    assert (w.net("x").cidr, w.net("y").cidr) == ("10.0.0.0/24", "10.5.0.0/24")
    w.have(PODS, Key("ns", "a"), None)
    w.have(SUBNETS, "x", Subnet("x", "2", default=True, cidr="10.2.0.0/24"))
    assert (w.net("x").cidr, w.net("y").cidr) == ("10.2.0.0/24", "10.0.0.0/24")


def test_what_was_in_force_is_so_for_a_new_controller_too() -> None:
    was = Accepted("ovn-cluster", "10.16.0.0/24", "10.16.0.1")
    w = world(Subnet("ovn-default", default=True, cidr="10.99.0.0/24", accepted=was))
    w.pod("a", annotations={
        O + "allocated": "true", O + "ip_address": "10.16.0.5",
        O + "mac_address": "02:00:00:00:00:05", O + "logical_switch": "ovn-default",
    })  # fmt: skip
    w.start()
    assert w.ip("a.ns") == "10.16.0.5"
    assert w.net("ovn-default").cidr == "10.16.0.0/24"
    assert "10.16.0.5 of a.ns" in w.why("subnets.kubeovn.io", "", "ovn-default")
    empty = world(Subnet("ovn-default", default=True, cidr="10.99.0.0/24", accepted=was)).start()
    assert empty.net("ovn-default").cidr == "10.99.0.0/24"
    broken = world(Subnet("ovn-default", cidr="nonsense", accepted=was)).start()
    assert broken.net("ovn-default").cidr == "10.16.0.0/24"


def test_a_subnet_that_is_being_deleted_gives_nothing_to_anybody_new() -> None:
    w = world(
        Subnet("ovn-default", default=True, cidr="10.16.0.0/24"),
        Subnet("old", namespaces=("ns",), cidr="10.17.0.0/24"),
        Subnet("other", cidr="10.18.0.0/24"),
    ).start()
    w.pod("a")
    w.have(SETS, Key("ns", "s"), OrdinalSet(0, 1))
    w.pod("s-0", owner=("StatefulSet", "s"))
    going = Subnet("old", namespaces=("ns",), cidr="10.17.0.0/24", ending=True)
    w.have(SUBNETS, "old", going)
    w.pod("b", annotations={O + "logical_switch": "old"})
    w.pod("c", annotations={O + "logical_switch": "old,other"})
    assert w.lease("b.ns") is None
    assert "Subnet old is being deleted" in w.why("pods", "ns", "b")
    assert w.ip("c.ns") == "10.18.0.2"
    w.have(PODS, Key("ns", "s-0"), None)
    w.pod("s-0", owner=("StatefulSet", "s"))
    assert (w.ip("a.ns"), w.ip("s-0.ns")) == ("10.17.0.2", "10.16.0.2"), "a new pod goes elsewhere"
    w.have(SUBNETS, "old", Subnet("old", cidr="10.17.0.0/24"))
    assert w.ip("b.ns").startswith("10.17.0.") and not w.why("pods", "ns", "b")
    w.have(SUBNETS, "ovn-default", Subnet("ovn-default", cidr="10.16.0.0/24", ending=True))
    w.pod("d", annotations={O + "logical_switch": "ovn-default"})
    assert w.ip("d.ns") == "10.16.0.3", "the settings put another in its place"


def test_no_namespace_waits_for_a_default_subnet_that_is_being_deleted() -> None:
    marked = Subnet("d", default=True, cidr="10.17.0.0/24")
    w = world(Subnet("ovn-default", cidr="10.16.0.0/24"), marked).start()
    w.pod("a")
    w.have(SUBNETS, "d", replace(marked, ending=True))
    w.pod("b")
    assert (w.ip("a.ns"), w.ip("b.ns")) == ("10.17.0.2", "10.16.0.2")
    mine = Subnet("mine", vpc="v", cidr="10.18.0.0/24")
    w.have(SUBNETS, "mine", mine)
    w.have(VPCS, "v", Vpc("v", namespaces=("ns",), default_subnet="mine"))
    w.pod("c")
    w.have(SUBNETS, "mine", replace(mine, ending=True))
    w.pod("d")
    assert (w.ip("c.ns"), w.ip("d.ns")) == ("10.18.0.2", "10.16.0.3")


def test_the_settings_default_subnet_gives_nothing_if_no_other_comes_in_its_place() -> None:
    w = world(Subnet("ovn-default", default=True, cidr="10.16.0.0/24", ending=True))
    w.facts[SETTINGS] = {"": NetSettings(default_cidr="")}
    w.start()
    w.pod("a")
    assert w.lease("a.ns") is None
    assert "Subnet ovn-default is being deleted" in w.why("pods", "ns", "a")


def test_a_network_whose_provider_no_subnet_has_is_waited_for() -> None:
    w = world(
        Subnet("ovn-default", default=True, cidr="10.16.0.0/24"),
        Subnet("mine", namespaces=("ns",), cidr="10.17.0.0/24"),
    ).start()
    w.have(ATTACHMENTS, Key("ns", "net1"), NetworkAttachment("net1.ns.ovn", logical=True))
    w.have(ATTACHMENTS, Key("ns", "mac"), NetworkAttachment("mac.ns"))
    w.pod("a", annotations={"k8s.v1.cni.cncf.io/networks": "net1,mac"})
    assert (w.ip("a.ns"), w.lease("a.ns.net1.ns.ovn")) == ("10.17.0.2", None)
    assert w.lease("a.ns.mac.ns") is None
    w.annotate("a", "ovn")
    told = w.why("pods", "ns", "a")
    assert "no Subnet has the provider net1.ns.ovn" in told
    assert "no Subnet has the provider mac.ns" in told
    w.pod("b", annotations={"k8s.v1.cni.cncf.io/networks": "net1@e1,net1@e2"})
    assert "write spec.provider: net1.ns.ovn in one" in w.why("pods", "ns", "b")
    w.have(SUBNETS, "late", Subnet("late", cidr="10.18.0.0/24", provider="net1.ns.ovn"))
    assert w.ip("a.ns.net1.ns.ovn") == "10.18.0.2", "and not of the first interface's"
    assert "net1.ns.ovn" not in w.why("pods", "ns", "a")


def test_what_was_excluded_is_so_for_a_new_controller_too() -> None:
    whole = Subnet(
        "ovn-default", default=True, cidr="10.16.0.0/24", excluded=("10.16.0.2..10.16.0.9",)
    )
    torn = Subnet("ovn-default", default=True)
    w = world(whole).start()
    w.have(SUBNETS, "ovn-default", torn)
    w.pod("a")
    assert w.ip("a.ns") == "10.16.0.10"
    was = Accepted("ovn-cluster", "10.16.0.0/24", "10.16.0.1", ("10.16.0.2..10.16.0.9",))
    anew = world(replace(torn, accepted=was)).start()
    anew.pod("a")
    assert anew.ip("a.ns") == "10.16.0.10"
    old = Accepted("ovn-cluster", "10.16.0.0/24", "10.16.0.1")
    assert world(replace(whole, accepted=old)).start().net("ovn-default").excluded == whole.excluded


def test_exclusions_go_with_their_network_and_stay_where_its_change_is_refused() -> None:
    whole = Subnet(
        "ovn-default", default=True, cidr="10.1.0.0/24", excluded=("10.1.0.2..10.1.0.9",)
    )
    w = world(whole).start()
    w.pod("x")
    w.have(SUBNETS, "ovn-default", replace(whole, cidr="10.2.0.0/24", excluded=("10.2.0.2",)))
    assert "10.1.0.10 of x.ns" in w.why("subnets.kubeovn.io", "", "ovn-default")
    w.pod("y")
    anew = w.again(w.held())
    anew.pod("z")
    assert (w.ip("y.ns"), anew.ip("z.ns")) == ("10.1.0.11", "10.1.0.12")
    for name in "xyz":
        anew.have(PODS, Key("ns", name), None)
    assert anew.net("ovn-default").excluded == ("10.2.0.2",)
    anew.pod("later")
    assert anew.ip("later.ns") == "10.2.0.3"
    w.have(SUBNETS, "ovn-default", replace(whole, excluded=("10.1.0.12..10.1.0.99",)))
    assert w.net("ovn-default").excluded == ("10.1.0.12..10.1.0.99",), "by themselves at once"


def test_a_pool_that_goes_leaves_its_addresses_to_the_subnet() -> None:
    w = world(Subnet("ovn-default", default=True, cidr="10.16.0.0/24")).start()
    before = w.facts[USAGE]["ovn-default", ""].available[4]
    w.have(POOLS, "p", IpPool("p", "ovn-default", (), ("10.16.0.50..10.16.0.51",)))
    assert w.facts[USAGE]["ovn-default", ""].available[4] == before - 2
    w.have(POOLS, "p", None)
    assert w.facts[USAGE]["ovn-default", ""].available[4] == before


def test_a_pool_that_could_never_be_is_forgotten_when_it_goes() -> None:
    w = world().start()
    w.have(POOLS, "p", IpPool("p", "nosuch", (), ("10.16.0.50",)))
    assert "there is no subnet 'nosuch'" in w.why("ippools.kubeovn.io", "", "p")
    w.have(POOLS, "p", None)
    assert not w.why("ippools.kubeovn.io", "", "p")
