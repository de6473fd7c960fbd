"""QEMU's monitor (QMP): commands, and their answers without the events between."""

from __future__ import annotations

import json
import socket
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self


class QmpError(AssertionError):
    """QEMU refused a command, or ended."""


class Monitor:
    """A connection to one machine's monitor; a context manager."""

    def __init__(self, path: Path, timeout_s: float = 60) -> None:
        self._conn = socket.socket(socket.AF_UNIX)
        self._conn.settimeout(timeout_s)
        self._conn.connect(str(path))
        self._lines = self._conn.makefile("rb")
        self._lines.readline()
        self.ask("qmp_capabilities")

    def ask(self, command: str, **arguments: object) -> Any:
        """Run a command (underscores of argument names are hyphens); what it returns.

        Raises:
            QmpError: QEMU refused it, or is gone.
        """
        words = {key.replace("_", "-"): value for key, value in arguments.items()}
        self._conn.sendall(json.dumps({"execute": command, "arguments": words}).encode() + b"\n")
        while line := self._lines.readline():
            told: Mapping[str, Any] = json.loads(line)
            if "return" in told:
                return told["return"]
            if "error" in told:
                msg = f"{command}: {told['error']}"
                raise QmpError(msg)
        msg = f"{command}: QEMU closed its monitor"
        raise QmpError(msg)

    def close(self) -> None:
        """End the connection; the machine goes on."""
        self._lines.close()
        self._conn.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        self.close()
