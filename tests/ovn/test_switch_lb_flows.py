"""A SwitchLBRule in a real OVN: a pod's packet to its address comes out at a pod behind it."""

from __future__ import annotations

import pytest

from controller.kinds import switchlbrule, vpc
from controller.network import services, switch_lb
from controller.network.facts import NODES, NetNode
from controller.network.rows import Row, RowKey
from controller.network.settings import SETTINGS, NetSettings
from dataplane.model.config import EastWest
from tests.labs.factview import FactView, whole
from tests.labs.natobjects import FORMS, add, custom
from tests.labs.nbrows import put
from tests.labs.ovnsandbox import OvnSandbox, run, wait_until
from tests.labs.serviceobjects import facts as service_facts
from tests.labs.serviceobjects import service_json, slice_json

FORMS["SwitchLBRule"] = (switchlbrule.RULES, switchlbrule.RULE)


@pytest.fixture
def world(ovn: OvnSandbox) -> OvnSandbox:
    """The sandbox's vpc0 and sw0, with the rows of one rule, as a VPC's group on its switch."""
    facts = add(
        {},
        custom("Vpc", "vpc0"),
        custom("Subnet", "sw0", vpc="vpc0", cidrBlock="10.1.0.0/24"),
        custom("SwitchLBRule", "slr", vip="1.1.1.1", endpoints=["10.1.0.12"],
               ports=[{"name": "web", "port": 8888, "targetPort": 80, "protocol": "TCP"}]),
    )  # fmt: skip
    assert facts[vpc.VPCS]
    said = whole(switch_lb.UNITS, facts)
    assert not said.problems
    group = RowKey("Load_Balancer_Group", "mrk-vpc0")
    members = services.balancers_of(FactView(facts), "vpc0")
    row = Row({"name": group.name}, {"load_balancer": members})
    put(ovn, {**said.rows, group: row})
    uuid = ovn.nbctl("--bare", "--columns=_uuid", "find", "Load_Balancer_Group").strip()
    ovn.nbctl("add", "Logical_Switch", "sw0", "load_balancer_group", uuid)
    ovn.sync()
    return ovn


def sent(ovn: OvnSandbox, port: int) -> str:
    return ovn.trace(
        "sw0",
        'inport == "vm1.ns" && eth.src == 0a:00:00:00:00:11 && eth.dst == 0a:00:00:00:00:01 && '
        f"ip4.src == 10.1.0.11 && ip4.dst == 1.1.1.1 && ip.ttl == 64 && tcp && tcp.dst == {port}",
        "--ct=new", "--ct=new",
    )  # fmt: skip


def test_a_packet_to_the_rules_address_comes_out_at_its_pod(world: OvnSandbox) -> None:
    said = sent(world, 8888)
    assert "ct_lb" in said
    assert "10.1.0.12:80" in said
    assert 'output to "vm2.ns"' in said


def test_another_port_of_it_leads_nowhere(world: OvnSandbox) -> None:
    assert 'output to "vm2.ns"' not in sent(world, 8889)


def test_a_local_service_leads_to_the_chassis_own_backends(ovn: OvnSandbox) -> None:
    """vm1 is here, vm2 on another chassis: a client here only ever gets to vm1."""
    ovn.sbctl("chassis-del", "n1")
    ovn.start_chassis("n1", "127.0.0.1", "phys", "br-ex")
    wait_until("br-int is there", lambda: "br-int" in ovn.vsctl("list-br"))
    ovn.vsctl("add-port", "br-int", "vm1", "--", "set", "Interface", "vm1", "type=dummy",
              "external_ids:iface-id=vm1.ns")  # fmt: skip
    here, there = (
        {"addresses": [f"10.1.0.1{n}"], "conditions": {"ready": True}, "nodeName": f"n{n}"}
        for n in (1, 2)
    )
    facts = {
        **service_facts(
            service_json("web", internalTrafficPolicy="Local"),
            slice_json("web-1", "web", here, there),
        ),
        NODES: {"n1": NetNode("n1"), "n2": NetNode("n2")},
        SETTINGS: {"": NetSettings(east_west=EastWest.SWITCH)},
    }
    said = whole(services.UNITS, facts)
    group = RowKey("Load_Balancer_Group", "mrk-ovn-cluster")
    members = services.balancers_of(FactView(facts), "ovn-cluster")
    put(ovn, {**said.rows, group: Row({"name": group.name}, {"load_balancer": members})})
    uuid = ovn.nbctl("--bare", "--columns=_uuid", "find", "Load_Balancer_Group").strip()
    ovn.nbctl("add", "Logical_Switch", "sw0", "load_balancer_group", uuid)
    ovn.nbctl("--timeout=60", "--wait=hv", "sync")
    groups = run("ovs-ofctl", "-O", "OpenFlow15", "dump-groups",
                 f"unix:{ovn.directory}/br-int.mgmt")  # fmt: skip
    assert "nat(dst=10.1.0.11:8080)" in groups
    assert "10.1.0.12" not in groups
