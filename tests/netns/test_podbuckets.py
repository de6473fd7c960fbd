"""A pod's token buckets on a real veth: a burst passes and what is over it does not, both ways."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from pyroute2 import IPRoute

from bpf.objects import OBJECT_DIRECTORY
from controller.network.qos import port_limits
from controller.translate.limits import limits_of
from controller.translate.ovn import LogicalSwitchPort
from dataplane.drivers import tchook, xdphook
from dataplane.drivers.libbpf import XDP_FLAGS_DRV_MODE
from dataplane.drivers.libbpf_programs import Program, loaded
from dataplane.drivers.podbuckets import BucketTable
from dataplane.model.rows import Bucket
from dataplane.plan.qos import bucket
from tests.labs.sandbox import wait_until

HOST, POD = "mrp0000000000aa", "mrq0000000000aa"
IP_SIZE = 1000
FRAME = b"\x02\0\0\0\0\x01\x02\0\0\0\0\x02\x88\xb5" + b"m" * IP_SIZE
"""An experimental EtherType: nobody answers it, and only ours is counted."""

PACKETS = 5
BURST = Bucket(1, IP_SIZE * PACKETS, 1, IP_SIZE * PACKETS)
"""One octet a second: within a test nothing is earned, so exactly the burst passes."""


@pytest.fixture
def link() -> Iterator[str]:
    # Its own packets would be paid for out of the buckets.
    for scope in ("all", "default"):
        Path(f"/proc/sys/net/ipv6/conf/{scope}/disable_ipv6").write_text("1", encoding="ascii")
    with IPRoute() as netlink:
        netlink.link("add", ifname=HOST, kind="veth", peer=POD)
        try:
            for name in (HOST, POD):
                netlink.link("set", ifname=name, state="up")
            yield HOST
        finally:
            netlink.link("del", ifname=HOST)


def passed(source: str, to: str, frames: int, frame: bytes = FRAME) -> int:
    """How many of so many frames arrive; a packet socket reads them, as OVS does."""
    kind = int.from_bytes(frame[12:14])
    with contextlib.ExitStack() as stack:
        ends = [
            stack.enter_context(socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(p)))
            for p in (0, kind)
        ]
        ends[0].bind((source, 0))
        ends[1].bind((to, kind))
        for _ in range(frames):
            # One after the other: no queue in between overflows.
            with contextlib.suppress(OSError):
                ends[0].send(frame)
        ends[1].settimeout(0.3)
        count = 0
        with contextlib.suppress(TimeoutError):
            while True:
                count += ends[1].recv(4096) == frame
        return count


def test_exactly_the_burst_passes_each_way_and_the_ethernet_header_is_free(link: str) -> None:
    table = BucketTable()
    wait_until(lambda: passed(POD, link, 1) == 1, "the link is up")
    assert table.upsert([(link, BURST)]) == {}
    assert passed(POD, link, 20) == PACKETS
    assert passed(link, POD, 20) == PACKETS
    assert BucketTable().observe() == {link: BURST}
    # Another limit goes on where the bucket is: it is empty, and one of none lets all through.
    assert table.upsert([(link, replace(BURST, send_rate=0, send_burst=0))]) == {}
    assert passed(POD, link, 20) == 20
    assert passed(link, POD, 20) == 0
    assert table.upsert([(link, replace(BURST, receive_rate=10**10, receive_burst=10**6))]) == {}
    assert passed(link, POD, 20) == 20
    assert table.delete([link]) == {}
    assert table.observe() == {}
    assert (passed(POD, link, 20), passed(link, POD, 20)) == (20, 20)


def test_a_pods_annotations_of_megabits_hold_on_its_veth(link: str) -> None:
    """The words of a manifest, through the logical port's row and the node's plan, to packets."""
    said = {"ovn.kubernetes.io/ingress_rate": "3", "ovn.kubernetes.io/egress_rate": "1"}
    asked = port_limits("pod ls1/qos", "ovn", said)
    row = LogicalSwitchPort("qos.ls1", options=asked.options, external_ids=asked.external_ids)
    limits, problems = limits_of([row])
    assert (asked.problems, problems) == ((), ())
    made = bucket(limits["qos.ls1"], IP_SIZE)
    assert made is not None
    table = BucketTable()
    wait_until(lambda: passed(POD, link, 1) == 1, "the link is up")
    assert table.upsert([(link, made)]) == {}
    for way, megabits, burst in (((POD, link), 1, made.send_burst),
                                 ((link, POD), 3, made.receive_burst)):  # fmt: skip
        begun = time.monotonic()
        through = passed(*way, 200) * IP_SIZE
        # Between the first and the last packet at most this much was earned beside the full bucket.
        earned = megabits * 125_000 * (time.monotonic() - begun)
        assert burst - IP_SIZE < through <= burst + earned + IP_SIZE
    assert table.delete([link]) == {}


def test_a_change_keeps_the_programs_and_a_restart_finds_them(link: str) -> None:
    index = socket.if_nametoindex(link)
    BucketTable().upsert([(link, BURST)])
    before = (xdphook.attached(index), tchook.attached(index))
    again = BucketTable()
    other = Bucket(125_000, 20_000, 250_000, 30_000)
    assert again.upsert([(link, other)]) == {}
    assert again.observe() == {link: other}
    assert (xdphook.attached(index), tchook.attached(index)) == before


def test_the_programs_go_with_the_device(link: str) -> None:
    table = BucketTable()
    table.upsert([(link, BURST)])
    attached = xdphook.attached(socket.if_nametoindex(link))
    assert attached is not None
    with IPRoute() as netlink:
        netlink.link("del", ifname=link)
        netlink.link("add", ifname=HOST, kind="veth", peer=POD)
    assert table.observe() == {}

    def gone() -> bool:
        try:
            Program.by_id(attached.prog_id).close()
        except Exception:
            return True
        return False

    wait_until(gone, "the kernel lets go of the program")


def test_another_program_at_the_hook_stays_and_is_named(link: str) -> None:
    index = socket.if_nametoindex(link)
    table = BucketTable()
    with (
        loaded(OBJECT_DIRECTORY / "perf_peers.bpf.o") as made,
        made.program("peers_pass") as foreign,
    ):
        xdphook.attach(index, foreign, XDP_FLAGS_DRV_MODE)
        failures = table.upsert([(link, BURST)])
        assert "has another program" in failures[link].reason
        held = xdphook.attached(index)
        assert held is not None
        assert held.prog_id == foreign.info().id


def test_a_link_that_is_not_there_is_waited_for() -> None:
    failures = BucketTable().upsert([("mrp0000000000bb", BURST)])
    assert failures["mrp0000000000bb"].waiting
    assert BucketTable().delete(["mrp0000000000bb"]) == {}
