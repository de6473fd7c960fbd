"""What a scrape says, and that it asks nobody."""

from __future__ import annotations

import socket
import urllib.request
from dataclasses import replace
from ipaddress import IPv4Address
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.openmetrics.exposition import generate_latest as openmetrics
from prometheus_client.parser import text_string_to_metric_families

from controller.metrics import (
    MAX_SERVICES,
    Counted,
    InterfaceFigures,
    MetricsSnapshot,
    NodeCollector,
    ServiceFigures,
    TableFigures,
    serve_metrics,
)
from dataplane.drivers.ovstext import PmdThread, pmd_threads
from dataplane.model.addr import L4Addr, Protocol

GOLDEN = Path(__file__).parents[1] / "golden"

VIP = L4Addr(Protocol.TCP, IPv4Address("172.18.0.200"), 80)

SNAPSHOT = MetricsSnapshot(
    at=1000.0,
    converged=True,
    in_sync=True,
    rounds=3,
    writes=41,
    last_round_seconds=0.25,
    vswitchd_restarts=1,
    started_at=900.0,
    tables={"ports": TableFigures(rows=5, errors=1, pending=2, quarantined=1)},
    pmds=pmd_threads(
        (GOLDEN / "pmd-perf-show.txt").read_text(encoding="utf-8"),
        (GOLDEN / "pmd-rxq-show.txt").read_text(encoding="utf-8"),
    ),
    interfaces=(
        InterfaceFigures(
            "up0", "br-ex", "afxdp", "up", "up", 1500, {"rx_packets": 7, "rx_missed_errors": 3}
        ),
        InterfaceFigures("br-ex", "br-ex", "", "weird", "down", None, {}),
    ),
    xdp={"VIP_FORWARD": Counted(10, 1000), "XSK_IPV4": Counted(5, 500)},
    services=(ServiceFigures(VIP, Counted(10, 1000), Counted(9, 900), 2),),
    ovs={"ovs_version": "3.1.0"},
    dpdk_initialized=True,
)


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
        (
            "millrace_service_packets_total",
            {"vip": "172.18.0.200:80", "protocol": "tcp", "direction": "reply"},
            9,
        ),
        ("millrace_service_flows_total", {"vip": "172.18.0.200:80", "protocol": "tcp"}, 2),
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
            {"bridge": "br-ex", "port": "up0", "interface": "up0", "type": "afxdp"},
            7,
        ),
        (
            "ovs_interface_rx_dropped",
            {"bridge": "br-ex", "port": "up0", "interface": "up0", "type": "afxdp"},
            3,
        ),
        (
            "ovs_interface_admin_state",
            {"bridge": "br-ex", "port": "br-ex", "interface": "br-ex", "type": "system"},
            -1,
        ),
    ],
)
def test_a_scrape_says(name: str, labels: dict[str, str], value: float) -> None:
    assert samples(SNAPSHOT)[name, tuple(sorted(labels.items()))] == value


def test_before_the_first_snapshot_there_is_only_the_build() -> None:
    assert {name for name, _ in samples(None)} == {"millrace_build_info"}


def test_what_is_not_known_has_no_sample() -> None:
    found = samples(replace(SNAPSHOT, pmds=(PmdThread(0, 1),), dpdk_initialized=None))
    names = {name for name, _ in found}
    assert "ovs_pmd_rx_packets" not in names
    assert "ovs_dpdk_initialized" not in names


def test_the_series_of_services_are_bounded_and_say_what_they_leave_out() -> None:
    services = tuple(
        ServiceFigures(
            L4Addr(Protocol.UDP, IPv4Address(number), 53), Counted(1, 1), Counted(1, 1), 1
        )
        for number in range(1, MAX_SERVICES + 8)
    )
    found = samples(replace(SNAPSHOT, services=services))
    assert sum(name == "millrace_service_flows_total" for name, _ in found) == MAX_SERVICES
    assert found["millrace_services_hidden", ()] == 7


def test_both_expositions_can_be_read_back() -> None:
    registry = CollectorRegistry()
    registry.register(NodeCollector(Held(SNAPSHOT)))
    assert b"# EOF" in openmetrics(registry)  # type: ignore[no-untyped-call]


def test_the_server_answers_and_asks_only_for_the_snapshot() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    source = Held(SNAPSHOT)
    stop = serve_metrics(f"127.0.0.1:{port}", source)
    try:
        asked = source.asked
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=30) as answer:
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
