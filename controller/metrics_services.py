"""Metrics of services and their flows: which services have series of their own, and the families.

The number of series is bounded: the services with the most packets have their own, the others are
summed as `other`. That sum only grows: what a service adds to it is what was counted between two
snapshots while it had no series, so that a change of places looks like no reset to `rate()`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from dataplane.drivers.servicestats import DROPS, FIELDS, ServiceCounts, counts_of
from dataplane.model.conntrack import FlowState

if TYPE_CHECKING:
    from numpy.typing import NDArray

OTHER = "other"
_PACKETS = [FIELDS.index("forward_packets"), FIELDS.index("reply_packets")]


@dataclass(frozen=True, slots=True)
class ServiceSeries:
    """Counts by service port (`namespace/name:port`), the rest summed, and how many that is."""

    shown: Mapping[str, ServiceCounts] = field(default_factory=dict)
    other: ServiceCounts = field(default_factory=ServiceCounts)
    hidden: int = 0


@dataclass(frozen=True, slots=True)
class ConntrackFigures:
    """One family's table: places, flows it is meant for, and flows by state."""

    slots: int
    limit: int
    flows: Mapping[FlowState, int]


class _Order:
    """Service ports by first id, so that idle services do not take turns among equals."""

    def __init__(self, names: Mapping[int, str], rows: int) -> None:
        self.names, self.rows = names, rows
        found = sorted((number, name) for number, name in names.items() if number < rows)
        self.ports = list(dict.fromkeys(name for _, name in found))
        places = {name: place for place, name in enumerate(self.ports)}
        self.ids = np.array([number for number, _ in found], np.int64)
        self.of_ids = np.array([places[name] for _, name in found], np.int64)


class TopServices:
    """Chooses the services that are shown; keeps what is needed for the sum of the others."""

    def __init__(self) -> None:
        self._before: NDArray[np.uint64] | None = None
        self._other = np.zeros(len(FIELDS), np.uint64)
        self._order = _Order({}, 0)

    def take(
        self, counts: NDArray[np.uint64], names: Mapping[int, str], limit: int
    ) -> ServiceSeries:
        """The series after another look at the counters.

        Args:
            counts: a row a service id, the columns of FIELDS.
            names: the service port of each id; several ids (families) may be of one.
            limit: how many service ports are shown by name.
        """
        before = self._before
        if before is None or before.shape != counts.shape:
            before = np.zeros_like(counts)
        # A counter that went back belongs to another service now.
        grown = np.where(counts >= before, counts - before, counts)
        if self._order.names is not names or self._order.rows != len(counts):
            self._order = _Order(names, len(counts))
        ids, ports, of_ids = self._order.ids, self._order.ports, self._order.of_ids
        sums = np.zeros((len(ports), len(FIELDS)), np.uint64)
        np.add.at(sums, of_ids, counts[ids])
        packets = sums[:, _PACKETS].sum(axis=1).astype(np.int64)
        top = np.argsort(-packets, kind="stable")[:limit]
        hidden = np.ones(len(counts), bool)
        hidden[ids[np.isin(of_ids, top)]] = False
        self._other = self._other + grown[hidden].sum(axis=0, dtype=np.uint64)
        self._before = counts.copy()
        return ServiceSeries(
            {ports[place]: counts_of(sums[place]) for place in sorted(top.tolist())},
            counts_of(self._other),
            len(ports) - len(top),
        )


def service_families(series: ServiceSeries) -> Iterator[Metric]:
    """The families of services."""
    packets = CounterMetricFamily(
        "millrace_service_packets",
        "Packets that XDP served, by service port.",
        labels=["service", "direction"],
    )
    octets = CounterMetricFamily(
        "millrace_service_bytes", "Their octets.", labels=["service", "direction"]
    )
    flows = CounterMetricFamily("millrace_service_connections", "Flows begun.", labels=["service"])
    drops = CounterMetricFamily(
        "millrace_service_drops",
        "Packets that got nothing, or a refusal.",
        labels=["service", "reason"],
    )
    rows = [*sorted(series.shown.items()), (OTHER, series.other)]
    for name, counts in rows:
        packets.add_metric([name, "forward"], counts.forward_packets)
        packets.add_metric([name, "reply"], counts.reply_packets)
        octets.add_metric([name, "forward"], counts.forward_octets)
        octets.add_metric([name, "reply"], counts.reply_octets)
        flows.add_metric([name], counts.new_flows)
        found = dict(counts.drops)
        for reason in DROPS:
            short = reason.removeprefix("drops_")
            drops.add_metric([name, short], found.get(short, 0))
    yield from (packets, octets, flows, drops)
    yield GaugeMetricFamily(
        "millrace_services_hidden",
        "Service ports without series of their own.",
        value=series.hidden,
    )


def conntrack_families(
    figures: Mapping[str, ConntrackFigures], evicted: Mapping[str, int]
) -> Iterator[Metric]:
    """The families of conntrack; `figures` by family, ipv4 and ipv6, `evicted` by table."""
    pushed_out = CounterMetricFamily(
        "millrace_conntrack_evicted",
        "Weak flows that ended for new ones, by the table that was full.",
        labels=["table"],
    )
    for table, count in sorted(evicted.items()):
        pushed_out.add_metric([table], count)
    yield pushed_out
    flows = GaugeMetricFamily(
        "millrace_conntrack_flows", "Flows there are.", labels=["family", "protocol", "state"]
    )
    slots = GaugeMetricFamily("millrace_conntrack_slots", "Places for flows.", labels=["family"])
    limit = GaugeMetricFamily(
        "millrace_conntrack_limit", "Flows that the table is meant for.", labels=["family"]
    )
    for family, found in sorted(figures.items()):
        slots.add_metric([family], found.slots)
        limit.add_metric([family], found.limit)
        for state in FlowState:
            labels = [family, state.protocol.name.lower(), state.text]
            flows.add_metric(labels, found.flows.get(state, 0))
    yield from (flows, slots, limit)
