"""Files of packets in libpcap's format: those that DPDK's net_pcap writes, and our own.

Source: pcap-savefile(5): a header of 24 octets, then for each packet a header of 16 and its octets;
the magic number tells the byte order and whether times are in micro- or nanoseconds.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from dataplane.ports import DataplaneError

HEADER_SIZE, RECORD_SIZE = 24, 16
LINKTYPE_ETHERNET = 1
MAX_PACKET = 1 << 18
"""Octets that libpcap itself takes for the longest packet."""

_MAGIC = {
    b"\xd4\xc3\xb2\xa1": ("<", 1_000),
    b"\xa1\xb2\xc3\xd4": (">", 1_000),
    b"\x4d\x3c\xb2\xa1": ("<", 1),
    b"\xa1\xb2\x3c\x4d": (">", 1),
}


_NANOSECONDS = 0xA1B23C4D
_VERSION = (2, 4)


class PcapError(DataplaneError):
    """The file is none of this format."""


@dataclass(frozen=True, slots=True)
class Packet:
    """One packet: when it was seen [ns since 1970], how long it was, and what was kept of it."""

    time_ns: int
    size: int
    octets: bytes


def packets(path: Path) -> Iterator[Packet]:
    """The packets of a file, one after the other; one that was cut off at the end is left out.

    Raises:
        PcapError: it is no such file, or not of Ethernet frames.
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        order, unit, _ = _header(path, file)
        while read := _record(path, file, order):
            (seconds, part, _, size), octets, _ = read
            yield Packet(seconds * 1_000_000_000 + part * unit, size, octets)


def beginning() -> bytes:
    """What a file of ours begins with: Ethernet frames, times in nanoseconds."""
    return struct.pack("<IHHiIII", _NANOSECONDS, *_VERSION, 0, 0, MAX_PACKET, LINKTYPE_ETHERNET)


def record(packet: Packet) -> bytes:
    """One packet, as it stands behind `beginning`."""
    seconds, part = divmod(packet.time_ns, 1_000_000_000)
    head = struct.pack("<IIII", seconds, part, len(packet.octets), packet.size)
    return head + packet.octets


def keep_first(path: Path, into: BinaryIO, count: int | None) -> int:
    """Copy a file's first packets (None: all), whole ones alone; how many they were.

    Raises:
        PcapError, OSError: as `packets`.
    """
    kept = 0
    with path.open("rb") as file:
        order, _, header = _header(path, file)
        into.write(header)
        while (count is None or kept < count) and (read := _record(path, file, order)):
            _, octets, raw = read
            into.write(raw + octets)
            kept += 1
    return kept


def _header(path: Path, file: BinaryIO) -> tuple[str, int, bytes]:
    header = file.read(HEADER_SIZE)
    known = _MAGIC.get(header[:4])
    if known is None or len(header) < HEADER_SIZE:
        msg = f"{path} is no pcap file: it begins with {header[:4].hex() or 'nothing'}"
        raise PcapError(msg)
    (link,) = struct.unpack(known[0] + "I", header[20:24])
    if link & 0xFFFF != LINKTYPE_ETHERNET:
        msg = f"{path} has packets of link type {link}, not Ethernet frames"
        raise PcapError(msg)
    return *known, header


def _record(
    path: Path, file: BinaryIO, order: str
) -> tuple[tuple[int, int, int, int], bytes, bytes] | None:
    raw = file.read(RECORD_SIZE)
    if len(raw) < RECORD_SIZE:
        return None
    seconds, part, kept, size = struct.unpack(order + "IIII", raw)
    if kept > MAX_PACKET:
        msg = f"{path} has a packet of {kept} octets: it is damaged"
        raise PcapError(msg)
    octets = file.read(kept)
    if len(octets) < kept:
        return None
    return (seconds, part, kept, size), octets, raw
