"""The tables ovs, bridges and ports against a real OVS with the dummy datapath."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from dataplane.drivers.ovsdb import Ovs, OvsState
from dataplane.drivers.ovsports import PortsTable
from dataplane.drivers.ovstables import BridgesTable, SettingsTable
from dataplane.model.addr import Mac
from dataplane.model.rows import Bridge, OvsSetting, Port
from dataplane.ports import ObserveError
from dataplane.reconcile.backoff import Backoff
from dataplane.reconcile.reconciler import Reconciler
from dataplane.reconcile.status import State
from tests.labs.sandbox import Sandbox, wait_until

Desired = Mapping[str, Mapping[Any, Any]]

EX = Bridge("netdev", "standalone", Mac("0a:59:00:00:00:01"))
INT = Bridge("netdev", "secure", None)


def dummy(bridge: str = "br-ex", **ids: str) -> Port:
    return Port(bridge, "dummy", (), tuple(sorted(ids.items())), None, None)


BAD = Port("br-ex", "dpdkvhostuserclient", (), (), None, None)
"""A type that this vswitchd does not know: it refuses the port for real."""


@pytest.fixture
def ovs(sandbox: Sandbox) -> Iterator[Ovs]:
    connection = Ovs(sandbox.remote)
    connection.start()
    connection.wait_synced(10)
    yield connection
    connection.stop()


def reconciler(ovs: Ovs) -> Reconciler:
    return Reconciler([SettingsTable(ovs), BridgesTable(ovs), PortsTable(ovs)], Backoff())


DESIRED: Desired = {
    "ovs": {
        ("other_config", "max-idle"): OvsSetting("5000"),
        ("external_ids", "system-id"): OvsSetting("node 1"),
    },
    "bridges": {"br-ex": EX, "br-int": INT},
    "ports": {
        "p0": dummy(iface_id="a.b"),
        "p1": Port("br-int", "dummy", (), (), 1400, 7),
    },
}


def test_everything_is_made_and_a_restarted_daemon_writes_nothing(
    ovs: Ovs, sandbox: Sandbox
) -> None:
    one = reconciler(ovs)
    report = one.apply(DESIRED, 0)
    assert report.failed == 0, one.statuses()
    assert one.apply(DESIRED, 0).writes == 0
    assert set(sandbox.vsctl("list-ports", "br-ex").split()) == {"p0"}
    assert sandbox.vsctl("get", "Port", "p1", "tag").strip() == "7"

    again = Ovs(sandbox.remote)
    again.start()
    again.wait_synced(10)
    try:
        other = reconciler(again)
        assert other.apply(DESIRED, 0).writes == 0
        assert {s.state for s in other.statuses().values()} == {State.DONE}
        # What the plan drops is removed, keys of the shared row included.
        smaller: Desired = {
            "ovs": {("other_config", "max-idle"): OvsSetting("6000")},
            "bridges": {"br-int": INT},
            "ports": {},
        }
        assert other.apply(smaller, 1).failed == 0
        assert sandbox.vsctl("list-br").split() == ["br-int"]
        assert "system-id" not in sandbox.vsctl("get", "Open_vSwitch", ".", "external_ids")
        assert '{max-idle="6000"}' in sandbox.vsctl("get", "Open_vSwitch", ".", "other_config")
        assert other.apply(smaller, 1).writes == 0
    finally:
        again.stop()


def test_what_is_not_ours_stays(ovs: Ovs, sandbox: Sandbox) -> None:
    sandbox.vsctl(
        "add-br", "br-theirs", "--", "add-port", "br-theirs", "t0", "--",
        "set", "Interface", "t0", "type=dummy",
        "--", "set", "Open_vSwitch", ".", "other_config:theirs=1", "external_ids:theirs=1",
    )  # fmt: skip
    one = reconciler(ovs)
    one.apply(DESIRED, 0)
    sandbox.vsctl("set", "Interface", "p0", "external_ids:ovn-installed=true")
    sandbox.vsctl("set", "Bridge", "br-ex", "other_config:theirs=1")
    assert one.apply(DESIRED, 1).writes == 0
    changed = {**DESIRED, "ports": {"p0": dummy(iface_id="new")}}
    one.apply(changed, 2)
    assert one.apply(changed, 2).writes == 0
    ids = sandbox.vsctl("get", "Interface", "p0", "external_ids")
    assert "ovn-installed=" in ids
    assert "iface_id=new" in ids
    one.apply({"ovs": {}, "bridges": {}, "ports": {}}, 3)
    assert sandbox.vsctl("list-br").split() == ["br-theirs"]
    assert sandbox.vsctl("list-ports", "br-theirs").split() == ["t0"]
    for column in ("other_config", "external_ids"):
        assert "theirs=" in sandbox.vsctl("get", "Open_vSwitch", ".", column)
    assert "millrace" not in sandbox.vsctl("get", "Port", "t0", "external_ids")


@pytest.mark.parametrize(
    "hand",
    [
        ("set", "Interface", "p0", "options:ifindex=9"),
        ("set", "Interface", "p0", "options:dummy-theirs=1"),
        ("remove", "Interface", "p0", "options", "ifindex"),
        ("clear", "Interface", "p0", "options"),
        ("set", "Interface", "p0", "mtu_request=9000"),
    ],
    ids=" ".join,
)
def test_what_a_hand_did_to_a_port_of_ours_is_put_right(
    ovs: Ovs, sandbox: Sandbox, hand: tuple[str, ...]
) -> None:
    wanted = Port("br-ex", "dummy", (("ifindex", "7"),), (("iface-id", "a.b"),), None, None)
    desired: Desired = {"bridges": {"br-ex": EX}, "ports": {"p0": wanted}}
    one = reconciler(ovs)
    assert one.apply(desired, 0).failed == 0
    sandbox.vsctl(*hand)
    # All of the column is ours: a port speaks to the device that its options name.
    assert one.apply(desired, 1).writes == 1
    assert sandbox.vsctl("get", "Interface", "p0", "options").strip() == '{ifindex="7"}'
    assert sandbox.vsctl("get", "Interface", "p0", "mtu_request").strip() == "[]"
    assert one.statuses()["ports", "p0"].state is State.DONE
    assert one.apply(desired, 2).writes == 0


def test_a_bridge_of_somebody_else_is_named_and_br_int_is_adopted(
    ovs: Ovs, sandbox: Sandbox
) -> None:
    sandbox.vsctl("add-br", "br-ex", "--", "add-br", "br-int")
    one = reconciler(ovs)
    one.apply({"bridges": {"br-ex": EX, "br-int": INT}}, 0)
    status = one.statuses()
    assert "was not made by Millrace" in status["bridges", "br-ex"].reason
    assert status["bridges", "br-int"].state is State.DONE
    assert sandbox.vsctl("get", "Bridge", "br-int", "datapath_type").strip() == "netdev"
    one.apply({"bridges": {}}, 1)
    assert set(sandbox.vsctl("list-br").split()) == {"br-ex", "br-int"}
    assert "owner" not in sandbox.vsctl("get", "Bridge", "br-int", "external_ids")


def test_a_refused_port_is_taken_back_within_a_second_with_ovs_own_words(
    ovs: Ovs, sandbox: Sandbox
) -> None:
    one = reconciler(ovs)
    one.apply(DESIRED, 0)
    began = time.monotonic()
    report = one.apply({**DESIRED, "ports": {**DESIRED["ports"], "bad": BAD}}, 1)
    took = time.monotonic() - began
    status = one.statuses()["ports", "bad"]
    assert status.quarantined
    assert "bad" in status.reason
    assert "not supported" in status.reason or "could not" in status.reason
    assert "bad" not in sandbox.vsctl("list-ports", "br-ex")
    assert report.next_retry_at is not None
    assert took < 5  # a bound for a loaded machine; idle it is some 10 ms
    # The others were not harmed, and it is not tried again.
    assert one.statuses()["ports", "p0"].state is State.DONE
    assert one.apply({**DESIRED, "ports": {**DESIRED["ports"], "bad": BAD}}, 2).writes == 0


def test_a_port_that_is_refused_later_is_noticed_and_taken_back(ovs: Ovs, sandbox: Sandbox) -> None:
    one = reconciler(ovs)
    one.apply(DESIRED, 0)
    # The same refusal, arriving while nobody waits: the row is changed behind our back.
    sandbox.vsctl("--no-wait", "set", "Interface", "p0", "type=no_such_type")
    wait_until(lambda: PortsTable(ovs).rejected(), "OVS refuses it")
    desired = {**DESIRED, "ports": {**DESIRED["ports"]}}
    assert one.take_back(desired, 1).writes == 1
    assert "p0" not in sandbox.vsctl("list-ports", "br-ex")
    one.apply(desired, 2)
    assert one.statuses()["ports", "p0"].state is State.DONE


def test_a_port_changes_its_type_and_its_bridge_in_one_go(ovs: Ovs, sandbox: Sandbox) -> None:
    one = reconciler(ovs)
    one.apply(DESIRED, 0)
    moved = {**DESIRED, "ports": {"p0": dummy("br-int"), "p1": DESIRED["ports"]["p1"]}}
    assert one.apply(moved, 1).failed == 0
    assert "p0" in sandbox.vsctl("list-ports", "br-int")
    retyped = {**moved, "ports": {"p0": Port("br-int", "internal", (), (), None, None)}}
    assert one.apply(retyped, 2).failed == 0
    assert sandbox.vsctl("get", "Interface", "p0", "type").strip() == "internal"
    assert one.apply(retyped, 3).writes == 0


def test_a_port_keeps_its_number_when_it_is_made_anew(ovs: Ovs, sandbox: Sandbox) -> None:
    one = reconciler(ovs)
    for now, kind in enumerate(("dummy", "internal")):
        port = Port("br-int", kind, (), (), None, None, ofport=16000)
        wanted = {**DESIRED, "ports": {"p0": DESIRED["ports"]["p0"], "p9": port}}
        assert one.apply(wanted, now).failed == 0
        assert sandbox.vsctl("get", "Interface", "p9", "ofport").strip() == "16000"
        assert one.apply(wanted, now).writes == 0


def test_a_port_without_its_bridge_waits_for_it(ovs: Ovs) -> None:
    one = reconciler(ovs)
    one.apply({"ports": {"p0": dummy()}}, 0)
    status = one.statuses()["ports", "p0"]
    assert (status.state, status.reason) == (State.PENDING, "bridge br-ex is not there yet")
    one.apply({"bridges": {"br-ex": EX}, "ports": {"p0": dummy()}}, 1)
    assert one.statuses()["ports", "p0"].state is State.DONE


def test_a_port_that_a_human_made_is_named_not_taken(ovs: Ovs, sandbox: Sandbox) -> None:
    one = reconciler(ovs)
    one.apply({"bridges": {"br-ex": EX}, "ports": {}}, 0)
    sandbox.vsctl("add-port", "br-ex", "p0", "--", "set", "Interface", "p0", "type=dummy")
    one.apply({"bridges": {"br-ex": EX}, "ports": {"p0": dummy(), "p2": dummy()}}, 1)
    assert "ovs-vsctl del-port p0" in one.statuses()["ports", "p0"].reason
    assert one.statuses()["ports", "p2"].state is State.DONE
    one.apply({"bridges": {"br-ex": EX}, "ports": {}}, 2)
    assert sandbox.vsctl("list-ports", "br-ex").split() == ["p0"]
    # A bridge of ours with a stranger's port on it is not pulled away from under it.
    one.apply({"bridges": {}, "ports": {}}, 3)
    assert "remove p0 first" in one.statuses()["bridges", "br-ex"].reason


def test_one_impossible_value_does_not_stop_the_others(ovs: Ovs) -> None:
    one = reconciler(ovs)
    wrong = Port("br-ex", "dummy", (), (), None, 9999)
    one.apply({"bridges": {"br-ex": EX}, "ports": {"p0": dummy(), "wrong": wrong}}, 0)
    assert "tag" in one.statuses()["ports", "wrong"].reason
    assert one.statuses()["ports", "p0"].state is State.DONE


def test_without_vswitchd_ports_are_pending_and_come_by_themselves(sandbox: Sandbox) -> None:
    sandbox.stop_vswitchd()
    seen: list[OvsState] = []
    ovs = Ovs(sandbox.remote, seen.append)
    ovs.start()
    ovs.wait_synced(10)
    try:
        one = reconciler(ovs)
        one.apply({"bridges": {"br-ex": EX}, "ports": {}}, 0)
        assert one.statuses()["bridges", "br-ex"].state is State.PENDING
        sandbox.start_vswitchd()
        wait_until(lambda: ovs.state().ports["br-ex"].ofport, "vswitchd has made it")
        one.apply({"bridges": {"br-ex": EX}, "ports": {}}, 10)
        assert one.statuses()["bridges", "br-ex"].state is State.DONE
        assert "dummy" in seen[-1].iface_types
    finally:
        ovs.stop()


def test_without_ovsdb_it_says_so_and_goes_on_afterwards(ovs: Ovs, sandbox: Sandbox) -> None:
    one = reconciler(ovs)
    one.apply(DESIRED, 0)
    sandbox.stop_ovsdb()
    wait_until(lambda: not ovs.connected, "the loss is noticed")
    with pytest.raises(ObserveError, match="is ovsdb-server running"):
        PortsTable(ovs).observe()
    report = one.apply(DESIRED, 1)
    assert "is ovsdb-server running" in report.tables["ports"].error
    assert one.statuses()["ports", "p0"].state is State.PENDING
    sandbox.start_ovsdb()
    wait_until(lambda: ovs.connected, "it is back")
    assert one.apply(DESIRED, 10).writes == 0
    assert one.statuses()["ports", "p0"].state is State.DONE


def test_states_are_read_and_ovn_installed_is_waited_for(ovs: Ovs, sandbox: Sandbox) -> None:
    one = reconciler(ovs)
    one.apply(DESIRED, 0)
    states = ovs.interface_states()
    assert states["p0"].bridge == "br-ex"
    assert states["p0"].ofport == 1
    assert not ovs.ovn_installed("p0")
    future = ovs.when_ovn_installed("p0", 20)
    sandbox.vsctl("--no-wait", "set", "Interface", "p0", "external_ids:ovn-installed=true")
    assert future.result(30) is True
    assert ovs.ovn_installed("p0")


def test_what_vswitchd_has_not_made_is_removed_all_the_same(sandbox: Sandbox) -> None:
    sandbox.stop_vswitchd()
    ovs = Ovs(sandbox.remote)
    ovs.start()
    ovs.wait_synced(10)
    try:
        one = reconciler(ovs)
        one.apply({"bridges": {"br-ex": EX}, "ports": {"p0": dummy()}}, 0)
        assert "p0" in sandbox.vsctl("--no-wait", "list-ports", "br-ex")
        one.apply({"bridges": {}, "ports": {}}, 1)
        assert sandbox.vsctl("--no-wait", "list-br").split() == []
    finally:
        ovs.stop()


def test_a_port_follows_its_device_and_waits_while_there_is_none(
    ovs: Ovs, sandbox: Sandbox
) -> None:
    # The dummy vswitchd does not look at devices, so which there are is the test's to say.
    devices: dict[str, int] = {}
    table = PortsTable(ovs, devices.get)
    one = Reconciler([BridgesTable(ovs), table], Backoff())
    port = Port("br-ex", "system", (), (), None, None)
    desired: Desired = {"bridges": {"br-ex": EX}, "ports": {"pod0": port}}
    one.apply(desired, 0)
    status = one.statuses()["ports", "pod0"]
    assert (status.state, status.reason) == (State.PENDING, "device pod0 is not there yet")
    devices["pod0"] = 7
    assert one.apply(desired, 1).failed == 0
    assert one.apply(desired, 2).writes == 0
    made = sandbox.vsctl("get", "Port", "pod0", "_uuid")

    def opened() -> int:
        return sandbox.log().count("added interface pod0 on")

    assert opened() == 1
    devices["pod0"] = 8
    assert one.apply(desired, 3).failed == 0
    # Not only another row: vswitchd has let go of the device that is gone.
    assert opened() == 2
    assert sandbox.vsctl("get", "Port", "pod0", "_uuid") != made
    assert one.apply(desired, 4).writes == 0

    del devices["pod0"]
    one.apply(desired, 5)
    assert one.statuses()["ports", "pod0"].state is State.PENDING
    assert "pod0" not in sandbox.vsctl("list-ports", "br-ex")
    devices["pod0"] = 9
    assert one.apply(desired, 60).failed == 0
    # A device that goes away together with its row leaves nothing behind.
    del devices["pod0"]
    one.apply({"bridges": {"br-ex": EX}, "ports": {}}, 61)
    assert "pod0" not in sandbox.vsctl("list-ports", "br-ex")
