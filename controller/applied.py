"""What the node daemon's rounds have done so far, for status and metrics."""

from __future__ import annotations

from dataclasses import dataclass

from dataplane.reconcile.report import Report


@dataclass(frozen=True, slots=True)
class Applied:
    """What the rounds so far did; times since the epoch [s].

    `problem` is why a round failed; a round of everything that succeeds clears it.
    """

    rounds: int = 0
    writes: int = 0
    last_at: float = 0.0
    last_ms: float = 0.0
    last_writes: int = 0
    first_writes: int | None = None
    problem: str = ""

    def add(self, report: Report, at: float, ms: float, *, whole: bool) -> Applied:
        """With one more round."""
        return Applied(
            rounds=self.rounds + 1,
            writes=self.writes + report.writes,
            last_at=at,
            last_ms=ms,
            last_writes=report.writes,
            first_writes=report.writes if self.first_writes is None else self.first_writes,
            problem="" if whole else self.problem,
        )
