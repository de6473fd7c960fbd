"""Policies by units, key by key and by index, against the whole compile of plain lists."""

from __future__ import annotations

from ipaddress import ip_address
from typing import Any

from hypothesis import given, settings

from controller.network.policies import UNITS
from controller.policy.parse import network_policy
from dataplane.model.addr import Protocol
from tests.labs.factview import whole
from tests.policies.facts import facts_of, rows_of
from tests.policies.whole import Cluster, Namespace, Pod, compile_policies
from tests.property.test_policy_laws import namespaces, pods, policies

Made = list[tuple[str, dict[str, str], dict[tuple[str, str], int]]]


def listed(made: Made) -> tuple[Pod, ...]:
    return tuple(
        Pod(
            namespace, f"pod{at}", f"pod{at}.{namespace}",
            (ip_address(f"10.0.0.{at + 1}"), ip_address(f"fd00::{at + 1}")), labels,
            {(Protocol[p], n): number for (p, n), number in known.items()},
        )
        for at, (namespace, labels, known) in enumerate(made)
    )  # fmt: skip


@settings(max_examples=150, deadline=None)
@given(policies, pods, namespaces)
def test_units_say_what_the_whole_compile_does(
    objects: list[Any], made: Made, spaces: dict[str, dict[str, str]]
) -> None:
    read = tuple(map(network_policy, objects))
    known = tuple(Namespace(name, labels) for name, labels in spaces.items())
    found = whole(UNITS, facts_of(read, listed(made), known))
    assert found.disputed == set()
    assert found.rows == rows_of(compile_policies(Cluster(read, listed(made), known)))
