"""Rows of NICs and bonds: what a node's file makes of them."""

from __future__ import annotations

from controller.config import parse_node
from dataplane.model.config import NodeConfig
from dataplane.model.rows import Bond, BondMember, NicSettings
from dataplane.model.state import HeldIds, NodeState
from dataplane.plan.node import TABLE_ORDER, NodePlan, plan

HEAD = '[node]\nname = "n"\n[[bridge]]\nname = "br-ex"\n[[bridge]]\nname = "br-two"\n'
BOND = '[[bond]]\nname = "bond0"\nbridge = "br-two"\n'


def config(text: str) -> NodeConfig:
    return parse_node(HEAD + text, "n.toml")


def planned(text: str) -> NodePlan:
    return plan(NodeState(config=config(text), attachments=(), services=(), gateway=None, nics={},
                          held=HeldIds()))  # fmt: skip


def test_the_kernel_is_told_of_af_xdp_and_kernel_uplinks_and_ovs_of_vfio() -> None:
    rows = planned(
        '[[uplink]]\ndevice = "eth1"\nbridge = "br-ex"\nqueues = 4\nmtu = 3000\n'
        "busy_poll = true\n"
        '[[uplink]]\ndevice = "eth2"\nbridge = "br-ex"\nmode = "kernel"\nmtu = 9000\n'
        '[[uplink]]\ndevice = "eth3"\nbridge = "br-ex"\nmode = "kernel"\n'
        '[[uplink]]\ndevice = "0000:3b:00.0"\nbridge = "br-two"\nmode = "vfio"\nmtu = 9000\n'
    )
    assert rows.nics == {
        "eth1": NicSettings(3000, 4, busy_poll=True),
        "eth2": NicSettings(9000, None, busy_poll=False),
    }
    assert {name: port.mtu_request for name, port in rows.ports.items()} == {
        "eth1": None, "eth2": None, "eth3": None, "vf00003b000": 9000,
    }  # fmt: skip


def test_a_bond_is_one_row_and_its_members_no_ports() -> None:
    rows = planned(BOND + 'devices = ["eth2", "eth1"]\n')
    options = (("n_rxq", "1"), ("xdp-mode", "best-effort"))
    assert rows.bonds == {
        "bond0": Bond(
            "br-two", "active-backup", "off", (),
            tuple(BondMember(name, "afxdp", options, None) for name in ("eth1", "eth2")),
        )
    }  # fmt: skip
    assert rows.ports == {}
    assert set(rows.nics) == {"eth1", "eth2"}


def test_balance_tcp_under_vfio() -> None:
    text = 'devices = ["0000:3b:00.0", "0000:3b:00.1"]\nmode = "balance-tcp"\nmtu = 9000\n'
    bond = planned(BOND + text).bonds["bond0"]
    assert (bond.mode, bond.lacp) == ("balance-tcp", "active")
    assert dict(bond.other_config) == {"lb-output-action": "true", "lacp-time": "slow"}
    assert [(m.name, m.type, m.mtu_request) for m in bond.members] == [
        ("vf00003b000", "dpdk", 9000), ("vf00003b001", "dpdk", 9000),
    ]  # fmt: skip


def test_nics_are_told_before_ports_are_made() -> None:
    """A program does not attach to a link whose MTU is too big, and n_rxq has to fit."""
    assert TABLE_ORDER.index("nics") < TABLE_ORDER.index("ports") < TABLE_ORDER.index("bonds")
