"""NetworkPolicy objects: how they are read, refused, and spelled in OVN's language."""

from __future__ import annotations

from ipaddress import ip_address
from typing import Any

import msgspec
import pytest

from controller.kinds.errors import KindError
from controller.kube.structs import Custom, Meta
from controller.network.policies import policy_fact, policy_problems
from controller.policy import kubeovn
from controller.policy.model import Logging
from controller.policy.parse import closed, network_policy
from dataplane.model.addr import Protocol
from tests.policies.whole import Cluster, Namespace, Pod, PolicyRows, compile_policies

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
    return compile_policies(Cluster(objects, PODS, SPACES, lax))


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
    assert [(a.direction, a.priority) for a in drops] == [("to-lport", 1999)]
    assert str(drops[0].match).endswith(" && ip")
    assert allows(rows) == []
    assert rows.address_sets == {}


def test_lax_leaves_what_has_no_ports_and_dhcp() -> None:
    rows = compiled({"podSelector": {}, "policyTypes": ["Egress"]}, lax=True)
    assert [(a.action, str(a.match).split(" && ", 1)[1]) for a in rows.acls.values()] == [
        ("allow-related", "ip6 && (nd || nd_rs || nd_ra || mldv1 || mldv2)"),
        ("drop", "ip && (tcp || udp || sctp)"),
        ("allow", "ip4 && (udp.src == 68 && udp.dst == 67)"),
        ("allow", "ip6 && (udp.src == 546 && udp.dst == 547)"),
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


def test_to_a_ports_name_in_a_block_is_to_the_pods_in_it() -> None:
    block = {"ipBlock": {"cidr": "10.0.0.0/30"}}
    rows = compiled(
        {
            "podSelector": {"matchLabels": {"app": "b"}},
            "policyTypes": ["Egress"],
            "egress": [{"to": [block], "ports": [{"port": "web"}]}],
        }
    )
    assert allows(rows) == [
        "from-lport inport == @b.ns && ip4 && ip4.dst == 10.0.0.0/30"
        " && ip4.dst == $10.0.0.1+10.0.0.4 && tcp.dst == 8080",
        "from-lport inport == @b.ns && ip4 && ip4.dst == 10.0.0.0/30"
        " && ip4.dst == $10.0.0.3 && tcp.dst == 8081",
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
    with pytest.raises(KindError, match=path):
        network_policy(policy(spec))


@pytest.mark.parametrize("spec", [{"podSelector": {}, "ingress": [{"from": [{}]}]}])
def test_a_policy_whose_rules_cannot_be_read_lets_nothing_through(spec: dict[str, Any]) -> None:
    found = closed(policy(spec))
    assert (found.ingress, found.egress) == ((), None)
    both = closed(policy({**spec, "policyTypes": ["Ingress", "Egress"]}))
    assert (both.ingress, both.egress) == ((), ())


def test_annotations_say_what_is_logged_for_whom_and_how_strictly() -> None:
    notes = {
        "ovn.kubernetes.io/enable_log": "true",
        "ovn.kubernetes.io/log_acl_actions": "allow,drop",
        "ovn.kubernetes.io/acl_log_meter_rate": "100",
        "ovn.kubernetes.io/network_policy_for": "ovn, far/net1",
        "ovn.kubernetes.io/network_policy_enforcement": "lax",
    }
    found = network_policy(
        {"metadata": {"namespace": "ns", "name": "p", "annotations": notes}, "spec": {}}
    )
    assert found.logging == Logging(allowed=True, dropped=True, rate=100)
    assert found.providers == ("net1.far.ovn", "ovn")
    assert found.lax is True
    assert kubeovn.problems(notes) == ()


@pytest.mark.parametrize(
    ("name", "value", "problem"),
    [
        ("network_policy_for", "eth0", "'eth0' is no network"),
        ("log_acl_actions", "reject", "'reject' is no action"),
        ("acl_log_meter_rate", "fast", "'fast' is no rate"),
        ("enforcement", "strict", "'strict' is none"),
    ],
)
def test_annotations_that_mean_nothing_are_named(name: str, value: str, problem: str) -> None:
    notes = {"ovn.kubernetes.io/enable_log": "true", f"ovn.kubernetes.io/{name}": value}
    (found,) = kubeovn.problems(notes)
    assert problem in str(found)
    assert name in found.path


def test_what_is_logged_stands_above_what_another_policy_does_not_log() -> None:
    notes = {"ovn.kubernetes.io/enable_log": "true", "ovn.kubernetes.io/acl_log_meter_rate": "5"}
    quiet = policy({"podSelector": {}}, name="quiet")
    loud = policy({"podSelector": {}}, name="loud")
    loud["metadata"]["annotations"] = notes
    rows = compile_policies(Cluster((network_policy(quiet), network_policy(loud)), PODS, SPACES))
    acls = [acl for acl in rows.acls.values() if acl.action == "drop"]
    drops = sorted((a.priority, a.log, a.meter, a.name) for a in acls)
    assert drops == [(1999, False, 0, ""), (2000, True, 5, "np/loud.ns/ingress")]


def custom(spec: dict[str, Any], **notes: str) -> Custom:
    meta = Meta(name="p", namespace="ns", annotations=notes)
    return Custom(meta, msgspec.Raw(msgspec.json.encode(spec)))


def test_a_bad_policy_closes_what_it_selects_and_says_why() -> None:
    bad = custom({"podSelector": {}, "egress": [{"ports": [{"port": 9, "endPort": 8}]}]})
    fact = policy_fact(bad)
    assert (fact.ingress, fact.egress) == ((), ())
    (problem,) = policy_problems(bad)
    assert str(problem) == (
        "NetworkPolicy ns/p: spec.egress[0].ports[0].endPort: 8 ends before 9; turn them round"
    )
    good = custom({"podSelector": {}}, **{"ovn.kubernetes.io/acl_log_meter_rate": "often"})
    assert policy_fact(good).ingress == ()
    (problem,) = policy_problems(good)
    assert "'often' is no rate" in str(problem)


def test_a_policy_of_which_it_is_not_known_whom_it_selects_is_none() -> None:
    with pytest.raises(KindError, match=r"spec\.podSelector"):
        policy_fact(custom({"podSelector": {"matchExpressions": [{"key": "a", "operator": "Is"}]}}))
