"""The table `trunk`: tags of containers' frames, pushed at their veths and popped at the trunk.

How we recognise our own after a restart: by the program at tc's ingress hook, which bears our name
and works on our pinned maps, and by the maps' entries. A program of an earlier version (another
tag) is observed as equal to no plan, and replaced in one step. An entry of a device that is gone
has no name any more: it is observed under its number, which no plan has, and removed; so a pod
whose namespace took its veth along leaves nothing.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Mapping, Sequence
from pathlib import Path

from bpf.objects import OBJECT_DIRECTORY
from dataplane.drivers import tchook
from dataplane.drivers.libbpf import LibbpfError
from dataplane.drivers.libbpf_programs import Program
from dataplane.drivers.trunkmaps import (
    MIRROR,
    POD,
    PODS,
    PORTS,
    TRUNK,
    Passed,
    PodEnd,
    PodTag,
    Traffic,
    TrunkMaps,
    TrunkReason,
    decode_tag,
    directory,
    encode_end,
    encode_tag,
    number,
)
from dataplane.model.rows import TrunkEnd
from dataplane.ports import Failure, ObserveError

_OUTDATED = TrunkEnd(-1, "")
"""Equal to no plan."""

_GONE = (errno.ENODEV, errno.ENOENT)


class TrunkTable:
    """Table `trunk`; the maps are made when they are first needed."""

    name = "trunk"

    def __init__(self, bpf_root: str, objects: Path = OBJECT_DIRECTORY) -> None:
        self._root, self._objects = bpf_root, objects
        self._open: TrunkMaps | None = None

    def close(self) -> None:
        """Let go of the maps; what is attached stays."""
        if self._open is not None:
            self._open.close()
            self._open = None

    def counted(self) -> Mapping[TrunkReason, Passed]:
        """Frames by the reason of where they went; nothing while there is no trunk.

        Raises:
            LibbpfError: the kernel refused.
        """
        maps = self._open
        return maps.counted() if maps is not None else {}

    def traffic(self, tag: int) -> Traffic | None:
        """What the pod with this tag sent and received; None while there is no trunk.

        Raises:
            LibbpfError: the kernel refused.
        """
        maps = self._open
        return maps.traffic(tag) if maps is not None else None

    def _maps(self) -> TrunkMaps:
        if self._open is None:
            self._open = TrunkMaps(self._root, self._objects)
        return self._open

    def has_stale(self) -> bool:
        """Whether a device went and left its entry; the cheap half of `observe`.

        Raises:
            LibbpfError: the kernel refused.
        """
        maps = self._open
        if maps is None:
            return False
        present = {index for index, _ in socket.if_nameindex()}
        return not present.issuperset(maps.ports())

    def observe(self) -> Mapping[str, TrunkEnd]:
        """Devices with a program of ours, and entries of devices that are gone."""
        if self._open is None and not directory(self._root).is_dir():
            return {}
        try:
            return self._observe(self._maps())
        except LibbpfError as error:
            raise ObserveError(str(error)) from error

    def _observe(self, maps: TrunkMaps) -> Mapping[str, TrunkEnd]:
        names = dict(socket.if_nameindex())
        ports, ends, copies = maps.ports(), maps.ends(), maps.mirror()
        found: dict[str, TrunkEnd] = {}
        for index, port in ports.items():
            name = names.get(index)
            if name is None:
                found[_nameless(index)] = _OUTDATED
                continue
            end = ends.get(port.tag)
            right = end is not None and end.ifindex == index and self._is_todays(maps, index, POD)
            trunk = names.get(port.trunk, "")
            if not right or end is None or end.mirrored is not port.mirrored:
                found[name] = _OUTDATED
                continue
            mirror = names.get(copies, _nameless(copies)) if end.mirrored else ""
            found[name] = TrunkEnd(port.tag, trunk, end.limited, mirror)
        for end in ends.values():
            if end.ifindex not in ports:
                found[names.get(end.ifindex) or _nameless(end.ifindex)] = _OUTDATED
        for index in self._trunks(maps, names, ports):
            name = names[index]
            current = self._is_todays(maps, index, TRUNK)
            found[name] = TrunkEnd(0, name) if current else _OUTDATED
        return found

    def _trunks(
        self, maps: TrunkMaps, names: Mapping[int, str], ports: Mapping[int, PodTag]
    ) -> list[int]:
        """Devices with our program for a trunk's end: those that are no pod's."""
        return [
            index for index in names if index not in ports and self._program(maps, index) == TRUNK
        ]

    def _program(self, maps: TrunkMaps, index: int) -> str | None:
        """The name of our program at a device's hook; None: none of ours."""
        held = self._held(index)
        if held is None:
            return None
        name, _, map_ids = held
        return name if name in maps.programs and maps.ids[PODS] in map_ids else None

    def _is_todays(self, maps: TrunkMaps, index: int, function: str) -> bool:
        held = self._held(index)
        if held is None:
            return False
        name, tag, map_ids = held
        uses = maps.ids[PODS if function == TRUNK else PORTS]
        return (name, tag) == (function, maps.tags[function]) and uses in map_ids

    def _held(self, index: int) -> tuple[str, str, tuple[int, ...]] | None:
        try:
            held = tchook.attached(index, tchook.Hook.INGRESS)
            if held is None:
                return None
            with Program.by_id(held) as program:
                info = program.info()
        except LibbpfError as error:
            if error.errno in _GONE:
                return None  # it went while we looked
            raise
        return info.name, info.tag, info.map_ids

    def upsert(self, batch: Sequence[tuple[str, TrunkEnd]]) -> Mapping[str, Failure]:
        """Make these ends so; a device that is not there yet is waited for."""
        try:
            maps = self._maps()
        except LibbpfError as error:
            return {name: Failure(str(error)) for name, _ in batch}
        return {name: failed for name, row in batch if (failed := self._put(maps, name, row))}

    def _put(self, maps: TrunkMaps, name: str, row: TrunkEnd) -> Failure | None:
        devices = {one: _index(one) for one in (name, row.trunk, row.mirror) if one}
        if absent := [one for one, found in devices.items() if found is None]:
            return Failure(f"device {absent[0]} is not there yet", waiting=True)
        index, trunk = devices[name], devices[row.trunk]
        assert index is not None
        assert trunk is not None
        function = POD if row.tag else TRUNK
        try:
            if row.tag:
                holder = maps.end(row.tag)
                if holder is not None and holder.ifindex != index:
                    other = _name(holder.ifindex)
                    if other is not None:
                        return Failure(f"tag {row.tag} is still {other}'s", waiting=True)
                if maps.maps[PORTS].lookup(number(index)) is not None:
                    self._forget(maps, index, row.tag)
                if holder is None or holder.ifindex != index:
                    maps.begin(row.tag)
                # The way back first: nothing asks for it before the pod has spoken.
                mirrored = bool(row.mirror)
                if mirrored:
                    maps.maps[MIRROR].update(number(0), number(devices[row.mirror] or 0))
                ends = encode_end(PodEnd(index, row.limited, mirrored))
                maps.maps[PODS].update(number(row.tag), ends)
                tag = PodTag(trunk, row.tag, mirrored)
                maps.maps[PORTS].update(number(index), encode_tag(tag))
            if not self._is_todays(maps, index, function):
                program = maps.programs[function]
                tchook.attach(index, program, tchook.Hook.INGRESS, replace=True)
        except LibbpfError as error:
            if error.errno in _GONE:
                return Failure(f"device {name} went away", waiting=True)
            return Failure(f"{name}: {error}")
        return None

    def _forget(self, maps: TrunkMaps, index: int, keep: int = 0) -> None:
        """Remove a device's entries, but those of the tag `keep`."""
        known = maps.maps[PORTS].lookup(number(index))
        # Without an entry of its own (a crash came in between) all have to be looked through.
        for tag in {decode_tag(known).tag} if known else maps.ends().keys():
            end = maps.end(tag)
            if end is not None and end.ifindex == index and tag != keep:
                maps.maps[PODS].update(number(tag), encode_end(None))
        if not keep:
            maps.maps[PORTS].delete(number(index))

    def delete(self, keys: Sequence[str]) -> Mapping[str, Failure]:
        """Take programs and entries away; what others attached stays."""
        failures: dict[str, Failure] = {}
        maps = self._maps()
        for key in keys:
            index = int(key[1:]) if key.startswith("#") else _index(key)
            if index is None:
                continue  # its entries are found under its number in the next round
            try:
                # Until the program is off it drops what the pod sends: the host hears none of it.
                self._forget(maps, index)
                if not key.startswith("#") and self._program(maps, index) is not None:
                    tchook.detach(index, tchook.Hook.INGRESS)
            except LibbpfError as error:
                failures[key] = Failure(f"{key}: {error}")
        return failures


def _nameless(index: int) -> str:
    return f"#{index}"


def _index(name: str) -> int | None:
    try:
        return socket.if_nametoindex(name)
    except OSError:
        return None


def _name(index: int) -> str | None:
    try:
        return socket.if_indextoname(index)
    except OSError:
        return None
