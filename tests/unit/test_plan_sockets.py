"""Which cgroups are served, and which connected sockets a change of services leaves behind."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from ipaddress import ip_address

import pytest

from dataplane.model.addr import L4Addr, Protocol
from dataplane.model.config import ServicesConfig
from dataplane.model.rows import (
    BackendEntry,
    SetEntry,
    SetScope,
    SocketPrograms,
    VipEntry,
    VipFlag,
)
from dataplane.model.service import Place
from dataplane.model.sockets import SocketPeer
from dataplane.plan.sockets import socket_rows, stray_peers

pytestmark = pytest.mark.unit


def udp(address: str, port: int) -> L4Addr:
    return L4Addr(Protocol.UDP, ip_address(address), port)


VIP, ONE, TWO = udp("10.96.0.10", 53), udp("10.16.0.2", 5353), udp("10.16.0.3", 5353)


@dataclass(frozen=True)
class Served:
    vips: Mapping[L4Addr, VipEntry] = field(default_factory=dict)
    sets: Mapping[tuple[int, SetScope], SetEntry] = field(default_factory=dict)
    backends: Mapping[int, BackendEntry] = field(default_factory=dict)


SERVED = Served(
    {VIP: VipEntry(7, VipFlag.REJECT)},
    {
        (7, SetScope.CLUSTER): SetEntry(((1, 11, 1), (2, 22, 1))),
        (7, SetScope.LOCAL): SetEntry(((2, 22, 1),)),
    },
    {1: BackendEntry(ONE, Place.REMOTE), 2: BackendEntry(TWO, Place.LOCAL)},
)
PEER = SocketPeer(VIP, ONE, 7)


def test_no_cgroup_is_served_unless_it_is_named() -> None:
    assert socket_rows(ServicesConfig()) == {}


def test_a_cgroup_below_another_of_the_list_is_the_others() -> None:
    config = ServicesConfig(connect=("/c/a/b", "/c/a", "/c/ab", "/c/a/"))
    assert socket_rows(config) == {"/c/a": SocketPrograms(), "/c/ab": SocketPrograms()}


def test_a_peer_that_serves_stays() -> None:
    assert stray_peers([PEER], SERVED) == frozenset()


def test_a_backend_of_no_set_is_left_behind() -> None:
    after = replace(SERVED, sets={(7, SetScope.CLUSTER): SetEntry(((2, 22, 1),))})
    assert stray_peers([PEER, replace(PEER, backend=TWO)], after) == {PEER}
    assert stray_peers([PEER], replace(SERVED, sets={})) == {PEER}


def test_policy_local_leaves_remote_backends_behind() -> None:
    after = replace(SERVED, vips={VIP: VipEntry(7, VipFlag.INNER_LOCAL)})
    assert stray_peers([PEER, replace(PEER, backend=TWO)], after) == {PEER}


def test_a_vip_that_went_or_is_anothers_is_left_behind() -> None:
    assert stray_peers([PEER], replace(SERVED, vips={})) == {PEER}
    assert stray_peers([PEER], replace(SERVED, vips={VIP: VipEntry(8, VipFlag(0))})) == {PEER}


def test_connections_are_never_left_behind() -> None:
    tcp = SocketPeer(replace(VIP, protocol=Protocol.TCP), replace(ONE, protocol=Protocol.TCP), 7)
    assert stray_peers([tcp], Served()) == frozenset()


@pytest.mark.parametrize(("loopback", "anywhere"), [("127.0.0.1", "0.0.0.0"), ("::1", "::")])
def test_a_node_port_asked_for_by_loopback_is_that_of_any_address(
    loopback: str, anywhere: str
) -> None:
    peer = replace(PEER, vip=udp(loopback, 30053))
    after = replace(SERVED, vips={udp(anywhere, 30053): VipEntry(7, VipFlag(0))})
    assert stray_peers([peer], after) == frozenset()
    assert stray_peers([peer], SERVED) == {peer}
