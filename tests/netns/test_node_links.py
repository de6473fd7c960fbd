"""Links, addresses and NICs of a node, in a network namespace made for the test."""

from __future__ import annotations

import ctypes
import os
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Interface, IPv6Interface, ip_address
from pathlib import Path

import pytest

from dataplane.drivers.addresses import AddressesTable
from dataplane.drivers.ethtool import tx_checksum
from dataplane.drivers.links import LinksTable
from dataplane.drivers.netns import delete_named
from dataplane.drivers.nics import LinkMonitor, read_nics
from dataplane.model.addr import Mac, mac_of_address
from dataplane.model.rows import DeviceAddress, Link
from dataplane.reconcile.backoff import Backoff
from dataplane.reconcile.reconciler import Reconciler
from dataplane.reconcile.status import State
from tests.labs.sandbox import wait_until

pytestmark = pytest.mark.netns

SVC = IPv4Address("100.64.255.1")
LINK = Link("svc0-ovs", mac_of_address(SVC), 1500, 2, (IPv4Interface(f"{SVC}/32"),))


def ip(*args: str) -> str:
    done = subprocess.run(["ip", *args], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def enter(path: str) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        assert ctypes.CDLL(None, use_errno=True).setns(fd, 0x40000000) == 0
    finally:
        os.close(fd)


@pytest.fixture(autouse=True)
def namespace() -> Iterator[str]:
    name = f"mro-{os.getpid()}-{threading.get_native_id()}"
    ip("netns", "add", name)
    own = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    try:
        enter(f"/run/netns/{name}")
        ip("link", "set", "lo", "up")
        yield name
    finally:
        ctypes.CDLL(None).setns(own, 0x40000000)
        os.close(own)
        delete_named(name)


def links() -> Reconciler:
    return Reconciler([LinksTable()], Backoff())


def test_the_service_link_is_made_whole_and_a_restart_writes_nothing() -> None:
    one = links()
    assert one.apply({"links": {"svc0": LINK}}, 0).failed == 0, one.statuses()
    assert LinksTable().observe() == {"svc0": LINK}
    assert links().apply({"links": {"svc0": LINK}}, 0).writes == 0
    nics = read_nics(["svc0", "svc0-ovs", "nothing"])
    assert nics["svc0"].mac == LINK.mac
    assert nics["svc0"].addresses == (SVC,)
    assert set(nics) == {"svc0", "svc0-ovs"}
    for end in ("svc0", "svc0-ovs"):
        assert not tx_checksum(end)
        assert "state UP" in ip("link", "show", end)
        assert "inet6" not in ip("addr", "show", end)
        queues = [q.name for q in Path(f"/sys/class/net/{end}/queues").iterdir()] if sysfs() else []
        assert len(queues) in (0, 4)
    one.apply({"links": {}}, 1)
    assert LinksTable().observe() == {}
    assert read_nics(["svc0", "svc0-ovs"]) == {}


def test_an_ipv6_address_brings_nothing_else_of_ipv6_and_goes_as_it_came() -> None:
    one = links()
    six = IPv6Interface("fd00:64:ff::1/128")
    both = replace(LINK, addresses=(*LINK.addresses, six))
    assert one.apply({"links": {"svc0": both}}, 0).failed == 0, one.statuses()
    assert LinksTable().observe() == {"svc0": both}
    assert links().apply({"links": {"svc0": both}}, 0).writes == 0
    shown = ip("-6", "addr", "show", "svc0")
    assert "fd00:64:ff::1/128" in shown
    assert "fe80" not in shown
    assert "tentative" not in shown
    assert "inet6" not in ip("addr", "show", "svc0-ovs")
    ip("link", "set", "svc0", "down")  # takes IPv6 addresses away
    assert one.apply({"links": {"svc0": both}}, 1).writes == 1
    assert LinksTable().observe() == {"svc0": both}
    assert one.apply({"links": {"svc0": LINK}}, 2).writes == 1
    assert "inet6" not in ip("addr", "show", "svc0")


def sysfs() -> bool:
    """Whether /sys shows this thread's namespace (it does not after setns without a remount)."""
    return Path("/sys/class/net/svc0").exists()


@pytest.mark.parametrize(
    "damage",
    [
        ["link", "set", "svc0", "down"],
        ["link", "set", "svc0-ovs", "down"],
        ["link", "set", "svc0", "mtu", "1400"],
        ["link", "set", "svc0-ovs", "mtu", "1400"],
        ["link", "set", "svc0", "address", "02:00:00:00:00:01"],
        ["addr", "del", "100.64.255.1/32", "dev", "svc0"],
        ["addr", "add", "192.0.2.1/24", "dev", "svc0"],
        ["link", "del", "svc0-ovs"],
    ],
    ids=" ".join,
)
def test_damage_is_mended(damage: list[str]) -> None:
    one = links()
    one.apply({"links": {"svc0": LINK}}, 0)
    index = read_nics(["svc0"])["svc0"].ifindex
    ip(*damage)
    assert one.apply({"links": {"svc0": LINK}}, 1).writes == 1
    assert LinksTable().observe() == {"svc0": LINK}
    if damage[:2] != ["link", "del"]:
        assert read_nics(["svc0"])["svc0"].ifindex == index


def test_other_queues_need_a_new_pair() -> None:
    one = links()
    one.apply({"links": {"svc0": LINK}}, 0)
    wide = Link(LINK.peer_name, LINK.mac, LINK.mtu, 4, LINK.addresses)
    assert one.apply({"links": {"svc0": wide}}, 1).failed == 0
    assert LinksTable().observe() == {"svc0": wide}


def test_a_pair_that_a_crash_left_without_its_name_is_taken_over() -> None:
    ip("link", "add", "svc0", "numtxqueues", "2", "numrxqueues", "2", "type", "veth",
       "peer", "name", "svc0-ovs", "numtxqueues", "2", "numrxqueues", "2")  # fmt: skip
    one = links()
    assert one.apply({"links": {"svc0": LINK}}, 0).failed == 0
    assert LinksTable().observe() == {"svc0": LINK}


def test_links_of_others_are_named_and_left() -> None:
    ip("link", "add", "svc0", "type", "veth", "peer", "name", "other")
    ip("link", "set", "svc0", "alias", "somebody's")
    one = links()
    one.apply({"links": {"svc0": LINK}}, 0)
    assert "is not ours" in one.statuses()["links", "svc0"].reason
    one.apply({"links": {}}, 1)
    assert "somebody's" in ip("link", "show", "svc0")


def test_a_taken_peer_name_is_reported() -> None:
    ip("link", "add", "svc0-ovs", "type", "veth", "peer", "name", "other")
    one = links()
    one.apply({"links": {"svc0": LINK}}, 0)
    assert "svc0-ovs exists" in one.statuses()["links", "svc0"].reason


TUNNEL = ("br-phy", IPv4Interface("10.9.0.1/24"))


def tap(name: str) -> None:
    ip("tuntap", "add", name, "mode", "tap")


def test_an_address_waits_for_its_device_and_comes_back_with_it() -> None:
    one = Reconciler([AddressesTable()], Backoff())
    desired = {"addresses": {TUNNEL: DeviceAddress()}}
    one.apply(desired, 0)
    assert one.statuses()["addresses", TUNNEL].state is State.PENDING
    tap("br-phy")
    one.apply(desired, 10)
    assert one.statuses()["addresses", TUNNEL].state is State.DONE
    assert "inet 10.9.0.1/24" in ip("addr", "show", "br-phy")
    assert "UP" in ip("link", "show", "br-phy").split(">")[0]
    again = Reconciler([AddressesTable()], Backoff())
    assert again.apply(desired, 0).writes == 0
    # As a restarted vswitchd does it: the device is another one of the same name.
    ip("link", "del", "br-phy")
    tap("br-phy")
    assert again.apply(desired, 1).writes == 1
    assert AddressesTable().observe() == {TUNNEL: DeviceAddress(up=True)}


def test_a_device_that_went_down_is_set_up_again() -> None:
    tap("br-phy")
    one = Reconciler([AddressesTable()], Backoff())
    desired = {"addresses": {TUNNEL: DeviceAddress()}}
    one.apply(desired, 0)
    ip("link", "set", "br-phy", "down")
    assert one.apply(desired, 1).writes == 1
    assert AddressesTable().observe() == {TUNNEL: DeviceAddress(up=True)}


def test_only_our_addresses_are_removed() -> None:
    tap("br-phy")
    ip("addr", "add", "192.0.2.9/24", "dev", "br-phy")
    one = Reconciler([AddressesTable()], Backoff())
    one.apply({"addresses": {TUNNEL: DeviceAddress()}}, 0)
    one.apply({"addresses": {}}, 1)
    shown = ip("addr", "show", "br-phy")
    assert "192.0.2.9" in shown
    assert "10.9.0.1" not in shown


def test_addresses_of_both_families_are_read() -> None:
    tap("up0")
    ip("addr", "add", "192.0.2.9/24", "dev", "up0")
    ip("addr", "add", "2001:db8::1/64", "dev", "up0")
    nic = read_nics(["up0"])["up0"]
    assert nic.addresses == (ip_address("192.0.2.9"), ip_address("2001:db8::1"))
    assert isinstance(nic.mac, Mac)


def test_the_monitor_hears_of_links_addresses_and_programs_and_coalesces() -> None:
    calls: list[int] = []
    monitor = LinkMonitor(lambda: calls.append(1), floor_s=0.01)
    monitor.start()
    try:
        for change in (
            ["tuntap", "add", "up0", "mode", "tap"],
            ["addr", "add", "192.0.2.9/24", "dev", "up0"],
            ["link", "set", "up0", "up"],
            ["link", "del", "up0"],
        ):
            calls.clear()
            ip(*change)
            wait_until(lambda: bool(calls), " ".join(change))
    finally:
        monitor.stop()
    assert not [t for t in threading.enumerate() if t.name == "link-monitor"]
