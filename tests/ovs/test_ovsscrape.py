"""The poll against a vswitchd that runs, and interfaces selected from its database."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from dataplane.drivers.ovsdb import Ovs
from dataplane.drivers.ovsinterfaces import interface_states
from dataplane.drivers.ovsscrape import OvsPoll
from dataplane.drivers.unixctl import UnixctlClient
from dataplane.ports import ObserveError
from tests.labs.sandbox import Sandbox, wait_until


@pytest.fixture
def busy() -> Iterator[Sandbox]:
    with Sandbox() as box:
        box.vsctl("add-br", "br0")
        box.vsctl("add-port", "br0", "p0", "--", "set", "Interface", "p0", "type=dummy-pmd")
        box.vsctl(
            "add-bond", "br0", "bond0", "m0", "m1", "lacp=active", "--", "set", "Interface", "m0",
            "type=dummy", "--", "set", "Interface", "m1", "type=dummy", "external_ids:vm-id=vm7",
        )  # fmt: skip
        yield box


def test_a_poll_of_a_running_vswitchd(busy: Sandbox) -> None:
    client = UnixctlClient(str(busy.unixctl))
    poll = OvsPoll()
    # Threads add up their events once a second.
    wait_until(lambda: "bridge_reconfigure" in poll.take(client).coverage, "events are counted")
    found = poll.take(client)
    assert [thread.rxqs[0].interface for thread in found.pmds if thread.rxqs] == ["p0"]
    assert found.memory["ports"] >= 4
    assert found.coverage["bridge_reconfigure"].total > 0
    assert [bond.name for bond in found.bonds] == ["bond0"]
    assert [one.flows for one in found.datapaths] == [0]
    assert found.tracked_most == 3_000_000
    # This build has no DPDK, and no commands of DPDK.
    assert not {"netdev-dpdk/get-mempool-info", "dpdk/get-malloc-stats"} & found.seconds.keys()
    assert found.mempools == ()


def test_interfaces_with_their_counters(busy: Sandbox) -> None:
    def statistics() -> dict[str, int]:
        return dict(interface_states(busy.remote)["p0"].statistics)

    wait_until(lambda: "rx_packets" in statistics(), "vswitchd has written counters")
    found = interface_states(busy.remote)
    assert found.keys() == {"br0", "p0", "m0", "m1"}
    assert (found["m1"].port, found["m1"].bridge) == ("bond0", "br0")
    assert found["m1"].external_ids == {"vm-id": "vm7"}
    assert found["p0"].admin_state == "up"
    assert found["p0"].ofport == 1


def test_a_database_out_of_reach_is_named(busy: Sandbox) -> None:
    busy.stop_ovsdb()
    with pytest.raises(ObserveError, match=r"db.sock.*is ovsdb-server running"):
        interface_states(busy.remote)
    with pytest.raises(ObserveError, match="not from ssl:"):
        interface_states("ssl:127.0.0.1:6640")


def test_settings_are_read_whoever_wrote_them(busy: Sandbox) -> None:
    busy.vsctl("set", "Open_vSwitch", ".", "other_config:dpdk-extra=--no-pci")
    ovs = Ovs(busy.remote)
    ovs.start()
    try:
        ovs.wait_synced(10)
        assert ovs.other_config() == {"dpdk-extra": "--no-pci"}
    finally:
        ovs.stop()
