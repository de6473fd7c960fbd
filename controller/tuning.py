"""The tuning plan of one node: its file and its machine put together.

What `[dpdk]` names is a pin; what it leaves out is computed. A file that names cores and memory
itself is left as it was written: nothing else is set then, so OVS's own defaults hold.
"""

from __future__ import annotations

import contextlib
from dataclasses import replace
from pathlib import Path

from controller.config import ConfigProblems, Source
from controller.vswitchd import control_socket, running_pid, version_of
from dataplane.drivers.ovsprocess import installed_version
from dataplane.drivers.topology import read_topology
from dataplane.drivers.unixctl import UnixctlClient
from dataplane.model.config import NodeConfig, UplinkConfig, UplinkMode
from dataplane.model.topology import Topology
from dataplane.model.tuning import Computed, Tuning
from dataplane.plan.ovskeys import OvsVersion
from dataplane.plan.tuning.compute import BIFURCATED_DRIVERS, tuning
from dataplane.plan.tuning.outcome import Access, Pins, Refused, TuningPlan, WantedPort, Wants
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
    # Only these keys differ between releases, so that a node without them need not know its own.
    if config.tuning or config.computed:
        return replace(config, ovs_release=release_of(config.ovs_rundir))
    return config


def release_of(ovs_rundir: str) -> str:
    """The release of the running vswitchd, or of the installed one; "" if neither tells."""
    rundir = Path(ovs_rundir)
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
                    ("tuning" if one.key in config.tuning else "dpdk", one.key.partition("[")[0]),
                    one.what,
                    one.why,
                    one.next_step,
                )
                for one in error.refusals
            ]
        ) from error


def is_explicit(config: NodeConfig) -> bool:
    """Whether the file names cores and memory itself."""
    return bool(config.dpdk.lcore and config.dpdk.pmd and config.dpdk.socket_mem_mib)


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
        or values.socket_mem_mib.get(min(values.socket_mem_mib, default=0), 0),
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
        socket_mem_mib={topology.nodes[0].number: dpdk.socket_mem_mib},
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
    """What the file fixes. `socket_mem_mib` is memory of the first node, as OVS reads it."""
    dpdk = config.dpdk
    memory = {topology.nodes[0].number: dpdk.socket_mem_mib} if dpdk.socket_mem_mib else None
    return Pins(
        lcore=frozenset(dpdk.lcore) or None,
        pmd=frozenset(dpdk.pmd) or None,
        socket_mem_mib=memory,
        settings=config.tuning,
    )
