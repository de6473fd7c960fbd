"""The long-running subcommands: the node daemon and the cluster controller."""

from __future__ import annotations

import argparse
import importlib
import logging
import sys
from datetime import UTC, datetime
from pathlib import Path

_KNOWN = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime"}
"""What every record has; anything else was given as `extra`."""


class EventFormatter(logging.Formatter):
    """One line an event: UTC time, level, logger, the event, and what came with it as key=value."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s %(message)s")

    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:  # noqa: N802 - logging's own
        """RFC 3339, UTC, milliseconds."""
        moment = datetime.fromtimestamp(record.created, UTC)
        return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's own
        """The line, before any traceback."""
        extras = {key: value for key, value in vars(record).items() if key not in _KNOWN}
        words = [super().formatMessage(record), *(f"{k}={v}" for k, v in extras.items())]
        # What a peer sent must not begin a line that looks like an event of ours.
        return " ".join(words).replace("\n", "\\n")


def set_up_logging() -> None:
    """Events to stderr: `millrace up` leads it to a file, systemd to the journal."""
    output = logging.StreamHandler(sys.stderr)
    output.setFormatter(EventFormatter())
    logging.basicConfig(level=logging.INFO, handlers=[output])


def node(arguments: argparse.Namespace) -> int:
    """`millrace node`: returns when it was told to stop."""
    return _run("controller.node", Path(arguments.config))


def central(arguments: argparse.Namespace) -> int:
    """`millrace central`: returns when it was told to stop."""
    socket = Path(arguments.socket).absolute() if arguments.socket else None
    return _run("controller.central", Path(arguments.cluster), socket)


def _run(module: str, *arguments: Path | None) -> int:
    set_up_logging()
    # Imported by name: the two composition roots are siblings of this command, and each brings
    # every driver that it constructs; running one must not load the other.
    return int(importlib.import_module(module).main(*arguments) or 0)
