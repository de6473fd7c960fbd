"""Makes the northbound database have the rows that the book wants, by key, and keeps it so.

Nothing is remembered that the database does not say: which rows are ours, and what they are, is
read from the replica, so the writer may be killed at any moment.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import re
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial

from controller.network.reach import ALL_AND_MEMBERS, NOTHING, Hold
from controller.network.rows import Row, RowKey
from controller.ovn.differ import Deed
from controller.ovn.ours import COLUMNS
from controller.ovn.turns import LOCK, Failure, NotOurs, PortThere, Turn, Turns
from dataplane.drivers.idl import DatabaseClient, Replica, Tls, Transaction, TransactionError
from dataplane.ports import DataplaneError

log = logging.getLogger(__name__)

DATABASE = "OVN_Northbound"
BATCH = 2000
"""Rows of one transaction; ovsdb-server's time for one grows faster than its rows."""
TIMEOUT_S = 60.0
FIRST_RETRY_S, LAST_RETRY_S = 1.0, 60.0
"""How long a refused row is left alone: at first, and at most [s]."""
IDLE_S = 3600.0
LOCK_LOOK_S = 0.02
STEAL_AFTER_S = 5.0
"""So long the holder of the Lease waits for the lock. Whoever has it ended by his own clock before
another could take the Lease; if he did not, his transactions are refused from then on [s]."""


_UUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_TWICE = re.compile(r"identical values \((.*?)\) for index on columns? (.*?)\.")


def lasting(reason: str) -> str:
    """OVSDB's reason in words that it has at the next try, too: a row to be has another UUID then.

    Whoever is told would be told anew each time.
    """
    if twice := _TWICE.search(reason):
        values, columns = twice.groups()
        return f"another row of the database has {values} as {columns}; its external_ids say whose"
    return _UUID.sub("(a UUID)", reason)


@dataclass(slots=True)
class Written:
    """What was written since the start."""

    transactions: int = 0
    inserts: int = 0
    updates: int = 0
    deletes: int = 0
    refused: int = 0

    @property
    def rows(self) -> int:
        """Rows that were changed."""
        return self.inserts + self.updates + self.deletes


def _nothing(_: Replica, txn: Transaction) -> None:
    """A transaction that changes nothing, and asserts the lock."""
    txn.operations = [{"op": "comment", "comment": "who holds the lock?"}]


class Writer:
    """Northbound rows of ours, kept as wanted. Use `start`, `want`, `begin`, `lead`, `run`, `stop`.

    Attributes:
        changed: is called in the event loop with the keys whose failure came, changed or went.
        on_written: is called in the event loop with the keys of each committed transaction.
        failures: rows that are refused, why, and when they are tried again.
    """

    def __init__(
        self,
        remote: str,
        tls: Tls | None = None,
        changed: Callable[[frozenset[RowKey]], None] = lambda _: None,
        batch: int = BATCH,
    ) -> None:
        self.changed = changed
        self.on_written: Callable[[tuple[RowKey, ...]], None] = lambda _: None
        self.written = Written()
        self.failures: dict[RowKey, Failure] = {}
        self._random = random.Random()  # noqa: S311  # jitter, no secret
        self._leads = self._asked = False
        self._presses = False  # whether somebody asked for the lock by `gain`
        self._locked_out: float | None = None  # since when another has it nevertheless
        self._hold = ALL_AND_MEMBERS
        self._wake = asyncio.Event()
        self._settled = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._turns = Turns(
            self.failures,
            lambda key, reason: self._from_thread(partial(self._blame, key, reason)),
            lambda keys: self._from_thread(partial(self._forgive, keys)),
            batch,
        )
        self._client = DatabaseClient(
            remote=remote,
            database=DATABASE,
            tables=COLUMNS,
            snapshot=self._turns.notice,
            on_change=lambda dirty: self._from_thread(self._nudge) if dirty else None,
            on_connection=lambda _: self._from_thread(self._nudge),
            leader_only=True,
            tls=tls,
            coalesce_s=0.005,
        )

    def start(self) -> None:
        """Connect; nothing is written before `lead`, nothing removed before `begin`."""
        self._loop = asyncio.get_running_loop()
        self._client.start()

    async def stop(self) -> None:
        """Disconnect."""
        await asyncio.to_thread(self._client.stop)

    @property
    def connected(self) -> bool:
        """Whether the database is there and in sync."""
        return self._client.connected

    @property
    def active(self) -> bool:
        """Whether we hold the lock."""
        return self._turns.locked

    def want(self, rows: Mapping[RowKey, Row | None]) -> None:
        """Want these rows so, or not at all (None). The mapping must not change afterwards."""
        if rows:
            self._turns.inbox.append(rows)
            self._nudge()

    def forget(self) -> None:
        """Want nothing any more, and have nothing done about it: somebody else may lead now."""
        self._turns.inbox.append(None)
        self._nudge()

    def begin(self, hold: Hold = NOTHING) -> None:
        """All that is wanted has been said: rows of ours that nobody ever wanted may go.

        Args:
            hold: these stay nevertheless, since somebody cannot say what he wants.
        """
        if hold != self._hold:
            self._hold = hold
            self._nudge()

    def lead(self, leads: bool) -> None:
        """Whether we may write: the holder of the Lease only."""
        if leads != self._leads:
            self._leads = leads
            self._presses = self._presses and leads
            self._nudge()

    async def settled(self) -> None:
        """Return when everything that was wanted before is written, refused, or waits."""
        await self._settled.wait()

    async def run(self) -> None:
        """Write until cancelled."""
        while True:
            self._wake.clear()
            pause = FIRST_RETRY_S
            try:
                if self._asked != self._leads:
                    await self._ask()
                moved = await self._attempt(None)
                self._locked_out = None
                if moved:
                    continue
                if not self._wake.is_set():
                    self._settled.set()
                retries = [one.retry_at for one in self.failures.values()]
                pause = min(retries) - time.monotonic() if retries else IDLE_S
            except NotOurs:
                await self._press()
            except DataplaneError as error:
                log.warning("writing_failed error=%s", error)
            with contextlib.suppress(TimeoutError):
                # Not wait_for: that of Python 3.11 loses a cancellation that comes with the event.
                async with asyncio.timeout(max(0.01, pause)):
                    await self._wake.wait()

    async def _press(self) -> None:
        """Take the lock from somebody who keeps it for too long while we lead.

        Who stands still, or whose machine is gone, gives no lock back, and is the next to have it
        whenever we lose our connection. The Lease says that he may not write any more.
        """
        now = time.monotonic()
        if not self._presses or self.active or not self.connected:
            self._locked_out = None
        elif self._locked_out is None:
            self._locked_out = now
        elif now - self._locked_out > STEAL_AFTER_S:
            self._locked_out = now
            log.warning("lock_stolen lock=%s its holder does not give it back", LOCK)
            with contextlib.suppress(DataplaneError):
                taking = self._client.submit_wait(self._turns.steal, TIMEOUT_S)
                await asyncio.wrap_future(taking)

    async def _ask(self) -> None:
        """Have the database's lock exactly while we lead."""
        leads = self._leads
        step = partial(self._turns.lead, leads=leads)
        await asyncio.wrap_future(self._client.submit_wait(step, TIMEOUT_S))
        self._asked = leads

    async def difference(self) -> tuple[list[Deed], dict[RowKey, str]]:
        """What would be done now, and what is refused beforehand; nothing is written.

        Raises:
            DataplaneError: the database is away.
        """
        waiting = self._client.submit_wait(
            partial(self._turns.difference, hold=self._hold), TIMEOUT_S
        )
        return await asyncio.wrap_future(waiting)

    async def ports(self) -> list[PortThere]:
        """Our logical switch ports as they are now.

        Raises:
            DataplaneError: the database is away.
        """
        return await asyncio.wrap_future(self._client.submit_wait(self._turns.ports, TIMEOUT_S))

    async def gain(self) -> None:
        """Return once we hold the lock, and know all that whoever had it before wrote.

        Ask with `lead` first; `run` has to be running: from here on it presses for the lock.
        """
        self._presses = True
        while True:
            if not self.active:
                await asyncio.sleep(LOCK_LOOK_S)
                continue
            # The news of the lock may overtake what was written last; an answer does not.
            asking = self._client.submit_transaction(_nothing, TIMEOUT_S)
            with contextlib.suppress(DataplaneError):
                await asyncio.wrap_future(asking)
                return
            await asyncio.sleep(LOCK_LOOK_S)

    async def _attempt(self, asked: tuple[RowKey, ...] | None) -> bool:
        """One transaction; if it is refused, several. Whether anything was done.

        Raises:
            NotOurs: another process writes, or we may not.
            DataplaneError: the database is away.
        """
        turn, refusal = await self._transact(asked)
        if not refusal:
            return bool(turn.deeds)
        if asked is None:
            asked = turn.keys
        elif turn.needed:
            # What it needs first, so that each is judged by itself; all of that is done or
            # refused by then, and needed no more.
            await self._attempt(turn.needed)
            return await self._attempt(asked)
        if len(asked) == 1:
            self._blame(asked[0], refusal)
            return True
        # Find the rows that are to blame, and do all others.
        middle = (len(asked) + 1) // 2
        await self._attempt(asked[:middle])
        await self._attempt(asked[middle:])
        return True

    async def _transact(self, asked: tuple[RowKey, ...] | None) -> tuple[Turn, str]:
        """One transaction, and OVSDB's reason if it is refused."""
        last: list[Turn] = []

        def step(replica: Replica, txn: Transaction) -> None:
            turn = self._turns.turn(replica, txn, asked, hold=self._hold)
            last[:] = [turn]

        try:
            await asyncio.wrap_future(self._client.submit_transaction(step, TIMEOUT_S))
        except TransactionError as error:
            if "not locked" in str(error):
                raise NotOurs from error
            return last[0], lasting(str(error))
        turn = last[0]
        if turn.deeds:
            self._count(turn)
            self._forgive(key for key in turn.keys if key not in turn.stubborn)
            self.on_written(turn.keys)
        return turn, ""

    def _count(self, turn: Turn) -> None:
        self.written.transactions += 1
        for deed in turn.deeds:
            if deed.action == "insert":
                self.written.inserts += 1
            elif deed.action == "update":
                self.written.updates += 1
            else:
                self.written.deletes += 1
        log.debug("written %s", turn.deeds)

    def _blame(self, key: RowKey, reason: str) -> None:
        before = self.failures.get(key)
        attempts = before.attempts + 1 if before is not None else 1
        bound = min(LAST_RETRY_S, FIRST_RETRY_S * 2.0 ** min(attempts - 1, 16))
        wait = self._random.uniform(bound / 2, bound)
        self.failures[key] = Failure(reason, attempts, time.monotonic() + wait)
        self.written.refused += 1
        log.warning("row_refused row=%s attempts=%d reason=%s", key, attempts, reason)
        if before is None or before.reason != reason:
            self.changed(frozenset((key,)))

    def _forgive(self, keys: Iterable[RowKey]) -> None:
        done = frozenset(key for key in keys if self.failures.pop(key, None) is not None)
        if done:
            self.changed(done)
            # They were left alone until now; nothing else may come that wakes us.
            self._nudge()

    def _nudge(self) -> None:
        self._settled.clear()
        self._wake.set()

    def _from_thread(self, call: Callable[[], None]) -> None:
        if self._loop is not None:
            # The loop may be closed already while the client's thread still ends.
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(call)
