"""Prometheus metrics of a node: the last snapshot of its figures, turned into text on request.

A scrape reads one frozen value and asks nobody, so that a slow vswitchd slows no scrape and a
thousand scrapes cost vswitchd nothing. `millrace_snapshot_age_seconds` says how old the value is.

Names of OVS's own figures are those of openstack-network-exporter, to the letter, so that
dashboards carry over. Many of them count without ending in `_total`; they are exposed without a
type, because OpenMetrics knows no such counter. `rate()` takes them all the same.
"""

from __future__ import annotations

import logging
import platform
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from typing import Protocol

from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    Metric,
    UnknownMetricFamily,
)
from prometheus_client.registry import Collector

from controller.metrics_services import (
    ConntrackFigures,
    ServiceSeries,
    conntrack_families,
    service_families,
)
from dataplane.drivers.ovstext import PmdThread

log = logging.getLogger(__name__)

PMD_COUNTERS: Mapping[str, tuple[str, str]] = {
    "Iterations": ("ovs_pmd_total_iterations", "Iterations."),
    "idle iterations": ("ovs_pmd_idle_iterations", "Iterations that received no packet."),
    "busy iterations": ("ovs_pmd_busy_iterations", "Iterations that processed packets."),
    "sleep iterations": ("ovs_pmd_sleep_iterations", "Iterations that slept."),
    "Sleep time (us)": ("ovs_pmd_sleep_microseconds", "Time slept [us]."),
    "Rx packets": ("ovs_pmd_rx_packets", "Packets received."),
    "Datapath passes": ("ovs_pmd_datapath_passes", "Passes of packets through the datapath."),
    "PHWOL hits": ("ovs_pmd_phwol_hits", "Hits of partial hardware offload."),
    "MFEX Opt hits": ("ovs_pmd_mfex_opt_hits", "Hits of optimised miniflow extraction."),
    "Simple Match hits": ("ovs_pmd_simple_match_hits", "Hits of the simple match cache."),
    "EMC hits": ("ovs_pmd_emc_hits", "Hits of the exact match cache."),
    "SMC hits": ("ovs_pmd_smc_hits", "Hits of the signature match cache."),
    "Megaflow hits": ("ovs_pmd_megaflow_hits", "Hits of the megaflow classifier."),
    "Upcalls": ("ovs_pmd_total_upcalls", "Packets that no flow matched."),
    "Lost upcalls": ("ovs_pmd_lost_upcalls", "Such packets that were lost."),
    "Tx packets": ("ovs_pmd_tx_packets", "Packets sent."),
    "Tx batches": ("ovs_pmd_tx_batches", "Batches sent."),
}

INTERFACE_COUNTERS: Mapping[str, tuple[tuple[str, ...], str]] = {
    "ovs_interface_rx_packets": (("rx_packets",), "Packets received."),
    "ovs_interface_rx_bytes": (("rx_bytes",), "Octets received."),
    "ovs_interface_rx_errors": (("rx_errors",), "Bad packets received."),
    "ovs_interface_rx_dropped": (
        ("rx_missed_errors", "rx_dropped"),
        "Packets dropped before OVS saw them: its receive ring was full.",
    ),
    "ovs_interface_tx_packets": (("tx_packets",), "Packets sent."),
    "ovs_interface_tx_bytes": (("tx_bytes",), "Octets sent."),
    "ovs_interface_tx_errors": (
        ("tx_errors", "ovs_tx_failure_drops"),
        "Packets that could not be sent.",
    ),
    "ovs_interface_tx_retries": (("ovs_tx_retries",), "Sends tried again: the queue was full."),
}
"""By metric: the keys of Interface.statistics, of which the first that is there counts."""

_LINK_STATES = {"up": 1, "down": 0}


@dataclass(frozen=True, slots=True)
class InterfaceFigures:
    """What OVS says of one interface; `statistics` by OVS's own keys."""

    name: str
    bridge: str
    type: str
    admin_state: str
    link_state: str
    mtu: int | None
    statistics: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Counted:
    """Packets and their octets."""

    packets: int
    octets: int


@dataclass(frozen=True, slots=True)
class TableFigures:
    """One table of the plan: rows planned, and those that are not as planned."""

    rows: int
    errors: int
    pending: int
    quarantined: int


@dataclass(frozen=True, slots=True)
class MetricsSnapshot:
    """All figures of a node, read at `at` (seconds since the epoch).

    `ovs`: the values of labels of `ovs_build_info`. `xdp`: by name of the reason (abi.h).
    `conntrack`: by family, ipv4 and ipv6.
    """

    at: float
    converged: bool
    in_sync: bool
    rounds: int
    writes: int
    last_round_seconds: float
    vswitchd_restarts: int
    started_at: float
    tables: Mapping[str, TableFigures] = field(default_factory=dict)
    pmds: tuple[PmdThread, ...] = ()
    interfaces: tuple[InterfaceFigures, ...] = ()
    xdp: Mapping[str, Counted] = field(default_factory=dict)
    services: ServiceSeries = field(default_factory=ServiceSeries)
    conntrack: Mapping[str, ConntrackFigures] = field(default_factory=dict)
    ovs: Mapping[str, str] = field(default_factory=dict)
    dpdk_initialized: bool | None = None


class MetricsSource(Protocol):
    """Who holds the last snapshot; called from the server's threads, so it only hands it out."""

    def metrics(self) -> MetricsSnapshot | None:
        """The last snapshot; None: there is none yet."""
        ...


class NodeCollector(Collector):
    """Turns the source's last snapshot into metric families."""

    def __init__(self, source: MetricsSource, now: Callable[[], float] = time.time) -> None:
        self._source = source
        self._now = now

    def collect(self) -> Iterator[Metric]:
        """All families of one scrape."""
        build = {"version": _version(), "python": platform.python_version()}
        yield _info("millrace_build_info", "What runs here; always 1.", build)
        found = self._source.metrics()
        if found is None:
            return
        yield GaugeMetricFamily(
            "millrace_snapshot_age_seconds",
            "Age of the figures in this answer.",
            value=max(self._now() - found.at, 0.0),
        )
        yield from _daemon(found)
        yield from _tables(found.tables)
        yield from _xdp(found.xdp)
        yield from service_families(found.services)
        yield from conntrack_families(found.conntrack)
        yield from _ovs(found)
        yield from _pmds(found.pmds)
        yield from _interfaces(found.interfaces)


def serve_metrics(listen: str, source: MetricsSource) -> Callable[[], None]:
    """Answer scrapes at "host:port" (in this process's network namespace); how to stop that.

    An address that cannot be listened on is logged and no more: the data plane matters more than
    its figures.
    """
    registry = CollectorRegistry()
    registry.register(NodeCollector(source))
    host, _, port = listen.rpartition(":")
    try:
        server, thread = start_http_server(int(port), host.strip("[]"), registry)
    except (OSError, ValueError, OverflowError) as error:
        log.error(  # noqa: TRY400  # the address is all there is to know
            "metrics_not_served listen=%s error=%s; change node.metrics", listen, error
        )
        return lambda: None
    log.info("metrics_served listen=%s", listen)

    def stop() -> None:
        server.shutdown()
        server.server_close()
        thread.join(5)

    return stop


def _version() -> str:
    try:
        return version("millrace")
    except PackageNotFoundError:
        return "unknown"


def _info(name: str, text: str, labels: Mapping[str, str]) -> Metric:
    family = GaugeMetricFamily(name, text, labels=list(labels))
    family.add_metric(list(labels.values()), 1)
    return family


def _daemon(found: MetricsSnapshot) -> Iterator[Metric]:
    for name, text, value in (
        ("millrace_converged", "1: every planned row is as planned.", found.converged),
        ("millrace_in_sync", "1: every source of the plan has spoken.", found.in_sync),
        ("millrace_reconcile_seconds", "Duration of the last round.", found.last_round_seconds),
        ("millrace_start_time_seconds", "When the daemon started (epoch).", found.started_at),
    ):
        yield GaugeMetricFamily(name, text, value=float(value))
    for name, text, count in (
        ("millrace_reconcile_rounds", "Rounds of the reconciler.", found.rounds),
        ("millrace_reconcile_writes", "Rows that it wrote or removed.", found.writes),
        ("millrace_vswitchd_restarts", "Restarts of ovs-vswitchd.", found.vswitchd_restarts),
    ):
        yield CounterMetricFamily(name, text, value=count)


def _tables(tables: Mapping[str, TableFigures]) -> Iterator[Metric]:
    for name, text, column in (
        ("millrace_table_rows", "Rows planned.", "rows"),
        ("millrace_object_errors", "Rows that could not be made.", "errors"),
        ("millrace_object_pending", "Rows waiting for something.", "pending"),
        ("millrace_object_quarantined", "Rows taken back for now.", "quarantined"),
    ):
        family = GaugeMetricFamily(name, text, labels=["table"])
        for table in sorted(tables):
            family.add_metric([table], getattr(tables[table], column))
        yield family


def _xdp(counters: Mapping[str, Counted]) -> Iterator[Metric]:
    packets = CounterMetricFamily(
        "millrace_xdp_packets", "Packets by the reason of XDP's verdict.", labels=["reason"]
    )
    octets = CounterMetricFamily(
        "millrace_xdp_bytes", "Their octets, Ethernet header included.", labels=["reason"]
    )
    for reason in sorted(counters):
        packets.add_metric([reason.lower()], counters[reason].packets)
        octets.add_metric([reason.lower()], counters[reason].octets)
    yield packets
    yield octets


def _ovs(found: MetricsSnapshot) -> Iterator[Metric]:
    if found.ovs:
        yield _info("ovs_build_info", "Versions of OVS and its libraries; always 1.", found.ovs)
    if found.dpdk_initialized is not None:
        yield GaugeMetricFamily(
            "ovs_dpdk_initialized", "1: DPDK is in use.", value=float(found.dpdk_initialized)
        )


def _pmds(threads: tuple[PmdThread, ...]) -> Iterator[Metric]:
    where = ["numa", "cpu"]
    for word, (name, text) in PMD_COUNTERS.items():
        family: Metric = UnknownMetricFamily(name, text)
        for thread in threads:
            if word in thread.counters:
                family.add_sample(name, dict(zip(where, _at(thread), strict=True)),
                                  thread.counters[word])  # fmt: skip
        yield family
    isolated = GaugeMetricFamily(
        "ovs_pmd_cpu_isolated", "1: queues are assigned by hand only.", labels=where
    )
    overhead = GaugeMetricFamily(
        "ovs_pmd_cpu_overhead", "Share of cycles that belong to no queue [%].", labels=where
    )
    usage = GaugeMetricFamily(
        "ovs_pmd_rxq_usage",
        "Share of the thread's cycles [%].",
        labels=[*where, "interface", "rxq"],
    )
    enabled = GaugeMetricFamily(
        "ovs_pmd_rxq_enabled", "1: the guest uses it.", labels=[*where, "interface", "rxq"]
    )
    for thread in threads:
        if thread.isolated is not None:
            isolated.add_metric(_at(thread), thread.isolated)
        if thread.overhead is not None:
            overhead.add_metric(_at(thread), thread.overhead)
        for rxq in thread.rxqs:
            names = [*_at(thread), rxq.interface, str(rxq.queue)]
            enabled.add_metric(names, rxq.enabled)
            if rxq.usage is not None:
                usage.add_metric(names, rxq.usage)
    yield from (isolated, overhead, usage, enabled)


def _at(thread: PmdThread) -> list[str]:
    return [str(thread.numa), str(thread.cpu)]


def _interfaces(interfaces: tuple[InterfaceFigures, ...]) -> Iterator[Metric]:
    labels = ["bridge", "port", "interface", "type"]
    admin = GaugeMetricFamily(
        "ovs_interface_admin_state", "up 1, down 0, unknown -1.", labels=labels
    )
    link = GaugeMetricFamily("ovs_interface_link_state", "up 1, down 0, unknown -1.", labels=labels)
    mtu = GaugeMetricFamily("ovs_interface_mtu_bytes", "MTU.", labels=labels)
    counters: dict[str, Metric] = {
        name: UnknownMetricFamily(name, text) for name, (_, text) in INTERFACE_COUNTERS.items()
    }
    for interface in sorted(interfaces, key=lambda interface: interface.name):
        # Each of our ports has one interface of its own name; bonds would have several.
        names = [interface.bridge, interface.name, interface.name, interface.type or "system"]
        admin.add_metric(names, _LINK_STATES.get(interface.admin_state, -1))
        link.add_metric(names, _LINK_STATES.get(interface.link_state, -1))
        mtu.add_metric(names, interface.mtu or 0)
        for name, (keys, _) in INTERFACE_COUNTERS.items():
            key = next((key for key in keys if key in interface.statistics), None)
            if key is not None:
                counters[name].add_sample(
                    name, dict(zip(labels, names, strict=True)), interface.statistics[key]
                )
    yield from (admin, link, mtu, *counters.values())
