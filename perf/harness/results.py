"""The result of a run as JSON: one schema, with a version; every trial is in it.

A reader takes its own schema and refuses another by name, so that no figure is ever taken for one
that it is not.
"""

from __future__ import annotations

import json
import os
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from perf.harness.generator import HarnessError
from perf.harness.verdict import Better

SCHEMA = "millrace.perf.results/1"
FILE = "results.json"


@dataclass(frozen=True, slots=True)
class Metric:
    """A figure of each trial: its unit and which way is good."""

    unit: str
    better: Better
    title: str


@dataclass(frozen=True, slots=True)
class Trial:
    """One trial as it was measured.

    `values` are the scenario's metrics; `counters` what the data plane counted meanwhile; `drops`
    packets by the place that dropped them; `latency` a histogram (perf.harness.latency).
    """

    scenario: str
    number: int
    began: float
    seconds: float
    load: float
    values: dict[str, float]
    counters: dict[str, float] = field(default_factory=dict)
    drops: dict[str, int] = field(default_factory=dict)
    latency: str = ""


@dataclass(frozen=True, slots=True)
class Measured:
    """A scenario with its trials, its traffic, and how the data plane was set meanwhile."""

    name: str
    title: str
    family: str
    primary: str
    topology: str
    traffic: dict[str, Any]
    metrics: dict[str, Metric]
    trials: tuple[Trial, ...]
    configuration: dict[str, Any] = field(default_factory=dict)
    problem: str = ""

    def samples(self, metric: str) -> list[float]:
        """One figure over all trials that have it."""
        return [trial.values[metric] for trial in self.trials if metric in trial.values]


@dataclass(frozen=True, slots=True)
class Results:
    """One run. `complete`: every trial that was planned is in it."""

    schema: str
    began: str
    complete: bool
    plan: dict[str, Any]
    environment: dict[str, Any]
    scenarios: tuple[Measured, ...]


def write(path: Path, results: Results) -> None:
    """The file is the old one or the new one, whenever one looks and whatever happens."""
    save(path, msgspec.json.format(msgspec.json.encode(results), indent=1))


def save(path: Path, text: bytes) -> None:
    """Write a file in one step, durably."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, partial = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as into:
            into.write(text)
            into.flush()
            os.fsync(into.fileno())
        Path(partial).chmod(0o644)
        Path(partial).replace(path)
    except BaseException:
        Path(partial).unlink(missing_ok=True)
        raise


def read(path: Path) -> Results:
    """A result file, or the one in a run's directory.

    Raises:
        HarnessError: there is none, it is not JSON, or of another schema.
    """
    file = path / FILE if path.is_dir() else path
    try:
        text = file.read_bytes()
    except OSError as error:
        msg = f"{file}: no results: {error.strerror}; `millrace perf run` writes them"
        raise HarnessError(msg) from error
    try:
        told = json.loads(text)
    except ValueError as error:
        msg = f"{file}: not JSON: {error}"
        raise HarnessError(msg) from error
    schema = told.get("schema") if isinstance(told, dict) else None
    if schema != SCHEMA:
        msg = f"{file}: its schema is {schema!r}, and this reads {SCHEMA!r} alone"
        raise HarnessError(msg)
    try:
        return msgspec.convert(told, Results)
    except msgspec.ValidationError as error:
        msg = f"{file}: not as {SCHEMA} has it: {error}"
        raise HarnessError(msg) from error
