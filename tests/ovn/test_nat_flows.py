"""NAT rules of Kubernetes objects in a real OVN: packets followed through northd's flows."""

from __future__ import annotations

from typing import Any

import pytest

from controller.network import external, nat
from tests.labs.factview import whole
from tests.labs.natobjects import GATEWAYS, custom, external_lab
from tests.labs.nbrows import put
from tests.labs.ovnsandbox import OvnSandbox, run

EIP = custom("OvnEip", "eip", externalSubnet="external204", type="nat", v4Ip="10.5.204.106")
PORT = custom("OvnEip", "vpc1-external204", type="lrp", v4Ip="10.5.204.105")
POD, POD_MAC, GATEWAY_MAC = "192.168.0.2", "0a:00:00:00:00:12", "0a:00:00:00:00:01"
PORT_MAC = "0a:58:0a:05:cc:69"
PEER, PEER_MAC = "10.5.204.77", "0a:00:00:00:00:77"


@pytest.fixture
def world(ovn: OvnSandbox) -> OvnSandbox:
    """vpc1, its switch and pod, and the external switch with its localnet port."""
    for at, name in enumerate(GATEWAYS):
        ovn.chassis(name, f"10.0.1.{at + 1}")
    for name in ("vpc1-subnet1", "external204"):
        ovn.switch(name)
    ovn.router("vpc1")
    ovn.connect("vpc1", "vpc1-subnet1", GATEWAY_MAC, "192.168.0.1/24")
    ovn.vm("vpc1-subnet1", "busybox01.vpc1", POD_MAC, POD)
    ovn.nbctl(
        "lsp-add", "external204", "localnet.external204",
        "--", "lsp-set-type", "localnet.external204", "localnet",
        "--", "lsp-set-addresses", "localnet.external204", "unknown",
        "--", "lsp-set-options", "localnet.external204", "network_name=external204",
    )  # fmt: skip
    ovn.sync()
    ovn.bind("busybox01.vpc1", "n1")
    return ovn


def apply(ovn: OvnSandbox, *objects: dict[str, Any]) -> None:
    said = whole((*external.UNITS, *nat.UNITS), external_lab(PORT, *objects))
    assert not said.problems
    put(ovn, said.rows)
    ovn.sbctl("lsp-bind", "cr-vpc1-external204", "gw1")
    # What the router would have learned of its neighbour outside; ovn-trace looks nowhere else.
    router = ovn.sbctl("--bare", "--columns=_uuid", "find", "Datapath_Binding",
                       "external_ids:name=vpc1").strip()  # fmt: skip
    ovn.sbctl(
        "create", "MAC_Binding", "logical_port=vpc1-external204", f"ip={PEER}",
        f'mac="{PEER_MAC}"', f"datapath={router}",
    )  # fmt: skip
    ovn.sync()


def trace(ovn: OvnSandbox, datapath: str, flow: str) -> str:
    return run(
        "ovn-trace", f"--db={ovn.sb}", "--ct=new", "--ct=new", datapath, flow, env=ovn.environment
    )


def outbound(ovn: OvnSandbox, what: str = "icmp4") -> str:
    return trace(
        ovn, "vpc1-subnet1",
        f'inport == "busybox01.vpc1" && eth.src == {POD_MAC} && eth.dst == {GATEWAY_MAC} && '
        f"ip4.src == {POD} && ip4.dst == {PEER} && ip.ttl == 64 && {what}",
    )  # fmt: skip


def inbound(ovn: OvnSandbox, what: str, to: str = "10.5.204.106", mac: str = PORT_MAC) -> str:
    return trace(
        ovn, "external204",
        f'inport == "localnet.external204" && eth.src == {PEER_MAC} && eth.dst == {mac} && '
        f"ip4.src == {PEER} && ip4.dst == {to} && ip.ttl == 64 && {what}",
    )  # fmt: skip


def test_a_floating_address_works_both_ways(world: OvnSandbox) -> None:
    apply(world, EIP, custom("OvnFip", "fip", ovnEip="eip", ipName="busybox01.vpc1"))
    said = outbound(world)
    assert "(ip4.src=10.5.204.106)" in said
    assert 'output to "localnet.external204"' in said
    said = inbound(world, "tcp && tcp.dst == 80")
    assert f"(ip4.dst={POD})" in said
    assert 'output to "busybox01.vpc1"' in said


def test_a_distributed_one_has_a_mac_of_its_own_and_leaves_by_its_node(world: OvnSandbox) -> None:
    fip = custom("OvnFip", "fip", ovnEip="eip", ipName="busybox01.vpc1", type="distributed")
    apply(world, EIP, fip)
    said = outbound(world)
    assert "(ip4.src=10.5.204.106)" in said
    assert "eth.src = 0a:58:0a:05:cc:6a" in said
    assert 'output to "localnet.external204"' in said


def test_a_subnet_leaves_with_one_address(world: OvnSandbox) -> None:
    apply(world, EIP, custom("OvnSnatRule", "snat", ovnEip="eip", vpcSubnet="vpc1-subnet1"))
    said = outbound(world)
    assert "(ip4.src=10.5.204.106)" in said
    assert 'output to "localnet.external204"' in said


def test_one_port_leads_inside_and_the_others_do_not(world: OvnSandbox) -> None:
    rule = custom("OvnDnatRule", "dnat", ovnEip="eip", ipName="busybox01.vpc1", protocol="tcp",
                  internalPort="22", externalPort="2222")  # fmt: skip
    apply(world, EIP, rule)
    said = inbound(world, "tcp && tcp.dst == 2222")
    assert f"{POD}:22" in said
    assert 'output to "busybox01.vpc1"' in said
    assert 'output to "busybox01.vpc1"' not in inbound(world, "tcp && tcp.dst == 2223")


def test_the_gateways_have_an_order_that_ovn_takes(world: OvnSandbox) -> None:
    apply(world, EIP)
    groups = world.sbctl("--bare", "--columns=name", "list", "HA_Chassis_Group").split()
    assert groups == ["mrk-vpc1-external204"]
    chassis = world.sbctl("--bare", "--columns=priority", "list", "HA_Chassis").split()
    assert sorted(chassis) == ["100", "99"]
