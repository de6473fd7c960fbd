"""The directories of an embedded node: made by `up`, and removed whole only if it made them.

How we recognise our own: a marker in the directory, which names the node and is written by the one
who made it. Of a directory without it, `down` takes the files that a node is known to make.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path

from dataplane.drivers.processes import ProcessError

MARKER = ".millrace-node"
PARENT = "millrace"
"""What every node's directory lies in (`controller.config_values.node_directory` sees to it)."""

RUN_MODE = 0o711
"""Guests that are not root's pass through to the directory of their pod, and list nothing."""

STATE_MODE = 0o750
_PARENT_MODE = 0o755

_DAEMONS = (
    "db", "nb", "sb", "ovs-vswitchd", "ovn-northd", "ovn-controller", "node", "central",
)  # fmt: skip
_RUN_FILES = (
    *(f"{name}.{kind}" for name in _DAEMONS for kind in ("pid", "start", "ctl", "log")),
    *(f"{name}.sock" for name in ("db", "nb", "sb", "agent", "cni", "central")),
    "ovn-controller.*.ctl",
    "br-*.mgmt",
    "br-*.snoop",
    "undo.json",
    "undo.json.new",
    "vhost/*/*.sock",
    "vhost/*",
    "vhost",
)
_STATE_FILES = (
    *(f"{name}.db" for name in ("conf", "nb", "sb")),
    *(f".{name}.db.~lock~" for name in ("conf", "nb", "sb")),
    "attachments/*.json",
    "attachments",
)


def make(directory: Path, node: str, mode: int) -> None:
    """Make a node's directory and mark it as ours; one that is there gets its mode only.

    Modes are set whatever the umask, those of missing parents too.

    Raises:
        ProcessError: something else is in its place.
    """
    try:
        _make(directory)
    except FileExistsError:
        if not directory.is_dir():
            msg = f"{directory} is no directory; move it away"
            raise ProcessError(msg) from None
    else:
        (directory / MARKER).write_text(f"{node}\n", encoding="utf-8")
    directory.chmod(mode)


def _make(directory: Path) -> None:
    for parent in reversed(directory.parents):
        if not parent.is_dir():
            # Another node's `up` may be as far at this moment.
            with contextlib.suppress(FileExistsError):
                parent.mkdir(mode=_PARENT_MODE)
                parent.chmod(_PARENT_MODE)
    try:
        directory.mkdir(mode=0o700)
    except FileNotFoundError:
        # Another node's `down` took the empty parent away; it does so once.
        with contextlib.suppress(FileExistsError):
            directory.parent.mkdir(mode=_PARENT_MODE)
            directory.parent.chmod(_PARENT_MODE)
        directory.mkdir(mode=0o700)


def owned(directory: Path, node: str) -> bool:
    """Whether `make` made it for this node."""
    try:
        marked = (directory / MARKER).read_text(encoding="utf-8").strip() == node
    except (OSError, UnicodeDecodeError):
        return False
    return marked and not directory.is_symlink()


def remove_run(directory: Path, node: str) -> Iterator[str]:
    """Remove a run directory; what was done, in words."""
    return _remove(directory, node, _RUN_FILES)


def remove_state(directory: Path, node: str) -> Iterator[str]:
    """Remove a state directory; what was done, in words."""
    return _remove(directory, node, _STATE_FILES)


def _remove(directory: Path, node: str, known: tuple[str, ...]) -> Iterator[str]:
    if not directory.is_dir():
        return
    if owned(directory, node):
        shutil.rmtree(directory)
    else:
        for pattern in known:
            for path in directory.glob(pattern):
                _remove_one(path)
        with contextlib.suppress(OSError):
            directory.rmdir()
    if not directory.exists():
        yield f"removed {directory}"
        remove_empty_parent(directory)
        return
    left = sorted(path.name for path in directory.iterdir())
    yield (
        f"left {directory}: `millrace up` did not make it, and this is not known to be a node's: "
        f"{', '.join(left[:5])}{', ...' if len(left) > 5 else ''}; look at it and remove it by hand"
    )


def _remove_one(path: Path) -> None:
    with contextlib.suppress(FileNotFoundError):
        if path.is_dir() and not path.is_symlink():
            # Whatever else is in there is not ours.
            with contextlib.suppress(OSError):
                path.rmdir()
        else:
            path.unlink()


def remove_empty_parent(directory: Path) -> None:
    """Remove the directory that nodes' directories lie in, if this was the last."""
    if directory.parent.name == PARENT:
        with contextlib.suppress(OSError):
            directory.parent.rmdir()
