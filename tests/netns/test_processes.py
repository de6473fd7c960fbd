"""Processes of ours, real ones: recognised, ended, never mistaken for somebody else's."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from dataplane.drivers import processes
from dataplane.drivers.processes import Daemon, ProcessError


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    script = tmp_path / "sleeper.sh"
    script.write_text("#!/bin/sh\nwhile :; do sleep 0.1; done\n")
    script.chmod(0o755)
    made = Daemon("sleeper", tmp_path / "sleeper.pid", str(script))
    yield made
    processes.stop(made, grace_s=2)


def start(daemon: Daemon) -> int:
    log = daemon.pidfile.with_suffix(".log")
    pid = processes.spawn(["sh", daemon.marker], log=log, pidfile=daemon.pidfile)
    processes.note_start(daemon)
    return pid


def test_a_daemon_is_found_by_its_pidfile_and_ended(daemon: Daemon) -> None:
    assert processes.running_pid(daemon) is None
    pid = start(daemon)
    assert processes.running_pid(daemon) == pid
    assert processes.stop(daemon) is True
    assert processes.running_pid(daemon) is None
    assert processes.command_line(pid) is None
    assert not daemon.pidfile.exists()
    assert processes.stop(daemon) is False


def test_a_killed_child_does_not_pass_for_alive(daemon: Daemon) -> None:
    pid = start(daemon)
    os.kill(pid, signal.SIGKILL)
    processes.wait_until(lambda: processes.running_pid(daemon) is None, "noticed")


def test_a_process_that_ignores_sigterm_is_killed(tmp_path: Path) -> None:
    script = tmp_path / "stubborn.sh"
    ready = tmp_path / "ready"
    script.write_text(f"trap '' TERM\ntouch {ready}\nwhile :; do sleep 0.1; done\n")
    daemon = Daemon("stubborn", tmp_path / "s.pid", str(script))
    start(daemon)
    processes.wait_until(ready.exists, "the trap is set")
    assert processes.stop(daemon, grace_s=0.3) is True
    assert processes.running_pid(daemon) is None


def test_a_number_that_belongs_to_somebody_else_is_left_alone(daemon: Daemon) -> None:
    daemon.pidfile.write_text(f"{os.getpid()}\n")
    assert processes.running_pid(daemon) is None
    processes.stop(daemon)
    processes.end(os.getpid(), daemon.marker)


def test_a_number_that_was_given_out_anew_is_not_ours(daemon: Daemon) -> None:
    pid = start(daemon)
    daemon.startfile.write_text(f"{pid} 1\n")
    assert processes.running_pid(daemon) is None
    processes.note_start(Daemon("other", daemon.pidfile, "nobody"))
    daemon.startfile.unlink()
    assert processes.running_pid(daemon) == pid


def test_a_failed_command_says_what_it_said(tmp_path: Path) -> None:
    with pytest.raises(ProcessError, match=r"exit 2: .*nowhere"):
        processes.run(["ls", str(tmp_path / "nowhere")])
    with pytest.raises(ProcessError, match="not installed"):
        processes.run(["millrace-no-such-program"])
