"""One OVSDB database, watched and written from one worker thread.

The library's IDL is synchronous and belongs to one thread, so each database gets one
`DatabaseClient`: its thread keeps the replica, hands frozen snapshots out through a callback,
and runs transactions and waits that other threads submit. Nothing of the library leaves the
thread. The local Open_vSwitch database has one, and each of OVN's two.
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial
from typing import Generic, NoReturn, TypeVar

import ovs.db.idl

from dataplane.drivers.operations import Transaction
from dataplane.drivers.ovsdb_session import (
    DatabaseTimeoutError,
    Job,
    NotYetError,
    Poller,
    TransactionError,
    attempt,
    fetch_schema,
    present,
    settle,
)
from dataplane.drivers.ovsdb_tls import Tls, install, problem_of, use_tls
from dataplane.drivers.replica import Replica, Row, optional, read, references, write
from dataplane.ports import DataplaneError

__all__ = [
    "DatabaseClient",
    "DatabaseTimeoutError",
    "NotYetError",
    "Replica",
    "Row",
    "Tls",
    "Transaction",
    "TransactionError",
    "optional",
    "read",
    "references",
    "write",
]

log = logging.getLogger(__name__)

SNAPSHOT_RETRY_S = 1.0
"""After a snapshot that failed; a change of the database comes earlier."""

S = TypeVar("S")
T = TypeVar("T")


@dataclass(slots=True)
class DatabaseClient(Generic[S]):
    """A database, its latest snapshot, and a way to change it.

    `tables` names the tables and columns to replicate (an empty sequence: all columns); what the
    server's schema does not have is left out, ask `Replica.has`. `snapshot` is pure: it turns the
    replica into a frozen value, in the thread. `on_change(value)` and `on_connection(up)` are
    called in the thread too and must return at once (`loop.call_soon_threadsafe`). Changes are
    coalesced: at most one call per `coalesce_s` seconds, the last state always delivered.

    `prepare` sees the replica before it connects, in the thread; it may set conditions. A snapshot
    that raises `NotYetError` is made again soon, and nothing is published until then.

    `remote` is one OVSDB connection method or several, comma separated; with `leader_only` only
    the leader of a cluster is used.
    """

    remote: str
    database: str
    tables: Mapping[str, Sequence[str]]
    snapshot: Callable[[Replica], S]
    on_change: Callable[[S], None] = lambda _: None
    on_connection: Callable[[bool], None] = lambda _: None
    leader_only: bool = False
    tls: Tls | None = None
    probe_interval_ms: int | None = 60_000
    coalesce_s: float = 0.02
    prepare: Callable[[Replica], None] = lambda _: None
    _jobs: deque[Job] = field(init=False, default_factory=deque)
    _active: list[Job] = field(init=False, default_factory=list)
    _wake_fd: int = field(init=False, default=-1)
    _stop: threading.Event = field(init=False, default_factory=threading.Event)
    _synced: threading.Event = field(init=False, default_factory=threading.Event)
    _thread: threading.Thread | None = field(init=False, default=None)
    _connected: bool = field(init=False, default=False)
    _refused: str = field(init=False, default="")
    _failed: BaseException | None = field(init=False, default=None)
    _published: tuple[int, int] = field(init=False, default=(0, 0))
    _asked_again: int = field(init=False, default=0)
    _publish_after: float = field(init=False, default=0.0)

    # -- for other threads ------------------------------------------------------------------

    def start(self) -> None:
        """Start the thread; it connects, and reconnects, by itself.

        Raises:
            ConfigError: another client of this process uses other TLS files.
        """
        if self.tls is not None:
            use_tls(self.tls)
        install()
        self._wake_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._thread = threading.Thread(
            target=self._main, name=f"ovsdb-{self.database}", daemon=True
        )
        self._thread.start()

    def stop(self, timeout: float = 10.0) -> None:
        """Close the connection and end the thread; what is still waiting fails."""
        if self._thread is None:
            return
        self._stop.set()
        self._wake()
        self._thread.join(timeout)
        if not self._thread.is_alive():
            os.close(self._wake_fd)
            self._thread = None

    def __enter__(self) -> DatabaseClient[S]:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def connected(self) -> bool:
        """The connection is up and the replica equals the server's contents."""
        return self._connected

    @property
    def problem(self) -> str:
        """Why there is no connection that would do: "cause; next step", or "" if none is known."""
        return "" if self._connected else self._refused or problem_of(self.remote)

    def again(self) -> None:
        """Make and publish the snapshot anew though the database did not change."""
        self._asked_again += 1
        self._wake()

    def wait_synced(self, timeout: float) -> None:
        """Return once the contents are here for the first time and `on_change` has had them.

        Raises:
            DatabaseTimeoutError: not within `timeout` seconds.
        """
        if not self._synced.wait(timeout):
            self._raise_timeout(f"did not come into sync within {timeout:g} s")

    def transact(self, fn: Callable[[Replica, Transaction], T], timeout: float) -> T:
        """Run `fn` on the replica as one transaction and commit it; its result.

        What the commit changed is in the replica when this returns: servers send it before their
        answer, cluster members too. `fn` may run again (a verified column changed meanwhile, the
        connection broke), so it must decide from the replica each time. What `fn` raises aborts
        the transaction and is raised here.

        Raises:
            TransactionError: OVSDB refused it, with its own error.
            DatabaseTimeoutError: no answer in time; it may have been committed nevertheless.
        """
        return self._result(self.submit_transaction(fn, timeout), timeout)

    def read(self, fn: Callable[[Replica], T], timeout: float) -> T:
        """`fn` of the replica, run in the thread when it is in sync."""
        return self.wait_for(lambda replica: (fn(replica),), timeout)[0]

    def wait_for(self, fn: Callable[[Replica], T | None], timeout: float) -> T:
        """The first result of `fn` that is not None; asked now and after every change.

        Raises:
            DatabaseTimeoutError: it was None all the time.
        """
        return self._result(self.submit_wait(fn, timeout), timeout)

    def submit_wait(self, fn: Callable[[Replica], T | None], timeout: float) -> Future[T]:
        """As `wait_for`, without blocking (for `asyncio.wrap_future`)."""
        future: Future[T] = Future()

        def step(replica: Replica) -> bool:
            value = fn(replica)
            if value is None:
                return False
            settle(future, value)
            return True

        self._submit(Job(future, time.monotonic() + timeout, step, "what was waited for", True))
        return future

    def submit_transaction(
        self, fn: Callable[[Replica, Transaction], T], timeout: float
    ) -> Future[T]:
        """As `transact`, without blocking (for `asyncio.wrap_future`)."""
        future: Future[T] = Future()
        deadline = time.monotonic() + timeout

        def step(replica: Replica) -> bool:
            wait = partial(self._wait_a_turn, replica, deadline)
            return attempt(self.database, replica, fn, future, wait)

        self._submit(Job(future, deadline, step, "a transaction", False))
        return future

    # -- in the thread ----------------------------------------------------------------------

    def _main(self) -> None:
        replica: Replica | None = None
        try:
            schema = fetch_schema(self.remote, self.database, self._wake_fd, self._stop_asked)
            if schema is None:
                return
            helper = ovs.db.idl.SchemaHelper(schema_json=schema)
            for table, columns in present(schema, self.tables).items():
                if columns:
                    helper.register_columns(table, columns)
                else:
                    helper.register_table(table)
            replica = Replica(
                self.remote,
                helper,
                probe_interval=self.probe_interval_ms,
                leader_only=self.leader_only,
            )
            self.prepare(replica)
            while not self._stop.is_set():
                self._turn(replica)
        except BaseException as error:
            self._failed = error
            log.exception("database_thread_ended")
            raise
        finally:
            self._set_connected(up=False)
            if replica is not None:
                replica.close()
            for job in [*self._jobs, *self._active]:
                self._fail(job, f"the client of {self.database} was stopped")

    def _turn(self, replica: Replica) -> None:
        """Take in what the server sent, publish, work, and sleep until something happens."""
        self._take_in(replica)
        self._work(replica)
        self._publish(replica)
        poller = Poller()
        self._poll_more(poller, replica)
        poller.block()
        self._drain_wake()

    def _take_in(self, replica: Replica) -> None:
        for _ in range(100):
            before = replica.change_seqno
            replica.run()
            if replica.change_seqno == before:
                break
        self._refused = "" if replica.synced else replica.refusal() or self._refused
        self._set_connected(up=replica.synced)

    def _publish(self, replica: Replica) -> None:
        state = (replica.change_seqno, self._asked_again)
        if not replica.synced or state == self._published:
            return
        now = time.monotonic()
        if now < self._publish_after:
            return
        self._publish_after = now + self.coalesce_s
        try:
            self.on_change(self.snapshot(replica))
        except NotYetError:
            return
        except Exception:
            # The connection and everybody's transactions must not die with one bad snapshot.
            log.exception("snapshot_failed", extra={"database": self.database})
            self._publish_after = now + SNAPSHOT_RETRY_S
            return
        self._published = state
        self._synced.set()

    def _work(self, replica: Replica) -> None:
        while self._jobs:
            self._active.append(self._jobs.popleft())
        still: list[Job] = []
        for job in self._active:
            if job.future.done():
                continue
            if replica.synced and self._done(job, replica):
                continue
            if time.monotonic() >= job.deadline:
                up = "connected" if replica.synced else self._absent()
                self._fail(job, f"{job.what} took too long: {up}")
                continue
            still.append(job)
        self._active = still

    def _done(self, job: Job, replica: Replica) -> bool:
        try:
            return job.step(replica)
        except Exception as error:  # noqa: BLE001  # the caller's function may raise anything
            if not job.future.done():
                job.future.set_exception(error)
            return True

    def _poll_more(self, poller: Poller, replica: Replica) -> None:
        replica.wait(poller)
        poller.fd_wait(self._wake_fd, select.POLLIN)
        now = time.monotonic()
        if replica.synced and (replica.change_seqno, self._asked_again) != self._published:
            poller.timer_wait((self._publish_after - now) * 1000 + 1)
        for job in self._active:
            poller.timer_wait((job.deadline - now) * 1000 + 1)
            if not job.waits and replica.synced:
                poller.timer_wait(10)  # a transaction to be tried again
        if self._jobs or self._stop.is_set():
            poller.immediate_wake()

    def _wait_a_turn(self, replica: Replica, deadline: float) -> bool:
        """Wait for the server's next word and take it in; False: no time is left."""
        left = deadline - time.monotonic()
        if left <= 0 or self._stop.is_set():
            return False
        poller = Poller()
        replica.wait(poller)
        poller.fd_wait(self._wake_fd, select.POLLIN)
        poller.timer_wait(max(1.0, left * 1000))
        poller.block()
        self._drain_wake()
        self._take_in(replica)
        return True

    def _stop_asked(self) -> bool:
        """Between two steps of connecting: see to the deadlines, and say whether to give up."""
        self._drain_wake()
        now = time.monotonic()
        for job in tuple(self._jobs):
            if now >= job.deadline:
                self._jobs.remove(job)
                self._fail(job, f"{job.what} took too long: {self._absent()}")
        return self._stop.is_set()

    def _submit(self, job: Job) -> None:
        if self._thread is None or self._stop.is_set() or not self._thread.is_alive():
            self._fail(job, f"the client of {self.database} is not running: start it first")
            return
        self._jobs.append(job)
        self._wake()

    def _fail(self, job: Job, why: str) -> None:
        if not job.future.done():
            text = f"{self.database} at {self.remote}: {why}"
            job.future.set_exception(DatabaseTimeoutError(text))

    def _result(self, future: Future[T], timeout: float) -> T:
        if threading.current_thread() is self._thread:
            msg = "a callback of the database thread may not wait for that thread"
            raise DataplaneError(msg)
        try:
            return future.result(timeout + 5.0)  # the thread itself keeps the deadline
        except TimeoutError:
            self._raise_timeout(f"its thread is stuck for {timeout + 5.0:g} s")

    def _absent(self) -> str:
        why = f": {self.problem}" if self.problem else ""
        return f"not connected to {self.remote}{why}"

    def _raise_timeout(self, why: str) -> NoReturn:
        cause = f" ({self._failed!r})" if self._failed else ""
        step = self.problem or "is ovsdb-server running there?"
        msg = f"{self.database} at {self.remote}: {why}{cause}; {step}"
        raise DatabaseTimeoutError(msg)

    def _set_connected(self, *, up: bool) -> None:
        if up != self._connected:
            self._connected = up
            log.info("database_connection", extra={"database": self.database, "up": up})
            self.on_connection(up)

    def _wake(self) -> None:
        with contextlib.suppress(OSError):
            os.eventfd_write(self._wake_fd, 1)

    def _drain_wake(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self._wake_fd)
