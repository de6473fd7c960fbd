"""A running node takes [tuning] over: PMD threads act on it, what waits for a restart is said."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.labs.sandbox import wait_until

Millrace = Callable[..., "subprocess.CompletedProcess[str]"]

NAME = "mrtune"
FILE = f"""\
[node]
name = "{NAME}"
metrics = "127.0.0.1:19480"

[hugepages]
count = 512
"""
TUNED = """
[tuning]
emc_insert_inverse = 7
rxq_assign = "cycles"
pmd_sleep_us = 50
vhost_postcopy = true
"""
RUNDIR = Path("/run/millrace") / NAME


@pytest.fixture
def node(tmp_path: Path, millrace: Millrace) -> Iterator[Path]:
    path = tmp_path / "node.toml"
    path.write_text(FILE, encoding="utf-8")
    subprocess.run(["ip", "netns", "add", NAME], check=True)
    try:
        up = millrace("up", "--config", str(path), "--netns", NAME)
        assert up.returncode == 0, up.stderr
        yield path
    finally:
        down = millrace("down", "--config", str(path))
        subprocess.run(["ip", "netns", "del", NAME], check=True)
        assert down.returncode == 0, down.stderr


def log() -> str:
    return (RUNDIR / "ovs-vswitchd.log").read_text(encoding="utf-8", errors="replace")


def status(millrace: Millrace, path: Path) -> dict[str, object]:
    found: dict[str, object] = json.loads(
        millrace("status", "--config", str(path), "--json").stdout
    )["ovs"]
    return found


def test_pmd_threads_act_on_a_pin_and_on_its_absence(node: Path, millrace: Millrace) -> None:
    hand = ["set", "Open_vSwitch", ".", "other_config:pmd-perf-metrics=true"]
    subprocess.run(["ovs-vsctl", f"--db=unix:{RUNDIR}/db.sock", *hand], check=True)
    start = len(log())
    node.write_text(FILE + TUNED, encoding="utf-8")
    applied = millrace("apply", "--config", str(node), "--json")
    assert applied.returncode == 0, applied.stderr
    for line in ("changed to 1/7 ", "mode changed to: 'cycles'", "sleep request is 50 usecs"):
        wait_until(lambda line=line: line in log()[start:], line)  # type: ignore[misc]
    found = status(millrace, node)
    assert found["restart_pending"] == {"vhost-postcopy-support": [None, "true"]}
    assert found["foreign_settings"] == {"pmd-perf-metrics": "true"}

    start = len(log())
    node.write_text(FILE, encoding="utf-8")
    assert millrace("apply", "--config", str(node)).returncode == 0
    # What the plan computes is there again; it leaves the rest to OVS's defaults.
    for line in ("changed to 1/100 ", "mode changed to: 'group'", planned_sleep(millrace, node)):
        wait_until(lambda line=line: line in log()[start:], line)  # type: ignore[misc]
    found = status(millrace, node)
    assert found["restart_pending"] == {}
    assert found["foreign_settings"] == {"pmd-perf-metrics": "true"}


def planned_sleep(millrace: Millrace, path: Path) -> str:
    plan = json.loads(millrace("plan", "--config", str(path), "--json").stdout)["tuning"]
    return f"sleep request is {plan['pmd_sleep_us']} usecs"


def hand(*words: str) -> str:
    done = subprocess.run(
        ["ovs-vsctl", f"--db=unix:{RUNDIR}/db.sock", *words],
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    return done.stdout.strip().strip('"')


def test_a_hands_value_holds_until_the_file_names_the_key(node: Path, millrace: Millrace) -> None:
    key = ("get", "Open_vSwitch", ".", "other_config:smc-enable")
    assert hand(*key) == "false"
    hand("set", "Open_vSwitch", ".", "other_config:smc-enable=true")
    assert millrace("apply", "--config", str(node)).returncode == 0
    assert hand(*key) == "true"
    found = status(millrace, node)
    assert found["foreign_settings"] == {"smc-enable": "true"}
    assert found["foreign_wins"] == {"smc-enable": ["true", "false"]}

    node.write_text(FILE + '[tuning]\nflow_cache = "emc"\n', encoding="utf-8")
    assert millrace("apply", "--config", str(node)).returncode == 0
    assert hand(*key) == "false"
    found = status(millrace, node)
    assert (found["foreign_settings"], found["foreign_wins"]) == ({}, {})
    assert found["overwrote"] == {"smc-enable": "true"}
