"""Metrics of vswitchd itself: PMD threads, pools, conntrack, its flow table, tunnels and bonds.

Names are openstack-network-exporter's where the meaning is equal (`ovs_*`), ours otherwise
(`millrace_ovs_*`). Many of theirs count without ending in `_total`, and some gauges end in it; they
are exposed without a type, because OpenMetrics knows no such counter or gauge. `rate()` takes them
all the same.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    Metric,
    UnknownMetricFamily,
)

from dataplane.drivers.ovsscrape import OvsFigures
from dataplane.drivers.ovstext import PmdThread
from dataplane.drivers.pmdtasks import Switches

OTHER = "other"
MOST_ZONES = 64
"""Conntrack zones with series of their own: those that are the nearest to their limit."""

MOST_QUEUES = 1024
"""Receive queues with series of their own: those that take the most of their thread."""

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
MEMORY = {
    "handlers": ("ovs_memory_handlers_total", "Threads that handle upcalls."),
    "ports": ("ovs_memory_ports_total", "Ports."),
    "revalidators": ("ovs_memory_revalidators_total", "Threads that revalidate flows."),
    "rules": ("ovs_memory_rules_total", "OpenFlow rules."),
    "udpif keys": ("ovs_memory_keys_total", "Flows that revalidators keep."),
}
_WHERE = ["numa", "cpu"]


def ovs_families(found: OvsFigures, switches: Mapping[int, Switches]) -> Iterator[Metric]:
    """All families of one poll; `switches` by core."""
    yield from _pmds(found.pmds)
    yield from _queues(found.pmds)
    yield from _switches(found, switches)
    yield from _pools(found)
    yield from _datapath(found)
    yield from _conntrack(found)
    yield from _wires(found)
    yield from _poll(found)


def _pmds(threads: tuple[PmdThread, ...]) -> Iterator[Metric]:
    for word, (name, text) in PMD_COUNTERS.items():
        family: Metric = UnknownMetricFamily(name, text)
        for thread in threads:
            if word in thread.counters:
                family.add_sample(
                    name, dict(zip(_WHERE, _at(thread), strict=True)), thread.counters[word]
                )
        yield family
    isolated = GaugeMetricFamily(
        "ovs_pmd_cpu_isolated", "1: queues are assigned by hand only.", labels=_WHERE
    )
    overhead = GaugeMetricFamily(
        "ovs_pmd_cpu_overhead", "Share of cycles that belong to no queue [%].", labels=_WHERE
    )
    for thread in threads:
        if thread.isolated is not None:
            isolated.add_metric(_at(thread), thread.isolated)
        if thread.overhead is not None:
            overhead.add_metric(_at(thread), thread.overhead)
    yield from (isolated, overhead)


def _queues(threads: tuple[PmdThread, ...]) -> Iterator[Metric]:
    labels = [*_WHERE, "interface", "rxq"]
    usage = GaugeMetricFamily(
        "ovs_pmd_rxq_usage", "Share of the thread's cycles [%].", labels=labels
    )
    enabled = GaugeMetricFamily("ovs_pmd_rxq_enabled", "1: the guest uses it.", labels=labels)
    queues = [(thread, rxq) for thread in threads for rxq in thread.rxqs]
    if len(queues) > MOST_QUEUES:
        queues.sort(key=lambda one: (-(one[1].usage or 0), one[1].interface, one[1].queue))
    rest: dict[tuple[str, ...], int] = {}
    for thread, rxq in queues[MOST_QUEUES:]:
        where = tuple(_at(thread))
        rest[where] = rest.get(where, 0) + (rxq.usage or 0)
    for thread, rxq in queues[:MOST_QUEUES]:
        names = [*_at(thread), rxq.interface, str(rxq.queue)]
        enabled.add_metric(names, rxq.enabled)
        if rxq.usage is not None:
            usage.add_metric(names, rxq.usage)
    for where, share in sorted(rest.items()):
        usage.add_metric([*where, OTHER, ""], share)
    yield from (usage, enabled)


def _switches(found: OvsFigures, switches: Mapping[int, Switches]) -> Iterator[Metric]:
    numa = {thread.cpu: thread.numa for thread in found.pmds}
    for name, text, column in (
        ("ovs_pmd_context_switches", "Voluntary context switches of the thread.", "voluntary"),
        (
            "ovs_pmd_nonvol_context_switches",
            "Times that something else took the thread's core.",
            "forced",
        ),
    ):
        family: Metric = UnknownMetricFamily(name, text)
        for cpu in sorted(switches.keys() & numa.keys()):
            labels = {"numa": str(numa[cpu]), "cpu": str(cpu)}
            family.add_sample(name, labels, getattr(switches[cpu], column))
        yield family
    turns = CounterMetricFamily(
        "millrace_ovs_pmd_polling_turns",
        "Turns of threads that poll svc0 on the PMD thread's core, which each take it once.",
        labels=_WHERE,
    )
    for cpu in sorted(switches.keys() & numa.keys()):
        turns.add_metric([str(numa[cpu]), str(cpu)], switches[cpu].turns)
    yield turns
    cycles = CounterMetricFamily(
        "millrace_ovs_pmd_cycles", "TSC cycles of the thread.", labels=[*_WHERE, "state"]
    )
    for (node, cpu), (idle, busy) in sorted(found.cycles.items()):
        cycles.add_metric([str(node), str(cpu), "idle"], idle)
        cycles.add_metric([str(node), str(cpu), "busy"], busy)
    yield cycles


def _pools(found: OvsFigures) -> Iterator[Metric]:
    labels = ["pool", "numa"]
    size = GaugeMetricFamily(
        "millrace_ovs_mempool_buffers", "Packet buffers of a pool.", labels=labels
    )
    free = GaugeMetricFamily(
        "millrace_ovs_mempool_available_buffers", "Of these, free ones.", labels=labels
    )
    for pool in found.mempools:
        names = [pool.name, str(pool.numa)]
        size.add_metric(names, pool.size)
        free.add_metric(names, pool.available)
    total = GaugeMetricFamily(
        "millrace_ovs_dpdk_heap_bytes", "DPDK's memory of a NUMA node.", labels=["heap"]
    )
    left = GaugeMetricFamily(
        "millrace_ovs_dpdk_heap_free_bytes", "Of it, not given out.", labels=["heap"]
    )
    for heap in found.heaps:
        total.add_metric([heap.name], heap.total)
        left.add_metric([heap.name], heap.free)
    yield from (size, free, total, left)


def _datapath(found: OvsFigures) -> Iterator[Metric]:
    for name, text, column in (
        ("ovs_datapath_flows_total", "Flows of the datapath.", "flows"),
        ("ovs_datapath_lookup_hits_total", "Look-ups that found a flow.", "hit"),
        ("ovs_datapath_lookup_missed_total", "Look-ups that found none.", "missed"),
        ("ovs_datapath_lookup_lost_total", "Look-ups whose upcall was lost.", "lost"),
    ):
        family: Metric = UnknownMetricFamily(name, text)
        for one in found.datapaths:
            family.add_sample(name, {"type": one.type, "name": one.name}, getattr(one, column))
        yield family
    for word, (name, text) in MEMORY.items():
        family = UnknownMetricFamily(name, text)
        if found.memory:
            # vswitchd leaves out what it has none of (simap.c).
            family.add_sample(name, {}, found.memory.get(word, 0))
        yield family
    for event, counter in sorted(found.coverage.items()):
        yield CounterMetricFamily(
            f"ovs_coverage_{event}", f"vswitchd's event {event}.", value=counter.total
        )
    limit = GaugeMetricFamily(
        "millrace_ovs_flow_limit", "Flows that revalidators allow now.", labels=["datapath"]
    )
    dump = GaugeMetricFamily(
        "millrace_ovs_flow_dump_seconds", "How long the last dump took.", labels=["datapath"]
    )
    for table in found.upcalls:
        limit.add_metric([table.datapath], table.limit)
        dump.add_metric([table.datapath], table.dump_ms / 1000)
    yield from (limit, dump)


def _conntrack(found: OvsFigures) -> Iterator[Metric]:
    if found.tracked is not None:
        yield GaugeMetricFamily(
            "millrace_ovs_conntrack_connections", "Connections tracked.", value=found.tracked
        )
    if found.tracked_most is not None:
        yield GaugeMetricFamily(
            "millrace_ovs_conntrack_limit", "Connections there may be.", value=found.tracked_most
        )
    protocols = GaugeMetricFamily(
        "millrace_ovs_conntrack_protocol_connections",
        "Connections tracked, by protocol.",
        labels=["protocol"],
    )
    for protocol, count in sorted(found.protocols.items()):
        protocols.add_metric([protocol], count)
    count_of = GaugeMetricFamily(
        "millrace_ovs_conntrack_zone_connections",
        "Connections of a zone that has a limit.",
        labels=["zone"],
    )
    limit_of = GaugeMetricFamily("millrace_ovs_conntrack_zone_limit", "Its limit.", labels=["zone"])
    zones = sorted(
        found.limits.zones.items(),
        key=lambda item: (-item[1].connections / max(item[1].limit, 1), item[0]),
    )
    for number, zone in zones[:MOST_ZONES]:
        count_of.add_metric([str(number)], zone.connections)
        if zone.limit:
            limit_of.add_metric([str(number)], zone.limit)
    if zones[MOST_ZONES:]:
        count_of.add_metric([OTHER], sum(zone.connections for _, zone in zones[MOST_ZONES:]))
    yield from (protocols, count_of, limit_of)


def _wires(found: OvsFigures) -> Iterator[Metric]:
    neighbours = GaugeMetricFamily(
        "millrace_ovs_tunnel_neighbours", "Tunnel peers whose MAC is known.", labels=["bridge"]
    )
    by_bridge: dict[str, int] = {}
    for neighbour in found.neighbours:
        by_bridge[neighbour.bridge] = by_bridge.get(neighbour.bridge, 0) + 1
    for bridge, count in sorted(by_bridge.items()):
        neighbours.add_metric([bridge], count)
    enabled = GaugeMetricFamily(
        "millrace_ovs_bond_member_enabled", "1: it carries packets.", labels=["bond", "member"]
    )
    negotiated = GaugeMetricFamily(
        "millrace_ovs_bond_lacp_negotiated", "1: LACP is agreed on.", labels=["bond"]
    )
    for bond in found.bonds:
        for member in bond.members:
            enabled.add_metric([bond.name, member.name], member.enabled)
        if bond.lacp not in {"", "off"}:
            negotiated.add_metric([bond.name], bond.lacp == "negotiated")
    events = CounterMetricFamily(
        "millrace_ovs_lacp_events", "LACP's own counts.", labels=["bond", "member", "event"]
    )
    for one in found.lacp:
        for event in ("expired", "defaulted", "carrier_changes", "bad_pdus"):
            events.add_metric([one.bond, one.name, event], getattr(one, event))
    yield from (neighbours, enabled, negotiated, events)


def _poll(found: OvsFigures) -> Iterator[Metric]:
    yield GaugeMetricFamily(
        "millrace_ovs_poll_seconds",
        "How long vswitchd took for the last poll.",
        value=found.poll_seconds,
    )
    seconds = GaugeMetricFamily(
        "millrace_ovs_poll_command_seconds",
        "How long vswitchd took for a command of it.",
        labels=["command"],
    )
    for command, took in sorted(found.seconds.items()):
        seconds.add_metric([command], took)
    failures = CounterMetricFamily(
        "millrace_ovs_poll_failures", "Commands without an answer.", labels=["command"]
    )
    for command, count in sorted(found.failures.items()):
        failures.add_metric([command], count)
    yield from (seconds, failures)


def _at(thread: PmdThread) -> list[str]:
    return [str(thread.numa), str(thread.cpu)]
