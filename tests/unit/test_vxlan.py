"""What VXLAN would break in an OVN deployment, and what a tunnel leaves of an MTU."""

from __future__ import annotations

from dataclasses import replace

import pytest

from controller.translate.vxlan import (
    LARGEST_DATAPATH,
    LARGEST_PORT,
    Datapath,
    Deployment,
    EgressRule,
    Port,
    matches_inport,
    preflight,
)
from dataplane.model.config import TunnelType
from dataplane.plan.mtu import TooBig, overhead, port_mtu, too_big

SMALL = Deployment(
    datapaths=(Datapath("sw0", 1), Datapath("vpc0", 2)),
    ports=(Port("vm1.ns", "sw0", 1), Port("vm2.ns", "sw0", LARGEST_PORT)),
    rules=(EgressRule("ACL web of switch sw0", "outport == @web && ip4 && tcp.dst == 80"),),
    encaps=(("n1", frozenset({"geneve", "vxlan"})),),
    version=(23, 3),
)


def names(found: Deployment) -> list[str]:
    return [problem.name for problem in preflight(found).broken]


def test_a_small_deployment_fits() -> None:
    verdict = preflight(SMALL)
    assert verdict.broken == ()
    assert verdict.limits == ()


def test_keys_beyond_twelve_bits_are_named() -> None:
    late = Datapath("late", LARGEST_DATAPATH + 1)
    fits = Datapath("fits", LARGEST_DATAPATH)
    found = replace(SMALL, datapaths=(*SMALL.datapaths, fits, late))
    assert names(found) == ["logical switches and routers late"]


def test_more_datapaths_than_keys_are_counted() -> None:
    many = tuple(Datapath(f"sw{n}", n) for n in range(1, LARGEST_DATAPATH + 2))
    verdict = preflight(replace(SMALL, datapaths=many))
    assert [p.cause for p in verdict.broken] == ["there are 4,096; VXLAN has room for 4,095"]
    assert verdict.limits[0].cause == "4,096 of 4,095 are there already"


def test_ports_beyond_eleven_bits_are_named_by_switch() -> None:
    ports = tuple(Port(f"p{n}", "sw0", LARGEST_PORT + n) for n in range(8))
    assert names(replace(SMALL, ports=ports)) == ["ports p1, p2, p3, p4, p5 and 2 more of sw0"]


def test_a_switch_with_too_many_ports_is_named() -> None:
    ports = tuple(Port(f"p{n}", "sw0", n) for n in range(1, LARGEST_PORT + 2))
    assert names(replace(SMALL, ports=ports)) == ["logical switch or router sw0"]


def test_rules_that_look_at_the_ingress_port_are_named() -> None:
    rule = EgressRule("ACL of priority 1001 of port group pg", 'outport == @pg && inport == "lp1"')
    assert names(replace(SMALL, rules=(*SMALL.rules, rule))) == [rule.name]


@pytest.mark.parametrize(
    ("match", "expected"),
    [
        ('inport == "a"', True),
        ("ip4 && inport==@pg", True),
        ("inport == {@a, @b}", True),
        ('outport == "inport"', False),
        ("outport == @inport", False),
        ("ip4.src == $inport", False),
        ("reg0 == 1 && ct.est", False),
        ("", False),
    ],
)
def test_an_expression_looks_at_the_ingress_port(match: str, expected: bool) -> None:
    assert matches_inport(match) is expected


@pytest.mark.parametrize(
    ("version", "broken"), [((23, 3), True), (None, True), ((24, 9), True), ((25, 3), False)]
)
def test_interconnection_needs_a_late_ovn(version: tuple[int, int] | None, broken: bool) -> None:
    transit = Datapath("ts1", 3, transit=True)
    found = replace(SMALL, datapaths=(*SMALL.datapaths, transit), version=version)
    assert names(found) == (["transit switches ts1"] if broken else [])


@pytest.mark.parametrize(
    ("version", "mode", "broken"),
    [
        ((24, 9), False, True),
        ((24, 9), None, False),
        ((24, 9), True, False),
        ((23, 3), False, False),
    ],
)
def test_a_mode_for_vteps_only_is_named(
    version: tuple[int, int], mode: bool | None, broken: bool
) -> None:
    found = replace(SMALL, version=version, vxlan_mode=mode)
    assert names(found) == (["NB_Global options:vxlan_mode"] if broken else [])


def test_an_early_ovn_limits_chassis_that_have_no_vxlan() -> None:
    encaps = (("n1", frozenset({"vxlan"})), ("n2", frozenset({"geneve"})))
    assert [p.name for p in preflight(replace(SMALL, encaps=encaps)).limits] == ["chassis n2"]
    late = replace(SMALL, encaps=encaps, version=(24, 9))
    assert preflight(late).limits == ()


def test_what_tunnels_add() -> None:
    assert overhead(TunnelType.GENEVE) == 58
    assert overhead(TunnelType.VXLAN) == 50
    assert overhead(TunnelType.GENEVE, 6) == 78
    assert overhead(TunnelType.VXLAN, 6) == 70
    assert port_mtu(1500, None) == 1500


def test_the_narrowest_link_decides() -> None:
    devices = {"eth1": 1500, "eth2": 9000}
    assert too_big(1442, devices, TunnelType.GENEVE) is None
    assert too_big(1443, devices, TunnelType.GENEVE) == TooBig("eth1", 1500, 1442)
    assert too_big(1450, devices, TunnelType.VXLAN) is None
    assert too_big(9000, {}, TunnelType.VXLAN) is None
