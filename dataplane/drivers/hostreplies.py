"""The table `replies`: the program that reverses what this node's kernel answers as a backend.

It stands at the egress hook (clsact) of the service uplinks and of svc0 (bpf/progs/host.bpf.c).
How we recognise our own after a restart: by its name at our place of the hook and by our pinned
maps; today's by its tag, another is observed as outdated and replaced at one stroke. The filter is
the kernel's and outlives the daemon.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Collection, Mapping, Sequence

from dataplane.drivers import tchook
from dataplane.drivers.bpfstate import FUNCTIONS, BpfState
from dataplane.drivers.libbpf import LibbpfError
from dataplane.drivers.libbpf_programs import Program, ProgramInfo
from dataplane.model.rows import HostReplies, ProgramKind
from dataplane.ports import Failure, ObserveError

_GONE = frozenset({errno.ENODEV, errno.ENOENT})


def _info(ifindex: int) -> ProgramInfo | None:
    number = tchook.attached(ifindex)
    if number is None:
        return None
    with Program.by_id(number) as program:
        return program.info()


def take_off(device: str, counters: Collection[int]) -> str | None:
    """For `down`: take our program off a device's hook; None, or the name of what was left there.

    `counters`: as for `dataplane.drivers.programs.take_off`.

    Raises:
        LibbpfError: the kernel refused.
    """
    try:
        ifindex = socket.if_nametoindex(device)
    except OSError:
        return None
    info = _info(ifindex)
    if info is None:
        return None
    ours = info.name == FUNCTIONS[ProgramKind.HOST]
    if not ours or (counters and set(counters).isdisjoint(info.map_ids)):
        return info.name or f"number {info.id}"
    tchook.detach(ifindex)
    return None


class HostRepliesTable:
    """Table `replies`: device -> HostReplies; in the network namespace of the calling thread."""

    name = "replies"

    def __init__(self, state: BpfState) -> None:
        self._state = state

    def observe(self) -> Mapping[str, HostReplies]:
        """Devices that have our program at the hook."""
        rows: dict[str, HostReplies] = {}
        for ifindex, device in socket.if_nameindex():
            try:
                kind = self._kind_at(ifindex)
            except LibbpfError as error:
                if error.errno in _GONE:
                    continue  # it went while we looked
                raise ObserveError(str(error)) from error
            if kind is not None:
                rows[device] = HostReplies(outdated=kind is not ProgramKind.HOST)
        return rows

    def _kind_at(self, ifindex: int) -> ProgramKind | None:
        info = _info(ifindex)
        if info is None or info.name != FUNCTIONS[ProgramKind.HOST]:
            return None
        return self._state.kind_of(info)

    def upsert(self, batch: Sequence[tuple[str, HostReplies]]) -> Mapping[str, Failure]:
        """Put today's program at the hook of these devices."""
        return {device: failed for device, _ in batch if (failed := self._attach(device))}

    def _attach(self, device: str) -> Failure | None:
        try:
            ifindex = socket.if_nametoindex(device)
        except OSError:
            return Failure(f"there is no device {device} yet", waiting=True)
        try:
            there = _info(ifindex)
            if there is not None and there.name != FUNCTIONS[ProgramKind.HOST]:
                return Failure(
                    f"{device} has another program, {there.name or there.id}, at our place of the "
                    f"egress hook: see `tc filter show dev {device} egress`, and take it off"
                )
            program = self._state.program(ProgramKind.HOST)
            tchook.attach(ifindex, program, replace=there is not None)
        except LibbpfError as error:
            return Failure(f"{device}: {error}", waiting=error.errno in _GONE)
        return None

    def delete(self, keys: Sequence[str]) -> Mapping[str, Failure]:
        """Take our program off; what others attached stays."""
        failures: dict[str, Failure] = {}
        for device in keys:
            try:
                ifindex = socket.if_nametoindex(device)
            except OSError:
                continue
            try:
                if self._kind_at(ifindex) is not None:
                    tchook.detach(ifindex)
            except LibbpfError as error:
                if error.errno not in _GONE:
                    failures[device] = Failure(str(error))
        return failures
