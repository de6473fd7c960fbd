"""One lab's trials: `python -m perf.harness.worker RUN LAB KEEPER`, which is the keeper's pid.

Each trial is on disk before the next begins. SIGTERM ends the trial under way and takes the lab
down; what it cannot take down any more, the keeper does. That it dies is such a signal, too.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from types import FrameType

from dataplane.ports import DataplaneError
from perf.harness import labs, stolen
from perf.harness.catalog import SCENARIOS
from perf.harness.generator import HarnessError
from perf.harness.results import Trial
from perf.harness.rundir import Plan, RunDirectory
from perf.harness.scenario import Scenario

DONE, FAILED, STOPPED = 0, 1, 3
_PR_SET_PDEATHSIG = 1
"""linux/prctl.h"""


class Stopped(BaseException):
    """Somebody wants this to end; no `except Exception` may hold it up."""


def _stop(_number: int, _frame: FrameType | None) -> None:
    # Once: a second signal would break off the taking down.
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    raise Stopped


def tell(event: str, **more: object) -> None:
    """A line for the display; that there is none any more is no reason to stop."""
    with contextlib.suppress(OSError):
        sys.stdout.write(json.dumps({"event": event, **more}) + "\n")
        sys.stdout.flush()


def _built(
    plan: Plan, lab: str, progress: Callable[[str], None]
) -> AbstractContextManager[labs.Bench]:
    if plan.ports:
        from perf.harness import wires

        return wires.built(plan.ports, plan.dst_mac, plan.core, progress)
    if plan.sender:
        from perf.harness import wires

        return wires.foreign(plan.sender, plan.dst_mac)
    if lab == "ends":
        from perf.harness import ends

        return ends.built(plan.client, plan.address)
    made: AbstractContextManager[labs.Bench] = labs.BUILDERS[lab](plan.core, progress)
    return made


def sampled(bench: labs.Bench, scenario: Scenario, number: int, seconds: float) -> labs.Sample:
    """One trial, and another where it failed: a shared machine's bad moment is no scenario's fault.

    Raises:
        HarnessError: both failed.
    """
    try:
        return bench.sample(scenario, number, seconds)
    except HarnessError as error:
        tell("note", lab=scenario.name, line=f"{error}; once more")
    return bench.sample(scenario, number, seconds)


def run(directory: RunDirectory, lab: str) -> int:
    """All trials of a lab that are missing; the exit code."""
    plan, todo = directory.plan(), directory.missing(lab)
    known = {each.name: each for each in plan.chosen()}
    there = directory.record()
    described, known_texts = set(there.configurations), set(there.texts)
    unmeasured: set[str] = set()
    if not todo:
        return DONE
    tell("build", lab=lab)

    def progress(line: str) -> None:
        tell("step", lab=lab, line=line)

    try:
        with _built(plan, lab, progress) as bench:
            tell("built", lab=lab)
            for name, number in todo:
                began, clock, before = time.time(), time.monotonic(), stolen.stolen_s()
                tell("trial", scenario=name, number=number)
                if name in unmeasured:
                    continue
                try:
                    found = sampled(bench, known[name], number, plan.seconds)
                except HarnessError as error:
                    # Of this scenario alone: the lab is up, and the others' turns go on.
                    unmeasured.add(name)
                    directory.append("problem", {"lab": name, "reason": str(error)})
                    tell("note", lab=name, line=str(error))
                    continue
                took = time.monotonic() - clock
                counters = {**found.counters, **stolen.counters(before, took)}
                directory.append(
                    "trial",
                    Trial(
                        name, number, began, took, os.getloadavg()[0], found.values,
                        counters, found.drops, found.latency,
                    ),
                )  # fmt: skip
                tell("done", scenario=name, number=number, seconds=took)
                if name not in described:
                    described.add(name)
                    directory.describe(name, bench.configuration(known[name]), known_texts)
    except (DataplaneError, ImportError, OSError) as error:
        reason = f"{type(error).__name__}: {error}"
        directory.append("problem", {"lab": lab, "reason": reason})
        tell("problem", lab=lab, reason=reason)
        return FAILED
    return FAILED if unmeasured else DONE


def main(argv: Sequence[str]) -> int:
    """Run, and say by the exit code how it ended."""
    path, lab, keeper = argv
    if lab not in {each.lab for each in SCENARIOS}:
        msg = f"there is no lab {lab!r}"
        raise SystemExit(msg)
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        signal.signal(number, _stop)
    try:
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != int(keeper):
            return STOPPED
        return run(RunDirectory(Path(path)), lab)
    except Stopped:
        return STOPPED


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
