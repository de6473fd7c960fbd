"""`millrace rebalance`: present and proposed loads of PMD threads, and the moves between them."""

from __future__ import annotations

import argparse
import sys

from controller.cli import failures
from controller.cli.read import ask, show
from controller.cli.render import Json, children, has_colour, table


def rebalance(arguments: argparse.Namespace) -> int:
    """Show, and with --apply do; --undo takes our pins back."""
    order = "apply" if arguments.apply else "undo" if arguments.undo else "show"
    answer = ask(arguments, "rebalance", order=order)
    show(arguments, answer, rebalance_text(answer, colour=has_colour(sys.stdout)))
    return failures.OK


def rebalance_text(answer: Json, *, colour: bool) -> str:
    """The answer for people."""
    after = {row.get("cpu"): row.get("load") for row in children(answer, "proposed")}
    blocks = [f"mode {answer.get('mode', '?')}, from the last {answer.get('polls', 0)} polls"]
    blocks.append(
        table(
            ("CPU", "LOAD %", "PROPOSED %"),
            (
                (row.get("cpu"), row.get("load"), after.get(row.get("cpu")))
                for row in children(answer, "present")
            ),
            colour=colour,
        )
        or "no PMD thread has been measured yet"
    )
    highest, variance = _pair(answer.get("highest")), _pair(answer.get("variance"))
    if highest and variance:
        blocks.append(f"highest load {highest} %, variance {variance}")
    blocks.append(
        table(
            ("PORT", "QUEUE", "LOAD %", "FROM", "TO"),
            (
                tuple(row.get(key) for key in ("port", "queue", "load", "from", "to"))
                for row in children(answer, "moves")
            ),
            colour=colour,
        )
        or "nothing would move"
    )
    blocks += [
        f"NUMA node {row.get('numa')}: {row.get('reason')}" for row in children(answer, "reasons")
    ]
    if advice := answer.get("advice"):
        blocks.append(str(advice))
    if answer.get("changed") is True:
        blocks.append("done")
    return "\n\n".join(block for block in blocks if block)


def _pair(value: object) -> str:
    if not isinstance(value, list) or not all(isinstance(one, int | float) for one in value):
        return ""
    return " -> ".join(f"{one:.1f}" for one in value)
