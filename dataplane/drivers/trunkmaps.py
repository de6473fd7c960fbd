"""The pinned maps of the trunk (bpf/progs/trunk.bpf.c) and the codec of their entries.

They are pinned apart from those of services, below <bpf_root>/trunk/v<VERSION>/, because they
change by themselves: a change of their layout is a change of VERSION. How our own is recognised
after a restart: by that path.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path

from bpf.objects import OBJECT_DIRECTORY
from dataplane.drivers.libbpf import Closing
from dataplane.drivers.libbpf_programs import Object, Program, read_image

OBJECT = "trunk.bpf.o"
VERSION = 1
POD, TRUNK = "millrace_pod_tx", "millrace_trunk"
PORTS, PODS = "trunk_ports", "trunk_pods"
COUNTERS, TRAFFIC = "trunk_counters", "trunk_traffic"
MIRROR = "trunk_mirror"
_LIMITED, _MIRRORED = 1, 2
_TAG_MIRRORED = 1 << 31
_NUMBER, _PAIR = struct.Struct("=I"), struct.Struct("=II")


class TrunkReason(IntEnum):
    """Why a frame went where it went; the numbers are those of trunk.bpf.c."""

    TO_TRUNK = 0
    TO_POD = 1
    POD_TAGGED = 2
    POD_UNKNOWN = 3
    POD_NO_ROOM = 4
    TRUNK_UNTAGGED = 5
    TRUNK_UNKNOWN = 6
    TRUNK_NO_ROOM = 7


@dataclass(frozen=True, slots=True)
class PodEnd:
    """What the trunk knows of a tag: the pod's veth at the host, by index."""

    ifindex: int
    limited: bool
    mirrored: bool = False


@dataclass(frozen=True, slots=True)
class PodTag:
    """What a pod's veth knows: where its frames go, by index, and with which tag."""

    trunk: int
    tag: int
    mirrored: bool = False


def number(value: int) -> bytes:
    """A key: a tag, or the index of a device."""
    return _NUMBER.pack(value)


def encode_end(end: PodEnd | None) -> bytes:
    """An entry of `trunk_pods`; None: the tag is nobody's."""
    if end is None:
        return bytes(_PAIR.size)
    flags = (_LIMITED if end.limited else 0) | (_MIRRORED if end.mirrored else 0)
    return _PAIR.pack(end.ifindex, flags)


def decode_end(octets: bytes) -> PodEnd | None:
    """The same back."""
    ifindex, flags = _PAIR.unpack(octets)
    if not ifindex:
        return None
    return PodEnd(ifindex, bool(flags & _LIMITED), bool(flags & _MIRRORED))


def encode_tag(tag: PodTag) -> bytes:
    """An entry of `trunk_ports`."""
    return _PAIR.pack(tag.trunk, tag.tag | (_TAG_MIRRORED if tag.mirrored else 0))


def decode_tag(octets: bytes) -> PodTag:
    """The same back."""
    trunk, tag = _PAIR.unpack(octets)
    return PodTag(trunk, tag & ~_TAG_MIRRORED, bool(tag & _TAG_MIRRORED))


@dataclass(frozen=True, slots=True)
class Passed:
    """Frames and their octets, summed over processors."""

    packets: int
    octets: int


@dataclass(frozen=True, slots=True)
class Traffic:
    """What one pod sent and received since it has its tag."""

    sent: Passed
    received: Passed


class TrunkMaps(Closing):
    """The pinned maps and both programs over them. Opening is idempotent.

    Raises:
        LibbpfError: the kernel refused; with the verifier's words.
    """

    def __init__(self, bpf_root: str, objects: Path = OBJECT_DIRECTORY) -> None:
        self.directory = directory(bpf_root)
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._open = ExitStack()
        try:
            path = objects / OBJECT
            with Object(path, pin_root=self.directory, image=read_image(path)) as made:
                made.load()
                self.maps = {
                    name: self._open.enter_context(made.map(name))
                    for name in (PORTS, PODS, COUNTERS, TRAFFIC, MIRROR)
                }
                self.programs: Mapping[str, Program] = {
                    name: self._open.enter_context(made.program(name)) for name in (POD, TRUNK)
                }
            self.tags = {name: one.info().tag for name, one in self.programs.items()}
            self.ids = {name: one.info.id for name, one in self.maps.items()}
        except BaseException:
            self._open.close()
            raise

    def close(self) -> None:
        """Let go of every descriptor; pins and what is attached stay."""
        self._open.close()

    def end(self, tag: int) -> PodEnd | None:
        """Whose a tag is."""
        octets = self.maps[PODS].lookup(number(tag))
        return decode_end(octets) if octets else None

    def ends(self) -> dict[int, PodEnd]:
        """Whose each tag is, those that are anybody's."""
        found = {
            _NUMBER.unpack(key)[0]: decode_end(value) for key, value in self.maps[PODS].items()
        }
        return {tag: end for tag, end in found.items() if end is not None}

    def ports(self) -> dict[int, PodTag]:
        """The tag of each veth, by index."""
        return {
            _NUMBER.unpack(key)[0]: decode_tag(value) for key, value in self.maps[PORTS].items()
        }

    def mirror(self) -> int:
        """The device that copies go to, by index; 0: none."""
        return int(_NUMBER.unpack(self.maps[MIRROR].lookup(number(0)) or number(0))[0])

    def counted(self) -> dict[TrunkReason, Passed]:
        """What passed and what was dropped, those reasons that there were any of."""
        found = {}
        for reason in TrunkReason:
            packets, octets = self._sums(COUNTERS, reason, 2)
            if packets:
                found[reason] = Passed(packets, octets)
        return found

    def traffic(self, tag: int) -> Traffic:
        """What the pod with a tag sent and received."""
        sums = self._sums(TRAFFIC, tag, 4)
        return Traffic(Passed(*sums[:2]), Passed(*sums[2:]))

    def begin(self, tag: int) -> None:
        """Count the traffic of a tag from nothing."""
        held = self.maps[TRAFFIC]
        held.update(number(tag), bytes(held.value_size))

    def _sums(self, name: str, key: int, width: int) -> list[int]:
        """The words of a value, summed over processors."""
        octets = self.maps[name].lookup(number(key)) or b""
        words = struct.unpack(f"={len(octets) // 8}Q", octets)
        return [sum(words[at::width]) for at in range(width)]


def directory(bpf_root: str) -> Path:
    """Where the pins are."""
    return Path(bpf_root) / "trunk" / f"v{VERSION}"
