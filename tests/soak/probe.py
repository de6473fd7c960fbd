"""A datagram every 20 ms, each a flow of its own; on SIGTERM the longest silence as JSON.

    probe.py ADDRESS PORT

A client's retransmissions would hide how long nothing went through. Standard library only.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import select
import signal
import socket
import sys
import time

EVERY_S = 0.02
KEEP_S = 1.0
stopped = False


def stop(_number: int, _frame: object) -> None:
    global stopped
    stopped = True


def main() -> None:
    """Probe until told to stop."""
    signal.signal(signal.SIGTERM, stop)
    target = (sys.argv[1], int(sys.argv[2]))
    waiting: dict[socket.socket, float] = {}
    answered: list[float] = []
    sent = 0
    due = time.monotonic()
    while not stopped:
        now = time.monotonic()
        if now >= due:
            due = max(due + EVERY_S, now)
            conn = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            conn.setblocking(False)
            with contextlib.suppress(OSError):
                conn.connect(target)
                conn.send(b"hello")
                sent += 1
            waiting[conn] = now
        ready, _, _ = select.select(list(waiting), [], [], max(due - time.monotonic(), 0.001))
        for conn in ready:
            with contextlib.suppress(OSError):
                conn.recv(2048)
                answered.append(time.monotonic())
            del waiting[conn]
            conn.close()
        for conn, since in list(waiting.items()):
            if now - since > KEEP_S:
                del waiting[conn]
                conn.close()
    gaps = [b - a for a, b in itertools.pairwise(answered)]
    longest = max(gaps, default=0.0)
    print(json.dumps({"sent": sent, "ok": len(answered), "longest_silence_ms": longest * 1e3}))


if __name__ == "__main__":
    main()
