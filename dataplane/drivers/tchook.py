"""The egress hook of a network device's clsact: one program of ours at a fixed place.

Source: libbpf 1.1, libbpf.h (bpf_tc_hook_create, bpf_tc_attach, bpf_tc_query, bpf_tc_detach).
"""

# ctypes reads `_fields_` when the class is made; a list there is its own idiom.
# mypy: disable-error-code="mutable-override"

from __future__ import annotations

import ctypes as c
import errno

from dataplane.drivers.libbpf import LibbpfError, call
from dataplane.drivers.libbpf_programs import Program

_EGRESS = 2
_HANDLE, _PRIORITY = 0x6D72, 0x6D72
"""Where our filter is ("mr"): others' have places of their own beside it."""


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


def _hook(ifindex: int) -> _Hook:
    return _Hook(sz=c.sizeof(_Hook), ifindex=ifindex, attach_point=_EGRESS)


def _options(**values: int) -> _Options:
    return _Options(sz=c.sizeof(_Options), handle=_HANDLE, priority=_PRIORITY, **values)


def attached(ifindex: int) -> int | None:
    """The id of the program at our place, None if there is none."""
    options, what = _options(), f"query the egress hook of interface {ifindex}"
    try:
        call(what, "bpf_tc_query", c.byref(_hook(ifindex)), c.byref(options))
    except LibbpfError as error:
        # Without a clsact the kernel says EINVAL.
        if error.errno in (errno.ENOENT, errno.EINVAL):
            return None
        raise
    return int(options.prog_id)


def attach(ifindex: int, program: Program) -> None:
    """Put a program at our place, which has none; a clsact is made where there is none.

    Raises:
        LibbpfError: the kernel refused; EEXIST when another qdisc is in clsact's place.
    """
    what = f"attach to the egress hook of interface {ifindex}"
    hook = _hook(ifindex)
    try:
        call(what, "bpf_tc_hook_create", c.byref(hook))
    except LibbpfError as error:
        if error.errno != errno.EEXIST:
            raise
    call(what, "bpf_tc_attach", c.byref(hook), c.byref(_options(prog_fd=program.fd)))


def detach(ifindex: int) -> None:
    """Take our program off; the clsact stays, for it may be in use by others."""
    what = f"detach from the egress hook of interface {ifindex}"
    try:
        call(what, "bpf_tc_detach", c.byref(_hook(ifindex)), c.byref(_options()))
    except LibbpfError as error:
        if error.errno not in (errno.ENOENT, errno.EINVAL):
            raise
