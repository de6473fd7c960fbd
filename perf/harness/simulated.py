"""A device that forwards a known rate with known noise: what the search is proved on. Pure."""

from __future__ import annotations

import numpy as np

from perf.harness.generator import Counts, Traffic


class SimulatedDevice:
    """Forwards up to `ndr_pps`, each trial's capacity scattered by `noise` (a share, normal).

    `floor` is lost at any rate, as on a machine whose processors are shared.
    """

    def __init__(self, ndr_pps: float, noise: float, seed: int, floor: float = 0.0) -> None:
        self.ndr_pps, self.noise, self.floor = ndr_pps, noise, floor
        self._random = np.random.default_rng(seed)

    @property
    def name(self) -> str:
        """For results and messages."""
        return "simulated device"

    @property
    def paced(self) -> bool:
        """It keeps every rate."""
        return True

    def start(self, traffic: Traffic, duration_s: float) -> Counts:
        """One trial, at once."""
        rate = traffic.rate_pps if traffic.rate_pps is not None else 10 * self.ndr_pps
        sent = round(rate * duration_s)
        capacity = self.ndr_pps * (1 + self.noise * self._random.standard_normal()) * duration_s
        # The whole packet at the edge counts as forwarded: the known rate itself loses nothing.
        got = min(sent, max(0, int(np.ceil(capacity))))
        return Counts(sent, got - int(got * self.floor), duration_s)
