"""NetworkPolicy objects: how they are read, refused, and spelled in OVN's language."""

from __future__ import annotations

from ipaddress import ip_address
from typing import Any

import pytest

from controller.policy.compiler import Cluster, compile_policies
from controller.policy.model import Namespace, Pod
from controller.policy.parse import PolicyError, network_policy
from controller.policy.rows import PolicyRows
from dataplane.model.addr import Protocol

WEB = {(Protocol.TCP, "web"): 8080}
PODS = (
    Pod("ns", "a", "a.ns", (ip_address("10.0.0.1"),), {"app": "a"}, WEB),
    Pod("ns", "b", "b.ns", (ip_address("10.0.0.2"), ip_address("fd00::2")), {"app": "b"}),
    Pod("ns", "c", "c.ns", (ip_address("10.0.0.3"),), {"app": "a"}, {(Protocol.TCP, "web"): 8081}),
    Pod("far", "d", "d.far", (ip_address("10.0.0.4"),), {"app": "a"}, WEB),
)
SPACES = (Namespace("ns", {"team": "one"}), Namespace("far", {"team": "two"}))


def policy(spec: dict[str, Any], namespace: str = "ns", name: str = "p") -> dict[str, Any]:
    return {"metadata": {"namespace": namespace, "name": name}, "spec": spec}


def compiled(*specs: dict[str, Any], lax: bool = False) -> PolicyRows:
    objects = tuple(network_policy(policy(spec, name=f"p{n}")) for n, spec in enumerate(specs))
    return compile_policies(
        Cluster(objects, PODS, SPACES, frozenset({ip_address("192.0.2.1")}), lax)
    )


def allows(rows: PolicyRows) -> list[str]:
    """Matches of what is let through, with members in place of names."""
    found = []
    for acl in rows.acls.values():
        if acl.priority == 2001:
            text = str(acl.match)
            for name, members in [*rows.port_groups.items(), *rows.address_sets.items()]:
                text = text.replace(name, "+".join(sorted(members)))
            found.append(f"{acl.direction} {text}")
    return sorted(found)


def test_a_policy_without_rules_isolates_what_it_selects() -> None:
    rows = compiled({"podSelector": {"matchLabels": {"app": "a"}}})
    assert list(rows.port_groups.values()) == [frozenset({"a.ns", "c.ns"})]
    drops = [a for a in rows.acls.values() if a.action == "drop"]
    assert [(a.direction, a.priority) for a in drops] == [("to-lport", 2000)]
    assert str(drops[0].match).endswith(" && ip")
    assert allows(rows) == []
    hosts = [a for a in rows.acls.values() if a.priority == 3000]
    assert len(hosts) == 2
    assert rows.address_sets == {"mr_hosts_4": frozenset({"192.0.2.1"}), "mr_hosts_6": frozenset()}


def test_lax_leaves_what_has_no_ports() -> None:
    rows = compiled({"podSelector": {}, "policyTypes": ["Egress"]}, lax=True)
    assert [str(a.match).split(" && ", 1)[1] for a in rows.acls.values()] == [
        "ip && (tcp || udp || sctp)"
    ]


def test_equal_selectors_share_their_group_and_equal_rules_their_acl() -> None:
    spec = {"podSelector": {"matchLabels": {"app": "a"}}, "ingress": [{"ports": [{"port": 80}]}]}
    again = {
        "podSelector": {"matchExpressions": [{"key": "app", "operator": "In", "values": ["a"]}]},
        "ingress": [{"ports": [{"port": 80}]}],
    }
    one, two = compiled(spec), compiled(spec, again)
    assert one.port_groups == two.port_groups
    assert one.acls.keys() == two.acls.keys()
    assert {a.said_by for a in two.acls.values()} == {("ns/p0", "ns/p1")}


def test_peers_and_ports_are_one_acl_for_a_family() -> None:
    rows = compiled(
        {
            "podSelector": {"matchLabels": {"app": "b"}},
            "ingress": [
                {
                    "from": [
                        {"namespaceSelector": {"matchLabels": {"team": "two"}}},
                        {"ipBlock": {"cidr": "192.0.2.0/24", "except": ["192.0.2.8/29"]}},
                    ],
                    "ports": [{"port": 80, "endPort": 90}, {"protocol": "UDP", "port": 53}],
                }
            ],
        }
    )
    four, six = allows(rows)
    assert four == (
        "to-lport outport == @b.ns && ip4 && (ip4.src == {$10.0.0.4} || (ip4.src == 192.0.2.0/24"
        " && ip4.src != {192.0.2.8/29})) && ((tcp.dst >= 80 && tcp.dst <= 90) || udp.dst == 53)"
    )
    assert six.startswith("to-lport outport == @b.ns && ip6 && ip6.src == {$}")


def test_a_ports_name_is_the_selected_pods_own() -> None:
    rows = compiled(
        {"podSelector": {"matchLabels": {"app": "a"}}, "ingress": [{"ports": [{"port": "web"}]}]}
    )
    assert allows(rows) == [
        "to-lport outport == @a.ns && ip && tcp.dst == 8080",
        "to-lport outport == @c.ns && ip && tcp.dst == 8081",
    ]


def test_to_a_ports_name_is_to_each_peers_own() -> None:
    rows = compiled(
        {
            "podSelector": {"matchLabels": {"app": "b"}},
            "policyTypes": ["Egress"],
            "egress": [{"ports": [{"port": "web"}]}],
        }
    )
    assert [text for text in allows(rows) if "ip4" in text] == [
        "from-lport inport == @b.ns && ip4 && ip4.dst == {$10.0.0.1+10.0.0.4} && tcp.dst == 8080",
        "from-lport inport == @b.ns && ip4 && ip4.dst == {$10.0.0.3} && tcp.dst == 8081",
    ]


def test_names_fit_ovns_language() -> None:
    rows = compiled({"podSelector": {}, "ingress": [{"from": [{"podSelector": {}}]}]})
    for name in (*rows.port_groups, *rows.address_sets):
        assert name.replace("_", "").isalnum()
        assert len(name) <= 63


@pytest.mark.parametrize(
    ("spec", "path"),
    [
        ({"podSelector": []}, "spec.podSelector: is no selector"),
        ({"podSelector": {}, "policyTypes": ["Both"]}, r"spec.policyTypes\[0\]: 'Both'"),
        ({"podSelector": {}, "rules": []}, "spec.rules: is not known"),
        (
            {
                "podSelector": {
                    "matchExpressions": [{"key": "a", "operator": "Gt", "values": ["1"]}]
                }
            },
            r"spec.podSelector.matchExpressions\[0\].operator: 'Gt' is none",
        ),
        (
            {"podSelector": {"matchExpressions": [{"key": "a", "operator": "In"}]}},
            r"matchExpressions\[0\]: In with 0 values",
        ),
        ({"ingress": [{"from": [{}]}]}, r"spec.ingress\[0\].from\[0\]: is no peer"),
        (
            {"ingress": [{"from": [{"ipBlock": {"cidr": "10.0.0.0/8"}, "podSelector": {}}]}]},
            r"from\[0\]: has ipBlock and selectors; make two peers",
        ),
        (
            {"ingress": [{"from": [{"ipBlock": {"cidr": "10.0.0.300/8"}}]}]},
            r"from\[0\].ipBlock.cidr: '10.0.0.300/8' is no network",
        ),
        (
            {
                "ingress": [
                    {"from": [{"ipBlock": {"cidr": "10.0.0.0/8", "except": ["11.0.0.0/8"]}}]}
                ]
            },
            r"ipBlock.except\[0\]: 11.0.0.0/8 is no part of 10.0.0.0/8",
        ),
        ({"egress": [{"ports": [{"port": 0}]}]}, r"spec.egress\[0\].ports\[0\].port: 0 is no port"),
        ({"egress": [{"ports": [{"port": True}]}]}, r"ports\[0\].port: True is no port"),
        ({"egress": [{"ports": [{"port": "Web!"}]}]}, r"port: 'Web!' is no port's name"),
        ({"egress": [{"ports": [{"protocol": "ICMP"}]}]}, r"protocol: 'ICMP' is none"),
        ({"egress": [{"ports": [{"endPort": 9}]}]}, r"endPort: has no number to begin with"),
        ({"egress": [{"ports": [{"port": 9, "endPort": 8}]}]}, r"endPort: 8 ends before 9"),
        ({"egress": {}}, r"spec.egress: is no list"),
    ],
)
def test_what_cannot_be_read_is_named_by_its_path(spec: dict[str, Any], path: str) -> None:
    with pytest.raises(PolicyError, match=path):
        network_policy(policy(spec))
