"""The lab of the loops, how long they last, and the table at the end."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator

import pytest

from tests.labs.lab import Lab
from tests.leftovers import settle, snapshot
from tests.soak.verdicts import Verdicts

PREFIX = "mrsoak"
USUAL_MINUTES = 10.0
"""How long the loops take together at a scale of 1, the building of the lab included."""

DEFAULT_MINUTES = 15.0

_VERDICTS = pytest.StashKey[Verdicts]()


def pytest_configure(config: pytest.Config) -> None:
    config.stash[_VERDICTS] = Verdicts()


@pytest.fixture(scope="session")
def verdicts(pytestconfig: pytest.Config) -> Verdicts:
    return pytestconfig.stash.setdefault(_VERDICTS, Verdicts())


@pytest.fixture(scope="session")
def scale() -> float:
    """How much of the usual length: MILLRACE_SOAK_MINUTES."""
    return float(os.environ.get("MILLRACE_SOAK_MINUTES", DEFAULT_MINUTES)) / USUAL_MINUTES


@pytest.fixture(scope="module")
def lab(verdicts: Verdicts) -> Iterator[Lab]:
    before = snapshot()
    began = time.monotonic()
    with Lab(
        PREFIX, lambda line: print(f"[{time.monotonic() - began:6.1f} s] {line}", flush=True)
    ) as built:
        yield built
    # Others may work on this machine: only what bears our prefix is ours.
    left = [item for item in settle(before, timeout_s=15) if PREFIX in item]
    nothing = "no namespace, mount, pin, link or process left"
    assert verdicts.note("the lab is gone", "; ".join(left) or nothing, holds=not left)


@pytest.hookimpl(trylast=True)
def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    verdicts = terminalreporter.config.stash.get(_VERDICTS, None)
    if verdicts is not None and verdicts.rows:
        terminalreporter.section("what the soak found")
        terminalreporter.write_line(verdicts.table())
        load = " ".join(f"{one:.1f}" for one in os.getloadavg())
        terminalreporter.write_line(f"load average at the end: {load}")
