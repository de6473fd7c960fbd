"""What a node makes of OVN: each service's path and reason, each backend's place."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Interface

import pytest

from controller.translate import node
from controller.translate.index import Index
from controller.translate.ovn import NbSnapshot, SbSnapshot
from dataplane.model.addr import L4Addr, Mac, Protocol
from dataplane.model.service import Backend, Place, ServedBy, Service, TrafficPolicy
from tests.labs.ovnrows import MARKED, Lab, vpc_lab

VIP = "172.18.0.200:80"


def services(lab: Lab, chassis: str = "n1", *hosts: str) -> tuple[Service, ...]:
    return node.services(lab.nb, lab.sb, chassis, tuple(IPv4Address(host) for host in hosts))


def only(lab: Lab, chassis: str = "n1") -> Service:
    (service,) = services(lab, chassis)
    return service


def tcp(text: str) -> L4Addr:
    host, port = text.split(":")
    return L4Addr(Protocol.TCP, IPv4Address(host), int(port))


def test_marked_and_attached_to_nothing_is_served_by_xdp() -> None:
    service = only(vpc_lab().balancer("web", {VIP: "10.1.0.11:8080"}))
    assert service == Service(
        name="web",
        vip=tcp(VIP),
        backends=(Backend(tcp("10.1.0.11:8080"), Place.LOCAL, "vm1.ns"),),
        policy=TrafficPolicy.CLUSTER,
        served_by=ServedBy.XDP,
        reason="served by XDP, because marked for the fast path",
    )


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
    assert "millrace:fast-path=true" in service.reason


@pytest.mark.parametrize(
    ("chassis", "place"), [("n1", Place.LOCAL), ("n2", Place.REMOTE), ("n3", Place.REMOTE)]
)
def test_a_backends_place_depends_on_who_asks(chassis: str, place: Place) -> None:
    service = only(vpc_lab().balancer("web", {VIP: "10.1.0.11:80"}), chassis)
    assert [backend.place for backend in service.backends] == [place]


def test_a_backend_that_is_bound_nowhere_or_known_to_nobody_is_unknown() -> None:
    lab = vpc_lab().port("sw0", "vm3.ns", "0a:00:00:00:00:13 10.1.0.13")
    service = only(lab.balancer("web", {VIP: "10.1.0.13:80,10.9.9.9:80"}))
    assert service.backends == (
        Backend(tcp("10.1.0.13:80"), Place.UNKNOWN, "vm3.ns"),
        Backend(tcp("10.9.9.9:80"), Place.UNKNOWN, None),
    )


def test_backends_on_hosts_are_listed_and_said_to_be_left_out() -> None:
    lab = vpc_lab().balancer("web", {VIP: "10.0.0.2:80,10.1.0.11:80,192.0.2.7:80"})
    (service,) = services(lab, "n1", "192.0.2.7")
    assert [b.place for b in service.backends] == [Place.HOST, Place.LOCAL, Place.HOST]
    assert service.served_by is ServedBy.XDP
    assert "2 of 3 backends left out" in service.reason


def test_a_vip_with_nothing_but_hosts_behind_it_is_not_taken_by_xdp() -> None:
    lab = vpc_lab().balancer("api", {VIP: "10.0.0.1:6443,10.0.0.2:6443"})
    assert only(lab).served_by is ServedBy.NOBODY
    lab.switch("sw9", load_balancers=("lb-api",))
    assert only(lab).served_by is ServedBy.OVN


def test_one_address_with_several_protocols_is_several_services() -> None:
    lab = vpc_lab()
    lab.balancer("dns-tcp", {"172.18.0.200:53": "10.1.0.11:53"})
    lab.balancer("dns-udp", {"172.18.0.200:53": "10.1.0.11:53"}, protocol="udp")
    found = services(lab)
    assert [service.vip.protocol for service in found] == [Protocol.TCP, Protocol.UDP]
    assert {service.served_by for service in found} == {ServedBy.XDP}


def test_of_two_balancers_with_one_vip_the_first_by_name_is_served() -> None:
    lab = vpc_lab()
    lab.balancer("b", {VIP: "10.1.0.11:80"}).balancer("a", {VIP: "10.1.0.12:80"})
    first, second = services(lab)
    assert (first.name, first.served_by) == ("a", ServedBy.XDP)
    assert (second.name, second.served_by) == ("b", ServedBy.NOBODY)
    assert "load balancer a" in second.reason


def test_two_balancers_of_one_name_and_vip_are_not_both_served() -> None:
    lab = vpc_lab().balancer("a", {VIP: "10.1.0.11:80"})
    twin = {**lab.nb.load_balancers, "lb-other": lab.nb.load_balancers["lb-a"]}
    nb = NbSnapshot(load_balancers=twin)
    found = node.services(nb, lab.sb, "n1")
    assert sorted(service.served_by for service in found) == [ServedBy.NOBODY, ServedBy.XDP]


@pytest.mark.parametrize(
    ("ids", "policy"),
    [
        ({}, TrafficPolicy.CLUSTER),
        ({"millrace:traffic-policy": "cluster"}, TrafficPolicy.CLUSTER),
        ({"millrace:traffic-policy": "local"}, TrafficPolicy.LOCAL),
        ({"millrace:traffic-policy": "Loc al"}, TrafficPolicy.CLUSTER),
    ],
)
def test_the_traffic_policy_is_what_the_row_says(
    ids: dict[str, str], policy: TrafficPolicy
) -> None:
    lab = vpc_lab().balancer("web", {VIP: "10.1.0.11:80"}, external_ids={**MARKED, **ids})
    assert only(lab).policy is policy


def test_a_vip_without_backends_says_what_happens_to_its_packets() -> None:
    service = only(vpc_lab().balancer("web", {VIP: ""}))
    assert service.served_by is ServedBy.XDP
    assert service.backends == ()
    assert "dropped" in service.reason


def test_session_affinity_is_named_as_not_kept() -> None:
    lab = vpc_lab().balancer("web", {VIP: "10.1.0.11:80"}, options={"affinity_timeout": "60"})
    assert "affinity_timeout=60 is not kept" in only(lab).reason


BAD_VIPS = [
    ("", "not an IPv4 address"),
    ("not-an-address:80", "not an IPv4 address"),
    ("172.18.0.200", "no port"),
    ("172.18.0.200:", "no port"),
    ("172.18.0.200:http", "not a port"),
    ("172.18.0.200:0", "not a port"),
    ("172.18.0.200:65536", "not a port"),
    ("172.18.0.200:+80", "not a port"),
    ("172.18.0.200:8_0", "not a port"),
    ("172.18.0.200:٨٠", "not a port"),
    ("172.18.0.300:80", "not an IPv4 address"),
    ("172.18.0.200 :80", "not an IPv4 address"),
    ("[fd00::1]:80", "does not serve IPv6 yet"),
    ("fd00::1", "does not serve IPv6 yet"),
    ("[fd00::1", "does not serve IPv6 yet"),
    ("[nonsense]:80", "not an address"),
    ("::::", "not an address"),
    ("1:2:3", "not an address"),
]


@pytest.mark.parametrize(("vip", "cause"), BAD_VIPS)
def test_a_vip_that_cannot_be_served_is_a_problem_and_never_a_crash(vip: str, cause: str) -> None:
    lab = vpc_lab().balancer("web", {vip: "10.1.0.11:80", VIP: "10.1.0.11:80"})
    (problem,) = node.problems(lab.nb)
    assert cause in problem.cause
    assert f"VIP {vip}" in problem.name
    assert problem.next_step
    assert [service.vip for service in services(lab)] == [tcp(VIP)]


@pytest.mark.parametrize(("backend", "cause"), BAD_VIPS[1:])
def test_a_backend_that_cannot_be_served_is_left_out_and_named(backend: str, cause: str) -> None:
    lab = vpc_lab().balancer("web", {VIP: f"10.1.0.11:80,{backend}"})
    (problem,) = node.problems(lab.nb)
    assert cause in problem.cause
    service = only(lab)
    assert [b.target for b in service.backends] == [tcp("10.1.0.11:80")]
    assert "1 of its backends left out" in service.reason


@pytest.mark.parametrize(
    ("columns", "cause"),
    [
        ({"protocol": "sctp"}, "protocol sctp"),
        ({"options": {"template": "true"}}, "template"),
    ],
)
def test_a_balancer_that_xdp_cannot_serve_is_one_problem(
    columns: dict[str, object], cause: str
) -> None:
    lab = vpc_lab().balancer("web", {VIP: "10.1.0.11:80"}, **columns)
    (problem,) = node.problems(lab.nb)
    assert cause in problem.cause
    assert services(lab) == ()


def test_an_unmarked_balancer_is_no_problem_of_ours() -> None:
    lab = vpc_lab().balancer("web", {"[fd00::1]:80": "[fd00::2]:80"}, external_ids={})
    assert node.problems(lab.nb) == ()


def test_a_wrong_traffic_policy_is_a_problem() -> None:
    ids = {**MARKED, "millrace:traffic-policy": "both"}
    lab = vpc_lab().balancer("web", {VIP: "10.1.0.11:80"}, external_ids=ids)
    (problem,) = node.problems(lab.nb)
    assert "'both'" in problem.cause


# -- the gateway router -------------------------------------------------------------------------


def gateway_lab(**columns: object) -> Lab:
    columns.setdefault("options", {"chassis": "n1"})
    columns.setdefault("external_ids", {"millrace:service-address": "100.64.255.1"})
    lab = vpc_lab().switch("outside").router("edge", **columns)
    lab.port("outside", "ln", type="localnet", options={"network_name": "phys"})
    return lab.router_port("edge", "outside", "edge-out", "0a:58:ac:12:00:6f", "172.18.0.111/24")


def test_a_foreign_gateway_router_with_a_service_address_is_used() -> None:
    gateway = node.gateway(gateway_lab().nb, "n1")
    assert gateway is not None
    assert gateway.router == "edge"
    assert gateway.mac == Mac("0a:58:ac:12:00:6f")
    assert gateway.addresses == (IPv4Interface("172.18.0.111/24"),)
    assert gateway.service_address == IPv4Address("100.64.255.1")
    assert gateway.physnet == "phys"
    assert gateway.localnet_port == "ln"
    assert node.problems(gateway_lab().nb, "n1") == ()


@pytest.mark.parametrize(
    ("columns", "cause"),
    [
        ({"options": {"chassis": "n2"}}, "no Logical_Router"),
        ({"external_ids": {}}, "no Logical_Router"),
        ({"external_ids": {"millrace:service-address": "svc"}}, "not an IPv4 address"),
        ({"external_ids": {"millrace:service-address": "fd00::1"}}, "not an IPv4 address"),
    ],
)
def test_a_router_that_cannot_be_this_chassis_gateway_is_none_and_says_why(
    columns: dict[str, object], cause: str
) -> None:
    lab = gateway_lab(**columns)
    assert node.gateway(lab.nb, "n1") is None
    (problem,) = node.problems(lab.nb, "n1")
    assert cause in problem.cause


def test_a_gateway_router_without_a_way_out_is_none_and_says_why() -> None:
    lab = vpc_lab().router(
        "edge",
        options={"chassis": "n1"},
        external_ids={"millrace:service-address": "100.64.255.1"},
    )
    assert node.gateway(lab.nb, "n1") is None
    assert "localnet" in node.problems(lab.nb, "n1")[0].cause


# -- a workload's port --------------------------------------------------------------------------


def test_a_port_takes_prefix_and_gateway_from_the_router_port_on_its_switch() -> None:
    lab = vpc_lab()
    port = node.logical_port(lab.nb, lab.sb, "vm1.ns")
    assert port is not None
    assert port.mac == Mac("0a:00:00:00:00:11")
    assert port.addresses == (IPv4Interface("10.1.0.11/24"),)
    assert port.gateway == IPv4Address("10.1.0.1")
    assert (port.chassis, port.up, port.mtu) == ("n1", True, None)


def test_a_port_that_ovn_does_not_know_is_none() -> None:
    assert node.logical_port(NbSnapshot(), SbSnapshot(), "vm1.ns") is None


@pytest.mark.parametrize(
    ("addresses", "dynamic", "expected"),
    [
        (("dynamic",), "0a:00:00:00:00:20 10.1.0.20", "10.1.0.20/24"),
        (("0a:00:00:00:00:20 dynamic",), "0a:00:00:00:00:20 10.1.0.20", "10.1.0.20/24"),
        (("dynamic 10.1.0.20",), "0a:00:00:00:00:20 10.1.0.20", "10.1.0.20/24"),
        (("dynamic",), None, None),
        (("unknown",), None, None),
        ((), None, None),
        (("unknown", "0a:00:00:00:00:20 10.1.0.20"), None, "10.1.0.20/24"),
        (("0a:00:00:00:00:20 10.1.0.20 fd00::20",), None, "10.1.0.20/24"),
        (("0a:00:00:00:00:20",), None, None),
        (("gibberish",), None, None),
    ],
)
def test_addresses_in_every_spelling_of_ovn(
    addresses: tuple[str, ...], dynamic: str | None, expected: str | None
) -> None:
    lab = vpc_lab().port("sw0", "pod.ns", *addresses, dynamic_addresses=dynamic)
    port = node.logical_port(lab.nb, lab.sb, "pod.ns")
    assert port is not None
    assert [str(address) for address in port.addresses] == ([expected] if expected else [])
    has_mac = any("0a:00:00:00:00:20" in text for text in (*addresses, dynamic or ""))
    assert port.mac == (Mac("0a:00:00:00:00:20") if has_mac else None)


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"subnet": "10.5.0.0/16"}, "10.5.0.5/16"),
        ({"subnet": "10.6.0.0/16"}, "10.5.0.5/32"),
        ({"subnet": "nonsense"}, "10.5.0.5/32"),
        ({}, "10.5.0.5/32"),
    ],
)
def test_without_a_router_the_switchs_subnet_gives_the_prefix(
    config: dict[str, str], expected: str
) -> None:
    lab = Lab().switch("sw5", other_config=config).port("sw5", "p", "0a:00:00:00:00:05 10.5.0.5")
    port = node.logical_port(lab.nb, lab.sb, "p")
    assert port is not None
    assert [str(address) for address in port.addresses] == [expected]
    assert port.gateway is None


@pytest.mark.parametrize(
    ("dhcp", "switch", "expected"),
    [
        ("1400", "1300", 1400),
        (None, "1300", 1300),
        (None, None, None),
        ("many", "1300", 1300),
        ("67", None, None),
        ("65536", None, None),
    ],
)
def test_the_mtu_is_what_dhcp_or_the_switch_says(
    dhcp: str | None, switch: str | None, expected: int | None
) -> None:
    lab = Lab().switch("sw5", other_config={"mtu": switch} if switch else {})
    if dhcp:
        lab.dhcp("d", mtu=dhcp)
    lab.port("sw5", "p", "0a:00:00:00:00:05 10.5.0.5", dhcpv4_options="dhcp-d" if dhcp else None)
    port = node.logical_port(lab.nb, lab.sb, "p")
    assert port is not None
    assert port.mtu == expected


def test_ten_thousand_ports_are_looked_up_through_one_index() -> None:
    lab = vpc_lab()
    ports = {}
    for number in range(10_000):
        ip = IPv4Address("10.2.0.0") + number
        row = lab.nb.switch_ports["lsp-vm1.ns"]
        ports[f"lsp-{number}"] = type(row)(f"p{number}", addresses=(f"0a:00:00:00:00:11 {ip}",))
    nb = NbSnapshot(switch_ports=ports)
    index = Index(nb, SbSnapshot())
    for number in range(10_000):
        port = node.logical_port(nb, SbSnapshot(), f"p{number}", index)
        assert port is not None
        assert port.addresses == (IPv4Interface(IPv4Address("10.2.0.0") + number),)
