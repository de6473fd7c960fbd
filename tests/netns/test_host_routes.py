"""Routes and rules of the node's own way to workloads, in a network namespace of the test."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any

import pytest

from dataplane.drivers.routes import RoutesTable, RulesTable
from dataplane.model.addr import IPAddress, IPNetwork
from dataplane.model.hostrows import MAIN_TABLE, ROUTE_TABLE, KernelRoute, SourceRule
from dataplane.reconcile.backoff import Backoff
from dataplane.reconcile.reconciler import Reconciler
from dataplane.reconcile.status import State

pytestmark = pytest.mark.netns

OWN4, OWN6 = "100.65.0.2", "fd00:102::2"
ROUTES: dict[IPNetwork, KernelRoute] = {
    ip_network("10.1.0.0/24"): KernelRoute("ovn0", ip_address("100.65.0.1"), ip_address(OWN4)),
    ip_network("fd01::/64"): KernelRoute("ovn0", ip_address("fd00:102::1"), ip_address(OWN6)),
}
RULES: dict[IPAddress, SourceRule] = dict.fromkeys(
    map(ip_address, ("0.0.0.0", OWN4, OWN6)), SourceRule()
)


def ip(*args: str) -> str:
    done = subprocess.run(["ip", *args], capture_output=True, text=True, check=False)
    assert done.returncode == 0, (args, done.stderr)
    return done.stdout


def make_device(name: str, *addresses: str) -> None:
    ip("link", "add", name, "type", "veth", "peer", f"{name}p")
    ip("link", "set", f"{name}p", "up")
    ip("link", "set", name, "up")
    for address in addresses:
        ip("address", "add", address, "dev", name, *(["nodad"] if ":" in address else []))


@pytest.fixture(autouse=True)
def devices(own_node: None) -> None:
    make_device("ovn0", f"{OWN4}/24", f"{OWN6}/64")
    make_device("eth0", "172.18.0.11/24", "fd18::11/64")
    ip("route", "add", "default", "via", "172.18.0.1")
    ip("-6", "route", "add", "default", "via", "fd18::1")


def reconciler() -> Reconciler:
    return Reconciler([RoutesTable(), RulesTable()], Backoff())


def wanted(
    routes: Mapping[IPNetwork, KernelRoute] = ROUTES, rules: Mapping[IPAddress, SourceRule] = RULES
) -> dict[str, Mapping[Any, Any]]:
    return {"routes": routes, "rules": rules}


def way(to: str, *words: str) -> str:
    """The device that the kernel would send by."""
    said = ip("-6" if ":" in to else "-4", "route", "get", to, *words)
    return said.split(" dev ")[1].split()[0]


def test_sockets_without_address_and_ovn0s_go_by_ovn0_and_all_else_as_before() -> None:
    one = reconciler()
    assert one.apply(wanted(), 0).failed == 0, one.statuses()
    assert way("10.1.0.11") == way("10.1.0.11", "from", OWN4) == "ovn0"
    assert way("fd01::11") == way("fd01::11", "from", OWN6) == "ovn0"
    assert f"src {OWN4} " in ip("route", "get", "10.1.0.11")
    assert f"src {OWN6} " in ip("-6", "route", "get", "fd01::11")
    assert way("10.1.0.11", "from", "172.18.0.11") == "eth0"
    assert way("fd01::11", "from", "fd18::11") == "eth0"
    assert way("192.0.2.1") == way("2001:db8::1") == "eth0"


def test_a_restart_writes_nothing_and_withdrawal_leaves_nothing() -> None:
    reconciler().apply(wanted(), 0)
    assert RoutesTable().observe() == ROUTES
    assert RulesTable().observe() == RULES
    again = reconciler()
    assert again.apply(wanted(), 0).writes == 0
    assert again.apply(wanted({}, {}), 1).failed == 0
    assert str(ROUTE_TABLE) not in ip("rule") + ip("-6", "rule") + ip(
        "route", "show", "table", "all"
    )
    assert RoutesTable().delete(list(ROUTES)) == RulesTable().delete(list(RULES)) == {}


def test_what_somebody_else_put_beside_ours_stays() -> None:
    ip("route", "add", "10.7.0.0/24", "via", "100.65.0.1", "table", str(ROUTE_TABLE))
    ip("rule", "add", "from", "100.65.0.2", "lookup", "main", "priority", "77")
    one = reconciler()
    one.apply(wanted(), 0)
    one.apply(wanted({}, {}), 1)
    assert "10.7.0.0/24" in ip("route", "show", "table", str(ROUTE_TABLE))
    assert "77:" in ip("rule")


def test_the_kernel_picks_our_table_among_many_routes(tmp_path: Path) -> None:
    others = [f"route add 10.{n >> 8}.{n & 255}.0/24 via 172.18.0.1" for n in range(5000)]
    batch = tmp_path / "routes"
    batch.write_text("\n".join(others))
    ip("-batch", str(batch))
    many: dict[IPNetwork, KernelRoute] = {
        ip_network(f"10.100.{n}.0/24"): next(iter(ROUTES.values())) for n in range(250)
    }
    assert RoutesTable().observe() == {}
    assert reconciler().apply(wanted({**ROUTES, **many}), 0).failed == 0
    assert RoutesTable().observe() == {**ROUTES, **many}


def test_a_changed_next_hop_and_a_rule_of_another_table_are_mended() -> None:
    reconciler().apply(wanted(), 0)
    network = next(iter(ROUTES))
    moved = {**ROUTES, network: KernelRoute("ovn0", ip_address("100.65.0.7"), ip_address(OWN4))}
    old = {ip_address(OWN4): SourceRule(table=77, priority=78)}
    assert RulesTable().upsert(list(old.items())) == {}
    assert RulesTable().observe()[ip_address(OWN4)] == SourceRule(77, 78)
    assert reconciler().apply(wanted(moved), 0).writes == 2
    assert RoutesTable().observe() == moved
    assert RulesTable().observe() == RULES
    assert len(ip("rule").splitlines()) == 5


def test_a_missing_device_is_waited_for_and_its_routes_come_back_with_it() -> None:
    one = reconciler()
    one.apply(wanted(), 0)
    ip("link", "del", "ovn0")
    assert RoutesTable().observe() == {}
    assert one.apply(wanted(), 1).failed == len(ROUTES)
    status = one.statuses()["routes", next(iter(ROUTES))]
    assert status.state is State.PENDING
    assert "ovn0 is not there yet" in status.reason
    make_device("ovn0", f"{OWN4}/24", f"{OWN6}/64")
    for key in ROUTES:
        one.retry("routes", key)
    assert one.apply(wanted(), 2).failed == 0
    assert way("10.1.0.11") == "ovn0"


def test_a_route_to_another_nodes_svc0_is_everybodys_and_goes_alone() -> None:
    """It is in the main table, among routes that are none of ours."""
    peer, via, own = ip_network("100.64.255.2/32"), "172.18.0.112", "172.18.0.11"
    row = KernelRoute("eth0", ip_address(via), ip_address(own), MAIN_TABLE)
    before = ip("route", "show", "table", "main")
    table = RoutesTable()
    assert table.upsert([(peer, row)]) == {}
    assert table.observe() == {peer: row}
    assert f"via {via} dev eth0 src {own}" in ip("route", "get", "100.64.255.2")
    assert table.delete([peer]) == {}
    assert table.observe() == {}
    assert ip("route", "show", "table", "main") == before
