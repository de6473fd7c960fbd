"""Which flows a change of services ends, and that no other one does."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from ipaddress import ip_address

import pytest

from dataplane.model.addr import L4Addr, Mac, Protocol
from dataplane.model.conntrack import (
    ENDS_WITH_BACKEND,
    Endings,
    Endpoint,
    FlowFilter,
    FlowState,
)
from dataplane.model.rows import BackendEntry, SetEntry, SetScope, VipEntry, VipFlag
from dataplane.model.service import Place
from dataplane.plan.flows_to_end import flows_to_end, flows_without_service


def tcp(address: str, port: int = 80) -> L4Addr:
    return L4Addr(Protocol.TCP, ip_address(address), port)


VIP, VIP_TWO, VIP6 = tcp("192.0.2.1"), tcp("192.0.2.2"), tcp("2001:db8::1")
ONE, TWO, THREE = tcp("10.0.0.1", 8080), tcp("10.0.0.2", 8080), tcp("10.0.0.3", 8080)


@dataclass(frozen=True, slots=True)
class Rows:
    vips: Mapping[L4Addr, VipEntry] = field(default_factory=dict)
    sets: Mapping[tuple[int, SetScope], SetEntry] = field(default_factory=dict)
    backends: Mapping[int, BackendEntry] = field(default_factory=dict)


def members(*numbers: int) -> SetEntry:
    return SetEntry(tuple((number, 1000 + number, 1) for number in numbers))


BEFORE = Rows(
    vips={VIP: VipEntry(1, VipFlag.SNAT), VIP_TWO: VipEntry(2, VipFlag.SNAT)},
    sets={
        (1, SetScope.CLUSTER): members(1, 2),
        (1, SetScope.LOCAL): members(1),
        (2, SetScope.CLUSTER): members(1, 3),
    },
    backends={
        number: BackendEntry(target, Place.LOCAL)
        for number, target in ((1, ONE), (2, TWO), (3, THREE))
    },
)


def with_set(service_id: int, scope: SetScope, entry: SetEntry | None) -> Rows:
    sets = dict(BEFORE.sets)
    if entry is None:
        del sets[service_id, scope]
    else:
        sets[service_id, scope] = entry
    return replace(BEFORE, sets=sets)


def test_no_change_ends_nothing() -> None:
    assert not flows_to_end(BEFORE, BEFORE)
    same = Rows(dict(BEFORE.vips), dict(BEFORE.sets), dict(BEFORE.backends))
    assert flows_to_end(BEFORE, same) == Endings()


def test_a_vip_that_goes_takes_its_flows_along() -> None:
    after = replace(BEFORE, vips={VIP: BEFORE.vips[VIP]})
    assert flows_to_end(BEFORE, after) == Endings(vips=frozenset({VIP_TWO}))


def test_a_vip_of_another_service_now_loses_what_may_pick_anew() -> None:
    after = replace(BEFORE, vips={**BEFORE.vips, VIP: VipEntry(2, VipFlag.SNAT)})
    assert flows_to_end(BEFORE, after) == Endings(moved=frozenset({(1, VIP)}))


def test_a_backend_in_no_set_of_its_service_loses_its_flows_of_that_service() -> None:
    after = with_set(2, SetScope.CLUSTER, members(3))
    assert flows_to_end(BEFORE, after) == Endings(
        backends=frozenset({(2, ONE)}), affinities=frozenset({(2, 1)})
    )


def test_a_backend_that_is_left_in_one_set_keeps_them() -> None:
    assert not flows_to_end(BEFORE, with_set(1, SetScope.CLUSTER, members(2)))
    assert not flows_to_end(BEFORE, with_set(1, SetScope.LOCAL, None))


def test_a_set_that_goes_whole_is_all_its_members() -> None:
    ended = flows_to_end(BEFORE, with_set(2, SetScope.CLUSTER, None))
    assert ended.backends == {(2, ONE), (2, THREE)}


def test_the_last_backend_that_terminates_and_is_still_served_keeps_its_flows() -> None:
    # It stays a member when nothing else is ready, so there is nothing to tell it by.
    assert not flows_to_end(BEFORE, with_set(1, SetScope.CLUSTER, members(1, 2)))


def test_a_backend_under_another_number_is_the_same() -> None:
    after = Rows(
        BEFORE.vips,
        {**BEFORE.sets, (2, SetScope.CLUSTER): members(9, 3)},
        {**BEFORE.backends, 9: BackendEntry(ONE, Place.REMOTE)},
    )
    ended = flows_to_end(BEFORE, after)
    assert not ended.backends
    assert ended.affinities == {(2, 1)}


def test_weights_and_new_members_end_nothing() -> None:
    after = with_set(1, SetScope.CLUSTER, SetEntry(((1, 1001, 7), (2, 1002, 1), (3, 1003, 1))))
    assert not flows_to_end(BEFORE, after)


def test_after_a_start_every_flow_and_affinity_is_looked_at() -> None:
    gone = tcp("192.0.2.99")
    ended = flows_without_service(
        vips=[(VIP, 1), (gone, 5), (VIP_TWO, 1)],
        targets=[(1, ONE), (1, THREE), (5, ONE)],
        nodes=[],
        bound=[(1, 2), (1, 3), (5, 1)],
        after=BEFORE,
    )
    assert ended == Endings(
        vips=frozenset({gone}),
        moved=frozenset({(1, VIP_TWO)}),
        backends=frozenset({(1, THREE), (5, ONE)}),
        affinities=frozenset({(1, 3), (5, 1)}),
    )


NODE_ONE, NODE_TWO = Mac("02:00:00:00:00:01"), Mac("02:00:00:00:00:02")
HANDED_ON = replace(
    BEFORE,
    sets={(1, SetScope.CLUSTER): members(1, 2, 3)},
    backends={
        1: BackendEntry(ONE, Place.REMOTE, mac=NODE_ONE),
        2: BackendEntry(TWO, Place.REMOTE, mac=NODE_ONE),
        3: BackendEntry(THREE, Place.REMOTE, mac=NODE_TWO),
    },
)


def test_a_node_without_any_backend_left_is_handed_nothing_more() -> None:
    one_left = replace(HANDED_ON, sets={(1, SetScope.CLUSTER): members(1, 3)})
    assert flows_to_end(HANDED_ON, one_left).nodes == frozenset()
    none_left = replace(HANDED_ON, sets={(1, SetScope.CLUSTER): members(3)})
    assert flows_to_end(HANDED_ON, none_left).nodes == {(1, NODE_ONE)}
    strays = flows_without_service([], [], [(1, NODE_ONE), (1, NODE_TWO)], [], none_left)
    assert strays == Endings(nodes=frozenset({(1, NODE_ONE)}))
    assert strays.versions() == {4, 6}


def test_only_the_families_concerned_are_swept() -> None:
    assert Endings(vips=frozenset({VIP6})).versions() == {6}
    assert Endings(backends=frozenset({(1, ONE)}), moved=frozenset({(1, VIP6)})).versions() == {
        4,
        6,
    }
    assert Endings(affinities=frozenset({(1, 1)})).versions() == frozenset()


@pytest.mark.parametrize(
    ("text", "address", "port"),
    [
        ("192.0.2.1", "192.0.2.1", None),
        ("192.0.2.1:80", "192.0.2.1", 80),
        ("fd00::1", "fd00::1", None),
        ("[fd00::1]", "fd00::1", None),
        ("[fd00::1]:53", "fd00::1", 53),
    ],
)
def test_an_endpoint_is_read_as_people_write_it(text: str, address: str, port: int | None) -> None:
    end = Endpoint.parse(text)
    assert end == Endpoint(ip_address(address), port)
    assert Endpoint.parse(str(end)) == end


@pytest.mark.parametrize(
    "text", ["", "nonsense", "192.0.2.1:http", "192.0.2.1:70000", "[fd00::1", "[fd00::1]x", "1.2:3"]
)
def test_what_is_no_endpoint_is_refused_by_its_text(text: str) -> None:
    with pytest.raises(ValueError, match=r"is not|outside"):
        Endpoint.parse(text)


def test_a_filter_of_both_families_matches_nothing() -> None:
    mixed = FlowFilter(vip=Endpoint.parse("192.0.2.1"), client=Endpoint.parse("fd00::1"))
    assert (mixed.version, FlowFilter().version) == (0, None)


def test_a_state_knows_its_protocol() -> None:
    assert {state.protocol for state in FlowState} == set(Protocol)
    assert FlowState.UDP_ONE_WAY.text == "udp-one-way"
    udp = {state for state in FlowState if state.protocol is Protocol.UDP}
    assert {state.text for state in udp} == {"udp-one-way", "udp-answered", "udp"}
    assert udp <= ENDS_WITH_BACKEND


def test_only_the_keys_that_are_said_to_differ_are_looked_at() -> None:
    after = replace(with_set(2, SetScope.CLUSTER, members(3)), vips={VIP: BEFORE.vips[VIP]})
    every: dict[str, dict[object, object]] = {
        "vips": {VIP_TWO: None},
        "sets": {(2, SetScope.CLUSTER): members(3)},
    }
    assert flows_to_end(BEFORE, after, every) == flows_to_end(BEFORE, after)
    assert flows_to_end(BEFORE, after, {"vips": {VIP_TWO: None}}) == Endings(
        vips=frozenset({VIP_TWO})
    )
    assert flows_to_end(BEFORE, after, {}) == Endings()
