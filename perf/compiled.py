"""Our DPDK programs, compiled where they are needed: a compiler's run, once for each source."""

from __future__ import annotations

import shutil
from pathlib import Path

from dataplane.drivers import processes
from tests.labs import image


def program(source: Path) -> Path:
    """The program of one C source, compiled anew if it or a header beside it is newer.

    Raises:
        ProcessError: there is no compiler, no DPDK to link with, or the source is wrong.
    """
    image.CACHE.mkdir(parents=True, exist_ok=True)
    binary = image.CACHE / source.stem
    newest = max(path.stat().st_mtime for path in (source, *source.parent.glob("*.h")))
    if not binary.exists() or binary.stat().st_mtime < newest:
        partial = image.CACHE / f"{source.stem}.new"
        compiler = shutil.which("cc") or shutil.which("clang") or "cc"
        flags = processes.run(["pkg-config", "--cflags", "--libs", "libdpdk"]).split()
        words = [compiler, "-O2", "-Wall", "-Wextra", "-o", str(partial), str(source), *flags]
        processes.run(words, timeout_s=120)
        partial.replace(binary)
    return binary
