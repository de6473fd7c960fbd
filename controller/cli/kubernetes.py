"""`millrace controller run | diff | status` and `millrace explain`."""

from __future__ import annotations

import argparse
import asyncio
import importlib
import json
from pathlib import Path
from typing import Any

from cni.wire import call
from controller.cli import failures
from controller.cli.run import set_up_logging

TIMEOUT_S = 30.0
DIFF_TIMEOUT_S = 300.0


def controller(arguments: argparse.Namespace) -> int:
    """`millrace controller`: 0 if all is well, 4 if something is wrong or would change."""
    orders = {"run": _run, "diff": _diff, "status": _status}
    return orders[arguments.order](arguments)


def explain(arguments: argparse.Namespace) -> int:
    """`millrace explain ROW`: the objects behind a row of the northbound database."""
    answer = _ask(arguments, "explain", row=" ".join(arguments.row))
    if arguments.json:
        print(json.dumps(answer, indent=2, sort_keys=True))
        return failures.OK
    for row in answer["rows"]:
        print(f"{row['table']} {row['name']}")
        if row["parent"]:
            print(f"  in       {row['parent']}")
        for one in row["said_by"]:
            print(f"  said by  {one['object']} ({one['unit']})")
        for one in row["behind"]:
            print(f"  read     {one}")
        for name, value in (*row["columns"].items(), *row["refs"].items()):
            print(f"  column   {name} = {json.dumps(value)}")
        if row["refused"]:
            print(f"  refused  {row['refused']}")
    return failures.OK


def _run(arguments: argparse.Namespace) -> int:
    set_up_logging()
    # Imported by name: the composition roots are siblings of this command.
    return int(importlib.import_module("controller.kubenet").main(Path(arguments.config)) or 0)


def _status(arguments: argparse.Namespace) -> int:
    answer = _ask(arguments, "status")
    absent = [name for name, one in answer["sources"].items() if one["absent"]]
    wrong = [
        *(f"refused  {one['row']}: {one['reason']}" for one in answer["refused"]),
        *(f"problem  {one['object']}: {one['cause']}" for one in answer["problems"]),
        *(
            f"unread   {one}: nothing is removed from OVN until it can be read"
            for one in answer["unread"]
        ),
        *(f"defect   {unit}: {reason}" for unit, reason in answer["failed_units"].items()),
        *(
            f"watching {name}: {one['error']}"
            for name, one in answer["sources"].items()
            if one["error"] and not one["absent"]
        ),
        *(["OVN's northbound database is out of reach"] if not answer["connected"] else []),
    ]
    if arguments.json:
        print(json.dumps(answer, indent=2, sort_keys=True))
    else:
        written = answer["written"]
        state = "leads" if answer["leads"] else f"stands by for {answer['holder'] or 'nobody'}"
        print(f"{answer['identity']} {state}, pid {answer['pid']}")
        print(f"rows     {answer['rows']} wanted; {written['inserts']} made, "
              f"{written['updates']} changed, {written['deletes']} removed "
              f"in {written['transactions']} transactions")  # fmt: skip
        objects = sum(one["objects"] for one in answer["sources"].values())
        print(f"objects  {objects} of {len(answer['sources']) - len(absent)} kinds")
        if absent:
            print(f"absent   {', '.join(absent)}")
        print("\n".join(wrong) or "nothing is wrong")
    return failures.DEGRADED if wrong else failures.OK


def _diff(arguments: argparse.Namespace) -> int:
    config_files = importlib.import_module("controller.config_kubernetes")
    dry = importlib.import_module("controller.kubedry")
    config = config_files.load_kubernetes(Path(arguments.config))
    answer = asyncio.run(asyncio.wait_for(dry.difference(config), DIFF_TIMEOUT_S))
    if arguments.json:
        print(json.dumps(answer, indent=2, sort_keys=True))
    else:
        for one in answer["changes"]:
            print(f"{one['action']:<7}{one['row']}")
            for column, (before, after) in one["columns"].items():
                print(f"       {column}: {json.dumps(before)} -> {json.dumps(after)}")
        for row, reason in answer["refused"].items():
            print(f"refused {row}: {reason}")
        for one in answer["problems"]:
            print(f"problem {one['object']}: {one['cause']}; {one['next_step']}")
        print(f"{len(answer['changes'])} rows would change; {answer['rows']} are wanted")
    return failures.DEGRADED if answer["changes"] or answer["refused"] else failures.OK


def _ask(arguments: argparse.Namespace, op: str, **args: object) -> dict[str, Any]:
    config_files = importlib.import_module("controller.config_kubernetes")
    config = config_files.load_kubernetes(Path(arguments.config))
    return call(config.socket, op, args, TIMEOUT_S)
