"""What a round did, in counts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class TableReport:
    """One table's share of a round; all are counts of rows.

    `rows` are those planned. `upserts` and `deletes` were tried, `failed` of them did not
    succeed. `held` wait for their back-off. `error`: why the table could not be observed.
    """

    rows: int = 0
    upserts: int = 0
    deletes: int = 0
    failed: int = 0
    held: int = 0
    error: str = ""


@dataclass(frozen=True, slots=True)
class Report:
    """What one round did.

    `next_retry_at` is on the caller's clock [s], over all tables, also those that this round left
    out; None: nothing waits. `left`: tables of the round that still are to be looked at.
    """

    tables: Mapping[str, TableReport]
    next_retry_at: float | None
    left: frozenset[str] = frozenset()

    @property
    def writes(self) -> int:
        """Rows written or removed; 0 in a round that found everything right."""
        return sum(table.upserts + table.deletes for table in self.tables.values())

    @property
    def failed(self) -> int:
        """Rows that could not be made as planned in this round."""
        return sum(table.failed for table in self.tables.values())

    def then(self, later: Report) -> Report:
        """Both, as one round."""
        tables = dict(self.tables)
        for name, table in later.tables.items():
            before = tables.get(name, TableReport())
            tables[name] = replace(
                table,
                upserts=before.upserts + table.upserts,
                deletes=before.deletes + table.deletes,
                failed=before.failed + table.failed,
            )
        return Report(tables, later.next_retry_at, later.left)
