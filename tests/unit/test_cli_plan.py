"""`millrace plan`: its text, its JSON, its exit codes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from controller.cli.main import main
from controller.cli.plan import plan_text
from controller.config import ConfigProblems, Source, read_node
from controller.tuning import is_explicit, plan_of, settled, tuning_of
from dataplane.model.config import NodeConfig
from dataplane.model.tuning import Tuning
from dataplane.plan.tuning.compute import every_nic, tuning
from dataplane.plan.tuning.outcome import Pins
from tests.labs.topologies import FILES, load

DATA = FILES[0].parent


def run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    code = main(["plan", *words])
    out, err = capsys.readouterr()
    return code, out, err


def of(name: str) -> str:
    return str(DATA / f"{name}.json")


def node_file(tmp_path: Path, dpdk: str) -> str:
    path = tmp_path / "node.toml"
    path.write_text(f'[node]\nname = "n"\n\n[dpdk]\n{dpdk}\n', encoding="utf-8")
    return str(path)


def test_the_short_form_is_readable(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "--topology", of("two-sockets-nics-on-one"))
    assert code == 0
    assert "node 0:  CPU 0-7, 16354 MiB, 4096 MiB in hugepages, eth0, eth1" in out
    assert "lcore           0" in out
    assert "pmd             1,8" in out
    assert "socket_mem_mib  node 0: 1264, node 1: 1264" in out
    assert "eth1          1  0:1" in out
    assert "warning not-isolated" in out


def test_explain_names_rule_and_source(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "--topology", of("two-sockets-nics-on-one"), "--explain")
    assert code == 0
    assert "socket_mem_mib[1] = 1264\n    262144 buffers of 3008 bytes (MTU 1500) + 512 MiB" in out
    assert out.count("    source: ") >= 15


def test_json_is_for_programs(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "--topology", of("amd-nps4"), "--json")
    answer = json.loads(out)
    assert code == 4
    assert answer["tuning"]["ports"]["enp161s0"]["affinity"]["0"] == 40
    assert answer["tuning"]["socket_mem_mib"]["5"] == 0
    assert {one["name"] for one in answer["missing"] if one["grave"]} == {
        "memory-on-node-5",
        "iommu",
    }


def test_a_machine_that_is_too_small(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, "--topology", of("one-core"))
    assert (code, out) == (1, "")
    assert "no core is left for a PMD thread" in err


def test_pins_of_the_nodes_file(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    config = node_file(tmp_path, "lcore = [2]\npmd = [3, 8]\nsocket_mem_mib = 256")
    code, out, _ = run(capsys, "--topology", of("two-sockets-nics-on-one"), "--config", config)
    assert code == 0
    assert "lcore           2" in out
    assert "pmd             3,8" in out
    assert "socket_mem_mib  node 0: 256" in out
    assert "note: the node's file names lcore, pmd and socket_mem_mib itself" in out


def test_a_pin_that_cannot_be_is_a_fault_at_its_line(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    config = node_file(tmp_path, "lcore = [0]\npmd = [1, 64]")
    code, out, err = run(capsys, "--topology", of("one-socket-smt"), "--config", config)
    assert (code, out) == (2, "")
    assert err == (f"{config}:6: pmd = 1,64; the machine has no CPU 64; name some of 0-7\n")


def test_a_bad_topology_is_named_by_place(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    path = tmp_path / "t.json"
    path.write_text('{"schema": 9}', encoding="utf-8")
    code, _, err = run(capsys, "--topology", str(path))
    assert code == 2
    assert err == f"millrace: {path}.schema: 9 is not known here; this program reads 1\n"
    path.write_bytes(b"\xff")
    assert run(capsys, "--topology", str(path))[0] == 2
    assert run(capsys, "--topology", str(tmp_path / "none.json"))[0] == 1


def test_recording_and_planning_from_the_record(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    path = tmp_path / "here.json"
    assert run(capsys, "--record", str(path)) == (0, "", "")
    code, out, _ = run(capsys, "--record", "-")
    assert (code, json.loads(out)["schema"]) == (0, 1)
    assert json.loads(path.read_text(encoding="utf-8"))["cores"]


def test_this_machine_is_not_called_a_recorded_one() -> None:
    topology = load("two-cpu-vm")
    plan = tuning(topology, every_nic(topology), Pins())
    text = plan_text(topology, plan, explain=False, colour=False, here=True)
    assert "\nsource:  this machine\n" in text


def parsed(text: str) -> Source[NodeConfig]:
    return read_node('[node]\nname = "n"\n' + text, "n.toml")


def test_what_the_file_leaves_out_is_filled_in() -> None:
    topology = load("two-sockets-smt")
    source = parsed("[hugepages]\ncount = 4096\n")
    assert not is_explicit(source.config)
    filled = settled(source.config, plan_of(source, topology))
    assert (filled.dpdk.lcore, filled.dpdk.pmd) == ((0,), (1, 2, 13, 14))
    assert filled.dpdk.socket_mem_mib == 1264
    assert is_explicit(filled)
    # What is settled stays as it is, and asks for no other keys of OVS.
    again = settled(filled, plan_of(source, topology))
    assert again == filled


def test_an_explicit_file_sets_its_own_three_values_and_no_more() -> None:
    topology = load("two-cpu-vm")
    source = parsed("[dpdk]\nlcore = [0]\npmd = [1]\nsocket_mem_mib = 512\n")
    plan = plan_of(source, topology)
    assert settled(source.config, plan) == source.config
    assert tuning_of(source.config, topology, plan) == Tuning(
        frozenset({0}), frozenset({1}), {0: 512}, eal=("--no-pci",)
    )


def test_uplinks_of_the_file_are_the_plans_ports() -> None:
    topology = load("two-sockets-nics-on-one")
    source = parsed(
        '[[bridge]]\nname = "br-ex"\n'
        '[[uplink]]\ndevice = "0000:02:00.3"\nbridge = "br-ex"\nmode = "vfio"\n'
        '[[uplink]]\ndevice = "eth0"\nbridge = "br-ex"\nmode = "kernel"\n'
        '[[uplink]]\ndevice = "veth0"\nbridge = "br-ex"\nqueues = 2\n'
    )
    values = tuning_of(source.config, topology, plan_of(source, topology))
    assert set(values.ports) == {"0000:02:00.3"}
    assert values.eal == ("-a", "0000:02:00.3")


def test_a_file_that_takes_the_default_route_away_is_refused() -> None:
    source = parsed(
        '[[bridge]]\nname = "br-ex"\n'
        '[[uplink]]\ndevice = "0000:02:00.0"\nbridge = "br-ex"\nmode = "vfio"\n'
    )
    with pytest.raises(ConfigProblems, match="the machine would be cut off"):
        plan_of(source, load("two-sockets-nics-on-one"))
