"""Pins of ours go into OVS's database and out again; an operator's own stay."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from dataplane.drivers.affinity import AffinityTable
from dataplane.drivers.ovsdb import Ovs
from dataplane.model.rows import Affinity
from dataplane.reconcile.backoff import Backoff
from dataplane.reconcile.reconciler import Reconciler
from tests.labs.sandbox import Sandbox, wait_until

PORTS = ("vm0", "vm1")


@pytest.fixture
def ovs(database_only: Sandbox) -> Iterator[Ovs]:
    connection = Ovs(database_only.remote)
    connection.start()
    connection.wait_synced(10)
    for port in PORTS:
        words = ["--may-exist", "add-br", "br-int", "--", "add-port", "br-int", port]
        words += ["--", "set", "Port", port, "external_ids:owner=millrace"]
        database_only.vsctl("--no-wait", *words)
    wait_until(lambda: set(PORTS) <= connection.state().ports.keys(), "the ports are seen")
    yield connection
    connection.stop()


def _there(box: Sandbox, port: str) -> str:
    words = ("--if-exists", "get", "Interface", port, "other_config:pmd-rxq-affinity")
    return box.vsctl(*words).strip().strip('"')


def test_pins_are_set_found_again_and_taken_back(ovs: Ovs, database_only: Sandbox) -> None:
    table = AffinityTable(ovs)
    desired = {"affinity": {"vm0": Affinity("0:1,1:2")}}
    one = Reconciler([table], Backoff())
    assert one.apply(desired, 0).failed == 0
    assert _there(database_only, "vm0") == "0:1,1:2"
    assert table.foreign() == {}
    assert Reconciler([AffinityTable(ovs)], Backoff()).apply(desired, 1).writes == 0
    assert one.apply({"affinity": {}}, 2).failed == 0
    assert _there(database_only, "vm0") == ""
    assert table.observe() == {}


def test_an_operators_pin_is_left_alone(ovs: Ovs, database_only: Sandbox) -> None:
    table = AffinityTable(ovs)
    one = Reconciler([table], Backoff())
    assert one.apply({"affinity": {"vm0": Affinity("0:1")}}, 0).failed == 0
    for port, text in (("vm0", "0:3"), ("vm1", "0:2")):
        database_only.vsctl(
            "--no-wait", "set", "Interface", port, f'other_config:pmd-rxq-affinity="{text}"'
        )
    wait_until(lambda: table.foreign() == {"vm0": {0: 3}, "vm1": {0: 2}}, "they are seen")
    assert table.observe() == {}
    assert one.apply({"affinity": {}}, 10).failed == 0
    assert (_there(database_only, "vm0"), _there(database_only, "vm1")) == ("0:3", "0:2")
    refused = one.apply({"affinity": {"vm1": Affinity("0:1")}}, 20)
    assert refused.failed == 1
    (status,) = [s for (_, key), s in one.statuses().items() if key == "vm1"]
    assert "somebody else has pinned its queues to 0:2" in status.reason
    assert _there(database_only, "vm1") == "0:2"


def test_a_port_that_is_not_there_is_waited_for(ovs: Ovs) -> None:
    one = Reconciler([AffinityTable(ovs)], Backoff())
    one.apply({"affinity": {"gone": Affinity("0:1")}}, 0)
    (status,) = one.statuses().values()
    assert status.state.value == "pending"


def test_a_port_that_is_made_anew_is_pinned_anew(ovs: Ovs, database_only: Sandbox) -> None:
    one = Reconciler([AffinityTable(ovs)], Backoff())
    desired = {"affinity": {"vm0": Affinity("0:1")}}
    one.apply(desired, 0)
    words = ["del-port", "vm0", "--", "add-port", "br-int", "vm0"]
    words += ["--", "set", "Port", "vm0", "external_ids:owner=millrace"]
    database_only.vsctl("--no-wait", *words)
    wait_until(lambda: AffinityTable(ovs).observe() == {}, "the new port is seen")
    assert one.apply(desired, 10).failed == 0
    assert _there(database_only, "vm0") == "0:1"
