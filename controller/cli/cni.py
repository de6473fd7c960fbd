"""`millrace cni-install` and `cni-remove`: the plugin and the conflist of this machine."""

from __future__ import annotations

import argparse
from pathlib import Path

from controller.cli import failures
from controller.cni_install import Places, install, remove


def _places(arguments: argparse.Namespace) -> Places:
    return Places(Path(arguments.bin_dir), Path(arguments.net_dir), arguments.name)


def cni_install(arguments: argparse.Namespace) -> int:
    """The plugin first, the conflist last."""
    try:
        conflist = Path(arguments.conflist).read_bytes()
    except OSError as error:
        msg = f"conflist {arguments.conflist}: {error.strerror}"
        raise failures.CommandError(msg, failures.USAGE) from error
    for path in install(_places(arguments), conflist, arguments.python, arguments.wait):
        print(path)
    return failures.OK


def cni_remove(arguments: argparse.Namespace) -> int:
    """The conflist first."""
    for path in remove(_places(arguments)):
        print(path)
    return failures.OK
