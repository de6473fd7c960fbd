"""The hosts' own way to workloads: the files, the northbound rows, and a node's plan of them."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address, IPv4Interface, IPv4Network, IPv6Network, ip_interface, ip_network
from pathlib import Path

import pytest

from controller.cli.read import status_text
from controller.config import ConfigProblems, parse_cluster, parse_node
from controller.translate.central import northbound
from controller.translate.hostaccess import host_access
from controller.translate.index import Index
from controller.translate.nbrows import NbPlan, RouterPortRow, SwitchPortRow
from controller.translate.owned import owned
from controller.views import host_view
from dataplane.drivers.routes import PROTOCOL
from dataplane.model.addr import Mac
from dataplane.model.config import ClusterConfig, HostConfig, HostsConfig
from dataplane.model.hostrows import ROUTE_TABLE, KernelRoute, SourceRule
from dataplane.model.state import HostAccess
from dataplane.plan.mtu import AF_XDP_MTU
from dataplane.plan.node import TABLE_ORDER, plan
from tests.labs.ovnrows import Lab, applied, cluster_config, gateway_config, vpc_lab
from tests.labs.planned import CONFIG, STATE

FOUR, SIX = IPv4Network("100.65.0.0/24"), IPv6Network("fd00:102::/64")
HOSTS = HostsConfig(FOUR, None, ("n1", "n2"), ("vpc0",))
CLUSTER = """\
[cluster]
nb = "unix:/run/millrace/node1/nb.sock"
sb = "unix:/run/millrace/node1/sb.sock"
join6 = "fd00:100::/64"
service_pool6 = "fd00:101::/64"

[[gateway]]
chassis = "node1"
physnet = "physnet1"
address = "172.18.0.111/24"
routers = ["vpc0", "vpc1"]

[[gateway]]
chassis = "node2"
physnet = "physnet1"
address = "172.18.0.112/24"
routers = ["vpc0"]

[hosts]
"""
NODE = """\
[node]
name = "node1"
[[bridge]]
name = "br-ex"
[[uplink]]
device = "up0"
bridge = "br-ex"
mode = "af_xdp"
[host]
"""


def with_hosts(hosts: HostsConfig = HOSTS, *gateways: int) -> ClusterConfig:
    made = (gateway_config(f"n{n}", 110 + n) for n in gateways)
    return replace(cluster_config(*made), hosts=hosts)


def rows(cluster: ClusterConfig, lab: Lab) -> NbPlan:
    return northbound(cluster, lab.nb, lab.sb)


def causes(found: NbPlan) -> str:
    return "\n".join(f"{p.name}: {p.cause}" for p in found.problems)


# -- the files ------------------------------------------------------------------------------------


def test_the_network_alone_means_the_gateways_chassis_and_routers() -> None:
    found = parse_cluster(f'{CLUSTER}network = "100.65.0.0/24"\n', "c.toml").hosts
    assert found == HostsConfig(FOUR, None, ("node1", "node2"), ("vpc0", "vpc1"))


def test_every_key_of_hosts_is_taken() -> None:
    text = (
        f'{CLUSTER}network = "100.65.0.0/24"\nnetwork6 = "fd00:102::/64"\n'
        'chassis = ["node3"]\nrouters = ["vpc9"]\n'
    )
    found = parse_cluster(text, "c.toml").hosts
    assert found == HostsConfig(FOUR, SIX, ("node3",), ("vpc9",))


def test_without_the_table_there_is_no_hosts_network() -> None:
    assert parse_cluster(CLUSTER.removesuffix("[hosts]\n"), "c.toml").hosts is None


BAD_HOSTS = (
    ("", "hosts.network is missing"),
    ('network = "100.65.0.1/24"', "host bits"),
    ('network = "100.65.0.0/30"', "too few for a cluster"),
    ('network = "100.64.0.0/16"', "cluster.join 100.64.0.0/24 overlap"),
    ('network = "100.64.255.0/25"', "cluster.service_pool 100.64.255.0/24 overlap"),
    ('network = "10.97.0.0/16"', "cluster.service_ranges 10.96.0.0/12 overlap"),
    ('network = "100.65.0.0/24"\nnetwork6 = "fd00:100::/48"', "cluster.join6"),
    ('network = "100.65.0.0/24"\nnetwork6 = "100.66.0.0/24"', "hosts.network6"),
    ('network = "100.65.0.0/24"\nrouters = ["vpc0", "vpc0"]', "each is named once"),
    ('network = "100.65.0.0/24"\nchassis = "node1"', "it has to be an array"),
    ('network = "100.65.0.0/24"\nrouter = ["vpc0"]', "did you mean routers?"),
)


@pytest.mark.parametrize(("lines", "words"), BAD_HOSTS, ids=lambda text: text)
def test_a_bad_table_of_hosts_is_refused_at_its_line(lines: str, words: str) -> None:
    with pytest.raises(ConfigProblems) as refused:
        parse_cluster(f"{CLUSTER}{lines}\n", "c.toml")
    assert words in str(refused.value)
    assert {problem.line for problem in refused.value.problems} <= {
        CLUSTER.count("\n") + line for line in (0, 1, 2)
    }


def test_a_node_has_ovn0_unless_its_file_says_otherwise() -> None:
    assert parse_node(NODE, "n.toml").host == HostConfig("ovn0", 1)
    assert parse_node(f'{NODE}link = "own0"\nqueues = 2\n', "n.toml").host == HostConfig("own0", 2)
    assert parse_node(f'{NODE}link = ""\n', "n.toml").host.link == ""


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ('link = "up0"', "the name of a bridge"),
        ('link = "svc0"', "the service link already"),
        ('link = "much-too-long"', "up to 11 letters"),
        ("queues = 0", "the range is 1..16"),
    ],
)
def test_a_bad_table_of_the_node_is_refused(line: str, words: str) -> None:
    with pytest.raises(ConfigProblems) as refused:
        parse_node(f"{NODE}{line}\n", "n.toml")
    assert words in str(refused.value)


# -- the northbound rows --------------------------------------------------------------------------


def test_each_chassis_and_each_vpc_router_gets_a_port_and_the_hosts_have_port_security() -> None:
    found = rows(with_hosts(), vpc_lab())
    assert found.problems == ()
    assert set(found.switches) == {"millrace-hosts"}
    assert found.router_ports == {
        "millrace-hosts-vpc0": RouterPortRow("vpc0", "0a:58:64:41:00:01", ("100.65.0.1/24",))
    }
    entries = {n: (f"0a:58:64:41:00:0{n + 1} 100.65.0.{n + 1}",) for n in (1, 2)}
    assert found.switch_ports == {
        "millrace-hosts-vpc0-peer": SwitchPortRow(
            "millrace-hosts", "router", ("router",), (("router-port", "millrace-hosts-vpc0"),)
        ),
        **{
            f"node-n{n}": SwitchPortRow(
                "millrace-hosts", "", entry, (("requested-chassis", f"n{n}"),), entry
            )
            for n, entry in entries.items()
        },
    }
    assert not (found.routers or found.routes or found.policies or found.static_macs)


def test_ipv6_is_added_to_the_same_ports() -> None:
    found = rows(with_hosts(replace(HOSTS, network6=SIX)), vpc_lab())
    entry = found.switch_ports["node-n1"].addresses[0]
    assert entry == "0a:58:64:41:00:02 100.65.0.2 fd00:102::2"
    assert found.router_ports["millrace-hosts-vpc0"].networks == (
        "100.65.0.1/24",
        "fd00:102::1/64",
    )


def test_what_was_applied_is_seen_as_ours_and_planned_again_the_same() -> None:
    cluster, lab = with_hosts(replace(HOSTS, network6=SIX), 1, 2), vpc_lab()
    first = rows(cluster, lab)
    lab.nb = applied(lab.nb, first)
    assert owned(lab.nb).switch_ports == first.switch_ports
    again = rows(cluster, lab)
    assert replace(again, problems=()) == replace(first, problems=())


def test_addresses_are_kept_when_a_smaller_name_joins_and_a_chassis_is_away() -> None:
    lab = vpc_lab()
    lab.nb = applied(lab.nb, rows(with_hosts(), lab))
    before = rows(with_hosts(), lab).switch_ports["node-n1"]
    lab = lab.chassis("n0").without_chassis("n1")
    found = rows(with_hosts(replace(HOSTS, chassis=("n0", "n1", "n2"))), lab)
    assert found.problems == ()
    assert found.switch_ports["node-n1"] == before
    assert found.switch_ports["node-n0"].addresses[0].endswith(" 100.65.0.4")


def test_without_the_setting_nothing_of_it_is_planned() -> None:
    lab = vpc_lab()
    lab.nb = applied(lab.nb, rows(with_hosts(HOSTS, 1), lab))
    found = rows(cluster_config(gateway_config("n1", 111)), lab)
    assert "millrace-hosts" not in found.switches
    assert not [name for name in found.switch_ports if name.startswith("node-")]


def test_a_chassis_that_never_was_and_a_router_that_is_none_are_problems() -> None:
    found = rows(with_hosts(replace(HOSTS, chassis=("n1", "n9"), routers=("vpc9",))), vpc_lab())
    assert "host n9: the southbound database has no such chassis" in causes(found)
    assert "router vpc9: no router" in causes(found)
    assert set(found.switch_ports) == {"node-n1"}


def test_a_vpc_that_has_the_hosts_network_itself_is_not_connected() -> None:
    wide = replace(HOSTS, network=IPv4Network("10.1.0.0/16"))
    found = rows(with_hosts(wide), vpc_lab())
    assert "router vpc0: its network 10.1.0.0/24 overlaps" in causes(found)
    assert not found.router_ports


def test_a_full_network_is_a_problem_and_the_others_work() -> None:
    small = replace(HOSTS, network=IPv4Network("100.65.0.0/30"))
    found = rows(with_hosts(small), vpc_lab())
    assert "no address is left for node-n2" in causes(found)
    assert set(found.switch_ports) == {"millrace-hosts-vpc0-peer", "node-n1"}


def test_a_foreign_switch_of_that_name_is_left_alone() -> None:
    found = rows(with_hosts(), vpc_lab().switch("millrace-hosts"))
    assert "switch millrace-hosts" in causes(found)
    assert not found.switch_ports


def twin_lab() -> Lab:
    return (
        vpc_lab()
        .router("vpc1")
        .switch("sw1")
        .router_port("vpc1", "sw1", "vpc1-sw1", "0a:00:00:00:00:02", "10.1.0.1/24", "10.9.0.1/24")
    )


def test_two_vpcs_with_one_network_are_a_problem_and_the_first_by_name_has_it() -> None:
    cluster, lab = with_hosts(replace(HOSTS, routers=("vpc1", "vpc0"))), twin_lab()
    found = rows(cluster, lab)
    assert "router vpc1: 10.1.0.0/24 is in vpc0, too" in causes(found)
    lab.nb = applied(lab.nb, found)
    seen = host_access(Index(lab.nb, lab.sb), "n1")
    assert seen is not None
    assert [(str(network), str(via)) for network, via in seen.routes] == [
        ("10.1.0.0/24", "100.65.0.1"),
        ("10.9.0.0/24", "100.65.0.2"),
    ]


# -- one node -------------------------------------------------------------------------------------


def test_a_node_sees_its_own_port_and_the_networks_behind_it() -> None:
    lab = vpc_lab()
    lab.nb = applied(lab.nb, rows(with_hosts(replace(HOSTS, network6=SIX), 1), lab))
    assert host_access(Index(lab.nb, lab.sb), "n2") == HostAccess(
        "node-n2",
        Mac("0a:58:64:41:00:03"),
        (ip_interface("100.65.0.3/24"), ip_interface("fd00:102::3/64")),
        ((ip_network("10.1.0.0/24"), IPv4Address("100.65.0.1")),),
    )
    assert host_access(Index(lab.nb, lab.sb), "n3") is None


def test_a_network_on_a_wire_is_not_routed_into_ovn() -> None:
    lab = vpc_lab().switch("wire").port("wire", "ln", "unknown", type="localnet")
    lab = lab.router_port("vpc0", "wire", "vpc0-wire", "0a:00:00:00:00:09", "172.18.0.200/24")
    lab.nb = applied(lab.nb, rows(with_hosts(), lab))
    seen = host_access(Index(lab.nb, lab.sb), "n1")
    assert seen is not None
    assert [str(network) for network, _ in seen.routes] == ["10.1.0.0/24"]


def test_a_port_that_somebody_else_made_is_not_taken() -> None:
    lab = vpc_lab().switch("millrace-hosts")
    lab = lab.port("millrace-hosts", "node-n1", "0a:00:00:00:00:09 100.65.0.9")
    assert host_access(Index(lab.nb, lab.sb), "n1") is None


ACCESS = HostAccess(
    "node-n1",
    Mac("0a:58:64:41:00:02"),
    (ip_interface("100.65.0.2/24"), ip_interface("fd00:102::2/64")),
    (
        (ip_network("10.1.0.0/24"), IPv4Address("100.65.0.1")),
        (ip_network("fd01::/64"), ip_interface("fd00:102::1/64").ip),
    ),
)


def test_the_plan_has_link_port_routes_and_rules() -> None:
    found = plan(replace(STATE, host=ACCESS))
    link = found.links["ovn0"]
    assert (link.peer_name, link.mac, link.mtu) == ("ovn0-ovs", ACCESS.mac, CONFIG.port_mtu)
    assert (link.queues, link.addresses) == (1, ACCESS.addresses)
    port = found.ports["ovn0-ovs"]
    assert (port.bridge, port.type) == ("br-int", "afxdp")
    assert port.options == (("n_rxq", "1"), ("xdp-mode", "native"))
    assert port.external_ids == (("iface-id", "node-n1"),)
    (four, via4), (six, via6) = ACCESS.routes
    own4, own6 = (address.ip for address in ACCESS.addresses)
    assert found.routes == {
        four: KernelRoute("ovn0", via4, own4),
        six: KernelRoute("ovn0", via6, own6),
    }
    assert found.rules == dict.fromkeys((own4, own6, IPv4Address(0)), SourceRule())
    # The programs for services are svc0's and the uplink's; none is ours on this link.
    assert "ovn0" not in found.programs
    assert "ovn0-ovs" not in found.programs


def test_status_says_by_what_the_host_reaches_what() -> None:
    view = host_view(ACCESS, "ovn0")
    assert view is not None
    assert view["routes"] == [
        {"network": "10.1.0.0/24", "via": "100.65.0.1"},
        {"network": "fd01::/64", "via": "fd00:102::1"},
    ]
    said = status_text({"host": view}, colour=False)
    assert "ovn0 100.65.0.2/24 fd00:102::2/64, to 10.1.0.0/24 fd01::/64" in said
    assert host_view(ACCESS, "") is None
    assert host_view(None, "ovn0") is None


def test_links_are_there_before_ports_and_routes() -> None:
    order = {name: place for place, name in enumerate(TABLE_ORDER)}
    assert order["links"] < order["ports"] < order["routes"] < order["rules"]


@pytest.mark.parametrize("access", [None, ACCESS])
def test_nothing_is_planned_without_a_port_or_a_link(access: HostAccess | None) -> None:
    config = replace(CONFIG, host=HostConfig("" if access else "ovn0"))
    found = plan(replace(STATE, config=config, host=access))
    assert not (found.routes or found.rules)
    assert "ovn0" not in found.links
    assert "ovn0-ovs" not in found.ports


def test_an_mtu_beyond_what_af_xdp_carries_is_cut_to_that() -> None:
    found = plan(replace(STATE, config=replace(CONFIG, port_mtu=8942), host=ACCESS))
    assert found.links["ovn0"].mtu == AF_XDP_MTU


def test_a_family_without_an_address_has_no_routes() -> None:
    only4 = replace(ACCESS, addresses=(IPv4Interface("100.65.0.2/24"),))
    found = plan(replace(STATE, host=only4))
    assert [network.version for network in found.routes] == [4]
    assert {source.version for source in found.rules} == {4}


def test_the_pages_numbers_are_the_codes() -> None:
    text = (Path(__file__).parents[2] / "docs" / "host.md").read_text(encoding="utf-8")
    assert f"table {ROUTE_TABLE}" in text
    assert f"rules of priority {SourceRule().priority}" in text
    assert f"protocol {PROTOCOL}" in text
    assert text.count("```toml") == 2
