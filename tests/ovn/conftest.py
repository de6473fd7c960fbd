from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.labs.ovnsandbox import OvnSandbox


@pytest.fixture
def ovn() -> Iterator[OvnSandbox]:
    """NB, SB and northd, with one VPC (vpc0, sw0 10.1.0.0/24), two chassis and a VM on each."""
    # Not pytest's tmp_path: a unix socket's path has at most 107 bytes.
    with tempfile.TemporaryDirectory(prefix="mrv-ovn-") as directory:
        box = OvnSandbox(Path(directory))
        try:
            box.start()
            vpc(box)
            yield box
        finally:
            box.stop()


def vpc(box: OvnSandbox) -> None:
    box.chassis("n1", "10.0.0.1")
    box.chassis("n2", "10.0.0.2")
    box.switch("sw0")
    box.router("vpc0")
    box.connect("vpc0", "sw0", "0a:00:00:00:00:01", "10.1.0.1/24")
    for number, chassis in ((1, "n1"), (2, "n2")):
        box.vm("sw0", f"vm{number}.ns", f"0a:00:00:00:00:1{number}", f"10.1.0.1{number}")
        box.sync()
        box.bind(f"vm{number}.ns", chassis)
