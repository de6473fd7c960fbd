"""What an event may have upset, and the short way of attachments through a round."""

from __future__ import annotations

from dataclasses import replace

from controller.rounds import of_attachments, without_older
from controller.upset import GUEST_TABLES, OVS_TABLES, upset_by, upset_by_ports
from dataplane.drivers.ovsdb import OvsState, PortState
from dataplane.model.rows import Program, ProgramKind
from dataplane.model.state import Attachment, NodeState, PortKind
from dataplane.plan.node import NodePlan, plan
from tests.labs.attachments import WEB
from tests.labs.planned import STATE

GUEST = PortState(
    "vhu1", "br-int", "dpdkvhostuserclient", "millrace", 5, "", "down", 1442, {"iface-id": "a.b"}
)
UPLINK = PortState("up0", "br-ex", "afxdp", "millrace", 1, "", "up", 1500, {})
VM = replace(WEB, kind=PortKind.VHOST_USER, device="vhu1", socket="/run/s", iface_id="vm.shop")
CONTAINER = replace(WEB, tag=7)


def _plan(*attachments: Attachment, state: NodeState = STATE) -> NodePlan:
    return plan(replace(state, attachments=attachments, has_trunk=True))


def test_a_guests_port_upsets_nothing_of_the_uplinks() -> None:
    assert upset_by_ports({"up0": UPLINK}, {"up0": UPLINK, "vhu1": GUEST}) == GUEST_TABLES
    assert upset_by_ports({"up0": UPLINK, "vhu1": GUEST}, {"up0": UPLINK}) == GUEST_TABLES
    assert upset_by_ports({"up0": UPLINK}, {"up0": replace(UPLINK, ofport=2)}) == OVS_TABLES
    elsewhere = replace(GUEST, bridge="br-ex")
    assert upset_by_ports({}, {"vhu1": elsewhere}) == OVS_TABLES


def test_what_ovn_and_the_guest_say_of_a_port_upsets_nothing() -> None:
    told = {**GUEST.external_ids, "ovn-installed": "true", "ovn-installed-ts": "1"}
    installed = replace(GUEST, external_ids=told, link_state="up")
    assert upset_by_ports({"vhu1": GUEST}, {"vhu1": installed}) == ()
    foreign = replace(GUEST, external_ids={"iface-id": "other"})
    assert upset_by_ports({"vhu1": GUEST}, {"vhu1": foreign}) == GUEST_TABLES


def test_a_rejected_port_is_looked_at_with_every_word_of_ovs() -> None:
    rejected = replace(GUEST, error="no such device", ofport=-1)
    assert upset_by_ports({"vhu1": rejected}, {"vhu1": rejected}) == ("ports", "bonds")


def test_one_attachments_rows_are_all_that_differs() -> None:
    before, after = _plan(VM), _plan(VM, CONTAINER)
    rows, rest = of_attachments(before, after, frozenset({CONTAINER.device, CONTAINER.iface_id}))
    assert rows["trunk"] == {CONTAINER.device: after.trunk[CONTAINER.device]}
    assert rows["nested"] == {CONTAINER.iface_id: after.nested[CONTAINER.iface_id]}
    assert not rest & {"ports", "qos", "buckets", "trunk", "nested"}


def test_the_rows_of_one_that_goes_are_removed() -> None:
    rows, rest = of_attachments(_plan(VM), _plan(), frozenset({VM.device, VM.iface_id}))
    assert rows["ports"] == {VM.device: None}
    assert "ports" not in rest


def test_the_same_rows_are_written_again_for_what_was_touched() -> None:
    rows, rest = of_attachments(_plan(VM), _plan(VM), frozenset({VM.device}))
    assert rows == {"ports": {VM.device: _plan(VM).ports[VM.device]}}
    assert rest == frozenset()


def test_a_table_that_differs_elsewhere_is_looked_at_as_a_whole() -> None:
    rows, rest = of_attachments(_plan(VM), _plan(CONTAINER), frozenset({CONTAINER.device}))
    assert "ports" in rest
    assert "ports" not in rows
    assert rows["trunk"] == {CONTAINER.device: _plan(CONTAINER).trunk[CONTAINER.device]}


def test_what_ovn_is_told_of_the_datapath_is_looked_at_when_it_changes() -> None:
    told = OvsState("", "", True, "", frozenset(), 0, 0, (), {}, {"ct_zero_snat": "false"})
    assert upset_by(None, told) == ("datapath",)
    assert upset_by(told, told) == ()
    assert upset_by(told, replace(told, capabilities={"ct_zero_snat": "true"})) == ("datapath",)


def test_an_older_versions_program_stays_until_all_is_known_and_ovs_own_does_not() -> None:
    """OVN may be behind the node's address, which OVS's own program cuts off."""
    planned = _plan()
    assert "up0" in planned.programs
    older = Program(ProgramKind.OUTDATED, swap=True)
    assert "up0" not in without_older(planned, {"up0": older})["programs"]
    assert without_older(planned, {"svc0": older})["programs"]["up0"] == planned.programs["up0"]
    assert without_older(planned, {}) == planned.tables()
