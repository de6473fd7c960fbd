"""Services of Kubernetes, through our rows and the node daemon's own reader, to what is served."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address, ip_network
from typing import Any

import pytest

from controller.kube.resources import Key
from controller.network.facts import LEASES, NODES, NetNode, NicLease
from controller.network.nets import NETS, Net
from controller.network.rows import RowKey
from controller.network.services import UNITS, balancers_of
from controller.network.settings import DEFAULT_VPC, SETTINGS, NetSettings
from controller.network.units import ObjectRef
from controller.translate.index import Index
from controller.translate.ovn import NbSnapshot, SbSnapshot
from controller.translate.services import Vantage, service_problems, services
from dataplane.model.addr import Mac
from dataplane.model.config import EastWest
from dataplane.model.service import (
    EndpointState,
    Forwarding,
    ServedBy,
    Service,
    ServiceKind,
    TrafficPolicy,
)
from tests.labs.factview import Facts, FactView, Whole, whole
from tests.labs.serviceobjects import balancers, facts, service_json, slice_json

WEB = ObjectRef("services", "ns", "web")
MAC = Mac("0a:00:00:00:00:01")


def served(said: Whole) -> dict[str, Service]:
    """What XDP serves, by kind and VIP; nothing may be wrong with any row."""
    nb, sb = balancers(said.rows), SbSnapshot()
    assert service_problems(nb, Vantage.of("n1", Index(nb, sb), ())) == ()
    found = services(nb, sb, "n1")
    assert {one.served_by for one in found} <= {ServedBy.XDP}
    return {f"{one.kind} {one.vip}": one for one in found}


def made(*objects: dict[str, Any], settings: NetSettings | None = None) -> Whole:
    return whole(UNITS, given(*objects, settings=settings))


def given(*objects: dict[str, Any], settings: NetSettings | None = None) -> Facts:
    found = facts(*objects)
    return {**found, SETTINGS: {"": settings}} if settings else found


def told(said: Whole, ref: ObjectRef) -> str:
    return "; ".join(map(str, sorted(said.problems[ref])))


def targets(service: Service) -> list[str]:
    return [str(backend.target) for backend in service.backends]


def test_a_cluster_ip_with_its_endpoints() -> None:
    said = made(service_json("web"), slice_json("web-1", "web", "10.1.0.12", "10.1.0.11"))
    (found,) = served(said).values()
    assert str(found.vip) == "10.96.0.10:80/tcp"
    assert targets(found) == ["10.1.0.11:8080/tcp", "10.1.0.12:8080/tcp"]
    assert (found.kind, found.port_key) == (ServiceKind.CLUSTER_IP, "ns/web:http")
    assert found.reject
    assert not said.problems


def test_every_kind_of_address_is_a_row_with_one_identity() -> None:
    service = service_json(
        "web",
        type="LoadBalancer",
        ports=[{"name": "http", "port": 80, "nodePort": 30080}],
        externalIPs=["192.0.2.7", "192.0.2.9"],
        status={"loadBalancer": {"ingress": [{"ip": "192.0.2.9"}, {"hostname": "lb.example"}]}},
    )
    said = made(service, slice_json("web-1", "web", "10.1.0.11"))
    found = served(said)
    assert set(found) == {
        "clusterip 10.96.0.10:80/tcp",
        "nodeport 0.0.0.0:30080/tcp",
        "loadbalancer 192.0.2.9:80/tcp",
        "external 192.0.2.7:80/tcp",
    }
    assert {one.port_key for one in found.values()} == {"ns/web:http"}
    assert len(said.rows) == 4


def test_both_families_have_backends_of_their_own() -> None:
    said = made(
        service_json("web", clusterIPs=["10.96.0.10", "fd96::10"], type="NodePort",
                     ports=[{"name": "http", "port": 80, "nodePort": 30080}]),
        slice_json("web-4", "web", "10.1.0.11"),
        slice_json("web-6", "web", "fd01::11", addressType="IPv6"),
    )  # fmt: skip
    found = served(said)
    assert targets(found["clusterip 10.96.0.10:80/tcp"]) == ["10.1.0.11:8080/tcp"]
    assert targets(found["clusterip [fd96::10]:80/tcp"]) == ["[fd01::11]:8080/tcp"]
    assert targets(found["nodeport [::]:30080/tcp"]) == ["[fd01::11]:8080/tcp"]
    assert len(said.rows) == 2


def test_named_target_ports_may_differ_by_slice_and_protocols_are_apart() -> None:
    said = made(
        service_json("web", ports=[
            {"name": "http", "port": 80, "targetPort": "web"},
            {"name": "dns", "port": 53, "protocol": "UDP"},
            {"name": "diameter", "port": 3868, "protocol": "SCTP"},
        ]),
        slice_json("web-1", "web", "10.1.0.11", ports=[
            {"name": "http", "port": 8080}, {"name": "dns", "port": 5353, "protocol": "UDP"},
        ]),
        slice_json("web-2", "web", "10.1.0.12", ports=[
            {"name": "http", "port": 9090},
            {"name": "diameter", "port": 3868, "protocol": "SCTP"},
            {"name": "every", "port": None},
        ]),
    )  # fmt: skip
    found = served(said)
    assert {key: targets(one) for key, one in found.items()} == {
        "clusterip 10.96.0.10:80/tcp": ["10.1.0.11:8080/tcp", "10.1.0.12:9090/tcp"],
        "clusterip 10.96.0.10:53/udp": ["10.1.0.11:5353/udp"],
        "clusterip 10.96.0.10:3868/sctp": ["10.1.0.12:3868/sctp"],
    }


@pytest.mark.parametrize("seconds", [1, 70, 10800, 86400])
def test_each_service_has_its_own_affinity(seconds: int) -> None:
    service = service_json(
        "web", sessionAffinity="ClientIP",
        sessionAffinityConfig={"clientIP": {"timeoutSeconds": seconds}},
    )  # fmt: skip
    (found,) = served(made(service)).values()
    assert found.affinity_s == seconds


def test_affinity_has_the_apis_default_and_no_service_has_it_unasked() -> None:
    (found,) = served(made(service_json("web", sessionAffinity="ClientIP"))).values()
    assert found.affinity_s == 10800
    (found,) = served(made(service_json("web"))).values()
    assert found.affinity_s == 0


def test_where_ovn_serves_the_end_of_a_long_affinity_is_said() -> None:
    service = service_json(
        "web", sessionAffinity="ClientIP",
        sessionAffinityConfig={"clientIP": {"timeoutSeconds": 86400}},
    )  # fmt: skip
    said = made(service, settings=NetSettings(east_west=EastWest.SWITCH))
    (problem,) = said.problems[WEB]
    assert "65535" in problem.cause
    (found,) = served(said).values()
    assert found.affinity_s == 86400  # for whom the nodes serve


def test_policies_count_for_the_kinds_that_the_api_gives_them_to() -> None:
    service = service_json(
        "web", type="LoadBalancer", internalTrafficPolicy="Local", externalTrafficPolicy="Local",
        healthCheckNodePort=32100, loadBalancerSourceRanges=["198.51.100.0/24"],
        ports=[{"name": "http", "port": 80, "nodePort": 30080}],
        status={"loadBalancer": {"ingress": [{"ip": "192.0.2.9"}]}},
    )  # fmt: skip
    found = served(made(service))
    cluster = found["clusterip 10.96.0.10:80/tcp"]
    node = found["nodeport 0.0.0.0:30080/tcp"]
    balanced = found["loadbalancer 192.0.2.9:80/tcp"]
    local, everywhere = TrafficPolicy.LOCAL, TrafficPolicy.CLUSTER
    assert (cluster.policy, cluster.inner_policy) == (everywhere, local)
    assert (node.policy, balanced.policy) == (local, local)
    assert (cluster.health_port, node.health_port, balanced.health_port) == (None, 32100, 32100)
    assert [str(one) for one in balanced.source_ranges] == ["198.51.100.0/24"]
    assert node.source_ranges == cluster.source_ranges == ()


def test_states_hints_and_weights_of_endpoints() -> None:
    def endpoint(address: str, pod: str, **rest: Any) -> dict[str, Any]:
        return {"addresses": [address], "targetRef": {"kind": "Pod", "name": pod}, **rest}

    service = service_json("web", annotations={"millrace.dev/weights": "web-0=9, web-*=2"})
    part = slice_json(
        "web-1", "web",
        endpoint("10.1.0.11", "web-0", conditions={"ready": True},
                 hints={"forZones": [{"name": "a"}], "forNodes": [{"name": "n1"}]}),
        endpoint("10.1.0.12", "web-1",
                 conditions={"ready": False, "serving": True, "terminating": True}),
        endpoint("10.1.0.13", "web-2", conditions={"ready": False}),
        endpoint("10.1.0.14", "other", conditions={}),
    )  # fmt: skip
    (found,) = served(made(service, part)).values()
    ready, going, plain = found.backends
    assert (ready.state, ready.weight, ready.for_zones, ready.for_nodes) == (
        EndpointState.READY, 9, ("a",), ("n1",),
    )  # fmt: skip
    assert (going.state, going.weight) == (EndpointState.TERMINATING, 2)
    assert (plain.state, plain.weight) == (EndpointState.READY, 1)


def test_unready_endpoints_serve_if_published() -> None:
    part = slice_json("web-1", "web", {"addresses": ["10.1.0.13"], "conditions": {"ready": False}})
    (found,) = served(made(service_json("web"), part)).values()
    assert found.backends == ()
    (found,) = served(made(service_json("web", publishNotReadyAddresses=True), part)).values()
    assert [one.state for one in found.backends] == [EndpointState.READY]


def test_an_endpoint_in_two_slices_is_there_once() -> None:
    unready = {"addresses": ["10.1.0.11"], "conditions": {"ready": False}}
    parts = [slice_json("web-1", "web", unready), slice_json("web-2", "web", "10.1.0.11")]
    (found,) = served(made(service_json("web"), *parts)).values()
    assert [one.state for one in found.backends] == [EndpointState.READY]


@pytest.mark.parametrize(
    "spec", [{"clusterIPs": ["None"]}, {"type": "ExternalName", "externalName": "example.org"}]
)
def test_services_without_an_address_have_no_rows(spec: dict[str, Any]) -> None:
    said = made(service_json("web", **spec), slice_json("web-1", "web", "10.1.0.11"))
    assert said.rows == {}
    assert said.problems == {}


def test_direct_return_is_an_annotation_of_the_kinds_that_can() -> None:
    service = service_json(
        "web", type="LoadBalancer", annotations={"millrace.dev/forwarding": "dsr"},
        status={"loadBalancer": {"ingress": [{"ip": "192.0.2.9"}]}},
    )  # fmt: skip
    found = served(made(service))
    assert found["loadbalancer 192.0.2.9:80/tcp"].forwarding is Forwarding.DSR
    assert found["clusterip 10.96.0.10:80/tcp"].forwarding is Forwarding.SNAT


@pytest.mark.parametrize(
    ("spec", "word"),
    [
        ({"clusterIPs": ["10.96.0"]}, "clusterIPs"),
        ({"clusterIPs": ["224.0.0.1"]}, "multicast"),
        ({"ports": [{"name": "http", "port": 0}]}, "port http"),
        ({"ports": [{"name": "http", "port": 80, "protocol": "DCCP"}]}, "DCCP"),
        ({"annotations": {"millrace.dev/weights": "web-0=0"}}, "weights"),
        ({"annotations": {"millrace.dev/forwarding": "fast"}}, "forwarding"),
    ],
)
def test_what_is_wrong_is_said_of_the_service_and_others_are_served(
    spec: dict[str, Any], word: str
) -> None:
    other = service_json("other", clusterIPs=["10.96.0.11"])
    said = made(service_json("web", **spec), other)
    assert set(said.problems) == {WEB}
    assert any(word in problem.cause for problem in said.problems[WEB])
    assert "clusterip 10.96.0.11:80/tcp" in served(said)


def test_source_ranges_close_what_they_do_not_open() -> None:
    spec: dict[str, Any] = {
        "type": "LoadBalancer",
        "clusterIPs": ["10.96.0.10", "fd96::10"],
        "status": {"loadBalancer": {"ingress": [{"ip": "192.0.2.9"}, {"ip": "2001:db8::9"}]}},
    }
    said = made(service_json("web", **spec, loadBalancerSourceRanges=["198.51.100.0/24"]))
    assert "loadbalancer 192.0.2.9:80/tcp" in served(said)
    assert "loadbalancer [2001:db8::9]:80/tcp" not in served(said)
    assert "IPv6" in told(said, WEB)
    said = made(service_json("web", **spec, loadBalancerSourceRanges=["everybody"]))
    assert not [key for key in served(said) if key.startswith("loadbalancer")]
    assert said.problems[WEB]


def test_one_slices_change_is_its_services_rows_alone() -> None:
    objects = [
        service_json(f"web{n}", clusterIPs=[f"10.96.1.{n}"]) for n in range(1, 40)
    ] + [slice_json(f"web{n}-1", f"web{n}", "10.1.0.11") for n in range(1, 40)]  # fmt: skip
    before = made(*objects).rows
    after = made(*objects, slice_json("web7-2", "web7", "10.1.0.12")).rows
    changed = {key for key in before.keys() | after.keys() if before.get(key) != after.get(key)}
    assert changed == {RowKey("Load_Balancer", "service/ns/web7/http/tcp/clusterip")}


def test_where_ovn_serves_a_vpcs_services_are_in_its_group() -> None:
    objects = (
        service_json("web"),
        service_json("mine", annotations={"ovn.kubernetes.io/vpc": "vpc1"}),
        service_json("none", clusterIPs=["None"]),
        slice_json("web-1", "web", "10.1.0.11", {
            "addresses": ["10.1.0.12"],
            "conditions": {"ready": False, "serving": True, "terminating": True},
        }),
    )  # fmt: skip
    found = given(*objects, settings=NetSettings(east_west=EastWest.SWITCH))
    rows = whole(UNITS, found).rows
    assert balancers_of(FactView(found), "vpc1") == {
        RowKey("Load_Balancer", "service/ns/mine/http/tcp/clusterip")
    }
    mine = balancers_of(FactView(found), "ovn-cluster")
    assert mine == {RowKey("Load_Balancer", "service/ns/web/http/tcp/clusterip")}
    assert mine <= rows.keys()
    # OVN picks from all that are in vips, so one that is going is not among the ready.
    assert rows[next(iter(mine))].columns["vips"] == (("10.96.0.10:80", "10.1.0.11:8080"),)
    assert balancers_of(FactView(given(*objects)), "vpc1") == frozenset()


def test_endpoints_in_another_vpc_are_told_and_served_all_the_same() -> None:
    def of(pod: str, address: str) -> dict[str, Any]:
        return {"addresses": [address], "targetRef": {"kind": "Pod", "name": pod}}

    there = ip_network("10.1.0.0/24")
    objects = (
        service_json("web"),
        service_json("mine", annotations={"ovn.kubernetes.io/vpc": "vpc1"}),
        # Both VPCs have this network; "near" is in the default one.
        slice_json("web-1", "web", of("near", "10.1.0.11"), of("far", "10.1.0.12")),
        slice_json("mine-1", "mine", of("near", "10.1.0.11"), of("far", "10.1.0.12"), "10.1.0.13"),
    )
    nets = {name: Net(name, vpc, (there,)) for name, vpc in (("a", DEFAULT_VPC), ("b", "vpc1"))}
    leases = {
        f"{pod}.ns": NicLease(f"{pod}.ns", Key("ns", pod), "ovn", net, (ip_address(address),), MAC)
        for pod, net, address in (("near", "a", "10.1.0.11"), ("far", "b", "10.1.0.12"))
    }
    said = whole(UNITS, {**given(*objects), NETS: nets, LEASES: leases})
    assert "far (10.1.0.12) is in VPC vpc1: who asks" in told(said, WEB)
    assert "near" not in told(said, WEB)
    mine = told(said, ObjectRef("services", "ns", "mine"))
    assert "near (10.1.0.11) is in VPC ovn-cluster: who asks" in mine and "far" not in mine
    assert len(said.rows) == 2
    # With one VPC nobody is looked for.
    del nets["b"]
    assert WEB not in whole(UNITS, {**given(*objects), NETS: nets, LEASES: leases}).problems


def test_local_where_ovn_serves_is_a_template_that_each_node_fills_in() -> None:
    def on(address: str, node: str) -> dict[str, Any]:
        return {"addresses": [address], "conditions": {"ready": True}, "nodeName": node}

    def rows(*backends: dict[str, Any]) -> Whole:
        found = given(
            service_json("web", internalTrafficPolicy="Local"),
            slice_json("web-1", "web", *backends),
            settings=NetSettings(east_west=EastWest.SWITCH),
        )
        return whole(UNITS, {**found, NODES: {name: NetNode(name) for name in ("n1", "n2", "n3")}})

    said = rows(on("10.1.0.11", "n1"), on("10.1.0.12", "n2"), on("10.1.0.13", "n2"))
    key = RowKey("Load_Balancer", "service/ns/web/http/tcp/local4")
    vips = said.rows[key].columns["vips"]
    assert isinstance(vips, tuple)
    ((vip, variable),) = vips
    assert vip == "10.96.0.10:80"
    assert said.rows[key].columns["options"] == (
        ("address-family", "ipv4"), ("reject", "true"), ("template", "true"),
    )  # fmt: skip
    name = str(variable).removeprefix("^")
    assert {k.name: row.columns["variables"] for k, row in said.rows.items()
            if k.table == "Chassis_Template_Var"} == {
        "n1": ((name, "10.1.0.11:8080"),),
        "n2": ((name, "10.1.0.12:8080,10.1.0.13:8080"),),
    }  # fmt: skip
    # For the fast path the row is there as ever, and not in the group.
    (found,) = (one for one in services(balancers(said.rows), SbSnapshot(), "n1")
                if one.served_by is ServedBy.XDP)  # fmt: skip
    assert found.inner_policy is TrafficPolicy.LOCAL
    fewer = rows(on("10.1.0.11", "n1"), on("10.1.0.12", "n2"))
    assert {k for k in said.rows if said.rows[k] != fewer.rows.get(k)} == {
        RowKey("Chassis_Template_Var", "n2"),
        RowKey("Load_Balancer", "service/ns/web/http/tcp/clusterip"),
    }


# -- pools ----------------------------------------------------------------------------------------

POOLS = NetSettings(
    pools={"front": ("192.0.2.10-192.0.2.12", "2001:db8::10-2001:db8::1f")}, default_pool="front"
)


def balanced(name: str, held: str = "", **spec: Any) -> dict[str, Any]:
    status = {"loadBalancer": {"ingress": [{"ip": held}]}} if held else {}
    return service_json(name, type="LoadBalancer", status=status, **spec)


def ingress(said: Whole, name: str) -> list[str]:
    (wanted,) = said.writes[ObjectRef("services", "ns", name)]
    return [one["ip"] for one in wanted.status["loadBalancer"]["ingress"] or ()]


def test_a_pool_gives_an_address_that_is_kept_and_served() -> None:
    said = made(balanced("web"), settings=POOLS)
    (address,) = ingress(said, "web")
    assert f"loadbalancer {address}:80/tcp" in served(said)
    # Two more claims, one of them first by name: who has an address keeps it.
    more = [balanced("web", address), balanced("a"), balanced("z")]
    said = made(*more, settings=POOLS)
    assert ingress(said, "web") == [address]
    assert len({*ingress(said, "a"), *ingress(said, "z"), address}) == 3
    said = made(*more, balanced("late"), settings=POOLS)
    loser = [ref for ref, problems in said.problems.items() if problems]
    assert len(loser) == 1
    assert "no IPv4 address is left" in told(said, loser[0])


def test_of_two_who_hold_one_address_the_older_keeps_it() -> None:
    young, old = balanced("a", "192.0.2.10"), balanced("b", "192.0.2.10")
    young["metadata"]["creationTimestamp"] = "2026-01-02T00:00:00Z"
    old["metadata"]["creationTimestamp"] = "2026-01-01T00:00:00Z"
    said = made(young, old, settings=POOLS)
    assert ingress(said, "b") == ["192.0.2.10"]
    assert ingress(said, "a") != ["192.0.2.10"]


def test_an_address_may_be_wished_for() -> None:
    said = made(balanced("web", "192.0.2.10", loadBalancerIP="192.0.2.12"), settings=POOLS)
    assert ingress(said, "web") == ["192.0.2.12"]
    said = made(balanced("web", loadBalancerIP="203.0.113.1"), settings=POOLS)
    assert ingress(said, "web") == []
    assert "203.0.113.1" in told(said, WEB)


def test_both_families_and_pools_by_name() -> None:
    both = balanced("web", clusterIPs=["fd96::10", "10.96.0.10"])
    found = ingress(made(both, settings=POOLS), "web")
    assert [":" in address for address in found] == [True, False]
    named = balanced("web", annotations={"millrace.dev/address-pool": "back"})
    said = made(named, settings=POOLS)
    assert "back" in told(said, WEB)
    assert WEB not in said.writes
    wanted = replace(POOLS, pools={**POOLS.pools, "back": ("198.51.100.0/30",)})
    assert ingress(made(named, settings=wanted), "web")[0].startswith("198.51.100.")


@pytest.mark.parametrize("spec", [{"loadBalancerClass": "example.org/other"}, {"type": "NodePort"}])
def test_others_services_are_left_alone(spec: dict[str, Any]) -> None:
    spec.setdefault("type", "LoadBalancer")
    said = made(service_json("web", **spec), settings=POOLS)
    assert said.writes == {}


def test_an_address_of_somebody_elses_is_served_unless_packets_go_by_a_proxy() -> None:
    status = {
        "loadBalancer": {"ingress": [{"ip": "192.0.2.9"}, {"ip": "192.0.2.8", "ipMode": "Proxy"}]}
    }
    found = served(made(service_json("web", type="LoadBalancer", status=status)))
    assert set(found) == {"clusterip 10.96.0.10:80/tcp", "loadbalancer 192.0.2.9:80/tcp"}


def test_nothing_is_said_of_what_is_not_there() -> None:
    unit = UNITS[0]
    assert unit.compute(FactView({}), Key("ns", "gone")).rows == {}
    assert balancers({}) == NbSnapshot()
