"""Table `programs`: which of our programs runs on which device.

Two ways to attach. `swap` (an AF_XDP uplink): OVS attaches its own program first; ours takes its
place by a netlink replace that names the program it expects, and works on OVS's XSKMAP, found
among the maps of the program that was there. Otherwise (svc0, kernel-mode uplinks): a bpf_link
pinned below links/, updated in one step.

How our own is recognised after a restart: the program on the device bears our name and works on
our pinned maps. It counts as in place only with today's tag, and an uplink only with its entry
in tx_ports; anything else is observed as OUTDATED, so that an upgrade is the same swap. OVS puts
its own program back when it starts again: then the row is missing, and is made anew.
"""

from __future__ import annotations

import errno
import socket
import struct
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from dataplane.drivers import xdphook
from dataplane.drivers.bpfstate import FUNCTIONS, BpfState
from dataplane.drivers.libbpf import MAP_TYPE_XSKMAP, LibbpfError, Map, pinned
from dataplane.drivers.libbpf_programs import Program, ProgramInfo
from dataplane.model.rows import Program as Row
from dataplane.model.rows import ProgramKind
from dataplane.ports import Failure, ObserveError

OVS_PROGRAM = "xsk_def_prog"
"""libxdp's default program, which OVS attaches to an AF_XDP port (libxdp, xsk_def_xdp_prog.c)."""

_Step = Callable[[], None]
"""What puts a program in its place, at one stroke; LibbpfError if it cannot."""

_LINK_GOES_S = 2.0
"""A link whose pin was just removed is let go by a kernel worker, within milliseconds."""


def _ifindex(device: str) -> int | None:
    try:
        return socket.if_nametoindex(device)
    except OSError:
        return None


def program_info(device: str) -> ProgramInfo | None:
    """What runs on a device's XDP hook, whoever attached it; None if nothing or no device.

    Raises:
        LibbpfError: the kernel refused to say.
    """
    ifindex = _ifindex(device)
    held = xdphook.attached(ifindex) if ifindex else None
    if held is None:
        return None
    with Program.by_id(held.prog_id) as program:
        return program.info()


def take_off(device: str, counters: Collection[int]) -> str | None:
    """For `down`: take our program or OVS's off a device; None, or the name of what was left there.

    `counters` are the ids of the node's pinned maps of counters. Without any, the pins are gone,
    and a program that bears our name on this node's device is taken for this node's.

    Raises:
        LibbpfError: the kernel refused.
    """
    ifindex = _ifindex(device)
    left = _detach(ifindex, lambda info: _may_go(info, counters)) if ifindex else None
    return None if left is None else left.name or f"number {left.id}"


def _detach(ifindex: int, may_go: Callable[[ProgramInfo], bool]) -> ProgramInfo | None:
    """Take off what may go; what may not and is there, if anything."""
    deadline = time.monotonic() + _LINK_GOES_S
    while (held := xdphook.attached(ifindex)) is not None:
        try:
            with Program.by_id(held.prog_id) as program:
                info = program.info()
                if not may_go(info):
                    return info
                xdphook.detach(ifindex, program, held.mode)
        except LibbpfError as error:
            if error.errno not in (errno.EBUSY, errno.ENOENT) or time.monotonic() > deadline:
                raise
            time.sleep(0.01)
    return None


def _may_go(info: ProgramInfo, counters: Collection[int]) -> bool:
    if info.name in FUNCTIONS.values():
        return not counters or not set(counters).isdisjoint(info.map_ids)
    sockets = _xsks_map(info) if info.name.startswith(OVS_PROGRAM) else None
    if sockets is not None:
        sockets.close()
    return sockets is not None


class ProgramTable:
    """Table `programs`; acts in the network namespace of the calling thread.

    Args:
        state: the maps and programs.
        about_to_swap: called when all programs that a round puts in OVS's places have been loaded,
            which takes long, and are put there next.
    """

    name = "programs"

    def __init__(self, state: BpfState, about_to_swap: Callable[[], None] = lambda: None) -> None:
        self._state = state
        self._about_to_swap = about_to_swap
        self._tx_ports = state.maps["tx_ports"]

    def _link(self, device: str) -> Path:
        # A dot in a name is not allowed on a BPF filesystem; VLAN devices' names have one.
        return self._state.links / device.replace(".", "+")

    def _linked(self, device: str, ifindex: int) -> bool:
        path = self._link(device)
        if not path.exists():
            return False
        with pinned(path) as link:
            return xdphook.link_info(link).ifindex == ifindex

    def observe(self) -> Mapping[str, Row]:
        """Our programs on the devices of this namespace."""
        rows: dict[str, Row] = {}
        try:
            for ifindex, device in socket.if_nameindex():
                held = xdphook.attached(ifindex)
                if held is not None:
                    kind = self._kind_on(ifindex, held)
                    if kind is not None:
                        rows[device] = Row(kind, swap=not self._linked(device, ifindex))
        except LibbpfError as error:
            raise ObserveError(str(error)) from error
        return rows

    def _kind_on(self, ifindex: int, held: xdphook.Attached) -> ProgramKind | None:
        try:
            with Program.by_id(held.prog_id) as program:
                kind = self._state.kind_of(program.info())
        except LibbpfError as error:
            if error.errno == errno.ENOENT:  # replaced since we asked
                return None
            raise
        if kind is ProgramKind.UPLINK and self._tx_ports.lookup(_key(ifindex)) is None:
            return ProgramKind.OUTDATED
        return kind

    def upsert(self, batch: Sequence[tuple[str, Row]]) -> Mapping[str, Failure]:
        """Attach, or swap what is there for today's program.

        First where it takes long, for an uplink's is loaded over OVS's sockets; and all of those
        are loaded before the first is put in place: between the first and the last swap a flow's
        two ways may be in the hands of two versions.
        """
        failures: dict[str, Failure] = {}
        ordered = sorted(batch, key=lambda item: not item[1].swap)
        with ExitStack() as held:
            steps: dict[str, _Step] = {}
            for device, row in ordered:
                try:
                    step = self._prepared(device, row, held)
                except LibbpfError as error:
                    step = Failure(_explain(error, device))
                if isinstance(step, Failure):
                    failures[device] = step
                elif step is not None:
                    steps[device] = step
            if any(row.swap and device in steps for device, row in ordered):
                self._about_to_swap()
            for device, take_place in steps.items():
                try:
                    take_place()
                except LibbpfError as error:
                    failures[device] = Failure(_explain(error, device))
        return failures

    def _prepared(self, device: str, row: Row, held: ExitStack) -> _Step | Failure | None:
        """The step that is left to do, over what `held` holds then; None: the program is there."""
        ifindex = _ifindex(device)
        if ifindex is None:
            return Failure(f"there is no device {device} yet", waiting=True)
        if row.kind is ProgramKind.UPLINK:
            self._tx_ports.update(_key(ifindex), _key(ifindex))
        if row.swap:
            return self._loaded(device, ifindex, held)
        return partial(self._attach_link, device, ifindex, row.kind)

    def _loaded(self, device: str, ifindex: int, held: ExitStack) -> _Step | Failure | None:
        there = xdphook.attached(ifindex)
        if there is None:
            reason = f"OVS has not attached its AF_XDP program to {device} yet"
            return Failure(reason, waiting=True)
        theirs = held.enter_context(Program.by_id(there.prog_id))
        info = theirs.info()
        if self._state.kind_of(info) is ProgramKind.UPLINK:
            return None
        sockets = _xsks_map(info)
        if sockets is None:
            return Failure(
                f"program {info.name} on {device} has no map of AF_XDP sockets, so it is not "
                "OVS's; take it off, and start ovs-vswitchd with LIBXDP_SKIP_DISPATCHER=1"
            )
        ours = held.enter_context(self._state.uplink_over(held.enter_context(sockets)))
        return partial(xdphook.replace, ifindex, ours, theirs, there.mode)

    def _attach_link(self, device: str, ifindex: int, kind: ProgramKind) -> None:
        path, program = self._link(device), self._state.program(kind)
        if path.exists() and not self._linked(device, ifindex):
            path.unlink()  # of a device of that name that is gone
        if not path.exists():
            xdphook.pin_link(ifindex, program, path)
            return
        with pinned(path) as link:
            expected = xdphook.link_info(link).prog_id
        if expected != program.info().id:
            with Program.by_id(expected) as theirs:
                xdphook.update_link(path, program, theirs)

    def delete(self, keys: Sequence[str]) -> Mapping[str, Failure]:
        """Take our programs off; what others attached stays."""
        return {device: failed for device in keys if (failed := self._detach(device))}

    def _detach(self, device: str) -> Failure | None:
        try:
            self._link(device).unlink(missing_ok=True)
            ifindex = _ifindex(device)
            if ifindex is None:
                return None
            _detach(ifindex, lambda info: self._state.kind_of(info) is not None)
            self._tx_ports.delete(_key(ifindex))
        except LibbpfError as error:
            return Failure(_explain(error, device))
        return None


def _key(ifindex: int) -> bytes:
    return struct.pack("=I", ifindex)


def _xsks_map(info: ProgramInfo) -> Map | None:
    """The map of AF_XDP sockets among a program's maps."""
    for number in info.map_ids:
        found = Map.by_id(number)
        if found.info.type == MAP_TYPE_XSKMAP:
            return found
        found.close()
    return None


def _explain(error: LibbpfError, device: str) -> str:
    if error.errno in (errno.EBUSY, errno.EEXIST):
        return (
            f"another XDP program is on {device} (or came in between); see what it is: "
            f"ip link show {device}"
        )
    return str(error)
