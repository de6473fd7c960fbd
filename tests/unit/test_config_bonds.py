"""[[bond]] and the options of NICs in a node's file: what is taken, and what is refused where."""

from __future__ import annotations

from dataclasses import replace

import pytest

from controller.config import ConfigProblems, parse_node, read_node
from controller.config_machine import check_machine
from dataplane.model.config import BondConfig, BondMode, UplinkConfig, UplinkMode
from dataplane.model.machine import MachineFacts, NicFacts

HEAD = """\
[node]
name = "n"
[[bridge]]
name = "br-ex"
physnet = "p1"
[[bridge]]
name = "br-two"
physnet = "p2"
[[uplink]]
device = "up0"
bridge = "br-ex"
"""
"""Eleven lines."""

BOND = """\
[[bond]]
name = "bond0"
bridge = "br-two"
devices = ["eth1", "eth2"]
"""


def refusals(text: str) -> list[str]:
    with pytest.raises(ConfigProblems) as caught:
        parse_node(HEAD + text, "n.toml")
    return str(caught.value).splitlines()


def test_a_bond_of_named_devices_is_attached_by_af_xdp() -> None:
    config = parse_node(HEAD + BOND + "mtu = 3000\nqueues = 2\nbusy_poll = true\n", "n.toml")
    members = tuple(
        UplinkConfig(
            name, "br-two", UplinkMode.AF_XDP, 2, "best-effort", False, mtu=3000, busy_poll=True
        )
        for name in ("eth1", "eth2")
    )
    assert config.bonds == (BondConfig("bond0", "br-two", BondMode.ACTIVE_BACKUP, members),)
    assert [nic.device for nic in config.nics] == ["up0", "eth1", "eth2"]


def test_a_bond_of_pci_addresses_is_attached_by_vfio() -> None:
    text = BOND.replace("eth1", "0000:3b:00.0").replace("eth2", "0000:3b:00.1")
    config = parse_node(HEAD + text + 'mode = "balance-tcp"\nlacp_fast = true\n', "n.toml")
    assert {member.mode for member in config.bonds[0].members} == {UplinkMode.VFIO}
    assert config.bonds[0].lacp_fast
    assert config.dpdk.extra == ()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            BOND.replace(', "eth2"', ""),
            "n.toml:15: bond[0].devices has 1 device; a bond of less than two is none, and OVS"
            " refuses it; name two NICs, or make an [[uplink]] of the one",
        ),
        (
            BOND.replace("eth2", "up0"),
            "n.toml:15: bond[0].devices[1] = 'up0'; line 10 has it already; give a NIC to one"
            " uplink or one bond",
        ),
        (
            BOND.replace("eth2", "eth1"),
            "n.toml:15: bond[0].devices[1] = 'eth1'; this bond has it already; name each NIC once",
        ),
        (
            BOND + BOND.replace("bond0", "bond1").replace("eth1", "eth3"),
            "n.toml:19: bond[1].devices[1] = 'eth2'; line 15 has it already; give a NIC to one"
            " uplink or one bond",
        ),
        (
            BOND.replace("eth2", "0000:3b:00.0"),
            "n.toml:15: bond[0].devices mixes 0000:3b:00.0 with eth1; a PCI address is given to"
            " vfio and a name to AF_XDP or the kernel, and the members of a bond are attached"
            " alike; name all by PCI address, or all by name",
        ),
        (
            BOND + 'attach = "vfio"\n',
            "n.toml:16: bond[0].attach = 'vfio'; under vfio it is a PCI address in lower case, and"
            ' else a name; write attach = "af_xdp", or name the devices otherwise',
        ),
        (
            BOND + 'mode = "balance-slb"\n',
            "n.toml:16: bond[0].mode = 'balance-slb'; allowed are active-backup, balance-tcp;"
            ' write mode = "balance-tcp"',
        ),
        (
            BOND + "services = true\n",
            "n.toml:16: bond[0].services = true; the program for services answers for one NIC with"
            " the node's own addresses on it, and a bond has several; write services = false (OVN"
            " serves then), or make an [[uplink]] of one NIC",
        ),
        (
            BOND + "lacp_fast = true\n",
            "n.toml:16: bond[0].lacp_fast = true; LACP is spoken by bonds of mode balance-tcp"
            ' only; remove it, or write mode = "balance-tcp"',
        ),
        (
            BOND.replace("bond0", "br-ex"),
            "n.toml:13: bond[0].name = 'br-ex'; a NIC or a bridge has this name already; choose"
            " another name",
        ),
        (
            BOND + "mtu = 9000\n",
            "n.toml:16: bond[0].mtu = 9000; an AF_XDP frame has to fit one page with its headroom:"
            ' 3506 at most; write at most mtu = 3506, or use mode "vfio" or "kernel"',
        ),
        (
            'mode = "kernel"\nbusy_poll = true\n',
            "n.toml:13: uplink[0].busy_poll = true; only AF_XDP sockets are served by the NIC's"
            ' NAPI; remove it, or use the mode "af_xdp"',
        ),
        (
            "unsafe_noiommu = true\n",
            "n.toml:12: uplink[0].unsafe_noiommu = true; only vfio goes through an IOMMU; remove"
            ' it, or use the mode "vfio"',
        ),
    ],
)
def test_what_cannot_be_is_refused_at_its_line(text: str, said: str) -> None:
    assert refusals(text) == [said]


def test_workloads_use_what_the_uplink_below_the_tunnel_carries() -> None:
    tunnel = '[tunnel]\nbridge = "br-ex"\naddress = "10.0.0.1/24"\n'
    assert parse_node(HEAD + tunnel, "n.toml").port_mtu == 1442
    assert parse_node(HEAD + "mtu = 3000\n" + tunnel, "n.toml").port_mtu == 2942


GOOD = MachineFacts(
    cpus=frozenset({0, 1}),
    numa_nodes=1,
    memory_kib=16 << 20,
    available_kib=8 << 20,
    hugepages={},
    nics={name: NicFacts("", 1500, 2, 2) for name in ("up0", "eth1", "eth2")},
    pci_devices=frozenset(),
)


def problems(text: str, facts: MachineFacts = GOOD) -> list[str]:
    return [str(one) for one in check_machine(read_node(HEAD + text, "n.toml"), facts)]


def test_members_have_to_be_there() -> None:
    without = replace(GOOD, nics={"up0": GOOD.nics["up0"], "eth1": GOOD.nics["eth1"]})
    assert problems(BOND) == []
    assert problems(BOND, without) == [
        'n.toml:15: bond[0].devices[1] = "eth2"; there is no such network device here; there are:'
        " eth1, up0; did you mean eth1?"
    ]


def test_an_mtu_that_the_tunnel_cannot_carry_is_refused() -> None:
    tunnel = '[tunnel]\nbridge = "br-ex"\naddress = "10.0.0.1/24"\n'
    text = "mtu = 2000\n" + tunnel
    with_mtu = HEAD.replace('name = "n"\n', 'name = "n"\nport_mtu = 1950\n', 1) + text
    found = [str(one) for one in check_machine(read_node(with_mtu, "n.toml"), GOOD)]
    assert found == [
        "n.toml:3: node.port_mtu = 1950; up0, below the tunnel, has an MTU of 2000, of which"
        " geneve takes 58; write at most port_mtu = 1942, or give up0 an MTU of 2008"
    ]


def test_a_nic_whose_own_mtu_af_xdp_cannot_take_is_refused() -> None:
    big = replace(GOOD, nics={**GOOD.nics, "up0": NicFacts("", 9000, 2, 2)})
    assert problems("", big) == [
        'n.toml:10: uplink[0].device = "up0"; it has an MTU of 9000, and an AF_XDP frame has to'
        " fit one page: 3506 at most; write mtu = 3506 or less beside it, or use another mode"
    ]
    assert problems("mtu = 3506\n", big) == []
