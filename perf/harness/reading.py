"""`millrace perf compare`, `trend` and `report`: what stored runs say."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

from perf.harness import counted, fingerprint, reporting, results, svg, trend, verdict
from perf.harness.generator import HarnessError
from perf.harness.results import Results
from perf.harness.verdict import Comparison, Word
from perf.verdicts import aligned

OK, WORSE, USAGE, NOISY = 0, 1, 2, 3
STOLEN = 0.05
"""A share of the processors' time that a comparison mentions if the host took more in a trial."""


def _paths(run: Results) -> dict[str, results.Measured]:
    return {each.name: each for each in run.scenarios}


def compare(
    baseline: Results, candidate: Results, null: Results | None = None, *, all_metrics: bool = False
) -> dict[tuple[str, str], Comparison]:
    """Each metric of the scenarios that both have; the primary ones, or all.

    Raises:
        HarnessError: they have no scenario in common, or not with the same traffic.
    """
    theirs, nulls = _paths(candidate), _paths(null) if null else {}
    found: dict[tuple[str, str], Comparison] = {}
    for each in baseline.scenarios:
        other = theirs.get(each.name)
        if other is None:
            continue
        if each.traffic != other.traffic:
            msg = f"{each.name}: other traffic in the second run: {other.traffic}"
            raise HarnessError(msg)
        for name, metric in each.metrics.items():
            a, b = each.samples(name), other.samples(name)
            if not a or not b or (name != each.primary and not all_metrics):
                continue
            again = nulls[each.name].samples(name) if each.name in nulls else []
            found[each.name, name] = verdict.compare(a, b, metric.better, again)
    if not found:
        msg = "the two runs have no measured scenario in common"
        raise HarnessError(msg)
    return found


def twins(
    baseline: Results, candidate: Results, name: str, other: str, *, all_metrics: bool = False
) -> dict[tuple[str, str], Comparison]:
    """Two scenarios: of one run as pairs, for they took turns; else as any two runs.

    Raises:
        HarnessError: a run has no such scenario, or both have no metric in common.
    """
    for run, wanted in ((baseline, name), (candidate, other)):
        if wanted not in _paths(run):
            msg = f"the run of {run.began} has no scenario {wanted!r}"
            raise HarnessError(msg)
    one, two = _paths(baseline)[name], _paths(candidate)[other]
    found: dict[tuple[str, str], Comparison] = {}
    for key, metric in one.metrics.items():
        a, b = one.samples(key), two.samples(key)
        if not a or not b or (key != one.primary and not all_metrics):
            continue
        same_run = baseline == candidate and one.family == two.family
        size = min(len(a), len(b))
        found[f"{name} - {other}", key] = (
            verdict.paired(a[:size], b[:size], metric.better)
            if same_run
            else verdict.compare(a, b, metric.better)
        )
    if not found:
        msg = f"{name} and {other} have no measured metric in common"
        raise HarnessError(msg)
    return found


def exit_code(found: dict[tuple[str, str], Comparison]) -> int:
    """1: something is worse; 3: nothing is, but something could not be told; else 0."""
    words = {each.word for each in found.values()}
    if Word.WORSE in words:
        return WORSE
    return NOISY if Word.NOISY in words else OK


def compare_command(argv: Sequence[str]) -> int:
    """`millrace perf compare A B`: 0 nothing worse, 1 worse, 2 nonsense, 3 too noisy."""
    parser = argparse.ArgumentParser(
        prog="millrace perf compare", description="two runs: better, worse, no difference"
    )
    parser.add_argument("baseline", type=Path)
    parser.add_argument("candidate", type=Path)
    parser.add_argument("--null", type=Path, help="a second run of the baseline (A-A)")
    parser.add_argument(
        "--as",
        dest="twins",
        nargs=2,
        metavar=("SCENARIO", "OTHER"),
        help="one scenario of the baseline with another of the candidate; of one run: as pairs",
    )
    parser.add_argument("--all", action="store_true", help="every metric, not the primary alone")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--junit", type=Path, metavar="FILE", help="write the verdicts for CI")
    options = parser.parse_args(argv)
    try:
        baseline, candidate = results.read(options.baseline), results.read(options.candidate)
        null = results.read(options.null) if options.null else None
        if options.twins:
            found = twins(baseline, candidate, *options.twins, all_metrics=options.all)
        else:
            found = compare(baseline, candidate, null, all_metrics=options.all)
    except (HarnessError, ValueError) as error:
        print(f"millrace perf compare: {error}", file=sys.stderr)
        return USAGE
    for line in fingerprint.differences(baseline.environment, candidate.environment):
        print(f"another machine: {line}", file=sys.stderr)
    for name, run in (("A", baseline), ("B", candidate)):
        shares = counted.stolen_shares(run)
        robbed = sum(share > STOLEN for share in shares)
        if robbed:
            what = f"the host took over {STOLEN:.0%} of the processors' time"
            print(f"{name}: in {robbed} of {len(shares)} trials {what}", file=sys.stderr)
    if options.junit:
        try:
            results.save(options.junit, _junit(found))
        except OSError as error:
            what = f"{options.junit} cannot be written: {error.strerror}"
            print(f"millrace perf compare: {what}", file=sys.stderr)
            return USAGE
    if options.json:
        told = [{"scenario": s, "metric": m, **asdict(c)} for (s, m), c in found.items()]
        print(json.dumps(told, indent=2))
    else:
        print(_table(found))
    return exit_code(found)


def _table(found: dict[tuple[str, str], Comparison]) -> str:
    lines: list[tuple[str, ...]] = [
        ("scenario", "metric", "A", "B", "ratio", "p", "delta", "verdict", "why")
    ]
    for (scenario, metric), each in found.items():
        a, b = svg.figure(each.baseline.median), svg.figure(each.candidate.median)
        lines.append(
            (scenario, metric, a, b, f"{each.ratio:.3f}", f"{each.p:.2g}", f"{each.delta:+.2f}",
             each.word.value, each.reason)
        )  # fmt: skip
    return aligned(lines)


def _junit(found: dict[tuple[str, str], Comparison]) -> bytes:
    suite = ET.Element("testsuite", name="millrace perf compare", tests=str(len(found)))
    for (scenario, metric), each in found.items():
        case = ET.SubElement(suite, "testcase", classname=scenario, name=metric)
        if each.word is Word.WORSE:
            ET.SubElement(case, "failure", message=each.reason).text = each.word.value
        elif each.word is Word.NOISY:
            ET.SubElement(case, "skipped", message=each.reason)
    return bytes(ET.tostring(suite, encoding="utf-8", xml_declaration=True))


def stored(directory: Path) -> list[tuple[str, Results]]:
    """Every run below a directory, in the order of their beginnings.

    Raises:
        HarnessError: there is none, or one cannot be read.
    """
    files = sorted(directory.glob(f"*/{results.FILE}")) if directory.is_dir() else []
    if not files:
        msg = f"{directory}: no run below it (DIR/<run>/{results.FILE})"
        raise HarnessError(msg)
    runs = [(file.parent.name, results.read(file)) for file in files]
    return sorted(runs, key=lambda run: run[1].began)


def trend_command(argv: Sequence[str]) -> int:
    """`millrace perf trend DIR`: 1 if the last group of runs of anything is a regression."""
    parser = argparse.ArgumentParser(
        prog="millrace perf trend", description="where figures jumped over stored runs (jumpavg)"
    )
    parser.add_argument("directory", type=Path)
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args(argv)
    try:
        runs = stored(options.directory)
    except HarnessError as error:
        print(f"millrace perf trend: {error}", file=sys.stderr)
        return USAGE
    told: list[dict[str, Any]] = []
    worse = False
    for name in dict.fromkeys(each.name for _, run in runs for each in run.scenarios):
        having = [(label, _paths(run)[name]) for label, run in runs if name in _paths(run)]
        having = [(label, each) for label, each in having if each.samples(each.primary)]
        if not having:
            continue
        metric = having[-1][1].metrics[having[-1][1].primary]
        found = trend.groups([each.samples(each.primary) for _, each in having], metric.better)
        worse = worse or found[-1].word == "regression"
        told += [
            {"scenario": name, "unit": metric.unit, "from": having[group.first][0],
             "to": having[group.last][0], **asdict(group)}
            for group in found
        ]  # fmt: skip
    if options.json:
        print(json.dumps(told, indent=2))
    else:
        wide = max(len(one["scenario"]) for one in told) if told else 0
        for one in told:
            spread = f"{svg.figure(one['mean'])} +- {svg.figure(one['stdev'])} {one['unit']}"
            print(f"{one['scenario']:<{wide}} {one['from']}..{one['to']}: {spread}, {one['word']}")
    return WORSE if worse else OK


def report_command(argv: Sequence[str]) -> int:
    """`millrace perf report DIR`: write its reports anew; `--page PAGE` puts the table there.

    With `--configuration SCENARIO` it prints that instead, flows included.
    """
    parser = argparse.ArgumentParser(
        prog="millrace perf report", description="HTML, Markdown and JUnit of a run"
    )
    parser.add_argument("directory", type=Path)
    parser.add_argument("--page", type=Path, help="a Markdown page with marks for the table")
    parser.add_argument(
        "--configuration", metavar="SCENARIO", help="print how the data plane was set, as JSON"
    )
    options = parser.parse_args(argv)
    try:
        run = results.read(options.directory)
        if options.configuration is not None:
            print(json.dumps(run.configuration(options.configuration), indent=1))
            return OK
    except HarnessError as error:
        print(f"millrace perf report: {error}", file=sys.stderr)
        return USAGE
    directory = options.directory if options.directory.is_dir() else options.directory.parent
    try:
        reporting.write_all(directory, run)
        print(f"{directory}: report.html, report.md, junit.xml")
        put = not options.page or reporting.put_into(options.page, reporting.markdown(run))
    except OSError as error:
        print(f"millrace perf report: {error.filename}: {error.strerror}", file=sys.stderr)
        return USAGE
    if not put:
        marks = f"{reporting.BEGIN!r} and {reporting.END!r}"
        print(f"millrace perf report: {options.page} lacks the marks {marks}", file=sys.stderr)
        return USAGE
    return OK
