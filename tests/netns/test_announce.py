"""Announcements on a real wire: what a neighbour's kernel learns from them."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from ipaddress import ip_address

import pytest

from dataplane.drivers.announce import BURST, AnnouncementsTable, frames, send
from dataplane.drivers.netns import inside_named
from dataplane.drivers.processes import wait_until
from dataplane.model.addr import IPAddress, Mac
from dataplane.model.rows import Announcement
from tests.labs import netns
from tests.labs.netns import Namespace

FIRST, SECOND = Mac("02:00:00:00:00:01"), Mac("02:00:00:00:00:02")
VIP4, VIP6 = ip_address("192.0.2.80"), ip_address("2001:db8::80")


@pytest.fixture
def wire() -> Iterator[tuple[Namespace, Namespace]]:
    """A node and a client on one link."""
    node, client = (Namespace(f"mran{os.getpid()}-{name}") for name in ("node", "client"))
    try:
        for where in (node, client):
            where.create()
            where.run("sysctl", "-q", "-w", "net.ipv6.conf.default.accept_dad=0")
        netns.veth(client, "eth0", node, "up0", left_addresses=["192.0.2.2/24", "2001:db8::2/64"])
        yield node, client
    finally:
        for where in (node, client):
            where.delete()


def neighbours(client: Namespace) -> dict[str, str]:
    found = json.loads(client.run("ip", "-j", "neigh", "show", "dev", "eth0"))
    return {entry["dst"]: entry.get("lladdr", "") for entry in found}


def table_in(node: Namespace, sent: list[tuple[float, int]] | None = None) -> AnnouncementsTable:
    def put(device: str, what: object) -> None:
        assert isinstance(what, list | tuple)
        if sent is not None and what:
            sent.append((time.monotonic(), len(what)))
        inside_named(node.name, lambda: send(device, what))

    return AnnouncementsTable(put, repeat_s=0.1)


@pytest.mark.parametrize("vip", [VIP4, VIP6])
def test_a_client_that_knew_another_mac_has_the_new_owners(
    wire: tuple[Namespace, Namespace], vip: IPAddress
) -> None:
    node, client = wire
    client.run("ip", "neigh", "replace", str(vip), "lladdr", str(FIRST), "dev", "eth0",
               "nud", "stale")  # fmt: skip
    table = table_in(node)
    try:
        assert table.upsert([(vip, Announcement("up0", SECOND))]) == {}
        assert table.observe() == {vip: Announcement("up0", SECOND)}
        wait_until(
            lambda: neighbours(client).get(str(vip)) == str(SECOND), "the client has learned it"
        )
    finally:
        table.close()


def test_each_is_said_three_times_and_then_no_more(wire: tuple[Namespace, Namespace]) -> None:
    node, _ = wire
    sent: list[tuple[float, int]] = []
    table = table_in(node, sent)
    try:
        table.upsert([(VIP6, Announcement("up0", SECOND))])
        wait_until(lambda: len(sent) == 3, "it was said three times")
        time.sleep(0.5)
        assert len(sent) == 3
        table.again()
        assert table.observe() == {}
        table.upsert([(VIP6, Announcement("up0", SECOND))])
        wait_until(lambda: len(sent) == 6, "it was said again")
    finally:
        table.close()


def test_many_are_said_in_bursts_and_what_is_given_up_is_said_no_more(
    wire: tuple[Namespace, Namespace],
) -> None:
    node, _ = wire
    sent: list[tuple[float, int]] = []
    table = table_in(node, sent)
    vips = [VIP6 + number for number in range(5 * BURST)]
    try:
        table.upsert([(vip, Announcement("up0", SECOND)) for vip in vips])
        table.delete(vips[BURST:])
        wait_until(lambda: sum(count for _, count in sent) >= 3 * BURST, "the first ones were said")
        time.sleep(0.3)
        assert max(count for _, count in sent) <= BURST
        assert sum(count for _, count in sent) < 5 * 3 * BURST
        assert set(table.observe()) == set(vips[:BURST])
    finally:
        table.close()


def test_a_device_that_is_not_there_fails_by_name(wire: tuple[Namespace, Namespace]) -> None:
    node, _ = wire
    table = table_in(node)
    try:
        failed = table.upsert([(VIP4, Announcement("up9", SECOND))])
        assert "up9" in failed[VIP4].reason
        assert table.observe() == {}
    finally:
        table.close()


def test_arp_is_said_in_both_forms() -> None:
    request, reply = frames(VIP4, SECOND)
    assert (request[20:22], reply[20:22]) == (b"\0\1", b"\0\2")
    for frame in (request, reply):
        assert len(frame) == 60
        assert frame[28:32] == frame[38:42] == VIP4.packed
        assert frame[22:28] == frame[6:12] == SECOND.packed()
