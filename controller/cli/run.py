"""The long-running subcommands: the node daemon and the cluster controller."""

from __future__ import annotations

import argparse
import importlib
from pathlib import Path


def node(arguments: argparse.Namespace) -> int:
    """`millrace node`: returns when it was told to stop."""
    return _run("controller.node", Path(arguments.config))


def central(arguments: argparse.Namespace) -> int:
    """`millrace central`: returns when it was told to stop."""
    return _run("controller.central", Path(arguments.cluster))


def _run(module: str, path: Path) -> int:
    # Imported by name: the two composition roots are siblings of this command, and each brings
    # every driver that it constructs; running one must not load the other.
    return int(importlib.import_module(module).main(path) or 0)
