"""The pinned maps of a node and the programs over them: `BpfState`, opened once by the daemon.

How our own is recognised after a restart: by its path. Maps are pinned by name below
<bpf_root>/v<ABI_VERSION>/, links below its links/; whoever opens them there owns them. A program
is ours if it bears our name and counts into the pinned map of counters (`BpfState.owns`), so
that what another node on this machine attached is left alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Protocol

from bpf import abi
from bpf.objects import OBJECT_DIRECTORY
from dataplane.drivers.libbpf import Closing, Map, MapInfo
from dataplane.drivers.libbpf_programs import (
    Object,
    Program,
    ProgramInfo,
    loaded,
    of_one_cpu,
    read_image,
)
from dataplane.model.rows import ProgramKind
from dataplane.ports import AbiMismatch, CapabilityMissing

XSKS_MAP, TX_PORTS = "xsks_map", "tx_ports"
SETS = "sets"
"""It has two entries for each service that there is room for."""

FUNCTIONS = {
    ProgramKind.UPLINK: "millrace_uplink",
    ProgramKind.SERVICE: "millrace_svc",
    ProgramKind.HOST: "millrace_host",
}
"""The function of each program, which is also its name in the kernel (15 characters at most)."""


def object_path(kind: ProgramKind, objects: Path = OBJECT_DIRECTORY) -> Path:
    """The compiled object of a program."""
    return objects / f"{kind.value}.bpf.o"


def version_directory(bpf_root: str) -> Path:
    """Where the pins of this ABI version are."""
    return Path(bpf_root) / f"v{abi.Limit.ABI_VERSION:d}"


def _filesystem(path: Path) -> str:
    """The type of the filesystem that a path is on (proc(5), mountinfo)."""
    mounts: dict[str, str] = {}
    for line in Path("/proc/self/mountinfo").read_text(encoding="utf-8").splitlines():
        before, _, after = line.partition(" - ")
        mounts[before.split()[4]] = after.split()[0]
    for parent in (path, *path.parents):
        if str(parent) in mounts:
            return mounts[str(parent)]
    return "unknown"


def other_layout(info: MapInfo, shape: abi.MapShape) -> abi.MapShape | None:
    """What a map is if its layout is not this one; its size is its own, as it was made."""
    found = abi.MapShape(info.type, info.key_size, info.value_size, info.max_entries)
    same = replace(found, max_entries=0) == replace(shape, max_entries=0)
    return None if same else found


def _require_shape(info: MapInfo, shape: abi.MapShape, where: str, next_step: str) -> None:
    found = other_layout(info, shape)
    if found is not None:
        msg = f"map {info.name} of {where} is {found}, but this version needs {shape}; {next_step}"
        raise AbiMismatch(msg)


class MapOwner(Protocol):
    """Whoever has the maps that the tables are made of: a `BpfState`, or a benchmark."""

    @property
    def maps(self) -> Mapping[str, Map]:
        """The maps by name."""
        ...


class BpfState(Closing):
    """Maps and programs of one node. Opening is idempotent: what is pinned already is taken.

    Attributes:
        directory: the pins' directory.
        maps: the pinned maps by name.

    Args:
        bpf_root: a directory on a BPF filesystem; made if it is missing, mode 0700.
        objects: where the compiled objects are.
        sizes: entries of maps that are made anew, where not abi.MAPS's (of abi.TRAFFIC that of
            one CPU); pinned ones keep theirs (`resized` names those that the sizes would have
            otherwise).

    Raises:
        CapabilityMissing: no BPF filesystem there, or no libbpf.
        AbiMismatch: pinned maps or objects are not as bpf/abi.py says.
        LibbpfError: the kernel refused; with libbpf's and the verifier's words.
    """

    def __init__(
        self,
        bpf_root: str,
        objects: Path = OBJECT_DIRECTORY,
        sizes: Mapping[str, int] | None = None,
    ) -> None:
        self.directory = version_directory(bpf_root)
        self._wanted = {name: shape.max_entries for name, shape in abi.MAPS.items()}
        self._wanted.update(sizes or {})
        self._sizes = dict(self._wanted)
        self._objects = objects
        self._open = ExitStack()
        self.maps: dict[str, Map] = {}
        # Read once: a file replaced under a running daemon is the next start's business. Else what
        # is attached would never have the tag that was read here, and be swapped without end.
        self._images = {kind: read_image(self._path(kind)) for kind in FUNCTIONS}
        self._programs: dict[ProgramKind, Program] = {}
        self._infos: dict[ProgramKind, ProgramInfo] = {}
        self._make_directory(Path(bpf_root))
        self._refuse_foreign_pins()
        try:
            self._open_tx_ports()
            for kind, function in FUNCTIONS.items():
                made = self._open.enter_context(self._loaded(kind))
                self._programs[kind] = self._open.enter_context(made.program(function))
                self._infos[kind] = self._programs[kind].info()
                self._take_maps(made, kind)
        except BaseException:
            self._open.close()
            raise

    def close(self) -> None:
        """Let go of every descriptor. Pins, links and attached programs stay."""
        self._open.close()

    def _path(self, kind: ProgramKind) -> Path:
        return object_path(kind, self._objects)

    def _make_directory(self, root: Path) -> None:
        kind = _filesystem(root)
        if kind != "bpf":
            msg = (
                f"bpf_root {root} is on {kind}, not on a BPF filesystem; "
                "mount one: mount -t bpf bpf /sys/fs/bpf"
            )
            raise CapabilityMissing(msg)
        for directory in (root, self.directory, self.links):
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)

    def _refuse_foreign_pins(self) -> None:
        step = (
            f"stop the node, remove {self.directory} and start it again "
            "(connections through services are lost)"
        )
        found = set()
        for name, shape in abi.MAPS.items():
            path = self.directory / name
            if path.exists():
                with Map.at(path) as held:
                    _require_shape(held.info, shape, f"the pins in {self.directory}", step)
                    self._sizes[name] = of_one_cpu(name, held.info.max_entries)
                    found.add(name)
        if SETS in found:  # of a build that had other maps beside it
            counts = abi.sizes_by_service(self._sizes[SETS] // 2)
            self._sizes.update({name: counts[name] for name in counts if name not in found})

    def _loaded(self, kind: ProgramKind, **reused: Map) -> AbstractContextManager[Object]:
        if TX_PORTS in self.maps:
            reused[TX_PORTS] = self.maps[TX_PORTS]
        return loaded(
            self._path(kind),
            reused,
            pin_root=self.directory,
            image=self._images[kind],
            sizes={name: size for name, size in self._sizes.items() if name not in reused},
        )

    def _open_tx_ports(self) -> None:
        """Libbpf cannot reuse a pinned device map by itself (see maps.h)."""
        path = self.directory / TX_PORTS
        if path.exists():
            self.maps[TX_PORTS] = self._open.enter_context(Map.at(path))

    def _take_maps(self, made: Object, kind: ProgramKind) -> None:
        for name, shape in abi.MAPS.items():
            found = self._open.enter_context(made.map(name))
            _require_shape(found.info, shape, str(self._path(kind)), "build both: make bpf")
            if name == TX_PORTS and name not in self.maps:
                found.pin(self.directory / name)
            self.maps.setdefault(name, found)

    @property
    def resized(self) -> Mapping[str, tuple[int, int]]:
        """Pinned maps whose size is another than the one asked for: name to (is, wanted)."""
        return {
            name: (self._sizes[name], wanted)
            for name, wanted in self._wanted.items()
            if self._sizes[name] != wanted
        }

    @property
    def links(self) -> Path:
        """Where the links of devices are pinned, by device name."""
        return self.directory / "links"

    def program(self, kind: ProgramKind) -> Program:
        """The loaded program (an uplink's with an XSKMAP of its own, which is empty)."""
        return self._programs[kind]

    def program_info(self, kind: ProgramKind) -> ProgramInfo:
        """What the kernel says of the program as it would be attached now."""
        return self._infos[kind]

    @contextmanager
    def uplink_over(self, xsks_map: Map) -> Iterator[Program]:
        """The uplink's program over another's XSKMAP and our pinned maps."""
        with (
            self._loaded(ProgramKind.UPLINK, **{XSKS_MAP: xsks_map}) as made,
            made.program(FUNCTIONS[ProgramKind.UPLINK]) as program,
        ):
            yield program

    def kind_of(self, info: ProgramInfo) -> ProgramKind | None:
        """Which program of ours this is; None: not one of this node's. OUTDATED: not today's."""
        if not self.owns(info):
            return None
        for kind, function in FUNCTIONS.items():
            if info.name == function:
                # A tag says nothing of maps, and counters may be those of an older version, too.
                todays = self.maps["ct4"].info.id in info.map_ids
                todays = todays and info.tag == self._infos[kind].tag
                return kind if todays else ProgramKind.OUTDATED
        return None

    def owns(self, info: ProgramInfo) -> bool:
        """Whether a program works on our pinned maps (both count by reason)."""
        return self.maps["counters"].info.id in info.map_ids


def counters_ids(bpf_root: str) -> frozenset[int]:
    """Ids of the pinned maps of counters of every ABI version; none when the pins are gone.

    Raises:
        LibbpfError: the kernel refused to open one.
    """
    found = set()
    for path in Path(bpf_root).glob("v*/counters"):
        with Map.at(path) as counters:
            found.add(counters.info.id)
    return frozenset(found)


def remove_pins(bpf_root: str) -> None:
    """Remove every pin of ours below `bpf_root`: links are detached, maps are freed.

    For `down`; programs that were swapped in by netlink stay until they are detached.
    """
    root = Path(bpf_root)
    if not root.exists():
        return
    for path in sorted(root.rglob("*"), key=lambda path: len(path.parts), reverse=True):
        if path.is_dir():
            path.rmdir()
        else:
            path.unlink()
    root.rmdir()
