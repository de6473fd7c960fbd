"""What OVN is told of the userspace datapath, and the defect of OVS's that this avoids."""

from __future__ import annotations

import resource
import time
from collections.abc import Iterator

import pytest

from dataplane.drivers.ovsdatapath import NOT_TOLD, DatapathTable, make_row
from dataplane.drivers.ovsdb import Ovs
from dataplane.drivers.ovsprocess import installed_version
from dataplane.drivers.unixctl import UnixctlClient, UnixctlError
from dataplane.model.rows import Capability
from dataplane.plan.ovs import capabilities
from dataplane.plan.ovskeys import OvsVersion
from dataplane.reconcile.backoff import Backoff
from dataplane.reconcile.reconciler import Reconciler
from tests.labs.sandbox import Sandbox, alive, wait_until

KEY = "ct_zero_snat"
DESIRED = {"datapath": {KEY: Capability("false")}}
AS_OVNS = (
    "--", "--id=@d", "create", "Datapath", "datapath_version=x", "external_ids:theirs=1",
    "--", "set", "Open_vSwitch", ".", "datapaths:netdev=@d",
)  # fmt: skip
CONNECTIONS = 30


@pytest.fixture
def ovs(sandbox: Sandbox) -> Iterator[Ovs]:
    sandbox.vsctl("add-br", "br0", "--", "set", "Bridge", "br0", "datapath_type=netdev")
    connection = Ovs(sandbox.remote)
    connection.start()
    connection.wait_synced(10)
    yield connection
    connection.stop()


def _told(ovs: Ovs) -> str | None:
    return ovs.state().capabilities.get(KEY)


def _settle(one: Reconciler) -> None:
    clock = iter(range(10_000))
    wait_until(
        lambda: one.apply(DESIRED, next(clock)).failed == 0 and one.apply(DESIRED, 0).writes == 0,
        "the capability is as planned",
    )


@pytest.mark.parametrize("theirs", [True, False], ids=["ovn's row", "no row yet"])
def test_ovn_is_told_and_what_vswitchd_said_comes_back(
    ovs: Ovs, sandbox: Sandbox, theirs: bool
) -> None:
    if theirs:
        sandbox.vsctl(*AS_OVNS)
        wait_until(lambda: _told(ovs) == "true", "vswitchd has filled its row in")
    one = Reconciler([DatapathTable(ovs)], Backoff())
    _settle(one)
    assert _told(ovs) == "false"
    assert ovs.state().capabilities["ct_flush"] == "true"
    assert Reconciler([DatapathTable(ovs)], Backoff()).apply(DESIRED, 0).writes == 0

    # A vswitchd that starts says what it can; the same table says it again.
    sandbox.kill_vswitchd()
    sandbox.start_vswitchd()
    wait_until(lambda: _told(ovs) == "true", "the new vswitchd has filled the row in")
    _settle(one)
    assert _told(ovs) == "false"

    assert one.apply({"datapath": {}}, 20_000).failed == 0
    assert _told(ovs) == "true"
    assert "millrace" not in sandbox.vsctl("list", "Datapath")


def test_a_row_that_ovn_made_meanwhile_is_not_replaced(ovs: Ovs, sandbox: Sandbox) -> None:
    """One in its place would never be filled in: vswitchd does that once."""
    sandbox.vsctl(*AS_OVNS)
    wait_until(lambda: _told(ovs) == "true", "vswitchd has filled its row in")
    ovs.db.transact(make_row, 5)
    ovs.db.transact(make_row, 5)
    assert _told(ovs) == "true"
    assert "theirs" in sandbox.vsctl("list", "Datapath")


def test_without_a_vswitchd_it_is_waited_for(database_only: Sandbox) -> None:
    connection = Ovs(database_only.remote)
    connection.start()
    connection.wait_synced(10)
    try:
        failed = DatapathTable(connection).upsert([(KEY, Capability("false"))])
        assert (failed[KEY].reason, failed[KEY].waiting) == (NOT_TOLD, True)
    finally:
        connection.stop()


def _packet(port: int) -> str:
    return (
        "in_port(1),eth(src=0a:00:00:00:00:01,dst=0a:00:00:00:00:02),eth_type(0x0800),"
        "ipv4(src=10.1.0.1,dst=10.1.0.2,proto=17,tos=0,ttl=64,frag=no),"
        f"udp(src={port},dst=53)"
    )


@pytest.mark.parametrize("nat", [True, False], ids=["nat(src)", "no nat"])
def test_addresses_used_again_end_vswitchd_only_where_the_plan_says_so(
    sandbox: Sandbox, nat: bool
) -> None:
    """Connections as OVN commits those that an ACL admits; each comes again when it has expired.

    That the planned way survives is the point; that the other does not says what it is for, and
    that `capabilities` has the right releases.
    """
    sandbox.vsctl("add-br", "br0", "--", "set", "Bridge", "br0", "datapath_type=netdev")
    for number in (1, 2):
        words = ("add-port", "br0", f"p{number}", "--", "set", "Interface", f"p{number}")
        sandbox.vsctl(*words, "type=dummy", f"ofport_request={number}")
    sandbox.vsctl(*AS_OVNS)
    ages = ("udp_first=1", "udp_single=1", "udp_multiple=1")
    sandbox.vsctl("add-zone-tp", "netdev", "zone=5", *ages)
    commit = "ct(commit,zone=5,nat(src))" if nat else "ct(commit,zone=5)"
    sandbox.ofctl("del-flows", "br0")
    sandbox.ofctl("add-flow", "br0", f"in_port=1,ip,actions={commit},2")
    pid = sandbox.pid("ovs-vswitchd")
    assert pid is not None
    resource.prlimit(pid, resource.RLIMIT_CORE, (0, 0))
    client = UnixctlClient(str(sandbox.unixctl))
    begun: list[float] = []
    try:
        for again in (False, True):
            for number in range(CONNECTIONS):
                if again:
                    time.sleep(max(0.0, begun[number] + 1.05 - time.monotonic()))
                else:
                    begun.append(time.monotonic())
                    time.sleep(0.03)
                client.call("netdev-dummy/receive", "p1", _packet(1000 + number))
            if not again:
                assert int(client.call("dpctl/ct-get-nconns")) > CONNECTIONS // 2
        client.call("version")
    except UnixctlError:
        wait_until(lambda: not alive(pid), "vswitchd has ended")
    mended = not capabilities(OvsVersion.parse(installed_version()))
    assert alive(pid) == (mended or not nat), sandbox.log()[-500:]
    assert ("CT_CONN_TYPE_DEFAULT failed" in sandbox.log()) == (not alive(pid))
