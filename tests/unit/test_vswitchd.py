"""What the daemon concludes from looking at vswitchd's process."""

from __future__ import annotations

import os
from pathlib import Path

from controller.vswitchd import Vswitchd, recovered, running_pid, seen, version_of


def test_the_first_sight_is_no_restart() -> None:
    assert seen(Vswitchd(), 7, 1.0) == Vswitchd(7)


def test_an_outage_lasts_from_the_loss_until_everything_is_right_again() -> None:
    gone = seen(Vswitchd(7), None, 10.0)
    assert gone.away_since == 10.0
    back = seen(gone, 8, 12.0)
    assert (back.restarts, back.recovering, back.outage_s) == (1, True, None)
    assert recovered(back, 13.5) == Vswitchd(8, 1, None, outage_s=3.5)


def test_a_restart_between_two_looks_is_a_restart() -> None:
    back = seen(Vswitchd(7), 8, 10.0)
    assert (back.restarts, back.away_since) == (1, 10.0)


def test_nothing_has_recovered_while_it_is_away() -> None:
    gone = seen(Vswitchd(7), None, 10.0)
    assert recovered(gone, 11.0) == gone


def test_a_steady_process_changes_nothing() -> None:
    steady = Vswitchd(7, 2, None, outage_s=1.0)
    assert seen(steady, 7, 99.0) is steady
    assert recovered(steady, 99.0) is steady


def test_a_pid_file_counts_only_if_the_process_lives(tmp_path: Path) -> None:
    file = tmp_path / "pid"
    assert running_pid(file) is None
    file.write_text(f"{os.getpid()}\n")
    assert running_pid(file) == os.getpid()
    file.write_text("not a number")
    assert running_pid(file) is None


def test_the_version_is_the_last_word_of_the_first_line() -> None:
    assert version_of("ovs-vswitchd (Open vSwitch) 3.1.0\nDPDK 22.11.11\n") == "3.1.0"
    assert version_of("") == ""
