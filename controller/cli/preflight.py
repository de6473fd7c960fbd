"""The subcommand `preflight`."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path

from controller.cli import failures
from controller.cli.render import has_colour, table
from controller.config import load_node
from controller.ovn.deployment import deployment
from controller.translate.vxlan import Verdict
from controller.translate.vxlan import preflight as judge
from dataplane.drivers.ovsdb_tls import Tls, use_tls


def preflight(arguments: argparse.Namespace) -> int:
    """`millrace preflight vxlan`: 0 if nothing would break, 4 if something would."""
    config = load_node(Path(arguments.config)).config
    if config.ovn_tls is not None:
        use_tls(Tls(*config.ovn_tls))
    verdict = judge(deployment(config.nb_remote, config.sb_remote))
    if arguments.json:
        print(json.dumps(asdict(verdict), indent=2))
    else:
        print(verdict_text(verdict, colour=has_colour(sys.stdout)))
    return failures.DEGRADED if verdict.broken else failures.OK


def verdict_text(verdict: Verdict, *, colour: bool) -> str:
    """What would break and what would be limited, for people."""
    rows = [
        (state, problem.name, problem.cause, problem.next_step)
        for state, problems in (("fail", verdict.broken), ("warn", verdict.limits))
        for problem in problems
    ]
    if not rows:
        return "Nothing here is beyond VXLAN's limits."
    return table(("STATE", "NAME", "CAUSE", "NEXT STEP"), rows, colour=colour)
