"""Offload settings of a network device, by the ethtool ioctl (linux/ethtool.h).

A call is about the device of that name in the calling thread's network namespace.
"""

from __future__ import annotations

import array
import fcntl
import socket
import struct

from dataplane.ports import DataplaneError

SIOCETHTOOL = 0x8946
GTXCSUM = 0x16
STXCSUM = 0x17
GFLAGS = 0x25
SFLAGS = 0x26
FLAG_TXVLAN = 1 << 7
FLAG_RXVLAN = 1 << 8
FLAG_LRO = 1 << 15


class OffloadError(DataplaneError):
    """An offload setting could not be read or changed."""


def tx_checksum(name: str) -> bool:
    """Whether the device is left to fill in checksums of what it sends.

    Raises:
        OffloadError: no such device, or the kernel refused.
    """
    return bool(_value(name, GTXCSUM, 0))


def receive_offloads(name: str) -> frozenset[str]:
    """Which of "lro" and "rxvlan" are on: both change frames before XDP sees them.

    Raises:
        OffloadError: no such device, or the kernel refused.
    """
    flags = _value(name, GFLAGS, 0)
    known = {"lro": FLAG_LRO, "rxvlan": FLAG_RXVLAN}
    return frozenset(word for word, bit in known.items() if flags & bit)


def set_tx_checksum(name: str, *, on: bool) -> None:
    """Switch transmit checksum offload, and with it TSO; what is so already is left alone.

    Raises:
        OffloadError: no such device, or the kernel refused.
    """
    if tx_checksum(name) != on:
        _value(name, STXCSUM, int(on))


def tags_in_frames(name: str) -> bool:
    """Whether the device leaves VLAN tags in the frame, both ways.

    Raises:
        OffloadError: no such device, or the kernel refused.
    """
    return not _value(name, GFLAGS, 0) & (FLAG_TXVLAN | FLAG_RXVLAN)


def set_tags_in_frames(name: str, *, on: bool) -> None:
    """Switch both VLAN offloads off (`on`) or on; what is so already is left alone.

    Raises:
        OffloadError: no such device, or the kernel refused.
    """
    flags = _value(name, GFLAGS, 0)
    both = FLAG_TXVLAN | FLAG_RXVLAN
    wanted = flags & ~both if on else flags | both
    if wanted != flags:
        _value(name, SFLAGS, wanted)


def _value(name: str, command: int, value: int) -> int:
    """One ETHTOOL_[GS]* call with a struct ethtool_value; what it holds afterwards."""
    data = array.array("I", [command, value])
    address, _ = data.buffer_info()
    # struct ifreq: the name, then a union whose member here is a pointer.
    request = struct.pack("16sP16x", name.encode("utf-8", "surrogateescape"), address)
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            fcntl.ioctl(sock, SIOCETHTOOL, request)
    except OSError as error:
        msg = f"offloads of {name} cannot be read or set: {error.strerror}"
        raise OffloadError(msg) from error
    return data[1]
