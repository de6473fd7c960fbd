"""What is on the machine that a test run may leave behind, as a value that can be compared.

A whole run takes one snapshot before the first test and one after the last; whatever the second
has and the first had not is red.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, fields
from pathlib import Path

_PROGRAMS = (
    "ovs-vswitchd",
    "ovsdb-server",
    "ovn-northd",
    "ovn-controller",
    "dpdk-testpmd",
    "qemu-system",
    "millrace",
    "controller.cli.main",  # a daemon of an embedded node is `python3 -m controller.cli.main`
    "answerd",
    "tcpdump",
    "iperf3",
)
"""Beginnings of the names of the programs that our tests start."""

_OURS = (Path("/run/millrace"), Path("/run/millrace-labs"), Path("/var/lib/millrace"))
"""Where nodes and labs keep their files; the last to leave takes the directory away."""

_EAL = Path("/run/dpdk")
"""Where DPDK's processes keep theirs, one directory for each --file-prefix."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Everything of the kinds that we make; each item as the text that names it."""

    namespaces: frozenset[str]
    mounts: frozenset[str]
    pins: frozenset[str]
    links: frozenset[str]
    processes: frozenset[str]
    hugepages: frozenset[str]
    files: frozenset[str]


def snapshot() -> Snapshot:
    """The machine as it is now."""
    mounts = [line.split() for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    return Snapshot(
        namespaces=frozenset(_names(Path("/run/netns"))),
        mounts=frozenset(mounted(mounts)),
        pins=frozenset(_below(Path("/sys/fs/bpf"))),
        links=frozenset(_names(Path("/sys/class/net"))),
        processes=frozenset(_processes()),
        hugepages=frozenset(
            f"{pool.name}: {(pool / 'nr_hugepages').read_text().strip()} pages"
            for pool in Path("/sys/kernel/mm/hugepages").iterdir()
        ),
        files=frozenset(
            path
            for folder in (*_OURS, _EAL, *_of_type("hugetlbfs", mounts))
            for path in _below(folder)
        )
        | {str(folder) for folder in _OURS if folder.is_dir()},
    )


def left_behind(before: Snapshot, after: Snapshot) -> list[str]:
    """One line for each thing that is there after and was not before."""
    return [
        f"{field.name}: {item}"
        for field in fields(Snapshot)
        for item in sorted(getattr(after, field.name) - getattr(before, field.name))
    ]


def settle(before: Snapshot, timeout_s: float) -> list[str]:
    """What is left behind once processes that are ending have had their time."""
    deadline = time.monotonic() + timeout_s
    while (left := left_behind(before, snapshot())) and time.monotonic() < deadline:
        time.sleep(0.2)
    return left


def _names(folder: Path) -> list[str]:
    return [entry.name for entry in folder.iterdir()] if folder.is_dir() else []


def _below(folder: Path) -> list[str]:
    return [
        os.path.join(parent, name)  # noqa: PTH118 - os.walk speaks strings
        for parent, folders, files in os.walk(folder)
        for name in folders + files
    ]


def mounted(mounts: list[list[str]]) -> list[str]:
    """Where anybody mounted anything, from the words of each line of mountinfo.

    Not what the kernel mounts by itself as soon as somebody looks: tracefs below debugfs.
    """
    automounts = {str(place / "tracing") for place in _of_type("debugfs", mounts)}
    traced = {str(place) for place in _of_type("tracefs", mounts)}
    return [mount[4] for mount in mounts if mount[4] not in automounts & traced]


def _of_type(kind: str, mounts: list[list[str]]) -> list[Path]:
    """Where file systems of one type are mounted (proc_pid_mountinfo(5))."""
    return [Path(mount[4]) for mount in mounts if mount[mount.index("-") + 1] == kind]


def _processes() -> list[str]:
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            arguments = (entry / "cmdline").read_bytes().split(b"\0")
            state = (entry / "stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            continue  # it ended while we looked
        command = [os.fsdecode(argument) for argument in arguments if argument]
        names = [argument.rpartition("/")[2] for argument in command[:3]]
        if state != "Z" and any(name.startswith(_PROGRAMS) for name in names):
            found.append(f"{entry.name} {' '.join(command)}")
    return found
