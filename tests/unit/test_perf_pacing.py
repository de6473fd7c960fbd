"""Whose fault a missed rate is."""

from __future__ import annotations

import pytest

from perf.pacing import Pair, Why


@pytest.mark.parametrize(
    ("sent", "away_s", "line_away_s", "refused_s", "why"),
    [
        (1000.0, 0.1, 0.1, 0.3, Why.KEPT),
        (995.5, 0.0, 0.0, 0.0, Why.KEPT),
        (900.0, 0.02, 0.04, 0.3, Why.TAKEN),
        (900.0, 0.02, 0.02, 0.3, Why.REFUSED),
        (900.0, 0.02, 0.02, 0.04, Why.GENERATOR),
        (1010.0, 0.2, 0.2, 0.2, Why.EXCEEDED),
    ],
)
def test_a_missed_rate_is_blamed_on_who_lost_as_much_time(
    sent: float, away_s: float, line_away_s: float, refused_s: float, why: Why
) -> None:
    pair = Pair(1250, 1000, sent, 1250, 0.5, 0.5, away_s, line_away_s, refused_s)
    assert pair.why is why
