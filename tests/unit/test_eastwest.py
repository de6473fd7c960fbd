"""What `millrace perf eastwest` makes of its samples."""

from __future__ import annotations

from dataclasses import asdict

import pytest

from perf import eastwest, judge
from perf.eastwest import SHARES, SVC0, SWITCH, Case
from perf.verdicts import Word


def cases(svc0: dict[int, float], switch: dict[int, float]) -> list[Case]:
    """Three samples of each case: 10 % around these rates [1000/s]."""
    found = []
    for stateful in (False, True):
        for share in SHARES:
            for way, rates in ((SVC0, svc0), (SWITCH, switch)):
                rate = rates[share]
                case = Case(way, share, stateful, kpps=[rate * 0.9, rate, rate * 1.1])
                case.lost_percent = [0.0] * 3
                case.cycles_per_packet = [1000.0] * 3
                case.passes_per_packet = [1.0 if way == SVC0 and not share else 3.0] * 3
                case.megaflows = [3, 3, 3]
                found.append(case)
    return found


LITTLE = {0: 4000.0, 10: 1250.0, 50: 500.0}
FLAT = dict.fromkeys(SHARES, 1000.0)


def test_the_break_even_lies_where_the_times_of_both_ways_meet() -> None:
    # Times of an exchange: 0.8 at 10 %, 2.0 at 50 %, against 1.0; even at 10 + 40 * 0.2 / 1.2.
    share = eastwest.break_even(cases(LITTLE, FLAT), stateful=False)
    assert share == pytest.approx(10 + 40 / 6)


def test_one_way_that_is_always_better_has_no_break_even() -> None:
    assert eastwest.break_even(cases(FLAT, LITTLE | {0: 500.0, 10: 500.0}), stateful=True) is None
    always = dict.fromkeys(SHARES, 2000.0)
    assert eastwest.break_even(cases(always, FLAT), stateful=False) is None


def test_the_verdicts_are_of_machines_that_use_services_little() -> None:
    told = judge.eastwest({"cases": [asdict(case) for case in cases(LITTLE, FLAT)]})
    assert [verdict.word for verdict in told] == [Word.WITHIN, Word.WITHIN, Word.WITHIN]
    slow = cases(LITTLE | {10: 700.0}, FLAT)
    told = judge.eastwest({"cases": [asdict(case) for case in slow]})
    assert [verdict.word for verdict in told] == [Word.WITHIN, Word.WORSE, Word.WITHIN]


def test_the_table_has_a_line_for_each_case_and_the_switchs_ratio_is_one() -> None:
    lines = eastwest.table(cases(LITTLE, FLAT)).splitlines()
    assert len(lines) == 1 + 2 * 2 * len(SHARES)
    of_switch = [line for line in lines if f" {SWITCH} " in line]
    assert all("1.00 (0.90..1.10)" in line for line in of_switch)
