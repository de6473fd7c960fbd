"""A benchmark that is asked to end takes its lab away first."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from perf import labrun
from perf.labrun import Progress, iperf_time

BENCHMARK = """
import os, sys, time
from contextlib import contextmanager
from pathlib import Path
from perf.labrun import in_lab

os.geteuid = lambda: 0

@contextmanager
def lab():
    try:
        yield
    finally:
        time.sleep(0.3)
        Path(sys.argv[1]).write_text("taken away")

def measure(progress):
    with lab():
        print("ready", flush=True)
        time.sleep(60)

in_lab("bench", measure)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_lab_is_taken_away_when_its_benchmark_is_asked_to_end(
    tmp_path: Path, number: signal.Signals
) -> None:
    left = tmp_path / "left"
    with subprocess.Popen(
        [sys.executable, "-c", BENCHMARK, str(left)],
        cwd=Path(__file__).parents[2],
        stdout=subprocess.PIPE,
        text=True,
    ) as run:
        assert run.stdout is not None
        assert run.stdout.readline() == "ready\n"
        run.send_signal(number)
        run.send_signal(number)  # an impatient one does not cut it short
        assert run.wait(30) == 128 + number
    assert left.read_text() == "taken away"


def test_handlers_are_put_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 0)
    before = signal.getsignal(signal.SIGTERM)

    def measure(progress: Progress) -> bool:
        progress("at work")
        return signal.getsignal(signal.SIGTERM) is not before

    assert labrun.in_lab("bench", measure)
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.parametrize(("seconds", "told"), [(0.0, "1"), (0.6, "1"), (1.0, "1"), (1.5, "2")])
def test_iperf_is_told_whole_seconds_and_never_none(seconds: float, told: str) -> None:
    assert iperf_time(seconds) == told
