"""Connecting to an OVSDB server: schema, and a poller for many descriptors."""

from __future__ import annotations

import json
import logging
import select
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, TypeVar

import ovs.jsonrpc

from dataplane.drivers.operations import Transaction
from dataplane.drivers.replica import Replica
from dataplane.ports import DataplaneError

log = logging.getLogger(__name__)

T = TypeVar("T")


class TransactionError(DataplaneError):
    """OVSDB refused a transaction; the text is the server's own."""


class DatabaseTimeoutError(DataplaneError):
    """The database did not answer, or did not become as waited for, in time."""


class NotYetError(DataplaneError):
    """A snapshot needs rows that were asked for and have not come: try again soon."""


@dataclass(slots=True)
class Job:
    """Work for a client's thread: `step` returns False until it has settled the future."""

    future: Future[Any]
    deadline: float
    step: Callable[[Replica], bool]
    what: str
    waits: bool


class Poller:
    """What `Idl.wait` asks of `ovs.poller.Poller`, on poll(2).

    The library's own uses select(2), which fails in a process with more than 1,024 descriptors.
    """

    def __init__(self) -> None:
        self._events: dict[int, int] = {}
        self._timeout_ms: int | None = None

    def fd_wait(self, fd: Any, events: int) -> None:
        """Wake when the descriptor is ready (POLLIN and POLLOUT are the same numbers here)."""
        number = fd if isinstance(fd, int) else fd.fileno()
        # Asked for reading and writing apart; poll(2)'s register would forget the first.
        self._events[number] = self._events.get(number, 0) | events

    def timer_wait(self, msec: float) -> None:
        """Wake after `msec` at the latest."""
        wanted = max(0, int(msec))
        if self._timeout_ms is None or wanted < self._timeout_ms:
            self._timeout_ms = wanted

    def immediate_wake(self) -> None:
        """Do not block at all."""
        self._timeout_ms = 0

    def block(self) -> None:
        """Wait for the first of what was asked for."""
        poll = select.poll()
        for fd, events in self._events.items():
            poll.register(fd, events)
        poll.poll(self._timeout_ms)


def fetch_schema(
    remote: str, database: str, wake_fd: int, stop_asked: Callable[[], bool]
) -> dict[str, Any] | None:
    """The schema from the server; None if `stop_asked` said so before it came.

    Not from a file: the server may be newer or older than the package on this machine.
    `stop_asked` is called whenever something happened, and when `wake_fd` became readable.
    """
    session = ovs.jsonrpc.Session.open_multiple(_remotes(remote))
    asked: int | None = None
    try:
        while not stop_asked():
            session.run()
            if session.is_connected() and asked != session.get_seqno():
                asked = session.get_seqno()
                session.send(ovs.jsonrpc.Message.create_request("get_schema", [database]))
            message = session.recv()
            if message is not None and message.type == ovs.jsonrpc.Message.T_REPLY:
                schema: dict[str, Any] = message.result
                return schema
            if message is not None and message.type == ovs.jsonrpc.Message.T_ERROR:
                # A cluster's member that has not joined yet does not know the database.
                log.warning(
                    "schema_refused", extra={"database": database, "error": str(message.error)}
                )
                session.force_reconnect()
            poller = Poller()
            session.wait(poller)
            session.recv_wait(poller)
            poller.fd_wait(wake_fd, select.POLLIN)
            poller.timer_wait(500)
            poller.block()
    finally:
        session.close()
    return None


def _remotes(remote: str) -> list[str]:
    """Split a remote list at commas, but not inside one method ("unix:/a,b" has no colon)."""
    parts: list[str] = []
    for part in remote.split(","):
        if parts and ":" not in part:
            parts[-1] += "," + part
        else:
            parts.append(part)
    return parts


def present(schema: Mapping[str, Any], tables: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
    """What of the wanted tables and columns the server's schema has."""
    return {
        table: [column for column in columns if column in schema["tables"][table]["columns"]]
        for table, columns in tables.items()
        if table in schema["tables"]
    }


def error_text(raw: str) -> str:
    """The server's error object in one line; the text itself if it is none."""
    try:
        value = json.loads(raw)
    except ValueError:
        return raw
    if not isinstance(value, dict):
        return raw
    return ": ".join(str(value[key]) for key in ("error", "details") if value.get(key))


def attempt(
    database: str,
    replica: Replica,
    fn: Callable[[Replica, Transaction], T],
    future: Future[T],
    wait_a_turn: Callable[[], bool],
) -> bool:
    """One try of a transaction; False: try again later.

    `wait_a_turn` waits for the server's next word and takes it in; False: no time is left.

    Raises:
        TransactionError: OVSDB refused it, with its own error.
    """
    txn = Transaction(replica)
    try:
        value = fn(replica, txn)
    except BaseException:
        txn.abort()
        raise
    status = txn.commit()
    while status == txn.INCOMPLETE:
        if not wait_a_turn():
            txn.abort()
            return False
        status = txn.commit()
    if status in (txn.SUCCESS, txn.UNCHANGED):
        settle(future, value)
        return True
    if status == txn.TRY_AGAIN:
        return False
    msg = f"{database}: {error_text(txn.get_error())}"
    raise TransactionError(msg)


def settle(future: Future[T], value: T) -> None:
    """Give a future its result, unless somebody has cancelled it."""
    if not future.done():
        future.set_result(value)
