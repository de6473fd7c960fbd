"""Ports that the real OVS-DPDK takes, refuses, and loses: what becomes of each."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from dataplane.drivers import machine, netns, ovsprocess
from dataplane.drivers.nics import LinkMonitor
from dataplane.drivers.ovsdb import Ovs
from dataplane.drivers.ovsports import PortsTable
from dataplane.drivers.ovstables import BridgesTable, SettingsTable
from dataplane.model.rows import Bridge, OvsSetting, Port
from dataplane.reconcile.backoff import Backoff
from dataplane.reconcile.reconciler import Reconciler
from dataplane.reconcile.status import State
from tests.labs import vswitchdlog
from tests.labs.netns import Namespace
from tests.labs.sandbox import Sandbox, wait_until

pytestmark = pytest.mark.system

HUGEPAGES = 256
SETTINGS = {
    ("other_config", key): OvsSetting(value)
    for key, value in {
        "dpdk-init": "true",
        "dpdk-socket-mem": "256",
        "dpdk-lcore-mask": "0x1",
        "pmd-cpu-mask": "0x2",
        # A polling thread that sleeps when it has nothing to do: the machine is shared.
        "pmd-maxsleep": "500",
        "dpdk-extra": "--no-pci --file-prefix=mro-ports",
    }.items()
}
BRIDGES = {"br-ex": Bridge("netdev", "standalone", None)}
GOOD = Port("br-ex", "afxdp", (("n_rxq", "1"), ("xdp-mode", "best-effort")), (), None, None)

BAD = {
    "too many queues": (
        "up1",
        Port("br-ex", "afxdp", (("n_rxq", "8"), ("xdp-mode", "native")), (), None, None),
    ),
    "no such driver": (
        "bad0",
        Port("br-ex", "dpdk", (("dpdk-devargs", "net_nosuch0,iface=zz"),), (), None, None),
    ),
    "a queue that is taken": (
        "vdev0",
        Port(
            "br-ex", "dpdk",
            (("dpdk-devargs", "net_af_xdp9,iface=up0,start_queue=0,queue_count=1"),),
            (), None, None,
        ),
    ),
}  # fmt: skip


def planned(ports: Mapping[str, Port]) -> dict[str, Mapping[Any, Any]]:
    return {"ovs": SETTINGS, "bridges": BRIDGES, "ports": ports}


class Node:
    """OVS-DPDK in a namespace of its own with two NICs, up0 and up1."""

    def __init__(self, box: Sandbox, space: Namespace) -> None:
        self.box = box
        self.space = space
        self.ovs = Ovs(box.remote)
        self.ovs.start()
        self.ovs.wait_synced(10)
        self.now = 0.0
        self.reconciler = self.another()

    def another(self) -> Reconciler:
        return Reconciler(
            [SettingsTable(self.ovs), BridgesTable(self.ovs), self.ports()], Backoff()
        )

    def ports(self) -> PortsTable:
        return PortsTable(self.ovs, self.ifindex)

    def ifindex(self, name: str) -> int | None:
        shown = self.space.run("ip", "-j", "link", "show", name, check=False)
        return int(json.loads(shown)[0]["ifindex"]) if shown.strip() else None

    def veth(self, name: str) -> None:
        self.space.run("ip", "link", "add", name, "type", "veth", "peer", "name", f"w-{name}")
        for end in (name, f"w-{name}"):
            self.space.run("ip", "link", "set", end, "up")

    def apply(self, ports: dict[str, Port], later: float = 0.0) -> int:
        self.now += later
        return self.reconciler.apply(planned(ports), self.now).writes

    def state(self, port: str) -> State:
        return self.reconciler.statuses()["ports", port].state


@pytest.fixture(scope="module")
def node() -> Iterator[Node]:
    user = Path("/run/millrace/mro-ports")
    user.mkdir(parents=True, exist_ok=True)
    machine.borrow(user, size_kib=2048, count=HUGEPAGES, mount=Path("/dev/hugepages"))
    space = Namespace("mro-ports")
    space.delete()
    space.create()
    try:
        with Sandbox(vswitchd=False, dpdk=True, netns=space.name) as box:
            made = Node(box, space)
            try:
                made.veth("up0")
                made.veth("up1")
                made.reconciler.apply({"ovs": SETTINGS}, 0)
                box.start_vswitchd()
                made.apply({"up0": GOOD})
                yield made
            finally:
                made.ovs.stop()
    finally:
        space.delete()
        ovsprocess.remove_hugepage_files(Path("/dev/hugepages"), "mro-ports")
        user.rmdir()
        machine.give_back(user)


def test_an_af_xdp_port_is_made_and_a_restarted_daemon_writes_nothing(node: Node) -> None:
    node.apply({"up0": GOOD})
    assert node.state("up0") is State.DONE
    assert node.ovs.state().dpdk_initialized
    again = node.another()
    assert again.apply(planned({"up0": GOOD}), 0).writes == 0


@pytest.mark.parametrize("kind", BAD)
def test_a_refused_port_is_gone_at_once_and_the_log_stays_quiet(node: Node, kind: str) -> None:
    name, port = BAD[kind]
    node.apply({"up0": GOOD, name: port}, later=10)
    status = node.reconciler.statuses()["ports", name]
    assert status.quarantined
    assert status.reason
    print(f"{kind}: {status.reason}")
    assert name not in node.ovs.state().ports
    assert node.ovs.state().ports["up0"].rejected == ""
    log = node.box.rundir / "ovs-vswitchd.log"
    lines = vswitchdlog.fallen_silent(log, [name])
    assert lines
    time.sleep(1.0)
    assert vswitchdlog.about(log, [name]) == lines
    assert node.apply({"up0": GOOD, name: port}, later=1) == 0
    node.apply({"up0": GOOD}, later=1)


def test_a_port_whose_device_was_deleted_waits_and_comes_back_with_it(node: Node) -> None:
    node.apply({"up0": GOOD}, later=1)
    node.space.run("ip", "link", "del", "up0")
    node.apply({"up0": GOOD}, later=1)
    assert node.state("up0") is State.PENDING
    node.veth("up0")
    heard: list[int] = []
    monitor = LinkMonitor(lambda: heard.append(1), floor_s=0.01)
    with netns.opened(str(node.space.path)) as fd:
        netns.inside(fd, str(node.space.path), monitor.start)
    try:
        node.apply({"up0": GOOD}, later=60)
        assert node.state("up0") is State.DONE
        assert "xdp" in node.space.run("ip", "link", "show", "up0")
        # OVS's program on the NIC is news, so ours can take its place at once.
        wait_until(lambda: heard, "the attachment was noticed")
    finally:
        monitor.stop()


def test_after_vswitchd_was_killed_the_ports_are_back_without_a_write(node: Node) -> None:
    node.apply({"up0": GOOD}, later=60)
    node.box.kill_vswitchd()
    node.box.start_vswitchd()
    wait_until(lambda: node.ovs.state().dpdk_initialized, "DPDK is up")
    assert node.apply({"up0": GOOD}, later=60) == 0
    wait_until(
        lambda: "xdp" in node.space.run("ip", "link", "show", "up0"), "OVS has attached again"
    )
    assert node.state("up0") is State.DONE
