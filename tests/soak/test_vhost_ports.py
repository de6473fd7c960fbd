"""A hundred VMs' ports are made and removed again and again, and the node is as it was."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Iterator
from ipaddress import IPv4Interface
from pathlib import Path

import pytest

from cni import wire
from dataplane.drivers.ovsreports.pools import mempools
from dataplane.drivers.processes import wait_until
from tests.labs import logical
from tests.labs.guestbank import GuestBank, connected
from tests.labs.lab import Lab
from tests.labs.logical import PodPort
from tests.labs.workloads import POD_NAMESPACE, Workload
from tests.soak.census import Census, census
from tests.soak.verdicts import Verdicts, spread

pytestmark = pytest.mark.soak

PORTS = 100
MOST_MINUTES = 5.0
WITH_GUESTS = 8
"""Ports of each turn that a guest connects to: only then are there packet buffers to lose."""

THROUGH_PLUGIN = 4
"""Ports of each turn that are made by the plugin's own process, as a container runtime does."""

P99_MS = 200.0
GROWTH_KIB = 16 * 1024
CALL_S = 60.0


@pytest.fixture(scope="module")
def small_lab() -> Iterator[Lab]:
    with Lab("mrvhp", guests=False) as built:
        yield built


@pytest.fixture(scope="module")
def workloads(small_lab: Lab) -> list[Workload]:
    """The ports are in OVN all the time: theirs is not the life that is measured."""
    lab, works = small_lab, []
    for number in range(PORTS):
        address = IPv4Interface(f"10.1.0.{100 + number}/24")
        logical.add_port(lab.nb, PodPort(f"v{number}.{POD_NAMESPACE}", "sw0", address))
        uid = f"{lab.prefix}-v{number}"
        works.append(Workload(f"v{number}", uid, lab.node.cni_socket, "vhost-user"))
    return works


def _arguments(work: Workload) -> dict[str, object]:
    """What the plugin sends for it."""
    return {
        "network": "millrace", "container_id": work.container_id, "netns": "", "ifname": "eth0",
        "mode": work.mode, "pod": work.pod, "namespace": POD_NAMESPACE,
        "pod_uid": work.container_id, "mtu": 0, "queues": 1,
    }  # fmt: skip


def _made(work: Workload) -> float:
    """Make its port through the daemon's socket; milliseconds until all of it was there."""
    began = time.monotonic()
    work.result = wire.call(str(work.cni_socket), "add", _arguments(work), CALL_S)
    return (time.monotonic() - began) * 1e3


def _removed(work: Workload) -> float:
    began = time.monotonic()
    wire.call(str(work.cni_socket), "del", _arguments(work), CALL_S)
    return (time.monotonic() - began) * 1e3


def _made_by_plugin(work: Workload) -> float:
    began = time.monotonic()
    work.attach()
    return (time.monotonic() - began) * 1e3


def _buffers(lab: Lab) -> dict[str, int]:
    """Packet buffers in use, by pool."""
    return {
        one.name: one.in_use for one in mempools(lab.node.appctl("netdev-dpdk/get-mempool-info"))
    }


def _used_by_guests(lab: Lab, works: list[Workload], number: int) -> None:
    """Guests connect to some of the ports, and go again."""
    guests = [(work.socket, work.mac) for work in works]
    bank = GuestBank(f"bank{number}", guests, lab.dir)
    bank.start()
    try:
        database = f"unix:{lab.node.rundir}/db.sock"
        wait_until(lambda: connected(database) == len(works), "the guests are connected")
    finally:
        bank.stop()


def _turn(lab: Lab, works: list[Workload], number: int, took: dict[str, list[float]]) -> None:
    """Make all, use some, remove all."""
    for place, work in enumerate(works):
        by_plugin = place < THROUGH_PLUGIN
        took["plugin" if by_plugin else "create"].append(
            _made_by_plugin(work) if by_plugin else _made(work)
        )
    _used_by_guests(lab, works[:WITH_GUESTS], number)
    took["delete"] += [_removed(work) for work in works]


def _by_place(values: list[float]) -> str:
    """Medians of the first and the last ten of a turn's: what many ports cost the next one."""
    each = PORTS - THROUGH_PLUGIN
    first, last = (
        [value for at, value in enumerate(values) if low <= at % each < low + 10]
        for low in (0, each - 10)
    )
    return f"beside few {statistics.median(first):.0f}, beside many {statistics.median(last):.0f}"


def _p99(values: list[float]) -> float:
    return statistics.quantiles(values, n=100, method="inclusive")[98]


def _settled(lab: Lab, before: Census) -> list[str]:
    """What is more than before, once what is ending has had its time."""
    deadline = time.monotonic() + 20
    while (more := census(lab).more_than(before)) and time.monotonic() < deadline:
        time.sleep(0.5)
    return more


def test_a_hundred_ports_come_and_go_and_leave_nothing(
    small_lab: Lab, workloads: list[Workload], verdicts: Verdicts
) -> None:
    lab = small_lab
    minutes = min(float(os.environ.get("MILLRACE_SOAK_MINUTES", MOST_MINUTES)), MOST_MINUTES)
    _turn(lab, workloads, 0, {"create": [], "plugin": [], "delete": []})  # caches fill
    wait_until(lambda: not census(lab).sockets, "the first turn's directories are gone")
    before, buffers = census(lab), _buffers(lab)
    took: dict[str, list[float]] = {"create": [], "plugin": [], "delete": []}
    turns, ends = 0, time.monotonic() + 60 * minutes
    while turns < 1 or time.monotonic() < ends:
        turns += 1
        _turn(lab, workloads, turns, took)
    more, after, left = _settled(lab, before), census(lab), _buffers(lab)
    grown = {
        "daemon": after.daemon_kib - before.daemon_kib,
        "vswitchd": after.vswitchd_kib - before.vswitchd_kib,
    }
    lost = {name: count for name, count in left.items() if count > buffers.get(name, 0)}
    print(f"buffers in use before {buffers}, after {left}; load {os.getloadavg()}")
    p99 = _p99(took["create"])
    held = [
        verdicts.note(
            f"{turns} turns of {PORTS} vhost-user ports leave nothing",
            "; ".join(more) or "no port, socket, directory, record or descriptor more",
            holds=not more,
        ),
        verdicts.note(
            "no packet buffer is lost", str(lost) if lost else f"{sum(left.values())} in use, as "
            f"before ({sum(buffers.values())}), {len(left)} pools",
            holds=not lost,
        ),
        verdicts.note(
            f"memory after {turns * PORTS} ports",
            ", ".join(f"{name} {kib:+} KiB" for name, kib in grown.items()),
            holds=max(grown.values()) < GROWTH_KIB,
        ),
        verdicts.note(
            f"create: p99 under {P99_MS:.0f} ms",
            f"p99 {p99:.0f} ms, {spread(took['create'])} ms, {_by_place(took['create'])}; "
            f"with the plugin's process {spread(took['plugin'])} ms; "
            f"delete {spread(took['delete'])} ms; load {os.getloadavg()[0]:.1f}",
            holds=p99 < P99_MS,
        ),
    ]  # fmt: skip
    assert all(held)


def test_nothing_of_a_port_is_left_in_its_directory(
    small_lab: Lab, workloads: list[Workload]
) -> None:
    """A socket that a guest left behind goes with its port."""
    work = workloads[0]
    _made(work)
    work.socket.touch()
    folder = Path(work.socket).parent
    assert folder.is_dir()
    _removed(work)
    assert not folder.exists()
