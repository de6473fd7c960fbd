"""Many TCP connections in one process, each with steady traffic; on SIGTERM what became of them.

    steady.py ADDRESS PORT CONNECTIONS

A line of each connection every 100 ms, which has to come back. Of lost packets the sockets tell:
what they sent again (TCP_INFO). Says "open" on standard error once all are. Standard library only.
"""

from __future__ import annotations

import contextlib
import json
import select
import signal
import socket
import struct
import sys
import time
from collections.abc import Iterator

EVERY_S = 0.1
TOTAL_RETRANS = 100
"""Where tcpi_total_retrans is in `struct tcp_info` (linux/tcp.h)."""

stopped = False


def stop(_number: int, _frame: object) -> None:
    global stopped
    stopped = True


class Stream:
    """One connection."""

    def __init__(self, address: str, port: int) -> None:
        self.conn = socket.create_connection((address, port), timeout=30)
        self.conn.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.conn.sendall(b"GET /echo HTTP/1.1\r\n\r\n")
        self._held = b""
        while b"\r\n\r\n" not in self._held:
            self._held += self._more()
        self._held = self._held.partition(b"\r\n\r\n")[2]
        self._waits = b""
        self._since = time.monotonic()
        self.lines, self.longest, self.error = 0, 0.0, ""

    def _more(self) -> bytes:
        got = self.conn.recv(4096)
        if not got:
            raise ConnectionResetError("closed by the server")
        return got

    def ask(self) -> None:
        """The next line, unless one is still on its way."""
        if self._waits or self.error:
            return
        self._waits, self._since = b"line %d\n" % self.lines, time.monotonic()
        with self._watched():
            self.conn.sendall(self._waits)

    def take(self) -> None:
        """What has come."""
        with self._watched():
            self._held += self._more()
        if not self._held.endswith(b"\n"):
            return
        if self._held != self._waits:
            self.error = f"{self._held!r} came back for {self._waits!r}"
        self.longest = max(self.longest, time.monotonic() - self._since)
        self.lines, self._held, self._waits = self.lines + 1, b"", b""

    @contextlib.contextmanager
    def _watched(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self.error = f"after {self.lines} lines: {type(error).__name__} {error}"

    def again(self) -> int:
        """How many segments were sent again."""
        with contextlib.suppress(OSError):
            told = self.conn.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 192)
            return int(struct.unpack_from("=I", told, TOTAL_RETRANS)[0])
        return 0

    def end(self) -> None:
        """Whatever is still on its way has been silent until now."""
        if self._waits:
            self.longest = max(self.longest, time.monotonic() - self._since)
        self.conn.close()


def main() -> None:
    """Ask in turn, evenly in time."""
    signal.signal(signal.SIGTERM, stop)
    address, port, count = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    streams = [Stream(address, port) for _ in range(count)]
    by_socket = {stream.conn: stream for stream in streams}
    print("open", file=sys.stderr, flush=True)
    turn, due = 0, time.monotonic()
    while not stopped:
        if time.monotonic() >= due:
            streams[turn % count].ask()
            turn += 1
            due += EVERY_S / count
        alive = [conn for conn, stream in by_socket.items() if not stream.error]
        ready, _, _ = select.select(alive, [], [], max(due - time.monotonic(), 0))
        for conn in ready:
            by_socket[conn].take()
    again = sum(stream.again() for stream in streams)
    for stream in streams:
        stream.end()
    found = {
        "lines": sum(stream.lines for stream in streams),
        "fewest": min(stream.lines for stream in streams),
        "again": again,
        "longest_silence_ms": round(max(stream.longest for stream in streams) * 1000, 1),
        "errors": [stream.error for stream in streams if stream.error],
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
