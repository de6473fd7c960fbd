"""The hooks of a network device's clsact: one program of ours at a fixed place of each.

Source: libbpf 1.1, libbpf.h (bpf_tc_hook_create, bpf_tc_attach, bpf_tc_query, bpf_tc_detach).
"""

# ctypes reads `_fields_` when the class is made; a list there is its own idiom.
# mypy: disable-error-code="mutable-override"

from __future__ import annotations

import ctypes as c
import errno
from enum import IntEnum

from dataplane.drivers.libbpf import LibbpfError, call
from dataplane.drivers.libbpf_programs import Program

_REPLACE = 1
"""enum bpf_tc_flags."""

_HANDLE, _PRIORITY = 0x6D72, 0x6D72
"""Where our filter is ("mr"): others' have places of their own beside it."""


class Hook(IntEnum):
    """Which way (enum bpf_tc_attach_point)."""

    INGRESS = 1
    EGRESS = 2


class _Hook(c.Structure):
    _fields_ = [
        ("sz", c.c_size_t),
        ("ifindex", c.c_int),
        ("attach_point", c.c_int),
        ("parent", c.c_uint32),
    ]


class _Options(c.Structure):
    _fields_ = [
        ("sz", c.c_size_t),
        ("prog_fd", c.c_int),
        ("flags", c.c_uint32),
        ("prog_id", c.c_uint32),
        ("handle", c.c_uint32),
        ("priority", c.c_uint32),
    ]


def _hook(ifindex: int, hook: Hook) -> _Hook:
    return _Hook(sz=c.sizeof(_Hook), ifindex=ifindex, attach_point=hook)


def _options(**values: int) -> _Options:
    return _Options(sz=c.sizeof(_Options), handle=_HANDLE, priority=_PRIORITY, **values)


def attached(ifindex: int, hook: Hook = Hook.EGRESS) -> int | None:
    """The id of the program at our place, None if there is none."""
    options, what = _options(), f"query the {hook.name.lower()} hook of interface {ifindex}"
    try:
        call(what, "bpf_tc_query", c.byref(_hook(ifindex, hook)), c.byref(options))
    except LibbpfError as error:
        # Without a clsact the kernel says EINVAL.
        if error.errno in (errno.ENOENT, errno.EINVAL):
            return None
        raise
    return int(options.prog_id)


def attach(
    ifindex: int, program: Program, hook: Hook = Hook.EGRESS, *, replace: bool = False
) -> None:
    """Put a program at our place, which has none; a clsact is made where there is none.

    With `replace` it takes the place of one that is there, and no packet passes in between.

    Raises:
        LibbpfError: the kernel refused; EEXIST when another qdisc is in clsact's place.
    """
    what = f"attach to the {hook.name.lower()} hook of interface {ifindex}"
    place = _hook(ifindex, hook)
    try:
        call(what, "bpf_tc_hook_create", c.byref(place))
    except LibbpfError as error:
        if error.errno != errno.EEXIST:
            raise
    options = _options(prog_fd=program.fd, flags=_REPLACE if replace else 0)
    call(what, "bpf_tc_attach", c.byref(place), c.byref(options))


def detach(ifindex: int, hook: Hook = Hook.EGRESS) -> None:
    """Take our program off; the clsact stays, for it may be in use by others."""
    what = f"detach from the {hook.name.lower()} hook of interface {ifindex}"
    try:
        call(what, "bpf_tc_detach", c.byref(_hook(ifindex, hook)), c.byref(_options()))
    except LibbpfError as error:
        if error.errno not in (errno.ENOENT, errno.EINVAL):
            raise
