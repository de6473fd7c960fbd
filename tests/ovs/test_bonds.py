"""The table `bonds` against a real OVS with the dummy datapath: rows, and what OVS says of them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import pytest

from dataplane.drivers.ovsbonds import BondsTable
from dataplane.drivers.ovsdb import Ovs
from dataplane.drivers.ovsports import PortsTable
from dataplane.drivers.ovstables import BridgesTable
from dataplane.model.addr import Mac
from dataplane.model.config import BondConfig, BondMode, UplinkConfig, UplinkMode
from dataplane.model.rows import Bond, BondMember, Bridge, Port
from dataplane.plan import ports as rows
from dataplane.reconcile.backoff import Backoff
from dataplane.reconcile.reconciler import Reconciler
from dataplane.reconcile.status import State
from tests.labs.sandbox import Sandbox, wait_until

Desired = Mapping[str, Mapping[Any, Any]]

BRIDGES = {"br-ex": Bridge("netdev", "standalone", Mac("0a:59:00:00:00:01"))}


def bond(mode: BondMode, *names: str) -> Bond:
    """The planned row, with members of the one type that needs no NIC."""
    nics = tuple(
        UplinkConfig(name, "br-ex", UplinkMode.KERNEL, 1, "native", False) for name in names
    )
    row = rows.bond(BondConfig("bond0", "br-ex", mode, nics, lacp_fast=True))
    return replace(row, members=tuple(replace(one, type="dummy") for one in row.members))


@pytest.fixture
def ovs(sandbox: Sandbox) -> Iterator[Ovs]:
    connection = Ovs(sandbox.remote)
    connection.start()
    connection.wait_synced(10)
    yield connection
    connection.stop()


def reconciler(ovs: Ovs) -> Reconciler:
    return Reconciler([BridgesTable(ovs), PortsTable(ovs), BondsTable(ovs)], Backoff())


def desired(**bonds: Bond) -> Desired:
    return {"bridges": BRIDGES, "ports": {}, "bonds": bonds}


def test_active_backup_with_one_member_active(ovs: Ovs, sandbox: Sandbox) -> None:
    one = reconciler(ovs)
    wanted = desired(bond0=bond(BondMode.ACTIVE_BACKUP, "p1", "p2"))
    assert one.apply(wanted, 0).failed == 0, one.statuses()
    assert one.apply(wanted, 0).writes == 0
    assert reconciler(ovs).apply(wanted, 0).writes == 0

    def said() -> str:
        return sandbox.appctl("bond/show", "bond0")

    wait_until(lambda: "active-backup primary" in said() or "active member" in said(), "a bond")
    assert "bond_mode: active-backup" in said()
    assert {found.group(1) for found in re.finditer(r"member (p\d): ", said())} == {"p1", "p2"}
    active = re.findall(r"member (p\d): enabled\n\s+active member", said())
    assert len(active) == 1
    other = {"p1": "p2", "p2": "p1"}[active[0]]
    sandbox.appctl("netdev-dummy/set-admin-state", active[0], "down")
    wait_until(
        lambda: re.search(rf"member {other}: enabled\n\s+active member", said()), "a failover"
    )


def test_balance_tcp_speaks_lacp_and_outputs_without_recirculation(
    ovs: Ovs, sandbox: Sandbox
) -> None:
    one = reconciler(ovs)
    wanted = desired(bond0=bond(BondMode.BALANCE_TCP, "p1", "p2"))
    assert one.apply(wanted, 0).failed == 0, one.statuses()
    wait_until(lambda: "lacp_status: negotiated" in sandbox.appctl("bond/show", "bond0")
               or "lacp_status: configured" in sandbox.appctl("bond/show", "bond0"),
               "LACP")  # fmt: skip
    said = sandbox.appctl("bond/show", "bond0")
    assert "bond_mode: balance-tcp" in said
    assert "lb_output action: enabled" in said
    lacp = sandbox.appctl("lacp/show", "bond0")
    assert "status: active" in lacp
    assert "lacp_time: fast" in lacp
    assert {found.group(1) for found in re.finditer(r"member: (p\d):", lacp)} == {"p1", "p2"}


def test_lacp_is_negotiated_with_another_ovs_bond_and_a_silent_member_is_out(
    ovs: Ovs, sandbox: Sandbox
) -> None:
    """The partner is a bond of OVS's own, over unix sockets between dummy devices; no switch."""
    row = bond(BondMode.BALANCE_TCP, "p1", "p2")
    members = tuple(
        replace(one, options=(("pstream", f"punix:{sandbox.rundir}/{one.name}.sock"),))
        for one in row.members
    )
    one = reconciler(ovs)
    assert one.apply(desired(bond0=replace(row, members=members)), 0).failed == 0, one.statuses()
    words = [
        "add-br", "br-far", "--", "set", "Bridge", "br-far", "datapath_type=dummy",
        "other_config:hwaddr=0a:59:00:00:00:02",
        "--", "add-bond", "br-far", "bond9", "q1", "q2", "bond_mode=balance-tcp", "lacp=active",
        "other_config:lacp-time=fast",
    ]  # fmt: skip
    for number in "12":
        words += ["--", "set", "Interface", f"q{number}", "type=dummy",
                  f"options:stream=unix:{sandbox.rundir}/p{number}.sock"]  # fmt: skip
    sandbox.vsctl(*words)

    def said() -> str:
        return sandbox.appctl("bond/show", "bond0")

    wait_until(
        lambda: "lacp_status: negotiated" in said() and said().count(": enabled\n") == 2,
        "LACP agreed upon by both members",
        60,
    )
    assert "status: active negotiated" in sandbox.appctl("lacp/show", "bond0")
    # Its carrier stays: only LACP can tell that nobody answers there.
    sandbox.vsctl("--", "--id=@q1", "get", "Interface", "q1", "--", "set", "Port", "bond9",
                  "interfaces=@q1")  # fmt: skip
    # The other agrees anew, since its partner has changed.
    wait_until(
        lambda: "member p2: disabled" in (now := said()) and "member p1: enabled" in now,
        "the silent member out, and the other in",
        60,
    )


def test_a_changed_bond_is_changed_and_a_dropped_one_removed(ovs: Ovs, sandbox: Sandbox) -> None:
    one = reconciler(ovs)
    one.apply(desired(bond0=bond(BondMode.BALANCE_TCP, "p1", "p2")), 0)
    sandbox.vsctl("set", "Port", "bond0", "other_config:bond-rebalance-interval=20000")
    kept = sandbox.vsctl("get", "Interface", "p1", "_uuid")
    wanted = desired(bond0=bond(BondMode.ACTIVE_BACKUP, "p1", "p3"))
    assert one.apply(wanted, 1).failed == 0, one.statuses()
    assert sandbox.vsctl("get", "Interface", "p1", "_uuid") == kept
    assert set(sandbox.vsctl("list-ifaces", "br-ex").split()) == {"p1", "p3"}
    config = sandbox.vsctl("get", "Port", "bond0", "other_config").strip()
    assert config == '{bond-rebalance-interval="20000"}'
    assert sandbox.vsctl("get", "Port", "bond0", "lacp").strip() == "off"
    assert one.apply(desired(), 2).failed == 0
    assert sandbox.vsctl("list-ports", "br-ex").split() == []


def test_a_member_that_ovs_refuses_is_left_out_and_named(ovs: Ovs, sandbox: Sandbox) -> None:
    one = reconciler(ovs)
    good = bond(BondMode.ACTIVE_BACKUP, "p1", "p2")
    bad = BondMember("p2", "dpdkvhostuserclient", (), None)
    wanted = desired(bond0=replace(good, members=(good.members[0], bad)))
    assert one.apply(wanted, 0).failed == 1
    assert sandbox.vsctl("list-ifaces", "br-ex").split() == ["p1"]
    reason = one.statuses()["bonds", "bond0"].reason
    assert reason.startswith("it runs without p2: ")
    assert one.apply(desired(bond0=good), 100).failed == 0, one.statuses()
    assert set(sandbox.vsctl("list-ifaces", "br-ex").split()) == {"p1", "p2"}


def test_a_bond_without_a_member_that_ovs_takes_is_taken_back(ovs: Ovs, sandbox: Sandbox) -> None:
    one = reconciler(ovs)
    bad = tuple(BondMember(name, "dpdkvhostuserclient", (), None) for name in ("p1", "p2"))
    wanted = desired(bond0=replace(bond(BondMode.ACTIVE_BACKUP, "p1", "p2"), members=bad))
    assert one.apply(wanted, 0).failed == 1
    assert sandbox.vsctl("list-ports", "br-ex").split() == []
    assert one.statuses()["bonds", "bond0"].quarantined


def test_a_member_without_a_device_waits_for_it(ovs: Ovs, sandbox: Sandbox) -> None:
    numbers: dict[str, int] = {"p1": 1}
    table = BondsTable(ovs, numbers.get)
    BridgesTable(ovs).upsert([*BRIDGES.items()])
    row = bond(BondMode.ACTIVE_BACKUP, "p1", "p2")
    wanted = replace(row, members=tuple(replace(one, type="afxdp-nonpmd") for one in row.members))
    failures = table.upsert(
        [("bond0", replace(wanted, members=(row.members[0], wanted.members[1])))]
    )
    assert failures["bond0"].waiting
    assert failures["bond0"].reason == "it runs without p2: no such device"
    assert sandbox.vsctl("list-ifaces", "br-ex").split() == ["p1"]


def test_a_port_of_that_name_that_somebody_else_made_stays(ovs: Ovs, sandbox: Sandbox) -> None:
    BridgesTable(ovs).upsert([*BRIDGES.items()])
    sandbox.vsctl("add-port", "br-ex", "bond0", "--", "set", "Interface", "bond0", "type=dummy")
    one = reconciler(ovs)
    assert one.apply(desired(bond0=bond(BondMode.ACTIVE_BACKUP, "p1", "p2")), 0).failed == 1
    assert "was not made by Millrace" in one.statuses()["bonds", "bond0"].reason
    assert sandbox.vsctl("list-ifaces", "br-ex").split() == ["bond0"]


def test_an_uplink_becomes_a_member_and_an_uplink_again(ovs: Ovs, sandbox: Sandbox) -> None:
    """The name of an interface is unique: the port goes, and the bond comes in the next round."""
    one = reconciler(ovs)
    alone = Port("br-ex", "dummy", (), (), None, None)
    together = desired(bond0=bond(BondMode.ACTIVE_BACKUP, "p1", "p2"))
    apart: Desired = {"bridges": BRIDGES, "ports": {"p1": alone}, "bonds": {}}
    for now, wanted, members in ((0, apart, {"p1"}), (100, together, {"p1", "p2"}),
                                 (200, apart, {"p1"})):  # fmt: skip
        for later in range(5):
            one.apply(wanted, now + 10 * later)
        assert {status.state for status in one.statuses().values()} == {State.DONE}
        assert set(sandbox.vsctl("list-ifaces", "br-ex").split()) == members
