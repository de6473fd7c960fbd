"""The doctor's checks of a host: what DPDK and BPF need of it, and what slows them down.

Each looks at facts that were read before (`Site`), so that a test can make a host up.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

from dataplane.drivers.preemption import Preemption
from dataplane.model.config import Attach, UplinkMode
from dataplane.plan.node import service_uplink
from dataplane.plan.polls import has_one_sender

if TYPE_CHECKING:
    from controller.doctor import Site
    from dataplane.drivers.hostfacts import ProcessFacts

CAPABILITIES = {
    "CAP_CHOWN": 0,
    "CAP_DAC_OVERRIDE": 1,
    "CAP_FOWNER": 3,
    "CAP_NET_ADMIN": 12,
    "CAP_IPC_LOCK": 14,
    "CAP_SYS_PTRACE": 19,
    "CAP_SYS_ADMIN": 21,
    "CAP_SYS_NICE": 23,
    "CAP_SYS_RESOURCE": 24,
    "CAP_PERFMON": 38,
    "CAP_BPF": 39,
}
"""What the node daemon needs (deploy/systemd/millrace-node.service), by bit (capability.h)."""

OPTIONAL = frozenset({"CAP_SYS_RESOURCE"})
"""Raises RLIMIT_MEMLOCK, which matters before NO_MEMLOCK_SINCE only."""

NO_MEMLOCK_SINCE = (5, 11)
"""BPF's memory is accounted to the cgroup since then; before, RLIMIT_MEMLOCK bounds every map."""

XSK_QUEUE_BYTES = 64 << 20
"""What one AF_XDP queue of OVS pins. RLIMIT_MEMLOCK bounds it for whoever lacks CAP_IPC_LOCK."""

PACKET_SOCKET_BYTES = 4 << 20
"""OVS asks for no buffer for its packet sockets (kernel-mode uplinks, containers that have OVS
ports of their own), so they have the default: 208 KiB, ninety frames. A bucket of 100 ms at
100 Mbit/s is 833 of them (docs/benchmarks.md, rate limits)."""


def cpus(site: Site) -> Iterator[str]:
    """PMD threads and DPDK's main thread on CPUs that are there, and on different ones."""
    dpdk = site.config.dpdk
    absent = sorted((set(dpdk.pmd) | set(dpdk.lcore)) - site.facts.cpus)
    if absent:
        yield f"CPU {_list(absent)} of [dpdk] is not there, or is offline"
    if shared := sorted(set(dpdk.pmd) & set(dpdk.lcore)):
        yield f"CPU {_list(shared)} is both in dpdk.pmd and in dpdk.lcore"


def isolation(site: Site) -> Iterator[str]:
    """Nothing else is scheduled on the PMD threads' CPUs."""
    wanted = set(site.config.dpdk.pmd) & site.facts.cpus
    if missing := sorted(wanted - site.host.isolated):
        yield (
            f"CPU {_list(missing)} of dpdk.pmd is not isolated: boot with "
            f"isolcpus=managed_irq,domain,{_list(sorted(wanted))}"
        )
    for option in ("nohz_full", "rcu_nocbs"):
        if not site.host.options.get(option):
            yield f"no {option}= at boot: timer ticks interrupt the PMD threads"


def boot_options(site: Site) -> Iterator[str]:
    """Options of the kernel that cost packets."""
    options = site.host.options
    if site.config.hugepages and "default_hugepagesz" not in options and "hugepages" not in options:
        yield "no hugepages= at boot: after days of uptime memory is too fragmented to make them"
    if "nosmt" not in options and options.get("intel_idle.max_cstate", "0") not in {"0", "1"}:
        yield f"intel_idle.max_cstate={options['intel_idle.max_cstate']}: PMD cores wake up late"
    if site.host.swap_kib:
        yield f"{site.host.swap_kib // 1024} MiB of swap: the daemons' own memory may go there"
    wants_thread = _wants_thread(site)
    if wants_thread and site.host.preemption is Preemption.UNKNOWN:
        yield (
            "nothing here tells the kernel's preemption model (/proc/config.gz, /boot/config-*, "
            f"/lib/modules/*/config): {site.config.service_link} is polled as if it preempted "
            "system calls; have one read, or set poll_thread = false below [services]"
        )
    elif wants_thread and site.host.preemption is not Preemption.NONE:
        yield (
            f"the kernel's preemption model is {site.host.preemption}, not none: each reply of a "
            f"workload is polled by itself at {site.config.service_link}, which costs the PMD "
            "thread; boot with preempt=none, or set poll_thread = false below [services]"
        )


def iommu(site: Site) -> Iterator[str]:
    """NICs that are given to DPDK through vfio need one."""
    if not any(uplink.mode is UplinkMode.VFIO for uplink in site.config.nics):
        return
    if not site.host.iommu_groups:
        yield "no IOMMU group: it is off in the firmware, or the kernel booted without it"
    if site.host.options.get("iommu") != "pt":
        yield "no iommu=pt at boot: the host's own devices pay for each mapping"


def memlock(site: Site) -> Iterator[str]:
    """Who pins memory may pin enough."""
    daemon, vswitchd = site.daemon, site.vswitchd
    old = site.kernel_version < NO_MEMLOCK_SINCE
    if old and daemon and daemon.memlock is not None and not _has(daemon, "CAP_SYS_RESOURCE"):
        yield f"the daemon may lock {daemon.memlock >> 20} MiB, and this kernel counts BPF maps"
    queues = sum(uplink.queues for uplink in site.config.nics if uplink.mode is UplinkMode.AF_XDP)
    need = queues * XSK_QUEUE_BYTES
    if vswitchd is None or vswitchd.memlock is None or _has(vswitchd, "CAP_IPC_LOCK"):
        return
    if vswitchd.memlock < need:
        yield (
            f"ovs-vswitchd may lock {vswitchd.memlock >> 20} MiB where {queues} AF_XDP queues pin "
            f"{need >> 20} MiB"
        )


def capabilities(site: Site) -> Iterator[str]:
    """The daemon that runs has the rights that its unit gives it."""
    if site.daemon is None or not site.daemon.capabilities:
        return  # none runs, or nothing may be read of it
    by_thread = _wants_thread(site) and site.host.preemption is Preemption.NONE
    unused = OPTIONAL if by_thread else OPTIONAL | {"CAP_SYS_NICE"}
    needed = [name for name in CAPABILITIES if name not in unused]
    missing = [name for name in needed if not _has(site.daemon, name)]
    if missing:
        yield f"the daemon (process {site.daemon.pid}) lacks {', '.join(missing)}"


def _wants_thread(site: Site) -> bool:
    """Whether svc0 is to be polled by a thread, if the kernel lets system calls end."""
    return has_one_sender(site.config, service_uplink(site.config))


def jit(site: Site) -> Iterator[str]:
    """BPF programs are compiled, not interpreted."""
    if site.host.jit == 0:
        yield "net.core.bpf_jit_enable is 0: XDP programs are interpreted, several times slower"


def packet_sockets(site: Site) -> Iterator[str]:
    """What comes in a burst fits into what OVS reads ports of the kernel by."""
    octets = site.host.receive_buffer
    users = [f"uplink {n.device}" for n in site.config.nics if n.mode is UplinkMode.KERNEL]
    if site.config.containers.attach is Attach.PORT:
        users.append("a container's port")
    if users and octets is not None and octets < PACKET_SOCKET_BYTES:
        yield (
            f"net.core.rmem_default is {octets}: {users[0]} holds so much while vswitchd's main "
            "thread does not run, and what comes in one burst, within a limit or not, is lost "
            "beyond it"
        )


def cgroup2(site: Site) -> Iterator[str]:
    """Where a unified hierarchy is for services.connect to name cgroups in."""
    if site.config.services.connect and not site.host.cgroup2:
        yield "services.connect names cgroups, and no cgroup2 is mounted anywhere"


def privileges(_site: Site) -> Iterator[str]:
    """The doctor himself sees everything."""
    if os.geteuid() != 0:
        yield "not root: some of these checks see less than there is"


def _has(process: ProcessFacts, name: str) -> bool:
    return bool(process.capabilities >> CAPABILITIES[name] & 1)


def _list(numbers: list[int]) -> str:
    return ",".join(map(str, numbers))
