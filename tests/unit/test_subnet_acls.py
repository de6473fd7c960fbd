"""What Subnets say of who may reach their workloads, as ACLs of their switches."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_network
from typing import Any

import pytest

from controller.kinds.subnet import SUBNETS, Subnet, SubnetAcl
from controller.network.nets import NETS, Net
from controller.network.rows import RowKey
from controller.network.settings import SETTINGS, NetSettings
from controller.network.subnet_acls import UNITS
from controller.network.units import ObjectRef
from tests.labs.factview import Whole, whole

FOUR, SIX = ip_network("10.1.0.0/24"), ip_network("fd00:1::/64")


def said(subnet: Subnet, **net: Any) -> Whole:
    join = Net("join", "vpc", (ip_network("100.64.0.0/16"),))
    return whole(
        UNITS,
        {
            SUBNETS: {subnet.name: subnet},
            NETS: {subnet.name: Net(subnet.name, "vpc", (FOUR, SIX), **net), "join": join},
            SETTINGS: {"": NetSettings(join_subnet="join")},
        },
    )


def acls(found: Whole) -> set[tuple[Any, ...]]:
    assert all(row.parent == (RowKey("Logical_Switch", "s"), "acls") for row in found.rows.values())
    return {
        tuple(row.columns[name] for name in ("direction", "priority", "match", "action"))
        for row in found.rows.values()
    }


def test_a_subnet_that_says_nothing_has_none() -> None:
    assert acls(said(Subnet("s"))) == set()


def test_a_private_subnet_is_reached_from_itself_nodes_and_whom_it_allows() -> None:
    found = said(Subnet("s", private=True, allow_subnets=("10.9.0.0/16", "fd09::/64", "nowhere")))
    assert acls(found) == {
        ("to-lport", 1000, "ip", "drop"),
        ("to-lport", 1001, f"ip4.src == {FOUR} && ip4.dst == {FOUR}", "allow-related"),
        ("to-lport", 1001, f"ip6.src == {SIX} && ip6.dst == {SIX}", "allow-related"),
        ("to-lport", 1001, f"(ip4.src == {FOUR} && ip4.dst == 10.9.0.0/16) ||"
         f" (ip4.src == 10.9.0.0/16 && ip4.dst == {FOUR})", "allow-related"),
        ("to-lport", 1001, f"(ip6.src == {SIX} && ip6.dst == fd09::/64) ||"
         f" (ip6.src == fd09::/64 && ip6.dst == {SIX})", "allow-related"),
        ("to-lport", 3000, "ip4.src == 100.64.0.0/16", "allow-related"),
    }  # fmt: skip
    (problem,) = found.problems[ObjectRef("subnets.kubeovn.io", "", "s")]
    assert "spec.allowSubnets[2]: 'nowhere' is no network" in str(problem)


def test_traffic_within_is_allowed_above_what_baselines_have() -> None:
    assert acls(said(Subnet("s", allow_east_west=True))) == {
        (direction, 1900, f"{ip}.src == {net} && {ip}.dst == {net}", "allow-related")
        for direction in ("to-lport", "from-lport")
        for ip, net in (("ip4", FOUR), ("ip6", SIX))
    }


def test_acls_are_written_as_they_are_and_those_that_cannot_be_are_named() -> None:
    good = SubnetAcl("from-lport", 2222, "ip4.dst == 10.9.0.9", "drop")
    found = said(
        Subnet(
            "s",
            acls=(
                good,
                SubnetAcl("sideways", 1, "ip", "drop"),
                SubnetAcl("to-lport", 40000, "ip", "drop"),
                SubnetAcl("to-lport", 1, "ip", "pass"),
                SubnetAcl("to-lport", 1, " ", "drop"),
                SubnetAcl("to-lport", 1, "ip4.src == here", "drop"),
            ),
        )
    )
    assert acls(found) == {("from-lport", 2222, "ip4.dst == 10.9.0.9", "drop")}
    problems = sorted(map(str, found.problems[ObjectRef("subnets.kubeovn.io", "", "s")]))
    assert [text.partition("spec.")[2].partition(":")[0] for text in problems] == [
        "acls[1].direction",
        "acls[2].priority",
        "acls[3].action",
        "acls[4].match",
        "acls[5].match",
    ]
    assert "'ip4.src == here' is not written: here is where a constant belongs" in problems[-1]


@pytest.mark.parametrize("action", ["drop", "reject"])
def test_what_shuts_and_is_too_many_flows_shuts_more_and_what_opens_is_not_written(
    action: str,
) -> None:
    shuts = SubnetAcl("to-lport", 7, "ip4.src != $friends && tcp", action)
    opens = replace(shuts, action="allow-related")
    found = said(Subnet("s", acls=(shuts, opens)))
    assert acls(found) == {("to-lport", 7, "(eth.type == 0x800) && tcp", action)}
    first, second = sorted(map(str, found.problems[ObjectRef("subnets.kubeovn.io", "", "s")]))
    assert f"{action} is of more, of '(eth.type == 0x800) && tcp'" in first
    assert "each address of a set" in first and "is of more" not in second
    assert "cannot parse" not in first + second


def test_a_subnet_that_is_not_in_force_has_none() -> None:
    assert acls(said(Subnet("s", private=True), usable=False)) == set()
