"""Runs of `millrace perf run`, interrupted in every way, for the tests of what is left of them."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random

from dataplane.drivers import processes
from perf.harness import results
from perf.harness.results import Results
from perf.harness.rundir import RunDirectory
from perf.pktgen.driver import Load, Pktgen, Trial

MILLRACE = str(Path(sys.executable).with_name("millrace"))
PATIENCE_S = 120.0
INTERRUPTED, FAILED = 130, 1


def mentioning(*texts: str) -> dict[int, str]:
    """Command lines of other processes in which one of the texts is."""
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                words = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            except OSError:  # it has ended meanwhile
                continue
            if any(text in words for text in texts):
                found[int(entry.name)] = words
    return found


def started(run: Path, words: Sequence[str]) -> subprocess.Popen[bytes]:
    """A run with these arguments, or the same run again."""
    again = (run / "plan.json").exists()
    where = ["--resume", str(run)] if again else ["--into", str(run), *words]
    with (run.parent / "log").open("ab") as log:
        return subprocess.Popen(
            [MILLRACE, "perf", "run", *where], stdin=subprocess.DEVNULL, stdout=log, stderr=log
        )


def measured(run: Path) -> list[tuple[str, int]]:
    """Scenario and number of each trial that is on disk."""
    return [(each.scenario, each.number) for each in RunDirectory(run).record().trials]


def workers(run: Path) -> list[int]:
    """The processes that measure for a run."""
    return [pid for pid, words in mentioning(str(run)).items() if "perf.harness.worker" in words]


def interrupt(
    run: Path, words: Sequence[str], building: Callable[[], bool], gone: Callable[[], bool]
) -> Results:
    """Interrupt a run four times, in four ways, and let it end the fifth time.

    Raises:
        AssertionError: something was left of it, or lost.
        ProcessError: it did not come so far.
    """
    command = started(run, words)
    processes.wait_until(building, "the lab is being built", timeout_s=PATIENCE_S)
    command.send_signal(signal.SIGINT)
    assert command.wait(PATIENCE_S) == INTERRUPTED
    processes.wait_until(gone, "nothing is left", timeout_s=PATIENCE_S)
    assert not results.read(run).complete
    seen = measured(run)
    for kind, to_worker, code in (
        (signal.SIGTERM, False, INTERRUPTED),
        (signal.SIGKILL, False, -signal.SIGKILL),
        (signal.SIGKILL, True, FAILED),
    ):
        command = started(run, words)
        wanted = len(seen) + 1
        processes.wait_until(
            lambda wanted=wanted: len(measured(run)) >= wanted,  # type: ignore[misc]
            "another trial",
            timeout_s=PATIENCE_S,
        )
        for pid in workers(run) if to_worker else [command.pid]:
            os.kill(pid, kind)
        ended = command.wait(PATIENCE_S)
        assert ended == code, f"{ended} after {kind.name}"
        processes.wait_until(gone, "nothing is left", timeout_s=PATIENCE_S)
        now = measured(run)
        assert now[: len(seen)] == seen, "what was measured is kept"
        assert len(set(now)) == len(now), "no trial is measured twice"
        seen = now
    before = (run / "trials.jsonl").read_bytes()
    assert started(run, words).wait(PATIENCE_S) == 0, (run.parent / "log").read_text()
    processes.wait_until(gone, "nothing is left", timeout_s=PATIENCE_S)
    assert (run / "trials.jsonl").read_bytes().startswith(before)
    return results.read(run)


def keepers(run: Path) -> list[int]:
    """The processes that see to it that a run's labs go away."""
    return [pid for pid, words in mentioning(str(run)).items() if "perf.harness.keeper" in words]


def interrupt_at_random(
    run: Path, words: Sequence[str], gone: Callable[[], bool], seed: int, times: int
) -> Results:
    """End a run's processes at moments that nobody chose, then let it come to its end.

    Whom a signal meets, and when, comes from `seed`. Keeper and worker that are killed leave what
    only the next run can clear up behind: `gone` is asked after the last one.

    Raises:
        AssertionError: something was left, or lost, or measured twice.
    """
    random = Random(seed)
    seen: list[tuple[str, int]] = []
    for _ in range(times):
        command = started(run, words)
        processes.wait_until((run / "plan.json").exists, "the run has a plan", timeout_s=PATIENCE_S)
        with contextlib.suppress(subprocess.TimeoutExpired):
            command.wait(random.uniform(0.0, 2.5))
        whom = random.choice(("command", "worker", "keeper", "both"))
        kind = random.choice((signal.SIGINT, signal.SIGTERM, signal.SIGKILL))
        aims = {"command": [command.pid], "worker": workers(run), "keeper": keepers(run)}
        aims["both"] = aims["keeper"] + aims["worker"]
        for pid in aims[whom]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, kind)
        if whom in ("keeper", "both") and kind is not signal.SIGKILL:
            # The command decides, and a keeper says so by going on.
            command.send_signal(signal.SIGINT)
        command.wait(PATIENCE_S)
        processes.wait_until(
            lambda: not workers(run) and not keepers(run), "no process is left",
            timeout_s=PATIENCE_S,
        )  # fmt: skip
        now = measured(run)
        assert now[: len(seen)] == seen, f"{whom} met {kind.name}: what was measured is kept"
        assert len(set(now)) == len(now), "no trial is measured twice"
        seen = now
    assert started(run, words).wait(PATIENCE_S) == 0, (run.parent / "log").read_text()
    processes.wait_until(gone, "nothing is left", timeout_s=PATIENCE_S)
    return results.read(run)


def until_whole(generator: Pktgen, load: Load) -> Trial:
    """A run that lost nothing: on a busy machine one may have met somebody else's work.

    Raises:
        ProcessError: there was none.
    """
    found: list[Trial] = []

    def whole() -> bool:
        found.append(generator.run(load))
        return not found[-1].lost

    processes.wait_until(whole, "a run without loss", timeout_s=PATIENCE_S)
    assert found[-1].sent == round(load.pps * load.seconds)
    return found[-1]
