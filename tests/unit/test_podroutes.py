"""Routes of pods' annotations, in the words that a node reads."""

from __future__ import annotations

from ipaddress import ip_address

import pytest

from controller.network.nets import Net
from controller.network.nics import as_its_own
from controller.network.podroutes import pod_routes
from dataplane.model.names import DEFAULT_ROUTE_KEY, ROUTES_KEY

NET = Net("s", "v", gateways=(ip_address("10.1.0.1"), ip_address("fd00::1")))


def read(provider: str = "ovn", **said: str) -> tuple[dict[str, str], str]:
    keys = {f"{provider}.kubernetes.io/{name}": value for name, value in said.items()}
    found = pod_routes("pod ns/web", provider, keys, NET)
    return dict(found.external_ids), " ".join(problem.cause for problem in found.problems)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ('[{"dst": "192.168.0.101/24", "gw": "10.1.0.254"}, {"gw": "10.1.0.254"}]\'\n',
         "192.168.0.0/24 10.1.0.254,0.0.0.0/0 10.1.0.254"),
        ('[{"dst": "10.9.0.9"}, {"dst": "", "gw": "fd00::9"}]', "10.9.0.9/32,::/0 fd00::9"),
    ],
)  # fmt: skip
def test_routes_are_networks_and_gateways(text: str, found: str) -> None:
    assert read(routes=text) == ({ROUTES_KEY: found}, "")


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        ("10.0.0.0/8 via 10.1.0.9", "no JSON"),
        ('{"gw": "10.1.0.9"}', "no list"),
        ("[1]", "no object"),
        ("[{}]", "neither"),
        ('[{"gw": "10.1.0.9", "via": "x"}]', "no object"),
        ('[{"dst": "10.0.0.0/33"}]', "10.0.0.0/33"),
        ('[{"dst": "10.0.0.0/8", "gw": "fd00::9"}]', "another family"),
        ("[" + ",".join(['{"gw": "10.1.0.9"}'] * 257) + "]", "at most 256"),
    ],
)
def test_what_is_none_is_said_and_has_no_effect(text: str, cause: str) -> None:
    told, said = read(routes=text)
    assert told == {}
    assert cause in said
    assert "ovn.kubernetes.io/routes" in said


def test_the_default_route_goes_where_it_is_said_to() -> None:
    assert read() == ({}, "")
    assert read(default_route="false") == ({DEFAULT_ROUTE_KEY: "false"}, "")
    both = "0.0.0.0/0 10.1.0.1,::/0 fd00::1"
    assert read("net1.ns.ovn", default_route="true") == ({ROUTES_KEY: both}, "")
    mixed = read("net1.ns.ovn", default_route="True", routes='[{"gw": "10.1.0.9"}]')
    assert mixed == ({ROUTES_KEY: "0.0.0.0/0 10.1.0.9,::/0 fd00::1"}, "")
    assert "'maybe'" in read(default_route="maybe")[1]


def test_an_interface_has_its_definitions_routes_or_its_own() -> None:
    said = {
        "net1.ns.ovn.kubernetes.io/routes": '[{"gw": "10.1.0.8"}]',
        "net1.ns.ovn.east.kubernetes.io/routes": '[{"gw": "10.1.0.9"}]',
    }
    for provider, gateway in (("net1.ns.ovn.east", 9), ("net1.ns.ovn.west", 8)):
        found = pod_routes("pod ns/web", provider, as_its_own(said, provider), NET)
        assert found.external_ids == {ROUTES_KEY: f"0.0.0.0/0 10.1.0.{gateway}"}
    assert as_its_own(said, "net1.ns.ovn") is said
