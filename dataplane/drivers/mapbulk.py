"""Maps read in bulk, as numpy arrays of the ABI's structs.

A million values of 64 octets take about a tenth of a second: one system call for each chunk, and
no Python object for each value.
"""

from __future__ import annotations

import ctypes as c
import errno
import re
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

from dataplane.drivers import libbpf_types as t
from dataplane.drivers.libbpf import LibbpfError, Map, call

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from bpf.abi import Layout

_CHUNK_BYTES = 1 << 20
"""Small enough to stay in the processor's cache between the kernel's copy and ours."""
_STEP_ROWS = 4096
"""Looks end at a multiple of it."""

_CODES = {"I": "=u4", "H": "=u2", "B": "u1", "Q": "=u8", "be32": ">u4", "be16": ">u2"}
_RETRY = frozenset({errno.EINTR, errno.EAGAIN})


@cache
def dtype_of(layout: Layout) -> np.dtype[Any]:
    """A struct of the ABI as numpy has it: integers by value, octets as arrays of them."""
    fields: list[tuple[Any, ...]] = []
    for name, code in layout.fields:
        octets = re.fullmatch(r"(\d+)s", code)
        fields.append((name, "u1", (int(octets[1]),)) if octets else (name, _CODES[code]))
    return np.dtype(fields)


def array_chunks(
    array: Map, dtype: np.dtype[Any], end: int | None = None
) -> Iterator[tuple[int, NDArray[Any]]]:
    """The values of an array map in order, some at a time: the first one's number, and they.

    What is yielded is overwritten by the next step. Values that a program writes meanwhile may
    come half old, half new. `end`: how many there are to be, if not all.

    Raises:
        LibbpfError: the kernel refused.
    """
    end = array.info.max_entries if end is None else end
    room = min(end, max(1, _CHUNK_BYTES // array.info.value_size))
    values, keys = np.zeros(room, dtype), np.zeros(room, np.uint32)
    options = t.BatchOptions(sz=c.sizeof(t.BatchOptions))
    at = 0
    while at < end:
        # A batch goes on after the key that it is given.
        token, following = c.c_uint32(at - 1), c.c_uint32()
        number = c.c_uint32(min(room, end - at))
        try:
            call(
                f"read {array.info.name}", "bpf_map_lookup_batch", array.fd,
                c.byref(token) if at else None, c.byref(following), keys.ctypes.data,
                values.ctypes.data, c.byref(number), c.byref(options),
            )  # fmt: skip
        except LibbpfError as error:
            if error.errno != errno.ENOENT:  # the last chunk may end so
                raise
        if not number.value:
            break
        yield at, values[: number.value]
        at += number.value


def read_array(array: Map, dtype: np.dtype[Any], end: int | None = None) -> NDArray[Any]:
    """The values of an array map, in order: all, or up to `end`; see `array_chunks`."""
    # Told its type, or the result would have integers in host order: other octets than the map's.
    parts = [values.copy() for _, values in array_chunks(array, dtype, end)]
    return np.concatenate(parts, dtype=dtype.base)


class Looks:
    """An array map as the last look found it, and what the next one finds otherwise.

    The first look is at all of it, later ones up to the highest number that had, or was given, a
    value so far: numbers are given out from the lowest on, and each value costs the kernel 0.1 us.

    Args:
        array: the map.
        dtype: of its values, of whole 8 octets.

    Attributes:
        rows: all values; those that differ are replaced in place.
    """

    def __init__(self, array: Map, dtype: np.dtype[Any]) -> None:
        self._array, self._dtype, self._width = array, dtype, dtype.itemsize // 8
        self._words = np.zeros(array.info.max_entries * self._width, np.uint64)
        self.rows: NDArray[Any] = self._words.view(dtype)
        self._top: int | None = None

    def reach(self, numbers: Iterable[int]) -> None:
        """These are given values."""
        if self._top is not None:
            self._top = max([self._top, *numbers])

    def differing(self) -> list[int]:
        """The numbers of the values that differ; of the first look those that are not all zeros.

        Raises:
            LibbpfError: the kernel refused; the next look is a first one.
        """
        places: list[int] = []
        end = self._array.info.max_entries
        if self._top is not None:
            end = min(end, (self._top // _STEP_ROWS + 1) * _STEP_ROWS)
        try:
            for at, values in array_chunks(self._array, self._dtype, end):
                words = values.view(np.uint64)
                held = self._words[at * self._width :][: len(words)]
                found = np.flatnonzero(words != held)
                if len(found):
                    held[:] = words
                    places += (np.unique(found // self._width) + at).tolist()
        except LibbpfError:
            self.forget()
            raise
        self._top = max([self._top or 0, *places])
        return places

    def forget(self) -> None:
        """Take the next look for the first."""
        self._words[:] = 0
        self._top = None


def read_hash(
    table: Map, key: np.dtype[Any], value: np.dtype[Any]
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Keys and values of a hash map, in no order.

    Raises:
        LibbpfError: the kernel refused.
    """
    room = max(256, min(table.info.max_entries, 65536))
    options = t.BatchOptions(sz=c.sizeof(t.BatchOptions))
    token: Any = None
    following = c.c_uint32()  # of hash maps: the number of a bucket
    keys: list[NDArray[Any]] = []
    values: list[NDArray[Any]] = []
    end = False
    while not end:
        some_keys, some_values = np.zeros(room, key), np.zeros(room, value)
        number = c.c_uint32(room)
        try:
            call(
                f"read {table.info.name}", "bpf_map_lookup_batch", table.fd, token,
                c.byref(following), some_keys.ctypes.data, some_values.ctypes.data,
                c.byref(number), c.byref(options),
            )  # fmt: skip
        except LibbpfError as error:
            if error.errno == errno.ENOSPC:  # a bucket that has more than the room
                room *= 2
                continue
            if error.errno in _RETRY:
                continue
            if error.errno != errno.ENOENT:
                raise
            end = True
        keys.append(some_keys[: number.value])
        values.append(some_values[: number.value])
        token = c.byref(c.c_uint32(following.value))
    return np.concatenate(keys, dtype=key), np.concatenate(values, dtype=value)


def write_array(array: Map, values: NDArray[Any], first: int = 0) -> None:
    """Set values `first`.. of an array map, in order.

    Raises:
        LibbpfError: the kernel refused; some are set.
        ValueError: the values are not as the map's.
    """
    if values.dtype.itemsize != array.info.value_size or not values.flags.c_contiguous:
        msg = f"map {array.info.name} takes values of {array.info.value_size} octets"
        raise ValueError(msg)
    keys = np.arange(first, first + len(values), dtype=np.uint32)
    update_keys(array, keys, values)


def update_keys(table: Map, keys: NDArray[Any], values: NDArray[Any]) -> None:
    """Set many entries of any map that takes batches.

    Raises:
        LibbpfError: the kernel refused; some are set.
    """
    chunk = max(1, _CHUNK_BYTES // table.info.value_size)
    options = t.BatchOptions(sz=c.sizeof(t.BatchOptions))
    for at in range(0, len(keys), chunk):
        some_keys, some_values = keys[at : at + chunk], values[at : at + chunk]
        number = c.c_uint32(len(some_keys))
        call(
            f"update {table.info.name}", "bpf_map_update_batch", table.fd,
            some_keys.ctypes.data, some_values.ctypes.data, c.byref(number), c.byref(options),
        )  # fmt: skip


def distinct(columns: Sequence[NDArray[Any]]) -> NDArray[np.intp]:
    """Where each combination of columns of integers occurs, one place each."""
    places = np.arange(len(columns[0]))
    group = np.zeros(len(places), np.int64)
    for column in columns:
        _, numbers = np.unique(column, return_inverse=True)
        group = group * (int(numbers.max(initial=0)) + 1) + numbers
        _, first, group = np.unique(group, return_index=True, return_inverse=True)
    return places[first]
