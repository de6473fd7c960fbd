"""The helper whose sockets are translated: takes calls as JSON lines, and answers likewise.

It moves itself into the cgroup that is its argument, and holds sockets by name. Nothing of the
project is imported: what happens here is what happens to any process.
"""

from __future__ import annotations

import errno
import json
import os
import socket
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

SOCKETS: dict[str, socket.socket] = {}
TIMEOUT_S = 5.0


def make(name: str, family: int, kind: int, protocol: int = 0) -> None:
    if name in SOCKETS:
        SOCKETS.pop(name).close()
    made = SOCKETS[name] = socket.socket(family, kind, protocol)
    made.settimeout(TIMEOUT_S)


def connect(name: str, address: str, port: int) -> None:
    SOCKETS[name].connect((address, port))


def disconnect(name: str) -> None:
    import ctypes

    nothing = (ctypes.c_char * 16)()  # AF_UNSPEC
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.connect(SOCKETS[name].fileno(), nothing, 16):
        raise OSError(ctypes.get_errno(), "connect")


def bind(name: str, address: str, port: int) -> None:
    SOCKETS[name].bind((address, port))


def send(name: str, text: str) -> None:
    SOCKETS[name].send(text.encode())


def sendto(name: str, text: str, address: str, port: int) -> None:
    SOCKETS[name].sendto(text.encode(), (address, port))


def recv(name: str) -> str:
    return SOCKETS[name].recv(4096).decode()


def recvfrom(name: str) -> list[Any]:
    octets, source = SOCKETS[name].recvfrom(4096)
    return [octets.decode(), source[0], source[1]]


def peer(name: str) -> list[Any]:
    return list(SOCKETS[name].getpeername()[:2])


def close(name: str) -> None:
    SOCKETS.pop(name).close()


def ask(family: int, address: str, port: int) -> str:
    with socket.socket(family, socket.SOCK_STREAM) as made:
        made.settimeout(TIMEOUT_S)
        made.connect((address, port))
        return made.makefile().readline().strip()


def ask_often(times: int, family: int, address: str, port: int) -> dict[str, int]:
    found: dict[str, int] = {}
    for _ in range(times):
        name = ask(family, address, port)
        found[name] = found.get(name, 0) + 1
    return found


def ping() -> str:
    return "pong"


class Load:
    """Connections and datagrams without pause, each of which has to be answered."""

    def __init__(self, address: str, tcp: int, udp: int) -> None:
        self.answers = {"connections": 0, "datagrams": 0}
        self.failed: list[str] = []
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(target=self._run, args=("connections", self._connect, address, tcp)),
            threading.Thread(target=self._run, args=("datagrams", self._datagram, address, udp)),
        ]
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.settimeout(TIMEOUT_S)
        for thread in self._threads:
            thread.start()

    def _run(self, name: str, once: Callable[[str, int], None], address: str, port: int) -> None:
        while not self._stop.is_set() and not self.failed:
            try:
                once(address, port)
                self.answers[name] += 1
            except (OSError, AssertionError) as error:
                self.failed.append(f"{name}: {error!r}")

    @staticmethod
    def _connect(address: str, port: int) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as made:
            made.settimeout(TIMEOUT_S)
            made.connect((address, port))
            assert made.getpeername() == (address, port), made.getpeername()
            assert made.recv(64)

    def _datagram(self, address: str, port: int) -> None:
        self._socket.sendto(b"x", (address, port))
        _, source = self._socket.recvfrom(64)
        assert source == (address, port), source

    def stop(self) -> dict[str, Any]:
        self._stop.set()
        for thread in self._threads:
            thread.join()
        self._socket.close()
        return {**self.answers, "failed": self.failed}


LOADS: list[Load] = []


def start_load(address: str, tcp: int, udp: int) -> None:
    LOADS.append(Load(address, tcp, udp))


def stop_load() -> dict[str, Any]:
    return LOADS.pop().stop()


def main() -> None:
    if sys.argv[1]:
        Path(sys.argv[1], "cgroup.procs").write_text(str(os.getpid()))
    for line in sys.stdin:
        call, *arguments = json.loads(line)
        try:
            answer = {"result": globals()[call](*arguments)}
        except TimeoutError:
            answer = {"error": "TIMEOUT"}
        except OSError as error:
            answer = {"error": errno.errorcode.get(error.errno or 0, str(error))}
        print(json.dumps(answer), flush=True)


main()
