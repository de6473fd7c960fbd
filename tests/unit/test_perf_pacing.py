"""Whose fault a missed rate is, and that a priority is one among all sessions."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from perf import priority
from perf.pacing import Pair, Why


@pytest.mark.parametrize(
    ("sent", "away_s", "line_away_s", "refused_s", "why"),
    [
        (1000.0, 0.1, 0.1, 0.3, Why.KEPT),
        (995.5, 0.0, 0.0, 0.0, Why.KEPT),
        (900.0, 0.02, 0.04, 0.3, Why.TAKEN),
        (900.0, 0.02, 0.02, 0.3, Why.REFUSED),
        (900.0, 0.02, 0.02, 0.04, Why.GENERATOR),
        (1010.0, 0.2, 0.2, 0.2, Why.GENERATOR),
    ],
)
def test_a_missed_rate_is_blamed_on_who_lost_as_much_time(
    sent: float, away_s: float, line_away_s: float, refused_s: float, why: Why
) -> None:
    pair = Pair(1250, 1000, sent, 1250, 0.5, 0.5, away_s, line_away_s, refused_s)
    assert pair.why is why


def test_a_priority_is_its_sessions_among_all_sessions() -> None:
    running = subprocess.Popen(
        [sys.executable, "-c", "input()"], stdin=subprocess.PIPE, start_new_session=True
    )
    try:
        priority.give(running.pid, priority.LAST)
        assert Path(f"/proc/{running.pid}/stat").read_text().rpartition(")")[2].split()[16] == "19"
        group = Path(f"/proc/{running.pid}/autogroup")
        if group.exists() and group.read_text():
            assert group.read_text().split()[-1] == "19"
    finally:
        running.kill()
        running.communicate()
    with pytest.raises(ProcessLookupError):
        priority.give(running.pid, priority.LAST)
