"""Transactions on an OVSDB over its socket (RFC 7047), for laboratories of benchmarks.

The IDL keeps a replica; here a laboratory of 10,000 ports is to be written in seconds, and a change
be sent at a known moment, without a process of ovn-nbctl for each.
"""

from __future__ import annotations

import json
import socket
import uuid
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from dataplane.drivers.ovsjson import Framer
from dataplane.ports import DataplaneError

CHUNK = 1000
"""Operations in one transaction: the server answers nobody else while it works on one."""

Json = Any


class TransactionError(DataplaneError):
    """The server refused a transaction."""


def named(name: str) -> list[str]:
    """A reference to a row of the same transaction."""
    return ["named-uuid", name]


def reference(row: str) -> list[str]:
    """A reference to a row by its UUID."""
    return ["uuid", row]


def string_map(pairs: Mapping[str, str]) -> Json:
    """A column that is a map."""
    return ["map", [list(pair) for pair in pairs.items()]]


def set_of(values: Iterable[Json]) -> Json:
    """A column that is a set."""
    return ["set", list(values)]


def insert(table: str, name: str | None = None, /, **row: Json) -> dict[str, Json]:
    """Make a row; `name` is what `named` refers to."""
    operation: dict[str, Json] = {"op": "insert", "table": table, "row": row}
    return operation if name is None else {**operation, "uuid-name": name}


def update(table: str, column: str, value: Json, /, **row: Json) -> dict[str, Json]:
    """Set columns of the rows whose `column` is `value`."""
    return {"op": "update", "table": table, "where": [[column, "==", value]], "row": row}


def row_name() -> str:
    """A fresh name for a row of a transaction."""
    return "r" + uuid.uuid4().hex


class Database:
    """One connection to one database; a context manager."""

    def __init__(self, path: Path, name: str, timeout_s: float = 120.0) -> None:
        self._name = name
        self._framer = Framer()
        self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._sock.settimeout(timeout_s)
        self._sock.connect(str(path))
        self._number = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        self._sock.close()

    def transact(self, *operations: Mapping[str, Json]) -> list[dict[str, Json]]:
        """Run operations as one transaction; their results.

        Raises:
            TransactionError: one of them failed, with the server's words.
        """
        self._number += 1
        request = {"id": self._number, "method": "transact", "params": [self._name, *operations]}
        self._sock.sendall(json.dumps(request, separators=(",", ":")).encode())
        results = self._answer(self._number)
        for result in results:
            if result and result.get("error"):
                msg = f"{self._name}: {result['error']}: {result.get('details', '')}"
                raise TransactionError(msg)
        return results

    def in_chunks(self, operations: Sequence[Mapping[str, Json]]) -> None:
        """Run many operations that do not refer to each other."""
        for at in range(0, len(operations), CHUNK):
            self.transact(*operations[at : at + CHUNK])

    def select(
        self, table: str, columns: Sequence[str], where: Sequence[Sequence[Json]] = ()
    ) -> list[dict[str, Json]]:
        """Rows of a table."""
        asked = {"op": "select", "table": table, "where": list(where), "columns": list(columns)}
        found: list[dict[str, Json]] = self.transact(asked)[0]["rows"]
        return found

    def _answer(self, number: int) -> list[dict[str, Json]]:
        while True:
            reply = self._framer.next()
            if reply is None:
                chunk = self._sock.recv(1 << 18)
                if not chunk:
                    msg = f"{self._name}: the server closed the connection"
                    raise TransactionError(msg)
                self._framer.feed(chunk)
                continue
            if not isinstance(reply, dict):
                continue
            if reply.get("method") == "echo":
                echo = {"id": reply["id"], "result": reply["params"], "error": None}
                self._sock.sendall(json.dumps(echo).encode())
            elif reply.get("id") == number:
                if reply.get("error"):
                    msg = f"{self._name}: {reply['error']}"
                    raise TransactionError(msg)
                results: list[dict[str, Json]] = reply["result"]
                return results
