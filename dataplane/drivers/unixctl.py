"""Commands to a running OVS or OVN daemon over its unixctl socket, without forking ovs-appctl.

The protocol is JSON-RPC 1.0 on a unix stream (ovs-appctl(8)): one request, one answer, and then the
connection is closed. Commands run on the daemon's main thread, so ask seldom, one at a time.
"""

from __future__ import annotations

import json
import socket
import time
from dataclasses import dataclass

from dataplane.ports import DataplaneError


class UnixctlError(DataplaneError):
    """The daemon was not reached in time, or answered with an error of its own."""


@dataclass(frozen=True, slots=True)
class UnixctlClient:
    """Where a daemon listens. `timeout` [s] covers one whole command."""

    path: str
    timeout: float = 5.0

    def call(self, command: str, *arguments: str) -> str:
        """The text that the daemon answers.

        Raises:
            UnixctlError: no answer in time, or an error as answer.
        """
        request = {"method": command, "params": list(arguments), "id": 0}
        deadline = time.monotonic() + self.timeout
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as conn:
                conn.settimeout(self.timeout)
                conn.connect(self.path)
                conn.sendall(json.dumps(request).encode())
                answer = self._answer(conn, command, deadline)
        except OSError as error:
            msg = f"{command}: no answer from {self.path}: {error}; is the daemon running?"
            raise UnixctlError(msg) from error
        if answer.get("error") is not None:
            msg = f"{command}: {str(answer['error']).strip()}"
            raise UnixctlError(msg)
        return str(answer.get("result") or "")

    def _answer(
        self, conn: socket.socket, command: str, deadline: float
    ) -> dict[str, object]:
        """The one JSON object that comes back; the stream has no other framing."""
        data = bytearray()
        while True:
            conn.settimeout(max(deadline - time.monotonic(), 0.001))
            chunk = conn.recv(1 << 20)
            data += chunk
            # Parsing again only when something that can be the end has come.
            if chunk.endswith(b"}") or not chunk:
                try:
                    found = json.loads(data)
                except ValueError:
                    pass
                else:
                    if isinstance(found, dict):
                        return found
            if not chunk:
                msg = f"{command}: {self.path} closed the connection after {len(data)} bytes"
                raise UnixctlError(msg)
