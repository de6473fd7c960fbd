"""From samples to words, and from benchmarks' JSON to verdicts."""

from __future__ import annotations

import json

import pytest

from perf import judge, judgecontrol
from perf.verdicts import Verdict, Word, quartiles, ratios, table
from tests.soak.verdicts import Verdicts, spread

CASES = {
    "all far below the bound": ((0.2, 0.3, 0.4), 1.0, Word.BETTER),
    "below the bound": ((0.7, 0.8, 0.9), 1.0, Word.WITHIN),
    "at the bound": ((1.0,), 1.0, Word.WITHIN),
    "above the bound": ((1.1, 1.2), 1.0, Word.WORSE),
    "on both sides of the bound": ((0.9, 1.1), 1.0, Word.TOO_NOISY),
    "an outlier of many decides nothing": ((0.7, 0.7, 0.7, 0.7, 0.7, 9.0), 1.0, Word.WITHIN),
    "a lucky one of many decides nothing": ((0.1, 2.0, 2.0, 2.0, 2.0, 2.0), 1.0, Word.WORSE),
    "nothing written where nothing may be": ((0.0, 0.0), 0.0, Word.BETTER),
    "something written where nothing may be": ((2.0, 2.0), 0.0, Word.WORSE),
}


@pytest.mark.parametrize("case", CASES)
def test_the_middle_half_of_the_samples_decides(case: str) -> None:
    samples, bound, word = CASES[case]
    verdict = Verdict("claim", samples, bound, "baseline")
    assert verdict.word is word
    assert verdict.red == (word is Word.WORSE)


def test_a_cni_call_is_judged_by_ovs_and_ovn_alone() -> None:
    names = ("vhost-user ADD", "vhost-user DEL", "veth ADD", "veth DEL")
    calls = [{"name": "alone", "ms": [18, 20, 22]}, *({"name": n, "ms": [30, 70]} for n in names)]
    many = {"containers": 100, "add_s": 3.0}
    verdicts = judgecontrol.cni({"calls": calls, "at_once": [many]})
    assert [one.samples for one in verdicts] == [(1.5, 3.5)] * 4 + [(1.5,)]
    assert verdicts[0].bound == 3.0


def test_samples_are_compared_with_the_median_of_the_baseline() -> None:
    assert ratios([2, 4], [1, 2, 30]) == (1.0, 2.0)
    assert quartiles([1, 2, 3, 4, 5]) == (2, 4)


def test_the_table_names_the_claim_the_bound_and_the_word() -> None:
    text = table([Verdict("a claim", (1.0, 3.0), 2.0, "something")])
    assert "a claim" in text
    assert "2 (1..3)" in text
    assert "too noisy" in text


def _size(ports: int, cpu: float) -> dict[str, object]:
    start = {"seconds": cpu, "cpu_s": cpu, "rss_mib": 70.0, "writes": 0}
    return {
        "ports": ports,
        "starts": [start],
        "restarts": [start],
        "changes": [{"map_ms": 10.0, "northd_ms": 20.0, "after_commit_ms": 3.0}],
        "change_cpu_ms": 5.0,
        "idle_cpu_percent": 1.0,
        "rss_mib": 70.0,
    }


def test_a_cluster_that_costs_more_than_its_size_is_worse() -> None:
    good = {"sizes": [_size(100, 0.5), _size(10_000, 5.0)]}
    bad = {"sizes": [_size(100, 0.5), _size(10_000, 80.0)]}
    assert not [one for one in judgecontrol.control(good) if one.red]
    assert [one.claim for one in judgecontrol.control(bad) if one.red] == [
        "control, 10,000 ports: start, CPU"
    ]


@pytest.mark.parametrize("text", ["", "{}", '{"sizes": []}', '{"sizes": [{}]}', "[]"])
def test_what_is_no_result_has_no_verdict(text: str) -> None:
    assert isinstance(judge.judged(judgecontrol.control, text), str)


def test_a_second_pass_through_the_datapath_is_worse() -> None:
    def trials(passes: float) -> list[dict[str, float]]:
        return [{"cycles_per_packet": 300.0, "passes_per_packet": passes}] * 3

    scenarios = [
        {"name": "port-to-port flows", "trials": trials(1.0)},
        {"name": "OVN logical switch", "trials": trials(2.0)},
    ]
    found = judge.judged(judge.vhost, json.dumps({"scenarios": scenarios}))
    assert not isinstance(found, str)
    assert [one.claim for one in found if one.red] == ["vhost-user, OVN switch, passes/packet"]


def test_a_hosts_way_that_is_slower_than_a_tap_is_worse() -> None:
    both = {"ovn0": [1.0, 1.1], "tap": [2.0, 2.2]}
    samples = dict.fromkeys(
        ("container_rtt_ms", "guest_rtt_ms", "churn_p99_ms", "tcp_out_gbit_s", "tcp_in_gbit_s"),
        both,
    )
    found = {one.claim.split()[-1]: one for one in judge.hostway({"samples": samples})}
    # Half the time is better, half the rate is not.
    assert found["guest_rtt_ms"].word is Word.BETTER
    assert found["tcp_out_gbit_s"].red


def test_the_soaks_table_says_what_failed() -> None:
    verdicts = Verdicts()
    verdicts.note("good", spread([1, 2, 3]), holds=True)
    verdicts.note("bad", spread([]), holds=False)
    assert verdicts.table().splitlines() == ["pass  good  2 (1..3), n=3", "FAIL  bad   none"]
