"""What the running Kubernetes controller answers on its socket: status, and what is behind rows."""

from __future__ import annotations

import os
import time
from dataclasses import asdict
from typing import TYPE_CHECKING

from cni.wire import RemoteError
from controller.network.rows import Row, RowKey
from controller.server import Args

if TYPE_CHECKING:
    from controller.kubenet import Controller

CODE_UNKNOWN = 120
"""Refusal: there is no such row, or we do not lead."""


class Sight:
    """The handlers of the socket."""

    def __init__(self, controller: Controller) -> None:
        self._of = controller

    async def status(self, _: Args) -> Args:
        """Who leads, what is watched, what was written, and what is wrong."""
        # A large batch is computed in a thread, and must not be looked at meanwhile.
        async with self._of.computing:
            return self._status()

    def _status(self) -> Args:
        of = self._of
        now = time.monotonic()
        engine = of.engine
        return {
            "pid": os.getpid(),
            "identity": of.election.identity,
            "leads": of.election.leads,
            "holder": of.election.holder,
            "lease_error": of.election.error,
            "connected": of.writer.connected,
            "active": of.writer.active,
            "sources": dict(of.sources.states()),
            "rows": len(engine.book.rows) if engine is not None else 0,
            "written": asdict(of.writer.written),
            "refused": [
                {
                    "row": str(key),
                    "reason": one.reason,
                    "attempts": one.attempts,
                    "retry_in_s": round(max(0.0, one.retry_at - now), 1),
                }
                for key, one in sorted(of.writer.failures.items())
            ],
            "write_backs": {**asdict(of.back.sent), "waiting": of.back.waiting},
            # Nothing is removed from OVN while these cannot be read.
            "unread": sorted({str(ref) for ref in of.sources.lost.values()}),
            "failed_units": engine.failed() if engine is not None else {},
            "problems": [
                {"object": str(ref), **asdict(one)}
                for ref, found in of.back.all_problems().items()
                for one in found
            ],
            "batches": of.counts.batches,
            "started_s": {
                name: round(at - of.counts.started_at, 3)
                for name, at in (
                    ("listed", of.counts.listed_at),
                    ("computed", of.counts.computed_at),
                    ("settled", of.counts.settled_at),
                )
                if at
            },
        }

    async def explain(self, args: Args) -> Args:
        """The objects behind a row, by table and name, or by name alone.

        Raises:
            RemoteError: nothing is known of it.
        """
        async with self._of.computing:
            return self._explained(args)

    def _explained(self, args: Args) -> Args:
        engine = self._of.engine
        text = str(args.get("row", ""))
        if engine is None:
            raise RemoteError(
                CODE_UNKNOWN, "this controller does not lead", f"ask {self._of.election.holder}"
            )
        rows = engine.book.rows
        found = [key for key in rows if text in (str(key), key.name)]
        found += [key for key, row in rows.items() if key not in found and _name(row) == text]
        if not found:
            raise RemoteError(
                CODE_UNKNOWN, f"no row of ours is {text!r}", "write TABLE NAME, or the row's name"
            )
        return {"rows": [self._row(key, rows[key]) for key in sorted(found)]}

    def _row(self, key: RowKey, row: Row) -> Args:
        of = self._of
        assert of.engine is not None
        failure = of.writer.failures.get(key)
        said = of.engine.book.sayers(key)
        return {
            "table": key.table,
            "name": key.name,
            "parent": f"{row.parent[0]} {row.parent[1]}" if row.parent else "",
            "columns": {name: _shown(value) for name, value in sorted(row.columns.items())},
            "refs": {name: sorted(map(str, keys)) for name, keys in row.refs.items()},
            "said_by": [{"unit": unit, "object": str(ref)} for unit, ref in said],
            "behind": [str(ref) for ref in of.engine.book.behind(key)],
            "refused": failure.reason if failure is not None else "",
        }


def _name(row: Row) -> str:
    name = row.columns.get("name", "")
    return name if isinstance(name, str) else ""


def _shown(value: object) -> object:
    if isinstance(value, frozenset):
        return sorted(value)
    return dict(value) if isinstance(value, tuple) else value
