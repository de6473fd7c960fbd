"""What a node daemon makes of rows of Kubernetes' objects: its own way, and pods' interfaces."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address, ip_interface, ip_network

from controller.kinds.subnet import SUBNETS, Subnet
from controller.kinds.underlay import PROVIDERS, VLANS, ProviderNetwork, Vlan
from controller.network import nodes, ports, subnet, underlay, vpc
from controller.network.facts import NODES, NetNode
from controller.network.settings import NetSettings
from controller.network.standins import stand_ins
from controller.translate.hostaccess import host_access
from controller.translate.index import Index
from controller.translate.node import logical_port
from controller.translate.ovn import NbSnapshot, SbSnapshot
from dataplane.model.names import KUBERNETES_OWNER, ROUTES_KEY
from tests.labs.allocation import World
from tests.labs.factview import whole
from tests.labs.rowsnapshot import snapshot

UNITS = (*vpc.UNITS, *subnet.UNITS, *ports.UNITS, *underlay.UNITS, *nodes.UNITS)
O = "ovn.kubernetes.io/"  # noqa: E741


def northbound() -> NbSnapshot:
    w = World({NODES: {"n1": NetNode("n1"), "n2": NetNode("n2")}})
    w.facts[VLANS] = {"v": Vlan("v", 5, "phys")}
    w.facts[PROVIDERS] = {"phys": ProviderNetwork("phys", "eth1")}
    for kind, key, fact in stand_ins(NetSettings(default_cidr="10.16.0.0/16,fd00:16::/64")):
        w.have(kind, key, fact)
    w.have(SUBNETS, "more", Subnet("more", cidr="10.17.0.0/16", mtu=1400))
    wire = Subnet("wire", vlan="v", cidr="198.51.100.0/24,2001:db8::/64", gateway="198.51.100.254")
    w.have(SUBNETS, "wire", wire)
    w.start()
    w.pod("a")
    w.pod("b", annotations={O + "logical_switch": "more"})
    w.pod("c", annotations={O + "logical_switch": "wire"})
    return snapshot(whole(UNITS, w.facts).rows)


def test_a_nodes_own_port_leads_to_the_default_vpcs_networks_and_to_no_wire() -> None:
    nb = northbound()
    seen = host_access(Index(nb, SbSnapshot()), "n2")
    assert seen is not None
    assert (seen.port, seen.addresses) == ("node-n2", (ip_interface("100.64.0.3/16"),))
    assert seen.routes == (
        (ip_network("10.16.0.0/16"), IPv4Address("100.64.0.1")),
        (ip_network("10.17.0.0/16"), IPv4Address("100.64.0.1")),
    )
    assert host_access(Index(nb, SbSnapshot()), "n3") is None


def test_pods_interfaces_know_their_network_and_their_way_out() -> None:
    nb = northbound()
    a = logical_port(nb, SbSnapshot(), "a.ns")
    assert a is not None
    assert a.addresses == (ip_interface("10.16.0.2/16"), ip_interface("fd00:16::2/64"))
    assert (str(a.gateway), str(a.gateway6)) == ("10.16.0.1", "fd00:16::1")
    assert (a.mtu, a.owner) == (None, KUBERNETES_OWNER)
    b = logical_port(nb, SbSnapshot(), "b.ns")
    assert b is not None
    assert b.mtu == 1400


def test_a_pod_on_a_wire_leaves_by_the_wires_own_router() -> None:
    c = logical_port(northbound(), SbSnapshot(), "c.ns")
    assert c is not None
    assert c.addresses == (ip_interface("198.51.100.1/24"), ip_interface("2001:db8::2/64"))
    assert (str(c.gateway), str(c.gateway6)) == ("198.51.100.254", "2001:db8::1")


def test_of_the_routes_that_a_row_names_those_hold_that_can_be_read() -> None:
    nb = northbound()
    at, row = next((at, row) for at, row in nb.switch_ports.items() if row.name == "a.ns")
    text = "10.9.0.0/16 10.16.0.9,10.8.0.0/16 fd00:16::9,words,fd00:9::/64 fd00:16::9,10.7.0.0/16"
    told = replace(row, external_ids={**row.external_ids, ROUTES_KEY: text})
    rows = replace(nb, switch_ports={**nb.switch_ports, at: told})
    a = logical_port(rows, SbSnapshot(), "a.ns")
    assert a is not None
    assert [(str(route.to), str(route.via)) for route in a.routes] == [
        ("10.9.0.0/16", "10.16.0.9"), ("fd00:9::/64", "fd00:16::9"), ("10.7.0.0/16", "None")
    ]  # fmt: skip
