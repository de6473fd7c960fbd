"""The order of a restart of vswitchd, and what is told of it, over canned looks."""

from __future__ import annotations

from collections.abc import Mapping

from controller.cli.restart import answer_of, restart_text, unit_of
from controller.ovs_restart import milestones, restart

BEFORE: dict[str, object] = {
    "pid": 1, "polled": ["up0", "vh0", "vh1"], "uplinks": ["up0"], "vhost": ["vh0", "vh1"],
    "addressed": True, "addresses": ["br-phy 10.0.0.1/24"], "flows": 100, "announced": 0,
    "converged": True,
}  # fmt: skip
GONE = BEFORE | {"pid": None, "polled": [], "vhost": [], "flows": 0, "addressed": False}
HALF = BEFORE | {"pid": 2, "polled": ["up0"], "vhost": [], "flows": 5, "converged": False}
AGAIN = BEFORE | {"pid": 2}


class Node:
    """A daemon that gives one look after the other, the last for ever."""

    def __init__(self, *looks: Mapping[str, object]) -> None:
        self.looks = list(looks)
        self.asked: list[str] = []

    def ask(self, op: str, **args: object) -> Mapping[str, object]:
        self.asked.append(op)
        assert op == "restart_look" or args == {"holder": "me"}
        if op != "restart_look":
            return {"withdrawn": True}
        return self.looks.pop(0) if len(self.looks) > 1 else self.looks[0]


def test_the_node_is_drained_before_and_resumed_after() -> None:
    node = Node(BEFORE, BEFORE, GONE, HALF, AGAIN)
    acted: list[list[str]] = []
    found = restart(node.ask, "me", lambda: acted.append(list(node.asked)), 30)
    assert acted[0][:2] == ["restart_look", "drain"]
    assert node.asked[-1] == "resume"
    assert not found.missing
    assert set(found.milestones) == set(milestones(BEFORE))
    assert found.outage_ms == found.milestones["all as planned"]
    text = restart_text(answer_of(found, {"dpdk-extra": [None, "x"]}, {}, "a restart"))
    assert "in effect   dpdk-extra: (OVS's default) -> x" in text
    assert "missing" not in text


def test_what_the_old_process_left_is_no_milestone() -> None:
    wanted = milestones(BEFORE)
    assert [name for name, holds in wanted.items() if holds(BEFORE)] == []
    assert [name for name, holds in wanted.items() if holds(GONE)] == ["old process gone"]
    assert "OVN's flows" not in [name for name, holds in wanted.items() if holds(HALF)]


def test_a_node_without_guests_and_tunnel_does_not_wait_for_them() -> None:
    bare = BEFORE | {"vhost": [], "addresses": [], "uplinks": [], "flows": 0}
    assert list(milestones(bare)) == ["old process gone", "new process up", "all as planned"]


def test_a_failure_to_start_is_told_and_the_node_resumed() -> None:
    node = Node(BEFORE, BEFORE, GONE)

    def fails() -> None:
        raise OSError("no such program")

    found = restart(node.ask, "me", fails, 30)
    assert found.failure == "no such program"
    assert found.outage_ms is None
    assert node.asked[-1] == "resume"


def test_vips_go_first_and_those_that_cannot_are_named() -> None:
    announcing = BEFORE | {"announced": 3}
    node = Node(announcing, announcing, BEFORE, BEFORE, GONE, AGAIN)
    assert restart(node.ask, "me", lambda: None, 30).withdrawn == 3


def test_the_unit_of_a_process_is_the_innermost() -> None:
    assert unit_of("0::/system.slice/ovs-vswitchd.service\n") == "ovs-vswitchd.service"
    assert unit_of("0::/user.slice/user-0.slice/session-1.scope\n") is None
