"""Labs for the tests of whole nodes. One at a time: two cores carry one PMD and one guest."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import pytest

from dataplane.drivers import processes
from tests.labs.lab import Lab
from tests.labs.workloads import ROOT


def _progress() -> Callable[[str], None]:
    began = time.monotonic()
    return lambda line: print(f"[{time.monotonic() - began:6.1f} s] {line}", flush=True)


@pytest.fixture(scope="module")
def progress() -> Callable[[str], None]:
    """Lines with the time that has passed, into the captured output."""
    return _progress()


@pytest.fixture(scope="module")
def lab(progress: Callable[[str], None]) -> Iterator[Lab]:
    """The demonstration's topology, for one file of tests."""
    with Lab("mrsys", progress) as built:
        yield built


@pytest.fixture(scope="session")
def millrace() -> Callable[..., subprocess.CompletedProcess[str]]:
    """The command, as an operator runs it."""

    def run(*argv: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "controller.cli.main", *argv],
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            env=processes.clean_environment(PYTHONPATH=str(ROOT)),
            timeout=120,
            check=False,
        )

    return run
