"""The subcommand `dump`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from controller.cli import failures
from controller.config import load_node
from controller.dump import Order
from controller.dump import dump as capture


def dump(arguments: argparse.Namespace) -> int:
    """`millrace dump`: 0 when it ended as it should, by its bounds or by a signal."""
    for name, value in (("-c", arguments.count), ("--seconds", arguments.seconds)):
        if value is not None and value <= 0:
            message = f"{name} {value} captures nothing"
            raise failures.CommandError(message, failures.USAGE)
    if arguments.to is not None and arguments.count is not None:
        message = "-c counts packets of a file, and --to writes none: give --seconds"
        raise failures.CommandError(message, failures.USAGE)
    config = load_node(Path(arguments.config)).config
    file = Path(arguments.write).absolute() if arguments.write is not None else None
    order = Order(arguments.port, file, arguments.to, arguments.count, arguments.seconds)
    done = capture(config, order)
    what = f"copied to {arguments.to}" if file is None else f"{done.packets} packets in {file}"
    lost = f"; {done.lost} more were lost, they came too fast for the file" if done.lost else ""
    print(f"{done.port}: {what}{lost}; ended by {done.ended_by}", file=sys.stderr)
    return failures.OK
