"""What waits for a restart of vswitchd, and what a restart of the daemon remembers of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from controller.restart_watch import RestartWatch
from dataplane.drivers.unixctl import ProcessId

FIRST, SECOND = ProcessId(7, 100), ProcessId(7, 200)
BEGAN = {"dpdk-socket-mem": "1024", "pmd-cpu-mask": "0x2"}


def test_a_change_waits_until_another_process_begins(tmp_path: Path) -> None:
    watch = RestartWatch(tmp_path / "settings.json")
    assert watch.pending(FIRST, BEGAN) == {}
    changed = {**BEGAN, "dpdk-socket-mem": "2048", "pmd-cpu-mask": "0x6"}
    assert watch.pending(FIRST, changed) == {"dpdk-socket-mem": ("1024", "2048")}, (
        "masks count at once"
    )
    assert watch.pending(FIRST, BEGAN) == {}, "put back, nothing waits"
    assert watch.pending(None, changed) == {}
    # The same number, another process.
    assert watch.pending(SECOND, changed) == {}


def test_a_key_that_came_or_went_waits_too(tmp_path: Path) -> None:
    watch = RestartWatch(tmp_path / "settings.json")
    watch.pending(FIRST, {"dpdk-extra": "--no-pci"})
    assert tuple(watch.pending(FIRST, {"dpdk-socket-mem": "1"})) == (
        "dpdk-extra",
        "dpdk-socket-mem",
    )


def test_another_daemon_remembers(tmp_path: Path) -> None:
    record = tmp_path / "settings.json"
    RestartWatch(record).pending(FIRST, BEGAN)
    changed = {"dpdk-socket-mem": "2048"}
    assert RestartWatch(record).pending(FIRST, changed) == {"dpdk-socket-mem": ("1024", "2048")}
    assert RestartWatch(record).pending(SECOND, changed) == {}
    assert record.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("text", ["", "{", "[]", '{"format": 2}', '{"format": 1, "process": 7}'])
def test_a_record_that_cannot_be_read_counts_as_none(tmp_path: Path, text: str) -> None:
    record = tmp_path / "settings.json"
    record.write_text(text)
    assert RestartWatch(record).pending(FIRST, BEGAN) == {}


def test_a_record_that_cannot_be_written_is_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert RestartWatch(tmp_path / "nowhere" / "settings.json").pending(FIRST, BEGAN) == {}
    assert "settings_not_noted" in caplog.text
