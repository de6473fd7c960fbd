"""The benchmark of what is behind the controller: northd and a real chassis, very small."""

from __future__ import annotations

from perf import judgecontrol
from perf.clusterplane import measure
from perf.verdicts import Word


def test_a_small_cluster_is_carried_to_the_flows_of_a_chassis() -> None:
    size = {"pods": 8, "nodes": 2, "services": 3, "policies": 2, "subnets": 2}
    figures = measure(size, 2, 1, "switch", lambda _: None)
    assert figures["sb_datapath_binding"] >= 3 and figures["sb_port_binding"] >= 8
    assert figures["node_ports"] == 4 and figures["node_flows"] > 100
    assert 0 < figures["pod_nb_p50_ms"] < figures["pod_installed_p50_ms"]


def test_flows_that_grow_with_services_and_subnets_are_judged() -> None:
    def flows(logical: float, node: float) -> dict[str, float]:
        return {"sb_logical_flow": logical, "node_flows": node}

    grid = {
        "none 1": flows(1000, 600), "svc0 1": flows(1000, 600), "switch 1": flows(5000, 9000),
        "none 9": flows(4000, 1200), "svc0 9": flows(4000, 1200), "switch 9": flows(8000, 90000),
    }  # fmt: skip
    good = judgecontrol.clusterplane({"grid": grid, "subnets": [1, 9]})
    assert {one.word for one in good} == {Word.WITHIN} and len(good) == 5
    bad = {**grid, "svc0 9": flows(4000, 3200), "switch 9": flows(40_000, 90000)}
    words = [one.word for one in judgecontrol.clusterplane({"grid": bad, "subnets": [1, 9]})]
    assert words.count(Word.WORSE) == 2
