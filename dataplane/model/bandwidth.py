"""Rates that a workload's port is held to, as they are asked for: bits, both directions."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Bandwidth:
    """One direction of one port.

    Attributes:
        rate: bits a second, of IP packets (docs/qos.md).
        burst: bits that may pass at once; None: `dataplane.plan.qos` chooses.
    """

    rate: int
    burst: int | None = None


@dataclass(frozen=True, slots=True)
class Limits:
    """What the workload may send and what it may receive; None is no limit."""

    send: Bandwidth | None = None
    receive: Bandwidth | None = None

    def over(self, other: Limits) -> Limits:
        """These, and the other's where these say nothing."""
        return Limits(self.send or other.send, self.receive or other.receive)


UNLIMITED = Limits()
