"""The table flows against a real bridge: what is written comes back as it was planned."""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import IPv4Address, IPv4Interface

import pytest

from dataplane.drivers.openflow import FlowsTable
from dataplane.drivers.ovsdb import Ovs
from dataplane.model.addr import L4Addr, Mac, Protocol
from dataplane.model.rows import Flow, FlowKey
from dataplane.model.state import Gateway
from dataplane.plan.flows import service_flows
from dataplane.reconcile.backoff import Backoff
from dataplane.reconcile.reconciler import Reconciler
from dataplane.reconcile.status import State
from tests.labs.sandbox import Sandbox

PATCH = "patch-external-network-one-to-br-int"
GATEWAY = Gateway(
    "gr", Mac("0a:58:ac:12:00:6f"), (IPv4Interface("172.18.0.111/24"),),
    IPv4Address("100.64.255.1"), "physnet", "external-network-one",
)  # fmt: skip


PLANNED = service_flows(
    "br-ex", "up0", "svc0-ovs", GATEWAY,
    [
        L4Addr(protocol, IPv4Address(f"10.0.0.{last}"), 8080)
        for last, protocol in enumerate((Protocol.TCP, Protocol.UDP), 1)
    ],
)  # fmt: skip


@pytest.fixture
def ovs(sandbox: Sandbox) -> Iterator[Ovs]:
    sandbox.vsctl("add-br", "br-ex", "--", "set", "Bridge", "br-ex", "datapath_type=netdev")
    for port in ("up0", "svc0-ovs"):
        sandbox.vsctl("add-port", "br-ex", port, "--", "set", "Interface", port, "type=dummy")
    connection = Ovs(sandbox.remote)
    connection.start()
    connection.wait_synced(10)
    yield connection
    connection.stop()


def add_patch(sandbox: Sandbox) -> None:
    # An ordinary port with the long name of ovn-controller's patch port.
    sandbox.vsctl("add-port", "br-ex", PATCH, "--", "set", "Interface", PATCH, "type=dummy")


def make(ovs: Ovs, sandbox: Sandbox) -> tuple[FlowsTable, Reconciler]:
    table = FlowsTable(str(sandbox.rundir), ovs.openflow_ports)
    return table, Reconciler([table], Backoff())


def test_the_plan_comes_back_as_it_was_written(ovs: Ovs, sandbox: Sandbox) -> None:
    add_patch(sandbox)
    table, reconciler = make(ovs, sandbox)
    report = reconciler.apply({"flows": PLANNED}, 0)
    assert report.failed == 0, reconciler.statuses()
    assert table.observe() == PLANNED
    assert reconciler.apply({"flows": PLANNED}, 0).writes == 0
    other = Reconciler([FlowsTable(str(sandbox.rundir), ovs.openflow_ports)], Backoff())
    assert other.apply({"flows": PLANNED}, 0).writes == 0


def test_rules_of_others_stay_and_ours_go(ovs: Ovs, sandbox: Sandbox) -> None:
    add_patch(sandbox)
    sandbox.ofctl("add-flow", "br-ex", "cookie=0x5,priority=300,arp,actions=NORMAL")
    before = sandbox.ofctl("dump-flows", "br-ex", "--no-stats")
    _, reconciler = make(ovs, sandbox)
    reconciler.apply({"flows": PLANNED}, 0)
    assert len(sandbox.ofctl("dump-flows", "br-ex", "--no-stats").splitlines()) == 7
    reconciler.apply({"flows": {}}, 1)
    assert sandbox.ofctl("dump-flows", "br-ex", "--no-stats") == before


def test_a_changed_action_replaces_the_rule(ovs: Ovs, sandbox: Sandbox) -> None:
    key = FlowKey("br-ex", 7, 'in_port="up0"')
    table, reconciler = make(ovs, sandbox)
    for actions in ('output:"svc0-ovs"', "drop", "NORMAL", "LOCAL"):
        reconciler.apply({"flows": {key: Flow(actions)}}, 0)
        assert table.observe() == {key: Flow(actions)}


def test_a_rule_whose_port_is_missing_waits_and_the_others_are_made(
    ovs: Ovs, sandbox: Sandbox
) -> None:
    table, reconciler = make(ovs, sandbox)
    good = FlowKey("br-ex", 7, 'in_port="up0"')
    desired = {**PLANNED, good: Flow("drop")}
    reconciler.apply({"flows": desired}, 0)
    assert table.observe() == {good: Flow("drop")}
    waiting = [s for s in reconciler.statuses().values() if s.state is State.PENDING]
    assert len(waiting) == len(PLANNED)
    assert waiting[0].reason == f"port {PATCH} of br-ex is not there yet"
    add_patch(sandbox)
    assert reconciler.apply({"flows": desired}, 60).failed == 0
    assert table.observe() == desired


def test_a_port_that_comes_back_with_another_number_is_followed(ovs: Ovs, sandbox: Sandbox) -> None:
    add_patch(sandbox)
    table, reconciler = make(ovs, sandbox)
    reconciler.apply({"flows": PLANNED}, 0)
    sandbox.vsctl("del-port", "br-ex", "svc0-ovs")
    sandbox.vsctl(
        "add-port", "br-ex", "svc0-ovs", "--",
        "set", "Interface", "svc0-ovs", "type=dummy", "ofport_request=42",
    )  # fmt: skip
    assert table.observe() != PLANNED
    assert reconciler.apply({"flows": PLANNED}, 1).failed == 0
    assert table.observe() == PLANNED


def test_a_restarted_vswitchd_gets_its_rules_again(ovs: Ovs, sandbox: Sandbox) -> None:
    add_patch(sandbox)
    table, reconciler = make(ovs, sandbox)
    reconciler.apply({"flows": PLANNED}, 0)
    sandbox.kill_vswitchd()
    assert table.observe() == {}
    reconciler.apply({"flows": PLANNED}, 1)
    assert "is ovs-vswitchd running" in next(iter(reconciler.statuses().values())).reason
    sandbox.start_vswitchd()
    assert reconciler.apply({"flows": PLANNED}, 10).failed == 0
    assert table.observe() == PLANNED


def test_a_rule_that_openflow_refuses_is_named(ovs: Ovs, sandbox: Sandbox) -> None:
    table, reconciler = make(ovs, sandbox)
    bad = FlowKey("br-ex", 7, "no_such_field=1")
    good = FlowKey("br-ex", 8, "arp")
    reconciler.apply({"flows": {bad: Flow("drop"), good: Flow("drop")}}, 0)
    assert table.observe() == {good: Flow("drop")}
    assert "no_such_field" in reconciler.statuses()["flows", bad].reason


def test_on_a_bridge_that_is_not_there_rules_wait(ovs: Ovs, sandbox: Sandbox) -> None:
    _, reconciler = make(ovs, sandbox)
    key = FlowKey("br-none", 7, "arp")
    reconciler.apply({"flows": {key: Flow("drop")}}, 0)
    assert reconciler.statuses()["flows", key].state is State.PENDING
