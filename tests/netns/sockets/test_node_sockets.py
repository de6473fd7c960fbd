"""A node's plan, applied by its drivers to pinned maps, and sockets that go by it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from dataplane.drivers.bpfmaps import BackendTable, VipTable, held_ids
from dataplane.drivers.bpfstate import BpfState, remove_pins
from dataplane.drivers.setsmap import SetTable
from dataplane.drivers.socketends import SocketEnds
from dataplane.drivers.sockprograms import SocketTable
from dataplane.model.addr import L4Addr
from dataplane.model.service import Backend, EndpointState, Place, Service, ServiceKind
from dataplane.plan.node import NodePlan, plan
from dataplane.reconcile.backoff import Backoff
from dataplane.reconcile.reconciler import Reconciler
from dataplane.reconcile.report import Report
from tests.labs.planned import CONFIG, service, state
from tests.netns.sockets.sockworld import (
    DNS,
    UDP,
    V4,
    VIP,
    WEB,
    Client,
    Refused,
    Servers,
    endpoint,
    names,
    own_name,
)

pytestmark = pytest.mark.netns


class Node:
    """The tables that sockets depend on, over maps pinned below `root`."""

    def __init__(self, root: Path, cgroup: Path) -> None:
        self.state = BpfState(str(root))
        self.sockets = SocketTable(self.state)
        self.ends = SocketEnds(self.state.maps)
        self._config = replace(
            CONFIG, services=replace(CONFIG.services, connect=(str(cgroup),), zone="a")
        )
        self._held = held_ids(self.state)
        self._reconciler = Reconciler(
            (
                BackendTable(self.state),
                SetTable(self.state),
                VipTable(self.state),
                self.sockets,
            ),
            Backoff(),
        )

    def apply(self, *services: Service) -> tuple[NodePlan, Report]:
        planned = plan(replace(state(*services, held=self._held), config=self._config))
        self._held = replace(
            self._held,
            services={vip: row.service_id for vip, row in planned.vips.items()},
            backends={row.target: number for number, row in planned.backends.items()},
        )
        tables = ("backends", "sets", "vips", "sockets")
        rows = {name: table for name, table in planned.tables().items() if name in tables}
        report = self._reconciler.apply(rows, 0.0)
        assert not report.failed, self._reconciler.statuses()
        return planned, report

    def close(self) -> None:
        self.ends.close()
        self.sockets.close()
        self.state.close()


@contextmanager
def node_at(root: Path, cgroup: Path) -> Iterator[Node]:
    made = Node(root, cgroup)
    try:
        yield made
    finally:
        made.close()


@pytest.fixture
def root(bpffs: Path, servers: Servers) -> Iterator[Path]:
    path = bpffs / own_name()
    try:
        yield path
    finally:
        remove_pins(str(path))


def of(target: L4Addr, state: EndpointState = EndpointState.READY, weight: int = 1) -> Backend:
    return Backend(target, Place.LOCAL, None, state, weight)


def test_a_plan_is_what_sockets_go_by_and_a_restart_changes_nothing(
    root: Path, cgroup: Path, start: Callable[..., Client]
) -> None:
    web = service(f"{VIP}:80", of(WEB[0], weight=9), of(WEB[1]))
    ported = replace(
        service("0.0.0.0:30080", of(WEB[2])), kind=ServiceKind.NODE_PORT, port_key="ns/web:node"
    )
    with node_at(root, cgroup) as node:
        _, report = node.apply(web, ported)
        assert report.writes
        client = start()
        seen = client("ask_often", 300, V4, VIP, 80)
        assert 240 <= seen["10.16.0.2:8080"] < 300
        assert client.ask("127.0.0.1:30080") == "10.16.0.4:8080"
    assert client.ask("127.0.0.1:30080") == "10.16.0.4:8080", "without a daemon"
    with node_at(root, cgroup) as node:
        _, report = node.apply(web, ported)
        assert report.writes == 0
        node.apply(replace(web, backends=()), ported)
        with pytest.raises(Refused, match="ECONNREFUSED"):
            client.ask(f"{VIP}:80")
        node.apply(ported)
        with pytest.raises(Refused):
            client.ask(f"{VIP}:80")


def test_endpoints_that_terminate_serve_only_when_nothing_else_is_ready(
    root: Path, cgroup: Path, start: Callable[..., Client]
) -> None:
    going = of(WEB[0], state=EndpointState.TERMINATING)
    with node_at(root, cgroup) as node:
        node.apply(service(f"{VIP}:80", going, of(WEB[1])))
        client = start()
        assert set(client("ask_often", 30, V4, VIP, 80)) == {"10.16.0.3:8080"}
        node.apply(service(f"{VIP}:80", going, of(WEB[1], state=EndpointState.UNREADY)))
        assert set(client("ask_often", 30, V4, VIP, 80)) == {"10.16.0.2:8080"}


def test_many_backends_are_all_met(
    root: Path, cgroup: Path, servers: Servers, start: Callable[..., Client]
) -> None:
    many = [endpoint(f"10.16.0.2:{port}") for port in range(9000, 9140)]
    servers.listen(*many)
    with node_at(root, cgroup) as node:
        node.apply(service(f"{VIP}:80", *(of(target) for target in many)))
        seen = start()("ask_often", 4000, V4, VIP, 80)
    assert set(seen) == names(many), "a table of every slot, not a list"


def test_connected_udp_sockets_follow_the_plan(
    root: Path, cgroup: Path, start: Callable[..., Client]
) -> None:
    vip = replace(
        service(f"{VIP}:53"), vip=L4Addr(DNS[0].protocol, endpoint(f"{VIP}:53").address, 53)
    )
    both = replace(vip, backends=tuple(of(target) for target in DNS[:2]))
    with node_at(root, cgroup) as node:
        planned, _ = node.apply(both)
        client = start()
        client("make", "u", V4, UDP)
        client("connect", "u", VIP, 53)
        client("send", "u", "x")
        first = client("recv", "u").partition(" ")[0]
        assert node.ends.follow(tuple(planned.sockets), planned) == 0
        rest = tuple(b for b in both.backends if names([b.target]) != {first})
        planned, _ = node.apply(replace(both, backends=rest))
        assert node.ends.follow(tuple(planned.sockets), planned) == 1
        with pytest.raises(Refused, match="ECONNABORTED"):
            client("recv", "u")
        client("connect", "u", VIP, 53)
        client("send", "u", "x")
        assert client("recv", "u").partition(" ")[0] in names([b.target for b in rest])
