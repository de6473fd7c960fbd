"""From the JSON of the control plane's benchmarks to verdicts, as perf.judge for packets. Pure."""

from __future__ import annotations

import statistics

from perf.judge import Json
from perf.verdicts import Verdict, ratios

_CHANGE_MS = 5.0


def control(result: Json) -> list[Verdict]:
    """The largest cluster against the smallest, and against what OVN itself takes."""
    sizes = sorted(result["sizes"], key=lambda size: int(size["ports"]))
    small, large = sizes[0], sizes[-1]
    times = large["ports"] / small["ports"]

    def cpu(size: Json, kind: str) -> list[float]:
        return [float(start["cpu_s"]) for start in size[kind]]

    at, less = f"{large['ports']:,} ports", f"{small['ports']:,} ports"
    northd = statistics.median(c["northd_ms"] for c in large["changes"])
    return [
        Verdict(
            f"control, {at}: rows that a restart writes",
            tuple(float(start["writes"]) for start in large["restarts"]),
            0.0,
            "none",
        ),
        Verdict(
            f"control, {at}: restart, CPU",
            ratios(cpu(large, "restarts"), cpu(large, "starts")),
            1.5,
            "a start with empty maps",
        ),
        Verdict(
            f"control, {at}: start, CPU",
            ratios(cpu(large, "starts"), cpu(small, "starts")),
            times / 4,
            f"{less}; linear would be {times:g}",
        ),
        Verdict(
            f"control, {at}: change to BPF map, time",
            tuple(c["map_ms"] / northd for c in large["changes"]),
            1.0,
            "ovn-northd done with the same change",
        ),
        Verdict(
            f"control, {at}: change to BPF map from its commit on, of 5 ms",
            tuple(c["after_commit_ms"] / _CHANGE_MS for c in large["changes"]),
            1.0,
            "5 ms, what a user may ask for",
        ),
        Verdict(
            f"control, {at}: change, CPU",
            (large["change_cpu_ms"] / small["change_cpu_ms"],),
            times,
            f"{less}; linear is {times:g}",
        ),
        Verdict(
            f"control, {at}: idle, CPU",
            (large["idle_cpu_percent"] / small["idle_cpu_percent"],),
            times / 4,
            f"{less}; linear would be {times:g}",
        ),
        Verdict(
            f"control, {at}: memory",
            (large["rss_mib"] / small["rss_mib"],),
            max(2.0, times / 20),
            f"{less}; linear would be {times:g}",
        ),
    ]


def ovsjson(result: Json) -> list[Verdict]:
    """Our reader of OVSDB's JSON against the library's two."""
    verdicts = []
    for parser, bound in (("python", 0.2), ("c", 1.0)):
        if parser in result["ratio"]:
            slower = result["ratio"][parser]
            samples = tuple(1 / slower[key] for key in ("min", "median", "max"))
            claim = f"OVSDB, {result['ports']:,} ports read with our parser"
            verdicts.append(Verdict(claim, samples, bound, f"the library's in {parser.title()}"))
    return verdicts


def cni(result: Json) -> list[Verdict]:
    """A call may take so many times what OVS and OVN alone take for one port.

    The bounds are the milliseconds of the design by the 20 of OVS and OVN there: 60 for a VM, 50
    for a container and for any DEL, and 4 s for a full node, at once, a container.
    """
    alone = statistics.median(one_of(result["calls"], "alone")["ms"])
    bounds = {"vhost-user ADD": 3.0, "veth ADD": 2.5, "vhost-user DEL": 2.5, "veth DEL": 2.5}
    verdicts = [
        Verdict(
            f"cni, {name}",
            tuple(ms / alone for ms in one_of(result["calls"], name)["ms"]),
            bound,
            "OVS and OVN alone",
        )
        for name, bound in bounds.items()
    ]
    return verdicts + [
        Verdict(
            f"cni, {many['containers']} at once, each",
            (many["add_s"] * 1e3 / many["containers"] / alone,),
            4_000 / 110 / 20,
            "OVS and OVN alone",
        )
        for many in result["at_once"]
    ]


def one_of(rows: list[Json], name: str) -> Json:
    """The row of that name."""
    return next(row for row in rows if row["name"] == name)


def cni_start(result: Json) -> list[Verdict]:
    """The plugin's start, paid by every pod, against an interpreter that does nothing."""
    rows = {row["name"]: row for row in result}
    floor = rows["pass"]["median_ms"]
    return [
        Verdict(
            f"CNI plugin, {name}",
            tuple(rows[name][key] / floor for key in ("min_ms", "median_ms")),
            3.0,
            "python3 -c pass",
        )
        for name in ("version", "status-isolated")
    ]


def cluster(result: Json) -> list[Verdict]:
    """The Kubernetes controller at 10,000 pods, against what issue and documentation promise."""
    figures, found = result["figures"], []
    for name, bound in result["bounds"].items():
        # Of what has to be nothing, one is twice too much.
        ratio = figures[name] / bound if bound else 2.0 * bool(figures[name])
        found.append(Verdict(f"Kubernetes controller, {name}", (ratio,), 1.0, f"{bound:g}"))
    return found


def clusterplane(result: Json) -> list[Verdict]:
    """Flows of 2,000 services: those of the fast path cost none, those of OVN's by no subnet."""
    grid = result["grid"]
    few, many = result["subnets"]

    def more(way: str, subnets: int) -> float:
        base = grid[f"none {subnets}"]["sb_logical_flow"]
        return float(grid[f"{way} {subnets}"]["sb_logical_flow"] - base)

    free = [
        Verdict(
            f"{name} of services that the fast path serves, {subnets} subnets",
            (grid[f"svc0 {subnets}"][key] / grid[f"none {subnets}"][key],),
            FREE,
            "none",
        )
        for key, name in (("sb_logical_flow", "logical flows"), ("node_flows", "a node's flows"))
        for subnets in (few, many)
    ]
    ratio = more("switch", many) / more("switch", few)
    what = f"logical flows of services that OVN serves, {many} subnets"
    return [*free, Verdict(what, (ratio,), SAME, f"{few} subnets")]


FREE, SAME = 1.02, 1.1
"""Rows that a database has anyhow may differ a little; more is a flow for each service."""
SCRAPE_PERCENT = 1.0


def scrape(result: Json) -> list[Verdict]:
    """What metrics cost the daemon, to read figures and to answer, by one percent of a core."""
    return [
        Verdict(
            f"metrics, {result['ports']} ports, a scrape each {result['every_s']:g} s",
            tuple(sample["metrics"] / SCRAPE_PERCENT for sample in result["scraped"]),
            1.0,
            "one percent of a core",
        )
    ]
