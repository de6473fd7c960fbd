"""A kernel header tree for BCC: Debian's, unpacked, never installed, kept in tests/labs/cache."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from perf.kerneltrace import ARCHITECTURE
from tests.labs import image

META_PACKAGE = "linux-headers-cloud-amd64"


def tree() -> Path:
    """The folder that one names to BCC; its other half is beside it.

    Raises:
        ProcessError: the packages cannot be downloaded.
    """
    image.CACHE.mkdir(parents=True, exist_ok=True)
    cached = image.CACHE / "headers"
    if not cached.is_dir():
        specific = image.package_of(META_PACKAGE)
        common = f"{specific.removesuffix('-cloud-amd64')}-common"
        with tempfile.TemporaryDirectory(dir=image.CACHE) as scratch:
            for package in (specific, common):
                image.unpack(package, Path(scratch))
            sources = Path(scratch) / "root/usr/src"
            # Kernel modules are not built here: what only they need, and other machines, is most.
            others = [each for each in sources.glob("*/arch/*") if each.name != ARCHITECTURE]
            bindings = sources.glob("*/include/dt-bindings")
            for useless in (
                *others,
                *bindings,
                *sources.glob("*/tools"),
                *sources.glob("*/scripts"),
            ):
                if useless.is_dir() and not useless.is_symlink():
                    shutil.rmtree(useless)
            sources.rename(cached)
    return next(cached.glob("linux-headers-*-cloud-amd64"))
