"""The packets of one container, seen at its own interface by a packet socket (packet(7)).

That is the one place which has both directions of a container on the trunk: what it sends crosses
its veth's host end, but what it is sent is put behind that end by bpf_redirect_peer, past every
socket there. OVS is asked for nothing, so its threads do no more work than before.

The socket is made in the container's network namespace and read from ours. Nothing is left in the
kernel when the process ends, however it does.
"""

from __future__ import annotations

import errno
import socket
import struct
import time
from typing import Self

from dataplane.drivers import netns
from dataplane.drivers.pcapfile import MAX_PACKET, Packet
from dataplane.ports import DataplaneError

_ETH_P_ALL = 3
_SOL_PACKET, _PACKET_STATISTICS, _PACKET_AUXDATA = 263, 6, 8
_SO_RCVBUFFORCE, _SO_TIMESTAMPNS = 33, 35
_AUXDATA = struct.Struct("=IIIHHHH")
"""struct tpacket_auxdata: status, len, snaplen, mac, net, vlan_tci, vlan_tpid."""

_VLAN_VALID, _TPID_VALID = 1 << 4, 1 << 6
_TPID_8021Q = 0x8100
_ADDRESSES = 12
_GONE = (errno.ENETDOWN, errno.ENXIO, errno.ENODEV)
_TIMESPEC = struct.Struct("=qq")
_STATISTICS = struct.Struct("=II")
QUEUE_OCTETS = 32 << 20
"""Of packets that wait to be read, with what the kernel keeps of each, which doubles it: some
29,000 of Ethernet's usual size."""


class TapError(DataplaneError):
    """A container's interface cannot be listened to."""


class TapGoneError(TapError):
    """It cannot any more: it is down, or went with its container."""


class PodTap:
    """A packet socket on one interface of a container."""

    def __init__(self, path: str, ifname: str) -> None:
        """Listen to `ifname` in the network namespace at `path`, from now on.

        Raises:
            NetnsError: there is no such namespace.
            TapError: it has no such interface, or we may not.
        """
        self._room = memoryview(bytearray(MAX_PACKET))
        self._where = f"{ifname} in {path}"
        try:
            with netns.opened(path) as fd:
                self._socket = netns.inside(fd, path, lambda: _listening(ifname))
        except OSError as error:
            msg = f"{self._where} cannot be listened to: {error.strerror}; did the container end?"
            raise TapError(msg) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def next(self, patience_s: float) -> Packet | None:
        """The next packet of either direction; None if none came for so long [s].

        Raises:
            TapGoneError: the interface is gone or down.
            TapError: the kernel refused.
        """
        self._socket.settimeout(patience_s)
        try:
            size, notes, _, _ = self._socket.recvmsg_into([self._room], 256)
        except TimeoutError:
            return None
        except OSError as error:
            msg = f"{self._where} cannot be listened to any more: {error.strerror}"
            raise (TapGoneError if error.errno in _GONE else TapError)(msg) from error
        return packet_of(bytes(self._room[:size]), notes)

    def lost(self) -> int:
        """Packets that found the queue full since this was asked last."""
        raw = self._socket.getsockopt(_SOL_PACKET, _PACKET_STATISTICS, _STATISTICS.size)
        _, dropped = _STATISTICS.unpack(raw)
        return int(dropped)


def _listening(ifname: str) -> socket.socket:
    # Without a protocol it hears nothing until it is bound, so no other interface's packets.
    made = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
    try:
        made.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, QUEUE_OCTETS)
        made.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)
        made.setsockopt(_SOL_PACKET, _PACKET_AUXDATA, 1)
        made.bind((ifname, _ETH_P_ALL))
    except BaseException:
        made.close()
        raise
    return made


def packet_of(octets: bytes, notes: list[tuple[int, int, bytes]]) -> Packet:
    """A packet as it was on the wire, of what the kernel hands out and notes beside it.

    The kernel keeps a VLAN tag beside the frame; here it is back in its place.
    """
    time_ns = 0
    for level, kind, data in notes:
        if (level, kind) == (socket.SOL_SOCKET, _SO_TIMESTAMPNS):
            seconds, part = _TIMESPEC.unpack(data[: _TIMESPEC.size])
            time_ns = seconds * 1_000_000_000 + part
        elif (level, kind) == (_SOL_PACKET, _PACKET_AUXDATA):
            status, _, _, _, _, tci, tpid = _AUXDATA.unpack(data[: _AUXDATA.size])
            if status & _VLAN_VALID:
                tag = struct.pack(">HH", tpid if status & _TPID_VALID else _TPID_8021Q, tci)
                octets = octets[:_ADDRESSES] + tag + octets[_ADDRESSES:]
    return Packet(time_ns or time.time_ns(), len(octets), octets)
