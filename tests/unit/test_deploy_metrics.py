"""The dashboard and the alarms ask only for metrics and labels that a node has."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from controller.metrics import NodeCollector
from dataplane.drivers.ovstext import Coverage
from tests.unit.test_metrics import FIGURES, SNAPSHOT, Held

DEPLOY = Path(__file__).parents[2] / "deploy"
RULES = DEPLOY / "prometheus" / "rules.yaml"
DASHBOARD = DEPLOY / "grafana" / "millrace-node.json"

EVENTS = ("datapath_drop_upcall_error", "datapath_drop_meter", "conntrack_full")
"""vswitchd shows an event only after it happened; these have names of OVS 3.1 (reference: its
sources' COVERAGE_DEFINE).
"""

GIVEN_BY_PROMETHEUS = frozenset({"instance", "job"})


def labels_of_metrics() -> dict[str, set[str]]:
    """By sample's name, the labels that it has on some node."""
    coverage = {**FIGURES.coverage, **{event: Coverage(1, 0, 0, 0) for event in EVENTS}}
    snapshot = replace(SNAPSHOT, figures=replace(FIGURES, coverage=coverage))
    found: dict[str, set[str]] = {}
    for family in NodeCollector(Held(snapshot)).collect():
        for sample in family.samples:
            found.setdefault(sample.name, set()).update(sample.labels)
    return found


def alarms() -> list[dict[str, Any]]:
    (group,) = yaml.safe_load(RULES.read_text(encoding="utf-8"))["groups"]
    rules: list[dict[str, Any]] = group["rules"]
    return rules


def panels() -> list[dict[str, Any]]:
    dashboard = json.loads(DASHBOARD.read_text(encoding="utf-8"))
    return [panel for panel in dashboard["panels"] if panel["type"] != "row"]


def expressions() -> Iterator[tuple[str, str]]:
    for rule in alarms():
        yield rule["alert"], rule["expr"]
    for panel in panels():
        for target in panel["targets"]:
            yield panel["title"], target["expr"]


def names_in(expression: str) -> set[str]:
    """The metrics that an expression asks for."""
    bare = re.sub(r"\{[^}]*\}|\[[^\]]*\]|\"[^\"]*\"", " ", expression)
    return set(re.findall(r"\b(?:ovs|millrace)_\w+", bare))


@pytest.mark.parametrize(("where", "expression"), list(expressions()))
def test_expressions_ask_for_what_there_is(where: str, expression: str) -> None:
    known = labels_of_metrics()
    asked = names_in(expression)
    assert asked, f"{where} asks for nothing"
    assert asked <= known.keys(), where
    there = set().union(*(known[name] for name in asked)) | GIVEN_BY_PROMETHEUS
    matched = re.findall(r"(\w+)=~?\"", expression)
    grouped = [
        word.strip()
        for words in re.findall(r"\b(?:by|on)\s*\(([^)]*)\)", expression)
        for word in words.split(",")
    ]
    assert set(matched) | set(grouped) <= there, where
    assert expression.count("(") == expression.count(")")


def test_words_of_people_name_labels_that_are_there() -> None:
    known = labels_of_metrics()
    for rule in alarms():
        there = set().union(*(known[name] for name in names_in(rule["expr"])))
        text = json.dumps(rule["annotations"])
        assert set(re.findall(r"\$labels\.(\w+)", text)) <= there | GIVEN_BY_PROMETHEUS
        assert rule["labels"]["severity"] in {"info", "warning", "critical"}
        assert set(rule) == {"alert", "expr", "for", "labels", "annotations"}
    for panel in panels():
        for target in panel["targets"]:
            there = set().union(*(known[name] for name in names_in(target["expr"])))
            legend = set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]))
            assert legend <= there | GIVEN_BY_PROMETHEUS, panel["title"]


def test_panels_do_not_overlap_and_ids_are_unique() -> None:
    dashboard = json.loads(DASHBOARD.read_text(encoding="utf-8"))
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"])
    cells = [
        (x, y)
        for place in (panel["gridPos"] for panel in dashboard["panels"])
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    ]
    assert len(set(cells)) == len(cells)
    assert max(x for x, _ in cells) < 24


def test_what_the_issue_asks_an_alarm_for_has_one() -> None:
    names = {rule["alert"] for rule in alarms()}
    assert names >= {
        "OvsPmdOverloaded",
        "OvsUpcallsLost",
        "OvsMempoolLow",
        "VhostDisconnected",
        "OvsConntrackNearLimit",
        "OvsRestartPending",
        "OvsPmdPreempted",
    }


def test_every_metric_of_a_node_is_documented() -> None:
    text = (DEPLOY.parent / "docs" / "metrics.md").read_text(encoding="utf-8")
    for name in labels_of_metrics():
        plain = "ovs_coverage_" if name.startswith("ovs_coverage_") else name
        assert plain in text, f"{name} is not in docs/metrics.md"
