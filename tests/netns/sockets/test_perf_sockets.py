"""`millrace perf sockets` measures what it says: each row is there, and in its condition."""

from __future__ import annotations

import json
import subprocess

import pytest

from perf import judge, sockets
from perf.harness import socketbench
from perf.harness.catalog import SCENARIOS
from perf.sockets import main_command

pytestmark = pytest.mark.netns


def test_every_condition_is_measured(capsys: pytest.CaptureFixture[str]) -> None:
    quick = ["--json", "--rounds", "2", "--scale", "0.01", "--services", "20"]
    assert main_command(quick) == 0
    result = json.loads(capsys.readouterr().out)
    rows = {(row["what"], row["family"], row["condition"]): row for row in result["rows"]}
    for (what, family, condition), row in rows.items():
        assert len(row["samples_ns"]) == 2
        assert min(row["samples_ns"]) > 0
        if condition != "none":
            assert row["program_ns"] > 0, (what, family, condition)
    assert len(judge.sockets(result)) == 16


def test_the_harness_has_a_sample_of_each_way() -> None:
    ways = [each for each in SCENARIOS if each.lab == "sockets"]
    assert len(ways) == 6
    with socketbench.built() as bench:
        for scenario in ways:
            told = bench.sample(scenario, 0, 0.1)
            assert told.values["call_ns"] > 0
        assert len(bench.configuration(ways[0])["programs"]) > 2


def test_the_cgroup_of_a_process_that_is_no_more_is_removed() -> None:
    gone = subprocess.Popen(["true"])
    gone.wait()
    left = sockets.cgroup2_mount() / f"millrace-perf-{gone.pid}"
    left.mkdir()
    with subprocess.Popen(["sleep", "300"]) as asleep:
        (left / "cgroup.procs").write_text(str(asleep.pid))
        with sockets.own_cgroup() as ours:
            sockets.sweep()
            assert ours.is_dir()
        assert not left.exists()
        assert asleep.wait(60) < 0
