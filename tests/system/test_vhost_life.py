"""Eight virtual machines live through the death of vswitchd, and do not notice the daemon's."""

from __future__ import annotations

import re
import statistics
import time
from collections.abc import Callable, Iterator
from ipaddress import IPv4Interface

import pytest

from dataplane.drivers.processes import wait_until
from tests.labs import lab as topology
from tests.labs import logical, traffic
from tests.labs.guestbank import GuestBank, Silence, connected, pinged
from tests.labs.lab import Lab
from tests.labs.logical import PodPort
from tests.labs.workloads import POD_NAMESPACE, Workload

GUESTS = {f"g{number}": f"10.1.0.{60 + number}" for number in range(8)}
EVERY_S = 0.02


@pytest.fixture(scope="module")
def small_lab(progress: Callable[[str], None]) -> Iterator[Lab]:
    with Lab("mrvhl", progress, guests=False) as built:
        yield built


@pytest.fixture(scope="module")
def bank(small_lab: Lab) -> Iterator[GuestBank]:
    """Eight guests with addresses on a switch, reachable from the container c1."""
    lab = small_lab
    works = {}
    for name, address in GUESTS.items():
        port = PodPort(f"{name}.{POD_NAMESPACE}", "sw0", IPv4Interface(f"{address}/24"))
        logical.add_port(lab.nb, port)
        works[name] = Workload(name, f"{lab.prefix}-{name}", lab.node.cni_socket, "vhost-user")
        works[name].attach()
    made = GuestBank("bank", [(w.socket, w.mac) for w in works.values()], lab.dir)
    made.start()
    try:
        wait_until(lambda: _connected(lab) == len(GUESTS), "all guests are connected")
        for address in GUESTS.values():
            _answers(lab, address)
        yield made
    finally:
        made.stop()


def _connected(lab: Lab) -> int:
    return connected(f"unix:{lab.node.rundir}/db.sock")


def _answers(lab: Lab, address: str) -> None:
    wait_until(
        lambda: traffic.ping(lab.containers["c1"], address, 1)[0] == 1,
        f"{address} answers",
        timeout_s=60,
    )


def _told(what: str, found: list[Silence]) -> str:
    gaps = [one.longest_s for one in found]
    return (
        f"{what}: longest silence {statistics.median(gaps):.2f} s "
        f"({min(gaps):.2f}..{max(gaps):.2f}), n={len(gaps)}"
    )


def test_the_daemon_says_what_the_guests_ports_are(small_lab: Lab, bank: GuestBank) -> None:
    lab = small_lab
    assert bank.guests
    ports = {row["iface_id"]: row for row in lab.node.ask("ports")["ports"]}
    for name in GUESTS:
        row = ports[f"{name}.{POD_NAMESPACE}"]
        assert (row["link"], row["vrings"], row["numa"]) == ("connected", 2, 0), row
    # One PMD thread: its load is measured, and there is nothing to move.
    wait_until(lambda: lab.node.ask("rebalance")["present"], "a poll of vswitchd", timeout_s=60)
    shown = lab.node.ask("rebalance")
    print(shown)
    assert [row["cpu"] for row in shown["present"]] == [1]
    assert shown["moves"] == []
    assert "one PMD thread" in shown["reasons"][0]["reason"]
    print(lab.node.ask("status")["conditions"])


def test_a_guest_of_two_queues_has_both_polled(small_lab: Lab, bank: GuestBank) -> None:
    lab = small_lab
    assert bank.guests
    name, address = "mq", "10.1.0.70"
    logical.add_port(
        lab.nb, PodPort(f"{name}.{POD_NAMESPACE}", "sw0", IPv4Interface(f"{address}/24"))
    )
    work = Workload(name, f"{lab.prefix}-{name}", lab.node.cni_socket, "vhost-user")
    work.attach()
    guest = GuestBank("pair", [(work.socket, work.mac)], lab.dir, queues=2)
    guest.start()
    try:
        _answers(lab, address)

        def row() -> dict[str, object]:
            rows = lab.node.ask("ports")["ports"]
            return next(one for one in rows if one["iface_id"] == f"{name}.{POD_NAMESPACE}")

        wait_until(lambda: row()["vrings"] == 4, "two pairs of rings")
        shown = lab.node.appctl("dpif-netdev/pmd-rxq-show")
        polled = re.findall(rf"port: {row()['device']} +queue-id: +(\d) \(enabled\)", shown)
        assert sorted(polled) == ["0", "1"], shown
    finally:
        guest.stop()
        work.detach()


def test_every_guest_reconnects_after_vswitchd_was_killed(small_lab: Lab, bank: GuestBank) -> None:
    lab = small_lab
    assert bank.guests
    with (
        pinged(lab.containers["c1"], list(GUESTS.values()), EVERY_S) as guests,
        pinged(lab.wire, [topology.TUNNEL_ADDRESS], EVERY_S) as tunnel,
    ):
        time.sleep(2)
        lab.node.kill("ovs-vswitchd")
        began = time.monotonic()
        lab.node.up()
        started = time.monotonic() - began
        for address in GUESTS.values():
            _answers(lab, address)
        # By their answers, not by what OVS says: seen once, its rows went on saying "disconnected"
        # of eight guests that answered all the while (docs/vms.md).
        answered = time.monotonic() - began
        wait_until(
            lambda: traffic.ping(lab.wire, topology.TUNNEL_ADDRESS, 1)[0] == 1,
            "the tunnel's end answers",
            timeout_s=60,
        )
        time.sleep(1)
    print(
        f"vswitchd started again after {started:.2f} s, all {len(GUESTS)} guests had answered "
        f"after {answered:.2f} s; {_told('guests', guests)}; {_told('tunnel', tunnel)}; "
        f"OVS calls {_connected(lab)} of them connected"
    )
    assert len(guests) == len(GUESTS)
    assert all(one.answered > 0 and one.longest_s > 0 for one in [*guests, *tunnel])


def test_the_daemons_restart_writes_nothing_and_no_guest_notices(
    small_lab: Lab, bank: GuestBank
) -> None:
    lab = small_lab
    assert bank.guests
    with pinged(lab.containers["c1"], list(GUESTS.values()), EVERY_S) as guests:
        time.sleep(1)
        lab.node.kill("node")
        lab.node.up()
        lab.node.wait_served(topology.FAST_VIPS)
        time.sleep(1)
    print(_told("guests", guests))
    lab.node.wrote_nothing()
    assert len(guests) == len(GUESTS)
    assert all(one.answered > 0 for one in guests)
