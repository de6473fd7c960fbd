"""What a round found otherwise than planned, for the log: who asks later has only the counts."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from dataplane.reconcile.decision import ABSENT, Decision

log = logging.getLogger(__name__)

ROWS = 3
"""Of each table in a round: after a change of everything more would say nothing more."""

LETTERS = 400
"""Of each value."""


def tell(table: str, decision: Decision[Any, Any], actual: Mapping[Any, Any]) -> None:
    """Log the first rows that this decision writes or removes: what is there, what shall be."""
    rows = [*decision.upserts[:ROWS], *((key, ABSENT) for key in decision.deletes[:ROWS])]
    for key, wanted in rows:
        log.info(
            "row_differs",
            extra={
                "table": table,
                "row": str(key),
                "is": repr(actual.get(key, ABSENT))[:LETTERS],
                "wanted": repr(wanted)[:LETTERS],
            },
        )
