"""Programs and compiled objects, over libbpf: loading, running on a packet, asking about.

Source: libbpf 1.1, libbpf.h; uapi linux/bpf.h (BPF_PROG_TEST_RUN).
"""

from __future__ import annotations

import ctypes as c
import errno
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bpf import abi
from dataplane.drivers import libbpf_types as t
from dataplane.drivers.libbpf import (
    Closing,
    Descriptor,
    LibbpfError,
    Map,
    call,
    forget_log,
    info_of,
    library,
    possible_cpus,
)

_BPF_TRACE_ITER = 28
"""enum bpf_attach_type."""


@dataclass(frozen=True, slots=True)
class ProgramInfo:
    """What the kernel says of a program. Run statistics are 0 unless kernel.bpf_stats_enabled."""

    id: int
    tag: str
    name: str
    map_ids: tuple[int, ...]
    run_time_ns: int
    run_cnt: int


def run_statistics() -> Descriptor:
    """While this is open, the kernel takes every program's time, which slows all of them a bit."""
    return Descriptor(call("enable run statistics", "bpf_enable_stats", 0))


@dataclass(frozen=True, slots=True)
class RunResult:
    """What BPF_PROG_TEST_RUN gave: the action, the packet, and the mean duration [ns]."""

    action: int
    packet: bytes
    duration_ns: int


class Program(Descriptor):
    """A program by descriptor."""

    @classmethod
    def by_id(cls, number: int) -> Program:
        """Open a program that somebody else holds."""
        return cls(call(f"open program {number}", "bpf_prog_get_fd_by_id", number))

    def info(self) -> ProgramInfo:
        """What the kernel says of it."""
        raw = t.ProgInfo()
        info_of(self.fd, raw, "a program")
        map_ids = (c.c_uint32 * raw.nr_map_ids)()
        again = t.ProgInfo(nr_map_ids=raw.nr_map_ids, map_ids=c.addressof(map_ids))
        info_of(self.fd, again, "a program")
        return ProgramInfo(
            raw.id,
            bytes(raw.tag).hex(),
            raw.name.decode(),
            tuple(map_ids),
            raw.run_time_ns,
            raw.run_cnt,
        )

    def run(self, packet: bytes, *, repeat: int = 1, ifindex: int = 0, queue: int = 0) -> RunResult:
        """Run it on a packet (BPF_PROG_TEST_RUN); 14 octets at least.

        The packet is not put back between repeats. `ifindex` of a device of this namespace;
        0 is the kernel's choice, the loopback device.
        """
        room = c.create_string_buffer(len(packet) + 512)
        context = t.XdpMd(data_end=len(packet), ingress_ifindex=ifindex, rx_queue_index=queue)
        options = t.TestRunOptions(
            sz=c.sizeof(t.TestRunOptions),
            data_in=c.cast(c.c_char_p(packet), c.c_void_p),
            data_out=c.cast(room, c.c_void_p),
            data_size_in=len(packet),
            data_size_out=len(room),
            repeat=repeat,
        )
        if ifindex:
            options.ctx_in = c.cast(c.byref(context), c.c_void_p)
            options.ctx_size_in = c.sizeof(context)
        call("run a program", "bpf_prog_test_run_opts", self.fd, c.byref(options))
        return RunResult(options.retval, room.raw[: options.data_size_out], options.duration)

    def show_all_of(self, walked: Map) -> None:
        """Run an iterator's program on every entry of a map that the kernel walks (sk storage)."""
        info = t.IteratorMap(map_fd=walked.fd)
        options = t.IteratorLinkOptions(
            sz=c.sizeof(t.IteratorLinkOptions),
            iter_info=c.addressof(info),
            iter_info_len=c.sizeof(info),
        )
        what = f"walk {walked.info.name}"
        arguments = (self.fd, 0, _BPF_TRACE_ITER, c.byref(options))
        with (
            Descriptor(call(what, "bpf_link_create", *arguments)) as link,
            Descriptor(call(what, "bpf_iter_create", link.fd)) as walk,
        ):
            while os.read(walk.fd, 4096):
                pass

    def call(self, argument: bytes) -> bytes:
        """Run a program that user space calls (SEC("syscall")); the argument as it left it."""
        context = c.create_string_buffer(argument, len(argument))
        options = t.TestRunOptions(
            sz=c.sizeof(t.TestRunOptions),
            ctx_in=c.cast(context, c.c_void_p),
            ctx_size_in=len(argument),
        )
        call("run a program", "bpf_prog_test_run_opts", self.fd, c.byref(options))
        return context.raw


class Object(Closing):
    """A compiled object; maps to be reused are named before `load`.

    `image` is the file's content, if it was read before: who loads one object several times must
    get the same program each time, also when the file is replaced meanwhile.
    """

    def __init__(
        self, path: Path, *, pin_root: Path | None = None, image: bytes | None = None
    ) -> None:
        options = t.OpenOptions(
            sz=c.sizeof(t.OpenOptions),
            object_name=path.name.partition(".")[0].encode(),
            pin_root_path=os.fsencode(pin_root) if pin_root else None,
        )
        forget_log()
        self.path = path
        self._image = read_image(path) if image is None else image  # libbpf reads it until `load`
        self._object = library().bpf_object__open_mem(
            self._image, len(self._image), c.byref(options)
        )
        if not self._object:
            what = f"open {path} (made by `make bpf`)"
            raise LibbpfError(what, c.get_errno())
        self.resize(abi.TRAFFIC, abi.MAPS[abi.TRAFFIC].max_entries)

    def close(self) -> None:
        """Let go of everything that is neither pinned nor attached."""
        if self._object:
            library().bpf_object__close(self._object)
            self._object = None

    def _map(self, name: str) -> Any:
        found = library().bpf_object__find_map_by_name(self._object, name.encode())
        if not found:
            what = f"{self.path} has no map {name}"
            raise LibbpfError(what, errno.ENOENT)
        return found

    def reuse(self, name: str, used: Map) -> None:
        """Take `used` in place of the object's own map, also where that would be a pinned one."""
        self.keep_private(name)  # libbpf would look for the pin's map instead
        call(f"reuse map {name}", "bpf_map__reuse_fd", self._map(name), used.fd)
        if name == abi.TRAFFIC:
            self._tell_services(of_one_cpu(name, used.info.max_entries))

    def keep_private(self, name: str) -> None:
        """Do not pin this map, nor reuse what is pinned by its name."""
        call(f"unpin map {name}", "bpf_map__set_pin_path", self._map(name), None)

    def set_constants(self, section: str, octets: bytes) -> None:
        """Give the `const volatile` variables of a section their values; before `load`."""
        arguments = (self._map(section), octets, len(octets))
        call("set constants", "bpf_map__set_initial_value", *arguments)

    def resize(self, name: str, entries: int) -> None:
        """Make a map of this size; before `load`. A map that the object does not have: nothing.

        `entries` of one CPU, if it is `abi.TRAFFIC`; it gets as many for each.
        """
        held = library().bpf_object__find_map_by_name(self._object, name.encode())
        if not held:
            return
        if name == abi.TRAFFIC:
            self._tell_services(entries)
            entries *= possible_cpus()
        call(f"resize map {name}", "bpf_map__set_max_entries", held, entries)

    def _tell_services(self, entries: int) -> None:
        """How many services abi.TRAFFIC has room for, by its entries of one CPU."""
        services = entries // abi.TrafficWay.TRAFFIC_WAYS
        self.set_constants(abi.TRAFFIC_SERVICES, services.to_bytes(4, sys.byteorder))

    def load(self) -> None:
        """Create the maps and load the programs. The error carries the verifier's log."""
        call(f"load {self.path}", "bpf_object__load", self._object)

    def map(self, name: str) -> Map:
        """A map of the loaded object; the descriptor is the caller's."""
        return Map(os.dup(call(f"map {name}", "bpf_map__fd", self._map(name))))

    def program(self, name: str) -> Program:
        """A program by its function's name; the descriptor is the caller's."""
        found = library().bpf_object__find_program_by_name(self._object, name.encode())
        if not found:
            what = f"{self.path} has no program {name}"
            raise LibbpfError(what, errno.ENOENT)
        return Program(os.dup(call(f"program {name}", "bpf_program__fd", found)))


def of_one_cpu(name: str, entries: int) -> int:
    """The entries of a map that are one CPU's, if it is `abi.TRAFFIC`; else all."""
    return entries // possible_cpus() if name == abi.TRAFFIC else entries


def read_image(path: Path) -> bytes:
    """The content of a compiled object.

    Raises:
        LibbpfError: it cannot be read.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        what = f"open {path} (made by `make bpf`)"
        raise LibbpfError(what, error.errno or errno.EIO) from error


@contextmanager
def loaded(
    path: Path,
    reused: Mapping[str, Map] | None = None,
    *,
    pin_root: Path | None = None,
    image: bytes | None = None,
    sizes: Mapping[str, int] | None = None,
) -> Iterator[Object]:
    """An object, loaded with these maps of others, by name, in place of its own; closed afterwards.

    `sizes`: how many entries maps of its own have, where not as many as the object says.
    """
    with Object(path, pin_root=pin_root, image=image) as made:
        for name, entries in (sizes or {}).items():
            made.resize(name, entries)
        for name, used in (reused or {}).items():
            made.reuse(name, used)
        made.load()
        yield made
