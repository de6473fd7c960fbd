"""The subcommand `plan`: what OVS-DPDK on a machine should be told, and why."""

from __future__ import annotations

import argparse
import json
import sys
import textwrap
from dataclasses import asdict
from pathlib import Path

from controller.cli import failures
from controller.cli.failures import CommandError
from controller.cli.main import DEFAULT_CONFIG
from controller.cli.render import has_colour, table
from controller.config import ConfigProblems, load_node
from controller.tuning import is_explicit, plan_of, queue_pins, settled
from dataplane.drivers.topology import read_topology
from dataplane.model.topology import Topology, cpu_ranges
from dataplane.model.topologyjson import TopologyFault, topology_from_json, topology_to_json
from dataplane.plan.tuning.compute import every_nic, tuning
from dataplane.plan.tuning.outcome import Decision, Lack, Pins, Refused, TuningPlan

WIDTH = 96

EXPLICIT = (
    "note: the node's file names lcore, pmd and socket_mem_mib itself, so nothing else of this\n"
    "plan is set, and OVS's defaults hold; leave one of them out to have the plan"
)

FIRST = ("lcore", "pmd", "mempools", "flow_cache", "pmd_sleep_us")
"""What the short form shows besides memory and ports, in this order."""


def plan(arguments: argparse.Namespace) -> int:
    """`millrace plan`: 0 if it will forward, 4 if the machine lacks something for that."""
    topology = _topology(arguments)
    if arguments.record:
        text = topology_to_json(topology)
        if arguments.record == "-":
            print(text, end="")
        else:
            Path(arguments.record).write_text(text, encoding="utf-8")
        return failures.OK
    note = ""
    path = Path(arguments.config or DEFAULT_CONFIG)
    # Without --config, the node's own file counts for the node's own machine only.
    if arguments.config or (arguments.topology is None and path.exists()):
        source = load_node(path)
        computed = plan_of(source, topology)
        if problems := queue_pins(source, settled(source.config, computed)):
            raise ConfigProblems(problems)
        note = EXPLICIT if is_explicit(source.config) else ""
    else:
        try:
            computed = tuning(topology, every_nic(topology), Pins())
        except Refused as error:
            raise CommandError(str(error), failures.FAILED) from error
    if arguments.json:
        print(json.dumps(plan_json(topology, computed), indent=2, sort_keys=True))
    else:
        colour = has_colour(sys.stdout)
        here = arguments.topology is None
        text = plan_text(topology, computed, explain=arguments.explain, colour=colour, here=here)
        print(text)
        if note:
            print(f"\n{note}")
    return failures.DEGRADED if any(lack.grave for lack in computed.warnings) else failures.OK


def _topology(arguments: argparse.Namespace) -> Topology:
    if arguments.topology is None:
        return read_topology()
    path = Path(arguments.topology)
    try:
        return topology_from_json(path.read_text(encoding="utf-8"), str(path))
    except UnicodeDecodeError as error:
        msg = f"{path}: this is not UTF-8; `millrace plan --record FILE` writes one that is"
        raise CommandError(msg, failures.USAGE) from error
    except TopologyFault as error:
        raise CommandError(str(error), failures.USAGE) from error


def plan_text(
    topology: Topology, plan: TuningPlan, *, explain: bool, colour: bool, here: bool
) -> str:
    """The plan for people: the machine, the values, what is missing. `here`: it is this machine."""
    parts = [_machine(topology, "this machine" if here else "")]
    decisions = plan.decisions
    if explain:
        parts.append("\n".join(_explained(one) for one in decisions))
    else:
        values = {one.key: one.value for one in decisions}
        rows2 = [(key, values[key]) for key in FIRST if key in values]
        memory = plan.tuning.socket_mem_mib
        shown = ", ".join(f"node {node}: {mib}" for node, mib in sorted(memory.items()))
        rows2.insert(2, ("socket_mem_mib", shown))
        parts.append(table(("KEY", "VALUE"), rows2, colour=colour))
        ports = [
            (
                name,
                port.rx_queues,
                ", ".join(f"{queue}:{cpu}" for queue, cpu in sorted(port.affinity.items())),
            )
            for name, port in sorted(plan.tuning.ports.items())
        ]
        if ports:
            parts.append(table(("PORT", "RX QUEUES", "QUEUE:CPU"), ports, colour=colour))
        parts.append("why: millrace plan --explain")
    if plan.warnings:
        parts.append("\n".join(["missing:", *(_lack(lack) for lack in plan.warnings)]))
    return "\n\n".join(parts)


def _machine(topology: Topology, source: str) -> str:
    threads = max(len(core.cpus) for core in topology.cores)
    lines = [
        f"machine: {topology.model or topology.arch}, {len(topology.cores)} cores"
        + (f" of {threads} threads" if threads > 1 else ""),
        f"source:  {source or f'{topology.origin.kind}: {topology.origin.source}'}",
    ]
    for node in topology.nodes:
        cpus = frozenset().union(*(core.cpus for core in topology.cores_on(node.number)))
        nics = [nic.name for nic in topology.nics if nic.node == node.number]
        lines.append(
            f"node {node.number}:  CPU {cpu_ranges(cpus) or 'none'}, {node.memory_mib} MiB, "
            f"{node.hugepages_mib} MiB in hugepages" + (f", {', '.join(nics)}" if nics else "")
        )
    return "\n".join(lines)


def _explained(one: Decision) -> str:
    indent = " " * 4
    rule = textwrap.fill(one.rule, WIDTH, initial_indent=indent, subsequent_indent=indent)
    return f"{one.key} = {one.value}\n{rule}\n{indent}source: {one.source}"


def _lack(lack: Lack) -> str:
    mark = "error" if lack.grave else "warning"
    return "\n".join(
        [f"  {mark} {lack.name}: {lack.what}; {lack.why}", *(f"      {line}" for line in lack.fix)]
    )


def plan_json(topology: Topology, plan: TuningPlan) -> dict[str, object]:
    """The plan for programs; CPU sets as the kernel writes them."""
    values = plan.tuning
    return {
        "source": topology.origin.source,
        "tuning": {
            key: _plain(value) for key, value in asdict(values).items() if value is not None
        },
        "decisions": [asdict(one) for one in plan.decisions],
        "missing": [asdict(one) for one in plan.warnings],
        "pinned": sorted(plan.pinned),
    }


def _plain(value: object) -> object:
    if isinstance(value, frozenset):
        return cpu_ranges(value)
    if isinstance(value, dict):
        return {str(key): _plain(below) for key, below in value.items()}
    return getattr(value, "value", value)
