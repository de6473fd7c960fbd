"""Replies leave by the uplink's egress hook; what is rare, or all if it fails, goes by svc0."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bpf.abi import Reason
from dataplane.drivers.libbpf import Map
from dataplane.drivers.processes import wait_until
from tests.labs import lab as topology
from tests.labs import traffic
from tests.labs.lab import Lab

OUTLET = "svc0-out"
COUNT = 20


@pytest.fixture(scope="module")
def lab(progress: Callable[[str], None]) -> Iterator[Lab]:
    """One node and its containers, for this file."""
    with Lab("mrout", progress, guests=False) as built:
        yield built


def _link(lab: Lab, device: str) -> dict[str, object]:
    told = json.loads(lab.namespace.run("ip", "-j", "-s", "-d", "link", "show", "dev", device))
    return dict(told[0])


def _passed(lab: Lab, device: str, way: str) -> int:
    counts: dict[str, dict[str, int]] = _link(lab, device)["stats64"]  # type: ignore[assignment]
    return counts[way]["packets"]


def _counted(lab: Lab, reason: Reason) -> int:
    (pins,) = Path("/sys/fs/bpf/millrace", lab.node.name).glob("v*")
    with Map.at(pins / "counters") as counters:
        value = counters.lookup(struct.pack("=I", reason)) or b""
    return sum(struct.unpack(f"={len(value) // 8}Q", value)[0::2])


def _ask_both(lab: Lab) -> None:
    assert traffic.http(lab.client, topology.VIP_WEB, 80, COUNT).all_ok
    assert traffic.udp(lab.client, topology.VIP_UDP, 53, COUNT).all_ok


def _converged(lab: Lab) -> None:
    wait_until(lambda: bool(lab.node.ask("status")["converged"]), "converged", timeout_s=60)


def _comes_back(lab: Lab) -> None:
    """The outlet is there, and replies are led to it; the round that did it is over."""

    def used() -> bool:
        served = traffic.http(lab.client, topology.VIP_WEB, 80, 1).all_ok
        there = OUTLET in lab.namespace.run("ip", "-o", "link")
        return served and there and _passed(lab, OUTLET, "tx") > 0

    wait_until(used, "replies leave by the outlet again", timeout_s=60)
    _converged(lab)


def test_replies_leave_by_the_outlet_and_svc0_sees_none(lab: Lab) -> None:
    out, by_svc0 = _passed(lab, OUTLET, "tx"), _passed(lab, "svc0", "rx")
    before = _counted(lab, Reason.SVC_REPLY)
    _ask_both(lab)
    left = _passed(lab, OUTLET, "tx") - out
    assert left > COUNT
    assert _passed(lab, "svc0", "rx") == by_svc0
    assert _counted(lab, Reason.SVC_REPLY) - before == left
    assert "xdp" not in _link(lab, OUTLET)


def test_a_reply_of_no_flow_is_handed_to_svc0s_program(lab: Lab) -> None:
    before, out = _counted(lab, Reason.DROP_SVC_NO_FLOW), _passed(lab, OUTLET, "tx")
    address = str(lab.node.ask("status")["gateway"]["service_address"])
    lab.containers["c1"].run(
        "bash", "-c", f"for i in 1 2 3; do echo x > /dev/udp/{address}/9; done"
    )
    wait_until(lambda: _counted(lab, Reason.DROP_SVC_NO_FLOW) == before + 3, "dropped by svc0")
    assert _passed(lab, OUTLET, "tx") == out + 3


def test_fragments_go_by_svc0(lab: Lab) -> None:
    # The kernel of a workload learns the path's MTU by the first, and is not told of it here.
    sent = lambda: traffic.udp(lab.client, topology.VIP_UDP, 53, 3, size=4000).all_ok  # noqa: E731
    wait_until(sent, "all of three answered", timeout_s=30)
    by_svc0 = _passed(lab, "svc0", "rx")
    assert sent()
    assert _passed(lab, "svc0", "rx") > by_svc0


def test_one_that_is_taken_away_comes_back(lab: Lab) -> None:
    lab.namespace.run("ip", "link", "del", OUTLET)
    _comes_back(lab)
    test_replies_leave_by_the_outlet_and_svc0_sees_none(lab)


def test_where_it_cannot_be_made_replies_go_by_svc0_and_status_says_why(lab: Lab) -> None:
    """Somebody's device has the name."""
    lab.namespace.run("ip", "link", "set", OUTLET, "alias", "somebody's")
    try:
        wait_until(lambda: OUTLET not in lab.node.vsctl("list-ports", "br-ex"), "its port goes")
        _converged(lab)
        status = lab.node.ask("status")
        (said,) = (row for row in status["objects"] if row["table"] == "outlets")
        assert "somebody's" in said["reason"]
        by_svc0 = _passed(lab, "svc0", "rx")
        _ask_both(lab)
        assert _passed(lab, "svc0", "rx") > by_svc0 + 2 * COUNT
    finally:
        lab.namespace.run("ip", "link", "del", OUTLET)
    lab.node.ask("retry", table="outlets", key=OUTLET)
    _comes_back(lab)
    test_replies_leave_by_the_outlet_and_svc0_sees_none(lab)


def test_a_killed_vswitchd_opens_the_uplink_first_and_replies_leave_as_before(lab: Lab) -> None:
    lab.node.kill("ovs-vswitchd")
    lab.node.up()
    _comes_back(lab)
    test_replies_leave_by_the_outlet_and_svc0_sees_none(lab)
