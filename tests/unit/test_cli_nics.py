"""`millrace nics`: what is bound, what is listed, and what boot leaves alone.

On a fabricated sysfs tree (tests/labs/fabricated.py).
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import pytest

from controller import nics
from controller.cli import failures
from controller.cli.main import main, parser
from controller.config import parse_node
from dataplane.drivers.pcibind import NicRefused
from dataplane.model.config import NodeConfig
from tests.labs.fabricated import FabricatedBinder, Machine

NIC, SECOND, THIRD = "0000:3b:00.0", "0000:3b:00.1", "0000:5e:00.0"

NODE = f"""\
[node]
name = "n"
[[bridge]]
name = "br-ex"
[[bridge]]
name = "br-phy"
[[uplink]]
device = "{NIC}"
bridge = "br-phy"
mode = "vfio"
[[bond]]
name = "bond0"
bridge = "br-ex"
devices = ["{SECOND}", "{THIRD}"]
[tunnel]
bridge = "br-phy"
address = "10.0.0.1/24"
"""


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    made = Machine(tmp_path / "root")
    made.add(NIC, "eth4", "b8:ce:f6:00:00:01", "ice", group="21")
    made.add(SECOND, "eth5", "b8:ce:f6:00:00:02", "ice", group="22")
    made.add(THIRD, "eth6", "b8:ce:f6:00:00:03", "ice", group="23")
    made.add("0000:01:00.0", "eth0", "b8:ce:f6:00:00:04", "igb", group="1")
    made.route_by("eth0")
    made.give_address("eth4", "10.0.0.1")
    return made


@pytest.fixture
def config() -> NodeConfig:
    return parse_node(NODE, "n.toml")


@pytest.fixture
def binder(machine: Machine, tmp_path: Path) -> FabricatedBinder:
    return machine.binder(tmp_path / "state")


def test_uplinks_and_bonds_are_bound_the_tunnels_address_moves(
    machine: Machine, binder: FabricatedBinder, config: NodeConfig
) -> None:
    assert nics.bind(config, binder) == [
        f"NIC eth4 ({NIC}): vfio-pci",
        f"NIC eth5 ({SECOND}): vfio-pci",
        f"NIC eth6 ({THIRD}): vfio-pci",
    ]
    found = nics.listing(binder, config)
    assert [(x.name, x.driver, x.used_by, x.note) for x in found] == [
        ("eth0", "igb", "", "default route"),
        ("eth4", "vfio-pci", "uplink of br-phy", ""),
        ("eth5", "vfio-pci", "bond0 of br-ex", ""),
        ("eth6", "vfio-pci", "bond0 of br-ex", ""),
    ]
    assert asdict(found[0])["group"] == "1"


def test_boot_binds_only_what_was_bound_before(
    machine: Machine, binder: FabricatedBinder, config: NodeConfig
) -> None:
    first = nics.bind(config, binder, recorded=True)
    assert len(first) == 3
    assert all("nobody has bound it before" in line for line in first)
    assert machine.driver(NIC) == "ice"
    nics.bind(config, binder)
    for address in (NIC, SECOND, THIRD):
        machine.detach(address)
        machine.attach(address, "ice")
    assert len(nics.bind(config, binder, recorded=True)) == 3
    assert machine.driver(THIRD) == "vfio-pci"


def test_what_is_refused_and_what_is_not_bound_is_told_beforehand(
    machine: Machine, binder: FabricatedBinder, config: NodeConfig
) -> None:
    assert nics.refusals(config, binder) == []
    assert nics.not_bound(config, binder) == (
        f"not bound to vfio-pci: {NIC} (ice), {SECOND} (ice), {THIRD} (ice);"
        " `millrace nics bind --config FILE` binds what a file names"
    )
    machine.route_by("eth5")
    (refusal,) = nics.refusals(config, binder)
    assert refusal.startswith(f"NIC eth5 ({SECOND}) cannot be given to OVS-DPDK; it carries the")
    machine.route_by("eth0")
    nics.bind(config, binder)
    assert nics.not_bound(config, binder) == ""


def test_an_mtu_that_a_nic_did_not_take_is_a_problem_of_its_own(config: NodeConfig) -> None:
    wanted = parse_node(NODE.replace('mode = "vfio"\n', 'mode = "vfio"\nmtu = 9000\n'), "n.toml")
    assert nics.mtu_problems(wanted, {"vf00003b000": 9000}) == []
    assert nics.mtu_problems(wanted, {"vf00003b000": None}) == []
    assert nics.mtu_problems(config, {"vf00003b000": 1500}) == []
    (problem,) = nics.mtu_problems(wanted, {"vf00003b000": 1500, "vf00003b001": 1500})
    assert problem["name"] == f"uplink {NIC}"
    assert problem["cause"].startswith("its MTU is 1500 and not 9000")


def test_release_by_name_by_address_and_of_all(
    machine: Machine, binder: FabricatedBinder, config: NodeConfig
) -> None:
    nics.bind(config, binder)
    small = parse_node(NODE.partition("[[bond]]")[0], "n.toml")
    assert [line.note for line in nics.listing(binder, small)] == [
        "default route",
        "",
        f"the file does not name it any more: `millrace nics release {SECOND}`",
        f"the file does not name it any more: `millrace nics release {THIRD}`",
    ]
    assert nics.release(binder, ["eth5"]) == [f"NIC eth5 ({SECOND}): ice"]
    assert nics.release(binder, [NIC]) == [f"NIC eth4 ({NIC}): ice"]
    with pytest.raises(NicRefused, match=r"NIC eth9 is not on record.*eth6"):
        nics.release(binder, ["eth9"])
    assert nics.release(binder) == [f"NIC eth6 ({THIRD}): ice"]
    assert nics.release(binder) == []


def test_the_command_lists_this_machines_nics(capsys: pytest.CaptureFixture[str]) -> None:
    """The machine's own sysfs, read only; it may have none."""
    assert main(["nics", "--json"]) == failures.OK
    for line in json.loads(capsys.readouterr().out):
        assert line["address"].count(":") == 2
    assert main(["nics"]) == failures.OK
    assert capsys.readouterr().out


def test_what_the_file_does_not_name_cannot_be_bound(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "node.toml"
    path.write_text('[node]\nname = "n"\n')
    assert main(["nics", "bind", "eth1", "--config", str(path)]) == failures.USAGE
    assert "takes no names" in capsys.readouterr().err
    assert main(["nics", "bind", "--config", str(path)]) == failures.OK
    assert capsys.readouterr().out == "nothing to do\n"


def test_the_units_own_command_parses() -> None:
    words = ["nics", "bind", "--recorded", "--config", "/etc/millrace/node.toml"]
    found = parser().parse_args(words)
    assert (found.action, found.recorded) == ("bind", True)


@pytest.mark.parametrize("state", ["{", '{"format": 9}'])
def test_a_record_nobody_can_read_stops_the_command(
    state: str, machine: Machine, tmp_path: Path, config: NodeConfig
) -> None:
    (tmp_path / "state").mkdir()
    (tmp_path / "state/nics.json").write_text(state)
    with pytest.raises(Exception, match=r"nics\.json.*cannot be read"):
        nics.bind(config, machine.binder(tmp_path / "state"))
    assert machine.driver(NIC) == "ice"
