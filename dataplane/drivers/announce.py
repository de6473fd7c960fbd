"""Table `announcements`: the wire is told at which MAC a VIP is, whenever this node takes it over.

Gratuitous ARP (RFC 5227, section 3) and unsolicited neighbour advertisements (RFC 4861, 7.2.6)
from a packet socket on the uplink. Said several times, since nobody confirms them, and paced, since
a fail-over may bring thousands of VIPs at once. What was said is known in this process only: after
its restart, and after vswitchd's (`again`), everything that is owned is said anew, which harms
nobody.
"""

from __future__ import annotations

import logging
import socket
import struct
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address

from dataplane.model.addr import IPAddress, Mac
from dataplane.model.rows import Announcement
from dataplane.ports import Failure

log = logging.getLogger(__name__)

REPEATS = 3
"""RFC 4861, 10: MAX_NEIGHBOR_ADVERTISEMENT; RFC 5227 asks for 2."""

REPEAT_S = 1.0
"""RFC 4861, 10: RETRANS_TIMER."""

BURST, PAUSE_S = 64, 0.02
"""VIPs that are said at once, and the pause until the next: 3,200 in a second."""

_BROADCAST = b"\xff" * 6
_ARP_REQUEST, _ARP_REPLY = 1, 2
_ALL_NODES = IPv6Address("ff02::1")
_OVERRIDE = 1 << 29
_ICMPV6, _NEIGHBOR_ADVERTISEMENT, _TARGET_LINK_ADDRESS = 58, 136, 2

Send = Callable[[str, Sequence[bytes]], None]


def frames(vip: IPAddress, mac: Mac) -> tuple[bytes, ...]:
    """What says that a VIP is at a MAC. Of ARP both forms: some listen to only one of them."""
    if isinstance(vip, IPv4Address):
        return tuple(_arp(vip, mac.packed(), operation) for operation in (_ARP_REQUEST, _ARP_REPLY))
    return (_advertisement(vip, mac.packed()),)


def _arp(vip: IPv4Address, mac: bytes, operation: int) -> bytes:
    head = _BROADCAST + mac + struct.pack("!HHHBBH", 0x0806, 1, 0x0800, 6, 4, operation)
    to = bytes(6) if operation == _ARP_REQUEST else _BROADCAST
    return (head + mac + vip.packed + to + vip.packed).ljust(60, b"\0")


def _advertisement(vip: IPv6Address, mac: bytes) -> bytes:
    body = struct.pack("!BBHI", _NEIGHBOR_ADVERTISEMENT, 0, 0, _OVERRIDE) + vip.packed
    body += struct.pack("!BB", _TARGET_LINK_ADDRESS, 1) + mac
    pseudo = vip.packed + _ALL_NODES.packed + struct.pack("!II", len(body), _ICMPV6)
    body = body[:2] + struct.pack("!H", _checksum(pseudo + body)) + body[4:]
    ip = struct.pack("!IHBB", 6 << 28, len(body), _ICMPV6, 255) + vip.packed + _ALL_NODES.packed
    return b"\x33\x33" + _ALL_NODES.packed[-4:] + mac + b"\x86\xdd" + ip + body


def _checksum(octets: bytes) -> int:
    total: int = sum(struct.unpack(f"!{len(octets) // 2}H", octets))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def send(device: str, what: Sequence[bytes]) -> None:
    """Put frames on a device's wire.

    Raises:
        OSError: there is no such device, it is down, or we may not.
    """
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0) as wire:
        wire.bind((device, 0))  # protocol 0: nothing is received
        for frame in what:
            wire.send(frame)


@dataclass(slots=True)
class _Pending:
    """How often a VIP is still to be said, and when next (time.monotonic)."""

    row: Announcement
    left: int
    due: float


class AnnouncementsTable:
    """A `dataplane.ports.Table`: key VIP; `close` it at the end."""

    name = "announcements"

    def __init__(self, put: Send = send, repeat_s: float = REPEAT_S) -> None:
        self._put, self._repeat_s = put, repeat_s
        self._said: dict[IPAddress, Announcement] = {}
        self._pending: dict[IPAddress, _Pending] = {}
        self._changed = threading.Condition()
        self._closed = False
        self._thread: threading.Thread | None = None

    def observe(self) -> Mapping[IPAddress, Announcement]:
        """What this process has said, and not taken back."""
        with self._changed:
            return dict(self._said)

    def upsert(
        self, batch: Sequence[tuple[IPAddress, Announcement]]
    ) -> Mapping[IPAddress, Failure]:
        """Say these from now on; a device that takes nothing fails at once, for the reconciler."""
        failed: dict[IPAddress, Failure] = {}
        refused: dict[str, str] = {}
        for device in {row.device for _, row in batch}:
            try:
                self._put(device, ())
            except OSError as error:
                refused[device] = f"VIPs cannot be announced on {device}: {error.strerror}"
        with self._changed:
            for vip, row in batch:
                if row.device in refused:
                    failed[vip] = Failure(refused[row.device])
                    continue
                self._said[vip] = row
                self._pending[vip] = _Pending(row, REPEATS, 0.0)
            self._start()
            self._changed.notify()
        return failed

    def delete(self, keys: Sequence[IPAddress]) -> Mapping[IPAddress, Failure]:
        """Say nothing more of these. The new owner says it; no word of ours could take it back."""
        with self._changed:
            for vip in keys:
                self._said.pop(vip, None)
                self._pending.pop(vip, None)
        return {}

    def again(self) -> None:
        """Whatever was said may have been forgotten: the next round says it anew."""
        with self._changed:
            self._said.clear()

    def close(self) -> None:
        """End the thread; what is still to be said stays unsaid."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        if self._thread is not None:
            self._thread.join()

    def _start(self) -> None:
        if self._thread is None and self._pending:
            self._thread = threading.Thread(target=self._run, name="announce", daemon=True)
            self._thread.start()

    def _run(self) -> None:
        while (due := self._next()) is not None:
            self._say(due)
            with self._changed:
                self._changed.wait_for(lambda: self._closed, PAUSE_S)

    def _next(self) -> Sequence[IPAddress] | None:
        """Wait for what is to be said now, at most a burst of it; None: closed."""
        with self._changed:
            while not self._closed:
                now = time.monotonic()
                due = [vip for vip, pending in self._pending.items() if pending.due <= now]
                if due:
                    return due[:BURST]
                soonest = min((p.due for p in self._pending.values()), default=None)
                self._changed.wait(None if soonest is None else soonest - now)
            return None

    def _say(self, vips: Sequence[IPAddress]) -> None:
        by_device: dict[str, list[bytes]] = {}
        with self._changed:
            for vip in vips:
                pending = self._pending.get(vip)
                if pending is None:
                    continue
                by_device.setdefault(pending.row.device, []).extend(frames(vip, pending.row.mac))
                pending.left -= 1
                pending.due = time.monotonic() + self._repeat_s
                if pending.left == 0:
                    del self._pending[vip]
        for device, what in by_device.items():
            try:
                self._put(device, what)
            except OSError as error:
                # A link that is down for a moment: the repetitions are for that.
                log.warning("announcement_failed device=%s error=%s", device, error)
