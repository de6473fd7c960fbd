"""A run's directory: its plan, every trial as soon as it was measured, the environment, results.

A trial is one line, appended and synced; a run that ended in the middle of one has lost that one
trial and nothing else. `resume` is: read the plan, take the trials that are there as done.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

from perf.harness import catalog, results, senders, stats, texts
from perf.harness.catalog import Scenario
from perf.harness.generator import HarnessError
from perf.harness.results import Measured, Results, Trial

PLAN_SCHEMA = "millrace.perf.plan/1"
PLAN, TRIALS, ENVIRONMENT = "plan.json", "trials.jsonl", "environment.json"
MOST_TRIALS, MOST_SECONDS = 1000, 3600.0
_MAC = re.compile(r"[0-9a-fA-F]{2}(:[0-9a-fA-F]{2}){5}")


@dataclass(frozen=True, slots=True)
class Plan:
    """What a run is asked to do.

    Attributes:
        size: of frames, where a path takes another than its own.
        ports: EAL's words of one or two ports; what is cabled between them is every path then.
        dst_mac: of the frames that go out there.
        sender: a command that sends instead (perf.harness.senders); every path is what it sends on.
        rate_pps: at which is measured; None: it is searched.
        client: a command's words before those of what runs at the sending one of two given ends.
        address: of the other.
        kernel: whether latency inside the kernel is looked at, where frames go through its stack.
    """

    scenarios: tuple[str, ...]
    trials: int
    seconds: float
    size: int | None = None
    core: int = 0
    ports: tuple[str, ...] = ()
    dst_mac: str = ""
    rate_pps: float | None = None
    kernel: bool = False
    client: str = ""
    address: str = ""
    sender: str = ""
    schema: str = PLAN_SCHEMA

    def __post_init__(self) -> None:
        """Refuse what cannot be run.

        Raises:
            HarnessError: trials or seconds outside what there is.
        """
        if not 1 <= self.trials <= MOST_TRIALS:
            msg = f"{self.trials} trials of each scenario: 1 to {MOST_TRIALS}"
            raise HarnessError(msg)
        if not 0.05 <= self.seconds <= MOST_SECONDS:
            msg = f"trials of {self.seconds:g} s: 0.05 to {MOST_SECONDS:g}"
            raise HarnessError(msg)
        if self.rate_pps is not None and self.rate_pps * self.seconds < 1:
            msg = f"rate {self.rate_pps:g} packets/s: no packet in {self.seconds:g} s"
            raise HarnessError(msg)
        given = bool(self.client and self.address)
        if given != any(each.lab == "ends" for each in self.chosen()) or given != bool(
            self.client or self.address
        ):
            msg = "--client and --address go with the scenarios ends-*, and these with both of them"
            raise HarnessError(msg)
        if self.dst_mac and not _MAC.fullmatch(self.dst_mac):
            msg = f"--dst-mac {self.dst_mac}: six octets in hex with colons"
            raise HarnessError(msg)
        if self.dst_mac and not (self.ports or self.sender):
            msg = f"--dst-mac {self.dst_mac}: of what is at --port, and none is given"
            raise HarnessError(msg)
        if self.sender and self.ports:
            msg = "--sender and --port: one of them sends"
            raise HarnessError(msg)
        if self.sender:
            senders.command_of(self.sender)
        if len(self.ports) > 2:
            msg = f"{len(self.ports)} ports: one, or one that sends and one that receives"
            raise HarnessError(msg)
        for scenario in self.chosen() if self.ports or self.sender else ():
            if scenario.lab != "paced" or not scenario.loads:
                where = "--port" if self.ports else "--sender"
                msg = f"{scenario.name}: the harness builds its path, so it has no place on {where}"
                raise HarnessError(msg)
        for port in self.ports:
            if not port.startswith(("-a", "--allow", "--vdev")):
                msg = f"--port={port!r} is no port of EAL's: '-a 0000:03:00.0' or '--vdev=...'"
                raise HarnessError(msg)

    def chosen(self) -> list[Scenario]:
        """Its scenarios.

        Raises:
            HarnessError: one that this version does not have.
        """
        return catalog.chosen(
            self.scenarios, size=self.size, rate_pps=self.rate_pps, kernel=self.kernel
        )

    def schedule(self, lab: str) -> list[tuple[str, int]]:
        """A lab's trials in their order, (scenario, number): A-B-B-A."""
        names = [each.name for each in self.chosen() if each.lab == lab]
        if not names:
            return []
        order = stats.abba(names, self.trials)
        return [(name, place // len(names)) for place, name in enumerate(order)]

    def labs(self) -> list[str]:
        """Those it needs, in order."""
        used = {each.lab for each in self.chosen()}
        return [lab for lab in catalog.LABS if lab in used]


@dataclass(slots=True)
class Record:
    """What `trials.jsonl` holds."""

    trials: list[Trial] = field(default_factory=list)
    configurations: dict[str, dict[str, Any]] = field(default_factory=dict)
    texts: dict[str, str] = field(default_factory=dict)
    problems: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class RunDirectory:
    """One run's."""

    path: Path

    def create(self, plan: Plan, environment: dict[str, Any]) -> None:
        """A new one.

        Raises:
            HarnessError: there is a run in it already, or it cannot be written.
        """
        if (self.path / PLAN).exists():
            msg = f"{self.path} has a run: go on with it (--resume {self.path}), or name another"
            raise HarnessError(msg)
        try:
            results.save(self.path / ENVIRONMENT, json.dumps(environment, indent=1).encode())
            results.save(self.path / PLAN, json.dumps(asdict(plan), indent=1).encode())
        except OSError as error:
            msg = (
                f"{self.path} cannot be a run's directory: {error.strerror}; name another (--into)"
            )
            raise HarnessError(msg) from error

    @contextmanager
    def held(self, patience_s: float, waiting: Callable[[], None]) -> Iterator[int]:
        """Hold the run, so that nobody measures it twice; a descriptor for who has to hold it, too.

        What a killed command has left clears up behind itself for a while, and holds it meanwhile.

        Raises:
            HarnessError: somebody still holds it after `patience_s`.
        """
        handle = os.open(self.path / PLAN, os.O_RDONLY | os.O_CLOEXEC)
        until, told = time.monotonic() + patience_s, False
        try:
            while True:
                try:
                    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError as error:
                    if time.monotonic() >= until:
                        msg = f"{self.path} is being measured by another `millrace perf run`"
                        raise HarnessError(msg) from error
                if not told:
                    told = True
                    waiting()
                time.sleep(0.1)
            yield handle
        finally:
            os.close(handle)

    def plan(self) -> Plan:
        """What it was asked.

        Raises:
            HarnessError: there is no plan, or not one of this schema.
        """
        file = self.path / PLAN
        try:
            text = file.read_bytes()
        except OSError as error:
            msg = f"{self.path} has no run to go on with: {error.strerror}"
            raise HarnessError(msg) from error
        return results.parsed(file, text, (PLAN_SCHEMA,), Plan)

    def append(self, kind: str, value: Any) -> None:
        """One line, on disk when this returns."""
        line = msgspec.json.encode({"kind": kind, "value": value}) + b"\n"
        handle = os.open(self.path / TRIALS, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            end = os.fstat(handle).st_size
            # A line that a killed process left half stays alone: it is no part of this one.
            if end and os.pread(handle, 1, end - 1) != b"\n":
                line = b"\n" + line
            os.write(handle, line)
            os.fsync(handle)
        finally:
            os.close(handle)

    def describe(self, scenario: str, configuration: dict[str, Any], known: set[str]) -> None:
        """Keep how the data plane is set; of long texts those that are not `known` yet."""
        packed, apart = texts.pack(configuration)
        new = {digest: text for digest, text in apart.items() if digest not in known}
        self.append("configuration", {"scenario": scenario, "is": packed, "texts": new})
        known |= set(new)

    def record(self) -> Record:
        """Everything measured; of a trial that is there twice, the first; half lines are none.

        A problem of a scenario or a lab is forgotten once a later trial of it was recorded.
        """
        found = Record()
        labs = {each.name: each.lab for each in catalog.SCENARIOS}
        file = self.path / TRIALS
        seen: set[tuple[str, int]] = set()
        for line in file.read_bytes().splitlines() if file.exists() else ():
            try:
                told = json.loads(line)
                kind, value = told["kind"], told["value"]
                if kind == "trial":
                    trial = msgspec.convert(value, Trial)
                    # What an earlier attempt failed of does not explain why this one ended.
                    for whose in (trial.scenario, labs.get(trial.scenario, "")):
                        found.problems.pop(whose, None)
                    if (trial.scenario, trial.number) not in seen:
                        seen.add((trial.scenario, trial.number))
                        found.trials.append(trial)
                elif kind == "configuration":
                    found.configurations[value["scenario"]] = value["is"]
                    found.texts |= value.get("texts", {})
                elif kind == "problem":
                    found.problems[value["lab"]] = value["reason"]
            except (ValueError, KeyError, TypeError):
                continue
        return found

    def missing(self, lab: str) -> list[tuple[str, int]]:
        """A lab's trials that are not there yet, in order."""
        done = {(trial.scenario, trial.number) for trial in self.record().trials}
        return [each for each in self.plan().schedule(lab) if each not in done]

    def finish(self, began: str) -> Results:
        """Put `results.json` together from what there is; `began`: of who measured last."""
        plan, record = self.plan(), self.record()
        # A run that is resumed is as old as its first trial.
        stamps = [datetime.fromtimestamp(each.began, UTC) for each in record.trials]
        began = min([began, *(stamp.isoformat(timespec="seconds") for stamp in stamps)])
        environment = json.loads((self.path / ENVIRONMENT).read_bytes())
        made = [_measured(each, record, plan.trials) for each in plan.chosen()]
        complete = all(len(each.trials) >= plan.trials for each in made)
        found = Results(
            results.SCHEMA, began, complete, asdict(plan), environment, tuple(made), record.texts
        )
        results.write(self.path / results.FILE, found)
        # As anybody else has it: tuples are lists by then.
        return results.read(self.path)


def _measured(scenario: Scenario, record: Record, planned: int) -> Measured:
    trials: Sequence[Trial] = sorted(
        (each for each in record.trials if each.scenario == scenario.name),
        key=lambda trial: trial.number,
    )
    return Measured(
        scenario.name,
        scenario.title,
        scenario.lab,
        scenario.primary,
        scenario.topology,
        {**asdict(scenario.traffic), "carrier": scenario.carrier.value},
        dict(scenario.metrics),
        tuple(trials),
        record.configurations.get(scenario.name, {}),
        "" if len(trials) >= planned else _problem(scenario, record),
    )


def _problem(scenario: Scenario, record: Record) -> str:
    """Why trials of it are missing; empty: nobody could say, as of who was killed.

    Who was killed before the first trial leaves no trace: the reason is then an earlier attempt's.
    """
    return record.problems.get(scenario.name, record.problems.get(scenario.lab, ""))
