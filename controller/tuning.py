"""The tuning plan of one node: its file and its machine put together.

What `[dpdk]` names is a pin; what it leaves out is computed. A file that names cores and memory
itself is left as it was written: nothing else is set then, so OVS's own defaults hold.
"""

from __future__ import annotations

import contextlib
from dataclasses import replace
from pathlib import Path as FilePath

from controller.config import ConfigProblem, ConfigProblems, Source
from controller.config_reader import dotted
from controller.toml_lines import Path
from controller.vswitchd import control_socket, running_pid, version_of
from dataplane.drivers.ovsprocess import installed_version
from dataplane.drivers.topology import read_topology
from dataplane.drivers.unixctl import UnixctlClient
from dataplane.model.config import DpdkConfig, NodeConfig, UplinkConfig, UplinkMode
from dataplane.model.topology import Topology, cpu_ranges
from dataplane.model.tuning import Computed, Tuning
from dataplane.plan.ovs import shares_threads
from dataplane.plan.ovskeys import OvsVersion
from dataplane.plan.tuning.compute import BIFURCATED_DRIVERS, tuning
from dataplane.plan.tuning.outcome import (
    Access,
    Pins,
    PortPin,
    Refused,
    TuningPlan,
    WantedPort,
    Wants,
)
from dataplane.plan.tuning.queues import parse_affinity
from dataplane.ports import DataplaneError


def settle(source: Source[NodeConfig]) -> NodeConfig:
    """The configuration with everything that it leaves to the plan filled in for this machine.

    Raises:
        ConfigProblems: a pin in it cannot work on this machine.
        ObserveError: the machine's topology cannot be read.
    """
    config = source.config
    if not is_explicit(config):
        config = settled(config, plan_of(source, read_topology()))
    config = replace(config, ovs_release=release_of(config.ovs_rundir))
    if problems := queue_pins(source, config):
        raise ConfigProblems(problems)
    return config


def queue_pins(source: Source[NodeConfig], config: NodeConfig) -> list[ConfigProblem]:
    """Queues that the file gives to CPUs without a PMD thread, or to the last thread that is free.

    Args:
        source: the file.
        config: the same with all PMD threads in it.
    """
    threads = frozenset(config.dpdk.pmd)
    problems: list[ConfigProblem] = []
    pinned: set[int] = set()
    for index, uplink in enumerate(config.uplinks):
        if not uplink.affinity:
            continue
        path = ("uplink", index, "affinity")
        shown = f'{dotted(path)} = "{uplink.affinity}"'
        cpus = set(parse_affinity(uplink.affinity).values())
        if strangers := cpus - threads:
            problems.append(
                source.problem(
                    path,
                    shown,
                    f"CPU {cpu_ranges(strangers)} has no PMD thread; OVS would ignore it",
                    f"PMD threads are on {cpu_ranges(threads)}",
                )
            )
        elif threads and threads <= pinned | cpus and not shares_threads(config, {}):
            problems.append(
                source.problem(
                    path,
                    shown,
                    "no PMD thread is left without pinned queues, and those that have any serve no "
                    "others: guests' queues would not be polled",
                    'leave one out, or write rxq_assign = "group" and rxq_isolate = false',
                )
            )
        pinned |= cpus
    return problems


def release_of(ovs_rundir: str) -> str:
    """The release of the running vswitchd, or of the installed one; "" if neither tells."""
    rundir = FilePath(ovs_rundir)
    pid = running_pid(rundir / "ovs-vswitchd.pid")
    if pid is not None:
        with contextlib.suppress(DataplaneError, ValueError):
            client = UnixctlClient(str(control_socket(rundir, pid)))
            return str(OvsVersion.parse(version_of(client.call("version"))))
    with contextlib.suppress(ValueError):
        return str(OvsVersion.parse(installed_version()))
    return ""


def plan_of(source: Source[NodeConfig], topology: Topology) -> TuningPlan:
    """The plan for a node's file on a machine.

    Raises:
        ConfigProblems: a pin cannot work there; at its line.
    """
    config = source.config
    try:
        return tuning(topology, wants_of(config, topology), pins_of(config, topology))
    except Refused as error:
        raise ConfigProblems(
            [
                source.problem(
                    _path(config, one.key),
                    one.what,
                    one.why,
                    one.next_step,
                )
                for one in error.refusals
            ]
        ) from error


def _path(config: NodeConfig, key: str) -> Path:
    """Where the file says what the plan refuses."""
    if not key.startswith("ports."):
        return ("tuning" if key in config.tuning else "dpdk", key.partition("[")[0])
    device = key.removeprefix("ports.")
    for table, members in (
        ("uplink", [(one,) for one in config.uplinks]),
        ("bond", [one.members for one in config.bonds]),
    ):
        for index, nics in enumerate(members):
            for nic in nics:
                if device == nic.device or device.startswith(f"{nic.device}."):
                    word = device[len(nic.device) + 1 :]
                    return (table, index, _WORDS.get(word, word))
    return ("uplink",)


_WORDS = {
    "rx_queues": "queues",
    "descriptors_rx": "rx_descriptors",
    "descriptors_tx": "tx_descriptors",
}
"""The plan's words and the file's."""


def is_explicit(config: NodeConfig) -> bool:
    """Whether the file names cores and memory itself."""
    return bool(config.dpdk.lcore and config.dpdk.pmd and config.dpdk.memory)


def settled(config: NodeConfig, plan: TuningPlan) -> NodeConfig:
    """The configuration with the plan in it, and its cores and memory where the file has none."""
    if is_explicit(config):
        return config
    values = plan.tuning
    dpdk = replace(
        config.dpdk,
        lcore=config.dpdk.lcore or tuple(sorted(values.lcore)),
        pmd=config.dpdk.pmd or tuple(sorted(values.pmd)),
        # One number is memory of the first node; the other nodes' are in the plan's own `Tuning`.
        socket_mem_mib=config.dpdk.socket_mem_mib
        if config.dpdk.memory
        else values.socket_mem_mib.get(min(values.socket_mem_mib, default=0), 0),
    )
    return replace(config, dpdk=dpdk, computed=Computed(values, plan.pinned))


def tuning_of(config: NodeConfig, topology: Topology, plan: TuningPlan) -> Tuning:
    """What OVS is to be told: the plan, or an explicit file's own three values and no more."""
    if not is_explicit(config):
        return replace(plan.tuning, eal=config.dpdk.extra or plan.tuning.eal)
    dpdk = config.dpdk
    return Tuning(
        lcore=frozenset(dpdk.lcore),
        pmd=frozenset(dpdk.pmd),
        socket_mem_mib=_by_node(dpdk, topology),
        eal=dpdk.extra,
    )


def wants_of(config: NodeConfig, topology: Topology) -> Wants:
    """What the file says the node is for. Uplinks on kernel links have no PMD thread."""
    pages = config.hugepages
    return Wants(
        ports=tuple(
            WantedPort(
                uplink.device,
                uplink.device,
                _access(uplink, topology),
                # One is the file's default, too: there the plan says how many.
                queues=uplink.queues
                if uplink.mode is UplinkMode.AF_XDP or uplink.queues > 1
                else None,
            )
            for uplink in config.nics
            if uplink.mode is not UplinkMode.KERNEL and topology.nic(uplink.device)
        ),
        guest_mtus=(config.port_mtu,),
        hugepages=(pages.size_kib, pages.count) if pages else None,
        pmd_cores=config.wishes.pmd_cores,
        flows=config.wishes.flows,
        saves_power=config.wishes.saves_power,
    )


def _access(uplink: UplinkConfig, topology: Topology) -> Access:
    if uplink.mode is UplinkMode.AF_XDP:
        return Access.AF_XDP
    nic = topology.nic(uplink.device)
    bifurcated = nic is not None and nic.driver in BIFURCATED_DRIVERS
    return Access.BIFURCATED if bifurcated else Access.VFIO


def pins_of(config: NodeConfig, topology: Topology) -> Pins:
    """What the file fixes."""
    dpdk = config.dpdk
    return Pins(
        lcore=frozenset(dpdk.lcore) or None,
        pmd=frozenset(dpdk.pmd) or None,
        socket_mem_mib=_by_node(dpdk, topology) or None,
        ports={
            uplink.device: PortPin(
                None, uplink.rx_descriptors, uplink.tx_descriptors, uplink.affinity or None
            )
            for uplink in config.nics
            if uplink.is_pinned and topology.nic(uplink.device)
        },
        settings=config.tuning,
    )


def _by_node(dpdk: DpdkConfig, topology: Topology) -> dict[int, int]:
    """Memory by NUMA node as OVS reads a list: from node 0 on; one number is the first node's."""
    if len(dpdk.memory) == 1:
        return {topology.nodes[0].number: dpdk.memory[0]}
    return dict(enumerate(dpdk.memory))
