"""Commands to a running OVS or OVN daemon over its unixctl socket, without forking ovs-appctl.

The protocol is JSON-RPC 1.0 on a Unix stream: the command is the method, its arguments the
parameters, the answer one string. unixctl runs on the daemon's main thread and some commands
(dump-flows, pmd-rxq-show) take locks there, so callers poll seldom and one at a time.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import struct
import time
from dataclasses import dataclass
from pathlib import Path

from dataplane.drivers.ovsjson import Framer, JsonError
from dataplane.ports import ObserveError

_UCRED = struct.Struct("3i")


class UnixctlError(ObserveError):
    """The daemon refused a command, with its own words, or gave no answer in time."""


@dataclass(frozen=True, slots=True)
class ProcessId:
    """A process, told apart from a later one with the same number.

    `started` is in clock ticks since the machine came up (proc_pid_stat(5), field 22).
    """

    pid: int
    started: int


@dataclass(frozen=True, slots=True)
class UnixctlClient:
    """Talks to the daemon that listens at `path`; every call has a connection of its own.

    So a restarted daemon needs no care, and one client serves several threads.
    """

    path: str
    timeout: float = 10.0

    def call(self, command: str, *args: str) -> str:
        """The answer to one command.

        `timeout` [s] covers the whole of it, however slowly the answer trickles in.

        Raises:
            UnixctlError: the daemon refused it, or no answer came in time.
        """
        deadline = time.monotonic() + self.timeout
        request = json.dumps({"id": 0, "method": command, "params": list(args)})
        try:
            with self._connection() as sock:
                sock.sendall(request.encode())
                reply = _read_reply(sock, deadline)
        except (OSError, JsonError) as error:
            msg = f"no answer to {command} from {self.path}: {error}; does the daemon run?"
            raise UnixctlError(msg) from error
        if not isinstance(reply, dict) or ("error" not in reply and "result" not in reply):
            msg = f"the answer to {command} from {self.path} is no JSON-RPC reply"
            raise UnixctlError(msg)
        if reply.get("error") is not None:
            msg = f"{command}: {str(reply['error']).strip()}"
            raise UnixctlError(msg)
        return str(reply.get("result") or "")

    def process(self) -> ProcessId | None:
        """The process that listens there, None if none does.

        A restarted daemon is another process: compare with what this said before. The kernel's
        word, so a stale pid file misleads nobody.
        """
        try:
            with self._connection() as sock:
                raw = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
        except OSError:
            return None
        pid = int(_UCRED.unpack(raw)[0])
        started = _started(pid)
        return ProcessId(pid, started) if started is not None else None

    def _connection(self) -> socket.socket:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            sock.settimeout(self.timeout)
            sock.connect(self.path)
        except BaseException:
            sock.close()
            raise
        return sock

    def version(self) -> str:
        """The daemon's version, such as "3.1.0".

        Raises:
            UnixctlError: nobody answers.
        """
        words = self.call("version").split("\n", 1)[0].split()
        return words[-1] if words else ""

    def clear_pmd_stats(self) -> None:
        """Have the PMD threads count from zero.

        Raises:
            UnixctlError: as `call`.
        """
        self.call("dpif-netdev/pmd-stats-clear")


def process_ended(process: ProcessId) -> int:
    """A descriptor that becomes readable when the process ends (for `loop.add_reader`).

    The caller closes it.

    Raises:
        ProcessLookupError: it has ended already.
    """
    fd = os.pidfd_open(process.pid)
    if _started(process.pid) != process.started:
        os.close(fd)
        raise ProcessLookupError(process.pid)
    return fd


def _started(pid: int) -> int | None:
    with contextlib.suppress(OSError, ValueError, IndexError):
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
        # The name in parentheses may hold anything; what follows it is regular.
        return int(stat.rpartition(")")[2].split()[19])
    return None


def _read_reply(sock: socket.socket, deadline: float) -> object:
    framer = Framer()
    while True:
        sock.settimeout(max(deadline - time.monotonic(), 0.001))
        chunk = sock.recv(1 << 18)
        if not chunk:
            msg = "the connection was closed before an answer"
            raise OSError(msg)
        framer.feed(chunk)
        reply = framer.next()
        if reply is not None:
            return reply
