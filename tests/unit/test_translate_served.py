"""What a node says of a service: by which path, in which mode, and what is missing."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address

import pytest

from controller.translate.index import Index
from controller.translate.rowservices import RowServices
from controller.translate.served import Means, Mode, as_served, means, mode_of
from controller.translate.services import Vantage, claims
from dataplane.model.addr import IPAddress
from dataplane.model.config import NodeConfig, ServicesConfig, UplinkMode
from dataplane.model.service import ServedBy, Service
from dataplane.model.state import Gateway
from tests.labs.ovnrows import MARKED, Lab, vpc_lab
from tests.labs.planned import CONFIG, GATEWAY, UPLINK

VIP = "10.96.0.10:80"
LOCAL, REMOTE = "10.1.0.11:80", "10.1.0.12:80"
OWN: tuple[IPAddress, ...] = (IPv4Address("172.18.0.11"), IPv6Address("fe80::1"))
GATEWAY6 = replace(GATEWAY, service_address6=IPv6Address("fd00:101::1"))


def ids(**keys: str) -> dict[str, str]:
    return {**MARKED, **{f"millrace:{key.replace('_', '-')}": text for key, text in keys.items()}}


def rows(lab: Lab) -> tuple[RowServices, ...]:
    return claims(lab.nb, Vantage.of("n1", Index(lab.nb, lab.sb), OWN)).rows()


def only(
    lab: Lab,
    gateway: Gateway | None = GATEWAY,
    config: NodeConfig = CONFIG,
    addresses: Iterable[IPAddress] = OWN,
) -> Service:
    (service,) = as_served(rows(lab), means(gateway, config, tuple(addresses)))
    return service


def web(vip: str = VIP, backends: str = LOCAL, **keys: str) -> Lab:
    return vpc_lab().balancer("web", {vip: backends}, external_ids=ids(**keys))


@pytest.mark.parametrize(
    ("lab", "mode", "says"),
    [
        (web(), Mode.SNAT, "backends see svc0's address"),
        (web(traffic_policy="local"), Mode.CLIENT_KEPT, "backends see the client's address"),
        (web(forwarding="dsr"), Mode.DSR, "answer the client themselves"),
        (
            web(forwarding="dsr", traffic_policy="local"),
            Mode.CLIENT_KEPT,
            "dsr means nothing under the policy local",
        ),
        (web(kind="clusterip", traffic_policy="local"), Mode.SNAT, "backends see svc0's address"),
    ],
)
def test_the_mode_of_each_service_is_said(lab: Lab, mode: Mode, says: str) -> None:
    found = only(lab)
    assert found.served_by is ServedBy.XDP
    assert mode_of(found) is mode
    assert says in found.reason


NO_MEANS = [
    (None, CONFIG, "no usable gateway router"),
    (replace(GATEWAY, physnet="elsewhere"), CONFIG, "GR_n1 is on elsewhere"),
    (GATEWAY, replace(CONFIG, uplinks=()), "no uplink of this node has services = true"),
    (GATEWAY, replace(CONFIG, uplinks=(replace(UPLINK, mode=UplinkMode.VFIO),)), "an XDP hook"),
]
NO_MEANS_IDS = ["no gateway", "another physnet", "no uplink", "vfio"]


@pytest.mark.parametrize(("gateway", "config", "says"), NO_MEANS, ids=NO_MEANS_IDS)
def test_without_the_means_nobody_serves_and_the_reason_says_what_is_missing(
    gateway: Gateway | None, config: NodeConfig, says: str
) -> None:
    found = only(web(), gateway, config)
    assert found.served_by is ServedBy.NOBODY
    assert says in found.reason
    assert mode_of(found) is None


@pytest.mark.parametrize(("gateway", "config", "says"), NO_MEANS, ids=NO_MEANS_IDS)
def test_without_the_means_ovn_serves_what_is_attached(
    gateway: Gateway | None, config: NodeConfig, says: str
) -> None:
    found = only(web().switch("sw9", load_balancers=("lb-web",)), gateway, config)
    assert found.served_by is ServedBy.OVN
    assert says in found.reason
    assert "attached to switch sw9" in found.reason
    assert "does not keep" not in found.reason


@pytest.mark.parametrize(
    ("lab", "says"),
    [
        (web(traffic_policy="local"), "the policy local"),
        (web(kind="clusterip", internal_traffic_policy="local"), "the policy local"),
        (web(source_ranges="10.0.0.0/8"), "source ranges"),
        (web(forwarding="dsr"), "dsr"),
        (web(backends=f"{LOCAL},{REMOTE}", endpoints='{"10.1.0.11:80": {"weight": 2}}'), "weights"),
        (web(endpoints='{"10.1.0.11:80": {"state": "unready"}}'), "endpoints' states"),
        (web(endpoints='{"10.1.0.11:80": {"zones": ["a"]}}'), "topology hints"),
        (web("0.0.0.0:30080", kind="nodeport"), "stands for a node's addresses"),
    ],
)
def test_what_ovn_does_not_keep_is_named_where_it_serves_instead(lab: Lab, says: str) -> None:
    found = only(lab.switch("sw9", load_balancers=("lb-web",)), None)
    assert found.served_by is ServedBy.OVN
    assert says in found.reason.partition("OVN does not keep: ")[2]


@pytest.mark.parametrize(("seconds", "kept"), [("65535", True), ("65536", False)])
def test_ovns_affinity_ends_at_its_own_limit(seconds: str, kept: bool) -> None:
    lab = vpc_lab().balancer("web", {VIP: LOCAL}, options={"affinity_timeout": seconds})
    found = only(lab.switch("sw9", load_balancers=("lb-web",)), None)
    assert ("affinity" not in found.reason) is kept


def test_an_ipv6_vip_needs_an_ipv6_service_address() -> None:
    lab = web("[fd18::200]:80", "[fd01::11]:80")
    found = only(lab)
    assert found.served_by is ServedBy.NOBODY
    assert "millrace:service-address6" in found.reason
    assert only(lab, GATEWAY6).served_by is ServedBy.XDP
    assert only(web(), GATEWAY6).served_by is ServedBy.XDP


@pytest.mark.parametrize(
    ("vip", "backend", "addresses", "networks", "by"),
    [
        ("0.0.0.0:30080", LOCAL, ("172.18.0.11",), (), ServedBy.XDP),
        ("0.0.0.0:30080", LOCAL, ("fd18::11",), (), ServedBy.NOBODY),
        ("[::]:30080", "", ("172.18.0.11", "fe80::1"), (), ServedBy.NOBODY),
        ("[::]:30080", "", ("172.18.0.11", "fd18::11"), (), ServedBy.XDP),
        ("[::]:30080", "", ("fd18::11",), ("fd19::/16",), ServedBy.NOBODY),
        ("[::]:30080", "", ("fd18::11",), ("fd18::/16",), ServedBy.XDP),
    ],
)
def test_a_node_port_needs_an_address_that_serves_it(
    vip: str, backend: str, addresses: tuple[str, ...], networks: tuple[str, ...], by: ServedBy
) -> None:
    services = ServicesConfig(nodeport_addresses=tuple(IPv6Network(text) for text in networks))
    found = only(
        web(vip, backend, kind="nodeport"),
        GATEWAY6,
        replace(CONFIG, services=services),
        tuple(ip_address(text) for text in addresses),
    )
    assert found.served_by is by
    assert (by is ServedBy.XDP) or "nodeport_addresses" in found.reason


def test_a_local_service_without_a_backend_here_drops_and_says_so() -> None:
    found = only(web(backends=REMOTE, traffic_policy="local"))
    assert found.served_by is ServedBy.XDP
    assert "packets to it are dropped" in found.reason


def test_what_ovn_serves_is_left_alone() -> None:
    lab = vpc_lab().balancer("web", {VIP: LOCAL}, external_ids={})
    before = rows(lab.switch("sw9", load_balancers=("lb-web",)))
    assert as_served(before, Means({4: "x", 6: "x"})) == before[0].services
