"""`millrace perf xdp` measures what is attached, and a running node does not notice."""

from __future__ import annotations

import json
import socket
from pathlib import Path

import pytest

from bpf import abi
from dataplane.drivers.bpfstate import BpfState
from dataplane.drivers.counters import counters
from dataplane.drivers.programs import ProgramTable
from dataplane.drivers.servicestats import read_counts
from dataplane.model.rows import Program, ProgramKind
from perf import judge
from perf.verdicts import ratios
from perf.xdp import main_command
from tests.bpf.world import World, from_client

pytestmark = pytest.mark.bpf

QUICK = ["--json", "--repeat", "5000", "--runs", "2"]


def test_every_row_takes_the_path_that_it_names(capsys: pytest.CaptureFixture[str]) -> None:
    assert main_command([*QUICK, "--services", "3"]) == 0
    result = json.loads(capsys.readouterr().out)
    reasons = {row["reason"] for row in result["rows"]}
    assert {"XSK_IPV4", "PASS_IPV4", "VIP_FORWARD", "VIP_NEW", "SVC_REPLY"} <= reasons
    assert all(min(row["samples_ns"]) > 0 for row in result["rows"])
    assert result["maps"] == "private"
    turns = {(row["name"], row["version"]): row for row in result["rows"] if row["uniform"]}
    assert turns.keys() == {("established", 4), ("established", 6), ("the floor", 4)}
    judged = {verdict.claim: verdict for verdict in judge.xdp(result)}
    one = next(
        row for row in result["rows"] if (row["name"], row["services"]) == ("established", 1)
    )
    expected = ratios(turns["established", 4]["ratios"], one["ratios"])
    assert judged["XDP, 10,000 services in turn, IPv4"].samples == expected


def noticed(world: World) -> tuple[object, ...]:
    """What a node could notice: counters, and flows with all that is in them."""
    return (
        counters(world.state),
        read_counts(world.maps).tolist(),
        {flow.ends: dict(flow.fields) for version in (4, 6) for flow in world.records(version)},
    )


def test_over_a_nodes_maps_the_node_does_not_notice(
    bpf_root: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with BpfState(bpf_root) as state:
        devices = socket.if_nametoindex("up0"), socket.if_nametoindex("svc0")
        _not_noticed(World(state, *devices).clear().fill(), bpf_root, capsys)


def _not_noticed(world: World, root: str, capsys: pytest.CaptureFixture[str]) -> None:
    world.arrive(from_client())
    before = noticed(world)
    programs = ProgramTable(world.state)
    assert not programs.upsert([("svc0", Program(ProgramKind.SERVICE, swap=False))])
    try:
        assert main_command([*QUICK, "--bpf-root", root]) == 0
    finally:
        programs.delete(["svc0"])
    after = noticed(world)
    assert after == before
    result = json.loads(capsys.readouterr().out)
    tags = {entry["name"]: entry["tag"] for entry in result["measured"]}
    assert tags == {
        info.name: info.tag
        for info in map(world.state.program_info, (ProgramKind.UPLINK, ProgramKind.SERVICE))
    }
    assert [entry["tag"] for entry in result["attached"]] == [tags["millrace_svc"]]


def test_a_node_that_is_not_up_is_named(bpffs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main_command([*QUICK, "--bpf-root", str(bpffs / "nobody")]) == 1
    assert f"nobody/v{abi.Limit.ABI_VERSION}/vips cannot be opened" in capsys.readouterr().err
