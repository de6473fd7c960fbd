"""A cgroup's hooks for socket calls: attached by links, which last as long as they are pinned.

A cgroup takes any number of programs at each hook, so nobody is in the way of another.

Source: uapi linux/bpf.h (BPF_LINK_CREATE on a cgroup); cgroups(7).
"""

from __future__ import annotations

import ctypes as c
import os
from dataclasses import dataclass
from pathlib import Path

from dataplane.drivers import libbpf_types as t
from dataplane.drivers.libbpf import Descriptor, call, info_of, pinned
from dataplane.drivers.libbpf_programs import Program


@dataclass(frozen=True, slots=True)
class CgroupLink:
    """What the kernel says of a link to a cgroup; `cgroup_id` is 0 when the cgroup is gone."""

    prog_id: int
    cgroup_id: int
    attach_type: int


def cgroup_id(path: Path) -> int | None:
    """The kernel's number of the cgroup at `path`, which is its inode's; None if there is none."""
    try:
        return path.stat().st_ino
    except FileNotFoundError:
        return None


def attach(cgroup: Path, program: Program, attach_type: int) -> Descriptor:
    """Attach a program to a cgroup by a link, which lasts until it is closed and not pinned.

    Raises:
        LibbpfError: the kernel refused.
        OSError: the cgroup is gone.
    """
    directory = os.open(cgroup, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        options = t.LinkCreateOptions(sz=c.sizeof(t.LinkCreateOptions))
        arguments = (program.fd, directory, attach_type, c.byref(options))
        return Descriptor(call(f"attach to cgroup {cgroup}", "bpf_link_create", *arguments))
    finally:
        os.close(directory)


def link_info(path: Path) -> CgroupLink:
    """What the link pinned at `path` holds together.

    Raises:
        LibbpfError: there is none, or the kernel refused.
    """
    with pinned(path) as link:
        raw = t.CgroupLinkInfo()
        info_of(link.fd, raw, "a link")
    return CgroupLink(raw.prog_id, raw.cgroup_id, raw.attach_type)
