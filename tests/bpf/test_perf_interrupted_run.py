"""A benchmark of the programs that is interrupted: nothing is left, nothing is lost, it goes on."""

from __future__ import annotations

from pathlib import Path

import pytest

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


@pytest.mark.parametrize("seed", [1, 2])
def test_whoever_is_met_whenever_nothing_is_left_or_lost(tmp_path: Path, seed: int) -> None:
    run = tmp_path / "run"
    told = perfruns.interrupt_at_random(
        run,
        ["--trials", str(TRIALS), *SCENARIOS],
        gone=lambda: not perfruns.mentioning(str(run)),
        seed=seed,
        times=6,
    )
    assert told.complete
    assert [len(each.trials) for each in told.scenarios] == [TRIALS] * len(SCENARIOS)
