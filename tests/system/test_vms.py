"""A virtual machine's life on two nodes: address by DHCP, name, limit, migration."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from ipaddress import IPv4Interface

import pytest

from dataplane.drivers.processes import wait_until
from tests.labs import logical, traffic
from tests.labs.guests import TestpmdGuest
from tests.labs.lab import PORT, VIP_VM, VIP_WEB
from tests.labs.labnode import LabNode
from tests.labs.logical import Dhcp, PodPort, Service
from tests.labs.machines import SLOW_MIB_S, Machine, Memory
from tests.labs.twonodes import CONTAINER, TwoNodeLab
from tests.labs.vmlife import ADDRESS, IFACE_ID, LIMIT_MBIT_S, VM, Life
from tests.labs.workloads import POD_NAMESPACE, Workload

SECOND = ("vm2", "10.1.0.30")
MTU = Dhcp.of_lab().mtu
METRICS = (
    "import urllib.request as u;"
    "print(u.urlopen('http://127.0.0.1:9478/metrics', timeout=30).read().decode())"
)
SCRAPE = ("/usr/bin/python3", "-c", METRICS)


@pytest.fixture(scope="module")
def two(progress: Callable[[str], None]) -> Iterator[TwoNodeLab]:
    with TwoNodeLab("mrvms", progress, guests=False) as built:
        logical.offer_dhcp(built.nb, Dhcp.of_lab(), IFACE_ID)
        logical.add_port(
            built.nb,
            PodPort(f"{SECOND[0]}.{POD_NAMESPACE}", "sw0", IPv4Interface(f"{SECOND[1]}/24")),
        )
        backend = f"{CONTAINER[1]}:{PORT}"
        logical.add_service(built.nb, Service("web", f"{VIP_WEB}:80", "tcp", (backend,)))
        # A node that has heard of what was written last has heard of the options, too. One that
        # attaches a port before gives it its own MTU: the port was there long before its options.
        wait_until(
            lambda: all(VIP_WEB in node.services() for node in built.nodes),
            f"both nodes know {VIP_WEB}",
        )
        yield built


@pytest.fixture(scope="module")
def life(two: TwoNodeLab) -> Iterator[Life]:
    made = Life.begun(two, 0, "aaaaa")
    try:
        made.machine.wait_ready()
        yield made
    finally:
        made.end()


def _row(node: LabNode) -> dict[str, object] | None:
    return next((one for one in node.ask("ports")["ports"] if one["iface_id"] == IFACE_ID), None)


def _get(machine: Machine, address: str, port: int) -> str:
    return machine.run(f"/answerd get {address} {port} /")


def test_address_route_and_mtu_come_from_ovn(life: Life) -> None:
    shown = life.machine.run("ip address show dev eth0; ip route")
    assert f"inet {ADDRESS}/24" in shown, shown
    assert f"mtu {MTU} " in shown, shown
    assert f"link/ether {life.pod.mac} " in shown, shown
    assert "default via 10.1.0.1 dev eth0" in shown, shown
    assert life.pod.result["interfaces"][0]["mtu"] == MTU


def test_it_reaches_a_container_a_cluster_ip_and_a_second_machine(
    two: TwoNodeLab, life: Life
) -> None:
    assert f"name=c1 peer={ADDRESS}:" in _get(life.machine, CONTAINER[1], PORT)
    assert "name=c1 " in _get(life.machine, VIP_WEB, 80)
    name, address = SECOND
    other = Workload(name, f"{two.prefix}-{name}", two.nodes[1].cni_socket, "vhost-user")
    other.attach()
    second = TestpmdGuest(name, other.socket, other.mac, two.dir)
    try:
        second.start()
        second.wait_ready()
        wait_until(
            lambda: " 0% packet loss" in life.machine.run(f"ping -c 1 -W 2 {address}"),
            f"{name} answers {VM}",
        )
    finally:
        second.stop()
        other.detach()


def test_it_is_found_by_its_name(two: TwoNodeLab, life: Life) -> None:
    row = _row(two.nodes[life.node])
    assert row is not None
    assert (row["link"], row["mtu"], row["addresses"]) == ("connected", MTU, [f"{ADDRESS}/24"])
    labels = (
        f'interface="{row["device"]}"', f'namespace="{POD_NAMESPACE}"', f'pod="{life.pod.pod}"',
        f'vm="{VM}"',
    )  # fmt: skip

    def scraped() -> bool:
        lines = two.nodes[life.node].namespace.run(*SCRAPE).splitlines()
        return any(
            line.startswith("millrace_vhost_connected{") and all(label in line for label in labels)
            for line in lines
        )

    wait_until(scraped, f"a port's metric with {labels}")


def test_it_sends_no_faster_than_its_limit(two: TwoNodeLab, life: Life) -> None:
    # The burst, a second's worth, goes first; then the rate holds.
    traffic.rate_gbit_s(two.container, ADDRESS, PORT, 3)
    rate = traffic.rate_gbit_s(two.container, ADDRESS, PORT, 4) * 1000
    assert 0 < rate < LIMIT_MBIT_S * 1.1


@pytest.mark.parametrize(("rarp", "suffix"), [(False, "bbbbb"), (True, "ccccc")])
def test_it_migrates_and_no_connection_is_lost(
    two: TwoNodeLab, life: Life, rarp: bool, suffix: str
) -> None:
    source, left, before = two.nodes[life.node], life.pod, life.pod.result
    # Slowly: QEMU must not lose what the guest writes meanwhile (tests/labs/machines.py).
    cut = life.migrate(suffix, rarp=rarp, mib_s=SLOW_MIB_S)
    assert (life.pod.mac, life.pod.result["ips"]) == (left.mac, before["ips"])
    for who, stream in cut.streams.items():
        assert (stream["error"], stream["server"]) == ("", VM), (who, cut)
        assert stream["lines"] > 0, (who, cut)
    assert _row(source) is None
    assert not left.socket.parent.exists()
    assert IFACE_ID not in source.vsctl("list", "Interface")
    shown = life.machine.run("ip address show dev eth0")
    assert f"inet {ADDRESS}/24" in shown, shown
    assert "name=c1 " in _get(life.machine, VIP_WEB, 80)


def test_a_restart_elsewhere_keeps_mac_and_address_on_hugepages_with_two_queues(
    two: TwoNodeLab, life: Life
) -> None:
    before = (life.pod.mac, life.pod.result["ips"])
    life.machine.stop()
    life.pod.detach()
    logical.place(two.nb, IFACE_ID, ())
    again = Life.begun(two, 1 - life.node, "ddddd", memory=Memory.HUGEPAGES, queues=2)
    life.processes.append(again.machine)
    assert (again.pod.mac, again.pod.result["ips"]) == before
    again.machine.wait_ready()
    shown = again.machine.run("ip address show dev eth0; ls /sys/class/net/eth0/queues")
    assert f"inet {ADDRESS}/24" in shown, shown
    assert "rx-1" in shown
    assert "tx-1" in shown
    row = _row(two.nodes[again.node])
    assert row is not None
    assert (row["link"], row["vrings"]) == ("connected", 4), row
    answers = traffic.http(two.client, VIP_VM, 80, 5)
    assert answers.all_ok, answers.failures
    life.pod, life.machine, life.node = again.pod, again.machine, again.node
