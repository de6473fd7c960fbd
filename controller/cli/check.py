"""The subcommand `doctor`."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path

from controller import doctor as clinic
from controller import embedded
from controller.cli import failures
from controller.cli.render import has_colour, table
from controller.config import load_node
from controller.tuning import settle
from dataplane.drivers import netns


def doctor(arguments: argparse.Namespace) -> int:
    """`millrace doctor`: 0 if nothing failed, 4 if something did."""
    path = Path(arguments.config)
    config = settle(load_node(path))
    name = arguments.netns or embedded.load(path).netns

    def examine() -> list[clinic.Finding]:
        return clinic.examine(clinic.site_of(config))

    findings = netns.inside_named(name, examine)
    if arguments.json:
        print(json.dumps([asdict(finding) for finding in findings], indent=2))
    else:
        print(findings_text(findings, colour=has_colour(sys.stdout)))
    failed = any(finding.state == "fail" for finding in findings)
    return failures.DEGRADED if failed else failures.OK


def findings_text(findings: list[clinic.Finding], *, colour: bool) -> str:
    """The findings for people; the next step of each that is not in order below."""
    rows = [(f.name, f.state, f.cause) for f in findings]
    lines = [table(("CHECK", "STATE", "CAUSE"), rows, colour=colour)]
    steps = [f"  {f.name}: {f.next_step}" for f in findings if f.next_step]
    return "\n".join([*lines, *(["", "next:", *steps] if steps else [])])
