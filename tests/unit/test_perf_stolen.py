"""What the host took of the processors is in each trial, and in the reports."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from perf.harness import pacedtrial, reading, reporting, stolen
from perf.harness.generator import Counts, Traffic
from perf.harness.results import Trial
from perf.harness.rundir import Plan, RunDirectory


def test_stolen_time_is_a_share_of_all_processors(tmp_path: Path) -> None:
    stat, tick = tmp_path / "stat", os.sysconf("SC_CLK_TCK")
    stat.write_text(f"cpu  1 2 3 4 5 6 7 {3 * tick} 0 0\ncpu0 1 2 3 4 5 6 7 8 0 0\n")
    assert stolen.stolen_s(stat) == 3.0
    processors = os.cpu_count() or 1
    assert stolen.counters(1.0, 4.0, stat) == {"stolen_share": pytest.approx(0.5 / processors)}
    assert stolen.counters(5.0, 4.0, stat) == {"stolen_share": 0.0}
    for text in ("", "cpu 1 2\n", "cpu x\n"):
        stat.write_text(text)
        assert stolen.stolen_s(stat) == 0.0
    assert stolen.stolen_s(tmp_path / "none") == 0.0
    assert stolen.stolen_s() >= 0.0


def test_reports_and_comparisons_say_what_the_host_took(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    directory = RunDirectory(tmp_path)
    directory.create(Plan(("p2p",), 3, 1.0), {"kernel": "6.1"})
    for number, share in enumerate((0.01, 0.02, 0.3)):
        counters = {"stolen_share": share, "sender_away_share": 0.125}
        trial = Trial("p2p", number, 0.0, 1.0, 0.5, {"pdr": 1.0}, counters)
        directory.append("trial", trial)
    run = directory.finish("2026-01-01T00:00:00+00:00")
    said = "The host took 2.0% of the processors' time (median; at most 30.0%)."
    assert said in reporting.markdown(run)
    assert said.replace("'", "&#x27;") in reporting.html(run)
    assert "sender away" in reporting.html(run)
    assert reading.compare_command([str(tmp_path), str(tmp_path)]) in {0, 3}
    told = capsys.readouterr().err
    assert "A: in 1 of 3 trials the host took over 5% of the processors' time" in told
    silent = tuple(
        replace(each, trials=tuple(replace(trial, counters={}) for trial in each.trials))
        for each in run.scenarios
    )
    assert "The host took" not in reporting.html(replace(run, scenarios=silent))


def test_a_trial_says_how_long_its_sender_was_away_and_the_path_refused() -> None:
    class Held:
        name, paced = "held", True

        def start(self, traffic: Traffic, duration_s: float) -> Counts:
            count = round((traffic.rate_pps or 0) * duration_s)
            return Counts(count, count - 1, 2 * duration_s, away_s=duration_s, refused_s=0.5)

    found = pacedtrial.measure(Held(), Traffic(1_000), 2.0)
    assert found.counters() == {
        "search_trials": 1.0, "lost_at_greatest_load": 1.0, "sender_away_share": 0.5,
        "path_refused_share": 0.125,
    }  # fmt: skip
