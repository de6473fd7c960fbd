"""A benchmark of the programs that is interrupted: nothing is left, nothing is lost, it goes on."""

from __future__ import annotations

from pathlib import Path

from tests.labs import perfruns

SCENARIOS = ("xdp-established", "xdp-new")
TRIALS = 10


def test_interrupted_at_any_moment(tmp_path: Path) -> None:
    run = tmp_path / "run"
    told = perfruns.interrupt(
        run,
        ["--trials", str(TRIALS), *SCENARIOS],
        building=lambda: bool(perfruns.workers(run)),
        gone=lambda: not perfruns.mentioning(str(run)),
    )
    assert told.complete
    assert [len(each.trials) for each in told.scenarios] == [TRIALS] * len(SCENARIOS)
    assert all(ratio > 0 for each in told.scenarios for ratio in each.samples("floors"))
