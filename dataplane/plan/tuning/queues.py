"""How many receive queues each NIC has, and which PMD thread serves each of them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from dataplane.model.topology import NO_NODE, Topology
from dataplane.model.tuning import PortTuning
from dataplane.plan.tuning import sources
from dataplane.plan.tuning.cores import CorePlan
from dataplane.plan.tuning.outcome import (
    PINNED,
    Access,
    Decision,
    PortPin,
    Refusal,
    WantedPort,
)

FAST_MBPS = 100_000
FAST_DESCRIPTORS = 4096
"""For NICs of FAST_MBPS: 2048 of 64 bytes are 14 us there. OVS up to 3.5 takes no more."""

_PAIR = re.compile(r"([0-9]{1,4}):([0-9]{1,4})")


@dataclass(frozen=True, slots=True)
class QueuePlan:
    """The ports by name."""

    ports: Mapping[str, PortTuning]
    decisions: tuple[Decision, ...]


def parse_affinity(text: str) -> dict[int, int]:
    """Queue to CPU of "0:3,1:7" (ovs-vswitchd.conf.db(5), pmd-rxq-affinity).

    Raises:
        ValueError: it is not of that form, or names a queue twice.
    """
    found: dict[int, int] = {}
    for part in text.split(","):
        pair = _PAIR.fullmatch(part.strip())
        if pair is None:
            msg = f"{part.strip()!r} is not QUEUE:CPU"
            raise ValueError(msg)
        queue, cpu = int(pair[1]), int(pair[2])
        if queue in found:
            msg = f"queue {queue} is given to CPU {found[queue]} and to CPU {cpu}"
            raise ValueError(msg)
        found[queue] = cpu
    return found


def check_shares(topology: Topology, wanted: tuple[WantedPort, ...]) -> list[Refusal]:
    """Two ports may be on one NIC only with queues of their own; names are unique."""
    refusals = []
    names: set[str] = set()
    shares: dict[str, list[tuple[range, str]]] = {}
    for port in wanted:
        if port.name in names:
            refusals.append(
                Refusal(
                    f"ports.{port.name}",
                    f"port {port.name} is there twice",
                    "a port has one NIC and one set of queues",
                    "give one of them another name",
                )
            )
        names.add(port.name)
        nic = topology.nic(port.device)
        key = nic.address or nic.device if nic else port.device
        whole = nic.max_queues - port.first_queue if nic else 1
        count = max(1, port.queues if port.queues is not None else whole)
        mine = range(port.first_queue, port.first_queue + count)
        for theirs, other in shares.setdefault(key, []):
            both = range(max(mine.start, theirs.start), min(mine.stop, theirs.stop))
            if both:
                refusals.append(
                    Refusal(
                        f"ports.{port.name}.first_queue",
                        f"ports {other} and {port.name} are both given queue {both.start} of "
                        f"{port.device}",
                        "a queue's packets go to one port",
                        f"give {port.name} queues from {theirs.stop} on",
                    )
                )
        shares[key].append((mine, port.name))
    return refusals


def threads_on(topology: Topology, pmd: frozenset[int], node: int) -> list[int]:
    """PMD CPUs of a node: one of each core first, then their siblings."""
    cores = [sorted(core.cpus & pmd) for core in topology.cores_on(node)]
    deepest = max((len(cpus) for cpus in cores), default=0)
    return [cpus[level] for level in range(deepest) for cpus in cores if level < len(cpus)]


def plan_queues(
    topology: Topology,
    wanted: tuple[WantedPort, ...],
    cores: CorePlan,
    pins: Mapping[str, PortPin],
) -> QueuePlan:
    """Queues of all ports; pins are good already (`dataplane.plan.tuning.pins`)."""
    load: dict[int, float] = dict.fromkeys(sorted(cores.pmd), 0.0)
    ports: dict[str, PortTuning] = {}
    decisions: list[Decision] = []
    for port in sorted(wanted, key=lambda port: port.name):
        pin = pins.get(port.name, PortPin())
        ports[port.name] = _plan_port(topology, port, pin, cores, load, decisions)
    return QueuePlan(ports, tuple(decisions))


def _plan_port(
    topology: Topology,
    port: WantedPort,
    pin: PortPin,
    cores: CorePlan,
    load: dict[int, float],
    decisions: list[Decision],
) -> PortTuning:
    nic = topology.nic(port.device)
    node = nic.node if nic and nic.node != NO_NODE else topology.nodes[0].number
    threads = threads_on(topology, cores.pmd, cores.serving.get(node, node)) or sorted(cores.pmd)
    count, rule, source = _count(topology, port, pin, len(threads))
    say = f"ports.{port.name}"
    decisions.append(Decision(f"{say}.rx_queues", str(count), rule, source))

    fixed = parse_affinity(pin.affinity) if pin.affinity else {}
    weight = ((nic.speed_mbps if nic else 0) or 1) / count
    affinity = {}
    for queue in sorted(range(count), key=lambda queue: (queue not in fixed, queue)):
        # The thread that has least to do so far; among equals, one of a core that has none yet.
        cpu = fixed.get(queue, min(threads, key=lambda one: (load[one], threads.index(one))))
        load[cpu] += weight
        affinity[queue] = cpu
    shown = ",".join(f"{queue}:{affinity[queue]}" for queue in sorted(affinity))
    decisions.append(
        Decision(
            f"{say}.affinity",
            shown,
            "a person fixed " + ("all of it" if len(fixed) == count else "some of it")
            if fixed
            else f"each queue one PMD thread of node {cores.serving.get(node, node)}, least loaded "
            "by NIC speed first, siblings last",
            PINNED if fixed else f"{sources.OVS_PMD} (pmd-rxq-affinity); order: {sources.OURS}",
        )
    )
    rx = pin.descriptors_rx
    is_fast = nic is not None and nic.speed_mbps >= FAST_MBPS and port.access is not Access.AF_XDP
    if rx is None and is_fast:
        rx = FAST_DESCRIPTORS
    decisions.append(
        Decision(
            f"{say}.descriptors_rx",
            str(rx or "OVS's default (2048)"),
            "a person fixed it"
            if pin.descriptors_rx is not None
            else f"{FAST_DESCRIPTORS} from {FAST_MBPS // 1000} Gbit/s on, where bursts fill 2048 "
            "in microseconds; below, more only pushes packets out of the cache",
            PINNED
            if pin.descriptors_rx is not None
            else f"{sources.OVS_PHY}; limit: {sources.OURS}",
        )
    )
    tx = pin.descriptors_tx
    decisions.append(
        Decision(
            f"{say}.descriptors_tx",
            str(tx or "OVS's default (2048)"),
            "a person fixed it" if tx is not None else "OVS's default",
            PINNED if tx is not None else sources.OVS_PHY,
        )
    )
    return PortTuning(count, rx, tx, affinity)


def _count(
    topology: Topology, port: WantedPort, pin: PortPin, threads: int
) -> tuple[int, str, str]:
    nic = topology.nic(port.device)
    most = max(1, nic.max_queues - port.first_queue) if nic else 1
    if pin.rx_queues is not None:
        return pin.rx_queues, "a person fixed it", PINNED
    if port.queues is not None:
        return port.queues, "as the node's file says for this uplink", PINNED
    rule = (
        f"one for each of the {threads} PMD threads that serve its node, at most {most} (the NIC)"
    )
    pinned = max(parse_affinity(pin.affinity), default=0) + 1 if pin.affinity else 1
    return max(pinned, min(threads, most)), rule, f"{sources.OVS_PMD}; {sources.NFV_GUIDE}"
