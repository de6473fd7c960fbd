"""How long a failed row is left alone: pure arithmetic."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dataplane.ports import Failure


@dataclass(frozen=True, slots=True)
class Delays:
    """Doubling delays between two bounds [s].

    Raises:
        ValueError: the bounds are not 0 < first <= last.
    """

    first: float
    last: float

    def __post_init__(self) -> None:
        if not 0 < self.first <= self.last:
            msg = f"a back-off from {self.first} s to {self.last} s is none: give 0 < first <= last"
            raise ValueError(msg)

    def after(self, attempts: int) -> float:
        """The delay [s] after so many failures in a row (1 and more)."""
        # The exponent is bounded so that a row failing for years does not overflow a float.
        return min(self.last, self.first * 2.0 ** min(attempts - 1, 60))


@dataclass(frozen=True, slots=True)
class Backoff:
    """The three delays: of an error, of waiting for something else, and of a quarantine."""

    error: Delays = field(default_factory=lambda: Delays(1.0, 60.0))
    waiting: Delays = field(default_factory=lambda: Delays(0.2, 5.0))
    quarantine: Delays = field(default_factory=lambda: Delays(30.0, 3600.0))

    def delay(self, failure: Failure, attempts: int) -> float:
        """How long [s] to leave a row alone after its `attempts`-th failure in a row."""
        if failure.quarantine:
            return self.quarantine.after(attempts)
        if failure.waiting:
            return self.waiting.after(attempts)
        return self.error.after(attempts)
