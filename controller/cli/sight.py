"""The subcommands that look into services: services, conntrack, trace."""

from __future__ import annotations

import argparse
import sys

from controller.cli import failures
from controller.cli.read import ask, show
from controller.cli.render import Json, child, children, has_colour, table

TRACE_PORT = 40000
"""The client's port of a question that names none."""


def services(arguments: argparse.Namespace) -> int:
    """`millrace services`: the daemon answers page by page."""
    rows: list[Json] = []
    refused: list[Json] = []
    following: object = 0
    while following is not None:
        page = ask(arguments, "services", **{"from": following})
        rows += children(page, "services")
        refused += children(page, "refused")
        following = page.get("next")
    answer = {"services": rows, "refused": refused}
    text = services_text(answer, wide=arguments.wide, colour=has_colour(sys.stdout))
    show(arguments, answer, text)
    return failures.OK


def services_text(answer: Json, *, wide: bool, colour: bool) -> str:
    """The answers to `services` for people: one line a VIP."""
    headers = [
        "NAME", "VIP", "KIND", "SERVED BY", "MODE", "POLICY", "AFFINITY", "BACKENDS", "FLOWS",
        "CONNECTIONS", "PACKETS", "BYTES",
    ]  # fmt: skip
    if wide:
        headers += ["REPLIES", "DROPS", "RANGES", "BECAUSE"]
    rows = []
    for row in children(answer, "services"):
        cells = [
            row.get("name"),
            f"{row.get('vip')}/{row.get('protocol')}",
            row.get("kind"),
            row.get("served_by"),
            row.get("mode"),
            _policy(row),
            f"{row['affinity_s']} s" if row.get("affinity_s") else None,
            _counts(child(row, "backend_counts")) or "none",
            row.get("flows"),
            row.get("connections"),
            row.get("packets"),
            row.get("bytes"),
        ]
        if wide:
            cells += [
                row.get("reply_packets"),
                _counts(child(row, "drops")),
                row.get("source_ranges"),
                row.get("reason"),
            ]
        rows.append(cells)
    blocks = [table(headers, rows, colour=colour) or "no services"]
    if faults := children(answer, "refused"):
        keys = ("name", "cause", "next_step")
        cells_of = ([fault.get(key) for key in keys] for fault in faults)
        blocks.append(table(("PROBLEM", "CAUSE", "NEXT STEP"), cells_of, colour=colour))
    return "\n\n".join(blocks)


def _policy(row: Json) -> str:
    outer, inner = str(row.get("policy")), str(row.get("inner_policy"))
    return outer if inner in (outer, "cluster", "None") else f"{outer}, inside {inner}"


def _counts(counts: Json) -> str:
    return ", ".join(f"{count} {name}" for name, count in counts.items())


def conntrack(arguments: argparse.Namespace) -> int:
    """`millrace conntrack`: without --yes nothing is ended."""
    wanted = {
        name: getattr(arguments, name)
        for name in ("vip", "client", "backend", "states", "protocol")
        if getattr(arguments, name)
    }
    colour = has_colour(sys.stdout)
    if arguments.flush and arguments.yes:
        answer = ask(arguments, "conntrack", flush=True, **wanted)
        show(arguments, answer, f"ended {answer.get('ended')} flows{_states(answer)}")
    elif arguments.flush or arguments.count:
        answer = ask(arguments, "conntrack", count=True, **wanted)
        show(arguments, answer, counted_text(answer, would_end=arguments.flush))
    else:
        answer = ask(arguments, "conntrack", limit=arguments.limit, **wanted)
        show(arguments, answer, flows_text(answer, colour=colour))
    return failures.OK


def _states(answer: Json) -> str:
    states = _counts(child(answer, "states"))
    return f": {states}" if states else ""


def counted_text(answer: Json, *, would_end: bool) -> str:
    """The answer to `conntrack` with `count` for people."""
    lines = [f"{answer.get('flows')} flows{_states(answer)}"]
    lines += [
        f"{family}: {fill['flows']} flows in {fill['slots']} places"
        for family, fill in child(answer, "fill").items()
        if isinstance(fill, dict)
    ]
    if any(child(answer, "evicted").values()):
        lines.append(f"pushed out by new flows so far: {_counts(child(answer, 'evicted'))}")
    if would_end:
        lines.append("nothing was ended: say --yes to end the flows that match")
    return "\n".join(lines)


def flows_text(answer: Json, *, colour: bool) -> str:
    """The answer to `conntrack` for people."""
    keys = ("protocol", "client", "vip", "backend", "source", "state", "idle_s", "expires_s",
            "flags", "service")  # fmt: skip
    headers = ("PROTOCOL", "CLIENT", "VIP", "BACKEND", "SOURCE", "STATE", "IDLE", "EXPIRES",
               "FLAGS", "SERVICE")  # fmt: skip
    rows = [tuple(row.get(key) for key in keys) for row in children(answer, "flows")]
    text = table(headers, rows, colour=colour) or "no flows"
    hidden = answer.get("hidden")
    return f"{text}\nand {hidden} more; --limit, or a filter" if hidden else text


def trace(arguments: argparse.Namespace) -> int:
    """`millrace trace`."""
    client = str(arguments.client)
    if not _has_port(client):
        bare = client.strip("[]")
        client = f"[{bare}]:{TRACE_PORT}" if ":" in bare else f"{bare}:{TRACE_PORT}"
    answer = ask(
        arguments, "trace", protocol=arguments.protocol, client=client, vip=arguments.vip,
        inside=arguments.inside,
    )  # fmt: skip
    show(arguments, answer, trace_text(answer))
    return failures.OK


def _has_port(text: str) -> bool:
    return "]:" in text or text.count(":") == 1


def trace_text(answer: Json) -> str:
    """The answer to `trace` for people: a step a line, then what comes of it."""
    steps = [(str(step.get("step")), str(step.get("found"))) for step in children(answer, "steps")]
    ends = [(name.replace("_", " "), str(answer[name]))
            for name in ("backend", "source", "next_hop") if answer.get(name)]  # fmt: skip
    if answer.get("source_port", 0) is None:
        later = ", the port is chosen when the flow begins"
        ends = [(name, value + later * (name == "source")) for name, value in ends]
    width = max((len(name) for name, _ in (*steps, *ends)), default=0)
    lines = [f"{name:<{width}}  {found}" for name, found in steps]
    return "\n".join([*lines, *([""] if ends else []), *(f"{n:<{width}}  {v}" for n, v in ends)])
