"""What perf.kernelhops makes of counts, and what perf.kerneltrace says where it cannot count."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perf import kernelhops, kerneltrace
from perf.kernelhops import Drops, Event, Histogram, Hop, Polls, Redirects, Report, bounds


def slot_of(ns: int) -> int:
    """As kernelhops.c has it."""
    if ns < 8:
        return ns
    top = ns.bit_length() - 1
    return (top - 2) * 8 + ((ns >> (top - 3)) & 7)


@given(st.integers(0, 2**63))
def test_a_slot_holds_what_it_counts_and_is_an_eighth_wide(ns: int) -> None:
    low, end = bounds(slot_of(ns))
    assert low <= ns < end
    assert end - low <= max(low / 8, 1)


@given(st.lists(st.integers(0, 10**9), min_size=1), st.sampled_from([1, 50, 90, 99.9, 100]))
def test_a_percentile_is_the_end_of_the_slot_of_the_sample_of_that_rank(
    taken: list[int], percent: float
) -> None:
    slots: dict[int, int] = {}
    for ns in taken:
        slots[slot_of(ns)] = slots.get(slot_of(ns), 0) + 1
    rank = math.ceil(len(taken) * percent / 100 - 1e-9)
    exact = sorted(taken)[max(rank, 1) - 1]
    assert Histogram(slots).percentile(percent) == bounds(slot_of(exact))[1]


def test_a_histogram_of_nothing_has_no_percentile() -> None:
    with pytest.raises(ValueError, match="of nothing"):
        Histogram({}).percentile(50)


def test_bars_leave_no_power_of_two_out_and_show_whatever_was_counted() -> None:
    bars = Histogram({slot_of(1_000): 1_000_000, slot_of(9_000): 1}).bars()
    assert [line.split()[-2:] for line in bars[:1]] == [["1000000", "#" * 40]]
    assert [line.rstrip().endswith("#") for line in bars] == [True, *[False] * 3, True]


@pytest.mark.parametrize(
    ("ns", "said"),
    [(0, "0 ns"), (999, "999 ns"), (1_500, "1.5 us"), (12_300_000, "12.3 ms"), (10**9, "1 s")],
)
def test_durations_have_the_unit_that_is_read_best(ns: int, said: str) -> None:
    assert kernelhops.duration(ns) == said


def _report() -> Report:
    counted = [
        (Event.RECEIVED, "r0", Event.QUEUED, "r1", slot_of(2_000), 9),
        (Event.ENTERED, "r0", Event.SENT, "r1", slot_of(4_000), 9),
        (Event.ENTERED, "r0", Event.SENT, "r1", slot_of(90_000), 1),
        (Event.SENT, "r1", Event.DROPPED, "", slot_of(100), 1),
        (Event.SENT, "r1", Event.FREED, "", slot_of(100), 0),
    ]
    return Report(
        2.0, kernelhops.hops(counted), {"NET_RX waited": Histogram({30: 4})},
        (Polls("r0", 4, 10, 0),), (Drops("r1", "QDISC_DROP", 1),),
        (Redirects("redirected", 3, 0, 7),), 0, 5, "6.1", "/headers", ("net:netif_rx",),
    )  # fmt: skip


def test_hops_of_the_same_two_places_are_one_and_the_way_through_is_first() -> None:
    hops = _report().hops
    assert [hop.title for hop in hops] == ["in r0 -> sent r1", "received r0 -> queued r1",
                                           "sent r1 -> dropped"]  # fmt: skip
    assert hops[0].took.count == 10
    assert not hops[1].touches(["b0"])
    assert hops[1].touches(["r1"])
    assert hops[1].touches([])


def test_the_text_names_every_place_figure_and_what_is_absent() -> None:
    text = _report().text()
    for words in ("in r0 -> sent r1", "4.1 us", "QDISC_DROP", "net:netif_rx", "2.5", "3 -> 0",
                  "NET_RX waited", "5 events"):  # fmt: skip
        assert words in text


def test_nothing_seen_is_said() -> None:
    assert "no socket buffer was seen twice" in Report(1.0, ()).text()


def test_json_has_the_schema_and_every_bucket() -> None:
    told = json.loads(json.dumps(_report().told()))
    assert told["schema"] == kernelhops.SCHEMA
    through = told["hops"][0]
    assert (through["from"], through["to"]) == ({"event": "entered", "device": "r0"},
                                                {"event": "sent", "device": "r1"})  # fmt: skip
    assert sum(count for _, _, count in through["buckets"]) == through["count"] == 10
    assert through["p50_ns"] == 4_096


def test_a_hop_is_found_by_its_ends() -> None:
    report = _report()
    assert isinstance(report.of(Event.ENTERED, "r0", Event.SENT, "r1"), Hop)
    assert report.of(Event.ENTERED, "r1", Event.SENT, "r0") is None


def _halves(tmp_path: Path) -> tuple[Path, Path]:
    """A header tree as Debian has it, in two folders."""
    specific, common = tmp_path / "headers-amd64", tmp_path / "headers-common"
    (specific / "include/generated").mkdir(parents=True)
    (specific / "include/generated/autoconf.h").touch()
    (specific / "arch/x86/include/generated").mkdir(parents=True)
    (specific / "Makefile").write_text("include /usr/src/headers-common/Makefile\n")
    (common / "include/linux").mkdir(parents=True)
    (common / "include/linux/kconfig.h").touch()
    (common / "arch/x86/include/asm").mkdir(parents=True)
    return specific, common


def test_debians_two_folders_become_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    specific, _ = _halves(tmp_path)
    monkeypatch.setenv(kerneltrace.ENVIRONMENT, str(specific))
    monkeypatch.setattr(kerneltrace, "ARCHITECTURE", "x86")
    with kerneltrace.headers() as tree:
        for path in ("include/generated/autoconf.h", "include/linux/kconfig.h",
                     "arch/x86/include/asm", "arch/x86/include/generated"):  # fmt: skip
            assert (tree / path).exists()
    assert not tree.exists()


@pytest.mark.parametrize(
    ("remove", "half", "says"),
    [
        ("", "common", "is not configured"),
        ("headers-common/include/linux/kconfig.h", "amd64", "has no include/linux/kconfig.h"),
    ],
)
def test_half_a_tree_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, remove: str, half: str, says: str
) -> None:
    _halves(tmp_path)
    if remove:
        (tmp_path / remove).unlink()
    monkeypatch.setenv(kerneltrace.ENVIRONMENT, str(tmp_path / f"headers-{half}"))
    with pytest.raises(kerneltrace.AbsentError, match=says), kerneltrace.headers():
        pass


def test_a_folder_without_headers_is_refused_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(kerneltrace.ENVIRONMENT, str(tmp_path))
    with pytest.raises(kerneltrace.AbsentError) as told, kerneltrace.headers():
        pass
    assert str(tmp_path) in str(told.value)
    assert "linux-headers-cloud-amd64" in str(told.value)


def test_without_bcc_the_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "bcc", None)
    with pytest.raises(kerneltrace.AbsentError, match="python3-bpfcc"):
        kerneltrace.Trace()


@pytest.mark.parametrize("words", [["--seconds", "0"], ["--seconds=-1"], ["--seconds", "nan"]])
def test_a_time_that_is_none_is_refused(words: list[str]) -> None:
    with pytest.raises(SystemExit) as told:
        kerneltrace.main_command(words)
    assert told.value.code == kerneltrace.USAGE
