"""What two rows claim: who has it, what the other is told, and that the rest is as it was."""

from __future__ import annotations

from ipaddress import ip_address

import pytest

from controller.translate.claims import Claims, owner_of
from controller.translate.index import Index
from controller.translate.ovn import NbSnapshot
from controller.translate.services import Vantage, claims, services_of_row
from dataplane.model.service import ServedBy, Service
from tests.labs.ovnrows import MARKED, Lab, vpc_lab

VIP = "172.18.0.200:80"
NODE = "192.0.2.1"
LOCAL = "10.1.0.11:80"


def ids(**keys: str) -> dict[str, str]:
    return {**MARKED, **{f"millrace:{key.replace('_', '-')}": text for key, text in keys.items()}}


def settled(lab: Lab) -> Claims:
    return claims(lab.nb, Vantage.of("n1", Index(lab.nb, lab.sb), (ip_address(NODE),)))


def by_name(lab: Lab) -> dict[str, Service]:
    found = {service.name: service for service in settled(lab).services()}
    assert len(found) == len(settled(lab).services())
    return found


def served(lab: Lab) -> set[str]:
    return {name for name, s in by_name(lab).items() if s.served_by is ServedBy.XDP}


def test_of_two_rows_with_one_vip_the_first_by_name_is_served() -> None:
    lab = vpc_lab().balancer("c", {"172.18.0.201:80": LOCAL})
    lab.balancer("b", {VIP: LOCAL}).balancer("a", {VIP: "10.1.0.12:80"})
    assert served(lab) == {"a", "c"}
    (problem,) = settled(lab).problems()
    assert problem.name == f"load balancer b, VIP {VIP}/tcp"
    assert "load balancer a has the same VIP" in problem.cause
    assert by_name(lab)["b"].reason == problem.cause


def test_two_rows_of_one_name_and_vip_are_not_both_served() -> None:
    lab = vpc_lab().balancer("a", {VIP: LOCAL})
    twin = {**lab.nb.load_balancers, "lb-other": lab.nb.load_balancers["lb-a"]}
    found = claims(NbSnapshot(load_balancers=twin), Vantage.of("n1", Index(lab.nb, lab.sb), ()))
    assert sorted(s.served_by for s in found.services()) == [ServedBy.NOBODY, ServedBy.XDP]
    assert found.row("lb-a") == services_of_row(
        "lb-a", twin["lb-a"], Vantage.of("n1", Index(lab.nb, lab.sb), ())
    )


def test_two_services_that_claim_one_node_port_are_told_who_has_it() -> None:
    lab = vpc_lab()
    lab.balancer("a", {"0.0.0.0:30080": LOCAL}, external_ids=ids(kind="nodeport"))
    lab.balancer("b", {"0.0.0.0:30080": LOCAL}, external_ids=ids(kind="nodeport"))
    udp = {"external_ids": ids(kind="nodeport"), "protocol": "udp"}
    lab.balancer("c", {"0.0.0.0:30080": LOCAL}, **udp)
    lab.balancer("d", {"[::]:30080": ""}, external_ids=ids(kind="nodeport"))
    assert served(lab) == {"a", "c", "d"}
    (problem,) = settled(lab).problems()
    assert "load balancer a has the same VIP" in problem.cause


@pytest.mark.parametrize(("first", "second"), [("a", "b"), ("b", "a")])
def test_a_node_port_overlaps_a_vip_at_a_nodes_address_with_that_port(
    first: str, second: str
) -> None:
    lab = vpc_lab()
    lab.balancer(first, {"0.0.0.0:30080": LOCAL}, external_ids=ids(kind="nodeport"))
    lab.balancer(second, {f"{NODE}:30080": LOCAL}, external_ids=ids(kind="external"))
    lab.balancer("z1", {"198.51.100.7:30080": LOCAL}, external_ids=ids(kind="external"))
    lab.balancer("z2", {f"{NODE}:30081": LOCAL}, external_ids=ids(kind="external"))
    assert served(lab) == {"a", "z1", "z2"}
    (problem,) = settled(lab).problems()
    assert "which overlaps it" in problem.cause


def test_vips_at_two_nodes_addresses_do_not_overlap_and_both_block_a_node_port() -> None:
    lab = vpc_lab()  # 10.0.0.2 is the tunnel endpoint of n2
    lab.balancer("a", {f"{NODE}:30080": LOCAL}).balancer("b", {"10.0.0.2:30080": LOCAL})
    lab.balancer("c", {"0.0.0.0:30080": LOCAL}, external_ids=ids(kind="nodeport"))
    assert served(lab) == {"a", "b"}


def test_a_row_that_lost_takes_part_in_nothing_more() -> None:
    """a has x, b wants x and y, c wants y: b is refused x only."""
    lab = vpc_lab().balancer("a", {VIP: LOCAL})
    lab.balancer("b", {VIP: LOCAL, "172.18.0.201:80": LOCAL})
    lab.balancer("c", {"172.18.0.201:80": LOCAL})
    found = [(s.name, s.served_by) for s in settled(lab).services()]
    assert found == [
        ("a", ServedBy.XDP),
        ("b", ServedBy.NOBODY),
        ("b", ServedBy.XDP),
        ("c", ServedBy.NOBODY),
    ]


def test_what_xdp_does_not_serve_claims_nothing() -> None:
    lab = vpc_lab().balancer("a", {VIP: LOCAL}, external_ids={})
    lab.balancer("b", {VIP: LOCAL}, external_ids=ids(kind="nonsense"))
    lab.balancer("c", {VIP: LOCAL})
    assert served(lab) == {"c"}


# -- identities -----------------------------------------------------------------------------------


def test_rows_of_one_service_port_share_its_identity() -> None:
    lab = vpc_lab()
    lab.balancer("a", {"10.96.0.1:80": LOCAL}, external_ids=ids(service="ns/web:http"))
    lab.balancer("b", {VIP: LOCAL}, external_ids=ids(service="ns/web:http"))
    assert {s.port_key for s in by_name(lab).values()} == {"ns/web:http"}


@pytest.mark.parametrize(
    ("backend", "ranges"), [("10.1.0.12:80", "10.0.0.0/8"), (LOCAL, "192.0.2.0/24")]
)
def test_what_differs_in_backends_or_ranges_has_an_identity_of_its_own(
    backend: str, ranges: str
) -> None:
    one = ids(service="ns/web:http", source_ranges="10.0.0.0/8")
    two = ids(service="ns/web:http", source_ranges=ranges)
    lab = vpc_lab().balancer("a", {"10.96.0.1:80": LOCAL}, external_ids=one)
    lab.balancer("b", {VIP: backend}, external_ids=two)
    found = by_name(lab)
    assert served(lab) == {"a", "b"}
    assert found["a"].port_key == "ns/web:http"
    assert found["b"].port_key == f"ns/web:http {VIP}/tcp"
    assert "no part of ns/web:http" in found["b"].reason


def test_a_row_without_ranges_may_share_with_one_that_has_them() -> None:
    lab = vpc_lab()
    lab.balancer("a", {"10.96.0.1:80": LOCAL}, external_ids=ids(service="ns/web:http"))
    ranged = ids(service="ns/web:http", source_ranges="10.0.0.0/8")
    lab.balancer("b", {VIP: LOCAL}, external_ids=ranged)
    assert {s.port_key for s in by_name(lab).values()} == {"ns/web:http"}


@pytest.mark.parametrize(
    ("port_key", "owner"),
    [
        ("ns/web:http", "ns/web"),
        ("ns/web:", "ns/web"),
        ("ns/web", "ns/web"),
        ("web", "web"),
        ("web:80", "web:80"),
        ("a:b/c", "a:b/c"),
    ],
)
def test_a_service_port_belongs_to_a_service(port_key: str, owner: str) -> None:
    assert owner_of(port_key) == owner


# -- health check ports ---------------------------------------------------------------------------


def test_the_ports_of_one_service_share_its_health_check_port() -> None:
    lab = vpc_lab()
    for name, port in (("http", 80), ("https", 443)):
        keys = ids(service=f"ns/web:{name}", health_check_node_port="32000")
        lab.balancer(name, {f"172.18.0.200:{port}": LOCAL}, external_ids=keys)
    assert settled(lab).problems() == ()
    assert len(list(settled(lab).with_health_port())) == 2


def test_a_health_check_port_claimed_twice_is_the_firsts_and_the_other_is_served_without() -> None:
    lab = vpc_lab()
    for name, last in (("a", 1), ("b", 2)):
        keys = ids(service=f"ns/{name}:http", health_check_node_port="32000")
        lab.balancer(name, {f"172.18.0.{last}:80": LOCAL}, external_ids=keys)
    found = by_name(lab)
    assert served(lab) == {"a", "b"}
    assert (found["a"].health_port, found["b"].health_port) == (32000, None)
    (problem,) = settled(lab).problems()
    assert "32000 is ns/a's already" in problem.cause
    assert [s.name for s in settled(lab).with_health_port()] == ["a"]


def test_a_health_check_port_that_is_a_node_port_would_never_be_asked() -> None:
    lab = vpc_lab().balancer("a", {VIP: LOCAL}, external_ids=ids(health_check_node_port="30080"))
    assert settled(lab).problems() == ()
    lab.balancer("b", {"0.0.0.0:30080": LOCAL}, external_ids=ids(kind="nodeport"))
    (problem,) = settled(lab).problems()
    assert "is a node port of load balancer b" in problem.cause
    assert by_name(lab)["a"].health_port is None


# -- row by row -----------------------------------------------------------------------------------


def test_a_change_tells_whose_outcome_changed_and_no_other() -> None:
    lab = vpc_lab().balancer("b", {VIP: LOCAL}).balancer("c", {"172.18.0.9:80": LOCAL})
    lab.balancer("a", {VIP: LOCAL})
    vantage = Vantage.of("n1", Index(lab.nb, lab.sb), ())
    rows = {
        ref: services_of_row(ref, balancer, vantage)
        for ref, balancer in lab.nb.load_balancers.items()
    }
    found = Claims()
    assert found.update({"lb-b": rows["lb-b"], "lb-c": rows["lb-c"]}) == {"lb-b", "lb-c"}
    assert found.problems() == ()
    assert found.update({"lb-a": rows["lb-a"]}) == {"lb-a", "lb-b"}
    assert len(found.problems()) == 1
    assert found.update({"lb-a": rows["lb-a"]}) == frozenset()
    assert found.update({"lb-a": None}) == {"lb-a", "lb-b"}
    assert found.problems() == ()
    assert found.update({"lb-a": None}) == frozenset()
    assert {row.label for row in found.rows()} == {"b", "c"}
