"""The table `outlets` in a namespace: macvlans on up0, whose egress hook has the program or not."""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from dataplane.drivers import xdphook
from dataplane.drivers.bpfstate import BpfState
from dataplane.drivers.hostreplies import HostRepliesTable
from dataplane.drivers.libbpf import XDP_FLAGS_DRV_MODE, XDP_FLAGS_SKB_MODE, LibbpfError
from dataplane.drivers.libbpf_programs import loaded
from dataplane.drivers.outlets import ClearedTable, OutletsTable
from dataplane.drivers.rtnl import find_link, route_socket
from dataplane.model.rows import Cleared, HostReplies, Outlet, ProgramKind
from dataplane.reconcile.backoff import Backoff
from dataplane.reconcile.reconciler import Reconciler
from dataplane.reconcile.status import State
from tests.bpf import standin
from tests.bpf.world import World, mac

pytestmark = pytest.mark.bpf

NAME = "svc0-out"
WANTED = Outlet("up0", 1400, 2)
ROWS = {NAME: WANTED}


def ip(*argv: str) -> str:
    return subprocess.run(["ip", *argv], check=True, capture_output=True, text=True).stdout


def index_of(name: str) -> int:
    with route_socket() as ipr:
        link = find_link(ipr, name)
    assert link is not None, name
    return link.index


@pytest.fixture(autouse=True)
def hook(shared_state: BpfState, world: World) -> Iterator[HostRepliesTable]:
    """Today's program at up0's hook, and a node's entry by which it hands over."""
    world.set_node()
    table = HostRepliesTable(shared_state)
    assert table.upsert([("up0", HostReplies())]) == {}
    yield table
    subprocess.run(["ip", "link", "del", NAME], check=False, capture_output=True)
    table.delete(["up0"])


@pytest.fixture
def table(shared_state: BpfState) -> OutletsTable:
    return OutletsTable(shared_state)


def reconciler(state: BpfState) -> Reconciler:
    return Reconciler([OutletsTable(state)], Backoff())


def test_it_is_made_whole_and_a_restart_writes_nothing(
    shared_state: BpfState, table: OutletsTable
) -> None:
    one = reconciler(shared_state)
    assert one.apply({"outlets": ROWS}, 0).failed == 0, one.statuses()
    assert table.observe() == ROWS
    assert reconciler(shared_state).apply({"outlets": ROWS}, 0).writes == 0
    shown = ip("-d", "link", "show", NAME)
    assert "macvlan mode source" in shown
    assert "state UP" in shown
    assert "inet6" not in ip("address", "show", NAME)
    one.apply({"outlets": {}}, 1)
    assert table.observe() == {}
    assert table.delete([NAME]) == {}


def test_one_that_differs_is_made_anew(shared_state: BpfState, table: OutletsTable) -> None:
    assert table.upsert([(NAME, WANTED)]) == {}
    for changes in (["mtu", "1300"], ["down"]):
        ip("link", "set", NAME, *changes)
        assert table.observe() != ROWS
        one = reconciler(shared_state)
        assert one.apply({"outlets": ROWS}, 0).writes == 1
        assert table.observe() == ROWS
    assert table.upsert([(NAME, Outlet("up0", 1400, 1))]) == {}
    assert table.observe() == {NAME: Outlet("up0", 1400, 1)}


def test_half_of_one_is_ours_and_anothers_is_not(
    shared_state: BpfState, table: OutletsTable
) -> None:
    ip("link", "add", "link", "up0", "name", NAME, "type", "macvlan", "mode", "source")
    before = index_of(NAME)
    assert table.upsert([(NAME, WANTED)]) == {}
    assert index_of(NAME) != before
    ip("link", "set", NAME, "alias", "somebody's")
    before = index_of(NAME)
    one = reconciler(shared_state)
    one.apply({"outlets": ROWS}, 0)
    status = one.statuses()["outlets", NAME]
    assert status.quarantined
    assert "somebody's" in status.reason
    assert table.delete([NAME]) == {}
    assert index_of(NAME) == before


def test_without_the_program_none_is_made(
    shared_state: BpfState, table: OutletsTable, hook: HostRepliesTable
) -> None:
    hook.delete(["up0"])
    one = reconciler(shared_state)
    one.apply({"outlets": ROWS}, 0)
    status = one.statuses()["outlets", NAME]
    assert (status.state, status.quarantined) == (State.ERROR, True)
    assert "replies go by svc0" in status.reason
    assert table.observe() == {}


def test_until_svc0_is_known_none_is_made(table: OutletsTable, world: World) -> None:
    world.set_node(svc_port_step=0)
    assert table.upsert([(NAME, WANTED)])[NAME].waiting
    assert table.observe() == {}


def test_an_uplink_of_a_bridge_has_none_and_says_why(
    shared_state: BpfState, table: OutletsTable
) -> None:
    ip("link", "add", "br9", "type", "bridge")
    try:
        ip("link", "set", "up0", "master", "br9")
        one = reconciler(shared_state)
        one.apply({"outlets": ROWS}, 0)
        status = one.statuses()["outlets", NAME]
        assert status.quarantined
        assert "bridge" in status.reason
    finally:
        ip("link", "del", "br9")
    assert table.observe() == {}


def test_an_uplink_that_is_not_there_is_waited_for(table: OutletsTable) -> None:
    failed = table.upsert([(NAME, Outlet("up9", 1400, 1))])
    assert failed[NAME].waiting


def test_ovss_program_is_taken_off_and_anothers_is_not(
    table: OutletsTable, shared_state: BpfState, tmp_path: Path
) -> None:
    cleared = ClearedTable()
    assert cleared.upsert([(NAME, Cleared())])[NAME].waiting
    assert table.upsert([(NAME, WANTED)]) == {}
    assert cleared.observe() == {NAME: Cleared()}
    with (
        loaded(standin.compiled(tmp_path)) as made,
        made.program("xsk_def_prog") as program,
    ):
        xdphook.attach(index_of(NAME), program, XDP_FLAGS_SKB_MODE)
        # What the kernel does not take meanwhile, and the reason for all of this.
        with pytest.raises(LibbpfError):
            xdphook.attach(index_of("up0"), program, XDP_FLAGS_DRV_MODE)
        assert cleared.observe() == {}
        assert cleared.upsert([(NAME, Cleared())]) == {}
        assert cleared.observe() == {NAME: Cleared()}
        xdphook.attach(index_of("up0"), program, XDP_FLAGS_DRV_MODE)
        xdphook.detach(index_of("up0"), program, XDP_FLAGS_DRV_MODE)
    foreign = shared_state.program(ProgramKind.SERVICE)
    xdphook.attach(index_of(NAME), foreign, XDP_FLAGS_SKB_MODE)
    assert "millrace_svc" in cleared.upsert([(NAME, Cleared())])[NAME].reason
    assert cleared.observe() == {}


def test_nothing_comes_in_by_it(table: OutletsTable) -> None:
    assert table.upsert([(NAME, WANTED)]) == {}
    own = ip("-o", "link", "show", NAME).split("link/ether ")[1].split()[0]
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as wire:
        wire.bind(("up0-peer", 0))
        for to in (own, "ff:ff:ff:ff:ff:ff", "33:33:00:00:00:01"):
            frame = mac(to) + mac("02:00:00:00:00:c1") + b"\x08\x00" + bytes(46)
            for _ in range(5):
                wire.send(frame)
    counted = {
        line.split(":")[0].strip(): int(line.split(":")[1].split()[1])
        for line in Path("/proc/thread-self/net/dev").read_text().splitlines()[2:]
    }
    assert counted["up0"] >= 15
    assert counted[NAME] == 0
