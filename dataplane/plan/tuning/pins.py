"""What a person fixed: whether it can work on this machine, before anything is computed from it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from enum import Enum

from dataplane.model.topology import NicPort, Topology, cpu_ranges
from dataplane.model.tuning import FlowCache, Mempools, RxqAssign, Tuning
from dataplane.plan.tuning.outcome import Access, Pins, PortPin, Refusal, WantedPort, Wants
from dataplane.plan.tuning.queues import parse_affinity

MAX_DESCRIPTORS = 32768

_NUMBERS: Mapping[str, tuple[int, int]] = {
    "emc_insert_inverse": (0, (1 << 32) - 1),
    "pmd_sleep_us": (0, 10_000),
    "auto_lb_load_percent": (0, 100),
    "handlers": (1, 1024),
    "revalidators": (1, 1024),
    "tx_flush_us": (0, 1_000_000),
    "vlan_limit": (0, 2),
    "max_idle_ms": (500, 1 << 31),
    "flow_limit": (0, 1 << 31),
}
_FLAGS = ("rxq_isolate", "auto_lb", "tso", "vhost_iommu", "vhost_postcopy")
_CHOICES: Mapping[str, type[Enum]] = {
    "mempools": Mempools,
    "flow_cache": FlowCache,
    "rxq_assign": RxqAssign,
}
_COMPUTED = frozenset({"lcore", "pmd", "socket_mem_mib", "ports"})


def check_pins(topology: Topology, wants: Wants, pins: Pins) -> list[Refusal]:
    """Pins that cannot work, each with the reason."""
    return [
        *_check_cpus(topology, "lcore", pins.lcore),
        *_check_cpus(topology, "pmd", pins.pmd),
        *_check_both(pins),
        *_check_memory(topology, pins.socket_mem_mib),
        *_check_settings(pins.settings),
        *_check_names(wants, pins),
    ]


def _check_cpus(topology: Topology, key: str, cpus: frozenset[int] | None) -> list[Refusal]:
    if cpus is None:
        return []
    shown = f"{key} = {cpu_ranges(cpus)}"
    if not cpus:
        return [Refusal(key, f"{key} has no CPU", "OVS needs one", "name one, or leave it out")]
    refusals = []
    if absent := cpus - topology.cpus:
        offline = absent & topology.offline
        why = (
            f"CPU {cpu_ranges(offline)} is offline"
            if offline == absent
            else f"the machine has no CPU {cpu_ranges(absent - offline)}"
        )
        next_step = f"name some of {cpu_ranges(topology.cpus)}"
        refusals.append(Refusal(key, shown, why, next_step))
    forbidden = topology.forbidden()
    if key == "lcore":
        # The main threads may share with the host, but not with a guest.
        allowed = topology.taken.allowed
        outside = cpus & topology.cpus - allowed if allowed is not None else frozenset()
        taken = sorted(cpus & topology.taken.exclusive | outside)
    else:
        taken = sorted(cpus & forbidden.keys())
    for reason in sorted({forbidden[cpu] for cpu in taken}):
        those = cpu_ranges(cpu for cpu in taken if forbidden[cpu] == reason)
        free = topology.cpus - forbidden.keys()
        refusals.append(
            Refusal(
                key,
                f"{shown}: CPU {those}",
                reason,
                f"free ones are {cpu_ranges(free) or 'none'}"
                + ("; or isolate it (isolcpus=)" if "not isolated" in reason else ""),
            )
        )
    return refusals


def _check_both(pins: Pins) -> list[Refusal]:
    if both := (pins.lcore or frozenset()) & (pins.pmd or frozenset()):
        return [
            Refusal(
                "pmd",
                f"CPU {cpu_ranges(both)} is in lcore and in pmd",
                "a PMD thread never sleeps, so OVS's main thread would starve there",
                "give PMD threads CPUs of their own",
            )
        ]
    return []


def _check_memory(topology: Topology, memory: Mapping[int, int] | None) -> list[Refusal]:
    refusals = []
    for number, mib in sorted((memory or {}).items()):
        key = f"socket_mem_mib[{number}]"
        node = topology.node(number)
        if node is None:
            there = ", ".join(str(node.number) for node in topology.nodes)
            why = "the machine has no such node"
            refusals.append(Refusal(key, f"{key} = {mib}", why, f"nodes are: {there}"))
        elif mib > node.hugepages_mib:
            why = f"node {number} has {node.hugepages_mib} MiB in hugepages"
            next_step = "lower it, or give the node more pages"
            refusals.append(Refusal(key, f"{key} = {mib}", why, next_step))
    return refusals


def _check_settings(settings: Mapping[str, object]) -> list[Refusal]:
    refusals = []
    known = {one.name for one in fields(Tuning)} - _COMPUTED
    for key, value in sorted(settings.items()):
        why = _wrong(key, value) if key in known else "there is no such value"
        if why:
            next_step = f"values are: {', '.join(sorted(known))}" if key not in known else "mend it"
            refusals.append(Refusal(key, f"{key} = {value!r}", why, next_step))
    if settings.get("rxq_isolate") is False and settings.get("rxq_assign") not in (
        None,
        RxqAssign.GROUP,
    ):
        refusals.append(
            Refusal(
                "rxq_isolate",
                "rxq_isolate = false",
                "OVS takes it with rxq_assign = group only (pmd-rxq-isolate)",
                "write rxq_assign = group, or leave one of them out",
            )
        )
    return refusals


def _wrong(key: str, value: object) -> str:
    """What is wrong with one value; "" if nothing is."""
    if key in _NUMBERS:
        low, high = _NUMBERS[key]
        good = type(value) is int and low <= value <= high
        return "" if good else f"it has to be a number within {low}..{high}"
    if key in _FLAGS:
        return "" if isinstance(value, bool) else "it has to be true or false"
    if key in _CHOICES:
        kind = _CHOICES[key]
        names = ", ".join(choice.value for choice in kind)
        return "" if isinstance(value, kind) else f"it has to be one of: {names}"
    if key == "socket_limit_mib":
        return "" if isinstance(value, Mapping) else "it has to be numbers of MiB by node"
    if key in ("eal", "mempool_mtus"):
        return "" if isinstance(value, tuple) else "it has to be a list"
    return "" if isinstance(value, str) else "it has to be text"


def _check_names(wants: Wants, pins: Pins) -> list[Refusal]:
    names = {port.name for port in wants.ports}
    return [
        Refusal(
            f"ports.{name}",
            f"port {name} is pinned",
            f"the node has no such port; it has: {', '.join(sorted(names)) or 'none'}",
            "name one of these, or remove the pin",
        )
        for name in sorted(pins.ports.keys() - names)
    ]


def check_ports(
    topology: Topology, wants: Wants, pins: Mapping[str, PortPin], pmd: frozenset[int]
) -> list[Refusal]:
    """Pins of ports that cannot work with these PMD CPUs."""
    refusals = []
    for port in wants.ports:
        nic = topology.nic(port.device)
        if nic is None:
            there = ", ".join(nic.name for nic in topology.nics) or "none"
            refusals.append(
                Refusal(
                    f"ports.{port.name}",
                    f"port {port.name} is NIC {port.device}",
                    f"the machine has no such NIC; it has: {there}",
                    "name one of these",
                )
            )
            continue
        pin = pins.get(port.name, PortPin())
        if nic.has_default_route and port.access is Access.VFIO:
            refusals.append(
                Refusal(
                    f"ports.{port.name}",
                    f"port {port.name} takes {nic.name} away from the kernel",
                    "it carries the default route: the machine would be cut off",
                    "move the route to another NIC first, or take another NIC",
                )
            )
        refusals += _check_queues(port, pin, nic)
        refusals += _check_affinity(port, pin, nic, pmd)
        for key in ("descriptors_rx", "descriptors_tx"):
            count = getattr(pin, key)
            if count is not None and (
                not 1 <= count <= MAX_DESCRIPTORS or count & (count - 1) or type(count) is not int
            ):
                refusals.append(
                    Refusal(
                        f"ports.{port.name}.{key}",
                        f"ports.{port.name}.{key} = {count}",
                        f"it has to be a power of two up to {MAX_DESCRIPTORS}",
                        "write 2048",
                    )
                )
    return refusals


def _queues(port: WantedPort, pin: PortPin) -> int | None:
    return pin.rx_queues if pin.rx_queues is not None else port.queues


def _check_queues(port: WantedPort, pin: PortPin, nic: NicPort) -> list[Refusal]:
    count = _queues(port, pin)
    if count is None or 1 <= count <= nic.max_queues - port.first_queue:
        return []
    most = nic.max_queues - port.first_queue
    return [
        Refusal(
            f"ports.{port.name}.rx_queues",
            f"ports.{port.name}.rx_queues = {count}",
            f"{nic.name} has {nic.max_queues} queues"
            + (f", of which this port's begin at {port.first_queue}" if port.first_queue else ""),
            f"write 1 to {most}" if most > 0 else "let its queues begin lower",
        )
    ]


def _check_affinity(
    port: WantedPort, pin: PortPin, nic: NicPort, pmd: frozenset[int]
) -> list[Refusal]:
    if pin.affinity is None:
        return []
    key = f"ports.{port.name}.affinity"
    shown = f'{key} = "{pin.affinity}"'
    try:
        pairs = parse_affinity(pin.affinity)
    except ValueError as error:
        return [Refusal(key, shown, str(error), 'write it as in "0:3,1:7", each queue once')]
    refusals = []
    if strangers := sorted(set(pairs.values()) - pmd):
        why = f"CPU {cpu_ranges(strangers)} has no PMD thread; OVS would ignore it"
        refusals.append(Refusal(key, shown, why, f"PMD threads are on {cpu_ranges(pmd)}"))
    count = _queues(port, pin) or nic.max_queues - port.first_queue
    if beyond := [queue for queue in sorted(pairs) if queue >= count]:
        why = f"the port has {count} queues, numbered from 0; there is no queue {beyond[0]}"
        refusals.append(Refusal(key, shown, why, "raise rx_queues, or remove the pair"))
    return refusals
