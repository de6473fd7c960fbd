"""What `millrace perf qos` makes of counts: IP octets, and which cases say anything."""

from __future__ import annotations

import json
from dataclasses import asdict, replace

import pytest

from perf import judge
from perf.qos import Case, case_of, ip_rate, line
from perf.qoslab import CONTAINER, VM, Counts


def case(received: int, sent: int, unshaped: float, seconds: float = 10.0) -> Case:
    counts = Counts(seconds, sent, received, received * 64, 0)
    return case_of(VM, 1_000_000, 64, counts, unshaped, sending=True)


def test_the_ethernet_header_does_not_count() -> None:
    assert ip_rate(Counts(10.0, 0, 25_000, 25_000 * 64, 0)) == 1_000_000
    exact = case(25_000, 50_000, 2e6)
    assert (exact.ratio, exact.frame_ratio, exact.offered) == (1.0, 1.28, 2_000_000)
    assert exact.judged
    assert exact.holds


@pytest.mark.parametrize(
    ("received", "sent", "unshaped", "word"),
    [
        (26_000, 50_000, 2e6, "holds"),
        (26_300, 50_000, 2e6, "FAILS"),
        (23_700, 50_000, 2e6, "FAILS"),
        (23_700, 30_000, 2e6, "not judged"),
        (12_000, 50_000, 1.4e6, "not judged"),
    ],
)
def test_a_case_is_judged_where_the_path_and_the_sender_carry_more(
    received: int, sent: int, unshaped: float, word: str
) -> None:
    assert line(case(received, sent, unshaped)).endswith(word)


def verdicts(*cases: Case) -> dict[str, bool]:
    found = judge.qos({"cases": [asdict(one) for one in cases]})
    return {one.claim: one.red for one in found}


def test_the_case_that_is_furthest_off_decides_for_its_way() -> None:
    exact, short = case(25_000, 50_000, 2e6), case(23_600, 50_000, 2e6)
    received = replace(exact, kind=CONTAINER, sending=False, rate=100_000_000, size=1500)
    assert verdicts(exact, short, received) == {
        "limits, vm sends, worst of 2: 1 Mbit/s at 64": True,
        "limits, container receives, worst of 1: 100 Mbit/s at 1500": False,
    }


def test_what_the_path_did_not_carry_decides_nothing() -> None:
    exact, idle = case(25_000, 50_000, 2e6), case(10_000, 50_000, 1.4e6)
    assert verdicts(exact, idle) == {"limits, vm sends, worst of 1: 1 Mbit/s at 64": False}


@pytest.mark.parametrize("cases", [[], [case(10_000, 50_000, 1.4e6)]])
def test_a_run_that_judged_nothing_has_no_verdict(cases: list[Case]) -> None:
    text = json.dumps({"cases": [asdict(one) for one in cases]})
    assert "its JSON is not as expected" in str(judge.judged(judge.qos, text))
