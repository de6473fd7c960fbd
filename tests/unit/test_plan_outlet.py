"""The outlet's rows follow what is there, one step after the other, and nothing is led to a gap."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv6Address

import pytest

from controller.sources import EARLY_TABLES
from dataplane.model.config import UplinkMode
from dataplane.model.rows import Cleared, Outlet
from dataplane.model.state import Gateway
from dataplane.plan.node import TABLE_ORDER, NodePlan, plan
from tests.labs.planned import CONFIG, GATEWAY, NICS, STATE, UPLINK

ENDS = {"svc0": 12, "svc0-ovs": 11}
WHOLE = replace(STATE, ends=ENDS)
NAME = "svc0-out"


def led_out(rows: NodePlan) -> set[str]:
    """The matches of what goes out by the outlet."""
    return {key.match for key, flow in rows.flows.items() if flow.actions == f'output:"{NAME}"'}


def test_what_an_outlet_needs_is_written_before_it_and_its_rules_after() -> None:
    order = {name: place for place, name in enumerate(TABLE_ORDER)}
    assert order["links"] < order["replies"] < order["outlets"] < order["ports"] < order["flows"]
    assert order["links"] < order["node"] < order["outlets"]


def test_before_svc0_is_there_all_is_planned_and_the_entry_says_so() -> None:
    rows = plan(STATE)
    assert rows.node[0].service_port_step == 0
    assert rows.outlets.keys() == {NAME}
    assert NAME in rows.ports
    assert led_out(rows)


def test_plain_replies_leave_by_it_and_the_rest_as_before() -> None:
    rows = plan(WHOLE)
    assert rows.outlets == {NAME: Outlet("up0", 1500, 1)}
    assert (rows.node[0].service_ifindex, rows.node[0].service_port_step) == (12, -1)
    assert rows.ports[NAME].type == "afxdp"
    assert dict(rows.ports[NAME].options)["xdp-mode"] == "generic"
    assert rows.ports[NAME].tag == rows.ports["svc0-ovs"].tag
    matches = led_out(rows)
    assert {match.partition(",")[0] for match in matches} == {"tcp", "udp"}
    assert all("nw_dst=100.64.255.1" in match and "nw_frag=no" in match for match in matches)
    kernel = replace(CONFIG, uplinks=(replace(UPLINK, mode=UplinkMode.KERNEL),))
    without = plan(replace(STATE, config=kernel)).flows
    assert {key: flow for key, flow in rows.flows.items() if key.match not in matches} == without


@pytest.mark.parametrize("gateway", [GATEWAY, None])
def test_one_that_is_there_has_an_empty_hook_before_the_uplinks_program(
    gateway: Gateway | None,
) -> None:
    assert not plan(WHOLE).cleared
    there = replace(WHOLE, gateway=gateway, ends={**ENDS, NAME: 19})
    assert plan(there).cleared == {NAME: Cleared()}
    assert TABLE_ORDER.index("ports") < TABLE_ORDER.index("cleared") < TABLE_ORDER.index("programs")
    assert "cleared" in EARLY_TABLES


@pytest.mark.parametrize("gateway", [GATEWAY, None])
def test_the_uplink_asks_for_the_number_that_it_has_and_is_opened_first(
    gateway: Gateway | None,
) -> None:
    state = replace(WHOLE, gateway=gateway)
    assert plan(state).ports["up0"].ofport is None
    rows = plan(replace(state, ofports={"up0": 7, "ph0": 1}))
    assert {name for name, port in rows.ports.items() if port.ofport is not None} == {"up0"}
    assert rows.ports["up0"] == replace(plan(state).ports["up0"], ofport=7)


def test_ends_too_far_apart_for_the_entry_have_none() -> None:
    rows = plan(replace(STATE, ends={"svc0": 2, "svc0-ovs": 40_000}))
    assert rows.node[0].service_port_step == 0
    assert not rows.outlets
    assert NAME not in rows.ports
    assert not led_out(rows)


def test_both_families_where_the_cluster_has_both() -> None:
    both = replace(GATEWAY, service_address6=IPv6Address("fd00:ff::1"))
    matches = led_out(plan(replace(WHOLE, gateway=both)))
    assert {match.partition(",")[0] for match in matches} == {"tcp", "udp", "tcp6", "udp6"}
    assert sum("ipv6_dst=fd00:ff::1" in match for match in matches) == 2


def test_a_port_that_ovs_refuses_stays_planned_and_unused() -> None:
    rows = plan(replace(WHOLE, refused=frozenset({("ports", NAME)})))
    assert NAME in rows.ports
    assert not led_out(rows)
    assert led_out(plan(replace(WHOLE, refused=frozenset({("ports", "mrp1")}))))


def test_an_outlet_that_cannot_be_made_has_no_port_to_wait_for() -> None:
    rows = plan(replace(WHOLE, refused=frozenset({("outlets", NAME)})))
    assert rows.outlets.keys() == {NAME}
    assert NAME not in rows.ports
    assert not led_out(rows)


@pytest.mark.parametrize("mode", [UplinkMode.KERNEL, UplinkMode.VFIO])
def test_only_an_af_xdp_uplink_has_one(mode: UplinkMode) -> None:
    config = replace(CONFIG, uplinks=(replace(UPLINK, mode=mode),))
    rows = plan(replace(WHOLE, config=config))
    assert not rows.outlets
    assert not led_out(rows)


def test_it_carries_no_more_than_the_uplink() -> None:
    nics = {"up0": replace(NICS["up0"], mtu=1400)}
    rows = plan(replace(WHOLE, nics=nics))
    assert rows.outlets["svc0-out"].mtu == 1400


def test_as_many_queues_as_threads_send() -> None:
    config = replace(CONFIG, dpdk=replace(CONFIG.dpdk, pmd=(1, 2, 3)))
    rows = plan(replace(WHOLE, config=config))
    assert rows.outlets["svc0-out"].queues == 3
    assert dict(rows.ports["svc0-out"].options)["n_rxq"] == "3"
