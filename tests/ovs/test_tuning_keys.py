"""Every tuning key goes to a real OVS and comes back; what others set stays as it is."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial

import pytest

from dataplane.drivers.affinity import AffinityTable
from dataplane.drivers.ovsdb import Ovs
from dataplane.drivers.ovsports import PortsTable
from dataplane.drivers.ovstables import SettingsTable
from dataplane.model.rows import Affinity, OvsSetting, Port
from dataplane.plan.ovskeys import KEYS, OvsVersion, translate
from dataplane.plan.ports import pairs
from dataplane.reconcile.backoff import Backoff
from dataplane.reconcile.reconciler import Reconciler
from tests.labs.sandbox import Sandbox, wait_until
from tests.unit.test_ovskeys import WHOLE

THEIRS = {"pmd-perf-metrics": "true", "theirs": "1"}


@pytest.fixture
def ovs(sandbox: Sandbox) -> Iterator[Ovs]:
    connection = Ovs(sandbox.remote)
    connection.start()
    connection.wait_synced(10)
    yield connection
    connection.stop()


def release(sandbox: Sandbox) -> OvsVersion:
    return OvsVersion.parse(sandbox.appctl("version").splitlines()[0].split()[-1])


def said_since(sandbox: Sandbox, start: int, line: str) -> bool:
    return line in sandbox.log()[start:]


def test_every_key_is_set_read_back_and_unset(ovs: Ovs, sandbox: Sandbox) -> None:
    sandbox.vsctl("set", "Open_vSwitch", ".", *(f"other_config:{k}={v}" for k, v in THEIRS.items()))
    wait_until(lambda: ovs.other_config() == THEIRS, "the hand's settings are seen")
    version = release(sandbox)
    keys = translate(WHOLE, version).keys
    assert keys.keys() == {key.name for key in KEYS if key.known_to(version)}
    one = Reconciler([SettingsTable(ovs)], Backoff())
    desired = {"ovs": {("other_config", k): OvsSetting(v) for k, v in keys.items()}}
    assert one.apply(desired, 0).failed == 0
    assert ovs.other_config() == {**keys, **THEIRS}
    for key, value in keys.items():
        told = sandbox.vsctl("get", "Open_vSwitch", ".", f"other_config:{key}")
        assert told.strip().strip('"') == value
    # A new process knows its own keys from the database, and writes nothing.
    again = Reconciler([SettingsTable(ovs)], Backoff())
    assert again.apply(desired, 1).writes == 0
    assert again.apply({"ovs": {}}, 2).failed == 0
    assert ovs.other_config() == THEIRS


def test_vswitchd_acts_on_the_keys_and_on_their_absence(ovs: Ovs, sandbox: Sandbox) -> None:
    """By its log: OVS 3.1 has no command that shows these values."""
    sandbox.vsctl("add-br", "br0", "--", "set", "Bridge", "br0", "datapath_type=dummy")
    one = Reconciler([SettingsTable(ovs)], Backoff())
    wanted = {
        "emc-insert-inv-prob": "7",
        "smc-enable": "true",
        "pmd-rxq-assign": "roundrobin",
        "pmd-maxsleep": "50",
    }
    start = len(sandbox.log())
    one.apply({"ovs": {("other_config", k): OvsSetting(v) for k, v in wanted.items()}}, 0)
    for line in (
        "EMC insertion probability changed to 1/7 ",
        "SMC cache is enabled",
        "assignment mode changed to: 'roundrobin'",
        "PMD max sleep request is 50 usecs",
    ):
        wait_until(partial(said_since, sandbox, start, line), line)
    start = len(sandbox.log())
    one.apply({"ovs": {}}, 1)
    for line in (
        "EMC insertion probability changed to 1/100 ",
        "SMC cache is disabled",
        "assignment mode changed to: 'cycles'",
        "PMD max sleep request is 0 usecs",
    ):
        wait_until(partial(said_since, sandbox, start, line), line)


def test_a_computed_key_gives_way_to_a_hand_before_and_after(ovs: Ovs, sandbox: Sandbox) -> None:
    def hand(key: str, value: str) -> None:
        sandbox.vsctl("set", "Open_vSwitch", ".", f"other_config:{key}={value}")
        wait_until(lambda: ovs.other_config().get(key) == value, f"{key} is seen")

    hand("pmd-auto-lb", "false")
    hand("max-idle", "9000")
    desired = {
        "ovs": {
            ("other_config", "pmd-auto-lb"): OvsSetting("true", computed=True),
            ("other_config", "smc-enable"): OvsSetting("true", computed=True),
            ("other_config", "max-idle"): OvsSetting("5000"),
        }
    }
    table = SettingsTable(ovs)
    one = Reconciler([table], Backoff())
    assert one.apply(desired, 0).failed == 0
    assert ovs.other_config() == {"pmd-auto-lb": "false", "smc-enable": "true", "max-idle": "5000"}
    assert table.foreign() == ({"pmd-auto-lb": "false"}, {"max-idle": "9000"})
    # A value of ours that a hand changes is the hand's, for a new process as well.
    hand("smc-enable", "false")
    again = SettingsTable(ovs)
    assert again.foreign()[0] == {"pmd-auto-lb": "false", "smc-enable": "false"}
    assert Reconciler([again], Backoff()).apply({"ovs": {}}, 1).failed == 0
    assert ovs.other_config() == {"pmd-auto-lb": "false", "smc-enable": "false"}


def test_a_nics_keys_are_set_read_back_and_unset(ovs: Ovs, sandbox: Sandbox) -> None:
    sandbox.vsctl("add-br", "br0", "--", "set", "Bridge", "br0", "datapath_type=dummy")
    keys = translate(WHOLE, release(sandbox)).port_keys
    (name,) = keys
    options = pairs(
        {key: value for (column, key), value in keys[name].items() if column == "options"}
    )
    assert [key for key, _ in options] == ["n_rxq", "n_rxq_desc", "n_txq_desc"]
    pins = Affinity(keys[name]["other_config", "pmd-rxq-affinity"])
    bare = Port("br0", "dummy", (), (), None, None)
    tables = (PortsTable(ovs, lambda _name: None), AffinityTable(ovs))
    one = Reconciler(tables, Backoff())
    desired: dict[str, dict[str, object]] = {
        "ports": {"nic0": replace(bare, options=options)},
        "affinity": {"nic0": pins},
    }
    assert one.apply(desired, 0).failed == 0
    for key, value in options:
        assert sandbox.vsctl("get", "Interface", "nic0", f"options:{key}").strip(' "\n') == value
    told = sandbox.vsctl("get", "Interface", "nic0", "other_config:pmd-rxq-affinity")
    assert told.strip(' "\n') == pins.pins
    assert Reconciler(tables, Backoff()).apply(desired, 1).writes == 0
    assert one.apply({"ports": {"nic0": bare}, "affinity": {}}, 2).failed == 0
    assert sandbox.vsctl("get", "Interface", "nic0", "options").strip() == "{}"
    assert sandbox.vsctl("get", "Interface", "nic0", "other_config").strip() == "{}"
