"""A minimal AF_XDP receiver: one queue of one device, frames counted and given back at once.

Copy mode, no threads: frames gather in the ring while they are sent, and `drain` takes them all.
The same receiver ends every contestant's packets, so that its cost is the same for each.

A switch takes packets out at once and has its frames filled again, so that the kernel writes to the
same few over and over, which caches hold. Here nobody reads before all have come: a frame for each
would be memory that nobody has touched lately, 120 ns a packet for nothing but this receiver. So
its descriptors name few frames in turn, as many and as large as OVS has in a queue's ring. Of the
packets that gather in one frame the last is left, and only their number is asked for.

Source: uapi linux/if_xdp.h; Documentation/networking/af_xdp.rst of the kernel; OVS 3.1
lib/netdev-afxdp.c (PROD_NUM_DESCS, FRAME_SIZE, OVS_XDP_HEADROOM).
"""

from __future__ import annotations

import ctypes
import mmap
import os
import socket
import struct

import numpy as np
import numpy.typing as npt

from dataplane.drivers.libbpf import Closing
from dataplane.ports import DataplaneError

_AF_XDP, _SOL_XDP = 44, 283
_MMAP_OFFSETS, _RX_RING, _UMEM_REG, _FILL_RING, _COMPLETION_RING = 1, 2, 4, 5, 6
_PGOFF_RX, _PGOFF_FILL = 0, 0x1_0000_0000
_XDP_COPY = 1 << 1
_FRAME, _HEADROOM = 4096, 128
FRAMES = 2048
"""Distinct ones, in turn."""

RING = 32768
"""Descriptors: packets that fit between two drains."""


class _Ring:
    """One ring of the kernel's, mapped."""

    def __init__(self, fd: int, at: int, offsets: tuple[int, ...], words: int) -> None:
        producer, consumer, entries, _ = offsets
        self._memory = mmap.mmap(fd, entries + RING * words * 8, offset=at)
        self._numbers = np.frombuffer(self._memory, np.uint32)
        self._producer, self._consumer = producer // 4, consumer // 4
        self.entries: npt.NDArray[np.uint64] = np.frombuffer(
            self._memory, np.uint64, RING * words, entries
        )

    @property
    def producer(self) -> int:
        return int(self._numbers[self._producer])

    @producer.setter
    def producer(self, value: int) -> None:
        self._numbers[self._producer] = value & 0xFFFFFFFF

    @property
    def consumer(self) -> int:
        return int(self._numbers[self._consumer])

    @consumer.setter
    def consumer(self, value: int) -> None:
        self._numbers[self._consumer] = value & 0xFFFFFFFF


class Receiver(Closing):
    """An AF_XDP socket on queue 0 of a device of this network namespace.

    Raises:
        DataplaneError: the kernel refused a step.
    """

    def __init__(self, ifindex: int) -> None:
        self._umem = mmap.mmap(-1, FRAMES * _FRAME)
        self._socket = socket.socket(_AF_XDP, socket.SOCK_RAW, 0)
        base = ctypes.addressof(ctypes.c_char.from_buffer(self._umem))
        umem = struct.pack("=QQIIII", base, FRAMES * _FRAME, _FRAME, _HEADROOM, 0, 0)
        self._option(_UMEM_REG, umem)
        for ring in (_FILL_RING, _COMPLETION_RING, _RX_RING):
            self._option(ring, struct.pack("=I", RING))
        told = struct.unpack("=16Q", self._socket.getsockopt(_SOL_XDP, _MMAP_OFFSETS, 128))
        fd = self._socket.fileno()
        self._rx = _Ring(fd, _PGOFF_RX, told[0:4], 2)
        self._fill = _Ring(fd, _PGOFF_FILL, told[8:12], 1)
        self._fill.entries[:] = np.arange(RING, dtype=np.uint64) % FRAMES * _FRAME
        self._fill.producer = RING
        name = struct.pack("=HHIII", _AF_XDP, _XDP_COPY, ifindex, 0, 0)
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.bind(fd, name, len(name)):
            reason = os.strerror(ctypes.get_errno())
            self._socket.close()
            msg = f"an AF_XDP socket could not be bound to interface {ifindex}: {reason}"
            raise DataplaneError(msg)

    @property
    def fd(self) -> int:
        """For an XSKMAP."""
        return self._socket.fileno()

    def waiting(self) -> set[int]:
        """The frames that packets are in which nobody has taken."""
        return {int(address) // _FRAME for address in self._gathered()}

    def drain(self) -> int:
        """Take what has come and give its frames back; how many there were."""
        addresses = self._gathered()
        count = len(addresses)
        if not count:
            return 0
        put = self._fill.producer
        given = (put + np.arange(count, dtype=np.int64)) % RING
        self._fill.entries[given] = addresses - addresses % np.uint64(_FRAME)
        self._rx.consumer += count
        self._fill.producer = put + count
        return count

    def _gathered(self) -> npt.NDArray[np.uint64]:
        """Where in the memory the packets begin that nobody has taken."""
        begin = self._rx.consumer
        count = (self._rx.producer - begin) & 0xFFFFFFFF
        return self._rx.entries[(begin + np.arange(count, dtype=np.int64)) % RING * 2]

    def close(self) -> None:
        """The kernel gives up rings and memory with the socket."""
        self._socket.close()

    def _option(self, name: int, value: bytes) -> None:
        try:
            self._socket.setsockopt(_SOL_XDP, name, value)
        except OSError as error:
            msg = f"AF_XDP option {name}: {error.strerror}"
            raise DataplaneError(msg) from error
