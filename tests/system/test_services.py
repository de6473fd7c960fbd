"""Every semantic of docs/services.md with real sockets: two nodes, OVS-DPDK on AF_XDP uplinks."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from ipaddress import ip_address

import pytest

from bpf.abi import Limit
from bpf.pick import Candidate, flow_slot, member_key, pick
from dataplane.drivers.processes import wait_until
from tests.labs import servicenodes, traffic
from tests.labs.lab import PORT
from tests.labs.servicenodes import (
    CLIENT,
    CLIENT6,
    CLIENT6_TWO,
    CLIENT_TWO,
    NODES,
    NODES6,
    ServiceLab,
    backends4,
    backends6,
    pod4,
    pod6,
)
from tests.labs.traffic import Answers

ROUTED, ROUTED6 = "10.96.0.{}", "fd96::{}"
EAST, EAST6 = "10.96.0.26", "fd96::26"
ON_LINK, ON_LINK6 = "172.18.0.2{:02}", "fd18::2:{}"
SHORT_S = 1.5
"""What a client waits for an answer that must not come [s]."""


@pytest.fixture(scope="module")
def lab(progress: Callable[[str], None]) -> Iterator[ServiceLab]:
    """Two serving nodes, for this file."""
    with ServiceLab("mrsvc", progress) as built:
        yield built


def served(lab: ServiceLab, address: str, port: int, count: int = 12, **options: object) -> Answers:
    """HTTP requests that all must be answered."""
    found = traffic.http(lab.client, address, port, count, **options)
    assert found.all_ok, found.failures
    return found


def silent(lab: ServiceLab, address: str, port: int, **options: object) -> str:
    """The failure of a request that must not be answered."""
    found = traffic.http(lab.client, address, port, 1, timeout=SHORT_S, **options)
    assert found.ok == 0, found.names
    return found.failures[0]


# -- kinds of addresses ---------------------------------------------------------------


def test_cluster_ip_from_outside_is_masqueraded_in_both_families(lab: ServiceLab) -> None:
    vip, vip6 = ROUTED.format(10), ROUTED6.format("10")
    rows = {f"{vip}:80": backends4("c1", "c2", "c3"), f"[{vip6}]:80": backends6("c1", "c2", "c3")}
    with lab.serving("kinds", rows, kind="clusterip"):
        for address, client in ((vip, CLIENT), (vip6, f"[{CLIENT6}]")):
            found = served(lab, address, 80, 40)
            assert set(found.names) == {"c1", "c2", "c3"}
            assert client not in found.peers


def test_node_ports_on_every_node_in_both_families_by_protocol(lab: ServiceLab) -> None:
    both = {"0.0.0.0:30080": backends4("c1", "c3"), "[::]:30080": backends6("c1", "c3")}
    with (
        lab.serving("np-tcp", both, kind="nodeport", service="demo/np:tcp"),
        lab.serving("np-udp", {"0.0.0.0:30080": backends4("c2")}, "udp", kind="nodeport"),
    ):
        for address in (*NODES, *NODES6):
            assert set(served(lab, address, 30080, 30).names) == {"c1", "c3"}
        for address in NODES:
            datagrams = traffic.udp(lab.client, address, 30080, 5)
            assert datagrams.names == {"c2": 5}, datagrams.failures


@pytest.mark.parametrize("kind", ["loadbalancer", "external"])
def test_a_vip_on_the_segment_is_answered_by_arp_and_nd(lab: ServiceLab, kind: str) -> None:
    vip, vip6 = ON_LINK.format(1), ON_LINK6.format(1)
    rows = {f"{vip}:80": backends4("c1", "c3"), f"[{vip6}]:80": backends6("c1", "c3")}
    with lab.serving("wire", rows, kind=kind):
        for address in (vip, vip6):
            assert set(served(lab, address, 80, 30).names) == {"c1", "c3"}
        owners = [
            line
            for line in lab.client.run("ip", "neigh", "show", "to", vip).splitlines()
            if "lladdr" in line
        ]
        assert len(owners) == 1


def test_host_port_reaches_this_nodes_pod_only(lab: ServiceLab) -> None:
    with lab.serving("hp", {"0.0.0.0:8089": backends4("c1")}, kind="hostport", nodes=(0,)):
        assert served(lab, NODES[0], 8089, 3).names == {"c1": 3}
        silent(lab, NODES[1], 8089)


def test_one_service_on_several_ports_with_other_target_ports(lab: ServiceLab) -> None:
    vip = ROUTED.format(11)
    with lab.serving("ports", {f"{vip}:80": backends4("c1"), f"{vip}:8443": backends4("c3")}):
        assert served(lab, vip, 80, 3).names == {"c1": 3}
        assert served(lab, vip, 8443, 3).names == {"c3": 3}


# -- policies ---------------------------------------------------------------


def test_external_policy_local_keeps_the_clients_address_and_is_strict(lab: ServiceLab) -> None:
    rows = {"0.0.0.0:30081": backends4("c1"), "[::]:30081": backends6("c1")}
    with lab.serving("local", rows, kind="nodeport", traffic_policy="local"):
        assert served(lab, NODES[0], 30081, 4, source=CLIENT).peers == {CLIENT: 4}
        assert served(lab, NODES6[0], 30081, 4, source=CLIENT6).peers == {f"[{CLIENT6}]": 4}
        for address in (NODES[1], NODES6[1]):
            assert "timed out" in silent(lab, address, 30081).lower()


def test_a_health_check_node_port_tells_which_node_has_endpoints(lab: ServiceLab) -> None:
    rows = {"0.0.0.0:30082": backends4("c1")}
    with lab.serving(
        "health", rows, kind="nodeport", traffic_policy="local", health_check_node_port="32100",
        service="demo/health:http",
    ):  # fmt: skip

        def codes() -> list[str]:
            return [
                lab.client.run("curl", "-s", "-m", "2", "-o", "/dev/null", "-w", "%{http_code}",
                               f"http://{node}:32100/", check=False)
                for node in NODES
            ]  # fmt: skip

        wait_until(lambda: codes() == ["200", "503"], "200 where c1 is, 503 elsewhere")


def test_source_ranges_admit_and_drop(lab: ServiceLab) -> None:
    vip, vip6 = ROUTED.format(12), ROUTED6.format("12")
    rows = {f"{vip}:80": backends4("c1"), f"[{vip6}]:80": backends6("c1")}
    with lab.serving("ranges", rows, source_ranges=f"{CLIENT}/32,{CLIENT6}/128"):
        for address, good, bad in ((vip, CLIENT, CLIENT_TWO), (vip6, CLIENT6, CLIENT6_TWO)):
            served(lab, address, 80, 2, source=good)
            assert "timed out" in silent(lab, address, 80, source=bad).lower()


def test_topology_hints_keep_traffic_in_the_zone(lab: ServiceLab) -> None:
    hints = {
        f"{pod4('c1')}:{PORT}": {"zones": ["east"]},
        f"{pod4('c3')}:{PORT}": {"zones": ["west"]},
    }
    rows = {"0.0.0.0:30083": backends4("c1", "c3")}
    with lab.serving("zones", rows, kind="nodeport", endpoints=json.dumps(hints)):
        assert set(served(lab, NODES[0], 30083).names) == {"c1"}
        assert set(served(lab, NODES[1], 30083).names) == {"c3"}


# -- endpoints ---------------------------------------------------------------


def test_terminating_endpoints_serve_only_when_nothing_else_is_ready(lab: ServiceLab) -> None:
    vip = ROUTED.format(14)
    rows = {f"{vip}:80": backends4("c1", "c2")}
    leaving = {f"{pod4('c1')}:{PORT}": {"state": "terminating"}}
    with lab.serving("leave", rows, endpoints=json.dumps(leaving)):
        assert served(lab, vip, 80).names == {"c2": 12}
    leaving[f"{pod4('c2')}:{PORT}"] = {"state": "unready"}
    with lab.serving("leave", rows, endpoints=json.dumps(leaving)):
        assert served(lab, vip, 80).names == {"c1": 12}


def test_unready_endpoints_serve_if_published(lab: ServiceLab) -> None:
    vip = ROUTED.format(15)
    rows = {f"{vip}:80": backends4("c1")}
    unready = json.dumps({f"{pod4('c1')}:{PORT}": {"state": "unready"}})
    with lab.serving("unready", rows, endpoints=unready):
        assert "refused" in silent(lab, vip, 80).lower()
    with lab.serving("unready", rows, endpoints=unready, publish_not_ready="true"):
        served(lab, vip, 80, 3)


def test_without_endpoints_clients_are_refused_or_met_with_silence(lab: ServiceLab) -> None:
    vip, vip6 = ROUTED.format(16), ROUTED6.format("16")
    with (
        lab.serving("none", {f"{vip}:80": "", f"[{vip6}]:80": ""}),
        lab.serving("none-udp", {f"{vip}:53": ""}, "udp"),
        lab.serving("quiet", {f"{vip}:81": ""}, options={"reject": "false"}),
    ):
        for address in (vip, vip6):
            assert "refused" in silent(lab, address, 80).lower()
        datagram = traffic.udp(lab.client, vip, 53, 1, timeout=SHORT_S)
        assert "refused" in datagram.failures[0].lower()
        assert "timed out" in silent(lab, vip, 81).lower()


def test_weights_share_new_connections(lab: ServiceLab) -> None:
    vip = ROUTED.format(17)
    weights = json.dumps({f"{pod4('c1')}:{PORT}": {"weight": 9}})
    with lab.serving("weights", {f"{vip}:80": backends4("c1", "c2")}, endpoints=weights):
        found = served(lab, vip, 80, 400)
        # 9 of 10 expected; 5 standard deviations of 400 draws are 30.
        assert 330 <= found.names["c1"] <= 390


def _other_client(vip: str, backends: list[str]) -> str:
    """A client's address that the last of the backends is picked for by the client's slot."""
    targets = [f"{backend}/tcp" for backend in backends]
    members = sorted(Candidate(member_key(t), at) for at, t in enumerate(targets, start=1))
    zero = ip_address("0.0.0.0")
    for client in (CLIENT, CLIENT_TWO):
        slot = flow_slot(ip_address(client), 0, zero, 0, 6, Limit.PICK_SEED)
        if pick(slot, members) != 1:
            return client
    pytest.fail(f"both clients of {vip} go to the first backend: choose other addresses")


def test_affinity_lasts_as_long_as_each_service_says(lab: ServiceLab) -> None:
    short, long = ROUTED.format(18), ROUTED.format(19)
    everyone = [f"{pod4(name)}:{PORT}" for name in ("c1", "c2", "c3")]
    client = _other_client(short, everyone)

    def rows(*names: str) -> None:
        for name, vip, timeout in (("aff-short", short, "2"), ("aff-long", long, "600")):
            lab.declare(
                name, {f"{vip}:80": backends4(*names)}, options={"affinity_timeout": timeout}
            )
        count = len(names)
        lab.wait_settled({f"{short}:80/tcp": count, f"{long}:80/tcp": count})

    try:
        rows("c1")
        for vip in (short, long):
            assert served(lab, vip, 80, 3, source=client).names == {"c1": 3}
        rows("c1", "c2", "c3")
        # Each new connection renews it: longer than the timeout, but never idle for so long.
        for _ in range(3):
            assert served(lab, short, 80, 2, source=client).names == {"c1": 2}
            time.sleep(1)
        time.sleep(3)
        moved = served(lab, short, 80, 5, source=client).names
        assert len(moved) == 1
        assert "c1" not in moved
        assert served(lab, long, 80, 5, source=client).names == {"c1": 5}
        rows("c2", "c3")
        assert "c1" not in served(lab, long, 80, 5, source=client).names
    finally:
        lab.withdraw("aff-short", "aff-long")


def test_dsr_hands_the_packet_to_the_backends_node(lab: ServiceLab) -> None:
    vip, vip6 = ON_LINK.format(2), ON_LINK6.format(2)
    rows = {f"{vip}:80": backends4("c1", "c3"), f"[{vip6}]:80": backends6("c1", "c3")}
    with lab.serving("dsr", rows, forwarding="dsr"):
        for address, client in ((vip, CLIENT), (vip6, CLIENT6)):
            found = served(lab, address, 80, 40, source=client)
            # Whoever owns the VIP, one of them is on the other node.
            assert set(found.names) == {"c1", "c3"}
            assert set(found.peers) == {client if ":" not in client else f"[{client}]"}


def test_internal_policy_local_behind_ovn_is_this_nodes(lab: ServiceLab) -> None:
    vip = ROUTED.format(25)
    rows = {f"{vip}:80": backends4("c2", "c3")}
    with lab.serving("inner", rows, kind="clusterip", internal_traffic_policy="local"):
        for pod, names in (("c1", {"c2"}), ("c3", {"c3"})):
            found = traffic.http(lab.pods[pod], vip, 80, 8)
            assert set(found.names) == names, found.failures


EAST_ROWS = {f"{EAST}:80": backends4("c2", "c3"), f"[{EAST6}]:80": backends6("c2", "c3")}


def test_backends_in_nodes_own_networks_serve_everybody(lab: ServiceLab) -> None:
    """As default/kubernetes: the API servers of both nodes."""
    vip, vip6 = ROUTED.format(27), ROUTED6.format("27")
    rows = {
        f"{vip}:443": ",".join(f"{node}:6443" for node in NODES),
        f"[{vip6}]:443": ",".join(f"[{node}]:6443" for node in NODES6),
    }
    kept = {"0.0.0.0:30084": f"{NODES[0]}:6443,{NODES[1]}:6443"}
    with (
        lab.processes_of_nodes(6443),
        lab.serving("kubernetes", rows, kind="clusterip"),
        lab.serving("ingress", kept, kind="nodeport", traffic_policy="local"),
    ):
        for where in (lab.client, lab.pods["c1"], lab.pods["c3"]):
            for address in (vip, vip6):
                found = traffic.http(where, address, 443, 30)
                assert found.all_ok, (where.name, address, found.failures)
                assert set(found.names) == {"node1", "node2"}
        for at, node in enumerate(NODES):
            found = served(lab, node, 30084, 5, source=CLIENT)
            assert (found.names, found.peers) == ({f"node{at + 1}": 5}, {CLIENT: 5})


def test_pods_reach_cluster_ips_by_svc0_in_both_families(lab: ServiceLab) -> None:
    with lab.serving("east-west", EAST_ROWS, kind="clusterip"):
        for address in (EAST, EAST6):
            found = traffic.http(lab.pods["c1"], address, 80, 30)
            assert set(found.names) == {"c2", "c3"}, found.failures


def test_pods_reach_cluster_ips_by_their_switch_where_the_file_says_so(lab: ServiceLab) -> None:
    with lab.serving("east-west", EAST_ROWS, kind="clusterip"), lab.led_by_switches():
        for address in (EAST, EAST6):
            found = traffic.http(lab.pods["c1"], address, 80, 30)
            assert set(found.names) == {"c2", "c3"}, found.failures
            assert {peer.strip("[]") for peer in found.peers} <= {pod4("c1"), pod6("c1")}
            served(lab, address, 80)
            # Where OVN commits, it does not translate to nothing, or vswitchd may end (0033).
            commits = [flow for flow in lab.nodes[0].megaflows() if "ct(commit" in flow]
            assert commits
            assert not [flow for flow in commits if "nat(src)" in flow]


def test_a_port_without_service_is_refused_and_echo_is_answered(lab: ServiceLab) -> None:
    vip, vip6 = ON_LINK.format(3), ON_LINK6.format(3)
    rows = {f"{vip}:80": backends4("c1"), f"[{vip6}]:80": backends6("c1")}
    with lab.serving("alone", rows):
        for address in (vip, vip6):
            served(lab, address, 80, 2)
            assert "refused" in silent(lab, address, 81).lower()
            assert traffic.ping(lab.client, address, 3)[0] == 3


# -- packets ---------------------------------------------------------------


def test_datagrams_in_fragments_pass_both_ways(lab: ServiceLab) -> None:
    vip, vip6 = ROUTED.format(20), ROUTED6.format("20")
    rows = {f"{vip}:53": backends4("c1"), f"[{vip6}]:53": backends6("c1")}
    with lab.serving("frags", rows, "udp"):
        for address in (vip, vip6):
            # 4,000 octets of request, and as many and a line in the answer.
            lab.client.run("ip", "route", "flush", "cache", check=False)
            found = traffic.udp(lab.client, address, 53, 5, size=4000)
            assert found.ok >= 4, found.failures  # the first may teach the path's MTU


def test_path_mtu_discovery_works_through_a_vip(lab: ServiceLab) -> None:
    vip, vip6 = ROUTED.format(21), ROUTED6.format("21")
    rows = {f"{vip}:53": backends4("c3"), f"[{vip6}]:53": backends6("c3")}
    with lab.serving("pmtu", rows, "udp"):
        for address in (vip, vip6):
            # With "don't fragment", as the kernel sends it: too big for the backend's path.
            first = traffic.udp(lab.client, address, 53, 1, size=1440, timeout=SHORT_S)
            assert first.ok == 0
            assert "mtu 1442" in lab.client.run("ip", "route", "get", address)
            again = traffic.udp(lab.client, address, 53, 3, size=1440)
            assert again.all_ok, again.failures


OPTIONS = """
import socket, sys
four = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
four.setsockopt(socket.IPPROTO_IP, socket.IP_OPTIONS, bytes([1, 1, 1, 1]))
six = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
six.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_DSTOPTS, bytes([0, 0, 1, 4, 0, 0, 0, 0]))
for each, address in ((four, sys.argv[1]), (six, sys.argv[2])):
    each.settimeout(5)
    each.connect((address, 53))
    each.send(b"with options")
    print(each.recv(2048).decode())
"""
"""NOPs in an IPv4 header (RFC 791), PadN in a destination options header (RFC 8200)."""


def test_options_and_extension_headers_pass_through(lab: ServiceLab) -> None:
    vip, vip6 = ROUTED.format(27), ROUTED6.format("27")
    rows = {f"{vip}:53": backends4("c1"), f"[{vip6}]:53": backends6("c1")}
    with lab.serving("options", rows, "udp"):
        said = lab.client.run(traffic.PYTHON, "-c", OPTIONS, vip, vip6)
        assert said.count("name=c1") == 2
        assert said.count("with options") == 2


# -- life ---------------------------------------------------------------


def test_a_removed_backend_keeps_its_tcp_streams_and_loses_its_datagrams(lab: ServiceLab) -> None:
    vip = ROUTED.format(22)
    tcp, udp = {f"{vip}:80": backends4("c1")}, {f"{vip}:53": backends4("c1")}
    with lab.serving("life", tcp), lab.serving("life-udp", udp, "udp"):
        with traffic.beside(lab.client, "echo", vip, 80, 0) as stream:
            assert stream.server() == "c1"
            assert traffic.udp(lab.client, vip, 53, 1).names == {"c1": 1}
            lab.declare("life", {f"{vip}:80": backends4("c2")})
            lab.declare("life-udp", {f"{vip}:53": backends4("c2")}, "udp")
            wait_until(lambda: "c2" in traffic.udp(lab.client, vip, 53, 1).names, "datagrams at c2")
            assert served(lab, vip, 80, 5).names == {"c2": 5}
            time.sleep(0.5)
        assert stream.result["error"] == ""
        assert stream.result["lines"] > 5


def test_refused_services_are_named_and_the_others_go_on(lab: ServiceLab) -> None:
    vip = ROUTED.format(23)
    lab.declare("a-first", {"0.0.0.0:30090": backends4("c1")}, kind="nodeport", service="d/a:x")
    lab.declare("b-second", {"0.0.0.0:30090": backends4("c2")}, kind="nodeport", service="d/b:x")
    lab.declare("c-zero", {f"{vip}:0": backends4("c1")})
    lab.declare("d-family", {f"{vip}:82": backends6("c1")})
    lab.declare("e-twice", {f"{vip}:80": backends4("c2")})
    try:
        with lab.serving("a-vip", {f"{vip}:80": backends4("c1")}):
            assert served(lab, vip, 80, 3).names == {"c1": 3}
            assert served(lab, NODES[0], 30090, 3).names == {"c1": 3}
            problems = [str(problem) for problem in lab.nodes[0].ask("status")["problems"]]
            for name in ("b-second", "c-zero", "d-family", "e-twice"):
                assert any(name in problem for problem in problems), (name, problems)
            assert not any("a-first" in p and "b-second" not in p for p in problems)
    finally:
        lab.withdraw("a-first", "b-second", "c-zero", "d-family", "e-twice")


def test_a_backend_reaches_its_own_vip(lab: ServiceLab) -> None:
    vip = ROUTED.format(24)
    with lab.serving("hairpin", {f"{vip}:80": backends4("c1")}, kind="clusterip"):
        found = traffic.http(lab.pods["c1"], vip, 80, 3)
        assert found.names == {"c1": 3}, found.failures


assert servicenodes.PODS["c3"][0] == 1, "c3 is on the second node in what is written here"
