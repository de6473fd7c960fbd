"""What a host says of itself beyond `dataplane.drivers.machinefacts`: boot options, limits, rights.

For the doctor: every fact is read from the kernel at the moment of the question, nothing is kept,
and a fact that cannot be read is None or empty, because the doctor looks where things are broken.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

from dataplane.drivers.machinefacts import cpu_list
from dataplane.drivers.preemption import Preemption, preemption

UNLIMITED = None


@dataclass(frozen=True, slots=True)
class ProcessFacts:
    """One process, by proc(5).

    `memlock`: octets that it may lock, None for no limit. `capabilities`: its effective set as
    bits. `environment` is None for whoever may not read it. `cpus`: of its main thread.
    """

    pid: int
    arguments: tuple[str, ...] = ()
    environment: frozenset[str] | None = None
    memlock: int | None = UNLIMITED
    capabilities: int = 0
    cpus: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True)
class HostFacts:
    """The machine at one moment.

    `options`: the kernel's command line, by key; a key without a value has "". `isolated`: CPUs
    that the scheduler leaves alone. `iommu_groups`: how many there are. `cgroup2`: where a unified
    hierarchy is mounted, "" for nowhere. `receive_buffer`: what a socket that does
    not ask for more may hold [octets].
    """

    options: dict[str, str] = field(default_factory=dict)
    isolated: frozenset[int] = frozenset()
    iommu_groups: int = 0
    cgroup2: str = ""
    jit: int | None = None
    swap_kib: int = 0
    receive_buffer: int | None = None
    preemption: Preemption = Preemption.UNKNOWN


def host_facts(
    proc: Path = Path("/proc"),
    sysfs: Path = Path("/sys"),
    boot: Path = Path("/boot"),
    modules: Path = Path("/lib/modules"),
) -> HostFacts:
    """The machine that this process runs on."""
    groups = sysfs / "kernel/iommu_groups"
    return HostFacts(
        options=kernel_options(_text(proc / "cmdline")),
        isolated=_cpus(_text(sysfs / "devices/system/cpu/isolated")),
        iommu_groups=sum(1 for _ in groups.iterdir()) if groups.is_dir() else 0,
        cgroup2=_mounted(_text(proc / "self/mountinfo"), "cgroup2"),
        jit=_number(_text(proc / "sys/net/core/bpf_jit_enable")),
        swap_kib=_swap(_text(proc / "meminfo")),
        receive_buffer=_number(_text(proc / "sys/net/core/rmem_default")),
        preemption=preemption(proc, sysfs, boot, modules),
    )


def process_facts(pid: int, proc: Path = Path("/proc")) -> ProcessFacts:
    """What may be read of a process."""
    place = proc / str(pid)
    status = _text(place / "status")
    return ProcessFacts(
        pid=pid,
        arguments=tuple(_text(place / "cmdline").rstrip("\0").split("\0")),
        environment=_environment(place / "environ"),
        memlock=_memlock(_text(place / "limits")),
        capabilities=int(_field(status, "CapEff") or "0", 16),
        cpus=_cpus(_field(status, "Cpus_allowed_list")),
    )


def kernel_options(text: str) -> dict[str, str]:
    """The command line by key, the last of several; of a key given twice the kernel takes both."""
    pairs = (word.partition("=") for word in text.split())
    return {key: value for key, _, value in pairs}


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _environment(path: Path) -> frozenset[str] | None:
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    return frozenset(text.split("\0")) - {""}


def _cpus(text: str) -> frozenset[int]:
    try:
        return cpu_list(text)
    except ValueError:
        return frozenset()


def _number(text: str) -> int | None:
    word = text.strip()
    return int(word) if word.isascii() and word.isdigit() else None


def _field(status: str, name: str) -> str:
    found = re.search(rf"^{name}:\s*(\S+)", status, re.MULTILINE)
    return found[1] if found else ""


def _memlock(limits: str) -> int | None:
    found = re.search(r"^Max locked memory\s+(\S+)", limits, re.MULTILINE)
    return _number(found[1]) if found else UNLIMITED


def _swap(meminfo: str) -> int:
    return _number(_field(meminfo, "SwapTotal")) or 0


def _mounted(mountinfo: str, kind: str) -> str:
    for line in mountinfo.splitlines():
        before, _, after = line.partition(" - ")
        if after.split()[:1] == [kind]:
            return before.split()[4]
    return ""
