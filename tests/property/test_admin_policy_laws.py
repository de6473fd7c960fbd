"""Tiers, priorities and rules that pass, compiled for an OVN without them, against their texts."""

from __future__ import annotations

from ipaddress import ip_address
from itertools import permutations, product
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from controller.network.adminpolicies import UNITS as ADMIN_UNITS
from controller.network.facts import NODES, NetNode
from controller.network.policies import UNITS
from controller.policy.admin import Tier, places
from controller.policy.parse import network_policy
from tests.labs.factview import whole
from tests.policies.acls import passes
from tests.policies.adminfacts import facts_of_admins
from tests.policies.admins import admins
from tests.policies.evaluate import World
from tests.policies.evaluate_admin import Tiers, allowed
from tests.policies.facts import facts_of
from tests.policies.unitrows import unit_rows
from tests.policies.whole import Namespace
from tests.property.test_policy_laws import PORTS, ends, namespaces, pods, policies, port_of
from tests.property.test_policy_units_laws import Made, listed

NODE = {"n": {"addresses": ["192.0.2.1", "2001:db8::7"], "labels": {}}}


@settings(max_examples=80, deadline=None)
@given(admins, policies, pods, namespaces)
def test_what_is_compiled_lets_through_what_all_tiers_do(
    objects: list[Any], others: list[Any], made: Made, spaces: dict[str, dict[str, str]]
) -> None:
    read = tuple(map(network_policy, others))
    known = tuple(Namespace(name, labels) for name, labels in spaces.items())
    facts = {**facts_of(read, listed(made), known), **facts_of_admins(objects)}
    facts[NODES] = {"n": NetNode("n", tuple(map(ip_address, NODE["n"]["addresses"])))}
    assert whole((*UNITS, *ADMIN_UNITS), facts).disputed == set()
    rows = unit_rows(facts)
    tiers = Tiers(World(others, spaces), objects, NODE)
    for version in (4, 6):
        for source, target in permutations(ends(made, version), 2):
            for protocol, number in product(("TCP", "UDP", "SCTP", "ICMP"), (*PORTS, 8080)):
                wanted = allowed(tiers, source, target, protocol, number)
                found = passes(
                    rows, (port_of(source), port_of(target)), (source.address, target.address),
                    protocol, number,
                )  # fmt: skip
                assert found == wanted, (source, target, protocol, number)


@given(
    st.lists(st.tuples(st.integers(0, 1000), st.integers(0, 40)), max_size=30),
    st.sampled_from(Tier),
)
def test_places_keep_the_order_and_stay_in_their_band(
    wanted: list[tuple[int, int]], tier: Tier
) -> None:
    policies_ = [(priority, f"p{at}", needed) for at, (priority, needed) in enumerate(wanted)]
    found = places(policies_, tier)
    top, width = tier.value
    last = top + 1
    for _, key, needed in sorted(policies_):
        if key in found:
            assert last > found[key] or needed == 0
            assert top - width < found[key] - needed + 1 <= top + 1
            last = found[key] - needed + 1
    if tier is Tier.ADMIN and sum(needed for _, needed in wanted) <= 100:
        assert len(found) == len(policies_)


def test_a_policy_keeps_its_place_when_others_come() -> None:
    one = places([(10, "a", 20)], Tier.ADMIN)
    both = places([(10, "a", 20), (9, "b", 27), (11, "c", 100)], Tier.ADMIN)
    assert one["a"] == both["a"]
