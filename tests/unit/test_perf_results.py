"""A run's directory, its results, and what reads them: nothing measured is lost or misread."""

from __future__ import annotations

import errno
import json
import os
import re
import xml.dom.minidom
from dataclasses import replace
from datetime import UTC, datetime
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from perf import servedlab
from perf.harness import (
    catalog,
    cli,
    fingerprint,
    kernellook,
    latency,
    ovscount,
    reading,
    reporting,
    results,
    selftest,
    svg,
)
from perf.harness.cli import list_command, run_command
from perf.harness.generator import HarnessError
from perf.harness.results import Results, Trial
from perf.harness.rundir import Plan, RunDirectory

NAMES = ("vm-vm-flows", "vm-vm-ovn", "xdp-new")


@cache
def timed(number: int) -> str:
    """A histogram of ten packets."""
    return latency.summary([(1000 * (number + 1), 10)]).encoded


def filled(path: Path, scale: float = 1.0, trials: int = 6, began: str = "2026-01-01") -> Results:
    """A run whose trials are made up; its figures are no measurement."""
    directory = RunDirectory(path)
    first = datetime.fromisoformat(began).replace(tzinfo=UTC).timestamp()
    directory.create(Plan(NAMES, trials, 1.0), {"kernel": "6.1", "cpus": 2, "cpu": "a <b>"})
    for lab in directory.plan().labs():
        for name, number in directory.missing(lab):
            metrics = next(each for each in catalog.SCENARIOS if each.name == name).metrics
            values = dict.fromkeys(metrics, scale * (100 + number % 3 + number / 10))
            trial = Trial(name, number, first, 1.0, 0.5, values, {"packets": 9.0}, {"NIC: p0": 2})
            directory.append(
                "trial", replace(trial, latency={"10": timed(number), "50": timed(number)})
            )
    return directory.finish(began)


def test_a_run_is_read_as_it_was_written(tmp_path: Path) -> None:
    run = filled(tmp_path)
    assert run.complete
    assert results.read(tmp_path) == run == results.read(tmp_path / "results.json")
    assert [len(each.trials) for each in run.scenarios] == [6, 6, 6]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('{"schema": "somebody.else/7"}', "'somebody.else/7'"),
        ("{}", "None"),
        ("[1]", "None"),
        ("no json", "not JSON"),
        ('{"schema": "millrace.perf.results/3", "began": 5}', "began"),
    ],
)
def test_another_schema_is_refused_by_name(
    tmp_path: Path, text: str, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "results.json"
    file.write_text(text)
    with pytest.raises(HarnessError, match=says):
        results.read(file)
    assert reading.compare_command([str(file), str(file)]) == reading.USAGE
    assert reading.report_command([str(tmp_path)]) == reading.USAGE
    assert says in capsys.readouterr().err


def test_half_a_line_costs_one_trial_and_a_trial_counts_once(tmp_path: Path) -> None:
    filled(tmp_path)
    directory, file = RunDirectory(tmp_path), tmp_path / "trials.jsonl"
    lines = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(b"".join(lines[:5]) + lines[5][:40])
    assert len(directory.record().trials) == 5
    left = [each for lab in directory.plan().labs() for each in directory.missing(lab)]
    assert len(left) == 13
    for line in (lines[5], lines[5], lines[0]):
        directory.append("trial", json.loads(line)["value"])
    assert len(directory.record().trials) == 6
    assert not directory.finish("now").complete


def test_a_directory_takes_one_run(tmp_path: Path) -> None:
    filled(tmp_path)
    with pytest.raises(HarnessError, match="--resume"):
        RunDirectory(tmp_path).create(Plan(NAMES, 1, 1.0), {})
    with pytest.raises(HarnessError, match="no run to go on with"):
        RunDirectory(tmp_path / "none").plan()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["nonsense"], "no scenario 'nonsense'"),
        (["vm-vm-ov"], "near it: vm-vm-ovn"),
        (["--size", "20000"], "20000 octets: Ethernet"),
        (["--size", "3600", "vm-vm-flows"], "over vhost-user, which carries 1518"),
        (["--size", "9000", "out-vm"], "9000 octets over af_xdp, which carries 3518"),
        (["--size", "512", "out-vm"], "octets only"),
        (["--size", "-5", "vm-vm-flows"], "-5 octets"),
        (["--trials", "0"], "0 trials"),
        (["--seconds", "-1"], "-1 s"),
        (["--seconds", "nan"], "nan s"),
        (["--core", "4096"], "CPU 4096"),
        (["--resume", "/nowhere"], "no run to go on with"),
        (["out-vm", "--port=a"], "out-vm: the harness builds its path"),
        (["p2p", "--port=a", "--port=b", "--port=c"], "3 ports"),
        (["p2p", "--port=eth0"], "'eth0' is no port of EAL's"),
        (["p2p", "--port=-a 0000:03:00.0", "--dst-mac", "zz"], "--dst-mac zz: six octets"),
        (["p2p", "--dst-mac", "0a:58:00:00:00:01"], "of what is at --port"),
        (["p2p", "--rate", "-5"], "rate -5 packets/s: more than 0"),
        (["p2p", "--rate", "1e12"], "rate 1e+12 packets/s: more than 0, and 1,000,000,000 at"),
        (["p2p", "--rate", ".1"], "rate 0.1 packets/s: no packet in 2 s"),
        (["ends-tcp"], "--client and --address"),
        (["ends-tcp", "--address", "::1"], "--client and --address"),
        (["p2p", "--client", "ssh vm-a", "--address", "::1"], "--client and --address"),
        (["p2p", "--kernel-latency"], "nothing of this goes through the kernel's stack"),
        (["p2p", "--rate", "0"], "rate 0 packets/s"),
        (["p2p", "--rate", "nan"], "rate nan packets/s"),
        (["vm-vm-flows", "--rate", "5"], "vm-vm-flows: its sender keeps no rate"),
        (["selftest-a1", "--rate", "5"], "selftest-a1: its sender keeps no rate"),
    ],
)
def test_nonsense_is_refused_with_the_reason(
    words: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command(["--dry-run", *words]) == 2
    assert says in capsys.readouterr().err


def test_who_goes_on_with_a_run_asks_for_nothing_else(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    filled(tmp_path)
    for words in (["--trials", "9"], ["p2p"], ["--quick"], ["--core", "0"], ["--rate", "5"]):
        assert run_command(["--resume", str(tmp_path), *words]) == 2
        told = capsys.readouterr().err
        assert "its own plan" in told or "own plan: leave" in told
        assert words[0] in told or "scenario" in told


def test_a_figure_that_is_no_number_is_refused(tmp_path: Path) -> None:
    filled(tmp_path)
    file = tmp_path / "results.json"
    told = json.loads(file.read_text())
    told["scenarios"][0]["trials"][0]["values"]["cycles"] = float("nan")
    file.write_text(json.dumps(told))
    with pytest.raises(HarnessError, match="NaN is no number"):
        results.read(tmp_path)


def test_what_cannot_be_written_is_told_apart_from_a_verdict(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    filled(tmp_path)
    where, run = str(tmp_path / "plan.json" / "below"), str(tmp_path)
    assert reading.compare_command([run, run, "--junit", where]) == reading.USAGE
    assert where in capsys.readouterr().err
    assert reading.report_command([run, "--page", str(tmp_path / "none.md")]) == reading.USAGE
    assert "none.md: No such file" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("plan", "says"),
    [
        (b"{", "not JSON"),
        (b"[]", "its schema is None"),
        (b'{"schema": "millrace.perf.plan/9"}', "'millrace.perf.plan/9'"),
        (b'{"schema": "millrace.perf.plan/1"}', "missing required field"),
        (
            b'{"schema": "millrace.perf.plan/1", "scenarios": ["gone"], "trials": 1, "seconds": 1}',
            "no scenario 'gone'",
        ),
        (
            b'{"schema": "millrace.perf.plan/1", "scenarios": ["p2p"], "trials": 0, "seconds": 1}',
            "0 trials",
        ),
    ],
)
def test_a_plan_that_is_none_is_not_gone_on_with(
    tmp_path: Path, plan: bytes, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "plan.json").write_bytes(plan)
    assert run_command(["--resume", str(tmp_path)]) == 2
    assert says in capsys.readouterr().err


def test_a_place_that_takes_no_run_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "file"
    file.touch()
    for where in (file, file / "below"):
        with pytest.raises(HarnessError, match="cannot be a run's directory"):
            RunDirectory(where).create(Plan(NAMES, 1, 1.0), {})


def test_a_run_that_is_resumed_is_as_old_as_its_first_trial(tmp_path: Path) -> None:
    filled(tmp_path, began="2026-01-01")
    again = RunDirectory(tmp_path).finish("2026-02-01T08:00:00+00:00")
    assert again.began == "2026-01-01T00:00:00+00:00"


def test_trials_that_are_missing_are_told_and_how_to_make_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    RunDirectory(tmp_path).create(Plan(NAMES, 2, 1.0), {})
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(cli, "_Interrupt", lambda: SimpleNamespace(asked=False))
    # As if its worker had been killed.
    monkeypatch.setattr(cli, "_lab", lambda *_: 1)
    assert run_command(["--resume", str(tmp_path)]) == cli.FAILED
    said = capsys.readouterr().err
    assert f"6 trials are missing; reasons are in report.md, complaints in {tmp_path}/*.log" in said
    assert f"millrace perf run --resume {tmp_path}" in said


@pytest.mark.parametrize(
    ("error", "says", "full"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "No space left on device", True),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), "Disk quota exceeded", True),
        (OSError(errno.EROFS, "Read-only file system"), "Read-only file system", False),
        (OSError("closed"), "closed", False),
    ],
)
def test_results_that_cannot_be_written_are_told_with_the_cause_and_how_to_go_on(
    error: OSError,
    says: str,
    full: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    filled(tmp_path)

    def refuse(_path: Path, _text: bytes) -> None:
        raise error

    monkeypatch.setattr(results, "save", refuse)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(cli, "_Interrupt", lambda: SimpleNamespace(asked=False))
    # All was measured: there is nothing to start.
    assert run_command(["--resume", str(tmp_path)]) == cli.FAILED
    said = capsys.readouterr().err
    assert f"{tmp_path} cannot be written: {says};" in said
    assert ("make room" in said) == full
    assert f"--resume {tmp_path}" in said


def test_a_run_is_measured_by_one_command_at_a_time(tmp_path: Path) -> None:
    filled(tmp_path)
    run, waited = RunDirectory(tmp_path), list[str]()
    with (
        run.held(0.0, lambda: waited.append("first")),
        pytest.raises(HarnessError, match="measured by another"),
        run.held(0.2, lambda: waited.append("second")),
    ):
        pass
    with run.held(0.0, lambda: waited.append("third")):
        assert waited == ["second"]


def test_a_rate_takes_the_place_of_the_search() -> None:
    (made,) = catalog.chosen(["svc-nftables"], rate_pps=5e4)
    assert made.traffic.rate_pps == 5e4
    assert made.primary == "delivered"
    assert set(made.metrics) == {"delivered", "ns", "us50_100", "us99_100"}


def test_scenarios_are_chosen_by_patterns_too() -> None:
    found = [each.name for each in catalog.chosen(["svc-*-of-1", "p2p"])]
    ways = ("xdp", "ovn", "nftables", "iptables")
    assert found == ["p2p", *(f"svc-{way}-of-1" for way in ways)]
    with pytest.raises(HarnessError, match=r"no scenario 'svx-\*'"):
        catalog.chosen(["p2p", "svx-*"])


def test_a_pattern_asks_for_ends_only_where_it_asks_for_nothing_else() -> None:
    assert catalog.chosen(["*"]) == catalog.chosen([])
    ends = [each.name for each in catalog.SCENARIOS if each.lab == "ends"]
    assert ends
    assert [each.name for each in catalog.chosen(["ends-*"])] == ends
    assert [each.name for each in catalog.chosen(["*", ends[0]]) if each.lab == "ends"] == ends[:1]
    assert run_command(["--dry-run", "*"]) == 0


def test_one_service_and_ten_thousand_are_compared_for_every_way() -> None:
    names = {each.name for each in catalog.SCENARIOS}
    few = {each for each in names if re.search(r"-of-1(-new)?$", each)}
    assert {"svc-xdp-of-1", "svc-xdp-of-1-new", "svc-ovn-of-1"} <= few
    for name in few:
        assert name.replace("-of-1", "-of-10000") in catalog.AGAINST[name]


def test_a_problem_is_no_reason_for_what_a_later_attempt_left_out(tmp_path: Path) -> None:
    directory = RunDirectory(tmp_path)
    directory.create(Plan(("vm-vm-flows", "vm-vm-ovn", "xdp-new"), 2, 1.0), {})
    directory.append("problem", {"lab": "vhost", "reason": "no hugepages"})
    directory.append("problem", {"lab": "xdp-new", "reason": "no program"})

    def reasons() -> list[str]:
        return [each.problem for each in directory.finish("now").scenarios]

    assert reasons() == ["no hugepages", "no hugepages", "no program"]
    # Somebody got further, and was killed.
    for name in ("vm-vm-flows", "xdp-new"):
        directory.append("trial", Trial(name, 0, 1.0, 1.0, 0.5, {}, {}, {}, {}))
    assert reasons() == ["", "", ""]
    directory.append("problem", {"lab": "vhost", "reason": "no switch"})
    assert reasons() == ["no switch", "no switch", ""]


def test_services_of_each_size_have_a_lab_in_which_all_ways_take_turns() -> None:
    for base, others in catalog.AGAINST.items():
        labs = {each.lab for each in catalog.chosen([base, *others])}
        assert len(labs) == 1, base
    for size in ("1", "10000"):
        (ovn,) = catalog.chosen([f"svc-ovn-of-{size}"])
        assert f" {int(size):,} service" in ovn.topology
        assert ovn.way.partition("/")[0] in {way.name for way in servedlab.SIZED}


def test_a_look_into_the_kernel_is_had_where_frames_go_through_its_stack(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stack, program = catalog.chosen(["svc-nftables", "svc-xdp"], kernel=True)[::-1]
    assert (stack.name, stack.kernel, program.kernel) == ("svc-nftables", True, False)
    assert {"kernel50", "kernel99"} <= set(stack.metrics)
    assert "kernel50" not in program.metrics
    (many,) = catalog.chosen(["svc-iptables-of-10000"], kernel=True)
    assert many.kernel
    monkeypatch.setenv("BCC_KERNEL_SOURCE", str(tmp_path))
    assert run_command(["svc-nftables", "--kernel-latency", "--dry-run"]) == 2
    assert "absent here: latency inside the kernel" in capsys.readouterr().err
    hop = {"from": {"event": "entered", "device": "r0"}, "to": {"event": "sent", "device": "r1"}}
    told = {"missed": 2, "hops": [{**hop, "count": 7, "p50_ns": 1500, "p99_ns": 9000}]}
    assert kernellook.through(told, "r0", "r1").values() == {"kernel50": 1.5, "kernel99": 9.0}
    with pytest.raises(HarnessError, match="to leave by r0"):
        kernellook.through(told, "r1", "r0")


def test_a_run_of_one_number_of_trials_can_be_judged() -> None:
    assert cli.TRIALS == selftest.TRIALS_OF_A_RUN


def test_quick_is_at_least_eight_scenarios_in_ten_minutes(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run_command(["--dry-run", "--quick"]) == 0
    said = capsys.readouterr().out
    minutes = float(said.partition("in all about ")[2].split()[0])
    assert minutes < 10
    assert len(catalog.chosen((), quick=True)) >= 8


def test_the_list_is_json_with_what_each_path_carries(capsys: pytest.CaptureFixture[str]) -> None:
    assert list_command(["--json"]) == 0
    told: list[dict[str, Any]] = json.loads(capsys.readouterr().out)
    assert [each["name"] for each in told] == [each.name for each in catalog.SCENARIOS]
    assert all(each["primary"] in each["metrics"] for each in told)
    assert all(each["lab"] in catalog.LABS and each["largest_frame"] for each in told)
    assert len({each["name"] for each in told}) == len(told)


def test_the_schedule_goes_forward_and_back() -> None:
    plan = Plan(("vm-vm-flows", "vm-vm-ovn"), 2, 1.0)
    a, b = plan.scenarios
    assert plan.schedule("vhost") == [(a, 0), (b, 0), (b, 1), (a, 1)]
    assert plan.schedule("xdp") == []


def test_compare_says_by_its_exit_code_what_it_found(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    a, same, slower = (tmp_path / name for name in ("a", "same", "slower"))
    for path, scale in ((a, 1.0), (same, 1.001), (slower, 1.1)):
        filled(path, scale)
    assert reading.compare_command([str(a), str(same)]) == reading.OK
    assert "no difference" in capsys.readouterr().out
    junit = tmp_path / "verdicts.xml"
    assert reading.compare_command([str(a), str(slower), "--junit", str(junit)]) == reading.WORSE
    assert "worse" in capsys.readouterr().out
    assert "failure" in junit.read_text()
    assert reading.compare_command([str(slower), str(a)]) == reading.OK
    few = tmp_path / "few"
    filled(few, 1.1, trials=3)
    assert reading.compare_command([str(few), str(few), "--json"]) == reading.NOISY


def test_compare_refuses_other_traffic(tmp_path: Path) -> None:
    run = filled(tmp_path)
    other = replace(run.scenarios[0], traffic={**run.scenarios[0].traffic, "flows": 7})
    with pytest.raises(HarnessError, match="other traffic"):
        reading.compare(run, replace(run, scenarios=(other,)))
    with pytest.raises(HarnessError, match="in common"):
        reading.compare(run, replace(run, scenarios=()))


def test_trend_over_stored_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for day in range(1, 9):
        filled(tmp_path / f"run{day}", 1.0 if day < 5 else 1.2, began=f"2026-01-0{day}")
    assert reading.trend_command([str(tmp_path)]) == reading.WORSE
    assert "run5..run8" in capsys.readouterr().out
    assert reading.trend_command([str(tmp_path / "none")]) == reading.USAGE


class _Page(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.links: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [str(value) for key, value in attrs if key in {"src", "href"}]


def test_the_page_opens_offline_and_has_a_plot_for_each_metric(tmp_path: Path) -> None:
    run = filled(tmp_path)
    reporting.write_all(tmp_path, run)
    text = (tmp_path / "report.html").read_text()
    page = _Page()
    page.feed(text)
    assert "script" not in page.tags
    assert not page.links
    # Three figures of vhost, two of xdp, and for each two percentiles of latency over the load.
    assert page.tags.count("svg") == 3 + 2 + 2 * 2
    assert "a &lt;b&gt;" in text
    assert "prefers-color-scheme: dark" in text
    for each in text.split("<svg")[1:]:
        xml.dom.minidom.parseString("<svg" + each.partition("</svg>")[0] + "</svg>")


def test_what_could_not_be_measured_is_said_everywhere(tmp_path: Path) -> None:
    directory = RunDirectory(tmp_path)
    directory.create(Plan(NAMES, 2, 1.0), {})
    directory.append("problem", {"lab": "vhost", "reason": "no hugepages\nmore"})
    run = directory.finish("now")
    assert not run.complete
    assert "no hugepages" in reporting.table(run)
    assert "no hugepages" in reporting.markdown(run)
    assert "no hugepages" in reporting.html(run)
    assert reporting.junit(run).decode().count("<error") == 3
    # One of two trials, and why there is no other.
    directory.append("trial", Trial("vm-vm-ovn", 0, 1.0, 1.0, 0.5, {"cycles": 300.0}))
    directory.append("problem", {"lab": "vhost", "reason": "no hugepages\nmore"})
    partly = directory.finish("now")
    assert "OVN switch, no ACL | given up: no hugepages | | | | 1 |" in reporting.markdown(partly)
    assert "given up: no hugepages" in reporting.html(partly)
    assert reporting.junit(partly).decode().count("<error") == 2


def test_the_table_goes_between_its_marks_alone(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"before\n{reporting.BEGIN}\nold\n{reporting.END}\nafter\n")
    assert reporting.put_into(page, "new")
    assert page.read_text() == f"before\n{reporting.BEGIN}\nnew\n{reporting.END}\nafter\n"
    page.write_text("no marks")
    assert not reporting.put_into(page, "new")
    assert page.read_text() == "no marks"


def test_what_a_machine_does_not_have_is_said(tmp_path: Path) -> None:
    nothing = fingerprint.absent(tmp_path)
    assert any("instructions per cycle" in line for line in nothing)
    (tmp_path / "sys/bus/event_source/devices/cpu").mkdir(parents=True)
    assert len(fingerprint.absent(tmp_path)) == len(nothing) - 1
    run = replace(filled(tmp_path / "run"), environment={"absent": nothing})
    assert nothing[0] in reporting.markdown(run)


def test_a_run_says_whether_it_could_look_into_the_kernel(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BCC_KERNEL_SOURCE", str(tmp_path))
    told = fingerprint.fingerprint()["absent"]
    assert [line for line in told if line.startswith("latency inside the kernel")]
    for name in ("include/generated/autoconf.h", "include/linux/kconfig.h"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).touch()
    told = fingerprint.fingerprint()["absent"]
    assert not [line for line in told if line.startswith("latency inside the kernel")]


def test_axes_are_round_numbers_around_the_data() -> None:
    for low, high in ((0, 7), (0, 0.003), (0, 0), (0, 12_345_678), (5, 5)):
        marks = svg.ticks(low, high)
        assert marks[0] <= low
        assert marks[-1] >= high
        assert 2 <= len(marks) <= 9


def test_logarithmic_axes_are_one_two_five_around_the_data() -> None:
    assert svg.decades(0.6, 42) == pytest.approx([0.5, 1, 2, 5, 10, 20, 50])
    for low, high in ((1, 1), (0.003, 0.0031), (9, 11), (1e-3, 1e7)):
        marks = svg.decades(low, high)
        assert marks[0] <= low * 1.001
        assert marks[-1] >= high * 0.999
        assert len(marks) >= 2
        assert marks == sorted(set(marks))


def test_an_axis_over_many_decades_has_no_labels_on_each_other() -> None:
    curves = [svg.Curve(f"c{at}", ((0, 0.01), (90, 10.0**5)), at) for at in range(9)]
    text = svg.lines("t", "x", "y", curves)
    assert ">1</text>" in text
    assert ">2</text>" not in text
    assert text.count("<polyline") == 9
    # The line, its two points, and the legend's two: as a dot plot of the same rows has it.
    assert text.count("s3") == 5
    drawn = [float(each) for each in re.findall(r'[ "]c?[xy][12]?="([-\d.]+)"', text)]
    assert min(drawn) >= 0
    assert max(drawn) <= svg.WIDTH


def test_what_the_data_plane_counted_is_on_the_page(tmp_path: Path) -> None:
    run = filled(tmp_path)
    counted = {"emc_hit_ratio": 0.875, "upcalls": 3.0}
    first = run.scenarios[0]
    trials = tuple(replace(each, counters=counted) for each in first.trials)
    page = reporting.html(replace(run, scenarios=(replace(first, trials=trials),)))
    assert "Where cycles and time go" in page
    for words in ("EMC", "0.875", "upcalls", ">3<"):
        assert words in page
    bare = tuple(replace(each, counters={}) for each in first.trials)
    empty = reporting.html(replace(run, scenarios=(replace(first, trials=bare),)))
    assert "Where cycles and time go" not in empty


PMD = """\
pmd thread numa_id 0 core_id 1:
  packets received: 1000
  packet recirculations: 500
  avg. datapath passes per packet: 1.50
  emc hits: 900
  smc hits: 0
  megaflow hits: 590
  avg. subtable lookups per megaflow hit: 1.00
  miss with success upcall: 10
  miss with failed upcall: 0
  idle cycles: 5 (0.50%)
  processing cycles: 700000 (99.50%)
main thread:
  packets received: 77
"""
COVERAGE = """\
datapath_drop_upcall_error   0.0/sec     0.000/sec        0.0000/sec   total: 4
hmap_expand              10.2/sec    10.1/sec       9.9/sec   total: 999
"""
PORTS = """\
OFPST_PORT reply (OF1.4) (xid=0x2): 3 ports
  port  vx0: rx pkts=0, bytes=0, drop=?, errs=?, frame=?, over=?, crc=?
           tx pkts=0, bytes=0, drop=?, errs=?, coll=?
           duration=6.826s
  port  pa: rx pkts=9, bytes=540, drop=5, errs=?, frame=?, over=?, crc=?
           tx pkts=9, bytes=540, drop=15, errs=?, coll=?
           duration=16.659s
           CUSTOM Statistics
                      ovs_tx_retries=3, ovs_tx_failure_drops=12, ovs_tx_mtu_exceeded_drops=0,
                      ovs_tx_qos_drops=0, ovs_rx_qos_drops=5, ovs_tx_invalid_hwol_drops=0,
  port  nic: rx pkts=0, bytes=0, drop=0, errs=0, frame=0, over=0, crc=0
           tx pkts=0, bytes=0, drop=0, errs=0, coll=0
           CUSTOM Statistics
                      rx_missed_errors=7, tx_q0_errors=0,
"""


def test_what_ovs_counts_becomes_ratios_and_places() -> None:
    before = ovscount.Counted({}, {})
    now = ovscount.Counted(ovscount.threads(PMD), ovscount.drops(COVERAGE, PORTS))
    told = now.since(before).counters()
    assert (told["packets"], told["cycles_per_packet"], told["passes_per_packet"]) == (
        1000, 700, 1.5,
    )  # fmt: skip
    assert told["emc_hit_ratio"] == pytest.approx(0.6)
    assert told["upcalls"] == 10
    assert now.dropped() == {
        "datapath: datapath_drop_upcall_error": 4,
        "NIC: nic": 7,
        "policer, receiving: pa": 5,
        "port, sending, no reason given: pa": 3,
        "vhost or NIC queue full: pa": 12,
    }
