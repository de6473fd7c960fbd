"""Services as rows: which set has whom, which VIP does what, who keeps which number."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address, ip_network
from typing import Any

import pytest

from dataplane.model.addr import L4Addr, Mac, Protocol
from dataplane.model.rows import AddressFlag, SetScope, VipFlag
from dataplane.model.service import (
    Backend,
    EndpointState,
    Forwarding,
    Place,
    ServedBy,
    Service,
    ServiceKind,
    TrafficPolicy,
)
from dataplane.model.state import HeldIds
from dataplane.plan.ids import OutOfIds
from dataplane.plan.services import (
    ServiceTables,
    Vantage,
    known_addresses,
    local_backends,
    service_tables,
    usable,
)

HERE = Vantage(
    "n1",
    "east",
    (ip_address("172.18.0.11"), ip_address("fd18::11")),
    {Place.LOCAL: 1442, Place.REMOTE: 1400},
    {"n2": Mac("0a:58:ac:12:00:70")},
)
READY, LEAVING, UNREADY = EndpointState.READY, EndpointState.TERMINATING, EndpointState.UNREADY


def tcp(address: str, port: int) -> L4Addr:
    return L4Addr(Protocol.TCP, ip_address(address), port)


VIP = tcp("192.0.2.10", 80)


def pod(last: int, place: Place = Place.LOCAL, **more: Any) -> Backend:
    chassis = {Place.LOCAL: "n1", Place.REMOTE: "n2"}.get(place)
    return Backend(tcp(f"10.1.0.{last}", 8080), place, f"p{last}", chassis=chassis, **more)


def service(*backends: Backend, vip: L4Addr = VIP, **more: Any) -> Service:
    policy = more.pop("policy", TrafficPolicy.CLUSTER)
    return Service("web", vip, backends, policy, ServedBy.XDP, "marked", **more)


def tables(*services: Service, held: HeldIds | None = None) -> ServiceTables:
    return service_tables(services, held or HeldIds(), HERE)


def members(found: ServiceTables, scope: SetScope, vip: L4Addr = VIP) -> set[int]:
    """The last parts of the addresses in one set."""
    entry = found.sets.get((found.vips[vip].service_id, scope))
    rows = [found.backends[number].target for number, _, _ in entry.members] if entry else []
    return {target.address.packed[-1] for target in rows}


@pytest.mark.parametrize(
    ("backends", "everyone", "here"),
    [
        ([pod(1), pod(2, Place.REMOTE)], {1, 2}, {1}),
        ([pod(1, state=LEAVING), pod(2)], {2}, {2}),
        ([pod(1, state=LEAVING), pod(2, Place.REMOTE)], {2}, {1}),
        ([pod(1, state=LEAVING), pod(2, state=UNREADY)], {1}, {1}),
        ([pod(1, state=UNREADY)], set(), set()),
        ([pod(1, Place.HOST), pod(2), pod(3, Place.OTHER_HOST)], {1, 2, 3}, {1, 2}),
    ],
    ids=["ready", "leaving beside ready", "each set on its own", "only leaving", "none", "hosts"],
)
def test_each_set_has_its_ready_backends_or_else_those_that_leave(
    backends: list[Backend], everyone: set[int], here: set[int]
) -> None:
    found = tables(service(*backends))
    assert members(found, SetScope.CLUSTER) == everyone
    assert members(found, SetScope.LOCAL) == here


def test_a_service_with_a_host_among_its_backends_says_so() -> None:
    for place in (Place.HOST, Place.OTHER_HOST, Place.UNKNOWN):
        host = replace(pod(1, place), port_name=None)
        assert VipFlag.HOSTS in tables(service(host, pod(2))).vips[VIP].flags
    nowhere = pod(3, Place.UNKNOWN)
    assert VipFlag.HOSTS not in tables(service(pod(1), nowhere)).vips[VIP].flags


def test_replies_of_this_nodes_kernel_are_not_led_to_svc0_by_ovs() -> None:
    policy_local = service(pod(1, Place.HOST), pod(2), policy=TrafficPolicy.LOCAL)
    assert {b.target for b in local_backends(policy_local, HERE)} == {pod(2).target}


def test_nobody_reverses_what_the_kernel_says_in_sctp() -> None:
    one = service(pod(1, Place.HOST), pod(2))
    sctp = L4Addr(Protocol.SCTP, VIP.address, VIP.port)
    assert {b.target for b in usable(replace(one, vip=sctp))} == {pod(2).target}


@pytest.mark.parametrize(
    ("backends", "everyone"),
    [
        ([pod(1, for_zones=("east",)), pod(2, for_zones=("west",))], {1}),
        ([pod(1, for_zones=("east",)), pod(2)], {1, 2}),
        ([pod(1, for_zones=("north",)), pod(2, for_zones=("west",))], {1, 2}),
        ([pod(1, for_nodes=("n2",)), pod(2, for_nodes=("n1",), for_zones=("west",))], {2}),
        ([pod(1, for_zones=("east",)), pod(2, for_zones=("west",), state=UNREADY)], {1}),
    ],
    ids=["my zone", "one without hints", "no zone is mine", "node before zone", "ready ones only"],
)
def test_topology_hints_count_only_if_every_ready_backend_has_them(
    backends: list[Backend], everyone: set[int]
) -> None:
    assert members(tables(service(*backends)), SetScope.CLUSTER) == everyone


BASE = VipFlag.INNER_SNAT | VipFlag.REJECT
LOCAL = TrafficPolicy.LOCAL


@pytest.mark.parametrize(
    ("more", "flags"),
    [
        ({}, BASE | VipFlag.SNAT),
        ({"policy": LOCAL}, BASE | VipFlag.LOCAL),
        ({"kind": ServiceKind.CLUSTER_IP, "policy": LOCAL}, BASE | VipFlag.SNAT),
        (
            {"kind": ServiceKind.CLUSTER_IP, "inner_policy": LOCAL},
            BASE | VipFlag.SNAT | VipFlag.LOCAL | VipFlag.INNER_LOCAL,
        ),
        ({"reject": False}, VipFlag.INNER_SNAT | VipFlag.SNAT),
        ({"affinity_s": 5}, BASE | VipFlag.SNAT | VipFlag.AFFINITY),
        ({"forwarding": Forwarding.DSR}, BASE | VipFlag.SNAT | VipFlag.DSR),
        (
            {"source_ranges": (ip_network("10.0.0.0/8"),)},
            BASE | VipFlag.SNAT | VipFlag.SOURCE_RANGES,
        ),
    ],
)
def test_what_a_service_promises_becomes_flags(more: dict[str, Any], flags: VipFlag) -> None:
    found = tables(service(pod(1), **more))
    assert found.vips[VIP].flags == flags
    assert found.vips[VIP].affinity_s == more.get("affinity_s", 0)
    assert {network for _, network in found.source_ranges} == set(more.get("source_ranges", ()))


def test_a_node_port_is_at_every_address_of_its_family_and_for_sockets_at_none() -> None:
    found = tables(service(pod(1), vip=tcp("0.0.0.0", 30080), kind=ServiceKind.NODE_PORT))
    assert set(found.vips) == {tcp("0.0.0.0", 30080), tcp("172.18.0.11", 30080)}
    six = tables(service(pod(1), vip=tcp("::", 30080), kind=ServiceKind.NODE_PORT))
    assert tcp("fd18::11", 30080) in six.vips


def test_a_host_port_has_this_nodes_backends_only() -> None:
    vip = tcp("0.0.0.0", 8080)
    found = tables(service(pod(1), pod(2, Place.REMOTE), vip=vip, kind=ServiceKind.HOST_PORT))
    assert members(found, SetScope.CLUSTER, vip) == {1}


def test_vips_of_one_port_share_a_number_and_families_do_not() -> None:
    other, six = tcp("198.51.100.1", 80), tcp("2001:db8::1", 80)
    far6 = Backend(tcp("fd01::1", 8080), Place.LOCAL, "p1")
    one = [service(pod(1), vip=vip, port_key="d/web:http") for vip in (VIP, other)]
    found = tables(*one, service(far6, vip=six, port_key="d/web:http"))
    assert found.vips[VIP].service_id == found.vips[other].service_id
    assert found.vips[six].service_id != found.vips[VIP].service_id


def test_numbers_in_the_maps_are_kept_and_those_of_the_gone_come_last() -> None:
    other = tcp("198.51.100.1", 80)
    held = HeldIds({VIP: 2, tcp("192.0.2.99", 80): 1}, {}, max_services=3)
    services = (service(pod(1)), service(pod(1), vip=other, port_key="other"))
    found = service_tables(services, held, HERE)
    assert found.vips[VIP].service_id == 2
    assert found.vips[other].service_id == 3
    third = service(pod(1), vip=tcp("198.51.100.2", 80), port_key="third")
    assert service_tables((*services, third), held, HERE).vips[third.vip].service_id == 1
    fourth = service(pod(1), vip=tcp("198.51.100.3", 80), port_key="fourth")
    with pytest.raises(OutOfIds):
        service_tables((*services, third, fourth), held, HERE)


def test_a_backend_knows_its_paths_mtu_and_its_nodes_router() -> None:
    found = tables(service(pod(1), pod(2, Place.REMOTE), forwarding=Forwarding.DSR))
    rows = {row.target.address.packed[-1]: row for row in found.backends.values()}
    assert (rows[1].mtu, rows[1].mac) == (1442, None)
    assert (rows[2].mtu, rows[2].mac) == (1400, HERE.routers["n2"])


def test_replies_are_led_home_where_the_client_is_not_hidden() -> None:
    near, far = pod(1), pod(2, Place.REMOTE)
    assert local_backends(service(near, far), HERE) == ()
    assert local_backends(service(near, far, policy=LOCAL), HERE) == (near,)
    assert local_backends(service(near, far, forwarding=Forwarding.DSR), HERE) == (near,)
    leaving = replace(near, state=LEAVING)
    assert local_backends(service(leaving, policy=LOCAL), HERE) == (leaving,)


def test_an_address_may_be_several_things() -> None:
    own, owned, other = (ip_address(a) for a in ("172.18.0.11", "192.0.2.10", "192.0.2.11"))
    found = known_addresses([own], [owned], [VIP, L4Addr(Protocol.TCP, own, 30080),
                                             L4Addr(Protocol.TCP, other, 80),
                                             tcp("0.0.0.0", 30080)])  # fmt: skip
    assert {address: row.flags for address, row in found.items()} == {
        own: AddressFlag.LOCAL | AddressFlag.VIP,
        owned: AddressFlag.OWNED | AddressFlag.VIP,
        other: AddressFlag.VIP,
    }
