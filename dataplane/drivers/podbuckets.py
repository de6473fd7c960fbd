"""The table `buckets`: what a pod may send and receive through its veth, by programs of ours.

OVS reads and writes a veth through a packet socket, which sees a frame before tc's ingress does, so
OVS's policing of such a port is void. Two programs (bpf/progs/qos.bpf.c) stand where frames do
pass: at the XDP hook of the host's end for what the pod sends, at the egress hook of its clsact for
what it receives. A pod cannot reach either.

How we recognise our own after a restart: by the program's name at the hook, and its limits by the
program's own map; nothing is pinned, and everything goes with the device. A program of an earlier
version (another tag) is observed as equal to no plan, and replaced.
"""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from bpf.objects import OBJECT_DIRECTORY
from dataplane.drivers import tchook, xdphook
from dataplane.drivers.libbpf import (
    XDP_FLAGS_DRV_MODE,
    XDP_FLAGS_SKB_MODE,
    XDP_FLAGS_UPDATE_IF_NOEXIST,
    LibbpfError,
    Map,
)
from dataplane.drivers.libbpf_programs import Object, Program, loaded, read_image
from dataplane.model.devices import is_pod_link
from dataplane.model.rows import Bucket
from dataplane.ports import Failure, ObserveError

OBJECT = "qos.bpf.o"
RX, TX = "millrace_qos_rx", "millrace_qos_tx"
"""What the pod sends, at the XDP hook; what it receives, at the egress hook."""

_LIMITS = "qos_limits"
_KEYS = {RX: struct.pack("=I", 0), TX: struct.pack("=I", 1)}
_LIMIT = struct.Struct("=QQ")
_OUTDATED = (-1, -1)
_ENOTSUPP = 524
"""The kernel's own number, which some drivers let through to user space."""


@dataclass(frozen=True, slots=True)
class _Found:
    """A program at a hook: its id, and its limit if it is ours."""

    id: int
    name: str
    limit: tuple[int, int]


class BucketTable:
    """Table `buckets`: name of a pod's link at the host -> Bucket."""

    name = "buckets"

    def __init__(self, objects: Path = OBJECT_DIRECTORY) -> None:
        self._path = objects / OBJECT
        # Read once, as BpfState does: a file replaced meanwhile is the next start's business.
        self._image = read_image(self._path)

    @cached_property
    def _tags(self) -> Mapping[str, str]:
        """Today's programs, as the kernel identifies them."""
        with loaded(self._path, image=self._image) as made:
            tags: dict[str, str] = {}
            for name in (RX, TX):
                with made.program(name) as program:
                    tags[name] = program.info().tag
        return tags

    def observe(self) -> Mapping[str, Bucket]:
        """Pods' links that have a program of ours."""
        found: dict[str, Bucket] = {}
        for index, name in socket.if_nameindex():
            if not is_pod_link(name):
                continue
            try:
                row = Bucket(*self._limit(RX, index), *self._limit(TX, index))
            except LibbpfError as error:
                if error.errno in (errno.ENODEV, errno.ENOENT):
                    continue  # it went while we looked
                raise ObserveError(str(error)) from error
            if row != Bucket(0, 0, 0, 0):
                found[name] = row
        return found

    def _limit(self, hook: str, index: int) -> tuple[int, int]:
        found = self._at(hook, index)
        return found.limit if found is not None and found.name == hook else (0, 0)

    def _at(self, hook: str, index: int) -> _Found | None:
        if hook == TX:
            number = tchook.attached(index)
        else:
            held = xdphook.attached(index)
            number = held.prog_id if held is not None else None
        if number is None:
            return None
        with Program.by_id(number) as program:
            info = program.info()
        if info.name != hook:
            return _Found(number, info.name, (0, 0))
        limit = _OUTDATED
        if info.tag == self._tags[hook]:
            with _limits_of(info.map_ids) as limits:
                octets = limits.lookup(_KEYS[hook])
            assert octets is not None  # an array has all its keys
            rate, burst = _LIMIT.unpack(octets)
            limit = rate, burst
        return _Found(number, hook, limit)

    def upsert(self, batch: Sequence[tuple[str, Bucket]]) -> Mapping[str, Failure]:
        """Hold these pods to their limits; a link that is not there yet is waited for."""
        return {name: failed for name, row in batch if (failed := self._put(name, row))}

    def _put(self, name: str, row: Bucket) -> Failure | None:
        try:
            index = socket.if_nametoindex(name)
        except OSError:
            return Failure(f"link {name} is not there yet", waiting=True)
        wanted = {
            RX: (row.send_rate, row.send_burst),
            TX: (row.receive_rate, row.receive_burst),
        }
        try:
            for hook, limit in wanted.items():
                if failure := self._set(hook, name, index, limit):
                    return failure
        except LibbpfError as error:
            return Failure(f"{name}: {error}")
        return None

    def _set(self, hook: str, name: str, index: int, limit: tuple[int, int]) -> Failure | None:
        found = self._at(hook, index)
        if found is not None and found.name != hook:
            if not limit[0]:
                return None
            return Failure(
                f"{name} has another program, {found.name or found.id}, at the hook: see `bpftool "
                "net`, and take it off"
            )
        if found is not None and limit[0] and found.limit != _OUTDATED:
            # In place: the bucket goes on from where it is.
            with Program.by_id(found.id) as program, _limits_of(program.info().map_ids) as limits:
                limits.update(_KEYS[hook], _LIMIT.pack(*limit))
            return None
        if found is not None:
            _detach(hook, index)
        if limit[0]:
            with loaded(self._path, image=self._image) as made:
                _attach(hook, index, limit, made)
        return None

    def delete(self, keys: Sequence[str]) -> Mapping[str, Failure]:
        """Let everything through again; what others attached stays."""
        failures: dict[str, Failure] = {}
        for name in keys:
            failure = self._put(name, Bucket(0, 0, 0, 0))
            if failure is not None and not failure.waiting:
                failures[name] = failure
        return failures


def _limits_of(map_ids: Sequence[int]) -> Map:
    for number in map_ids:
        found = Map.by_id(number)
        if found.info.name == _LIMITS:
            return found
        found.close()
    what = f"a program without a map {_LIMITS}"
    raise LibbpfError(what, errno.ENOENT)


def _attach(hook: str, index: int, limit: tuple[int, int], made: Object) -> None:
    with made.map(_LIMITS) as limits:
        limits.update(_KEYS[hook], _LIMIT.pack(*limit))
    with made.program(hook) as program:
        if hook == TX:
            tchook.attach(index, program)
            return
        try:
            xdphook.attach(index, program, XDP_FLAGS_DRV_MODE | XDP_FLAGS_UPDATE_IF_NOEXIST)
        except LibbpfError as error:
            if error.errno not in (errno.EOPNOTSUPP, _ENOTSUPP):
                raise
            xdphook.attach(index, program, XDP_FLAGS_SKB_MODE | XDP_FLAGS_UPDATE_IF_NOEXIST)


def _detach(hook: str, index: int) -> None:
    if hook == TX:
        tchook.detach(index)
        return
    held = xdphook.attached(index)
    if held is not None:
        with Program.by_id(held.prog_id) as program:
            xdphook.detach(index, program, held.mode)
