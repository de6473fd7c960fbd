"""A node whose file says nothing of cores and memory runs with what `millrace plan` says."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from dataplane.model.topology import cpu_list

Millrace = Callable[..., "subprocess.CompletedProcess[str]"]

NAME = "mrplan"
FILE = f"""\
[node]
name = "{NAME}"
metrics = "127.0.0.1:19479"

[hugepages]
count = 512
"""


@pytest.fixture
def planned(tmp_path: Path, millrace: Millrace) -> Iterator[Path]:
    """The file of a node that is up, in a namespace of its own."""
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


def other_config() -> dict[str, str]:
    """What the node's OVS was told."""
    words = ["--format=json", "--columns=other_config", "list", "Open_vSwitch"]
    socket = f"unix:/run/millrace/{NAME}/db.sock"
    found = subprocess.run(
        ["ovs-vsctl", f"--db={socket}", *words], check=True, capture_output=True, text=True
    )
    return dict(json.loads(found.stdout)["data"][0][0][1])


def mask(cpus: str) -> str:
    return hex(sum(1 << cpu for cpu in cpu_list(cpus)))


def test_a_node_runs_with_its_plan(planned: Path, millrace: Millrace) -> None:
    shown = millrace("plan", "--config", str(planned), "--json")
    assert shown.returncode == 0, shown.stderr
    plan = json.loads(shown.stdout)["tuning"]
    told = other_config()
    assert told["dpdk-lcore-mask"] == mask(plan["lcore"])
    assert told["pmd-cpu-mask"] == mask(plan["pmd"])
    assert told["dpdk-socket-mem"].split(",")[0] == str(plan["socket_mem_mib"]["0"])
    # The same file, taken over by the running daemon, asks for the same.
    applied = millrace("apply", "--config", str(planned), "--json")
    assert applied.returncode == 0, applied.stderr
    answer = json.loads(applied.stdout)
    assert (answer["changed"], answer["restart_pending"]) == ([], [])
    assert other_config() == told


def test_a_pin_that_cannot_be_is_refused_with_nothing_changed(
    planned: Path, millrace: Millrace, tmp_path: Path
) -> None:
    before = other_config()
    bad = tmp_path / "bad.toml"
    bad.write_text(FILE + "[dpdk]\npmd = [1023]\nlcore = [0]\n", encoding="utf-8")
    applied = millrace("apply", "--config", str(planned), str(bad))
    assert applied.returncode != 0
    assert "core 1023" in applied.stderr
    assert other_config() == before
