"""SecurityGroups: how they are read, refused, placed among priorities, and become rows."""

from __future__ import annotations

import re
from ipaddress import ip_address, ip_network
from typing import Any

import msgspec
import pytest

from controller.kinds.errors import KindError
from controller.kinds.securitygroup import SECURITY_GROUP, SECURITY_GROUPS, SecurityGroup
from controller.kube.resources import Key
from controller.kube.structs import Custom, Meta
from controller.network.facts import LEASES, PODS, NetPod, NicLease
from controller.network.rows import RowKey
from controller.network.security_groups import BASE, TOP, UNITS, WIDTH, places
from controller.network.units import ObjectRef
from dataplane.model.addr import Mac
from tests.labs.factview import Whole, whole

RULE = {"ipVersion": "ipv4", "protocol": "tcp", "priority": 1, "policy": "allow"}


def read(**spec: Any) -> SecurityGroup:
    return SECURITY_GROUP.decode(
        Custom(Meta(name="web-sg"), msgspec.Raw(msgspec.json.encode(spec)))
    )


def said(*groups: SecurityGroup, **annotations: str) -> Whole:
    """Of two pods: a, whose first interface names what is given, and b, which names nothing."""
    notes = {f"ovn.kubernetes.io/{key}": value for key, value in annotations.items()}
    a, b = Key("ns", "a"), Key("ns", "b")
    leases = [
        NicLease("a.ns", a, "ovn", "sn", (ip_address("10.0.0.1"),), Mac("0a:00:00:00:00:01")),
        NicLease("a.ns.net1.ns.ovn", a, "net1.ns.ovn", "sn", (ip_address("10.9.0.1"),),
                 Mac("0a:00:00:00:00:02")),
        NicLease("b.ns", b, "ovn", "sn", (ip_address("10.0.0.2"),), Mac("0a:00:00:00:00:03")),
    ]  # fmt: skip
    return whole(
        UNITS,
        {
            SECURITY_GROUPS: {group.name: group for group in groups},
            PODS: {a: NetPod("ns", "a", annotations=notes), b: NetPod("ns", "b")},
            LEASES: {lease.port: lease for lease in leases},
        },
    )


def acls(found: Whole) -> set[tuple[Any, ...]]:
    return {
        (row.columns["direction"], row.columns["priority"], row.columns["action"],
         str(row.columns["match"]).partition(" && ")[2])
        for key, row in found.rows.items()
        if key.table == "ACL"
    }  # fmt: skip


def test_a_group_holds_the_interfaces_that_name_it_and_is_named_as_kube_ovn_does() -> None:
    found = said(read(), security_groups="web-sg")
    group = found.rows[RowKey("Port_Group", "ovn.sg.web.sg")]
    assert group.refs["ports"] == {RowKey("Logical_Switch_Port", "a.ns")}
    four = found.rows[RowKey("Address_Set", "ovn.sg.web.sg.associated.v4")]
    assert four.columns["addresses"] == frozenset({"10.0.0.1"})
    (wrote,) = found.writes[ObjectRef("security-groups.kubeovn.io", "", "web-sg")]
    assert wrote.status == {"portGroup": "ovn.sg.web.sg"}


def test_interfaces_of_one_definition_are_in_its_groups_but_for_their_own() -> None:
    pod = Key("ns", "a")
    leases = [
        NicLease(f"a.ns.net1.ns.ovn.{name}", pod, f"net1.ns.ovn.{name}", "sn",
                 (ip_address(f"10.9.0.{at}"),), Mac(f"0a:00:00:00:00:0{at}"))
        for at, name in enumerate(("east", "west"), 1)
    ]  # fmt: skip
    notes = {
        "net1.ns.ovn.kubernetes.io/security_groups": "web-sg",
        "net1.ns.ovn.west.kubernetes.io/security_groups": "other",
    }
    found = whole(
        UNITS,
        {
            SECURITY_GROUPS: {"web-sg": read()},
            PODS: {pod: NetPod("ns", "a", annotations=notes)},
            LEASES: {lease.port: lease for lease in leases},
        },
    )
    group = found.rows[RowKey("Port_Group", "ovn.sg.web.sg")]
    assert group.refs["ports"] == {RowKey("Logical_Switch_Port", "a.ns.net1.ns.ovn.east")}


def test_rules_stand_by_priority_and_all_else_is_dropped() -> None:
    rules = [
        {**RULE, "priority": 10, "remoteAddress": "10.0.0.0/8", "portRangeMin": 80,
         "portRangeMax": 90, "sourcePortRangeMin": 1024, "sourcePortRangeMax": 65535},
        {**RULE, "priority": 20, "policy": "deny", "protocol": "all", "localAddress": "10.0.0.1"},
        {**RULE, "priority": 20, "protocol": "icmp", "remoteType": "securityGroup",
         "remoteSecurityGroup": "other"},
    ]  # fmt: skip
    found = said(read(ingressRules=rules, allowSameGroupTraffic=True, tier=1))
    assert {
        ("to-lport", TOP[1] - 19, "allow-related",
         "ip4 && ip4.src == 10.0.0.0/8 && tcp && tcp.dst >= 80 && tcp.dst <= 90"
         " && tcp.src >= 1024 && tcp.src <= 65535"),
        ("to-lport", TOP[1] - 38, "drop", "ip4 && ip4.dst == 10.0.0.1/32"),
        ("to-lport", TOP[1] - 39, "allow-related",
         "ip4 && ip4.src == {$ovn.sg.other.associated.v4} && icmp4"),
        ("to-lport", BASE[1], "drop", "ip"),
        ("from-lport", BASE[1], "drop", "ip"),
        ("from-lport", BASE[1] + 2, "allow-related",
         "ip4 && ip4.dst == {$ovn.sg.web.sg.associated.v4}"),
    } <= acls(found)  # fmt: skip
    assert RowKey("Address_Set", "ovn.sg.other.associated.v4") in found.rows


def test_an_interface_that_names_no_group_that_is_there_is_shut() -> None:
    found = said(security_groups="web-sg, gone")
    for name in ("web.sg", "gone"):
        row = found.rows[RowKey("Port_Group", f"ovn.sg.{name}")]
        assert row.refs["ports"] == {RowKey("Logical_Switch_Port", "a.ns")}
    assert ("to-lport", BASE[0], "drop", "ip") in acls(found)
    problems = found.problems[ObjectRef("pods", "ns", "a")]
    assert len(problems) == 2
    assert "no SecurityGroup" in str(min(problems, key=str))


@pytest.mark.parametrize("tier", [0, 1])
def test_places_keep_the_order_of_priorities(tier: int) -> None:
    used = [1, 2, 200, 201, 202, 5000, 5001, 16384]
    found = places(used, tier)
    assert list(found) == used
    assert list(found.values()) == sorted(found.values(), reverse=True)
    assert all(TOP[tier] - WIDTH < at < TOP[tier] for at in found.values())
    assert places([1, 200], tier) == {key: found[key] for key in (1, 200)}


def test_more_priorities_than_there_are_places_are_told() -> None:
    used = [{**RULE, "priority": 16000 + at} for at in range(300)]
    found = said(read(ingressRules=used), security_groups="web-sg")
    problems = found.problems[ObjectRef("security-groups.kubeovn.io", "", "web-sg")]
    assert all("has no place" in str(one) for one in problems)
    assert problems


@pytest.mark.parametrize(
    ("spec", "path"),
    [
        ({"tier": 3}, "spec.tier: 3 is none"),
        (
            {"ingressRules": [{**RULE, "portRangeMin": 90, "portRangeMax": 80}]},
            r"spec.ingressRules\[0\].portRangeMax: 80 is below portRangeMin, 90; turn them round",
        ),
        (
            {"egressRules": [{**RULE, "sourcePortRangeMin": 2, "sourcePortRangeMax": 1}]},
            r"egressRules\[0\].sourcePortRangeMax: 1 is below",
        ),
        ({"ingressRules": [{**RULE, "portRangeMin": 90}]}, "portRangeMax: 0 is no port"),
        ({"ingressRules": [{**RULE, "priority": 0}]}, "priority: 0 is none"),
        ({"tier": 1, "ingressRules": [{**RULE, "policy": "pass"}]}, "policy: pass is of tier 0"),
        ({"ingressRules": [{**RULE, "remoteAddress": "10.0.0"}]}, "'10.0.0' is neither"),
        ({"ingressRules": [{**RULE, "remoteAddress": "fd00::/8"}]}, "not of ipv4"),
        (
            {"ingressRules": [{**RULE, "remoteType": "securityGroup"}]},
            "remoteSecurityGroup: is missing",
        ),
        ({"ingressRules": [{**RULE, "protocol": "sctp"}]}, "'sctp' is none of"),
    ],
)
def test_what_cannot_be_read_is_named_by_its_path(spec: dict[str, Any], path: str) -> None:
    with pytest.raises(KindError, match=path):
        read(**spec)


def test_what_is_passed_on_is_taken_out_of_what_stands_behind() -> None:
    passing = {**RULE, "policy": "pass", "priority": 2, "remoteAddress": "10.0.0.0/8"}
    first = {**RULE, "protocol": "all", "remoteAddress": "10.9.0.0/16"}
    last = {**first, "policy": "deny", "priority": 3}
    found = acls(said(read(ingressRules=[first, passing, last], allowSameGroupTraffic=True)))
    others = ", ".join(str(one) for one in range(256) if one != 6)
    passed = f"(ip.proto == {{{others}}} || (ip.proto == 6 && (ip4.src != 10.0.0.0/8)))"
    top, base = TOP[0], BASE[0]
    mine = {acl for acl in found if acl[0] == "to-lport"}
    assert {
        ("to-lport", top - 1, "allow-related", "ip4 && ip4.src == 10.9.0.0/16"),
        ("to-lport", top - 4, "drop", f"ip4 && ip4.src == 10.9.0.0/16 && {passed}"),
        ("to-lport", base, "drop", f"ip4 && {passed}"),
        ("to-lport", base, "drop", "ip6"),
        ("to-lport", base + 2, "allow-related",
         f"ip4 && ip4.src == {{$ovn.sg.web.sg.associated.v4}} && {passed}"),
        ("to-lport", base + 2, "allow-related",
         "ip6 && ip6.src == {$ovn.sg.web.sg.associated.v6}"),
    } <= mine  # fmt: skip
    assert not any(action == "pass" for _, _, action, _ in found)
    assert ("from-lport", base, "drop", "ip") in found


@pytest.mark.parametrize(
    ("rule", "others"),
    [
        ({"portRangeMin": 80, "portRangeMax": 443}, ["tcp.dst < 80", "tcp.dst > 443"]),
        ({"sourcePortRangeMin": 1, "sourcePortRangeMax": 9}, ["tcp.src > 9"]),
        ({"localAddress": "10.0.0.9"}, ["ip4.dst != 10.0.0.9/32"]),
    ],
)
def test_what_else_a_packet_may_be_than_what_is_passed_on(
    rule: dict[str, Any], others: list[str]
) -> None:
    found = acls(said(read(ingressRules=[{**RULE, "policy": "pass", **rule}])))
    (dropped,) = [text for way, at, _, text in found if (way, at) == ("to-lport", BASE[0])
                  and text.startswith("ip4")]  # fmt: skip
    words = dropped.partition("(ip.proto == 6 && (")[2].removesuffix(")))").split(" || ")
    assert words == others


def test_what_would_be_millions_of_flows_is_not_passed_on_and_told() -> None:
    passing = {**RULE, "policy": "pass"}
    group = {**passing, "remoteType": "securityGroup", "remoteSecurityGroup": "x"}
    found = said(read(ingressRules=[group]), SecurityGroup("x"))
    ((problem,),) = found.problems.values()
    assert "policy pass of priority" in str(problem)
    assert not any("!=" in text for *_, text in acls(found))
    hosts = [{**passing, "priority": at, "remoteAddress": f"10.0.0.{at}"} for at in range(1, 9)]
    found = said(read(ingressRules=hosts))
    (told,) = found.problems.values()
    matches = [text for *_, text in acls(found) if "!=" in text]
    # Each is 32 alternatives: four of them 1,048,576.
    assert len(told) == 5 and all("10.0.0.4" not in text for text in matches)
    alone = [{**one, "protocol": "all"} for one in hosts]
    found = said(read(ingressRules=alone))
    (told,) = found.problems.values()
    assert len(told) == 5 and any("10.0.0.3" in text for *_, text in acls(found))


def holds(text: str, packet: dict[str, Any]) -> bool:
    """Whether a packet has what a match of these tests says; a field that it lacks has nothing."""

    def compared(found: re.Match[str]) -> str:
        field, order, value = found.groups()
        if field not in packet:
            return "False"
        if order == "==":
            return str(packet[field] in {int(one) for one in value.strip("{}").split(",")})
        if order == "!=":
            return str(ip_address(packet[field]) not in ip_network(value))
        return str(packet[field] < int(value) if order == "<" else packet[field] > int(value))

    said = re.sub(r"([a-z0-9]+\.[a-z]+) (==|!=|<|>) (\{[^}]*\}|[^ )]+)", compared, text)
    said = said.replace("||", "or").replace("&&", "and")
    assert not set(re.findall(r"\w+", said)) - {"True", "False", "or", "and"}, said
    return bool(eval(said))


COMMON: list[dict[str, Any]] = [
    {"portRangeMin": 80, "portRangeMax": 80},
    {"portRangeMin": 443, "portRangeMax": 443},
    {"portRangeMin": 22, "portRangeMax": 22, "remoteAddress": "10.0.0.0/8"},
    {"portRangeMin": 8000, "portRangeMax": 8099},
    {"portRangeMin": 8050, "portRangeMax": 8443},
    {"protocol": "udp", "portRangeMin": 53, "portRangeMax": 53},
    {"protocol": "icmp", "remoteAddress": "10.0.0.0/8"},
    {"protocol": "all", "remoteAddress": "192.0.0.0/8"},
]


def test_several_rules_of_a_protocol_are_passed_on_together() -> None:
    rules = [
        {**RULE, "remoteAddress": "0.0.0.0/0", **rule, "policy": "pass", "priority": at}
        for at, rule in enumerate(COMMON, 1)
    ]
    found = said(read(ingressRules=rules))
    assert found.problems == {}
    (dropped,) = [text for way, at, _, text in acls(found)
                  if (way, at) == ("to-lport", BASE[0]) and text.startswith("ip4")]  # fmt: skip
    dropped = dropped.removeprefix("ip4 && ")
    ports = (0, 1, 21, 22, 23, 53, 79, 80, 81, 443, 444, 7999, 8000, 8099, 8443, 8444, 65535)
    for source in ("10.1.1.1", "192.0.2.9", "203.0.113.1"):
        for number, name in ((1, "icmp4"), (6, "tcp"), (17, "udp"), (132, "sctp")):
            for port in ports if number != 1 else (0,):
                packet = {"ip4.src": source, "ip.proto": number}
                packet |= {} if number == 1 else {f"{name}.dst": port}
                inside = ip_address(source) in ip_network("10.0.0.0/8")
                passed = (
                    source == "192.0.2.9"
                    or {
                        1: inside,
                        6: port in (80, 443) or 8000 <= port <= 8443 or (inside and port == 22),
                        17: port == 53,
                        132: False,
                    }[number]
                )
                assert holds(dropped, packet) != passed, packet


def test_a_group_that_a_rule_names_and_nobody_made_is_told() -> None:
    rule = {**RULE, "remoteType": "securityGroup", "remoteSecurityGroup": "x"}
    ((problem,),) = said(read(ingressRules=[rule])).problems.values()
    assert "there is no SecurityGroup x that can be read" in str(problem)
    assert said(read(ingressRules=[rule]), SecurityGroup("x")).problems == {}


def test_what_passes_on_everything_drops_nothing() -> None:
    everything = {**RULE, "protocol": "all", "policy": "pass", "remoteAddress": "0.0.0.0/0"}
    found = acls(said(read(ingressRules=[everything])))
    assert {text for way, at, _, text in found if (way, at) == ("to-lport", BASE[0])} == {"ip6"}


def test_what_another_group_of_the_tier_drops_is_not_passed_on_and_said() -> None:
    passing = read(ingressRules=[{**RULE, "policy": "pass"}])
    other = SecurityGroup("other")
    found = said(passing, other, security_groups="web-sg,other")
    ((problem,),) = found.problems.values()
    assert "what SecurityGroup web-sg passes on, its other groups of tier 0 drop" in str(problem)
    assert said(passing, SecurityGroup("other", 1), security_groups="web-sg,other").problems == {}


def test_unknown_fields_are_told() -> None:
    (problem,) = SECURITY_GROUP.warn(
        Custom(Meta(name="a"), msgspec.Raw(msgspec.json.encode({"rules": []})))
    )
    assert "spec.rules" in str(problem)
