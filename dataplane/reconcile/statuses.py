"""The statuses of all rows, with those apart that are not as planned.

Of forty thousand rows a handful is in trouble: whoever asks whether any is, or how many, walks
through those alone.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from dataplane.reconcile.status import State, Status

Key = Hashable


@dataclass(frozen=True, slots=True)
class Tally:
    """One table's rows with a status, and how many of them are not as planned, and how."""

    rows: int = 0
    errors: int = 0
    pending: int = 0
    quarantined: int = 0


class Statuses:
    """By table and key. Written by one thread; questions may come from any, also in between."""

    def __init__(self, tables: Iterable[str]) -> None:
        self._rows: dict[str, dict[Key, Status]] = {name: {} for name in tables}
        self._odd: dict[str, dict[Key, Status]] = {name: {} for name in self._rows}

    # -- questions ------------------------------------------------------------------------------

    def get(self, table: str, key: Key) -> Status | None:
        """One row's."""
        return self._rows[table].get(key)

    def every(self) -> Mapping[tuple[str, Any], Status]:
        """All of them."""
        return _flat(self._rows)

    def odd(self) -> Mapping[tuple[str, Any], Status]:
        """Those that are not done, or in quarantine."""
        return _flat(self._odd)

    def tallies(self) -> Mapping[str, Tally]:
        """Counts by table; of tables without a row nothing."""
        found: dict[str, Tally] = {}
        for table, rows in self._rows.items():
            count = len(rows)
            if count:
                odd = tuple(self._odd[table].copy().values())
                found[table] = Tally(
                    count,
                    sum(status.state is State.ERROR for status in odd),
                    sum(status.state is State.PENDING for status in odd),
                    sum(status.quarantined for status in odd),
                )
        return found

    def lacking(self, table: str, keys: Mapping[Key, object]) -> list[Key]:
        """Those of these rows that have no status, or another than done."""
        rows, odd = self._rows[table], self._odd[table]
        found = [key for key in keys if key not in rows]
        return found + [key for key in odd if key in keys]

    def others(self, table: str, keys: Mapping[Key, object]) -> tuple[Key, ...]:
        """Rows with a status that are none of these."""
        return tuple(key for key in self._rows[table] if key not in keys)

    def is_odd(self, table: str) -> bool:
        """Whether any row of the table is not done, or in quarantine."""
        return bool(self._odd[table])

    # -- changes --------------------------------------------------------------------------------

    def put(self, table: str, key: Key, status: Status) -> None:
        """A row's status from now on."""
        self._rows[table][key] = status
        if status.state is not State.DONE or status.quarantined:
            self._odd[table][key] = status
        else:
            self._odd[table].pop(key, None)

    def drop(self, table: str, key: Key) -> None:
        """Nothing is known, nor asked, of the row any more."""
        self._rows[table].pop(key, None)
        self._odd[table].pop(key, None)


def _flat(statuses: Mapping[str, dict[Key, Status]]) -> dict[tuple[str, Any], Status]:
    return {
        (table, key): status
        for table, rows in statuses.items()
        # A copy, made in one step: another thread may ask in the middle of a round.
        for key, status in rows.copy().items()
    }
