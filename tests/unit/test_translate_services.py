"""What a node makes of load balancer rows: each service's path and reason, each backend's place."""

from __future__ import annotations

import json
from dataclasses import replace
from ipaddress import IPv4Address, ip_address

import pytest

from controller.translate.index import Index
from controller.translate.ovn import NbSnapshot, Problem, ServiceMonitor
from controller.translate.services import (
    Vantage,
    claims,
    service_problems,
    services,
    services_of_row,
)
from dataplane.model.addr import L4Addr, Protocol
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
from tests.labs.ovnrows import MARKED, Lab, vpc_lab

VIP = "172.18.0.200:80"
VIP6 = "[fd18::200]:80"


def seen(lab: Lab, chassis: str = "n1", *own: str) -> tuple[Service, ...]:
    return services(lab.nb, lab.sb, chassis, tuple(ip_address(address) for address in own))


def only(lab: Lab, chassis: str = "n1", *own: str) -> Service:
    (service,) = seen(lab, chassis, *own)
    return service


def problems(lab: Lab, *own: str) -> tuple[Problem, ...]:
    addresses = tuple(ip_address(address) for address in own)
    return service_problems(lab.nb, Vantage.of("n1", Index(lab.nb, lab.sb), addresses))


def l4(text: str, protocol: Protocol = Protocol.TCP) -> L4Addr:
    host, _, port = text.rpartition(":")
    return L4Addr(protocol, ip_address(host.strip("[]")), int(port))


def marked(**ids: str) -> dict[str, str]:
    return {**MARKED, **{f"millrace:{key.replace('_', '-')}": text for key, text in ids.items()}}


def dual_lab() -> Lab:
    lab = vpc_lab()
    lab.port("sw0", "vm3.ns", "0a:00:00:00:00:13 10.1.0.13 fd01:0::0013").bind("vm3.ns", "n1")
    return lab


def test_marked_and_attached_to_nothing_is_served_by_xdp() -> None:
    service = only(vpc_lab().balancer("web", {VIP: "10.1.0.11:8080"}))
    assert service == Service(
        name="web",
        vip=l4(VIP),
        backends=(Backend(l4("10.1.0.11:8080"), Place.LOCAL, "vm1.ns", chassis="n1"),),
        policy=TrafficPolicy.CLUSTER,
        served_by=ServedBy.XDP,
        reason="served by XDP, because marked for the fast path",
        port_key="web",
    )


@pytest.mark.parametrize("protocol", [None, "tcp", "udp", "sctp"])
def test_every_protocol_of_ovn_is_served_in_both_families(protocol: str | None) -> None:
    vips = {VIP: "10.1.0.13:80", VIP6: "[fd01::13]:80"}
    four, six = seen(dual_lab().balancer("web", vips, protocol=protocol))
    assert (four.vip, six.vip) == (
        l4(VIP, Protocol[(protocol or "tcp").upper()]),
        l4(VIP6, Protocol[(protocol or "tcp").upper()]),
    )
    assert {four.served_by, six.served_by} == {ServedBy.XDP}
    assert four.port_key == six.port_key == "web"
    (backend,) = six.backends
    assert (backend.place, backend.port_name, backend.chassis) == (Place.LOCAL, "vm3.ns", "n1")


@pytest.mark.parametrize("where", ["switch", "router", "group on switch", "group on router"])
def test_attached_and_unmarked_is_served_by_ovn_and_says_where_and_what_it_costs(
    where: str,
) -> None:
    lab = vpc_lab().balancer("web", {VIP: "10.1.0.11:80"}, external_ids={}).group("g", "web")
    column = "load_balancer_groups" if "group" in where else "load_balancers"
    refs = ("lbg-g",) if "group" in where else ("lb-web",)
    if where.endswith("switch"):
        lab.switch("sw9", **{column: refs})
        name = "switch sw9"
    else:
        lab.router("r9", **{column: refs})
        name = "router r9"
    service = only(lab)
    assert service.served_by is ServedBy.OVN
    assert name in service.reason
    assert "conntrack" in service.reason


def test_marked_and_attached_is_served_by_xdp_with_a_warning() -> None:
    lab = vpc_lab().balancer("web", {VIP: "10.1.0.11:80"})
    service = only(lab.switch("sw9", load_balancers=("lb-web",)))
    assert service.served_by is ServedBy.XDP
    assert "warning" in service.reason
    assert "switch sw9" in service.reason


def test_neither_marked_nor_attached_is_served_by_nobody_and_says_what_to_do() -> None:
    service = only(vpc_lab().balancer("web", {VIP: "10.1.0.11:80"}, external_ids={}))
    assert service.served_by is ServedBy.NOBODY
    assert 'external_ids:"millrace:fast-path"=true' in service.reason


def test_an_unmarked_balancer_is_no_problem_of_ours() -> None:
    ids = {"millrace:kind": "nonsense", "millrace:endpoints": "{"}
    lab = vpc_lab().balancer("web", {VIP: "x", "y": "z"}, external_ids=ids)
    assert problems(lab) == ()
    assert [service.vip for service in seen(lab)] == [l4(VIP)]


# -- backends ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("chassis", "place"), [("n1", Place.LOCAL), ("n2", Place.REMOTE), ("n3", Place.REMOTE)]
)
def test_a_backends_place_depends_on_who_asks(chassis: str, place: Place) -> None:
    service = only(vpc_lab().balancer("web", {VIP: "10.1.0.11:80"}), chassis)
    assert [(backend.place, backend.chassis) for backend in service.backends] == [(place, "n1")]


def test_a_backend_that_is_bound_nowhere_or_known_to_nobody_is_unknown() -> None:
    lab = vpc_lab().port("sw0", "vm3.ns", "0a:00:00:00:00:13 10.1.0.13")
    service = only(lab.balancer("web", {VIP: "10.1.0.13:80,10.9.9.9:80"}))
    assert service.backends == (
        Backend(l4("10.1.0.13:80"), Place.UNKNOWN, "vm3.ns"),
        Backend(l4("10.9.9.9:80"), Place.UNKNOWN, None),
    )


def test_an_ipv6_backend_is_found_in_every_spelling() -> None:
    service = only(dual_lab().balancer("web", {VIP6: "[fd01::13]:80,[FD01:0:0::0013]:81"}))
    assert [(b.target, b.place) for b in service.backends] == [
        (l4("[fd01::13]:80"), Place.LOCAL),
        (l4("[fd01::13]:81"), Place.LOCAL),
    ]


def test_backends_on_hosts_are_served_and_left_to_svc0_by_containers_sockets() -> None:
    lab = vpc_lab().balancer("web", {VIP: "10.0.0.2:80,10.1.0.11:80,192.0.2.7:80"})
    service = only(lab, "n1", "192.0.2.7")
    assert [(b.place, b.chassis) for b in service.backends] == [
        (Place.OTHER_HOST, "n2"),
        (Place.LOCAL, "n1"),
        (Place.HOST, "n1"),
    ]
    assert service.served_by is ServedBy.XDP
    assert "2 of 3 backends in hosts' networks" in service.reason


def test_a_vip_with_nothing_but_hosts_behind_it_is_taken_by_xdp() -> None:
    lab = vpc_lab().balancer("api", {VIP: "10.0.0.1:6443,10.0.0.2:6443"})
    assert only(lab).served_by is ServedBy.XDP
    assert {b.place for b in only(lab).backends} == {Place.HOST, Place.OTHER_HOST}


def test_this_hosts_sctp_is_left_out_by_name() -> None:
    lab = vpc_lab().balancer("s", {VIP: "192.0.2.7:80"}, protocol="sctp")
    service = only(lab, "n1", "192.0.2.7")
    assert service.vip == l4(VIP, Protocol.SCTP)
    assert "1 of 1 backends left out: in this host's network" in service.reason
    assert "no backend to be had" in service.reason


@pytest.mark.parametrize(("reject", "fate"), [({}, "refused"), ({"reject": "false"}, "dropped")])
def test_a_vip_without_backends_says_what_happens_to_its_packets(
    reject: dict[str, str], fate: str
) -> None:
    service = only(vpc_lab().balancer("web", {VIP: ""}, options=reject))
    assert service.served_by is ServedBy.XDP
    assert service.backends == ()
    assert service.reject is (fate == "refused")
    assert f"packets to it are {fate}" in service.reason


def test_one_address_with_several_protocols_is_several_services() -> None:
    lab = vpc_lab()
    lab.balancer("dns-tcp", {"172.18.0.200:53": "10.1.0.11:53"})
    lab.balancer("dns-udp", {"172.18.0.200:53": "10.1.0.11:53"}, protocol="udp")
    found = seen(lab)
    assert [service.vip.protocol for service in found] == [Protocol.TCP, Protocol.UDP]
    assert {service.served_by for service in found} == {ServedBy.XDP}


# -- terms ---------------------------------------------------------------------------------------


def test_every_key_is_taken_over() -> None:
    facts = {
        "10.1.0.11:80": {"state": "terminating", "weight": 3, "zones": ["b", "a"]},
        "10.1.0.12:80": {"nodes": ["n2"], "state": "unready"},
    }
    ids = marked(
        kind="external",
        traffic_policy="local",
        service="ns/web:http",
        source_ranges="10.0.0.0/8, 192.0.2.0/24",
        forwarding="dsr",
        health_check_node_port="30999",
        endpoints=json.dumps(facts),
    )
    lab = vpc_lab().balancer(
        "web",
        {VIP: "10.1.0.11:80,10.1.0.12:80"},
        external_ids=ids,
        options={"affinity_timeout": "10800", "reject": "false"},
    )
    service = only(lab)
    assert problems(lab) == ()
    assert service.port_key == "ns/web:http"
    assert service.kind is ServiceKind.EXTERNAL_IP
    assert service.policy is TrafficPolicy.LOCAL
    assert [str(network) for network in service.source_ranges] == ["10.0.0.0/8", "192.0.2.0/24"]
    assert service.forwarding is Forwarding.DSR
    assert service.health_port == 30999
    assert (service.affinity_s, service.reject) == (10800, False)
    first, second = service.backends
    assert (first.state, first.weight) == (EndpointState.TERMINATING, 3)
    assert (first.for_zones, first.for_nodes) == (("a", "b"), ())
    assert (second.state, second.weight) == (EndpointState.UNREADY, 1)
    assert second.for_nodes == ("n2",)


def test_endpoints_that_are_published_unready_count_as_ready() -> None:
    facts = {"10.1.0.11:80": {"state": "unready"}, "10.1.0.12:80": {"state": "terminating"}}
    ids = marked(publish_not_ready="true", endpoints=json.dumps(facts))
    service = only(vpc_lab().balancer("web", {VIP: "10.1.0.11:80,10.1.0.12:80"}, external_ids=ids))
    assert {backend.state for backend in service.backends} == {EndpointState.READY}


@pytest.mark.parametrize(
    ("checks", "keys", "state"),
    [
        (("hc",), {}, EndpointState.UNREADY),
        ((), {}, EndpointState.READY),
        (("hc",), {"publish_not_ready": "true"}, EndpointState.READY),
    ],
)
def test_what_ovns_health_checks_find_down_is_unready_where_a_row_has_them(
    checks: tuple[str, ...], keys: dict[str, str], state: EndpointState
) -> None:
    lab = vpc_lab().balancer(
        "web", {VIP: "10.1.0.11:80"}, health_checks=checks, external_ids=marked(**keys)
    )
    monitors = {
        "a": ServiceMonitor("10.1.0.11", 80, "tcp", "offline"),
        "b": ServiceMonitor("10.1.0.11", 81, None, None),
        "c": ServiceMonitor("nonsense", 0, "udp", "error"),
        "d": ServiceMonitor("fd01::13", 80, None, "error"),
    }
    lab.sb = replace(lab.sb, service_monitors=monitors)
    assert [backend.state for backend in only(lab).backends] == [state]
    assert Index(lab.nb, lab.sb).offline == {l4("10.1.0.11:80"), l4("[fd01::13]:80")}


@pytest.mark.parametrize(
    ("kind", "policy", "inner"),
    [
        ("clusterip", TrafficPolicy.CLUSTER, TrafficPolicy.LOCAL),
        ("loadbalancer", TrafficPolicy.LOCAL, TrafficPolicy.CLUSTER),
        ("external", TrafficPolicy.LOCAL, TrafficPolicy.CLUSTER),
        ("nodeport", TrafficPolicy.LOCAL, TrafficPolicy.CLUSTER),
        ("hostport", TrafficPolicy.LOCAL, TrafficPolicy.LOCAL),
    ],
)
def test_each_policy_counts_for_the_kinds_that_kubernetes_gives_it_to(
    kind: str, policy: TrafficPolicy, inner: TrafficPolicy
) -> None:
    ids = marked(kind=kind, traffic_policy="local", internal_traffic_policy="local")
    vip = "0.0.0.0:30080" if kind in {"nodeport", "hostport"} else VIP
    service = only(vpc_lab().balancer("web", {vip: "10.1.0.11:80"}, external_ids=ids))
    assert (service.policy, service.inner_policy) == (policy, inner)


def test_a_host_port_is_only_where_its_backend_is() -> None:
    lab = vpc_lab()
    lab.balancer("a", {"0.0.0.0:8080": "10.1.0.11:80"}, external_ids=marked(kind="hostport"))
    lab.balancer("b", {"0.0.0.0:8080": "10.1.0.12:80"}, external_ids=marked(kind="hostport"))
    assert problems(lab) == ()
    for chassis, name in (("n1", "a"), ("n2", "b")):
        (mine,) = [s for s in seen(lab, chassis) if s.served_by is ServedBy.XDP]
        assert mine.name == name
        assert [backend.place for backend in mine.backends] == [Place.LOCAL]
    assert {s.served_by for s in seen(lab, "n3")} == {ServedBy.NOBODY}


def test_a_host_port_of_another_nodes_address_is_the_kernels_here() -> None:
    ids = marked(kind="hostport")
    lab = vpc_lab().balancer("a", {"192.0.2.1:8080": "10.1.0.11:80"}, external_ids=ids)
    assert only(lab, "n1", "192.0.2.1").served_by is ServedBy.XDP
    assert "no address of this node" in only(lab, "n1", "192.0.2.2").reason


# -- refusals ------------------------------------------------------------------------------------

BAD_ADDRESSES = [
    ("", "not an address"),
    ("not-an-address:80", "not an address"),
    ("172.18.0.200", "no port"),
    ("172.18.0.200:", "no port"),
    ("172.18.0.200:http", "not a port"),
    ("172.18.0.200:0", "not a port"),
    ("172.18.0.200:65536", "not a port"),
    ("172.18.0.200:+80", "not a port"),
    ("172.18.0.200:8_0", "not a port"),
    ("172.18.0.200:٨٠", "not a port"),
    ("172.18.0.300:80", "not an address"),
    ("172.18.0.200 :80", "not an address"),
    ("[fd00::1", "no closing bracket"),
    ("[fd00::1]80", "is no port"),
    ("[fd00::1]", "no port"),
    ("fd00::1", "no port"),
    ("[fd00::1]:0", "not a port"),
    ("[nonsense]:80", "not an address"),
    ("[fe80::1%eth0]:80", "a zone"),
    ("[::ffff:10.0.0.1]:80", "an IPv4 address"),
    ("::::", "not an address"),
    ("1:2:3", "not an address"),
    ("172.18.0.201:53/udp", "a protocol of its own"),
    ("224.0.0.1:80", "multicast"),
    ("127.0.0.1:80", "loopback"),
    ("255.255.255.255:80", "broadcast"),
    ("[fe80::1]:80", "link-local"),
]


@pytest.mark.parametrize(("vip", "cause"), BAD_ADDRESSES)
def test_a_vip_that_cannot_be_served_is_refused_by_name_and_the_rest_is_served(
    vip: str, cause: str
) -> None:
    lab = dual_lab()
    backend = "[fd01::13]:80" if vip.startswith("[") else "10.1.0.11:80"
    lab.balancer("web", {vip: backend, VIP: "10.1.0.11:80"})
    (problem,) = problems(lab)
    assert cause in problem.cause
    assert f"VIP {vip}" in problem.name
    assert problem.next_step
    assert [s.vip for s in seen(lab) if s.served_by is ServedBy.XDP] == [l4(VIP)]


@pytest.mark.parametrize(
    ("backend", "cause"),
    [
        *((text, cause) for text, cause in BAD_ADDRESSES[1:-4]),
        ("0.0.0.0:80", "no address of a workload"),
        ("224.0.0.1:80", "no address of a workload"),
        ("[fd01::13]:80", "the VIP IPv4"),
    ],
)
def test_a_backend_that_cannot_be_served_is_left_out_and_named(backend: str, cause: str) -> None:
    lab = vpc_lab().balancer("web", {VIP: f"10.1.0.11:80,{backend}"})
    (problem,) = problems(lab)
    assert cause in problem.cause
    assert f"VIP {VIP}, backend {backend}" in problem.name
    service = only(lab)
    assert [b.target for b in service.backends] == [l4("10.1.0.11:80")]
    assert "1 of its backends left out" in service.reason


def test_a_vip_all_of_whose_backends_are_of_the_other_family_is_refused() -> None:
    lab = vpc_lab().balancer("web", {VIP: "[fd01::13]:80", VIP6: "[fd01::13]:80"})
    four, six = seen(lab)
    assert (four.served_by, six.served_by) == (ServedBy.NOBODY, ServedBy.XDP)
    assert "none of its backends can be served" in four.reason


@pytest.mark.parametrize(
    ("ids", "options", "cause"),
    [
        ({"kind": "ingress"}, {}, "millrace:kind: 'ingress' is not one of clusterip"),
        ({"traffic_policy": "Local"}, {}, "millrace:traffic-policy: 'Local'"),
        ({"internal_traffic_policy": ""}, {}, "millrace:internal-traffic-policy: ''"),
        ({"forwarding": "tunnel"}, {}, "millrace:forwarding: 'tunnel'"),
        ({"publish_not_ready": "yes"}, {}, "millrace:publish-not-ready: 'yes'"),
        ({"forwarding": "dsr", "kind": "clusterip"}, {}, "kind clusterip cannot be handed"),
        ({"service": " "}, {}, "millrace:service"),
        ({"service": "ns/web\n"}, {}, "millrace:service"),
        ({"source_ranges": "10.0.0.0"}, {}, "'10.0.0.0' is not a network"),
        ({"source_ranges": "10.0.0.0/33"}, {}, "'10.0.0.0/33' is not a network"),
        ({"source_ranges": "10.0.0.5/8"}, {}, "an address inside a network"),
        ({"source_ranges": "::ffff:10.0.0.0/104"}, {}, "a network of IPv4 addresses"),
        ({"source_ranges": "10.0.0.0/8,fd00::/8"}, {}, "fd00::/8 is IPv6"),
        ({"source_ranges": ","}, {}, "names no network"),
        ({"health_check_node_port": "0"}, {}, "'0' is not a port"),
        ({"health_check_node_port": "65536"}, {}, "'65536' is not a port"),
        ({}, {"affinity_timeout": "86401"}, "from 1 to 86400"),
        ({}, {"affinity_timeout": "-1"}, "from 1 to 86400"),
        ({}, {"affinity_timeout": "1.5"}, "from 1 to 86400"),
        ({"endpoints": "{"}, {}, "not JSON"),
        ({"endpoints": "[]"}, {}, "no JSON object"),
        ({"endpoints": '{"x": {}}'}, {}, "'x' is not an address"),
        ({"endpoints": '{"10.1.0.11:80": 1}'}, {}, "no object"),
        ({"endpoints": '{"10.1.0.11:80": {"wieght": 1}}'}, {}, "unknown field 'wieght'"),
        ({"endpoints": '{"10.1.0.11:80": {"state": "up"}}'}, {}, "is not one of ready"),
        ({"endpoints": '{"10.1.0.11:80": {"state": []}}'}, {}, "is not one of ready"),
        ({"endpoints": '{"10.1.0.11:80": {"weight": 0}}'}, {}, "no integer of 1..65535"),
        ({"endpoints": '{"10.1.0.11:80": {"weight": 65536}}'}, {}, "no integer of 1..65535"),
        ({"endpoints": '{"10.1.0.11:80": {"weight": true}}'}, {}, "no integer of 1..65535"),
        ({"endpoints": '{"10.1.0.11:80": {"weight": 1.5}}'}, {}, "'1.5' is not an integer"),
        ({"endpoints": '{"10.1.0.11:80": {"weight": NaN}}'}, {}, "'NaN' is not an integer"),
        ({"endpoints": '{"10.1.0.11:80": {"zones": "a"}}'}, {}, "no list of names"),
        ({"endpoints": '{"10.1.0.11:80": {"nodes": [1]}}'}, {}, "no list of names"),
        ({"endpoints": '{"10.1.0.11:80": {}, "10.1.0.11:80": {}}'}, {}, "in one object twice"),
        ({"endpoints": '{"10.1.0.11:80": {}, "10.1.0.11:080": {}}'}, {}, "in it twice"),
    ],
)
def test_a_row_whose_terms_cannot_be_read_is_refused_whole_and_the_rest_is_served(
    ids: dict[str, str], options: dict[str, str], cause: str
) -> None:
    lab = vpc_lab().balancer("sound", {"172.18.0.9:80": "10.1.0.11:80"})
    lab.balancer("web", {VIP: "10.1.0.11:80"}, external_ids=marked(**ids), options=options)
    (problem,) = problems(lab)
    assert problem.name == "load balancer web"
    assert cause in problem.cause
    assert problem.next_step
    sound, web = seen(lab)
    assert sound.served_by is ServedBy.XDP
    assert web.served_by is ServedBy.NOBODY
    assert web.reason.startswith("refused: ")
    assert cause in web.reason


def test_a_refused_row_that_is_attached_is_served_by_ovn() -> None:
    lab = vpc_lab().balancer("web", {VIP: "10.1.0.11:80"}, external_ids=marked(kind="x"))
    service = only(lab.switch("sw9", load_balancers=("lb-web",)))
    assert service.served_by is ServedBy.OVN
    assert "refused by XDP" in service.reason


def test_a_template_is_one_problem() -> None:
    lab = vpc_lab().balancer("web", {"^vip:80": "^backends"}, options={"template": "true"})
    (problem,) = problems(lab)
    assert "template" in problem.cause
    assert seen(lab) == ()


@pytest.mark.parametrize(
    ("kind", "vip", "cause"),
    [
        ("loadbalancer", "0.0.0.0:80", "stands for every address"),
        ("clusterip", "[::]:80", "stands for every address"),
        ("nodeport", "172.18.0.200:80", "no single address"),
    ],
)
def test_the_unspecified_address_is_for_ports_of_nodes(kind: str, vip: str, cause: str) -> None:
    lab = vpc_lab().balancer("web", {vip: ""}, external_ids=marked(kind=kind))
    (problem,) = problems(lab)
    assert cause in problem.cause
    assert only(lab).served_by is ServedBy.NOBODY


def test_each_vip_has_the_source_ranges_of_its_family_and_none_is_open_for_want_of_one() -> None:
    vips = {VIP: "10.1.0.13:80", VIP6: "[fd01::13]:80"}
    both = marked(source_ranges="::/0,10.0.0.0/8")
    four, six = seen(dual_lab().balancer("web", vips, external_ids=both))
    assert [str(network) for network in four.source_ranges] == ["10.0.0.0/8"]
    assert [str(network) for network in six.source_ranges] == ["::/0"]
    lab = dual_lab().balancer("web", vips, external_ids=marked(source_ranges="10.0.0.0/8"))
    four, six = seen(lab)
    assert (four.served_by, six.served_by) == (ServedBy.XDP, ServedBy.NOBODY)
    (problem,) = problems(lab)
    assert "VIP [fd18::200]:80" in problem.name
    assert "::/0 admits everybody" in problem.next_step


def test_two_spellings_of_one_vip_in_a_row_are_one_vip_and_a_problem() -> None:
    lab = dual_lab().balancer("web", {VIP6: "[fd01::13]:80", "[FD18:0::200]:80": "[fd01::13]:81"})
    (problem,) = problems(lab)
    assert "is the same VIP" in problem.cause
    assert sorted(s.served_by for s in seen(lab)) == [ServedBy.NOBODY, ServedBy.XDP]


def test_what_is_served_all_the_same_but_hardly_meant_so_is_a_problem() -> None:
    ids = marked(sourceranges="10.0.0.0/8", endpoints='{"10.1.0.99:80": {}}')
    lab = vpc_lab().balancer(
        "web", {VIP: "10.1.0.11:80"}, external_ids=ids, options={"reject": "no"}
    )
    found = "\n".join(str(problem) for problem in problems(lab))
    assert "did you mean millrace:source-ranges?" in found
    assert "10.1.0.99:80/tcp, a backend of none of its VIPs" in found
    assert "options:reject='no'" in found
    assert only(lab).served_by is ServedBy.XDP


# -- at scale ------------------------------------------------------------------------------------


def test_one_row_is_computed_alone_and_is_what_the_whole_says() -> None:
    lab = vpc_lab()
    for number in range(200):
        address = IPv4Address("10.96.0.0") + number
        lab.balancer(f"s{number:03}", {f"{address}:80": "10.1.0.11:80,10.1.0.12:80"})
    vantage = Vantage.of("n1", Index(lab.nb, lab.sb), ())
    whole = claims(lab.nb, vantage)
    for ref, balancer in lab.nb.load_balancers.items():
        assert whole.row(ref) == services_of_row(ref, balancer, vantage)


def test_an_index_takes_over_what_is_the_same_and_nothing_else() -> None:
    lab = vpc_lab().switch("sw9", load_balancers=("lb-web",))
    before = Index(lab.nb, lab.sb)
    assert before.owners and before.attached_to and before.port_by_name
    lab.balancer("web", {VIP: "10.1.0.11:80"})
    after = Index(lab.nb, lab.sb, before)
    assert after.owners is before.owners
    assert after.attached_to is before.attached_to
    lab.switch("sw9")
    lab.port("sw0", "vm4.ns", "0a:00:00:00:00:14 10.1.0.14")
    fresh, late = Index(lab.nb, lab.sb), Index(lab.nb, lab.sb, after)
    assert late.owners == fresh.owners != before.owners
    assert late.attached_to == fresh.attached_to == {}
    assert late.switch_of_port == fresh.switch_of_port
    assert Index(NbSnapshot(), lab.sb, late).owners == {}
