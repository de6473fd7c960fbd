"""A run for people and for CI: a table, Markdown, HTML that opens offline, JUnit."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from html import escape
from itertools import groupby
from pathlib import Path
from xml.etree import ElementTree as ET

from perf.harness import catalog, counted, latency, results, stats, svg
from perf.harness.results import Measured, Results
from perf.harness.scenario import Carrier
from perf.verdicts import aligned

BEGIN, END = "<!-- millrace perf: begin -->", "<!-- millrace perf: end -->"
TIMED = re.compile(r"us\d+_\d+")
"""Metrics that the tables of latency have, of all trials together."""

TITLES = {
    "vhost": "Virtual machine to virtual machine",
    "paced": "Rates and latency under load, by the paced generator",
    "served": "A service in four ways: XDP, OVN, nftables, iptables",
    "served-sizes": "The same four ways with one service, and with 10,000",
    "path": "Outside to a service, the whole path",
    "peers": "Outside to a service: XDP, nftables, iptables",
    "xdp": "The XDP programs alone",
    "eastwest": "East-west: a tenth of the packets by a service",
    "containers": "Container to container",
    "control": "Control plane",
    "ends": "Between two given ends",
    "host": "The node's kernel, and containers, to workloads",
    "sizes": "Outside to a service: one service, and 10,000",
    "sockets": "East-west by connect-time translation: what the calls cost",
}

_STYLE = """
:root { color-scheme: light dark; --fg: #1c1e21; --bg: #fff; --dim: #5f6671; --line: #d8dce2;
 --c0: #1f6feb; --c1: #c2410c; --c2: #15803d; --c3: #9333ea; --c4: #475569; --c5: #0e7490;
 --c6: #be185d; --c7: #a16207; }
@media (prefers-color-scheme: dark) { :root { --fg: #e6e8eb; --bg: #14171a; --dim: #9aa3ad;
 --line: #343a41; --c0: #6cb0ff; --c1: #ff9a5c; --c2: #5fd38a; --c3: #c79bff; --c4: #b4bfcd;
 --c5: #4fd0e0; --c6: #ff8ac0; --c7: #e6cb5c; } }
body { font: 16px/1.5 system-ui, sans-serif; color: var(--fg); background: var(--bg);
 max-width: 62rem; margin: 2rem auto; padding: 0 1rem; }
h1 { line-height: 1.2; } h2 { margin-top: 2.5rem; border-bottom: 1px solid var(--line); }
p.dim, figcaption, .dim { color: var(--dim); } figure { margin: 1rem 0; overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: .9rem; } .wide { overflow-x: auto; }
th, td { text-align: left; padding: .3rem .6rem; border-bottom: 1px solid var(--line); }
td.n, th.n { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
td:first-child { white-space: nowrap; } h3 { margin: 1.5rem 0 .3rem; font-size: 1rem; }
svg { width: 100%; min-width: 44rem; height: auto; } svg text { fill: var(--fg); font-size: 13px; }
svg .name { fill: var(--dim); } .grid { stroke: var(--line); } .axis { stroke: var(--dim); }
.dot { opacity: .45; } .range { stroke-width: 3; opacity: .8; } .median { stroke-width: 4; }
.curve { fill: none; stroke-width: 2; }
.s1.curve { stroke-dasharray: 9 3; } .s2.curve { stroke-dasharray: 3 3; }
.s3.curve { stroke-dasharray: 9 3 2 3; } .s5.curve { stroke-dasharray: 14 4; }
.s6.curve { stroke-dasharray: 5 2; } .s7.curve { stroke-dasharray: 2 5; }
pre { white-space: pre-wrap; overflow-wrap: anywhere; font-size: .8rem; }
""" + "".join(
    f".s{n} {{ stroke: var(--c{n}); }} circle.s{n} {{ fill: var(--c{n}); stroke: none; }} "
    for n in range(svg.SERIES)
)


def write_all(directory: Path, run: Results) -> None:
    """report.html, report.md and junit.xml beside the results."""
    results.save(directory / "report.html", html(run).encode())
    results.save(directory / "report.md", f"{markdown(run)}\n".encode())
    results.save(directory / "junit.xml", junit(run))


def rows(run: Results) -> Iterator[tuple[Measured, str, stats.Interval, int]]:
    """Scenario, metric, median with interval, how many trials; the primary metric first."""
    for each in run.scenarios:
        names = sorted(each.metrics, key=lambda name, one=each: name != one.primary)  # type: ignore[misc]
        for name in names:
            if not TIMED.fullmatch(name) and (samples := each.samples(name)):
                yield each, name, stats.median(samples), len(samples)


def _ends(found: stats.Interval) -> str:
    return f"{svg.figure(found.low)}..{svg.figure(found.high)}"


def table(run: Results) -> str:
    """For a terminal: the primary metric of each scenario."""
    lines = [("scenario", "median", "95 % interval", "unit", "n")]
    for each, name, found, count in rows(run):
        if name == each.primary:
            unit = each.metrics[name].unit
            lines.append((each.name, svg.figure(found.median), _ends(found), unit, str(count)))
    lines += [
        (each.name, "-", each.problem.partition("\n")[0] or "not measured", "", "0")
        for each in run.scenarios
        if not each.trials
    ]
    return aligned(lines)


def markdown(run: Results) -> str:
    """A table of everything, and what it was measured on."""
    told = run.environment
    head = (
        f"Kernel {told.get('kernel', '?')}, {told.get('cpus', '?')} CPUs "
        f"({told.get('cpu', '?')}); {run.plan.get('trials')} trials of "
        f"{run.plan.get('seconds')} s each, in turn (A-B-B-A); median and 95 % bootstrap interval; "
        f"{run.began}{'' if run.complete else '; not complete'}.{counted.stolen(run)}"
    )
    if missing := told.get("absent"):
        head += f" Not measured here: {'; '.join(missing)}."
    lines = [head, "", "| scenario | what | median | 95 % interval | unit | n |",
             "|---|---|---|---|---|---|"]  # fmt: skip
    for each, name, found, count in rows(run):
        metric = each.metrics[name]
        lines.append(
            f"| {each.title} | {metric.title} | {svg.figure(found.median)} | "
            f"{_ends(found)} | {metric.unit} | {count} |"
        )
    lines += [
        f"| {each.title} | {'given up' if each.trials else 'not measured'}: "
        f"{_one_line(each.problem)} | | | | {len(each.trials)} |"
        for each in run.scenarios
        if each.problem
    ]
    lines += _ratio_table(run)
    lines += _latency_table(run)
    return "\n".join(lines)


def ratios(run: Results) -> Iterator[tuple[Measured, Measured, stats.Interval, int]]:
    """Of scenarios that took turns, by their first's primary metric: median of ratios in pairs."""
    by_name = {each.name: each for each in run.scenarios}
    for base, others in catalog.AGAINST.items():
        for other in others:
            if base in by_name and other in by_name:
                one, two = by_name[base], by_name[other]
                pairs = list(zip(one.samples(one.primary), two.samples(one.primary), strict=False))
                found = [b / a for a, b in pairs if a]
                if found:
                    yield one, two, stats.median(found), len(found)


def _ratio_table(run: Results) -> list[str]:
    lines = [
        f"| {two.title} | {one.title} | {one.metrics[one.primary].title} | "
        f"{svg.figure(found.median)} | {_ends(found)} | {count} |"
        for one, two, found, count in ratios(run)
    ]
    head = ["", "| what | against | by | ratio | 95 % interval | n |", "|---|---|---|---|---|---|"]
    return [*head, *lines] if lines else []


def _latency_table(run: Results) -> list[str]:
    lines = [
        f"| {each.title} | {load} % | "
        + " | ".join(svg.figure(ns / 1e3) for _, ns in told.percentiles)
        + f" | {told.count:,} |"
        for each in run.scenarios
        for load, told in loaded(each)
    ]
    percents = " | ".join(f"{each:g} %" for each in latency.PERCENTILES)
    head = [
        "",
        f"| latency [us] | load, of PDR or `--rate` | {percents} | frames |",
        "|---|---|---|---|---|---|---|",
    ]
    return [*head, *lines] if lines else []


def put_into(page: Path, text: str) -> bool:
    """Replace what is between the two marks of a page; False: it has none."""
    old = page.read_text(encoding="utf-8")
    before, begin, rest = old.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        return False
    results.save(page, f"{before}{BEGIN}\n{text}\n{END}{after}".encode())
    return True


def html(run: Results) -> str:
    """One page with its plots in it: no script, nothing from elsewhere."""
    parts = [f"<h1>Millrace: what was measured</h1><p>{escape(_headline(run))}</p>", _legend()]
    for family, group in groupby(run.scenarios, key=lambda each: each.family):
        members = list(group)
        parts.append(f"<h2>{escape(TITLES.get(family, family))}</h2>")
        parts += _plots(members)
        parts.append(_details(members))
        parts.append(counted.table(members))
    parts.append(_ratios(run))
    environment = escape(json.dumps(run.environment, indent=1))
    parts.append(f"<h2>Measured on</h2><pre>{environment}</pre>")
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width"><title>Millrace perf</title>'
        f"<style>{_STYLE}</style></head><body>{''.join(parts)}</body></html>\n"
    )


def _headline(run: Results) -> str:
    trials = sum(len(each.trials) for each in run.scenarios)
    state = "complete" if run.complete else "not complete"
    told = run.environment
    return (
        f"{len(run.scenarios)} scenarios, {trials} trials, begun {run.began}, {state}. "
        f"{told.get('cpus')} CPUs ({told.get('cpu')}), kernel {told.get('kernel')}."
        f"{counted.stolen(run)}"
    )


def _legend() -> str:
    return (
        '<p class="dim">Each dot is a trial, the thick bar their median, the line its 95 % '
        "bootstrap interval; these axes begin at nothing. Axes of latency are logarithmic. Colours "
        "and dashes only tell rows apart. Drops are of whole trials, a search's overloads "
        'included; hit ratios are of all passes, "away", "refused" and "stolen" of time.</p>'
    )


def _plots(members: Sequence[Measured]) -> Iterator[str]:
    names = dict.fromkeys(name for each in members for name in each.metrics)
    for name in names:
        if TIMED.fullmatch(name):
            continue
        drawn = []
        for number, each in enumerate(members):
            if samples := each.samples(name):
                found = stats.median(samples)
                drawn.append(
                    svg.Row(each.name, tuple(samples), found.median, found.low, found.high,
                            number)
                )  # fmt: skip
        if drawn:
            metric = next(each.metrics[name] for each in members if name in each.metrics)
            axis = f"{metric.title} [{metric.unit}], {metric.better.value} is better"
            yield f"<figure>{svg.dots(metric.title, axis, drawn)}</figure>"
    timed = {each.name: loaded(each) for each in members}
    for percent in (50.0, 99.0):
        curves = [
            svg.Curve(
                name,
                tuple((load, dict(told.percentiles)[percent] / 1e3) for load, told in of),
                number,
            )
            for number, (name, of) in enumerate(timed.items())
            if len(of) > 1
        ]
        if curves:
            title = f"latency, {percent:g}th percentile [us]"
            yield f"<figure>{svg.lines(title, 'load [% of PDR]', title, curves)}</figure>"
    if any(timed.values()):
        yield _percentiles(timed)


def loaded(each: Measured) -> list[tuple[int, latency.Latency]]:
    """The latency of all trials together, by load in percent of PDR."""
    loads = sorted({int(load) for trial in each.trials for load in trial.latency})
    return [
        (load, latency.merged(trial.latency[str(load)] for trial in each.trials
                              if str(load) in trial.latency))
        for load in loads
    ]  # fmt: skip


def _ratios(run: Results) -> str:
    lines = [
        f"<td>{escape(two.name)}</td><td>{escape(one.name)}</td>"
        f"<td>{escape(one.metrics[one.primary].title)}</td>"
        f'<td class="n">{svg.figure(found.median)}</td>'
        f'<td class="n">{_ends(found)}</td>'
        for one, two, found, _ in ratios(run)
    ]
    if not lines:
        return ""
    head = "".join(f"<th>{title}</th>" for title in ("scenario", "against", "by"))
    head += "".join(f'<th class="n">{title}</th>' for title in ("ratio", "95 % interval"))
    body = "".join(f"<tr>{line}</tr>" for line in (head, *lines))
    return f'<h2>Ratios</h2><div class="wide"><table>{body}</table></div>'


def _percentiles(timed: dict[str, list[tuple[int, latency.Latency]]]) -> str:
    heads = [*(f"{each:g} %" for each in latency.PERCENTILES), "most", "frames"]
    numbers = "".join(f'<th class="n">{head}</th>' for head in heads)
    lines = [f"<th>scenario</th><th>load</th>{numbers}"]
    for name, of in timed.items():
        for load, told in of:
            figures = [svg.figure(ns / 1e3) for _, ns in told.percentiles]
            figures += [svg.figure(told.most / 1e3), f"{told.count:,}"]
            cells = [f"<td>{escape(name)}</td><td>{load} %</td>"]
            lines.append("".join([*cells, *(f'<td class="n">{each}</td>' for each in figures)]))
    body = "".join(f"<tr>{line}</tr>" for line in lines)
    return f'<h3>Latency [us]</h3><div class="wide"><table>{body}</table></div>'


def _details(members: Sequence[Measured]) -> str:
    lines = []
    for each in members:
        drops: dict[str, int] = {}
        for trial in each.trials:
            for place, count in trial.drops.items():
                drops[place] = drops.get(place, 0) + count
        told = "; ".join(f"{place}: {count:,}" for place, count in sorted(drops.items()))
        told = told or ("none" if each.trials else "not measured")
        if each.problem:
            told = f"{told}; given up: {_one_line(each.problem)}"
        cells = [
            each.name,
            f"{each.title}: {each.topology}",
            _traffic(each),
            str(len(each.trials)),
            told,
        ]
        lines.append("".join(f"<td>{escape(cell)}</td>" for cell in cells))
    body = "".join(f"<tr>{line}</tr>" for line in lines)
    titles = ("scenario", "what, by what path", "traffic", "trials", "drops")
    head = f"<tr>{''.join(f'<th>{title}</th>' for title in titles)}</tr>"
    return f'<div class="wide"><table>{head}{body}</table></div>'


def _traffic(each: Measured) -> str:
    if each.traffic.get("carrier") == Carrier.CONTROL:
        return str(Carrier.CONTROL)
    sizes = ", ".join(f"{size}" for size, _ in each.traffic.get("sizes", ()))
    flows = each.traffic.get("flows", 1)
    many = "1 flow" if flows == 1 else f"{flows:,} flows"
    return f"{sizes} octets, {many}, {each.traffic.get('carrier')}"


def _one_line(text: str) -> str:
    return text.partition("\n")[0].replace("|", "/")


def junit(run: Results) -> bytes:
    """A case for each scenario; one that could not be measured is an error."""
    suite = ET.Element("testsuite", name="millrace perf", tests=str(len(run.scenarios)))
    errors = 0
    for each in run.scenarios:
        seconds = sum(trial.seconds for trial in each.trials)
        case = ET.SubElement(
            suite, "testcase", classname=f"perf.{each.family}", name=each.name,
            time=f"{seconds:.3f}",
        )  # fmt: skip
        if not each.trials:
            errors += 1
            why = each.problem or "not measured"
            ET.SubElement(case, "error", message=why.partition("\n")[0]).text = why
            continue
        told = [
            f"{name}: {svg.figure(stats.median(samples).median)} {metric.unit}"
            for name, metric in each.metrics.items()
            if (samples := each.samples(name))
        ]
        ET.SubElement(case, "system-out").text = "\n".join(told)
    suite.set("errors", str(errors))
    suite.set("failures", "0")
    return bytes(ET.tostring(suite, encoding="utf-8", xml_declaration=True))
