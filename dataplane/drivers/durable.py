"""Files that are whole whenever somebody looks, and on the disk when a call returns."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from pathlib import Path

PARTIAL = ".partial"
"""How the name of a file ends that is being written: whoever finds one may remove it."""


def put(
    path: Path, data: bytes, mode: int = 0o600, trial: Callable[[Path], None] | None = None
) -> None:
    """Write a file, and give it its name once it is on the disk and `trial` is content with it.

    Raises:
        OSError: the disk refused; what was there before is still whole. So it is if `trial` raises.
    """
    # Nothing that reads a directory by suffix (.conflist, .json) takes this for one of its own.
    partial = path.with_name(f".{path.name}{PARTIAL}")
    try:
        fd = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with os.fdopen(fd, "wb") as file:
            file.write(data)
            file.flush()
            os.fchmod(file.fileno(), mode)
            os.fsync(file.fileno())
        if trial is not None:
            trial(partial)
        partial.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            partial.unlink()
        raise
    sync(path.parent)


def sync(directory: Path) -> None:
    """Names that were given or taken away in it are on the disk.

    Raises:
        OSError: the disk refused.
    """
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
