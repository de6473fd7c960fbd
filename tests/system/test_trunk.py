"""Containers on the node's trunk, through real OVS-DPDK and OVN."""

from __future__ import annotations

import json

from dataplane.model.names import TRUNK_PORT
from tests.labs import logical, traffic
from tests.labs.lab import CONTAINERS, PORT, QEMU, VIP_VM, VIP_WEB, Lab
from tests.labs.workloads import POD_NAMESPACE


def nested(lab: Lab) -> dict[str, int]:
    """What OVN has nested in the node's trunk, and by which tag."""
    listed = logical.nbctl(
        lab.nb, "--format=json", "--columns=name,parent_name,tag", "list", "Logical_Switch_Port"
    )
    rows = json.loads(listed)["data"]
    return {name: tag for name, parent, tag in rows if parent == f"trunk-{lab.node.name}"}


def pods_ports(lab: Lab) -> list[str]:
    """OVS's ports that are one container's."""
    return [port for port in lab.node.vsctl("list-ports", "br-int").split() if "mrp" in port]


def test_every_container_is_nested_and_none_has_an_ovs_port(lab: Lab) -> None:
    containers = lab.node.ask("status")["containers"]
    assert containers == {"attach": "trunk", "now": "trunk", "reason": "", "on_trunk": 3}
    tags = nested(lab)
    assert set(tags) == {f"{name}.{POD_NAMESPACE}" for name in CONTAINERS}
    assert len(set(tags.values())) == len(tags)
    assert pods_ports(lab) == []
    assert lab.node.vsctl("get", "Interface", TRUNK_PORT, "type").strip() == "afxdp"


def test_containers_reach_each_other_a_guest_and_a_vip(lab: Lab) -> None:
    c1 = lab.containers["c1"]
    for to in (CONTAINERS["c2"], CONTAINERS["c3"], QEMU[1]):
        received, mean = traffic.ping(c1, to, 5)
        print(f"ping {to}: {received}/5, {mean} ms")
        assert received == 5
        answers = traffic.http(c1, to, PORT, 20)
        assert answers.all_ok, answers.failures
    for vip in (VIP_WEB, VIP_VM):
        answers = traffic.http(c1, vip, 80, 20)
        assert answers.all_ok, answers.failures
