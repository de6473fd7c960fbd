"""What the machine and the node must be for packets to flow: checks as data.

Each check looks at the thing itself and not at what the daemon believes of it, so that the doctor
also helps where the daemon does not run. Nothing is changed.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from bpf import abi
from bpf.objects import OBJECT_DIRECTORY
from cni.wire import RemoteError, WireError, call
from controller import doctor_host, doctor_ovn, doctor_ovs, nics
from controller.vhost_dirs import unknown_names
from controller.vswitchd import running_pid
from dataplane.drivers import bpfstate, ethtool, offloads, sockprograms
from dataplane.drivers.hostfacts import HostFacts, ProcessFacts, host_facts, process_facts
from dataplane.drivers.libbpf import Map
from dataplane.drivers.machinefacts import filesystem_of, machine_facts
from dataplane.drivers.unixctl import UnixctlClient
from dataplane.model.config import NodeConfig, UplinkConfig, UplinkMode
from dataplane.model.machine import MachineFacts
from dataplane.model.names import INTEGRATION_BRIDGE
from dataplane.ports import DataplaneError

KERNEL_FLOOR = (6, 1)
OVS_TIMEOUT_S = 10
SKIP_DISPATCHER = "LIBXDP_SKIP_DISPATCHER=1"
"""Else libxdp's dispatcher is what runs on an AF_XDP port, and not the program to be replaced."""

BTF = Path("/sys/kernel/btf/vmlinux")


@dataclass(frozen=True, slots=True)
class Site:
    """Where the doctor looks: the configuration, and facts of the node's namespace and the host.

    `vswitchd` and `daemon` are the processes that run, None where none does.
    """

    config: NodeConfig
    facts: MachineFacts
    kernel: str
    host: HostFacts = field(default_factory=HostFacts)
    vswitchd: ProcessFacts | None = None
    daemon: ProcessFacts | None = None

    @property
    def kernel_version(self) -> tuple[int, int]:
        """The kernel's version, as far as it can be compared."""
        major, minor, *_ = self.kernel.split(".")
        return int(major), int("".join(char for char in minor if char.isdigit()) or "0")

    def service_uplinks(self) -> list[UplinkConfig]:
        """Uplinks with an XDP hook that carry services and are there."""
        return [
            uplink
            for uplink in self.config.uplinks
            if uplink.services
            and uplink.mode is not UplinkMode.VFIO
            and uplink.device in self.facts.nics
        ]


@dataclass(frozen=True, slots=True)
class Check:
    """One claim about a site. `probe` yields the causes for which it does not hold.

    `advisory`: what a probe finds may be right for this node; it is shown and fails nothing.
    """

    name: str
    probe: Callable[[Site], Iterator[str]]
    next_step: str
    advisory: bool = False


@dataclass(frozen=True, slots=True)
class Finding:
    """The outcome of a check: state "ok", "fail" or "warn", and why."""

    name: str
    state: str
    cause: str
    next_step: str


def site_of(config: NodeConfig) -> Site:
    """The node whose namespace this thread is in, as it is now.

    Raises:
        ObserveError: sysfs or netlink cannot be read.
    """
    vswitchd = running_pid(Path(config.ovs_rundir) / "ovs-vswitchd.pid")
    # The kernel says who listens there, whoever started it.
    daemon = UnixctlClient(f"{config.rundir}/agent.sock").process()
    return Site(
        config,
        machine_facts(),
        os.uname().release,
        host_facts(),
        process_facts(vswitchd) if vswitchd is not None else None,
        process_facts(daemon.pid) if daemon is not None else None,
    )


def examine(site: Site) -> list[Finding]:
    """Every check's outcome, in the order of the table."""
    return [_outcome(check, site) for check in CHECKS]


def _outcome(check: Check, site: Site) -> Finding:
    try:
        causes = list(check.probe(site))
    except (OSError, DataplaneError) as error:
        # Of a command that failed, the last line is its own word on why.
        causes = [str(error).splitlines()[-1].rpartition("|WARN|")[2].rpartition(": exit 1: ")[2]]
    if not causes:
        return Finding(check.name, "ok", "", "")
    state = "warn" if check.advisory else "fail"
    return Finding(check.name, state, "; ".join(causes), check.next_step)


# The machine ---------------------------------------------------------------------------------


def _kernel(site: Site) -> Iterator[str]:
    if site.kernel_version < KERNEL_FLOOR:
        yield f"kernel {site.kernel} is older than {'.'.join(map(str, KERNEL_FLOOR))}"


def _btf(_site: Site) -> Iterator[str]:
    if not BTF.exists():
        yield f"{BTF} is missing: the kernel was built without CONFIG_DEBUG_INFO_BTF"


def _bpffs(site: Site) -> Iterator[str]:
    kind = filesystem_of(Path(site.config.bpf_root))
    if kind != "bpf":
        yield f"{site.config.bpf_root} is on {kind}, not on a BPF filesystem"


def _hugepages(site: Site) -> Iterator[str]:
    wanted = site.config.hugepages
    if wanted is None:
        return
    pool = site.facts.hugepages.get(wanted.size_kib)
    total = pool.total if pool else 0
    if total < wanted.count:
        yield f"{total} pages of {wanted.size_kib} KiB where {wanted.count} are configured"
    kind = filesystem_of(Path(wanted.mount))
    if kind != "hugetlbfs":
        yield f"{wanted.mount} is on {kind}, not on hugetlbfs"


def _cgroups(site: Site) -> Iterator[str]:
    for text in site.config.services.connect:
        kind = filesystem_of(Path(text))
        if kind != sockprograms.CGROUP_FILESYSTEM:
            yield f"{text} is on {kind}, not on {sockprograms.CGROUP_FILESYSTEM}"
        elif not Path(text).is_dir():
            yield f"there is no cgroup {text}"


def _uplinks_exist(site: Site) -> Iterator[str]:
    for uplink in site.config.nics:
        if uplink.mode is UplinkMode.VFIO:
            there = uplink.device in site.facts.pci_devices
        else:
            there = uplink.device in site.facts.nics
        if not there:
            yield f"{uplink.device} is not there"
    if text := nics.not_bound(site.config):
        yield text


def _offloads(site: Site) -> Iterator[str]:
    for uplink in site.service_uplinks():
        for offload in sorted(offloads.harmful_features(uplink.device)):
            yield f"{offload} is on at {uplink.device} and changes frames before XDP sees them"


def _peer_checksum(site: Site) -> Iterator[str]:
    for uplink in site.service_uplinks():
        nic = site.facts.nics[uplink.device]
        if nic.kind != "veth":
            continue
        if not nic.peer:
            yield f"{uplink.device} is a veth whose other end is in another namespace, out of sight"
        elif ethtool.tx_checksum(nic.peer):
            yield f"{nic.peer}, the other end of {uplink.device}, leaves checksums to hardware"


# What was built ------------------------------------------------------------------------------


def _objects(_site: Site) -> Iterator[str]:
    for kind in bpfstate.FUNCTIONS:
        path = bpfstate.object_path(kind)
        if not path.is_file():
            yield f"{path} is missing"
    path = OBJECT_DIRECTORY / sockprograms.OBJECT
    if not path.is_file():
        yield f"{path} is missing"


def _pins(site: Site) -> Iterator[str]:
    directory = bpfstate.version_directory(site.config.bpf_root)
    for name, shape in abi.MAPS.items():
        if not (directory / name).exists():
            continue  # not up yet; the check of the programs says so
        with Map.at(directory / name) as pinned:
            found = bpfstate.other_layout(pinned.info, shape)
        if found is not None:
            yield f"{directory / name} is {found}, this version needs {shape}"
    for other in sorted(directory.parent.glob("v*")):
        if other != directory and directory.exists():
            yield f"{other} is of another version, and nobody has taken it along"


# What runs -----------------------------------------------------------------------------------


def _dispatcher(site: Site) -> Iterator[str]:
    if not any(uplink.mode is UplinkMode.AF_XDP for uplink in site.service_uplinks()):
        return
    vswitchd = site.vswitchd
    # None runs, which the check of OVS says, or only root may read its environment.
    if vswitchd is None or vswitchd.environment is None:
        return
    if SKIP_DISPATCHER not in vswitchd.environment:
        yield f"ovs-vswitchd (process {vswitchd.pid}) runs without {SKIP_DISPATCHER}"


def _integration_bridge(site: Site) -> Iterator[str]:
    found = doctor_ovs.get(site, "Bridge", INTEGRATION_BRIDGE, "datapath_type")
    if not found:
        yield f"there is no {INTEGRATION_BRIDGE}, or its datapath is the kernel's"
    elif found != "netdev":
        yield f"{INTEGRATION_BRIDGE} has datapath_type {found}"


def _programs(site: Site) -> Iterator[str]:
    names = [uplink.device for uplink in site.service_uplinks()]
    if names:
        names.append(site.config.service_link)
    for name in names:
        nic = site.facts.nics.get(name)
        if nic is None:
            yield f"{name} is not there"
        elif not nic.xdp_program:
            yield f"{name} has no XDP program"


def _daemon(site: Site) -> Iterator[str]:
    try:
        call(f"{site.config.rundir}/agent.sock", "status", {}, OVS_TIMEOUT_S)
    except (WireError, RemoteError) as error:
        yield str(error)


def _permissions(site: Site) -> Iterator[str]:
    rundir = Path(site.config.rundir)
    allowed = {
        rundir: 0o755,
        rundir / "agent.sock": 0o600,
        rundir / "cni.sock": 0o600,
        rundir / "central.sock": 0o600,
    }
    for path, most in allowed.items():
        try:
            mode = stat.S_IMODE(path.stat().st_mode)
        except FileNotFoundError:
            continue  # not up yet; the check of the daemon says so
        if mode & ~most:
            yield f"{path} has mode {mode:04o}, more than {most:04o}"
    state = Path(site.config.statedir)
    if state.exists() and stat.S_IMODE(state.stat().st_mode) & 0o002:
        yield f"{state} may be changed by everybody"
    for folder in sorted((rundir / "vhost").glob("*")):
        mode = stat.S_IMODE(folder.stat().st_mode)
        if mode & 0o007:
            yield f"{folder} has mode {mode:04o}: everybody could reach the guest's memory"


STARTS = "`millrace up`, or systemctl start openvswitch-switch ovn-host"
CHECKS = (
    Check("kernel", _kernel, "install a newer kernel; Debian 12 has 6.1"),
    Check("BTF", _btf, "take a kernel with BTF; CO-RE objects cannot be loaded without"),
    Check("BPF filesystem", _bpffs, "mount -t bpf bpf /sys/fs/bpf (`millrace up` does)"),
    Check("hugepages", _hugepages, "free memory, then `millrace up`, which raises the number"),
    Check(
        "cgroups",
        _cgroups,
        "mend services.connect in the node's file; mount -t cgroup2 where no cgroup2 is",
    ),
    Check("privileges", doctor_host.privileges, "run it as root", advisory=True),
    Check(
        "guests' sockets",
        lambda site: unknown_names(site.config.vhost),
        "mend [vhost] in the node's file, or make the user or group",
    ),
    Check("CPUs", doctor_host.cpus, "mend [dpdk] lcore and pmd in the node's file; see lscpu"),
    Check(
        "CPU isolation",
        doctor_host.isolation,
        "add the options to the kernel's command line and reboot (`millrace plan` has all of them)",
        advisory=True,
    ),
    Check(
        "boot options",
        doctor_host.boot_options,
        "mend the kernel's command line, or swapoff -a",
        advisory=True,
    ),
    Check(
        "IOMMU",
        doctor_host.iommu,
        "switch VT-d or AMD-Vi on in the firmware; boot with iommu=pt (Intel: intel_iommu=on, too)",
    ),
    Check(
        "locked memory",
        doctor_host.memlock,
        "LimitMEMLOCK=infinity in the unit of the process, then restart it",
    ),
    Check(
        "capabilities",
        doctor_host.capabilities,
        "give the daemon's unit the CapabilityBoundingSet of deploy/systemd/millrace-node.service",
    ),
    Check("BPF compiler", doctor_host.jit, "sysctl net.core.bpf_jit_enable=1"),
    Check(
        "packet sockets",
        doctor_host.packet_sockets,
        f"sysctl net.core.rmem_default={doctor_host.PACKET_SOCKET_BYTES}, then restart OVS: "
        "sockets have what was the default when they were made",
        advisory=True,
    ),
    Check("unified cgroups", doctor_host.cgroup2, "mount -t cgroup2 cgroup2 /sys/fs/cgroup"),
    Check("uplinks", _uplinks_exist, "mend [[uplink]] device in the node's file; see `ip link`"),
    Check(
        "receive offloads",
        _offloads,
        "the daemon switches them off; else ethtool -K DEVICE FEATURE off",
    ),
    Check(
        "peer checksums", _peer_checksum, "ethtool -K PEER tx off, at the other end", advisory=True
    ),
    Check("BPF objects", _objects, "make bpf"),
    Check("pinned maps", _pins, "`millrace down`, then `millrace up`: the maps are made anew"),
    Check("OVS with DPDK", doctor_ovs.dpdk, f"start OVS ({STARTS}), or look at ovs-vswitchd.log"),
    Check(
        "OVS version",
        doctor_ovs.version,
        "take a version from 3.1 to 4.0; the README says what is tested",
        advisory=True,
    ),
    Check(
        "PMD threads",
        doctor_ovs.pmds,
        "isolate their CPUs; see what else runs there: ps -eLo psr,comm",
        advisory=True,
    ),
    Check(
        "packet buffers",
        doctor_ovs.buffers,
        "raise dpdk.socket_mem_mib, or look for a guest that keeps buffers",
    ),
    Check(
        "OVN identity",
        doctor_ovs.identity,
        "`millrace up` sets them; else ovs-vsctl set Open_vSwitch . external_ids:KEY=VALUE",
    ),
    Check(
        "libxdp dispatcher",
        _dispatcher,
        "install deploy/systemd/ovs-vswitchd.service.d, systemctl daemon-reload, restart OVS",
    ),
    Check("integration bridge", _integration_bridge, "start the daemon, which makes it"),
    Check("ovn-controller", doctor_ovn.connected, f"start it ({STARTS}); see ovn-controller.log"),
    Check(
        "certificates", doctor_ovn.certificates, "deploy/tls/make-certificates, docs/controller.md"
    ),
    Check("XDP programs", _programs, "`millrace status` says why they are not attached"),
    Check("daemon", _daemon, "start `millrace node`, or look at node.log in the run directory"),
    Check("permissions", _permissions, "chmod the path; somebody changed what the daemon made"),
)
