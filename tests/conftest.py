"""Rules for every test: a folder is a level, a skip needs an accepted absence, nothing stays."""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from tests.absences import ABSENCES, is_accepted
from tests.leftovers import Snapshot, settle, snapshot

LEVELS = (
    "unit",
    "property",
    "story",
    "contract",
    "abi",
    "bpf",
    "oracle",
    "ovs",
    "ovn",
    "netns",
    "system",
)
"""Folders and markers of the levels, in the order in which a run goes through them."""

# No time limits: a busy machine is no fault of the code under test.
settings.register_profile(
    "millrace", deadline=None, suppress_health_check=[HealthCheck.too_slow], print_blob=True
)
settings.load_profile("millrace")

_ROOT = Path(__file__).parent
_BEFORE = pytest.StashKey[Snapshot]()
_FINDINGS = pytest.StashKey[list[str]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--whole",
        action="store_true",
        help="the whole gate: every level has tests, and nothing is left on the machine",
    )


def pytest_configure(config: pytest.Config) -> None:
    config.stash[_FINDINGS] = []
    if config.getoption("--whole"):
        config.stash[_BEFORE] = snapshot()


def level_of(path: Path) -> str | None:
    """The level of a test file: the first folder below tests/."""
    try:
        first = path.relative_to(_ROOT).parts[0]
    except ValueError:
        return None
    return first if first in LEVELS else None


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for item in items:
        if level := level_of(item.path):
            item.add_marker(level)
    # sort() is stable: within a level the order of the files stays.
    items.sort(key=lambda item: LEVELS.index(level_of(item.path) or "unit"))
    if "soak" not in (config.getoption("-m") or ""):
        soaks = [item for item in items if item.get_closest_marker("soak")]
        if soaks:
            config.hook.pytest_deselected(items=soaks)
            items[:] = [item for item in items if item not in soaks]
    if config.getoption("--whole"):
        present = {level_of(item.path) for item in items}
        config.stash[_FINDINGS] += [
            f"level {level}: no test was collected; a level without tests proves nothing"
            for level in LEVELS
            if level not in present
        ]


def _refuse_skip(report: pytest.TestReport | pytest.CollectReport) -> None:
    """Turn a skip without an accepted absence, and an expected failure, into a failure."""
    if report.outcome != "skipped":
        return
    if hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"expected failures are not accepted: {report.wasxfail}"
        del report.wasxfail
        return
    reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
    if not is_accepted(reason):
        report.outcome = "failed"
        report.longrepr = (
            f"skipped without an accepted absence: {reason}\n"
            f"accepted, as pytest.skip(absent(NAME)): {', '.join(sorted(ABSENCES))}"
        )


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    _refuse_skip(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    report = yield
    _refuse_skip(report)
    return report


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    config = session.config
    if before := config.stash.get(_BEFORE, None):
        config.stash[_FINDINGS] += [f"left behind: {item}" for item in settle(before, timeout_s=15)]
    if config.stash[_FINDINGS] and session.exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    findings = terminalreporter.config.stash[_FINDINGS]
    if findings:
        terminalreporter.section("the run as a whole is red", red=True)
        for finding in findings:
            terminalreporter.line(finding, red=True)
