"""Policies in the book: after any history what plain computation says; one change, one's rows."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import replace
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from controller.kube.resources import Key
from controller.network import adminpolicies, policies, policynodes, security_groups
from controller.network.adminpolicies import ANPS, BANPS, CNPS
from controller.network.book import Book
from controller.network.facts import LEASES, NAMESPACES, NODES, PODS, NetNode, NetPod
from controller.network.policies import NETWORK_POLICIES
from controller.network.units import ObjectRef
from controller.network.view import Kind
from controller.policy.parse import network_policy
from tests.labs.factview import whole
from tests.policies.adminfacts import facts_of_admins
from tests.policies.admins import admins
from tests.policies.facts import Facts, facts_of
from tests.policies.whole import Namespace
from tests.property.test_policy_laws import labels, namespaces, pods
from tests.property.test_policy_laws import policies as random_policies
from tests.property.test_policy_units_laws import Made, listed

UNITS = (*policies.UNITS, *policynodes.UNITS, *adminpolicies.UNITS, *security_groups.UNITS)
CHANGED = (NETWORK_POLICIES, PODS, LEASES, NAMESPACES, ANPS, BANPS, CNPS)


def ref(kind: Kind[Any], key: Hashable) -> ObjectRef:
    return ObjectRef(kind.name, "", str(key))


def facts(
    objects: list[Any], others: list[Any], made: Made, spaces: dict[str, dict[str, str]]
) -> Facts:
    known = tuple(Namespace(name, found) for name, found in spaces.items())
    found = {**facts_of(map(network_policy, others), listed(made), known)}
    found.update(facts_of_admins(objects))
    found[NODES] = {name: NetNode(name) for name in ("n0", "n1")}
    return found


def filled(found: Facts) -> Book:
    book = Book(UNITS, ref)
    for kind, known in found.items():
        for key, fact in known.items():
            book.put(kind, key, fact)
    book.update()
    return book


@settings(max_examples=60, deadline=None)
@given(
    admins, random_policies, pods, namespaces, admins, random_policies, pods, namespaces,
    st.randoms(use_true_random=False),
)  # fmt: skip
def test_after_any_change_the_book_says_what_plain_computation_does(
    objects: list[Any], others: list[Any], made: Made, spaces: dict[str, dict[str, str]],
    objects2: list[Any], others2: list[Any], made2: Made, spaces2: dict[str, dict[str, str]],
    chance: Any,
) -> None:  # fmt: skip
    before = facts(objects, others, made, spaces)
    after = facts(objects2, others2, made2, spaces2)
    book = filled(before)
    changes = [
        (kind, key, after[kind].get(key))
        for kind in CHANGED
        for key in {**before[kind], **after[kind]}
    ]
    chance.shuffle(changes)
    for at, (kind, key, fact) in enumerate(changes):
        book.put(kind, key, fact)
        if at % 3 == 0:
            book.update()
    book.update()
    said = whole(UNITS, after)
    assert book.rows == said.rows
    assert {row.name for row in book.problems} == {row.name for row in said.problems}


def pod(at: int, app: str) -> tuple[str, dict[str, str], dict[tuple[str, str], int]]:
    return ("blue" if at % 2 else "red", {"app": app, "tier": "a"}, {("TCP", "web"): 80})


def policy(name: str, namespace: str, app: str, port: int = 80) -> dict[str, Any]:
    chosen = {"matchLabels": {"app": app}}
    rules = [{"from": [{"podSelector": chosen}], "ports": [{"port": port}]}]
    return {
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"podSelector": chosen, "ingress": rules},
    }


def cluster() -> Facts:
    made = [pod(at, "ab"[at % 3 == 0]) for at in range(12)]
    listed_ = [policy("p", "blue", "a"), policy("q", "blue", "b"), policy("r", "red", "a")]
    return facts([], listed_, made, {"blue": {}, "red": {}})


def test_one_policys_change_writes_only_its_own_rows() -> None:
    book = filled(cluster())
    changed = network_policy(policy("p", "blue", "a", 81))
    book.put(NETWORK_POLICIES, Key("blue", "p"), changed)
    rows = book.update().rows
    assert {key.table for key in rows} == {"ACL"}
    # Of two families one that goes and one that comes.
    assert sorted(row is None for row in rows.values()) == [False, False, True, True]
    for key, row in rows.items():
        if row is not None:
            assert {one for _, one in book.sayers(key)} == {ref(NETWORK_POLICIES, Key("blue", "p"))}


def test_a_pods_change_writes_the_groups_it_belongs_to_and_no_acl() -> None:
    found = cluster()
    book = filled(found)
    key = next(key for key, one in found[PODS].items() if key.namespace == "blue")
    old: NetPod = found[PODS][key]
    book.put(PODS, key, replace(old, annotations={"ovn.kubernetes.io/unread": "1"}))
    assert book.update().rows == {}
    other = "b" if old.labels["app"] == "a" else "a"
    book.put(PODS, key, replace(old, labels={**old.labels, "app": other}))
    rows = book.update().rows
    assert {key.table for key in rows} == {"Port_Group", "Address_Set"}
    # The group that it leaves and the one that it joins, and the sets of both, of two families.
    assert len(rows) == 2 + 2 * 2


@settings(max_examples=20, deadline=None)
@given(labels)
def test_a_pod_that_no_policy_is_about_writes_nothing_but_its_nodes_groups(
    owned: dict[str, str],
) -> None:
    found = cluster()
    book = filled(found)
    key = Key("green", "new")
    book.put(PODS, key, NetPod("green", "new", node="n0", labels=owned))
    assert book.update().rows == {}
