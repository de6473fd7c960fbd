"""`millrace perf sockets` measures what it says: each row is there, and in its condition."""

from __future__ import annotations

import json

import pytest

from perf import judge
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
