"""The lab of `millrace perf sockets` as the harness has it: connect-time translation, by calls."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from perf import sockets
from perf.harness.catalog import Scenario
from perf.harness.labs import Bench, Sample

SERVICES = 1_000
SCALE = 0.5
"""Of `millrace perf sockets`'s calls in a sample."""


class SocketBench:
    """Two processes that do the same, with the programs and without."""

    def __init__(self, lab: sockets.Lab) -> None:
        self._lab = lab
        self._rows = {
            f"{row.what}/{row.condition}": (row, targets, times)
            for row, targets, times in lab.rows(SCALE)
            if row.family == "IPv4"
        }

    def sample(self, scenario: Scenario, number: int, seconds: float) -> Sample:
        """The mean of some thousand calls."""
        del number, seconds
        row, targets, times = self._rows[scenario.way]
        took = self._lab.sample(row, targets, times)
        return Sample({"call_ns": took}, {"calls": float(times)})

    def configuration(self, scenario: Scenario) -> dict[str, Any]:
        """How many services, and the programs' tags."""
        del scenario
        programs = self._lab.loaded.programs
        tags = {hook.name: program.info().tag for hook, program in programs.items()}
        return {"services": SERVICES, "programs": tags}


@contextmanager
def built() -> Iterator[Bench]:
    """The lab, warm."""
    with sockets.built(SERVICES) as lab:
        for row, targets, times in lab.rows(SCALE / 10):
            lab.sample(row, targets, times)
        yield SocketBench(lab)
