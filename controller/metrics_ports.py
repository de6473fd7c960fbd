"""Metrics of OVS's ports: which have series of their own, whose workload they are, the families.

The number of series is bounded: the ports with the most packets have their own, the others are
summed under `interface="other"`. A counter's sum only grows, as in `controller.metrics_services`.
What an alarm needs of every port (guests that are not connected, ports with an error) is counted
over all of them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from prometheus_client.core import GaugeMetricFamily, Metric, UnknownMetricFamily

from dataplane.drivers.ovsinterfaces import InterfaceState

OTHER = "other"
MOST = 256
"""Ports with series of their own."""

LABELS = ("bridge", "port", "interface", "type", "namespace", "pod", "vm")
"""The first four are openstack-network-exporter's; an empty label is none at all to Prometheus."""

COUNTERS: Mapping[str, tuple[tuple[str, ...], str]] = {
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

DROPS = {
    "ovs_tx_failure_drops": "tx_failure",
    "ovs_tx_mtu_exceeded_drops": "tx_mtu",
    "ovs_tx_qos_drops": "tx_qos",
    "ovs_tx_invalid_hwol_drops": "tx_offload",
    "ovs_rx_qos_drops": "rx_qos",
    "rx_dropped": "rx_dropped",
    "tx_dropped": "tx_dropped",
}
DROPS_NAME = "millrace_ovs_interface_drops"
_STATES = {"up": 1, "down": 0}
_VHOST = frozenset({"dpdkvhostuserclient", "dpdkvhostuser"})
_CARRIER = "tunnel_egress_iface_carrier"
_LAUNCHER = "virt-launcher-"


@dataclass(frozen=True, slots=True)
class Workload:
    """Who is behind a port: empty where nobody said so."""

    namespace: str = ""
    pod: str = ""
    vm: str = ""


@dataclass(frozen=True, slots=True)
class PortSeries:
    """Ports with series of their own, the sums of all others, and counts over all ports."""

    shown: tuple[tuple[InterfaceState, Workload], ...] = ()
    other: Mapping[str, int] = field(default_factory=dict)
    hidden: int = 0
    vhost_ports: int = 0
    vhost_disconnected: int = 0
    with_error: int = 0


def workload(external_ids: Mapping[str, str], namespace: str = "", pod: str = "") -> Workload:
    """The workload of a port.

    From the attachment that the CNI plugin recorded (`namespace`, `pod`); else from what other
    integrations write beside the port: Kube-OVN's pod_name and pod_namespace, os-vif's and
    libvirt's vm-uuid, an iface-id of the form pod.namespace. KubeVirt's pods are named after their
    VM.
    """
    namespace = namespace or external_ids.get("pod_namespace", "")
    pod = pod or external_ids.get("pod_name", "")
    iface_id = external_ids.get("iface-id", "")
    if not pod and iface_id.count(".") == 1:
        pod, _, namespace = iface_id.partition(".")
    vm = external_ids.get("vm-name") or external_ids.get("vm-uuid") or external_ids.get("vm-id", "")
    if not vm and pod.startswith(_LAUNCHER):
        vm = pod.removeprefix(_LAUNCHER).rpartition("-")[0]
    return Workload(namespace, pod, vm)


class TopPorts:
    """Chooses the ports that are shown; keeps what is needed for the sums of the others."""

    def __init__(self) -> None:
        self._before: dict[str, Mapping[str, int]] = {}
        self._other: Counter[str] = Counter()

    def take(
        self,
        interfaces: Iterable[InterfaceState],
        workloads: Mapping[str, Workload],
        most: int = MOST,
    ) -> PortSeries:
        """The series after another look at the ports.

        Args:
            interfaces: every port.
            workloads: by port's name, of those that have one; of others the port itself says it.
            most: how many ports are shown by name.
        """
        ports = sorted(interfaces, key=lambda one: (-_packets(one), one.name))
        shown, hidden = ports[:most], ports[most:]
        before, self._before = self._before, {}
        for port in ports:
            self._before[port.name] = port.statistics
        for port in hidden:
            earlier = before.get(port.name, {})
            for name, value in _counted(port.statistics):
                was = dict(_counted(earlier)).get(name, 0)
                # A counter that went back is of a port that was made anew.
                self._other[name] += value - was if value >= was else value
        vhost = [port for port in ports if port.type in _VHOST]
        return PortSeries(
            shown=tuple(
                (port, workloads.get(port.name) or workload(port.external_ids))
                for port in sorted(shown, key=lambda one: one.name)
            ),
            other=dict(self._other),
            hidden=len(hidden),
            vhost_ports=len(vhost),
            vhost_disconnected=sum(not _connected(port) for port in vhost),
            with_error=sum(bool(port.error) for port in ports),
        )


def port_families(series: PortSeries) -> Iterator[Metric]:
    """The families of ports."""
    yield from _states(series)
    yield from _vhost(series)
    counters: dict[str, Metric] = {
        name: UnknownMetricFamily(name, text) for name, (_, text) in COUNTERS.items()
    }
    drops = UnknownMetricFamily(f"{DROPS_NAME}_total", "Packets dropped at a port, by reason.")
    for port, owner in series.shown:
        labels = dict(zip(LABELS, labels_of(port, owner), strict=True))
        for name, value in _counted(port.statistics):
            if name in counters:
                counters[name].add_sample(name, labels, value)
            else:
                reason = {**labels, "reason": name}
                drops.add_sample(f"{DROPS_NAME}_total", reason, value)
    if series.hidden:
        labels = dict.fromkeys(LABELS, "") | {"interface": OTHER}
        for name, value in sorted(series.other.items()):
            if name in counters:
                counters[name].add_sample(name, labels, value)
            else:
                drops.add_sample(f"{DROPS_NAME}_total", {**labels, "reason": name}, value)
    yield from (*counters.values(), drops)


def labels_of(port: InterfaceState, owner: Workload) -> list[str]:
    """The values of LABELS."""
    names = [port.bridge, port.port or port.name, port.name, port.type or "system"]
    return [*names, owner.namespace, owner.pod, owner.vm]


def _states(series: PortSeries) -> Iterator[Metric]:
    admin = GaugeMetricFamily(
        "ovs_interface_admin_state", "up 1, down 0, unknown -1.", labels=LABELS
    )
    link = GaugeMetricFamily("ovs_interface_link_state", "up 1, down 0, unknown -1.", labels=LABELS)
    mtu = GaugeMetricFamily("ovs_interface_mtu_bytes", "MTU.", labels=LABELS)
    speed = GaugeMetricFamily(
        "ovs_interface_link_speed_bps", "Speed of the link, 0 where it has none.", labels=LABELS
    )
    resets = UnknownMetricFamily("ovs_interface_link_resets", "Changes of the link's state.")
    for port, owner in series.shown:
        names = labels_of(port, owner)
        admin.add_metric(names, _STATES.get(port.admin_state, -1))
        link.add_metric(names, _STATES.get(port.link_state, -1))
        mtu.add_metric(names, port.mtu or 0)
        speed.add_metric(names, port.link_speed or 0)
        resets.add_sample(
            "ovs_interface_link_resets", dict(zip(LABELS, names, strict=True)), port.link_resets
        )
    yield from (admin, link, mtu, speed, resets)
    for name, text, value in (
        ("millrace_ovs_ports_hidden", "Ports without series of their own.", series.hidden),
        ("millrace_ovs_ports_with_error", "Ports that OVS could not make.", series.with_error),
    ):
        yield GaugeMetricFamily(name, text, value=value)


def _vhost(series: PortSeries) -> Iterator[Metric]:
    connected = GaugeMetricFamily(
        "millrace_vhost_connected", "1: the guest's side is connected.", labels=LABELS
    )
    vrings = GaugeMetricFamily("millrace_vhost_vrings", "Rings the guest set up.", labels=LABELS)
    numa = GaugeMetricFamily(
        "millrace_vhost_numa", "NUMA node of the guest's memory.", labels=LABELS
    )
    carrier = GaugeMetricFamily(
        "millrace_ovs_tunnel_carrier", "1: what the tunnel leaves by has a link.", labels=LABELS
    )
    for port, owner in series.shown:
        if _CARRIER in port.status:
            carrier.add_metric(labels_of(port, owner), port.status[_CARRIER] == "up")
        if port.type not in _VHOST:
            continue
        names = labels_of(port, owner)
        connected.add_metric(names, _connected(port))
        for family, key in ((vrings, "num_of_vrings"), (numa, "numa")):
            value = port.status.get(key, "")
            if value.isascii() and value.isdigit():
                family.add_metric(names, int(value))
    yield from (connected, vrings, numa, carrier)
    yield GaugeMetricFamily("millrace_vhost_ports", "Ports of guests.", value=series.vhost_ports)
    yield GaugeMetricFamily(
        "millrace_vhost_ports_disconnected",
        "Of these, ports whose guest is not connected.",
        value=series.vhost_disconnected,
    )


def _connected(port: InterfaceState) -> bool:
    return port.status.get("status") == "connected"


def _packets(port: InterfaceState) -> int:
    return port.statistics.get("rx_packets", 0) + port.statistics.get("tx_packets", 0)


def _counted(statistics: Mapping[str, int]) -> Iterator[tuple[str, int]]:
    """By metric, or by reason of drops, what a port counted; others are not there."""
    for name, (keys, _) in COUNTERS.items():
        for key in keys:
            if key in statistics:
                yield name, statistics[key]
                break
    for key, reason in DROPS.items():
        if key in statistics:
            yield reason, statistics[key]
