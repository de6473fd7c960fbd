"""What a database file of OVS remembers: each transaction with the time of its commit.

Source: ovsdb(5), "Standalone Database Files": after each header a line of JSON, with the rows that
a transaction changed, null for a deleted one, and `_date` in ms since the epoch. Nothing that
watches from outside can be as near to what vswitchd saw.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Stay:
    """One row's time in the database: its commits [s since the epoch], infinity while it is in."""

    added: float
    gone: float

    @property
    def seconds(self) -> float:
        """How long it was there."""
        return self.gone - self.added


def stays(database: Path, port: str) -> list[Stay]:
    """Every Port row of this name, in the order in which they were added."""
    added: dict[str, float] = {}
    gone: dict[str, float] = {}
    for line in database.read_text(encoding="utf-8").splitlines():
        if not line.startswith("{"):
            continue
        record = json.loads(line)
        for uuid, row in record.get("Port", {}).items():
            at = record["_date"] / 1000
            if row is None:
                gone[uuid] = at
            elif row.get("name") == port:
                added[uuid] = at
    return [Stay(at, gone.get(uuid, math.inf)) for uuid, at in added.items()]
