"""What `millrace perf containers` prints of samples, and what its judge says of them."""

from __future__ import annotations

import json

import pytest

from perf import judge
from perf.containers import Underlay, Way, main_command, report, table
from perf.verdicts import Word

WAYS = (
    Way("trunk", [4.0, 4.4], [0, 1], [0.03, 0.04]),
    Way("port", [1.0, 1.2], [900, 1000], [0.05, 0.06]),
    Way("bridge", [12.0, 12.2], [0, 0], [0.007, 0.007]),
)
UNDERLAYS = (Underlay(1500, 1442, list(WAYS)), Underlay(3506, 3448, list(WAYS)))


def test_the_trunk_is_judged_by_both_others() -> None:
    found = judge.judged(judge.containers, json.dumps(report(UNDERLAYS)))
    assert not isinstance(found, str)
    assert [(one.baseline, one.bound) for one in found] == [
        ("port", 0.5), ("port", 1.0), ("bridge", 3.0), ("bridge", 7.0),
    ] * 2  # fmt: skip
    assert ["3506" in one.claim for one in found] == [False] * 4 + [True] * 4
    assert [one.word for one in found[:2]] == [Word.WITHIN, Word.WITHIN]
    assert found[0].samples == (1.1 / 4.0, 1.1 / 4.4)
    slow = Underlay(1500, 1442, [Way("trunk", [1.0], [0], [0.1]), *WAYS[1:]])
    assert all(one.red for one in judge.containers(report([slow])))


def test_a_missing_way_is_no_verdict() -> None:
    half = json.dumps(report([Underlay(1500, 1442, [WAYS[0]])]))
    assert "not as expected" in str(judge.judged(judge.containers, half))


def test_the_table_has_a_line_for_each_way_and_underlay() -> None:
    lines = table(UNDERLAYS).splitlines()
    assert lines[0].split()[:3] == ["underlay", "MTU", "way"]
    assert [tuple(line.split()[:3]) for line in lines[1:]] == [
        (underlay, mtu, way)
        for underlay, mtu in (("1500", "1442"), ("3506", "3448"))
        for way in ("trunk", "port", "bridge")
    ]
    assert "4.20 (4.00..4.40)" in lines[1]


@pytest.mark.parametrize("mtu", ["1279", "9000"])
def test_an_mtu_that_no_link_carries_is_refused(
    mtu: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main_command(["--underlay-mtu", mtu])
    assert ended.value.code == 2
    assert f"--underlay-mtu {mtu}: from 1400 to 3506" in capsys.readouterr().err
