"""A process whose sockets are measured: in a network namespace of its own, and in a cgroup if told.

Takes requests as JSON lines: [what, family, [[address, port], ...], times]; answers the mean
duration of one [ns]. Nothing leaves the loopback device.
"""

from __future__ import annotations

import ctypes
import json
import os
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from itertools import cycle, islice
from pathlib import Path

from perf.sockmaps import ECHO, ECHO6, PORT

CLONE_NEWNET = 0x40000000
_libc = ctypes.CDLL(None, use_errno=True)
_connect = _libc.connect
_connect.argtypes = (ctypes.c_int, ctypes.c_void_p, ctypes.c_uint)

Target = tuple[str, int]


def _sockaddr(family: int, target: Target) -> bytes:
    octets = socket.inet_pton(family, target[0])
    if family == socket.AF_INET:
        return struct.pack("=H", family) + struct.pack("!H4s8x", target[1], octets)
    return struct.pack("=H", family) + struct.pack("!HI16sI", target[1], 0, octets, 0)


def _bound(family: int, kind: int) -> socket.socket:
    made = socket.socket(family, kind)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    made.bind((str(ECHO if family == socket.AF_INET else ECHO6), PORT))
    return made


def connect_udp(family: int, targets: Iterable[Target], times: int) -> int:
    """One socket that connects again and again: nothing but the system call."""
    held = [ctypes.create_string_buffer(raw) for raw in (_sockaddr(family, t) for t in targets)]
    size = len(held[0]) - 1
    places = list(islice(cycle([ctypes.addressof(one) for one in held]), times))
    with socket.socket(family, socket.SOCK_DGRAM) as made:
        number, connect = made.fileno(), _connect
        began = time.perf_counter_ns()
        for place in places:
            connect(number, place, size)
        spent = time.perf_counter_ns() - began
        if connect(number, places[0], size):
            raise OSError(ctypes.get_errno(), "connect")
    return spent


def connect_tcp(family: int, targets: Iterable[Target], times: int) -> int:
    """A socket, its connection through loopback, and both ends' close."""
    [target] = targets
    with _bound(family, socket.SOCK_STREAM) as listener:
        listener.listen(8)
        began = time.perf_counter_ns()
        for _ in range(times):
            with socket.socket(family, socket.SOCK_STREAM) as made:
                made.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                made.connect(target)
                listener.accept()[0].close()
        return time.perf_counter_ns() - began


def ask_udp(family: int, targets: Iterable[Target], times: int) -> int:
    """A datagram of an unconnected socket to a server, and its answer."""
    [target] = targets
    with (
        _bound(family, socket.SOCK_DGRAM) as server,
        socket.socket(family, socket.SOCK_DGRAM) as made,
    ):
        began = time.perf_counter_ns()
        for _ in range(times):
            made.sendto(b"question", target)
            octets, source = server.recvfrom(64)
            server.sendto(octets, source)
            _, answered = made.recvfrom(64)
        spent = time.perf_counter_ns() - began
    if answered[:2] != target:
        msg = f"the answer to {target} came from {answered}"
        raise OSError(msg)
    return spent


MEASURED: dict[str, Callable[[int, Iterable[Target], int], int]] = {
    "connect UDP": connect_udp,
    "connect TCP": connect_tcp,
    "ask UDP": ask_udp,
}


def main() -> None:
    """Move to where it is measured, then work."""
    if _libc.unshare(CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "unshare")
    for words in (
        ("link", "set", "lo", "up"),
        ("address", "add", f"{ECHO}/32", "dev", "lo"),
        ("-6", "address", "add", f"{ECHO6}/128", "dev", "lo", "nodad"),
    ):
        subprocess.run(("ip", *words), check=True)  # noqa: S603 - our own words
    # The backends of what only connects: a route is all that they need.
    subprocess.run(("ip", "route", "add", "10.0.0.0/8", "dev", "lo"), check=True)
    subprocess.run(("ip", "-6", "route", "add", "fd00::/16", "dev", "lo"), check=True)
    if len(sys.argv) > 1:
        Path(sys.argv[1], "cgroup.procs").write_text(str(os.getpid()), encoding="ascii")
    for line in sys.stdin:
        what, family, targets, times = json.loads(line)
        spent = MEASURED[what](family, [(host, port) for host, port in targets], times)
        print(spent / times, flush=True)


if __name__ == "__main__":
    main()
