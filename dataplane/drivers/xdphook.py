"""The XDP hook of a network device: who is on it, and how to take it over.

Two ways exist and exclude each other on one device: netlink, which OVS uses and which can name
the program that it expects to replace, and a bpf_link, which lasts as long as it is pinned.
"""

from __future__ import annotations

import ctypes as c
import errno
from dataclasses import dataclass
from pathlib import Path

from dataplane.drivers import libbpf_types as t
from dataplane.drivers.libbpf import (
    BPF_F_REPLACE,
    BPF_XDP,
    XDP_FLAGS_DRV_MODE,
    XDP_FLAGS_REPLACE,
    XDP_FLAGS_SKB_MODE,
    Descriptor,
    LibbpfError,
    call,
    info_of,
    pinned,
)
from dataplane.drivers.libbpf_programs import Program

_ENOTSUPP = 524
"""The kernel's own number, which some drivers let through to user space."""


@dataclass(frozen=True, slots=True)
class LinkInfo:
    """What the kernel says of an XDP link. `ifindex` is 0 when its device is gone."""

    prog_id: int
    ifindex: int


@dataclass(frozen=True, slots=True)
class Attached:
    """What runs on a device; `mode` is XDP_FLAGS_DRV_MODE or XDP_FLAGS_SKB_MODE."""

    prog_id: int
    mode: int


def attached(ifindex: int) -> Attached | None:
    """The program on a device, native or generic."""
    options = t.XdpQueryOptions(sz=c.sizeof(t.XdpQueryOptions))
    call(f"query XDP on interface {ifindex}", "bpf_xdp_query", ifindex, 0, c.byref(options))
    if options.drv_prog_id:
        return Attached(options.drv_prog_id, XDP_FLAGS_DRV_MODE)
    if options.skb_prog_id:
        return Attached(options.skb_prog_id, XDP_FLAGS_SKB_MODE)
    return None


def _expecting(program: Program) -> t.XdpAttachOptions:
    return t.XdpAttachOptions(sz=c.sizeof(t.XdpAttachOptions), old_prog_fd=program.fd)


def attach(ifindex: int, program: Program, mode: int) -> None:
    """Attach by netlink where nothing is attached (the stand-in for OVS in tests uses it)."""
    call(f"attach XDP to interface {ifindex}", "bpf_xdp_attach", ifindex, program.fd, mode, None)


def replace(ifindex: int, program: Program, expected: Program, mode: int) -> None:
    """Swap `expected` for `program` in one step.

    Raises:
        LibbpfError: among others EEXIST, when another program has come in between.
    """
    flags = mode | XDP_FLAGS_REPLACE
    options = _expecting(expected)
    what = f"replace XDP on interface {ifindex}"
    call(what, "bpf_xdp_attach", ifindex, program.fd, flags, c.byref(options))


def detach(ifindex: int, expected: Program, mode: int) -> None:
    """Take `expected` off, unless another program has come in its place."""
    options = _expecting(expected)
    flags = mode | XDP_FLAGS_REPLACE
    call(f"detach XDP from {ifindex}", "bpf_xdp_detach", ifindex, flags, c.byref(options))


def link_info(link: Descriptor) -> LinkInfo:
    """What a link holds together."""
    raw = t.LinkInfo()
    info_of(link.fd, raw, "a link")
    return LinkInfo(raw.prog_id, raw.ifindex)


def pin_link(ifindex: int, program: Program, path: Path) -> None:
    """Attach by a link, native if the driver can and generic otherwise, and pin it.

    Raises:
        LibbpfError: EBUSY or EEXIST when something else is attached there.
    """
    what = f"attach XDP to interface {ifindex}"
    for mode in (XDP_FLAGS_DRV_MODE, XDP_FLAGS_SKB_MODE):
        options = t.LinkCreateOptions(sz=c.sizeof(t.LinkCreateOptions), flags=mode)
        arguments = (program.fd, ifindex, BPF_XDP, c.byref(options))
        try:
            link = Descriptor(call(what, "bpf_link_create", *arguments))
        except LibbpfError as error:
            if mode == XDP_FLAGS_DRV_MODE and error.errno in (errno.EOPNOTSUPP, _ENOTSUPP):
                continue
            raise
        with link:
            link.pin(path)
        return


def update_link(path: Path, program: Program, expected: Program) -> None:
    """Swap the program of a pinned link in one step; no packet meets neither."""
    options = t.LinkUpdateOptions(
        sz=c.sizeof(t.LinkUpdateOptions), flags=BPF_F_REPLACE, old_prog_fd=expected.fd
    )
    with pinned(path) as link:
        call(f"update link {path}", "bpf_link_update", link.fd, program.fd, c.byref(options))
