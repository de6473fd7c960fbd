"""Makes every owned table equal to the plan: the only retry loop of the project.

One call of `Reconciler.apply` is one round: each table in turn is observed, compared, and written;
then what must go is removed, in reverse order of the tables. So backends are there before the VIPs
that name them, and VIPs are gone before their backends.

Inside one table upserts come before deletes. If a key's old value has to go before the new one
fits (an OVS port that changes its type), that is the driver's business inside `upsert`; if two
different keys cannot exist at the same time, the upsert fails in this round, the delete happens,
and the retry succeeds.

The caller's business: not to call this before every source of the plan is in sync, to measure the
duration, and to call again at `Report.next_retry_at` or when something changed.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from dataplane.ports import DataplaneError, Failure, Rejecting, Steady, Table
from dataplane.reconcile.backoff import Backoff
from dataplane.reconcile.decision import ABSENT, Alike, Decision, Trouble, decide
from dataplane.reconcile.differences import tell
from dataplane.reconcile.effects import effect
from dataplane.reconcile.report import Report, TableReport
from dataplane.reconcile.status import State, Status
from dataplane.reconcile.statuses import Statuses, Tally

log = logging.getLogger(__name__)

Key = Hashable
AnyTable = Table[Any, Any]


class Reconciler:
    """Owns the order of the tables, the memory of failures, and the status of every row."""

    def __init__(self, tables: Sequence[AnyTable], backoff: Backoff) -> None:
        names = [table.name for table in tables]
        if len(set(names)) != len(names):
            msg = f"two tables of the same name among {', '.join(names)}"
            raise ValueError(msg)
        self._tables = tuple(tables)
        self._backoff = backoff
        self._troubles: dict[str, dict[Key, Trouble]] = {name: {} for name in names}
        self._statuses = Statuses(names)
        self._alike = Alike()
        # Whole tables to look at again: unobserved, or with a row that was not taken back.
        self._again: dict[str, Trouble] = {}
        self._retries: set[tuple[str, Key]] = set()

    def apply(
        self,
        desired: Mapping[str, Mapping[Any, Any]],
        now: float,
        only: frozenset[str] | None = None,
        prune: bool = True,
        pressed: Callable[[], bool] = lambda: False,
    ) -> Report:
        """Make the tables named in `desired` (and in `only`, if given) equal to it.

        After a table `pressed` may say that something else is more urgent: then the round ends,
        and `Report.left` names the tables that it has not come to, or has rows to remove from.

        Zero writes when nothing differs. With `prune` off nothing is removed but quarantined rows.
        A table that cannot be observed has its rows marked pending and nothing of it is touched;
        the others go on. `now` is the caller's clock [s], the same in all calls.
        """
        counts = {
            table.name: TableReport(rows=len(desired[table.name]))
            for table in self._tables
            if table.name in desired and (only is None or table.name in only)
        }
        chosen = [table for table in self._tables if table.name in counts]
        self._forget_asked()
        for table in chosen:
            self._note_rejected(table, desired[table.name], now)
        removals: list[tuple[AnyTable, Sequence[Key]]] = []
        for at, table in enumerate(chosen):
            if at and pressed():
                # Nothing goes before every row that is wanted is there.
                left = {other.name for other in chosen[at:]}
                done = {name: count for name, count in counts.items() if name not in left}
                left.update(other.name for other, _ in removals)
                return Report(done, self._next_retry_at(), frozenset(left))
            decision = self._write(table, desired[table.name], now, counts, prune=prune)
            if decision is not None and decision.deletes:
                removals.append((table, decision.deletes))
        for table, keys in reversed(removals):
            self._remove(table, keys, now, counts)
        return Report(counts, self._next_retry_at())

    def apply_keys(self, changes: Mapping[str, Mapping[Any, Any]], now: float) -> Report:
        """Write these rows of these tables (None: remove it), which nobody looks at first.

        For changes that are known row by row, of tables that nobody else writes: a call costs what
        the change is, not what the tables are. Rows that a back-off holds are left to `apply`,
        which has to be called with the whole at times.
        """
        self._forget_asked()
        counts: dict[str, TableReport] = {}
        removals: list[tuple[AnyTable, Sequence[Key]]] = []
        for table in self._tables:
            name = table.name
            if name not in changes:
                continue
            self._alike.forget(name)
            troubles = self._troubles[name]
            due: dict[Key, Any] = {}
            for key, value in changes[name].items():
                wanted = ABSENT if value is None else value
                trouble = troubles.get(key)
                if trouble is not None and trouble.holds(wanted, now):
                    continue
                if trouble is not None and not trouble.concerns(wanted):
                    del troubles[key]
                due[key] = value
            rows = {key: value for key, value in due.items() if value is not None}
            counts[name] = TableReport(rows=len(rows), held=len(changes[name]) - len(due))
            if rows:
                failed = self._upsert(table, tuple(rows.items()), now, counts)
                for key, value in rows.items():
                    if key not in failed:
                        self._succeed(name, key, value, now, written=True)
            if gone := tuple(key for key, value in due.items() if value is None):
                removals.append((table, gone))
        for table, keys in reversed(removals):
            self._remove(table, keys, now, counts)
        return Report(counts, self._next_retry_at())

    def take_back(self, desired: Mapping[str, Mapping[Any, Any]], now: float) -> Report:
        """Only remove the rows that a surface refused after it had taken them.

        Cheap: tables without such rows are neither observed nor written. To be called at once
        when the surface reports anything, for a port that OVS refuses costs it dearly.
        """
        counts: dict[str, TableReport] = {}
        for table in self._tables:
            if table.name in desired:
                counts[table.name] = TableReport(rows=len(desired[table.name]))
                keys = self._note_rejected(table, desired[table.name], now)
                if keys:
                    self._take_back(table, keys, now, counts)
        return Report(counts, self._next_retry_at())

    def statuses(self) -> Mapping[tuple[str, Any], Status]:
        """The status of every planned row, and of every row whose removal fails."""
        return self._statuses.every()

    def status(self, table: str, key: Key) -> Status | None:
        """One row's."""
        return self._statuses.get(table, key)

    def odd_statuses(self) -> Mapping[tuple[str, Any], Status]:
        """Of the rows that are not done, or in quarantine; costs what they are."""
        return self._statuses.odd()

    def tallies(self) -> Mapping[str, Tally]:
        """Rows by table, and how many are not as planned; costs what these are."""
        return self._statuses.tallies()

    @property
    def unobserved(self) -> frozenset[str]:
        """Tables that could not be looked at, or have a row that could not be taken back."""
        return frozenset(self._again)

    def retry(self, table: str, key: Key) -> bool:
        """Forget a row's failures, so that the next round tries it; whether there were any."""
        known = key in self._troubles.get(table, {}) and (table, key) not in self._retries
        if known:
            # Not taken out here: another thread may be in the middle of a round.
            self._retries.add((table, key))
        return known

    def _forget_asked(self) -> None:
        while self._retries:
            name, key = self._retries.pop()
            self._troubles[name].pop(key, None)

    # -- one table --------------------------------------------------------------------------

    def _note_rejected(
        self, table: AnyTable, desired: Mapping[Key, Any], now: float
    ) -> tuple[Key, ...]:
        """Quarantine what the surface refused after taking it; the refused keys.

        Only if the refused row is the planned one: another value has had no trial yet.
        """
        if not isinstance(table, Rejecting):
            return ()
        try:
            rejected: Mapping[Key, str] = table.rejected()
            actual: Mapping[Key, Any] = table.observe() if rejected else {}
        except DataplaneError as error:
            log.warning("rejections_unknown", extra={"table": table.name, "error": str(error)})
            return ()
        for key, reason in rejected.items():
            if key in desired and key in actual and actual[key] == desired[key]:
                self._fail(table.name, key, desired[key], Failure(reason, quarantine=True), now)
                log.warning(
                    "row_quarantined",
                    extra={"table": table.name, "row": str(key), "reason": reason},
                )
        return tuple(rejected)

    def _write(
        self,
        table: AnyTable,
        desired: Mapping[Key, Any],
        now: float,
        counts: dict[str, TableReport],
        *,
        prune: bool,
    ) -> Decision[Any, Any] | None:
        """Observe one table, take back and upsert; what is left to delete, None: nothing is."""
        name = table.name
        try:
            actual: Mapping[Key, Any] = table.observe()
        except Exception as error:  # noqa: BLE001  # the boundary to the drivers
            self._not_observed(name, desired, error, now, counts)
            return None
        self._again.pop(name, None)
        quiet = not self._troubles[name] and not self._statuses.is_odd(name)
        if quiet and self._alike.are(name, desired, actual):
            return None
        self._forget(name, desired, actual)
        decision = decide(desired, actual, self._troubles[name], now, prune=prune)
        tell(name, decision, actual)
        counts[name] = replace(counts[name], held=len(decision.held))
        for key in decision.held:
            # An outage of the table may have put another reason there meanwhile.
            self._show(name, key, now)
        if decision.take_back:
            self._take_back(table, decision.take_back, now, counts)
        written = {key for key, _ in decision.upserts}
        failed = self._upsert(table, decision.upserts, now, counts)
        # Most rows are as they were: without trouble and done.
        touched = {*written, *self._troubles[name], *self._statuses.lacking(name, desired)}
        for key in touched - failed.keys() - decision.held:
            if key in desired:
                self._succeed(name, key, desired[key], now, written=key in written)
        if isinstance(table, Steady) and not (written or decision.held):
            self._alike.note(name, desired, actual)
        return decision

    def _upsert(
        self,
        table: AnyTable,
        rows: Sequence[tuple[Key, Any]],
        now: float,
        counts: dict[str, TableReport],
    ) -> Mapping[Key, Failure]:
        """Write rows; those that failed, which are in trouble then."""
        name, values = table.name, dict(rows)
        failed = effect(name, "upsert", table.upsert, rows, values)
        counts[name] = replace(
            counts[name], upserts=len(rows), failed=counts[name].failed + len(failed)
        )
        for key in values.keys() & failed.keys():
            self._fail(name, key, values[key], failed[key], now)
        refused = tuple(key for key, failure in failed.items() if failure.quarantine)
        if refused:
            # Most drivers have done so already; an older value of the row may still be there.
            self._take_back(table, refused, now, counts)
        return failed

    def _remove(
        self,
        table: AnyTable,
        keys: Sequence[Key],
        now: float,
        counts: dict[str, TableReport],
    ) -> None:
        failed = self._delete(table, keys, counts)
        for key in keys:
            if key in failed:
                self._fail(table.name, key, ABSENT, failed[key], now)
            else:
                self._troubles[table.name].pop(key, None)
                self._statuses.drop(table.name, key)

    def _take_back(
        self,
        table: AnyTable,
        keys: Sequence[Key],
        now: float,
        counts: dict[str, TableReport],
    ) -> None:
        """Remove quarantined rows; their status stays that of the quarantine."""
        failed = self._delete(table, keys, counts)
        for key, failure in failed.items():
            log.error(
                "row_not_taken_back",
                extra={"table": table.name, "row": str(key), "reason": failure.reason},
            )
            trouble = self._troubles[table.name].get(key)
            if trouble is not None:
                # Tried again soon: `decide` takes it back in every round anyway.
                soon = now + self._backoff.waiting.first
                self._again[table.name] = Trouble(None, failure, 1, soon)

    def _delete(
        self, table: AnyTable, keys: Sequence[Key], counts: dict[str, TableReport]
    ) -> Mapping[Key, Failure]:
        failed = effect(table.name, "delete", table.delete, keys, keys)
        count = counts[table.name]
        counts[table.name] = replace(
            count, deletes=count.deletes + len(keys), failed=count.failed + len(failed)
        )
        return failed

    # -- memory -----------------------------------------------------------------------------

    def _not_observed(
        self,
        name: str,
        desired: Mapping[Key, Any],
        error: Exception,
        now: float,
        counts: dict[str, TableReport],
    ) -> None:
        if not isinstance(error, DataplaneError):
            log.error("observe_failed", exc_info=error, extra={"table": name})
        reason = str(error) or repr(error)
        before = self._again.get(name)
        attempts = before.attempts + 1 if before is not None else 1
        failure = Failure(reason, waiting=True)
        due = now + self._backoff.delay(failure, attempts)
        self._again[name] = Trouble(None, failure, attempts, due)
        counts[name] = replace(counts[name], error=reason)
        for key, value in desired.items():
            trouble = self._troubles[name].get(key)
            shown = self._statuses.get(name, key)
            known = trouble is not None and trouble.concerns(value)
            if not (known and shown is not None and shown.quarantined):
                self._set_status(name, key, Status(State.PENDING, reason, now, attempts))
        for key in self._statuses.others(name, desired):
            status = self._statuses.get(name, key)
            if status is not None and status.state is not State.ERROR:
                self._statuses.drop(name, key)

    def _fail(self, name: str, key: Key, wanted: object, failure: Failure, now: float) -> None:
        before = self._troubles[name].get(key)
        attempts = 1
        if before is not None and before.concerns(wanted):
            attempts = before.attempts + 1
        due = now + self._backoff.delay(failure, attempts)
        self._troubles[name][key] = Trouble(wanted, failure, attempts, due)
        self._show(name, key, now)

    def _show(self, name: str, key: Key, now: float) -> None:
        """Set a row's status to what its trouble says."""
        trouble = self._troubles[name][key]
        failure, reason = trouble.failure, trouble.failure.reason
        if trouble.wanted is ABSENT:
            reason = f"cannot be removed: {reason}"
        state = State.PENDING if failure.waiting else State.ERROR
        status = Status(state, reason, now, trouble.attempts, quarantined=failure.quarantine)
        self._set_status(name, key, status)

    def _succeed(self, name: str, key: Key, value: object, now: float, *, written: bool) -> None:
        trouble = self._troubles[name].get(key)
        if trouble is not None:
            if trouble.failure.quarantine and written:
                until = now + self._backoff.quarantine.first
                self._troubles[name][key] = replace(
                    trouble, wanted=value, due=until, probation=True
                )
            elif not trouble.probation or now >= trouble.due:
                del self._troubles[name][key]
        before = self._statuses.get(name, key)
        attempts = 1 if written else 0
        if before is not None:
            attempts += before.attempts if before.state is not State.DONE else 0
            if not written and before.state is State.DONE:
                return
        self._statuses.put(name, key, Status(State.DONE, "", now, attempts))

    def _set_status(self, name: str, key: Key, status: Status) -> None:
        before = self._statuses.get(name, key)
        if before is not None and (before.state, before.reason) == (status.state, status.reason):
            status = replace(status, since=before.since)
        self._statuses.put(name, key, status)

    def _forget(self, name: str, desired: Mapping[Key, Any], actual: Mapping[Key, Any]) -> None:
        """Drop what concerns rows that are neither wanted nor there, or wanted otherwise."""
        troubles = self._troubles[name]
        for key in tuple(troubles):
            wanted = desired.get(key, ABSENT)
            gone = wanted is ABSENT and key not in actual
            if gone or not troubles[key].concerns(wanted):
                del troubles[key]
        for key in self._statuses.others(name, desired):
            if key not in troubles:
                self._statuses.drop(name, key)

    def _next_retry_at(self) -> float | None:
        waiting = [
            trouble.due
            for name, troubles in self._troubles.items()
            for trouble in troubles.values()
            if not trouble.probation and name not in self._again
        ]
        waiting += [trouble.due for trouble in self._again.values()]
        return min(waiting, default=None)
