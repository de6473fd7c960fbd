"""A small typed binding over libbpf.so.1: what the drivers and perf need, and no more.

Maps are here, programs and objects in `dataplane.drivers.libbpf_programs`. libbpf 1.x answers
negative error numbers; every function turns them into `LibbpfError`, which carries what libbpf
and the verifier printed meanwhile. Descriptors are closed by their owner: they are context
managers.

Source: libbpf 1.1, bpf.h and libbpf.h; uapi linux/bpf.h and linux/if_link.h.
"""

from __future__ import annotations

import ctypes as c
import errno
import os
import sys
from collections.abc import Iterator
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
def library() -> c.CDLL:
    """The library itself, with prototypes declared and its messages caught."""
    try:
        bound = c.CDLL("libbpf.so.1", use_errno=True)
    except OSError as error:
        msg = f"libbpf.so.1 cannot be loaded ({error}); install Debian's libbpf1"
        raise CapabilityMissing(msg) from error
    t.declare(bound)
    bound.libbpf_set_print(_keep_log)
    return bound


def _keep_line(level: int, form: bytes, arguments: int) -> int:
    if level > t.LIBBPF_WARN:
        return 0
    text = c.create_string_buffer(_LOG_BYTES)
    size: int = c.CDLL(None).vsnprintf(text, c.c_size_t(len(text)), form, c.c_void_p(arguments))
    _log.extend(text.value.decode(errors="replace").splitlines())
    del _log[:-_LOG_LINES]
    return size


_keep_log = t.PRINT(_keep_line)
"""Kept here, because ctypes callbacks must outlive their use."""


def forget_log() -> None:
    """Before a call that is not made through `call`: what was printed earlier is not its."""
    _log.clear()


def call(what: str, name: str, *arguments: Any) -> int:
    """Call a function that answers a negative error number; `what` names the thing for people."""
    forget_log()
    result: int = getattr(library(), name)(*arguments)
    if result < 0:
        raise LibbpfError(what, -result)
    return result


def possible_cpus() -> int:
    """How many values a per-CPU map has for each key."""
    return call("count CPUs", "libbpf_num_possible_cpus")


class Closing:
    """What is closed at the end of its `with` block."""

    def close(self) -> None:
        """Let go of what is held; a second time is nothing."""
        raise NotImplementedError

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


class Descriptor(Closing):
    """An owned file descriptor of a map, a program or a link."""

    def __init__(self, fd: int) -> None:
        self.fd = fd

    def close(self) -> None:
        """Close it; a second time is nothing."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

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
        result: int = library().bpf_map_lookup_elem(self.fd, key, value)
        if result == -errno.ENOENT:
            return None
        if result < 0:
            what = f"look up in {self.info.name}"
            raise LibbpfError(what, -result)
        return value.raw

    def numbers(self) -> list[tuple[int, int]]:
        """Index and value of every entry of a sparse array of 32-bit numbers.

        In one system call where the kernel's batches skip holes (newer than 6.1, which answers
        EINTR at the first one), else by one call each: 16,384 entries take 1 ms and 40 ms.
        """
        try:
            return [
                (int.from_bytes(key, sys.byteorder), int.from_bytes(value, sys.byteorder))
                for key, value in self.items()
            ]
        except LibbpfError as error:
            if error.errno not in {errno.EINTR, errno.ENOTSUP, errno.EINVAL}:
                raise
        return self._walk_numbers()

    def _walk_numbers(self) -> list[tuple[int, int]]:
        key, value = c.c_uint32(), c.c_uint32()
        lookup, at, into = library().bpf_map_lookup_elem, c.byref(key), c.byref(value)
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
        return self.entries(*self.octets())

    def entries(self, keys: bytes, values: bytes) -> list[tuple[bytes, bytes]]:
        """What `octets` gave, entry by entry."""
        k, v = self.info.key_size, self.value_size
        count = len(keys) // k
        return [(keys[i * k : i * k + k], values[i * v : i * v + v]) for i in range(count)]

    def octets(self) -> tuple[bytes, bytes]:
        """All keys and all values in the kernel's order: the same as long as nobody writes."""
        chunk = max(1, min(self.info.max_entries, (4 << 20) // self.value_size))
        key_size, value_size = self.info.key_size, self.value_size
        keys = c.create_string_buffer(chunk * key_size)
        values = c.create_string_buffer(chunk * value_size)
        options = t.BatchOptions(sz=c.sizeof(t.BatchOptions))
        token, following = None, c.create_string_buffer(max(4, key_size))
        all_keys, all_values = bytearray(), bytearray()
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
            all_keys += memoryview(keys)[: count.value * key_size]
            all_values += memoryview(values)[: count.value * value_size]
            token = c.create_string_buffer(following.raw, len(following))
        return bytes(all_keys), bytes(all_values)
