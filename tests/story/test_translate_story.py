"""States of a cluster in sequence: only the last one, and what rows hold, may matter."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controller.translate.central import northbound
from controller.translate.claims import Claims
from controller.translate.endpoints import endpoints
from controller.translate.index import Index
from controller.translate.nbrows import NbPlan
from controller.translate.node import gateway, gateway_problems
from controller.translate.ovn import LoadBalancer, NbSnapshot, Problem, SbSnapshot
from controller.translate.owned import owned
from controller.translate.services import (
    Vantage,
    claims,
    service_problems,
    services,
    services_of_row,
)
from controller.translate.vips import Fault, l4, network
from dataplane.model.addr import Protocol
from dataplane.model.config import ClusterConfig
from dataplane.model.service import ServedBy
from tests.labs.ovnrows import MARKED, Lab, applied, cluster_config, gateway_config, vpc_lab

N1, N2, N3 = (gateway_config(f"n{i}", 110 + i) for i in (1, 2, 3))
A = cluster_config(N1)
B = cluster_config(N1, N2)
C = cluster_config(N2, N3)
NONE = cluster_config()

VIP = "172.18.0.200:80"


def world() -> Lab:
    return vpc_lab().chassis("n3", "10.0.0.3")


def problems(nb: NbSnapshot, sb: SbSnapshot) -> tuple[Problem, ...]:
    """What is wrong with the load balancers, seen from n1."""
    return service_problems(nb, Vantage.of("n1", Index(nb, sb), ()))


def walk(lab: Lab, *clusters: ClusterConfig) -> NbSnapshot:
    """The northbound database after the cluster file took each of these contents in turn."""
    nb = lab.nb
    for cluster in clusters:
        nb = applied(nb, northbound(cluster, nb, lab.sb))
    return nb


def bare(plan: NbPlan) -> NbPlan:
    return replace(plan, problems=())


@pytest.mark.parametrize(
    ("story", "end"),
    [
        ((A, B, A), (A,)),
        ((A, A), (A,)),
        ((B, NONE, B), (B,)),
        ((A, NONE), (NONE,)),
        ((NONE, A), (A,)),
        ((C, NONE, A, B), (A, B)),
    ],
)
def test_change_and_revert_restore_every_row(
    story: tuple[ClusterConfig, ...], end: tuple[ClusterConfig, ...]
) -> None:
    lab = world()
    assert owned(walk(lab, *story)) == owned(walk(lab, *end))


@pytest.mark.parametrize("story", [(A,), (B,), (A, B), (C, B, A), (B, C)])
def test_whatever_came_before_a_second_round_changes_nothing(
    story: tuple[ClusterConfig, ...],
) -> None:
    lab = world()
    nb = walk(lab, *story)
    assert owned(nb) == bare(northbound(story[-1], nb, lab.sb))


def test_an_addresss_holder_keeps_it_through_every_change_around_it() -> None:
    lab = world()
    held = gateway(walk(lab, B), "n2")
    assert held is not None
    for story in ((B, C), (B, A, B), (B, C, B)):
        found = gateway(walk(lab, *story), "n2")
        if A not in story:
            assert found == held
        assert found is not None


def test_an_address_is_not_given_to_another_while_a_row_still_has_it() -> None:
    """Rows are made before others are removed: for a moment both are there."""
    lab = world()
    nb = walk(lab, A)
    found = northbound(C, nb, lab.sb)
    held = {dict(row.external_ids)["millrace:service-address"] for row in found.routers.values()}
    assert held == {"100.64.255.2", "100.64.255.3"}
    networks = {row.networks for name, row in found.router_ports.items() if "join-GR" in name}
    assert owned(nb).router_ports["millrace-join-GR_n1"].networks not in networks


def test_a_chassis_that_comes_and_goes_keeps_its_rows() -> None:
    lab = world()
    nb = walk(lab, B)
    gone = SbSnapshot(lab.sb.port_bindings, {})
    during = applied(nb, northbound(B, nb, gone))
    for name, router in owned(nb).routers.items():
        marked = tuple(sorted({*router.external_ids, ("millrace:down", "true")}))
        assert owned(during).routers[name] == replace(router, external_ids=marked)
    assert owned(during).static_macs == owned(nb).static_macs
    assert owned(applied(during, northbound(B, during, lab.sb))) == owned(nb)


def test_a_vpc_router_that_comes_late_is_connected_then() -> None:
    lab = Lab().chassis("n1")
    nb = walk(lab, A)
    assert "millrace-join-vpc0" not in owned(nb).router_ports
    late = Lab(nb, lab.sb).switch("sw0").router("vpc0")
    late.router_port("vpc0", "sw0", "vpc0-sw0", "0a:00:00:00:00:01", "10.1.0.1/24")
    nb = walk(late, A)
    assert "millrace-join-vpc0" in owned(nb).router_ports
    assert any(key.prefix == "10.1.0.0/24" for key in owned(nb).routes)


def test_the_life_of_a_service() -> None:
    """Nothing, marked, attached as well, mark removed, detached, gone: each state alone counts."""
    states: list[tuple[Callable[[Lab], Lab], ServedBy | None]] = [
        (lambda lab: lab, None),
        (lambda lab: lab.balancer("web", {VIP: "10.1.0.11:80"}), ServedBy.XDP),
        (
            lambda lab: lab.balancer("web", {VIP: "10.1.0.11:80"}).switch(
                "sw9", load_balancers=("lb-web",)
            ),
            ServedBy.XDP,
        ),
        (
            lambda lab: lab.balancer("web", {VIP: "10.1.0.11:80"}, external_ids={}).switch(
                "sw9", load_balancers=("lb-web",)
            ),
            ServedBy.OVN,
        ),
        (
            lambda lab: lab.balancer("web", {VIP: "10.1.0.11:80"}, external_ids={}),
            ServedBy.NOBODY,
        ),
    ]
    for build, expected in [*states, *reversed(states)]:
        lab = build(vpc_lab())
        found = services(lab.nb, lab.sb, "n1")
        assert [service.served_by for service in found] == ([expected] if expected else [])


# -- order is no input --------------------------------------------------------------------------


def full() -> Lab:
    """A cluster with one of everything, applied and with services."""
    lab = world()
    lab.switch("sw1").router("vpc1")
    lab.router_port("vpc1", "sw1", "vpc1-sw1", "0a:00:00:00:00:02", "10.1.0.1/24", "10.3.0.1/24")
    lab.route("vpc1", "0.0.0.0/0", "10.3.0.9")
    lab.balancer("b", {VIP: "10.1.0.11:80,10.0.0.2:80"}).balancer("a", {VIP: "10.1.0.12:80"})
    lab.balancer("c", {"bad": "10.1.0.11:80", "172.18.0.201:53": "10.1.0.11:53"}, protocol="udp")
    lab.balancer("d", {"172.18.0.202:80": "10.1.0.11:80"}, external_ids={})
    lab.group("g", "d").switch("sw9", load_balancer_groups=("lbg-g",))
    return lab


CLUSTER = cluster_config(
    gateway_config("n1", 111, "vpc0", "vpc1"), gateway_config("n2", 112, "vpc1"), N3
)


def shuffled(
    draw: Callable[[list[str]], list[str]], rows: Mapping[str, object]
) -> dict[str, object]:
    return {key: rows[key] for key in draw(sorted(rows))}


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_the_order_of_rows_is_no_input(data: st.DataObject) -> None:
    lab = full()
    nb = walk(lab, cluster_config(N2), CLUSTER)

    def draw(keys: list[str]) -> list[str]:
        return data.draw(st.permutations(keys))

    other_nb = NbSnapshot(
        **{name: shuffled(draw, getattr(nb, name)) for name in NbSnapshot.__slots__}  # type: ignore[arg-type]
    )
    other_sb = SbSnapshot(
        **{
            name: shuffled(draw, getattr(lab.sb, name))
            for name in SbSnapshot.__slots__
            if name != "partial"
        }  # type: ignore[arg-type]
    )
    gateways = tuple(data.draw(st.permutations(CLUSTER.gateways)))
    other_cluster = replace(CLUSTER, gateways=gateways)
    assert northbound(other_cluster, other_nb, other_sb) == northbound(CLUSTER, nb, lab.sb)
    assert services(other_nb, other_sb, "n1") == services(nb, lab.sb, "n1")
    assert gateway(other_nb, "n1") == gateway(nb, "n1")
    assert gateway_problems(other_nb, "n1") == gateway_problems(nb, "n1")
    assert problems(other_nb, other_sb) == problems(nb, lab.sb)


@settings(max_examples=200, deadline=None)
@given(
    story=st.lists(
        st.sets(st.sampled_from(["n1", "n2", "n3"])).map(
            lambda names: cluster_config(
                *(gateway_config(name, 110 + int(name[1:])) for name in sorted(names))
            )
        ),
        min_size=1,
        max_size=6,
    )
)
def test_no_story_gives_an_address_out_twice_or_fails_to_settle(
    story: list[ClusterConfig],
) -> None:
    lab = world()
    nb = walk(lab, *story)
    found = owned(nb)
    assert found == bare(northbound(story[-1], nb, lab.sb))
    services_given = [dict(row.external_ids) for row in found.routers.values()]
    addresses = [row["millrace:service-address"] for row in services_given]
    networks = [network for row in found.router_ports.values() for network in row.networks]
    assert len(set(addresses)) == len(addresses)
    assert len(set(networks)) == len(networks)
    assert {f"GR_{g.chassis}" for g in story[-1].gateways} == set(found.routers)


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_whatever_somebody_did_to_our_rows_no_address_is_given_out_twice(
    data: st.DataObject,
) -> None:
    """Service addresses and networks of our rows swapped, spoilt, or rows removed at will."""
    lab = world()
    nb = walk(lab, B)
    addresses = st.sampled_from(["100.64.255.1", "100.64.255.2", "100.64.255.9", "junk", "::1"])
    networks = st.sampled_from(
        ["100.64.0.1/24", "100.64.0.2/24", "100.64.0.7/16", "100.64.0.0/24", "172.18.0.9/24", ""]
    )
    routers, ports = dict(nb.routers), dict(nb.router_ports)
    for uuid, router in nb.routers.items():
        if router.external_ids.get("owner") == "millrace" and data.draw(st.booleans()):
            ids = {**router.external_ids, "millrace:service-address": data.draw(addresses)}
            routers[uuid] = replace(router, external_ids=ids)
    for uuid, port in nb.router_ports.items():
        if port.external_ids.get("owner") == "millrace":
            fate = data.draw(st.sampled_from(["kept", "changed", "removed"]))
            if fate == "changed":
                ports[uuid] = replace(port, networks=(data.draw(networks),))
            elif fate == "removed":
                del ports[uuid]
    found = northbound(B, replace(nb, routers=routers, router_ports=ports), lab.sb)
    services_given = [dict(row.external_ids) for row in found.routers.values()]
    given_out = [row["millrace:service-address"] for row in services_given]
    assert len(set(given_out)) == len(found.routers) == 2
    given_networks = [network for row in found.router_ports.values() for network in row.networks]
    assert len(set(given_networks)) == len(given_networks) == 5
    settled = applied(nb, found)
    assert owned(applied(settled, northbound(B, settled, lab.sb))) == bare(found)


# -- rows of any text ------------------------------------------------------------------------------

TEXTS = st.one_of(
    st.text(max_size=24),
    st.sampled_from(
        ["", VIP, "[::1]:80", "[fd00::1]:80", "1.2.3.4", ":", ",", "[", "]:", "0.0.0.0:80", "::/0"]
    ),
)
WORDS = st.one_of(
    TEXTS,
    st.sampled_from(
        ["true", "false", "local", "cluster", "nodeport", "hostport", "clusterip", "external"],
    ),
    st.sampled_from(
        ["dsr", "snat", "80", "0", "10.0.0.0/8", "fd00::/8", "ns/web:http", "1" * 5000],
    ),
)
ENDPOINTS = st.one_of(
    TEXTS,
    st.recursive(
        st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), TEXTS),
        lambda inner: st.one_of(
            st.lists(inner, max_size=3),
            st.dictionaries(
                st.one_of(TEXTS, st.sampled_from(["state", "weight", "zones", "10.1.0.11:80"])),
                inner,
                max_size=3,
            ),
        ),
        max_leaves=8,
    ).map(json.dumps),
)
KEYS = ["kind", "traffic-policy", "internal-traffic-policy", "service", "source-ranges"]
KEYS += ["forwarding", "health-check-node-port", "publish-not-ready", "unheard-of"]


def rows(texts: st.SearchStrategy[str]) -> st.SearchStrategy[LoadBalancer]:
    """Load balancer rows of which only the mark is right."""
    ids = st.dictionaries(st.sampled_from([f"millrace:{key}" for key in KEYS]), WORDS, max_size=3)
    facts = st.dictionaries(st.just("millrace:endpoints"), ENDPOINTS, max_size=1)
    return st.builds(
        LoadBalancer,
        name=st.sampled_from(["", "a", "b"]),
        vips=st.dictionaries(texts, st.one_of(texts, st.just("10.1.0.11:80,x")), max_size=3),
        protocol=st.sampled_from([None, "tcp", "udp", "sctp", "icmp"]),
        options=st.dictionaries(
            st.sampled_from(["affinity_timeout", "reject", "template"]), WORDS, max_size=2
        ),
        external_ids=st.builds(lambda i, f: {**MARKED, **i, **f}, ids, facts),
    )


@settings(max_examples=500, deadline=None)
@given(row=rows(TEXTS))
def test_no_load_balancer_row_can_crash_the_translation(row: LoadBalancer) -> None:
    lab = vpc_lab()
    nb = replace(lab.nb, load_balancers={"ref": row})
    found, named = services(nb, lab.sb, "n1"), problems(nb, lab.sb)
    assert all(problem.cause and problem.next_step for problem in named)
    # Every VIP is a service or a problem, and what is refused is named.
    unnamed = [p for p in named if ", VIP " in p.name and ", backend " not in p.name]
    assert len(found) + len(unnamed) >= len(row.vips) or not found
    assert bool(found or named) or not row.vips
    assert all(named for service in found if service.reason.startswith("refused"))


@settings(max_examples=500, deadline=None)
@given(text=st.one_of(TEXTS, WORDS, st.text()), protocol=st.sampled_from(Protocol))
def test_a_text_is_an_address_that_writes_itself_back_or_a_fault(
    text: str, protocol: Protocol
) -> None:
    found = l4(protocol, text)
    if isinstance(found, Fault):
        assert found.cause and found.next_step
    else:
        assert l4(protocol, str(found).partition("/")[0]) == found
    ranged = network(text)
    assert isinstance(ranged, Fault) or network(str(ranged)) == ranged


@settings(max_examples=500, deadline=None)
@given(text=st.one_of(ENDPOINTS, st.text(), st.just("[" * 100_000), st.just("9" * 5000)))
def test_no_endpoints_text_is_more_than_refused(text: str) -> None:
    found = endpoints(Protocol.TCP, text)
    if isinstance(found, Fault):
        assert found.cause and found.next_step
    else:
        assert all(1 <= facts.weight <= 65535 for facts in found.values())


@settings(max_examples=300, deadline=None)
@given(
    story=st.lists(
        st.dictionaries(
            st.sampled_from("pqrstu"),
            st.one_of(st.none(), rows(st.sampled_from([VIP, "0.0.0.0:80", "10.0.0.1:80"]))),
            max_size=3,
        ),
        max_size=5,
    )
)
def test_row_by_row_the_outcome_is_that_of_the_whole(
    story: list[dict[str, LoadBalancer | None]],
) -> None:
    lab = vpc_lab()
    vantage = Vantage.of("n1", Index(lab.nb, lab.sb), ())
    table: dict[str, LoadBalancer] = {}
    found = Claims(vantage.hosts)
    for change in story:
        before = {ref: found.row(ref) for ref in {*table, *change}}
        changed = found.update(
            {
                ref: None if row is None else services_of_row(ref, row, vantage)
                for ref, row in change.items()
            }
        )
        table = {ref: row for ref, row in {**table, **change}.items() if row is not None}
        whole = claims(replace(lab.nb, load_balancers=table), vantage)
        assert found.services() == whole.services()
        assert found.problems() == whole.problems()
        assert found.with_health_port() == whole.with_health_port()
        assert changed == {ref for ref, row in before.items() if found.row(ref) != row}


@settings(max_examples=300, deadline=None)
@given(
    mac=st.one_of(st.text(max_size=20), st.just("0a:58:ac:12:00:6f")),
    network=st.one_of(st.text(max_size=20), st.just("172.18.0.111/24")),
    service=st.one_of(st.text(max_size=20), st.just("100.64.255.1")),
)
def test_no_router_row_can_crash_the_translation(mac: str, network: str, service: str) -> None:
    lab = vpc_lab().switch("out")
    lab.port("out", "ln", type="localnet", options={"network_name": "phys"})
    lab.router(
        "edge", options={"chassis": "n1"}, external_ids={"millrace:service-address": service}
    )
    lab.router_port("edge", "out", "edge-out", mac, network)
    found = gateway(lab.nb, "n1")
    assert (found is None) == bool(gateway_problems(lab.nb, "n1"))
    northbound(cluster_config(gateway_config("n1", 111, "edge")), lab.nb, lab.sb)
