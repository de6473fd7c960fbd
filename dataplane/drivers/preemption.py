"""What may take the CPU from a system call that has not ended: the kernel's preemption model.

A kernel with PREEMPT_DYNAMIC is told at boot (`preempt=`, Documentation/admin-guide/
kernel-parameters.txt) or later (/sys/kernel/debug/sched/preempt); its own choice is in its
configuration. Nothing is kept, and what cannot be read is left out.
"""

from __future__ import annotations

import gzip
import os
import platform
import re
import zlib
from enum import StrEnum
from pathlib import Path


class Preemption(StrEnum):
    """Where a running system call gives way to a thread that has just woken.

    NONE: where it ends. VOLUNTARY: wherever it might sleep, too. LAZY and FULL: anywhere, LAZY to
    real-time threads alone. UNKNOWN: nobody says.
    """

    NONE = "none"
    VOLUNTARY = "voluntary"
    LAZY = "lazy"
    FULL = "full"
    UNKNOWN = "unknown"


_CHOSEN = re.compile(r"\((\w+)\)")
_CONFIGURED = {
    "CONFIG_PREEMPT_RT": Preemption.FULL,
    "CONFIG_PREEMPT": Preemption.FULL,
    "CONFIG_PREEMPT_LAZY": Preemption.LAZY,
    "CONFIG_PREEMPT_VOLUNTARY": Preemption.VOLUNTARY,
    "CONFIG_PREEMPT_NONE": Preemption.NONE,
}


def preemption(
    proc: Path = Path("/proc"),
    sysfs: Path = Path("/sys"),
    boot: Path = Path("/boot"),
    modules: Path = Path("/lib/modules"),
) -> Preemption:
    """The model of the running kernel; tests have other directories."""
    return model_of(
        _read(sysfs / "kernel/debug/sched/preempt"),
        _read(proc / "cmdline"),
        # Its own copy (CONFIG_IKCONFIG_PROC), or the distribution's.
        _unpacked(proc / "config.gz")
        or _read(boot / f"config-{platform.release()}")
        or _read(modules / platform.release() / "config"),
    )


def model_of(chosen: str, command_line: str, configured: str) -> Preemption:
    """The model by the first that knows: debugfs's file, the command line, the configuration."""
    if found := _CHOSEN.search(chosen):
        return _named(found[1])
    if re.search(r"^CONFIG_PREEMPT_RT=y$", configured, re.MULTILINE):
        return Preemption.FULL
    told = re.findall(r"(?:^|\s)preempt=(\w+)", command_line)
    # What it was not built to change, it does not change.
    if told and re.search(r"^CONFIG_PREEMPT_DYNAMIC=y$", configured, re.MULTILINE):
        return _named(told[-1])
    for option, model in _CONFIGURED.items():
        if re.search(rf"^{option}=y$", configured, re.MULTILINE):
            return model
    return Preemption.UNKNOWN


def _named(word: str) -> Preemption:
    return Preemption(word) if word in set(Preemption) else Preemption.UNKNOWN


def _unpacked(path: Path) -> str:
    try:
        return gzip.decompress(path.read_bytes()).decode(errors="replace")
    except (OSError, EOFError, zlib.error):
        return ""


def _read(path: Path) -> str:
    try:
        return os.fsdecode(path.read_bytes())
    except OSError:
        return ""
