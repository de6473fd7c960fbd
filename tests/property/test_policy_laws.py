"""Compiled policies against what their objects mean, over random clusters.

The one side reads the objects, compiles them and decides by priorities as OVN does; the other reads
the objects' JSON and decides by the text of Kubernetes. They share nothing.
"""

from __future__ import annotations

from ipaddress import ip_address
from itertools import permutations, product
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from controller.policy.parse import network_policy
from dataplane.model.addr import Protocol
from tests.policies.acls import passes
from tests.policies.evaluate import End, World, allowed
from tests.policies.whole import Cluster, Namespace, Pod, PolicyRows, compile_policies

NAMESPACES = ("blue", "red")
KEYS, VALUES = ("app", "tier"), ("a", "b")
NAMES = ("web",)
PORTS = (53, 80, 81, 443)
OUTSIDE = ("192.0.2.1", "192.0.2.9", "198.51.100.7", "2001:db8::7")

labels = st.dictionaries(st.sampled_from(KEYS), st.sampled_from(VALUES), max_size=2)
expressions = st.one_of(
    st.builds(
        lambda key, operator, values: {"key": key, "operator": operator, "values": values},
        st.sampled_from(KEYS), st.sampled_from(["In", "NotIn"]),
        st.lists(st.sampled_from(VALUES), min_size=1, max_size=2, unique=True),
    ),
    st.builds(
        lambda key, operator: {"key": key, "operator": operator},
        st.sampled_from(KEYS), st.sampled_from(["Exists", "DoesNotExist"]),
    ),
)  # fmt: skip
selectors = st.one_of(
    st.just({}),
    st.just({}),
    st.fixed_dictionaries(
        {}, optional={"matchLabels": labels, "matchExpressions": st.lists(expressions, max_size=2)}
    ),
)
blocks = st.sampled_from(
    [
        {"cidr": "192.0.2.0/24"},
        {"cidr": "0.0.0.0/0", "except": ["10.0.0.0/8", "192.0.2.8/29"]},
        {"cidr": "10.0.0.0/29", "except": ["10.0.0.2/32"]},
        {"cidr": "2001:db8::/32"},
        {"cidr": "::/0", "except": ["fd00::/125"]},
    ]
)
peers = st.one_of(
    st.builds(lambda b: {"ipBlock": b}, blocks),
    st.builds(lambda s: {"podSelector": s}, selectors),
    st.builds(lambda s: {"namespaceSelector": s}, selectors),
    st.builds(lambda s, n: {"podSelector": s, "namespaceSelector": n}, selectors, selectors),
)
protocols = st.sampled_from(["TCP", "UDP", "SCTP"])
policy_ports = st.one_of(
    st.builds(lambda p: {"protocol": p}, protocols),
    st.builds(lambda n: {"port": n}, st.sampled_from(PORTS)),
    st.just({"port": "web"}),
    st.builds(
        lambda p, n: {"protocol": p, "port": n}, protocols, st.sampled_from((*PORTS, *NAMES))
    ),
    st.builds(lambda p: {"protocol": p, "port": 80, "endPort": 442}, protocols),
)


def rules(key: str) -> st.SearchStrategy[Any]:
    return st.fixed_dictionaries(
        {},
        optional={
            key: st.lists(peers, max_size=2),
            "ports": st.lists(policy_ports, min_size=1, max_size=2),
        },
    )


specs = st.fixed_dictionaries(
    {"podSelector": selectors},
    optional={
        "policyTypes": st.lists(
            st.sampled_from(["Ingress", "Egress"]), min_size=1, max_size=2, unique=True
        ),
        "ingress": st.lists(rules("from"), min_size=1, max_size=2),
        "egress": st.lists(rules("to"), min_size=1, max_size=2),
    },
)
policies = st.lists(st.tuples(st.sampled_from(NAMESPACES), specs), max_size=4).map(
    lambda found: [
        {"metadata": {"namespace": namespace, "name": f"p{at}"}, "spec": spec}
        for at, (namespace, spec) in enumerate(found)
    ]
)
named = st.dictionaries(
    st.tuples(st.sampled_from(["TCP", "TCP", "UDP"]), st.sampled_from(NAMES)),
    st.sampled_from(PORTS),
    max_size=2,
)
pods = st.lists(st.tuples(st.sampled_from(NAMESPACES), labels, named), min_size=1, max_size=4)
namespaces = st.fixed_dictionaries(dict.fromkeys(NAMESPACES, labels))


def ends(
    made: list[tuple[str, dict[str, str], dict[tuple[str, str], int]]], version: int
) -> list[End]:
    form = "10.0.0.{}" if version == 4 else "fd00::{}"
    found = [
        End(form.format(at + 1), namespace, f"pod{at}", owned, known)
        for at, (namespace, owned, known) in enumerate(made)
    ]
    return found + [End(a) for a in OUTSIDE if ip_address(a).version == version]


def compiled(
    objects: list[Any], made: list[End], other: list[End], spaces: dict[str, dict[str, str]]
) -> PolicyRows:
    both = {pod.name: [pod] for pod in made if pod.namespace}
    for pod in other:
        if pod.namespace:
            both[pod.name].append(pod)
    return compile_policies(
        Cluster(
            tuple(network_policy(one) for one in objects),
            tuple(
                Pod(
                    found[0].namespace, name, port_of(found[0]),
                    tuple(ip_address(pod.address) for pod in found), found[0].labels,
                    {(Protocol[p], n): number for (p, n), number in found[0].named.items()},
                )
                for name, found in both.items()
            ),
            tuple(Namespace(name, owned) for name, owned in spaces.items()),
        )
    )  # fmt: skip


def port_of(end: End) -> str:
    return f"{end.name}.{end.namespace}" if end.namespace else ""


@settings(max_examples=200, deadline=None)
@given(policies, pods, namespaces)
def test_what_is_compiled_lets_through_what_the_objects_do(
    objects: list[Any],
    made: list[tuple[str, dict[str, str], dict[tuple[str, str], int]]],
    spaces: dict[str, dict[str, str]],
) -> None:
    four, six = ends(made, 4), ends(made, 6)
    rows = compiled(objects, four, six, spaces)
    world = World(objects, spaces)
    for known in (four, six):
        for source, target in permutations(known, 2):
            for protocol, number in product(("TCP", "UDP", "SCTP"), (*PORTS, 8080)):
                wanted = allowed(world, source, target, protocol, number)
                found = passes(
                    rows, (port_of(source), port_of(target)), (source.address, target.address),
                    protocol, number,
                )  # fmt: skip
                assert found == wanted, (source, target, protocol, number)


@settings(max_examples=60, deadline=None)
@given(policies, pods, namespaces, st.integers(0, 3), labels)
def test_a_pods_labels_change_members_and_no_acl(
    objects: list[Any],
    made: list[tuple[str, dict[str, str], dict[tuple[str, str], int]]],
    spaces: dict[str, dict[str, str]],
    which: int,
    owned: dict[str, str],
) -> None:
    # Names of ports are a pod's own, and a group for each number: those may come and go.
    made = [(namespace, held, {}) for namespace, held, _ in made]
    before = compiled(objects, ends(made, 4), [], spaces)
    at = which % len(made)
    made[at] = (made[at][0], owned, {})
    after = compiled(objects, ends(made, 4), [], spaces)
    assert before.acls == after.acls
    assert before.port_groups.keys() == after.port_groups.keys()
    assert before.address_sets.keys() == after.address_sets.keys()


@settings(max_examples=60, deadline=None)
@given(policies, pods, namespaces, st.randoms(use_true_random=False))
def test_the_order_of_objects_is_nothing(
    objects: list[Any],
    made: list[tuple[str, dict[str, str], dict[tuple[str, str], int]]],
    spaces: dict[str, dict[str, str]],
    chance: Any,
) -> None:
    before = compiled(objects, ends(made, 4), [], spaces)
    chance.shuffle(objects)
    assert compiled(objects, ends(made, 4), [], spaces) == before
