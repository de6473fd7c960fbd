"""What the machine lacks for the plan, each with the lines that mend it.

The lines are complete: an operator who copies all of them and restarts has nothing left to fix, and
the plan that is computed then is the same plan.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from dataplane.model.topology import NO_NODE, Topology, cpu_ranges
from dataplane.model.tuning import PortTuning
from dataplane.plan.tuning.cores import CorePlan
from dataplane.plan.tuning.outcome import Access, Lack, Wants

GIB_KIB = 1 << 20
LARGE_MIB = 16 * 1024
"""From this memory on, pages of 1 GiB are worth their boot argument."""

_X86 = ("x86_64", "amd64", "i686")


def host_lacks(
    topology: Topology,
    wants: Wants,
    cores: CorePlan,
    ports: Mapping[str, PortTuning],
    memory: Mapping[int, int],
) -> tuple[Lack, ...]:
    """Everything but what cores and memory said themselves."""
    return (
        *_isolation(topology, cores),
        *_kubelet(topology, cores),
        *_iommu(topology, wants),
        *_gib_pages(topology, memory),
        *_nic_nodes(topology, wants),
        *_far_queues(topology, wants, ports),
    )


def _isolation(topology: Topology, cores: CorePlan) -> Iterator[Lack]:
    """Isolation lets nothing else on the core; ticks and callbacks are what is left then."""
    boot, pmd = topology.boot, cores.pmd
    isolated = cpu_ranges(pmd | boot.isolated)
    arguments = (
        f"kernel arguments: isolcpus=managed_irq,domain,{isolated} "
        f"nohz_full={cpu_ranges(pmd | boot.nohz_full)} rcu_nocbs={cpu_ranges(pmd | boot.rcu_nocbs)}"
    )
    tuned = (
        "or tuned: in /etc/tuned/cpu-partitioning-variables.conf write "
        f"isolated_cores={isolated} and no_balance_cores={isolated}, "
        "then `tuned-adm profile cpu-partitioning` and reboot"
    )
    if bare := pmd - boot.isolated:
        yield Lack(
            "not-isolated",
            f"CPU {cpu_ranges(bare)} of the PMD threads is not isolated",
            "the scheduler puts other work there, and each switch loses packets",
            (arguments, tuned),
        )
    elif pmd - boot.nohz_full or pmd - boot.rcu_nocbs:
        yield Lack(
            "ticks",
            f"CPU {cpu_ranges((pmd - boot.nohz_full) | (pmd - boot.rcu_nocbs))} of the PMD threads "
            "has ticks or RCU callbacks",
            "each takes microseconds, a thousand times a second at worst",
            (arguments, tuned),
        )


def _kubelet(topology: Topology, cores: CorePlan) -> Iterator[Lack]:
    """Kubelet gives away every CPU that it does not reserve."""
    kept = topology.taken.kubelet
    if kept is None or not (given := cores.pmd - kept):
        return
    isolated = cpu_ranges(cores.pmd | topology.boot.isolated)
    reserved = cpu_ranges(kept | cores.lcore | cores.pmd)
    yield Lack(
        "kubelet",
        f"kubelet may give CPU {cpu_ranges(given)} of the PMD threads to pods",
        "with the static policy a pod would have it exclusively, with none all pods share it",
        (
            f'KubeletConfiguration: reservedSystemCPUs: "{reserved}", '
            "cpuManagerPolicy: static, topologyManagerPolicy: restricted",
            f"kernel arguments: isolcpus=managed_irq,domain,{isolated} "
            "(a reserved CPU that is not isolated is the host's, and PMD threads leave it)",
            "then: drain the node, remove /var/lib/kubelet/cpu_manager_state, restart kubelet",
        ),
    )


def _iommu(topology: Topology, wants: Wants) -> Iterator[Lack]:
    """vfio-pci binds a NIC only within an IOMMU group."""
    bound = [port.device for port in wants.ports if port.access is Access.VFIO]
    if not bound or topology.boot.iommu_groups:
        return
    if topology.arch not in _X86:
        fix = "enable the SMMU in the firmware; kernel arguments: iommu.passthrough=1"
    elif "amd" in topology.vendor.lower():
        fix = "enable the IOMMU in the firmware; kernel arguments: amd_iommu=on iommu=pt"
    else:
        fix = "enable VT-d in the firmware; kernel arguments: intel_iommu=on iommu=pt"
    yield Lack(
        "iommu",
        "the IOMMU is off",
        f"vfio-pci cannot take {', '.join(bound)} without it",
        (fix,),
        grave=True,
    )


def _gib_pages(topology: Topology, memory: Mapping[int, int]) -> Iterator[Lack]:
    """Pages of 1 GiB can be had at boot only, later memory is in pieces."""
    has_some = any(
        size == GIB_KIB and pool.total
        for node in topology.nodes
        for size, pool in node.hugepages.items()
    )
    is_large = sum(node.memory_mib for node in topology.nodes) >= LARGE_MIB
    if has_some or not is_large or GIB_KIB not in topology.page_sizes_kib:
        return
    # As much again for VMs as for OVS, never more than half of the node.
    counts = {}
    for node in topology.nodes:
        if node.number in memory and node.memory_mib:
            wanted = max(2, 2 * -(-memory[node.number] // 1024))
            counts[node.number] = min(wanted, node.memory_mib // 2048)
    shown = ",".join(f"{number}:{count}" for number, count in sorted(counts.items()) if count)
    if shown:
        yield Lack(
            "gib-pages",
            "no hugepages of 1 GiB were made at boot",
            "packet buffers in pages of 2 MiB miss the TLB more often",
            (f"kernel arguments: default_hugepagesz=1G hugepagesz=1G hugepages={shown}",),
        )


def _nic_nodes(topology: Topology, wants: Wants) -> Iterator[Lack]:
    for port in wants.ports:
        nic = topology.nic(port.device)
        if nic and nic.node == NO_NODE and len(topology.nodes) > 1:
            yield Lack(
                f"nic-node-{nic.name}",
                f"the firmware does not say on which NUMA node {nic.name} is",
                f"it is planned on node {topology.nodes[0].number}, which may be the far one",
                (
                    "update the firmware, or look at the board's manual and write it: "
                    f"echo NODE > /sys/bus/pci/devices/{nic.address or 'ADDRESS'}/numa_node",
                ),
            )


def _far_queues(
    topology: Topology, wants: Wants, ports: Mapping[str, PortTuning]
) -> Iterator[Lack]:
    """Pins may do it; the plan itself does it only where the NIC's node has no PMD thread."""
    for port in wants.ports:
        nic = topology.nic(port.device)
        if nic is None or nic.node == NO_NODE or port.name not in ports:
            continue
        here = frozenset().union(*(core.cpus for core in topology.cores_on(nic.node)))
        affinity = ports[port.name].affinity
        far = sorted(queue for queue, cpu in affinity.items() if cpu not in here)
        if far:
            yield Lack(
                f"far-queues-{port.name}",
                f"queues {', '.join(map(str, far))} of {port.name} are served from another NUMA "
                f"node than {nic.node}, where {nic.name} is",
                "each packet crosses the link between sockets",
                (f"PMD threads on node {nic.node}, or the NIC in another slot",),
            )
