"""Our DPDK programs, compiled where they are needed: a compiler's run, once for each source."""

from __future__ import annotations

import shutil
from pathlib import Path

from dataplane.drivers import processes
from tests.labs import image

SHARED = Path(__file__).parent
"""Where the headers of all of them are."""


def program(source: Path) -> Path:
    """The program of one C source, compiled anew if it or a header that it may have is newer.

    Raises:
        ProcessError: there is no compiler, no DPDK to link with, or the source is wrong.
    """
    image.CACHE.mkdir(parents=True, exist_ok=True)
    binary = image.CACHE / source.stem
    headers = {*SHARED.glob("*.h"), *source.parent.glob("*.h")}
    newest = max(path.stat().st_mtime for path in (source, *headers))
    if not binary.exists() or binary.stat().st_mtime < newest:
        partial = image.CACHE / f"{source.stem}.new"
        compiler = shutil.which("cc") or shutil.which("clang") or "cc"
        flags = processes.run(["pkg-config", "--cflags", "--libs", "libdpdk"]).split()
        wanted = ["-O2", "-Wall", "-Wextra", f"-I{SHARED}", "-o", str(partial), str(source)]
        processes.run([compiler, *wanted, *flags], timeout_s=120)
        partial.replace(binary)
    return binary
