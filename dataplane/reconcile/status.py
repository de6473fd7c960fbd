"""What the operator sees of every object: where it stands, why, and since when."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class State(StrEnum):
    """Where one row stands."""

    PENDING = "pending"
    DONE = "done"
    ERROR = "error"


@dataclass(frozen=True, slots=True)
class Status:
    """One row's state.

    `since` is the caller's clock [s] when this state and reason began. `attempts` counts the tries
    since the row was last changed or put right. A quarantined row was taken back after the surface
    refused it, and is left out until its long back-off ends or the operator asks for a retry.
    """

    state: State
    reason: str
    since: float
    attempts: int
    quarantined: bool = False
