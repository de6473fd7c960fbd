"""The northbound rows of a cluster: what is made, what is kept, what is left alone."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv6Interface, ip_network

import pytest

from controller.translate.central import northbound
from controller.translate.nbrows import (
    GroupRow,
    MacKey,
    MacRow,
    NbPlan,
    PolicyKey,
    PolicyRow,
    RouteKey,
    RouteRow,
    RouterPortRow,
    RouterRow,
    SwitchPortRow,
)
from controller.translate.node import gateway
from controller.translate.owned import owned
from dataplane.model.config import ClusterConfig, EastWest
from tests.labs.ovnrows import (
    OURS,
    Lab,
    applied,
    cluster_config,
    gateway_config,
    vpc_lab,
)

ONE = cluster_config(gateway_config("n1", 111))
TWO = cluster_config(gateway_config("n1", 111), gateway_config("n2", 112))


def plan(cluster: ClusterConfig, lab: Lab) -> NbPlan:
    return northbound(cluster, lab.nb, lab.sb)


def rows(found: NbPlan) -> NbPlan:
    return replace(found, problems=())


def causes(found: NbPlan) -> str:
    return "\n".join(f"{p.name}: {p.cause}" for p in found.problems)


def test_one_gateway_makes_exactly_these_rows() -> None:
    found = plan(ONE, vpc_lab())
    assert found.problems == ()
    assert set(found.switches) == {"millrace-join", "ext_n1"}
    assert found.routers == {
        "GR_n1": RouterRow(
            options=(
                ("always_learn_from_arp_request", "false"),
                ("chassis", "n1"),
                ("dynamic_neigh_routers", "true"),
            ),
            external_ids=(("millrace:service-address", "100.64.255.1"),),
        )
    }
    assert found.router_ports == {
        "millrace-ext-n1": RouterPortRow("GR_n1", "0a:58:ac:12:00:6f", ("172.18.0.111/24",)),
        "millrace-join-GR_n1": RouterPortRow("GR_n1", "0a:58:64:40:00:01", ("100.64.0.1/24",)),
        "millrace-join-vpc0": RouterPortRow("vpc0", "0a:58:64:40:00:02", ("100.64.0.2/24",)),
    }
    assert found.switch_ports == {
        "ext_n1-localnet": SwitchPortRow(
            "ext_n1", "localnet", ("unknown",), (("network_name", "phys"),)
        ),
        **{
            f"{port}-peer": SwitchPortRow(switch, "router", ("router",), (("router-port", port),))
            for port, switch in (
                ("millrace-ext-n1", "ext_n1"),
                ("millrace-join-GR_n1", "millrace-join"),
                ("millrace-join-vpc0", "millrace-join"),
            )
        },
    }
    assert found.routes == {
        RouteKey("GR_n1", "10.1.0.0/24"): RouteRow("100.64.0.2"),
        RouteKey("GR_n1", "0.0.0.0/0"): RouteRow("172.18.0.1"),
        RouteKey("GR_n1", "100.64.255.1/32"): RouteRow("100.64.255.1", "millrace-ext-n1"),
        RouteKey("vpc0", "100.64.255.1/32"): RouteRow("100.64.0.1"),
        RouteKey("vpc0", "0.0.0.0/0"): RouteRow("100.64.0.1"),
    }
    assert found.static_macs == {
        MacKey("millrace-ext-n1", "100.64.255.1"): MacRow("0a:58:64:40:ff:01", override=True),
        MacKey("millrace-join-GR_n1", "100.64.0.2"): MacRow("0a:58:64:40:00:02", override=True),
        MacKey("millrace-join-vpc0", "100.64.0.1"): MacRow("0a:58:64:40:00:01", override=True),
    }
    join = 'outport == "millrace-join-vpc0"'
    assert found.policies == {
        PolicyKey(
            "GR_n1",
            20000,
            'inport == "millrace-join-GR_n1" && outport == "millrace-join-GR_n1"',
        ): PolicyRow("drop"),
        PolicyKey(
            "vpc0",
            20001,
            f"{join} && (ip4.dst == 100.64.0.0/24 || ip4.dst == 100.64.255.0/24)",
        ): PolicyRow("allow"),
        PolicyKey(
            "vpc0", 20000, f'{join} && ip4 && is_chassis_resident("millrace-ext-n1")'
        ): PolicyRow("reroute", ("100.64.0.1",)),
    }


def test_the_node_finds_the_gateway_that_central_made() -> None:
    lab = vpc_lab()
    nb = applied(lab.nb, plan(TWO, lab))
    found = gateway(nb, "n2")
    assert found is not None
    assert (found.router, str(found.service_address)) == ("GR_n2", "100.64.255.2")
    assert (found.localnet_port, found.physnet) == ("ext_n2-localnet", "phys")
    assert str(found.mac) == "0a:58:ac:12:00:70"


def test_what_was_applied_is_seen_as_ours_and_planned_again_the_same() -> None:
    lab = vpc_lab()
    first = plan(TWO, lab)
    nb = applied(lab.nb, first)
    assert owned(nb) == rows(first)
    assert northbound(TWO, nb, lab.sb) == first


def test_every_vpc_reaches_every_service_address_through_its_own_gateway() -> None:
    found = plan(TWO, vpc_lab())
    assert found.routes[RouteKey("vpc0", "100.64.255.1/32")] == RouteRow("100.64.0.1")
    assert found.routes[RouteKey("vpc0", "100.64.255.2/32")] == RouteRow("100.64.0.2")


def test_networks_of_cluster_ips_are_led_to_svc0_by_every_gateway() -> None:
    found = plan(replace(TWO, service_ranges=(ip_network("10.96.0.0/16"),)), vpc_lab())
    for chassis, address in (("n1", "100.64.255.1"), ("n2", "100.64.255.2")):
        assert found.routes[RouteKey(f"GR_{chassis}", "10.96.0.0/16")] == RouteRow(
            address, found.routes[RouteKey(f"GR_{chassis}", f"{address}/32")].output_port
        )


SWITCHED = replace(
    TWO,
    service_ranges=(ip_network("10.96.0.0/12"), ip_network("fd96::/64")),
    east_west=EastWest.SWITCH,
)


def service_lab() -> Lab:
    """Services inside the ranges and outside of them, and a switch that no VPC of ours has."""
    return (
        vpc_lab()
        .switch("apart")
        .balancer("web", {"10.96.0.10:80": "10.1.0.11:80"}, protocol="tcp")
        .balancer("six", {"[fd96::1]:80": "[fd01::11]:80"}, protocol="tcp")
        .balancer("outside", {"172.18.0.203:80": "10.1.0.11:80"}, protocol="tcp")
        .balancer("theirs", {"10.96.0.11:80": "10.1.0.11:80"}, protocol="tcp", external_ids={})
        .balancer(
            "refused",
            {"10.96.0.12:80": "10.1.0.11:80"},
            protocol="tcp",
            external_ids={"millrace:fast-path": "true", "millrace:kind": "x"},
        )
    )


def test_ovn_may_serve_the_ranges_on_the_vpcs_switches_in_place_of_svc0() -> None:
    found = plan(SWITCHED, service_lab())
    assert found.balancer_groups == {"millrace-east-west": GroupRow(("lb-six", "lb-web"))}
    assert set(found.grouped_switches) == {"sw0"}
    assert not [key for key in found.routes if key.prefix == "10.96.0.0/12"]
    by_svc0 = plan(replace(SWITCHED, east_west=EastWest.SVC0), service_lab())
    assert (by_svc0.balancer_groups, by_svc0.grouped_switches) == ({}, {})
    assert RouteKey("GR_n1", "10.96.0.0/12") in by_svc0.routes


def test_the_group_of_the_switches_is_seen_as_ours_and_planned_again_the_same() -> None:
    lab = service_lab()
    first = plan(SWITCHED, lab)
    nb = applied(lab.nb, first)
    assert owned(nb) == rows(first)
    assert northbound(SWITCHED, nb, lab.sb) == first
    assert nb.switches["ls-apart"].load_balancer_groups == ()


def test_a_chassis_that_never_was_gets_no_rows() -> None:
    found = plan(TWO, vpc_lab().without_chassis("n2"))
    assert set(found.routers) == {"GR_n1"}
    assert "no such chassis" in causes(found)


def test_a_chassis_that_left_keeps_its_rows_but_not_the_default_route() -> None:
    lab = vpc_lab()
    first = plan(TWO, lab)
    nb = applied(lab.nb, first)
    gone = northbound(TWO, nb, lab.without_chassis("n1").sb)
    assert dict(gone.routers["GR_n1"].external_ids) == {
        "millrace:service-address": "100.64.255.1",
        "millrace:down": "true",
    }
    assert gone.routers["GR_n1"].options == first.routers["GR_n1"].options
    assert gone.routers["GR_n2"] == first.routers["GR_n2"]
    assert gone.problems == ()
    assert first.routes[RouteKey("vpc0", "0.0.0.0/0")] == RouteRow("100.64.0.1")
    assert gone.routes[RouteKey("vpc0", "0.0.0.0/0")] == RouteRow("100.64.0.2")


def test_held_addresses_are_kept_when_a_smaller_name_joins() -> None:
    lab = vpc_lab()
    cluster = cluster_config(gateway_config("n2", 112))
    nb = applied(lab.nb, plan(cluster, lab))
    found = northbound(TWO, nb, lab.sb)
    held = dict(found.routers["GR_n2"].external_ids)
    assert held["millrace:service-address"] == "100.64.255.1"
    assert dict(found.routers["GR_n1"].external_ids)["millrace:service-address"] == "100.64.255.2"
    assert found.router_ports["millrace-join-GR_n2"].networks == ("100.64.0.1/24",)
    assert found.router_ports["millrace-join-vpc0"].networks == ("100.64.0.2/24",)
    assert found.router_ports["millrace-join-GR_n1"].networks == ("100.64.0.3/24",)


def test_a_service_address_of_a_foreign_gateway_router_is_not_given_out() -> None:
    lab = vpc_lab().router("edge", external_ids={"millrace:service-address": "100.64.255.1"})
    assert dict(plan(ONE, lab).routers["GR_n1"].external_ids) == {
        "millrace:service-address": "100.64.255.2"
    }


def test_a_full_pool_is_a_problem_and_the_others_work() -> None:
    cluster = replace(TWO, service_pool="100.64.255.0/32")
    found = plan(cluster, vpc_lab())
    assert set(found.routers) == {"GR_n1"}
    assert "no address is left for n2" in causes(found)


def test_an_address_outside_a_changed_pool_is_given_anew() -> None:
    lab = vpc_lab()
    nb = applied(lab.nb, plan(ONE, lab))
    moved = northbound(replace(ONE, service_pool="100.65.0.0/24"), nb, lab.sb)
    assert dict(moved.routers["GR_n1"].external_ids)["millrace:service-address"] == "100.65.0.1"


@pytest.mark.parametrize(
    ("lab", "name"),
    [
        (vpc_lab().router("GR_n1"), "router GR_n1"),
        (vpc_lab().switch("ext_n1"), "switch ext_n1"),
        (vpc_lab().switch("millrace-join"), "switch millrace-join"),
    ],
)
def test_a_foreign_row_of_our_name_is_left_alone(lab: Lab, name: str) -> None:
    found = plan(ONE, lab)
    assert name in causes(found)
    assert rows(found) == NbPlan()


@pytest.mark.parametrize(
    ("lab", "cause"),
    [
        (Lab().chassis("n1"), "no router has that name"),
        (
            Lab()
            .chassis("n1")
            .switch("s")
            .router("vpc0")
            .router_port("vpc0", "s", "p", "0a:00:00:00:00:01", "100.64.0.1/16"),
            "overlaps the join network",
        ),
    ],
)
def test_a_vpc_that_cannot_be_connected_is_a_problem_and_the_gateway_is_made(
    lab: Lab, cause: str
) -> None:
    found = plan(ONE, lab)
    assert cause in causes(found)
    assert set(found.routers) == {"GR_n1"}
    assert not any(key.router == "vpc0" for key in found.routes)


def test_a_foreign_default_route_is_kept_and_ours_not_put_beside_it() -> None:
    lab = vpc_lab().route("vpc0", "0.0.0.0/0", "10.1.0.254")
    found = plan(ONE, lab)
    assert RouteKey("vpc0", "0.0.0.0/0") not in found.routes
    assert RouteKey("vpc0", "100.64.255.1/32") in found.routes
    assert not any(key.router == "vpc0" for key in found.policies)
    assert "default route of its own" in causes(found)


def test_a_foreign_default_route_in_another_table_is_no_obstacle() -> None:
    lab = vpc_lab().route("vpc0", "0.0.0.0/0", "10.1.0.254", route_table="special")
    assert RouteKey("vpc0", "0.0.0.0/0") in plan(ONE, lab).routes


def test_two_vpcs_with_one_network_are_a_problem_and_the_first_of_the_file_wins() -> None:
    lab = vpc_lab().switch("sw1").router("vpc1")
    lab.router_port("vpc1", "sw1", "vpc1-sw1", "0a:00:00:00:00:02", "10.1.0.1/24")
    found = plan(cluster_config(gateway_config("n1", 111, "vpc1", "vpc0")), lab)
    vpc1 = found.router_ports["millrace-join-vpc1"].networks[0].split("/")[0]
    assert found.routes[RouteKey("GR_n1", "10.1.0.0/24")] == RouteRow(vpc1)
    assert "only vpc1's can be reached" in causes(found)


def test_the_provider_network_is_not_routed_into_a_vpc_that_has_a_leg_in_it() -> None:
    lab = vpc_lab().switch("sw1")
    lab.router_port("vpc0", "sw1", "vpc0-out", "0a:00:00:00:00:02", "172.18.0.5/24")
    assert RouteKey("GR_n1", "172.18.0.0/24") not in plan(ONE, lab).routes


def test_without_a_next_hop_the_gateway_has_no_default_route_and_the_vpc_has() -> None:
    cluster = cluster_config(replace(gateway_config("n1", 111), next_hop=None))
    found = plan(cluster, vpc_lab())
    assert RouteKey("GR_n1", "0.0.0.0/0") not in found.routes
    assert RouteKey("vpc0", "0.0.0.0/0") in found.routes


def test_two_entries_for_one_chassis_are_a_problem() -> None:
    cluster = cluster_config(
        gateway_config("n1", 111, physnet="b"), gateway_config("n1", 112, physnet="a")
    )
    found = plan(cluster, vpc_lab())
    assert found.router_ports["millrace-ext-n1"].networks == ("172.18.0.112/24",)
    assert "two entries" in causes(found)


def test_no_gateways_no_rows() -> None:
    lab = vpc_lab()
    nb = applied(lab.nb, plan(TWO, lab))
    assert northbound(cluster_config(), nb, lab.sb) == NbPlan()


def test_a_route_of_ours_that_is_there_twice_is_not_what_any_plan_has() -> None:
    lab = vpc_lab()
    lab.route("vpc0", "10.9.0.0/24", "10.1.0.2", external_ids=OURS)
    lab.route("vpc0", "10.9.0.0/24", "10.1.0.3", external_ids=OURS)
    assert owned(lab.nb).routes == {RouteKey("vpc0", "10.9.0.0/24"): RouteRow("twice")}


def test_a_gateway_router_of_ours_is_no_vpc() -> None:
    lab = vpc_lab()
    nb = applied(lab.nb, plan(ONE, lab))
    found = northbound(cluster_config(gateway_config("n1", 111, "vpc0", "GR_n1")), nb, lab.sb)
    assert "gateway router of ours" in causes(found)
    assert rows(found) == rows(plan(ONE, lab))


def test_a_vpc_whose_only_gateway_could_not_be_made_is_not_touched() -> None:
    cluster = replace(ONE, service_pool="100.64.255.0/32")
    lab = vpc_lab().router("edge", external_ids={"millrace:service-address": "100.64.255.0"})
    assert rows(plan(cluster, lab)) == NbPlan()


@pytest.mark.parametrize("name", ["n1", "n2"])
def test_a_chassis_that_somebody_changed_in_our_router_costs_nobody_an_address(name: str) -> None:
    lab = vpc_lab()
    first = plan(TWO, lab)
    nb = applied(lab.nb, first)
    tampered = {
        uuid: replace(router, options={"chassis": name}) if "GR_" in router.name else router
        for uuid, router in nb.routers.items()
    }
    assert northbound(TWO, replace(nb, routers=tampered), lab.sb) == first


SIX = replace(
    cluster_config(
        replace(
            gateway_config("n1", 111),
            address6=IPv6Interface("2001:db8:18::111/64"),
            next_hop6="2001:db8:18::1",
        ),
        gateway_config("n2", 112),
    ),
    join6="fd00:64::/64",
    service_pool6="fd00:64:ff::/64",
)


def vpc_lab6() -> Lab:
    lab = vpc_lab()
    return lab.router_port(
        "vpc0", "sw0", "vpc0-sw6", "0a:00:00:00:00:06", "fd00:10:1::1/64", "fe80::6/64"
    )


def test_both_families_are_routed_alike() -> None:
    found = plan(SIX, vpc_lab6())
    assert found.problems == ()
    assert dict(found.routers["GR_n1"].external_ids) == {
        "millrace:service-address": "100.64.255.1",
        "millrace:service-address6": "fd00:64:ff::1",
    }
    ports = {name: row.networks for name, row in found.router_ports.items()}
    assert ports == {
        "millrace-ext-n1": ("172.18.0.111/24", "2001:db8:18::111/64"),
        "millrace-ext-n2": ("172.18.0.112/24",),
        "millrace-join-GR_n1": ("100.64.0.1/24", "fd00:64::1/64"),
        "millrace-join-GR_n2": ("100.64.0.2/24", "fd00:64::2/64"),
        "millrace-join-vpc0": ("100.64.0.3/24", "fd00:64::3/64"),
    }
    six = {k: v for k, v in found.routes.items() if ":" in k.prefix}
    assert six == {
        RouteKey("GR_n1", "fd00:10:1::/64"): RouteRow("fd00:64::3"),
        RouteKey("GR_n1", "::/0"): RouteRow("2001:db8:18::1"),
        RouteKey("GR_n1", "fd00:64:ff::1/128"): RouteRow("fd00:64:ff::1", "millrace-ext-n1"),
        RouteKey("GR_n2", "fd00:10:1::/64"): RouteRow("fd00:64::3"),
        RouteKey("GR_n2", "fd00:64:ff::2/128"): RouteRow("fd00:64:ff::2", "millrace-ext-n2"),
        RouteKey("vpc0", "fd00:64:ff::1/128"): RouteRow("fd00:64::1"),
        RouteKey("vpc0", "fd00:64:ff::2/128"): RouteRow("fd00:64::2"),
        RouteKey("vpc0", "::/0"): RouteRow("fd00:64::1"),
    }
    macs = {k: v.mac for k, v in found.static_macs.items() if ":" in k.ip}
    # Every MAC is the one of the IPv4 address beside it: svc0 and the ports have one each.
    assert macs == {
        MacKey("millrace-ext-n1", "fd00:64:ff::1"): "0a:58:64:40:ff:01",
        MacKey("millrace-ext-n2", "fd00:64:ff::2"): "0a:58:64:40:ff:02",
        MacKey("millrace-join-GR_n1", "fd00:64::3"): "0a:58:64:40:00:03",
        MacKey("millrace-join-GR_n2", "fd00:64::3"): "0a:58:64:40:00:03",
        MacKey("millrace-join-vpc0", "fd00:64::1"): "0a:58:64:40:00:01",
        MacKey("millrace-join-vpc0", "fd00:64::2"): "0a:58:64:40:00:02",
    }
    join = 'outport == "millrace-join-vpc0"'
    assert {
        k.match: ", ".join(v.nexthops)
        for k, v in found.policies.items()
        if k.router == "vpc0" and "6" in k.match
    } == {
        f"{join} && (ip4.dst == 100.64.0.0/24 || ip4.dst == 100.64.255.0/24)": "",
        f"{join} && (ip6.dst == fd00:64::/64 || ip6.dst == fd00:64:ff::/64)": "",
        f'{join} && ip6 && is_chassis_resident("millrace-ext-n1")': "fd00:64::1",
        f'{join} && ip6 && is_chassis_resident("millrace-ext-n2")': "fd00:64::2",
    }


def test_ipv6_is_added_to_and_taken_from_a_cluster_without_touching_ipv4() -> None:
    lab = vpc_lab6()
    four = plan(TWO, lab)
    nb = applied(lab.nb, four)
    six = northbound(SIX, nb, lab.sb)
    assert {k: v for k, v in six.routes.items() if ":" not in k.prefix} == four.routes
    assert {k: v for k, v in six.static_macs.items() if ":" not in k.ip} == four.static_macs
    nb = applied(nb, six)
    assert owned(nb) == rows(six)
    assert northbound(SIX, nb, lab.sb) == six
    assert northbound(TWO, nb, lab.sb) == four


def test_a_vpc_that_has_the_join_network_of_ipv6_itself_has_ipv4_alone() -> None:
    lab = vpc_lab()
    lab.router_port("vpc0", "sw0", "vpc0-sw6", "0a:00:00:00:00:06", "fd00:64::9/80")
    found = plan(SIX, lab)
    assert "overlaps the join network fd00:64::/64" in causes(found)
    assert found.router_ports["millrace-join-vpc0"].networks == ("100.64.0.3/24",)
    assert not any(":" in key.prefix for key in found.routes if key.router == "vpc0")


def test_a_full_pool_of_ipv6_leaves_ipv4() -> None:
    found = plan(replace(SIX, service_pool6="fd00:64:ff::/128"), vpc_lab6())
    assert set(found.routers) == {"GR_n1", "GR_n2"}
    assert dict(found.routers["GR_n2"].external_ids) == {"millrace:service-address": "100.64.255.2"}
    assert "no address is left for n2" in causes(found)


def test_a_foreign_default_route_of_one_family_keeps_only_that_one_out() -> None:
    lab = vpc_lab6().route("vpc0", "::/0", "fd00:10:1::fe")
    found = plan(SIX, lab)
    assert RouteKey("vpc0", "::/0") not in found.routes
    assert RouteKey("vpc0", "0.0.0.0/0") in found.routes
    assert "default route of its own, to fd00:10:1::fe" in causes(found)


def test_a_chassis_without_a_sign_of_life_is_marked_and_nobodys_default_route() -> None:
    lab = vpc_lab()
    first = plan(TWO, lab)
    found = northbound(TWO, applied(lab.nb, first), lab.sb, down={"n1"})
    assert ("millrace:down", "true") in found.routers["GR_n1"].external_ids
    assert found.routes[RouteKey("vpc0", "0.0.0.0/0")] == RouteRow("100.64.0.2")
    assert northbound(TWO, applied(lab.nb, found), lab.sb) == first
