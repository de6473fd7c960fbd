"""The result of a run as JSON: one schema, with a version; every trial is in it.

A reader takes schemas that it knows and refuses another by name, so that no figure is ever taken
for one that it is not.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from dataplane.drivers import durable
from perf.harness import texts
from perf.harness.generator import HarnessError
from perf.harness.verdict import Better

T = TypeVar("T")

SCHEMA = "millrace.perf.results/3"
EARLIER = ("millrace.perf.results/2",)
"""3: long texts of configurations are in `texts`, once each; 2 had them in each scenario, which is
what 3 without any `texts` is. So both are read, and 3 is written."""

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
    packets by the place that dropped them; `latency` histograms (perf.harness.latency) by load, in
    percent of the PDR of the same trial.
    """

    scenario: str
    number: int
    began: float
    seconds: float
    load: float
    values: dict[str, float]
    counters: dict[str, float] = field(default_factory=dict)
    drops: dict[str, int] = field(default_factory=dict)
    latency: dict[str, str] = field(default_factory=dict)


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
    """One run. `complete`: every planned trial is in it; `texts`: see perf.harness.texts."""

    schema: str
    began: str
    complete: bool
    plan: dict[str, Any]
    environment: dict[str, Any]
    scenarios: tuple[Measured, ...]
    texts: dict[str, str] = field(default_factory=dict)

    def configuration(self, name: str) -> Any:
        """How the data plane was set in a scenario, with all of its flows.

        Raises:
            HarnessError: there is no such scenario, or the file is not whole.
        """
        for each in self.scenarios:
            if each.name == name:
                return texts.unpack(each.configuration, self.texts)
        there = ", ".join(each.name for each in self.scenarios)
        msg = f"the run of {self.began} has no scenario {name!r}; it has {there}"
        raise HarnessError(msg)


def write(path: Path, results: Results) -> None:
    """The file is the old one or the new one, whenever one looks and whatever happens."""
    save(path, msgspec.json.format(msgspec.json.encode(results), indent=1))


def save(path: Path, text: bytes) -> None:
    """Write a file in one step, durably."""
    path.parent.mkdir(parents=True, exist_ok=True)
    durable.put(path, text, 0o644)


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
    return parsed(file, text, (SCHEMA, *EARLIER), Results)


def _no_number(word: str) -> float:
    """Python's JSON has NaN and infinities, which no figure may be.

    Raises:
        ValueError: always.
    """
    msg = f"{word} is no number"
    raise ValueError(msg)


def parsed(file: Path, text: bytes, schemas: tuple[str, ...], kind: type[T]) -> T:
    """What a file says, if it is of a schema that we read.

    Raises:
        HarnessError: it is not JSON, of another schema, or not as the schema has it.
    """
    try:
        told = json.loads(text, parse_constant=_no_number)
    except ValueError as error:
        msg = f"{file}: not JSON: {error}"
        raise HarnessError(msg) from error
    found = told.get("schema") if isinstance(told, dict) else None
    if found not in schemas:
        ours = " and ".join(repr(schema) for schema in schemas)
        msg = f"{file}: its schema is {found!r}, and this reads {ours} alone"
        raise HarnessError(msg)
    try:
        return msgspec.convert(told, kind)
    except msgspec.ValidationError as error:
        msg = f"{file}: not as {found} has it: {error}"
        raise HarnessError(msg) from error
