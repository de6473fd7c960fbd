"""What a run was measured on: enough to say why two runs may not be compared."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import Any

from dataplane.drivers import processes
from perf import kerneltrace
from perf.harness import senders

_CPU = Path("/sys/devices/system/cpu")
_COMMANDS = {
    "ovs": ["ovs-vswitchd", "--version"],
    "ovn": ["ovn-controller", "--version"],
    "iperf3": ["iperf3", "--version"],
    "nftables": ["nft", "--version"],
    "qemu": ["qemu-system-x86_64", "--version"],
}
_WHAT_FOR = (
    ("/sys/bus/event_source/devices/cpu", "instructions per cycle: no hardware performance events"),
    ("/sys/bus/pci/drivers/vfio-pci", "physical ports for DPDK: no vfio-pci"),
)
"""What has to be there, and what is not measured without it."""

MATTERS = ("cpu", "cpus", "microcode", "mitigations", "kernel", "governor", "versions")
"""A comparison of runs that differ in one of these says so."""


def fingerprint() -> dict[str, Any]:
    """The machine as it is now; what it does not tell is an empty string."""
    info = _cpuinfo()
    return {
        "cpu": info.get("model name", platform.machine()),
        "microcode": info.get("microcode", ""),
        "flags_hypervisor": "hypervisor" in info.get("flags", "").split(),
        "cpus": os.cpu_count(),
        "smt": _read(_CPU / "smt/active"),
        "governor": _read(_CPU / "cpu0/cpufreq/scaling_governor"),
        "mitigations": {
            path.name: _read(path) for path in sorted((_CPU / "vulnerabilities").glob("*"))
        },
        "numa": _read(Path("/sys/devices/system/node/online")),
        "kernel": platform.release(),
        "cmdline": _read(Path("/proc/cmdline")),
        "clocksource": _read(
            Path("/sys/devices/system/clocksource/clocksource0/current_clocksource")
        ),
        "hugepages": {
            path.name: _read(path / "nr_hugepages")
            for path in sorted(Path("/sys/kernel/mm/hugepages").glob("hugepages-*"))
        },
        "memory_kib": _memory_kib(),
        "load": list(os.getloadavg()),
        "absent": [*absent(), *_untraced()],
        "versions": {name: _version(words) for name, words in _COMMANDS.items()},
        "python": platform.python_version(),
    }


def absent(root: Path = Path("/")) -> list[str]:
    """What this machine cannot be asked for, so that nobody takes silence for a nought."""
    found = [why for path, why in _WHAT_FOR if not (root / path.lstrip("/")).exists()]
    if why := senders.kernel_pktgen(root):
        found.append(f"the kernel's pktgen: {why.partition('; ')[0]}")
    return found


def _untraced() -> list[str]:
    """Why latency inside the kernel cannot be had here, if so."""
    try:
        kerneltrace.check()
    except kerneltrace.AbsentError as error:
        return [str(error).partition("; ")[0].removeprefix("absent here: ")]
    return []


def differences(one: dict[str, Any], other: dict[str, Any]) -> list[str]:
    """What matters and is not the same, as sentences."""
    return [
        f"{key}: {one.get(key)!r} against {other.get(key)!r}"
        for key in MATTERS
        if one.get(key) != other.get(key)
    ]


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").strip()
    except OSError:
        return ""


def _cpuinfo() -> dict[str, str]:
    first = _read(Path("/proc/cpuinfo")).partition("\n\n")[0]
    pairs = (line.partition(":") for line in first.splitlines())
    return {key.strip(): value.strip() for key, _, value in pairs}


def _memory_kib() -> int:
    for line in _read(Path("/proc/meminfo")).splitlines():
        if line.startswith("MemTotal:"):
            return int(line.split()[1])
    return 0


def _version(words: list[str]) -> str:
    try:
        told = processes.run(words)
    except processes.ProcessError:
        return ""
    return "; ".join(line.strip() for line in told.splitlines()[:2] if line.strip())
