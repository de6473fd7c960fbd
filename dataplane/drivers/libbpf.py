"""A small typed binding over libbpf.so.1: what the drivers and perf need, and no more.

libbpf 1.x returns negative error numbers; every function here turns them into `LibbpfError`,
which carries what libbpf and the verifier printed meanwhile. Descriptors are closed by their
owner: objects here are context managers.

Source: libbpf 1.1, bpf.h and libbpf.h; uapi linux/bpf.h and linux/if_link.h.
"""

from __future__ import annotations

import ctypes as c
import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from dataplane.drivers import libbpf_types as t
from dataplane.ports import CapabilityMissing, DataplaneError

BPF_ANY, BPF_NOEXIST, BPF_EXIST = 0, 1, 2
BPF_F_REPLACE = 1 << 2
BPF_XDP = 37
XDP_FLAGS_UPDATE_IF_NOEXIST = 1 << 0
XDP_FLAGS_SKB_MODE = 1 << 1
XDP_FLAGS_DRV_MODE = 1 << 2
XDP_FLAGS_REPLACE = 1 << 4
MAP_TYPE_ARRAY, MAP_TYPE_XSKMAP = 2, 17

_log: list[str] = []
_LOG_BYTES, _LOG_LINES, _LOG_COLUMNS = 1 << 24, 40, 200
"""Room for a verifier's log (the kernel gives up at 16 MiB), and how much of its end is shown."""


class LibbpfError(DataplaneError):
    """A call of libbpf's failed.

    Attributes:
        errno: the error number.
        log: what libbpf and the verifier said, the last lines.
    """

    def __init__(self, what: str, number: int) -> None:
        self.errno = number
        self.log = "\n".join(line[:_LOG_COLUMNS] for line in _log)
        super().__init__(f"{what}: {os.strerror(number)}" + (f"\n{self.log}" if self.log else ""))


@cache
def _library() -> c.CDLL:
    try:
        library = c.CDLL("libbpf.so.1", use_errno=True)
    except OSError as error:
        msg = f"libbpf.so.1 cannot be loaded ({error}); install Debian's libbpf1"
        raise CapabilityMissing(msg) from error
    t.declare(library)
    library.libbpf_set_print(_keep_log)
    return library


def _keep_line(level: int, form: bytes, arguments: int) -> int:
    if level > t.LIBBPF_INFO:
        return 0
    text = c.create_string_buffer(_LOG_BYTES)
    size: int = c.CDLL(None).vsnprintf(text, c.c_size_t(len(text)), form, c.c_void_p(arguments))
    _log.extend(text.value.decode(errors="replace").splitlines())
    del _log[:-_LOG_LINES]
    return size


_keep_log = t.PRINT(_keep_line)
"""Kept here, because ctypes callbacks must outlive their use."""


def call(what: str, name: str, *arguments: Any) -> int:
    """Call a function that answers a negative error number; `what` names the thing for people."""
    _log.clear()
    result: int = getattr(_library(), name)(*arguments)
    if result < 0:
        raise LibbpfError(what, -result)
    return result


def possible_cpus() -> int:
    """How many values a per-CPU map has for each key."""
    return call("count CPUs", "libbpf_num_possible_cpus")


class Descriptor:
    """An owned file descriptor of a map, a program or a link."""

    def __init__(self, fd: int) -> None:
        self.fd = fd

    def close(self) -> None:
        """Close it; a second time is nothing."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def pin(self, path: Path) -> None:
        """Pin it, so that it outlives us."""
        call(f"pin {path}", "bpf_obj_pin", self.fd, os.fsencode(path))


def pinned(path: Path) -> Descriptor:
    """Open what is pinned at `path`."""
    return Descriptor(call(f"open the pin {path}", "bpf_obj_get", os.fsencode(path)))


@dataclass(frozen=True, slots=True)
class MapInfo:
    """What the kernel says of a map."""

    id: int
    type: int
    key_size: int
    value_size: int
    max_entries: int
    name: str


@dataclass(frozen=True, slots=True)
class ProgramInfo:
    """What the kernel says of a program. Run statistics are 0 unless kernel.bpf_stats_enabled."""

    id: int
    tag: str
    name: str
    map_ids: tuple[int, ...]
    run_time_ns: int
    run_cnt: int


@dataclass(frozen=True, slots=True)
class LinkInfo:
    """What the kernel says of an XDP link. `ifindex` is 0 when its device is gone."""

    prog_id: int
    ifindex: int


def info_of(fd: int, info: c.Structure, what: str) -> None:
    """Fill `info` with what the kernel says of a descriptor."""
    size = c.c_uint32(c.sizeof(info))
    call(f"ask about {what}", "bpf_obj_get_info_by_fd", fd, c.byref(info), c.byref(size))


class Map(Descriptor):
    """A map by descriptor: keys and values are octets."""

    def __init__(self, fd: int) -> None:
        super().__init__(fd)
        raw = t.MapInfo()
        info_of(fd, raw, "a map")
        self.info = MapInfo(
            raw.id, raw.type, raw.key_size, raw.value_size, raw.max_entries, raw.name.decode()
        )
        cpus = possible_cpus() if raw.type in t.PER_CPU_TYPES else 0
        self.value_size = (raw.value_size + 7) // 8 * 8 * cpus if cpus else raw.value_size

    @classmethod
    def create(cls, map_type: int, name: str, key_size: int, value_size: int, entries: int) -> Map:
        """Make a map of our own."""
        arguments = (map_type, name.encode(), key_size, value_size, entries, None)
        return cls(call(f"create map {name}", "bpf_map_create", *arguments))

    @classmethod
    def by_id(cls, number: int) -> Map:
        """Open a map that somebody else holds."""
        return cls(call(f"open map {number}", "bpf_map_get_fd_by_id", number))

    @classmethod
    def at(cls, path: Path) -> Map:
        """Open a pinned map."""
        return cls(call(f"open the pin {path}", "bpf_obj_get", os.fsencode(path)))

    def lookup(self, key: bytes) -> bytes | None:
        """The value of a key; None if there is none."""
        value = c.create_string_buffer(self.value_size)
        # Not through call(): walks of sparse arrays miss thousands of times.
        result: int = _library().bpf_map_lookup_elem(self.fd, key, value)
        if result == -errno.ENOENT:
            return None
        if result < 0:
            what = f"look up in {self.info.name}"
            raise LibbpfError(what, -result)
        return value.raw

    def numbers(self) -> list[tuple[int, int]]:
        """Index and value of every entry of a sparse array of 32-bit numbers."""
        key, value = c.c_uint32(), c.c_uint32()
        lookup, at, into = _library().bpf_map_lookup_elem, c.byref(key), c.byref(value)
        found: list[tuple[int, int]] = []
        for index in range(self.info.max_entries):
            key.value = index
            result: int = lookup(self.fd, at, into)
            if not result:
                found.append((index, value.value))
            elif result != -errno.ENOENT:
                what = f"look up in {self.info.name}"
                raise LibbpfError(what, -result)
        return found

    def update(self, key: bytes, value: bytes, flags: int = BPF_ANY) -> None:
        """Set one entry."""
        if len(key) != self.info.key_size or len(value) != self.value_size:
            msg = f"map {self.info.name} takes {self.info.key_size} and {self.value_size} octets"
            raise ValueError(msg)
        call(f"update {self.info.name}", "bpf_map_update_elem", self.fd, key, value, flags)

    def delete(self, key: bytes) -> bool:
        """Remove one entry; whether it was there."""
        try:
            call(f"shrink {self.info.name}", "bpf_map_delete_elem", self.fd, key)
        except LibbpfError as error:
            if error.errno == errno.ENOENT:
                return False
            raise
        return True

    def update_batch(self, entries: list[tuple[bytes, bytes]]) -> None:
        """Set many entries by one system call. On an error some of them are set."""
        if not entries:
            return
        keys = b"".join(key for key, _ in entries)
        values = b"".join(value for _, value in entries)
        count, options = c.c_uint32(len(entries)), t.BatchOptions(sz=c.sizeof(t.BatchOptions))
        arguments = (self.fd, keys, values, c.byref(count), c.byref(options))
        call(f"update {self.info.name}", "bpf_map_update_batch", *arguments)

    def keys(self) -> Iterator[bytes]:
        """Every key, by one system call each. Removing while iterating restarts the walk."""
        key, following = None, c.create_string_buffer(self.info.key_size)
        while True:
            try:
                what = f"walk {self.info.name}"
                call(what, "bpf_map_get_next_key", self.fd, key, following)
            except LibbpfError as error:
                if error.errno == errno.ENOENT:
                    return
                raise
            key = following.raw
            yield key

    def items(self) -> list[tuple[bytes, bytes]]:
        """Every entry, by as few system calls as the kernel allows (hash and array maps)."""
        chunk = max(1, min(self.info.max_entries, (4 << 20) // self.value_size))
        key_size, value_size = self.info.key_size, self.value_size
        keys = c.create_string_buffer(chunk * key_size)
        values = c.create_string_buffer(chunk * value_size)
        options = t.BatchOptions(sz=c.sizeof(t.BatchOptions))
        token, following = None, c.create_string_buffer(max(4, key_size))
        found: list[tuple[bytes, bytes]] = []
        end = False
        while not end:
            count = c.c_uint32(chunk)
            try:
                arguments = (self.fd, token, following, keys, values, c.byref(count))
                name = "bpf_map_lookup_batch"
                call(f"read {self.info.name}", name, *arguments, c.byref(options))
            except LibbpfError as error:
                if error.errno != errno.ENOENT:
                    raise
                end = True
            raw_keys, raw_values = keys.raw, values.raw
            found.extend(
                (
                    raw_keys[i * key_size : (i + 1) * key_size],
                    raw_values[i * value_size : (i + 1) * value_size],
                )
                for i in range(count.value)
            )
            token = c.create_string_buffer(following.raw, len(following))
        return found


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


class Object:
    """A compiled object; maps to be reused are named before `load`."""

    def __init__(self, path: Path, *, pin_root: Path | None = None) -> None:
        options = t.OpenOptions(
            sz=c.sizeof(t.OpenOptions),
            pin_root_path=os.fsencode(pin_root) if pin_root else None,
        )
        _log.clear()
        self.path = path
        self._object = _library().bpf_object__open_file(os.fsencode(path), c.byref(options))
        if not self._object:
            what = f"open {path} (made by `make bpf`)"
            raise LibbpfError(what, c.get_errno())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let go of everything that is neither pinned nor attached."""
        if self._object:
            _library().bpf_object__close(self._object)
            self._object = None

    def _map(self, name: str) -> Any:
        found = _library().bpf_object__find_map_by_name(self._object, name.encode())
        if not found:
            what = f"{self.path} has no map {name}"
            raise LibbpfError(what, errno.ENOENT)
        return found

    def reuse(self, name: str, used: Map) -> None:
        """Take `used` in place of the object's own map."""
        call(f"reuse map {name}", "bpf_map__reuse_fd", self._map(name), used.fd)

    def load(self) -> None:
        """Create the maps and load the programs. The error carries the verifier's log."""
        call(f"load {self.path}", "bpf_object__load", self._object)

    def map(self, name: str) -> Map:
        """A map of the loaded object; the descriptor is the caller's."""
        return Map(os.dup(call(f"map {name}", "bpf_map__fd", self._map(name))))

    def program(self, name: str) -> Program:
        """A program by its function's name; the descriptor is the caller's."""
        found = _library().bpf_object__find_program_by_name(self._object, name.encode())
        if not found:
            what = f"{self.path} has no program {name}"
            raise LibbpfError(what, errno.ENOENT)
        return Program(os.dup(call(f"program {name}", "bpf_program__fd", found)))


@contextmanager
def loaded(path: Path, *, pin_root: Path | None = None, **reused: Map) -> Iterator[Object]:
    """An object, loaded with these maps of others in place of its own, closed afterwards."""
    with Object(path, pin_root=pin_root) as made:
        for name, used in reused.items():
            made.reuse(name, used)
        made.load()
        yield made
