"""A paced flood of first packets, run inside a namespace; one JSON object when it ends.

    flood.py DEVICE DESTINATION_MAC TCP_VIP UDP_VIP PORT FLOWS_PER_SECOND SECONDS

TCP SYNs and UDP datagrams in turn, each of a tuple that no other of the run has: 2^17 addresses of
198.18.0.0/15 (RFC 2544) times 2^15 ports, in an order without pattern. Nobody answers for these
addresses, so what comes back to them ends here. With SECONDS 0 it goes on until SIGTERM.
"""

# ctypes reads `_fields_` when the class is made; a list there is its own idiom.
# mypy: disable-error-code="mutable-override"

from __future__ import annotations

import ctypes
import json
import os
import signal
import socket
import sys
import time
from ipaddress import IPv4Address

import numpy as np
from numpy.typing import NDArray

BATCH = 64
LEAST_GAP_S = 0.001
WORDS = 30
"""A frame without its checksum: 60 octets, as 16-bit words."""

CLIENTS = int(IPv4Address("198.18.0.0"))
FIRST_PORT, PORT_BITS = 32768, 15
SCATTER = 0x9E3779B1
"""Odd: multiplied by it modulo 2^32, no two numbers become one."""

SOL_PACKET, PACKET_QDISC_BYPASS = 263, 20
stopped = False


class IoVec(ctypes.Structure):
    _fields_ = [("base", ctypes.c_void_p), ("length", ctypes.c_size_t)]


class Message(ctypes.Structure):
    """`struct mmsghdr` (sendmmsg(2)), of 64 bits."""

    _fields_ = [
        ("name", ctypes.c_void_p),
        ("name_length", ctypes.c_uint32),
        ("vectors", ctypes.POINTER(IoVec)),
        ("vector_count", ctypes.c_size_t),
        ("control", ctypes.c_void_p),
        ("control_length", ctypes.c_size_t),
        ("flags", ctypes.c_uint64),  # an int and its padding
        ("sent", ctypes.c_uint32),
    ]


def stop(_number: int, _frame: object) -> None:
    global stopped
    stopped = True


def _template(device_mac: bytes, mac: bytes, vip: str, protocol: int, port: int) -> bytes:
    """A frame whose source, source port and checksums are 0."""
    if protocol == socket.IPPROTO_TCP:
        layer4 = b"\0\0" + port.to_bytes(2) + bytes(8) + b"\x50\x02\xff\xff" + bytes(4)
    else:
        layer4 = b"\0\0" + port.to_bytes(2) + (26).to_bytes(2) + bytes(2 + 18)
    length = 20 + len(layer4)
    ip = b"\x45\0" + length.to_bytes(2) + b"\0\0\x40\0" + bytes([64, protocol]) + bytes(6)
    frame = mac + device_mac + b"\x08\0" + ip + IPv4Address(vip).packed + layer4
    return frame.ljust(2 * WORDS, b"\0")


def _folded(sums: NDArray[np.uint32]) -> NDArray[np.uint16]:
    for _ in range(2):
        sums = (sums & 0xFFFF) + (sums >> 16)
    return (~sums).astype(np.uint16)


class Frames:
    """A batch of frames in place: even ones TCP, odd ones UDP."""

    def __init__(self, templates: tuple[bytes, bytes]) -> None:
        octets = np.frombuffer(b"".join(templates) * (BATCH // 2), np.uint8).copy()
        self.octets = octets.reshape(BATCH, 2 * WORDS)
        self._words = octets.view(">u2").reshape(BATCH, WORDS)
        self._ip = self._words[:, 7:17].astype(np.uint32).sum(axis=1, dtype=np.uint32)
        self._layer4 = self._words[:, 15:].astype(np.uint32).sum(axis=1, dtype=np.uint32)
        # The pseudo-header: protocol and length of what is behind the IP header.
        self._layer4[0::2] += socket.IPPROTO_TCP + 20
        self._layer4[1::2] += socket.IPPROTO_UDP + 26

    def number(self, first: int) -> None:
        """Make them the flows `first` and following."""
        mixed = (np.arange(first, first + BATCH, dtype=np.uint64) * SCATTER).astype(np.uint32)
        source = np.uint32(CLIENTS) + (mixed >> PORT_BITS)
        port = np.uint32(FIRST_PORT) + (mixed & ((1 << PORT_BITS) - 1))
        high, low = source >> 16, source & 0xFFFF
        words = self._words
        words[:, 13], words[:, 14], words[:, 17] = high, low, port
        words[:, 12] = _folded(self._ip + high + low)
        checksum = _folded(self._layer4 + high + low + port)
        words[0::2, 25], words[1::2, 20] = checksum[0::2], checksum[1::2]


def main() -> None:
    """Send until told to stop."""
    signal.signal(signal.SIGTERM, stop)
    device, mac, tcp_vip, udp_vip = sys.argv[1:5]
    port, rate, seconds = int(sys.argv[5]), float(sys.argv[6]), float(sys.argv[7])
    conn = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
    conn.bind((device, 0))
    conn.setsockopt(SOL_PACKET, PACKET_QDISC_BYPASS, 1)
    ends = conn.getsockname()[4], bytes.fromhex(mac.replace(":", ""))
    frames = Frames(
        (
            _template(*ends, tcp_vip, socket.IPPROTO_TCP, port),
            _template(*ends, udp_vip, socket.IPPROTO_UDP, port),
        )
    )
    base = frames.octets.ctypes.data
    vectors = (IoVec * BATCH)(*(IoVec(base + 2 * WORDS * at, 2 * WORDS) for at in range(BATCH)))
    messages = (Message * BATCH)()
    for at in range(BATCH):
        messages[at].vectors, messages[at].vector_count = ctypes.pointer(vectors[at]), 1
    sendmmsg = ctypes.CDLL(None, use_errno=True).sendmmsg
    began = time.monotonic()
    sent = refused = 0
    while not stopped and (not seconds or time.monotonic() - began < seconds):
        ahead = sent / rate - (time.monotonic() - began)
        # Never closer than that, even if it is late: a veth's ring has 256 places, for all.
        time.sleep(max(ahead, LEAST_GAP_S))
        frames.number(sent)
        done = sendmmsg(conn.fileno(), messages, BATCH, 0)
        if done < 0 and ctypes.get_errno() not in (11, 105):  # EAGAIN, ENOBUFS: the ring is full
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
        refused += BATCH - max(done, 0)
        sent += BATCH
    took = time.monotonic() - began
    print(json.dumps({"sent": sent - refused, "refused": refused, "seconds": round(took, 3)}))


if __name__ == "__main__":
    main()
