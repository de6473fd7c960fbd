"""The table qos against a real OVS: rows of ours, rows of others', rows of ports that are gone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from dataplane.drivers.ovsdb import Ovs
from dataplane.drivers.ovsports import PortsTable
from dataplane.drivers.ovsqos import QosTable, void_shapers
from dataplane.drivers.ovstables import BridgesTable
from dataplane.model.rows import Bridge, Policer, Port
from dataplane.reconcile.backoff import Backoff
from dataplane.reconcile.reconciler import Reconciler
from dataplane.reconcile.status import State
from tests.labs.sandbox import Sandbox, wait_until

Desired = Mapping[str, Mapping[Any, Any]]

BOTH = Policer(1000, 120, 125_000, 15_000)
PORTS = {name: Port("br-int", "dummy", (), (), None, None) for name in ("p0", "p1")}


@pytest.fixture
def ovs(sandbox: Sandbox) -> Iterator[Ovs]:
    connection = Ovs(sandbox.remote)
    connection.start()
    connection.wait_synced(10)
    yield connection
    connection.stop()


def reconciler(ovs: Ovs) -> Reconciler:
    return Reconciler([BridgesTable(ovs), PortsTable(ovs), QosTable(ovs)], Backoff())


def desired(ports: Mapping[str, Port], qos: Mapping[str, Policer]) -> Desired:
    return {"bridges": {"br-int": Bridge("netdev", "secure", None)}, "ports": ports, "qos": qos}


def policing(sandbox: Sandbox, port: str) -> tuple[str, str]:
    words = ("ingress_policing_rate", "ingress_policing_burst")
    rate, burst = sandbox.vsctl("get", "Interface", port, *words).split()
    return rate, burst


def test_limits_are_set_changed_and_taken_off(ovs: Ovs, sandbox: Sandbox) -> None:
    one = reconciler(ovs)
    assert one.apply(desired(PORTS, {"p0": BOTH}), 0).failed == 0, one.statuses()
    assert policing(sandbox, "p0") == ("1000", "120")
    row = sandbox.vsctl("get", "Port", "p0", "qos").strip()
    assert sandbox.vsctl("get", "QoS", row, "type").strip() == "egress-policer"
    config = sandbox.vsctl("get", "QoS", row, "other_config").strip()
    assert config == '{cbs="15000", cir="125000"}'
    assert reconciler(ovs).apply(desired(PORTS, {"p0": BOTH}), 0).writes == 0

    sending = Policer(5000, 300, 0, 0)
    assert one.apply(desired(PORTS, {"p0": sending}), 1).failed == 0
    assert policing(sandbox, "p0") == ("5000", "300")
    assert sandbox.vsctl("list", "QoS") == ""
    receiving = Policer(0, 0, 9_000_000, 180_000)
    assert one.apply(desired(PORTS, {"p0": receiving}), 2).failed == 0
    assert policing(sandbox, "p0") == ("0", "0")
    assert one.apply(desired(PORTS, {}), 3).failed == 0
    assert sandbox.vsctl("get", "Port", "p0", "qos").strip() == "[]"
    assert sandbox.vsctl("list", "QoS") == ""
    assert "millrace-policed" not in sandbox.vsctl("get", "Port", "p0", "external_ids")


def test_a_changed_row_is_put_right_and_that_of_a_lost_port_removed(
    ovs: Ovs, sandbox: Sandbox
) -> None:
    one = reconciler(ovs)
    plan = desired(PORTS, {"p0": BOTH, "p1": BOTH})
    assert one.apply(plan, 0).failed == 0
    row = sandbox.vsctl("get", "Port", "p0", "qos").strip()
    sandbox.vsctl("set", "QoS", row, "other_config:cir=7", "other_config:pir=x")
    sandbox.vsctl("clear", "Port", "p1", "qos")
    assert one.apply(plan, 1).failed == 0
    assert QosTable(ovs).observe() == {"p0": BOTH, "p1": BOTH}
    # The port goes, and with it what was made for it; QoS rows do not go by themselves.
    assert one.apply(desired({"p1": PORTS["p1"]}, {"p1": BOTH}), 2).failed == 0
    assert len(sandbox.vsctl("--bare", "--columns=_uuid", "list", "QoS").split()) == 1


def test_what_others_set_stays_and_is_named(ovs: Ovs, sandbox: Sandbox) -> None:
    one = reconciler(ovs)
    assert one.apply(desired(PORTS, {}), 0).failed == 0
    words = ("--", "--id=@q", "create", "QoS", "type=linux-htb", "other-config:max-rate=1000000")
    sandbox.vsctl("set", "Port", "p0", "qos=@q", *words)
    sandbox.vsctl("set", "Interface", "p1", "ingress_policing_rate=77")
    one.apply(desired(PORTS, {"p0": BOTH, "p1": BOTH}), 1)
    reasons = {key[1]: s.reason for key, s in one.statuses().items() if s.state is State.ERROR}
    assert "linux-htb" in reasons["p0"]
    assert "clear Port p0 qos" in reasons["p0"]
    assert "ingress_policing_rate=77" in reasons["p1"]
    assert policing(sandbox, "p0") == ("0", "0")
    assert policing(sandbox, "p1")[0] == "77"
    one.apply(desired({}, {}), 100)
    assert "linux-htb" in sandbox.vsctl("list", "QoS")


def test_a_shaper_that_pmd_threads_have_not_is_named(ovs: Ovs, sandbox: Sandbox) -> None:
    assert reconciler(ovs).apply(desired(PORTS, {}), 0).failed == 0
    types = {"v0": "dpdkvhostuserclient", "v1": "dpdk", "x0": "afxdp", "p0": ""}
    for port, kind in types.items():
        if kind:
            sandbox.vsctl(
                "--no-wait",
                "add-port",
                "br-int",
                port,
                "--",
                "set",
                "Interface",
                port,
                f"type={kind}",
            )
        shaper = "trtcm-policer" if port == "v1" else "linux-htb"
        words = ("--", "--id=@q", "create", "QoS", f"type={shaper}")
        sandbox.vsctl("--no-wait", "set", "Port", port, "qos=@q", *words)
    wanted = {"v0": "linux-htb", "x0": "linux-htb"}
    wait_until(lambda: ovs.look(void_shapers) == wanted, "both are named, and no others")


def test_a_limit_waits_for_its_port(ovs: Ovs) -> None:
    one = reconciler(ovs)
    one.apply(desired({}, {"p0": BOTH}), 0)
    (status,) = [s for key, s in one.statuses().items() if key[0] == "qos"]
    assert status.state is State.PENDING
    assert "not there yet" in status.reason
