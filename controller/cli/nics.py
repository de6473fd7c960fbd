"""The subcommand `nics`: the machine's NICs, and which of them vfio has."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path

from controller import nics as trade
from controller.cli import failures
from controller.cli.failures import CommandError
from controller.cli.main import DEFAULT_CONFIG
from controller.cli.render import has_colour, table
from controller.config import load_node
from dataplane.drivers.pcibind import PciBinder

NOWHERE = Path("/nonexistent")
"""The state directory of a node without a file: nothing is on record there."""


def nics(arguments: argparse.Namespace) -> int:
    """`millrace nics`: list, bind or release."""
    path = Path(arguments.config or DEFAULT_CONFIG)
    # Listing needs no file; doing does.
    if arguments.action is None and arguments.config is None and not path.exists():
        config, binder = None, PciBinder(NOWHERE)
    else:
        config = load_node(path).config
        binder = trade.binder_of(config)
    if arguments.action is None:
        return _list(trade.listing(binder, config), as_json=arguments.json)
    assert config is not None
    if arguments.action == "bind":
        if arguments.nic:
            msg = "`nics bind` takes no names: it binds what the node's file names; mend the file"
            raise CommandError(msg, failures.USAGE)
        said = trade.bind(config, binder, recorded=arguments.recorded)
    else:
        said = trade.release(binder, arguments.nic)
    print("\n".join(said) or "nothing to do")
    return failures.OK


def _list(lines: list[trade.NicLine], *, as_json: bool) -> int:
    if as_json:
        print(json.dumps([asdict(line) for line in lines], indent=2))
        return failures.OK
    rows = [
        (x.name, x.address, x.driver, x.node if x.node >= 0 else "", x.group, x.queues, x.used_by,
         x.note)
        for x in lines
    ]  # fmt: skip
    headers = ("NAME", "PCI", "DRIVER", "NUMA", "IOMMU", "QUEUES", "USED BY", "NOTE")
    print(table(headers, rows, colour=has_colour(sys.stdout)) or "this machine has no PCI NIC")
    return failures.OK
