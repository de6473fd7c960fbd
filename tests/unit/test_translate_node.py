"""What a node makes of OVN: its gateway router, a workload's port."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Interface, ip_address

import pytest

from controller.translate import node
from controller.translate.index import Index
from controller.translate.ovn import NbSnapshot, SbSnapshot
from dataplane.model.addr import Mac
from tests.labs.ovnrows import Lab, vpc_lab

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
    assert node.gateway_problems(gateway_lab().nb, "n1") == ()


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
    (problem,) = node.gateway_problems(lab.nb, "n1")
    assert cause in problem.cause


def test_a_gateway_router_without_a_way_out_is_none_and_says_why() -> None:
    lab = vpc_lab().router(
        "edge",
        options={"chassis": "n1"},
        external_ids={"millrace:service-address": "100.64.255.1"},
    )
    assert node.gateway(lab.nb, "n1") is None
    assert "localnet" in node.gateway_problems(lab.nb, "n1")[0].cause


# -- a workload's port --------------------------------------------------------------------------


def test_a_port_takes_prefix_and_gateway_from_the_router_port_on_its_switch() -> None:
    lab = vpc_lab()
    port = node.logical_port(lab.nb, lab.sb, "vm1.ns")
    assert port is not None
    assert port.mac == Mac("0a:00:00:00:00:11")
    assert port.addresses == (IPv4Interface("10.1.0.11/24"),)
    assert port.gateway == IPv4Address("10.1.0.1")
    assert (port.chassis, port.mtu) == ("n1", None)


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


def test_both_families_have_prefix_and_gateway_of_their_router() -> None:
    lab = vpc_lab().router_port("vpc0", "sw0", "vpc0-sw6", "0a:00:00:00:00:06", "fd00:1::1/64")
    lab.port("sw0", "pod.ns", "0a:00:00:00:00:20 10.1.0.20 fd00:1::20 fd00:2::20")
    port = node.logical_port(lab.nb, lab.sb, "pod.ns")
    assert port is not None
    assert [str(one) for one in port.addresses] == [
        "10.1.0.20/24", "fd00:1::20/64", "fd00:2::20/128",
    ]  # fmt: skip
    assert (str(port.gateway), str(port.gateway6)) == ("10.1.0.1", "fd00:1::1")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("10.1.0.20", None),
        ("10.1.0.99", None),
        ("10.1.0.11", "vm1.ns"),
        ("10.2.0.9", "outside of 10.1.0.0/24"),
        ("10.1.0.1", "router"),
        ("fd00::1", None),
    ],
)
def test_an_address_that_a_port_can_never_have_is_named(text: str, said: str | None) -> None:
    lab = vpc_lab().port("sw0", "pod.ns", "0a:00:00:00:00:20 10.1.0.20")
    reason = node.unfit_addresses(Index(lab.nb, lab.sb), "pod.ns", [ip_address(text)])
    assert (reason is None) == (said is None)
    assert (said or "") in (reason or "")


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
