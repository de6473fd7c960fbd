"""Table `sockets`: the cgroups whose sockets are translated as they connect and send.

Each hook of a cgroup has a bpf_link of ours, pinned below links/cgroups/<the cgroup's path>/; it
outlives the daemon, and an upgrade updates it in one step. Programs that show a process the VIP
are attached before those that give it a backend, and taken off after them.

How our own is recognised after a restart: by the pin's path, which has the cgroup's in it. It is in
place if every hook's link is there, belongs to the cgroup that is at the path now, and has today's
program over our pinned maps; else it is observed as outdated.
"""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol
from urllib.parse import quote, unquote

from bpf.objects import OBJECT_DIRECTORY
from dataplane.drivers import cgrouphook, xdphook
from dataplane.drivers.libbpf import Closing, LibbpfError, Map
from dataplane.drivers.libbpf_programs import Object, Program, read_image
from dataplane.drivers.machinefacts import filesystem_of
from dataplane.model.rows import SocketPrograms
from dataplane.ports import Failure, ObserveError

OBJECT = "sock.bpf.o"
CGROUP_FILESYSTEM = "cgroup2"
SO_NETNS_COOKIE = 71
"""asm-generic/socket.h; not in Python's socket."""

_NAME_MAX = 255


@dataclass(frozen=True, slots=True)
class Hook:
    """A hook of a cgroup: the pin's name, our function, the number in enum bpf_attach_type."""

    name: str
    function: str
    attach_type: int


HOOKS = (
    Hook("getpeername4", "millrace_gpn4", 29),
    Hook("getpeername6", "millrace_gpn6", 30),
    Hook("recvmsg4", "millrace_rcv4", 19),
    Hook("recvmsg6", "millrace_rcv6", 20),
    Hook("sendmsg4", "millrace_snd4", 14),
    Hook("sendmsg6", "millrace_snd6", 15),
    Hook("connect4", "millrace_con4", 10),
    Hook("connect6", "millrace_con6", 11),
)
"""In the order in which they are attached."""


class Pins(Protocol):
    """A node's pinned maps and links: a `BpfState`."""

    @property
    def maps(self) -> Mapping[str, Map]:
        """The pinned maps by name."""
        ...

    @property
    def links(self) -> Path:
        """Where links are pinned."""
        ...


def netns_cookie() -> int:
    """The number of the calling thread's network namespace, as the programs know it."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        octets = probe.getsockopt(socket.SOL_SOCKET, SO_NETNS_COOKIE, 8)
    cookie: int = struct.unpack("=Q", octets)[0]
    return cookie


class SocketProgramSet(Closing):
    """The programs of every hook, loaded over a node's maps for the calling thread's namespace.

    Raises:
        LibbpfError: the object cannot be loaded; with the verifier's words.
    """

    def __init__(self, maps: Mapping[str, Map], image: bytes, path: Path) -> None:
        self._open = ExitStack()
        self.programs: dict[Hook, Program] = {}
        try:
            with Object(path, image=image) as made:
                for name, used in maps.items():
                    made.reuse(name, used)
                made.set_constants(".rodata.node", struct.pack("=Q", netns_cookie()))
                made.load()
                for hook in HOOKS:
                    program = made.program(hook.function)
                    self.programs[hook] = self._open.enter_context(program)
            self.infos = {hook: program.info() for hook, program in self.programs.items()}
        except BaseException:
            self._open.close()
            raise

    def close(self) -> None:
        """Let go of the programs; what is attached stays."""
        self._open.close()


class SocketTable:
    """Table `sockets`; the programs are loaded when they are first needed."""

    name = "sockets"

    def __init__(self, pins: Pins, objects: Path = OBJECT_DIRECTORY) -> None:
        self._pins = pins
        self._path = objects / OBJECT
        # Read once, as BpfState does: a file replaced meanwhile is the next start's business.
        self._image = read_image(self._path)
        self._loaded: SocketProgramSet | None = None

    def close(self) -> None:
        """Let go of the programs; what is attached stays."""
        if self._loaded is not None:
            self._loaded.close()
            self._loaded = None

    def _programs(self) -> SocketProgramSet:
        if self._loaded is None:
            self._loaded = SocketProgramSet(self._pins.maps, self._image, self._path)
        return self._loaded

    @property
    def _root(self) -> Path:
        return self._pins.links / "cgroups"

    def _directory(self, cgroup: str) -> Path:
        # A dot in a name is not allowed on a BPF filesystem.
        return self._root / quote(cgroup, safe="").replace(".", "%2E")

    def observe(self) -> Mapping[str, SocketPrograms]:
        """The cgroups that have anything of ours."""
        if not self._root.is_dir():
            return {}
        try:
            return {
                cgroup: SocketPrograms(outdated=not self._in_place(cgroup))
                for cgroup in (unquote(path.name) for path in sorted(self._root.iterdir()))
            }
        except (LibbpfError, OSError) as error:
            raise ObserveError(str(error)) from error

    def _in_place(self, cgroup: str) -> bool:
        number = cgrouphook.cgroup_id(Path(cgroup))
        if number is None:
            return False
        return all(
            (path := self._directory(cgroup) / hook.name).exists()
            and (link := cgrouphook.link_info(path)).cgroup_id == number
            and self._is_todays(hook, link.prog_id)
            for hook in HOOKS
        )

    def _is_todays(self, hook: Hook, prog_id: int) -> bool:
        with Program.by_id(prog_id) as held:
            info = held.info()
        peers = self._pins.maps["sock_peers"].info.id  # all of ours know sockets' peers
        return info.tag == self._programs().infos[hook].tag and peers in info.map_ids

    def upsert(self, batch: Sequence[tuple[str, SocketPrograms]]) -> Mapping[str, Failure]:
        """Attach to these cgroups, or put today's programs in place of older ones."""
        return {cgroup: failed for cgroup, _ in batch if (failed := self._attach(cgroup))}

    def _attach(self, cgroup: str) -> Failure | None:
        kind, directory = filesystem_of(Path(cgroup)), self._directory(cgroup)
        if kind != CGROUP_FILESYSTEM:
            return Failure(
                f"{cgroup} is on {kind}, not on cgroup2; services.connect takes directories below "
                "a mount of cgroup2 (see /proc/self/mountinfo)"
            )
        number = cgrouphook.cgroup_id(Path(cgroup))
        if number is None:
            return Failure(f"there is no cgroup {cgroup} yet", waiting=True)
        if len(directory.name) > _NAME_MAX:
            return Failure(f"the path of cgroup {cgroup} is too long for the name of a pin")
        try:
            programs = self._programs().programs
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            for hook in HOOKS:
                self._attach_hook(hook, programs[hook], Path(cgroup), number)
        except (LibbpfError, OSError) as error:
            return Failure(f"{cgroup}: {error}")
        return None

    def _attach_hook(self, hook: Hook, program: Program, cgroup: Path, number: int) -> None:
        path = self._directory(str(cgroup)) / hook.name
        if path.exists():
            link = cgrouphook.link_info(path)
            if link.cgroup_id == number:
                if not self._is_todays(hook, link.prog_id):
                    with Program.by_id(link.prog_id) as before:
                        xdphook.update_link(path, program, before)
                return
            path.unlink()  # of a cgroup of that path that is gone
        with cgrouphook.attach(cgroup, program, hook.attach_type) as made:
            made.pin(path)

    def delete(self, keys: Sequence[str]) -> Mapping[str, Failure]:
        """Take our programs off. Connections stay; their processes see backends from now on."""
        return {cgroup: failed for cgroup in keys if (failed := self._detach(cgroup))}

    def _detach(self, cgroup: str) -> Failure | None:
        directory = self._directory(cgroup)
        try:
            for hook in reversed(HOOKS):
                (directory / hook.name).unlink(missing_ok=True)
            directory.rmdir()
        except OSError as error:
            if error.errno != errno.ENOENT:
                return Failure(f"{directory}: {error.strerror}")
        return None
