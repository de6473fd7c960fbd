"""What a scrape says, and that it asks nobody."""

from __future__ import annotations

import gzip
import re
import socket
import urllib.request
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.openmetrics.exposition import generate_latest as openmetrics
from prometheus_client.openmetrics.parser import (
    text_string_to_metric_families as strict_families,
)
from prometheus_client.parser import text_string_to_metric_families

from controller.metrics import (
    Counted,
    MetricsSnapshot,
    NodeCollector,
    serve_metrics,
)
from controller.metrics_ovs import MOST_ZONES, ovs_families
from controller.metrics_ports import TopPorts, Workload, workload
from controller.metrics_services import ConntrackFigures, ServiceSeries, TopServices
from controller.metrics_text import TextWriter
from dataplane.drivers.ovsinterfaces import InterfaceState
from dataplane.drivers.ovsscrape import OvsFigures, read
from dataplane.drivers.ovstext import PmdThread
from dataplane.drivers.pmdtasks import Switches
from dataplane.drivers.processes import wait_until
from dataplane.drivers.servicestats import FIELDS, ServiceCounts
from dataplane.model.conntrack import FlowState
from dataplane.reconcile.statuses import Tally

GOLDEN = Path(__file__).parents[1] / "golden"

WEB = "default/web:http"


def port(name: str, kind: str = "", **more: Any) -> InterfaceState:
    return replace(
        InterfaceState(name, "br-int", kind, 1, "", "up", "up", 1500, {}, {}, {}), **more
    )


PORTS = (
    port("up0", "afxdp", bridge="br-ex", statistics={"rx_packets": 7, "rx_missed_errors": 3}),
    port("br-ex", bridge="br-ex", admin_state="weird", link_state="down", mtu=None),
    port(
        "vhu1",
        "dpdkvhostuserclient",
        statistics={
            "rx_packets": 5,
            "tx_packets": 4,
            "ovs_tx_failure_drops": 6,
            "ovs_tx_retries": 8,
        },
        status={"status": "connected", "num_of_vrings": "4", "numa": "1"},
    ),
    port("gnv0", "geneve", status={"tunnel_egress_iface_carrier": "up"}),
    port("vhu2", "dpdkvhostuserclient", status={"status": "disconnected"}, error="no such"),
)


def figures(*versions: str) -> OvsFigures:
    """What a poll brings that is answered by the samples of OVS 3.1, or of others by name."""
    answers = {}
    for path in sorted((GOLDEN / "ovs-3.1").glob("*.txt")):
        text = path.read_text(encoding="utf-8").partition("\n")[2]
        answers[path.stem] = text
    for name in versions:
        text = (GOLDEN / name).read_text(encoding="utf-8").partition("\n")[2]
        answers[name.rpartition("/")[2].removesuffix(".txt")] = text
    places = {
        "pmd-perf-show": "dpif-netdev/", "pmd-stats-show": "dpif-netdev/",
        "pmd-rxq-show": "dpif-netdev/", "get-mempool-info": "netdev-dpdk/",
        "get-malloc-stats": "dpdk/", "lacp-show-stats": "lacp/show-stats",
        "tnl-neigh-show": "tnl/neigh/show", "dpctl-show": "dpctl/show", "bond-show": "bond/show",
        "coverage-show": "coverage/show", "upcall-show": "upcall/show",
        "memory-show": "memory/show",
    }  # fmt: skip
    texts = {}
    for stem, text in answers.items():
        where = places.get(stem, "dpctl/")
        texts[where + stem if where.endswith("/") else where] = text
    return read(texts, {"dpctl/show": 0.25, "bond/show": 0.5}, {"upcall/show": 3})


FIGURES = figures("pmd-perf-show.txt", "pmd-rxq-show.txt")

SNAPSHOT = MetricsSnapshot(
    at=1000.0,
    converged=True,
    in_sync=True,
    rounds=3,
    writes=41,
    last_round_seconds=0.25,
    vswitchd_restarts=1,
    started_at=900.0,
    restart_pending=2,
    cpu_seconds=1.5,
    tables={"ports": Tally(rows=5, errors=1, pending=2, quarantined=1)},
    figures=FIGURES,
    switches={1: Switches(2, 411, 400)},
    ports=TopPorts().take(PORTS, {"vhu1": Workload("default", "virt-launcher-db-x7z9q", "db")}),
    xdp={"VIP_FORWARD": Counted(10, 1000), "XSK_IPV4": Counted(5, 500)},
    services=ServiceSeries(
        {"default/web:http": ServiceCounts(10, 1000, 9, 900, 2, (("full", 3),))},
        ServiceCounts(1, 64, 0, 0, 1),
        5,
    ),
    conntrack={"ipv4": ConntrackFigures(64, 32, {FlowState.SYN: 7})},
    evicted={"flows": 4, "replies": 0},
    ovs={"ovs_version": "3.1.0"},
    dpdk_initialized=True,
)


PORT = {"namespace": "", "pod": "", "vm": ""}
VM = {
    "bridge": "br-int",
    "port": "vhu1",
    "interface": "vhu1",
    "type": "dpdkvhostuserclient",
    "namespace": "default",
    "pod": "virt-launcher-db-x7z9q",
    "vm": "db",
}
POOL = "ovs7b6aaf3600021580262144"


class Held:
    def __init__(self, snapshot: MetricsSnapshot | None) -> None:
        self.snapshot = snapshot
        self.asked = 0

    def metrics(self) -> MetricsSnapshot | None:
        self.asked += 1
        return self.snapshot


def samples(
    snapshot: MetricsSnapshot | None,
) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    found = {}
    for family in NodeCollector(Held(snapshot), now=lambda: 1005.0).collect():
        for sample in family.samples:
            key = (sample.name, tuple(sorted(sample.labels.items())))
            assert key not in found, f"{key} twice"
            found[key] = sample.value
    return found


@pytest.mark.parametrize(
    ("name", "labels", "value"),
    [
        ("millrace_snapshot_age_seconds", {}, 5),
        ("millrace_metrics_cpu_seconds_total", {"part": "read"}, 1.5),
        ("millrace_metrics_cpu_seconds_total", {"part": "answer"}, 0),
        ("millrace_converged", {}, 1),
        ("millrace_reconcile_rounds_total", {}, 3),
        ("millrace_reconcile_writes_total", {}, 41),
        ("millrace_reconcile_seconds", {}, 0.25),
        ("millrace_vswitchd_restarts_total", {}, 1),
        ("millrace_table_rows", {"table": "ports"}, 5),
        ("millrace_object_errors", {"table": "ports"}, 1),
        ("millrace_object_quarantined", {"table": "ports"}, 1),
        ("millrace_xdp_packets_total", {"reason": "vip_forward"}, 10),
        ("millrace_xdp_bytes_total", {"reason": "xsk_ipv4"}, 500),
        ("millrace_service_packets_total", {"service": WEB, "direction": "reply"}, 9),
        ("millrace_service_bytes_total", {"service": WEB, "direction": "forward"}, 1000),
        ("millrace_service_connections_total", {"service": WEB}, 2),
        ("millrace_service_drops_total", {"service": WEB, "reason": "full"}, 3),
        ("millrace_service_drops_total", {"service": WEB, "reason": "no_port"}, 0),
        ("millrace_service_packets_total", {"service": "other", "direction": "forward"}, 1),
        ("millrace_services_hidden", {}, 5),
        ("millrace_conntrack_slots", {"family": "ipv4"}, 64),
        ("millrace_conntrack_limit", {"family": "ipv4"}, 32),
        ("millrace_conntrack_evicted_total", {"table": "flows"}, 4),
        (
            "millrace_conntrack_flows",
            {"family": "ipv4", "protocol": "tcp", "state": "syn"},
            7,
        ),
        (
            "millrace_conntrack_flows",
            {"family": "ipv4", "protocol": "udp", "state": "udp-one-way"},
            0,
        ),
        (
            "millrace_conntrack_flows",
            {"family": "ipv4", "protocol": "udp", "state": "udp-answered"},
            0,
        ),
        ("ovs_build_info", {"ovs_version": "3.1.0"}, 1),
        ("ovs_dpdk_initialized", {}, 1),
        ("ovs_pmd_rx_packets", {"numa": "0", "cpu": "1"}, 2400),
        ("ovs_pmd_datapath_passes", {"numa": "0", "cpu": "1"}, 2500),
        ("ovs_pmd_idle_iterations", {"numa": "0", "cpu": "1"}, 834100),
        ("ovs_pmd_lost_upcalls", {"numa": "0", "cpu": "1"}, 1),
        ("ovs_pmd_cpu_isolated", {"numa": "1", "cpu": "9"}, 1),
        (
            "ovs_pmd_rxq_usage",
            {"numa": "0", "cpu": "1", "interface": "up0", "rxq": "0"},
            12,
        ),
        (
            "ovs_interface_rx_packets",
            PORT | {"bridge": "br-ex", "port": "up0", "interface": "up0", "type": "afxdp"},
            7,
        ),
        (
            "ovs_interface_rx_dropped",
            PORT | {"bridge": "br-ex", "port": "up0", "interface": "up0", "type": "afxdp"},
            3,
        ),
        (
            "ovs_interface_admin_state",
            PORT | {"bridge": "br-ex", "port": "br-ex", "interface": "br-ex", "type": "system"},
            -1,
        ),
        (
            "millrace_ovs_tunnel_carrier",
            PORT | {"bridge": "br-int", "port": "gnv0", "interface": "gnv0", "type": "geneve"},
            1,
        ),
        ("ovs_interface_tx_errors", VM, 6),
        ("millrace_ovs_interface_drops_total", {**VM, "reason": "tx_failure"}, 6),
        ("millrace_vhost_connected", VM, 1),
        ("millrace_vhost_vrings", VM, 4),
        ("millrace_vhost_numa", VM, 1),
        ("millrace_vhost_ports", {}, 2),
        ("millrace_vhost_ports_disconnected", {}, 1),
        ("millrace_ovs_ports_with_error", {}, 1),
        ("millrace_ovs_ports_hidden", {}, 0),
        ("millrace_ovs_restart_pending", {}, 2),
        ("ovs_pmd_nonvol_context_switches", {"numa": "0", "cpu": "1"}, 411),
        ("millrace_ovs_pmd_polling_turns_total", {"numa": "0", "cpu": "1"}, 400),
        (
            "millrace_ovs_pmd_cycles_total",
            {"numa": "0", "cpu": "1", "state": "busy"},
            33178339938,
        ),
        ("millrace_ovs_mempool_buffers", {"pool": POOL, "numa": "0"}, 262144),
        ("millrace_ovs_mempool_available_buffers", {"pool": POOL, "numa": "0"}, 262144),
        ("millrace_ovs_dpdk_heap_free_bytes", {"heap": "socket_0"}, 138734208),
        (
            "ovs_datapath_lookup_missed_total",
            {"type": "netdev", "name": "ovs-netdev"},
            21,
        ),
        ("ovs_memory_keys_total", {}, 11),
        ("ovs_coverage_drop_action_of_pipeline_total", {}, 63),
        ("millrace_ovs_flow_limit", {"datapath": "netdev@ovs-netdev"}, 21000),
        ("millrace_ovs_flow_dump_seconds", {"datapath": "netdev@ovs-netdev"}, 0.001),
        ("millrace_ovs_conntrack_connections", {}, 2),
        ("millrace_ovs_conntrack_limit", {}, 3_000_000),
        ("millrace_ovs_conntrack_protocol_connections", {"protocol": "udp"}, 2),
        ("millrace_ovs_conntrack_zone_limit", {"zone": "5"}, 20000),
        ("millrace_ovs_conntrack_zone_connections", {"zone": "5"}, 1),
        ("millrace_ovs_tunnel_neighbours", {"bridge": "br-phy"}, 1),
        ("millrace_ovs_bond_member_enabled", {"bond": "bondl", "member": "l0"}, 1),
        ("millrace_ovs_bond_lacp_negotiated", {"bond": "bondr"}, 1),
        (
            "millrace_ovs_lacp_events_total",
            {"bond": "bondr", "member": "r1", "event": "expired"},
            0,
        ),
        ("millrace_ovs_poll_seconds", {}, 0.75),
        ("millrace_ovs_poll_command_seconds", {"command": "bond/show"}, 0.5),
        ("millrace_ovs_poll_failures_total", {"command": "upcall/show"}, 3),
    ],
)
def test_a_scrape_says(name: str, labels: dict[str, str], value: float) -> None:
    assert samples(SNAPSHOT)[name, tuple(sorted(labels.items()))] == value


def test_before_the_first_snapshot_there_is_only_the_build() -> None:
    assert {name for name, _ in samples(None)} == {"millrace_build_info"}


def test_what_is_not_known_has_no_sample() -> None:
    bare = OvsFigures(pmds=(PmdThread(0, 1),))
    found = samples(replace(SNAPSHOT, figures=bare, dpdk_initialized=None))
    names = {name for name, _ in found}
    assert "ovs_pmd_rx_packets" not in names
    assert "ovs_dpdk_initialized" not in names
    assert "millrace_ovs_conntrack_connections" not in names


def counted(*rows: tuple[int, int, int]) -> NDArray[np.uint64]:
    """Counts by service id: forward packets, reply packets, drops for want of a port."""
    found = np.zeros((len(rows), len(FIELDS)), np.uint64)
    for number, (forward, reply, drops) in enumerate(rows):
        found[number, FIELDS.index("forward_packets")] = forward
        found[number, FIELDS.index("reply_packets")] = reply
        found[number, FIELDS.index("drops_no_port")] = drops
    return found


def test_the_services_with_the_most_packets_are_shown_and_the_rest_is_summed() -> None:
    names = {1: "a", 2: "b", 3: "c"}
    series = TopServices().take(counted((0, 0, 0), (5, 0, 0), (9, 1, 2), (3, 3, 1)), names, 2)
    assert list(series.shown) == ["b", "c"]
    assert series.shown["b"] == ServiceCounts(9, 0, 1, 0, 0, (("no_port", 2),))
    assert (series.other.forward_packets, series.other.drops, series.hidden) == (5, (), 1)


def test_the_sum_of_the_others_never_goes_back() -> None:
    top, names = TopServices(), {0: "a", 1: "b"}
    assert top.take(counted((10, 0, 0), (4, 0, 0)), names, 1).other.forward_packets == 4
    # b overtakes a: what both had keeps being counted where it was.
    series = top.take(counted((11, 0, 0), (90, 0, 0)), names, 1)
    assert (list(series.shown), series.other.forward_packets) == (["b"], 5)
    # a's number goes to another service, whose counters begin at zero.
    assert top.take(counted((2, 0, 0), (90, 0, 0)), names, 1).other.forward_packets == 7
    assert top.take(counted((2, 0, 0), (90, 0, 0)), {}, 1).hidden == 0


def test_both_families_of_a_service_port_are_one_series() -> None:
    names = {0: "a", 1: "b", 2: "a"}
    series = TopServices().take(counted((10, 0, 1), (14, 0, 0), (5, 0, 1)), names, 1)
    assert series.shown == {"a": ServiceCounts(15, 0, 0, 0, 0, (("no_port", 2),))}
    assert (series.other.packets, series.hidden) == (14, 1)


def test_without_any_series_all_is_other() -> None:
    series = TopServices().take(counted((10, 0, 0), (4, 0, 0)), {0: "a", 1: "b"}, 0)
    assert (dict(series.shown), series.other.packets, series.hidden) == ({}, 14, 2)


def test_the_series_are_bounded_whatever_there_is() -> None:
    counts = counted(*((number, 0, 0) for number in range(10_000)))
    names = {number: f"default/s{number}:http" for number in range(10_000)}
    series = TopServices().take(counts, names, 100)
    found = samples(replace(SNAPSHOT, services=series))
    assert sum(name == "millrace_service_connections_total" for name, _ in found) == 101
    assert found["millrace_services_hidden", ()] == 9_900
    other = (("direction", "forward"), ("service", "other"))
    assert found["millrace_service_packets_total", other] == sum(range(9_900))


def test_both_expositions_pass_the_clients_own_format_check() -> None:
    registry = CollectorRegistry()
    registry.register(NodeCollector(Held(SNAPSHOT)))
    classic = generate_latest(registry).decode()
    by_text = {
        (sample.name, *sorted(sample.labels.items()))
        for family in text_string_to_metric_families(classic)
        for sample in family.samples
    }
    strict = openmetrics(registry).decode()  # type: ignore[no-untyped-call]
    by_openmetrics = {
        (sample.name, *sorted(sample.labels.items()))
        for family in strict_families(strict)  # type: ignore[no-untyped-call]
        for sample in family.samples
    }
    assert by_text == by_openmetrics
    assert len(by_text) > 200


def test_our_writer_writes_what_the_library_does() -> None:
    odd = replace(
        SNAPSHOT,
        ovs={"ovs_version": 'a "b" \\ c\nd'},
        last_round_seconds=1e-7,
        rounds=123_456_789_012,
        writes=999_999,
        started_at=1_795_248_000.25,
    )
    registry = CollectorRegistry()
    registry.register(NodeCollector(Held(odd), now=lambda: 1005.0))
    writer = TextWriter()
    for _ in range(2):
        assert writer.write(registry.collect()) == generate_latest(registry)


def test_a_scrape_that_asks_for_it_is_packed() -> None:
    stop, address = listening(Held(SNAPSHOT))
    try:
        request = urllib.request.Request(f"http://{address}/metrics")
        request.add_header("Accept-Encoding", "gzip;q=1.0,identity;q=0.5")
        with urllib.request.urlopen(request, timeout=30) as answer:
            assert answer.headers["Content-Encoding"] == "gzip"
            packed = gzip.decompress(answer.read())
        with urllib.request.urlopen(f"http://{address}/", timeout=30) as answer:
            assert answer.headers["Content-Type"].startswith("text/plain; version=0.0.4")
            plain = answer.read()
        # An answer is counted once it is sent, so the next one may still be without it.
        wait_until(lambda: answering(address) > 0, "an answer is counted")
    finally:
        stop()
    assert packed.splitlines()[:4] == plain.splitlines()[:4]


def answering(address: str) -> float:
    """What the server says that its answers took."""
    with urllib.request.urlopen(f"http://{address}/", timeout=30) as answer:
        text = answer.read().decode()
    (line,) = re.findall(
        r'^millrace_metrics_cpu_seconds_total\{part="answer"\} (\S+)', text, re.MULTILINE
    )
    return float(line)


def test_it_listens_on_ipv6_too() -> None:
    stop, address = listening(Held(None), "[::1]")
    try:
        with urllib.request.urlopen(f"http://{address}/metrics", timeout=30) as answer:
            assert b"millrace_build_info" in answer.read()
    finally:
        stop()


def listening(source: Held, host: str = "127.0.0.1") -> tuple[Callable[[], None], str]:
    """A server on a free port; how to stop it, and where it is."""
    family = socket.AF_INET6 if host.startswith("[") else socket.AF_INET
    with socket.socket(family) as probe:
        probe.bind((host.strip("[]"), 0))
        address = f"{host}:{probe.getsockname()[1]}"
    return serve_metrics(address, source), address


def test_the_figures_of_a_newer_version_have_the_same_names() -> None:
    newer = figures("ovs-others/4.0-pmd-perf-show.txt", "ovs-others/3.x-memory-show.txt")
    names = {family.name for family in ovs_families(newer, {})}
    known = {family.name for family in ovs_families(FIGURES, {})}
    assert names == known


def test_what_vswitchd_has_none_of_is_zero() -> None:
    found = read({"memory/show": "handlers:1 ports:12 revalidators:1 rules:535\n"})
    values = {
        sample.name: sample.value
        for family in ovs_families(found, {})
        for sample in family.samples
        if sample.name.startswith("ovs_memory_")
    }
    assert values["ovs_memory_keys_total"] == 0
    assert values["ovs_memory_rules_total"] == 535


def test_zones_beyond_the_bound_are_summed() -> None:
    lines = [f"zone={n},limit=100,count={n % 90}" for n in range(1, 101)]
    found = read({"dpctl/ct-get-limits": "default limit=0\n" + "\n".join(lines)})
    (zones,) = [
        family
        for family in ovs_families(found, {})
        if family.name == "millrace_ovs_conntrack_zone_connections"
    ]
    assert len(zones.samples) == MOST_ZONES + 1
    assert zones.samples[0].labels == {"zone": "89"}
    assert sum(sample.value for sample in zones.samples) == sum(n % 90 for n in range(1, 101))


def test_ports_beyond_the_bound_are_summed_and_the_sum_never_goes_back() -> None:
    def ports(*packets: int) -> list[InterfaceState]:
        return [port(f"p{n}", statistics={"rx_packets": v}) for n, v in enumerate(packets)]

    top = TopPorts()
    series = top.take(ports(10, 4, 3), {}, 1)
    assert [one.name for one, _ in series.shown] == ["p0"]
    assert (series.other["ovs_interface_rx_packets"], series.hidden) == (7, 2)
    # p1 overtakes p0: what both had keeps being counted where it was.
    series = top.take(ports(11, 90, 3), {}, 1)
    assert [one.name for one, _ in series.shown] == ["p1"]
    assert series.other["ovs_interface_rx_packets"] == 8
    # p2 is made anew and begins at zero.
    assert top.take(ports(11, 90, 2), {}, 1).other["ovs_interface_rx_packets"] == 10
    found = samples(replace(SNAPSHOT, ports=series))
    other = {**PORT, "bridge": "", "port": "", "interface": "other", "type": ""}
    assert found["ovs_interface_rx_packets", tuple(sorted(other.items()))] == 8


@pytest.mark.parametrize(
    ("ids", "namespace", "pod", "expected"),
    [
        ({"iface-id": "x"}, "default", "web", Workload("default", "web")),
        ({"iface-id": "web-0.shop"}, "", "", Workload("shop", "web-0")),
        ({"iface-id": "8d0a-port"}, "", "", Workload()),
        ({"pod_name": "web", "pod_namespace": "shop"}, "", "", Workload("shop", "web")),
        ({"vm-uuid": "8d0a"}, "", "", Workload(vm="8d0a")),
        ({}, "a", "virt-launcher-my-db-x7z9q", Workload("a", "virt-launcher-my-db-x7z9q", "my-db")),
    ],
)
def test_the_workload_of_a_port(
    ids: dict[str, str], namespace: str, pod: str, expected: Workload
) -> None:
    assert workload(ids, namespace, pod) == expected


def test_the_server_answers_and_asks_only_for_the_snapshot() -> None:
    source = Held(SNAPSHOT)
    stop, address = listening(source)
    try:
        asked = source.asked
        with urllib.request.urlopen(f"http://{address}/metrics", timeout=30) as answer:
            text = answer.read().decode()
        assert source.asked == asked + 1
    finally:
        stop()
    names = {family.name for family in text_string_to_metric_families(text)}
    assert "millrace_xdp_packets" in names
    assert "ovs_pmd_rx_packets" in names


def test_a_taken_port_is_logged_and_no_more(caplog: pytest.LogCaptureFixture) -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        serve_metrics(f"127.0.0.1:{holder.getsockname()[1]}", Held(None))()
    assert "metrics_not_served" in caplog.text


@pytest.mark.parametrize("listen", ["", "9478x", "nowhere", "127.0.0.1:99999"])
def test_an_address_that_is_none_is_logged_and_no_more(
    listen: str, caplog: pytest.LogCaptureFixture
) -> None:
    serve_metrics(listen, Held(None))()
    assert "metrics_not_served" in caplog.text
