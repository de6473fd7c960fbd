"""Prometheus metrics of a node: the last snapshot of its figures, turned into text on request.

A scrape reads one frozen value and asks nobody, so that a slow vswitchd slows no scrape and a
thousand scrapes cost vswitchd nothing. `millrace_snapshot_age_seconds` says how old the value is.

Names of OVS's own figures are those of openstack-network-exporter, to the letter, so that
dashboards carry over: `controller.metrics_ovs`, `controller.metrics_ports`.
"""

from __future__ import annotations

import logging
import platform
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from typing import Protocol

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from controller.metrics_http import MetricsServer, Spent
from controller.metrics_ovs import ovs_families
from controller.metrics_ports import PortSeries, port_families
from controller.metrics_services import (
    ConntrackFigures,
    ServiceSeries,
    conntrack_families,
    service_families,
)
from dataplane.drivers.ovsscrape import OvsFigures
from dataplane.drivers.pmdtasks import Switches
from dataplane.plan.advice import KINDS
from dataplane.reconcile.statuses import Tally

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Counted:
    """Packets and their octets."""

    packets: int
    octets: int


@dataclass(frozen=True, slots=True)
class MetricsSnapshot:
    """All figures of a node, read at `at` (seconds since the epoch).

    `ovs`: the values of labels of `ovs_build_info`. `figures`: of the last poll of vswitchd, None
    while it is away; `switches`: context switches of PMD threads by core. `restart_pending`: how
    many settings wait for a restart of vswitchd; `cpu_seconds`: what all snapshots so far took.
    `xdp`: by name of the reason (abi.h); `trunk`: of the trunk's programs (trunk.bpf.c).
    `conntrack`: by family, ipv4 and ipv6; `evicted`: from it, by the table that was full.
    `conditions`: how many hold, by kind.
    """

    at: float
    converged: bool
    in_sync: bool
    rounds: int
    writes: int
    last_round_seconds: float
    vswitchd_restarts: int
    started_at: float
    restart_pending: int = 0
    cpu_seconds: float = 0.0
    tables: Mapping[str, Tally] = field(default_factory=dict)
    figures: OvsFigures | None = None
    switches: Mapping[int, Switches] = field(default_factory=dict)
    ports: PortSeries = field(default_factory=PortSeries)
    xdp: Mapping[str, Counted] = field(default_factory=dict)
    trunk: Mapping[str, Counted] = field(default_factory=dict)
    services: ServiceSeries = field(default_factory=ServiceSeries)
    conntrack: Mapping[str, ConntrackFigures] = field(default_factory=dict)
    evicted: Mapping[str, int] = field(default_factory=dict)
    ovs: Mapping[str, str] = field(default_factory=dict)
    dpdk_initialized: bool | None = None
    conditions: Mapping[str, int] = field(default_factory=dict)


class MetricsSource(Protocol):
    """Who holds the last snapshot; called from the server's threads, so it only hands it out."""

    def metrics(self) -> MetricsSnapshot | None:
        """The last snapshot; None: there is none yet."""
        ...


class NodeCollector(Collector):
    """Turns the source's last snapshot into metric families."""

    def __init__(
        self,
        source: MetricsSource,
        now: Callable[[], float] = time.time,
        answering: Callable[[], float] = lambda: 0.0,
    ) -> None:
        self._source = source
        self._now = now
        self._answering = answering

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
        spent = CounterMetricFamily(
            "millrace_metrics_cpu_seconds",
            "Processor time that metrics took: to read figures, and to answer scrapes.",
            labels=["part"],
        )
        spent.add_metric(["read"], found.cpu_seconds)
        spent.add_metric(["answer"], self._answering())
        yield spent
        yield from _daemon(found)
        yield from _tables(found.tables)
        yield _conditions(found.conditions)
        yield from _by_reason("xdp", "XDP's verdict", found.xdp)
        yield from _by_reason("trunk", "where containers' frames went", found.trunk)
        yield from service_families(found.services)
        yield from conntrack_families(found.conntrack, found.evicted)
        yield from _ovs(found)
        if found.figures is not None:
            yield from ovs_families(found.figures, found.switches)
        yield from port_families(found.ports)


def serve_metrics(listen: str, source: MetricsSource) -> Callable[[], None]:
    """Answer scrapes at "host:port" (in this process's network namespace); how to stop that.

    An address that cannot be listened on is logged and no more: the data plane matters more than
    its figures.
    """
    spent = Spent()
    try:
        collector = NodeCollector(source, answering=lambda: spent.seconds)
        server = MetricsServer(listen, collector, spent)
    except (OSError, ValueError, OverflowError) as error:
        log.error(  # noqa: TRY400  # the address is all there is to know
            "metrics_not_served listen=%s error=%s; change node.metrics", listen, error
        )
        return lambda: None
    log.info("metrics_served listen=%s", listen)
    return server.stop


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
        (
            "millrace_ovs_restart_pending",
            "Settings that wait for a restart of vswitchd.",
            found.restart_pending,
        ),
    ):
        yield GaugeMetricFamily(name, text, value=float(value))
    for name, text, count in (
        ("millrace_reconcile_rounds", "Rounds of the reconciler.", found.rounds),
        ("millrace_reconcile_writes", "Rows that it wrote or removed.", found.writes),
        ("millrace_vswitchd_restarts", "Restarts of ovs-vswitchd.", found.vswitchd_restarts),
    ):
        yield CounterMetricFamily(name, text, value=count)


def _tables(tables: Mapping[str, Tally]) -> Iterator[Metric]:
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


def _conditions(conditions: Mapping[str, int]) -> Metric:
    family = GaugeMetricFamily(
        "millrace_conditions",
        "Things that are not as they should be (`millrace status` names them).",
        labels=["kind"],
    )
    for kind in KINDS:
        family.add_metric([kind], conditions.get(kind, 0))
    return family


def _by_reason(who: str, what: str, counters: Mapping[str, Counted]) -> Iterator[Metric]:
    packets = CounterMetricFamily(
        f"millrace_{who}_packets", f"Packets by the reason of {what}.", labels=["reason"]
    )
    octets = CounterMetricFamily(
        f"millrace_{who}_bytes", "Their octets, Ethernet header included.", labels=["reason"]
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
