"""What `down` takes off uplinks, and what it leaves: XDP programs on real devices."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from controller import remains
from controller.config import parse_node
from dataplane.drivers.bpfstate import BpfState, remove_pins, version_directory
from dataplane.drivers.libbpf import XDP_FLAGS_DRV_MODE
from dataplane.drivers.programs import ProgramTable, program_info
from dataplane.model.config import NodeConfig
from dataplane.model.rows import Program, ProgramKind
from tests.bpf import standin


@pytest.fixture(scope="module")
def ovs_object(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return standin.compiled(tmp_path_factory.mktemp("standin"))


@pytest.fixture
def config(bpffs: Path) -> NodeConfig:
    return parse_node(
        f'[node]\nname = "n"\nbpf_root = "{bpffs}/millrace/n"\n'
        '[[bridge]]\nname = "br-ex"\n[[uplink]]\ndevice = "up0"\nbridge = "br-ex"\n',
        "n.toml",
    )


@pytest.fixture
def ifindex(config: NodeConfig) -> Iterator[int]:
    number = socket.if_nametoindex("up0")
    yield number
    remove_pins(config.bpf_root)
    standin.take_off(number)


def on_up0() -> str | None:
    info = program_info("up0")
    return info.name if info else None


def swap_ours_in(config: NodeConfig, ovs_object: Path, ifindex: int) -> None:
    with (
        standin.attached(ovs_object, ifindex, XDP_FLAGS_DRV_MODE, "standin"),
        BpfState(config.bpf_root) as state,
    ):
        row = Program(ProgramKind.UPLINK, swap=True)
        assert ProgramTable(state).upsert([("up0", row)]) == {}


def test_ours_goes_with_its_pins(config: NodeConfig, ovs_object: Path, ifindex: int) -> None:
    swap_ours_in(config, ovs_object, ifindex)
    assert list(remains.remove(config, None)) == [f"removed pins under {config.bpf_root}"]
    assert on_up0() is None
    assert not Path(config.bpf_root).parent.exists()
    assert list(remains.remove(config, None)) == []


def test_ours_goes_when_the_pins_are_gone(
    config: NodeConfig, ovs_object: Path, ifindex: int
) -> None:
    swap_ours_in(config, ovs_object, ifindex)
    remove_pins(config.bpf_root)
    assert list(remains.remove(config, None)) == []
    assert on_up0() is None


def test_a_pinned_link_goes(config: NodeConfig, ifindex: int) -> None:
    with BpfState(config.bpf_root) as state:
        row = Program(ProgramKind.UPLINK, swap=False)
        assert ProgramTable(state).upsert([("up0", row)]) == {}
    assert ifindex
    assert list(remains.remove(config, None)) == [f"removed pins under {config.bpf_root}"]
    assert on_up0() is None


def test_what_a_killed_ovs_left_goes(config: NodeConfig, ovs_object: Path, ifindex: int) -> None:
    with standin.attached(ovs_object, ifindex, XDP_FLAGS_DRV_MODE, "xsk_def_prog"):
        pass
    assert list(remains.remove(config, None)) == []
    assert on_up0() is None


@pytest.mark.parametrize("function", ["stranger", "standin"])
def test_what_others_attached_stays_and_is_named(
    config: NodeConfig, ovs_object: Path, ifindex: int, function: str
) -> None:
    with standin.attached(ovs_object, ifindex, XDP_FLAGS_DRV_MODE, function):
        pass
    (line,) = remains.remove(config, None)
    assert line.startswith(f"left XDP program {function} on up0: ")
    assert on_up0() == function


def test_another_nodes_program_stays(
    config: NodeConfig, bpf_root: str, ovs_object: Path, ifindex: int
) -> None:
    with BpfState(config.bpf_root):
        pass
    with (
        standin.attached(ovs_object, ifindex, XDP_FLAGS_DRV_MODE, "standin"),
        BpfState(bpf_root) as state,
    ):
        ProgramTable(state).upsert([("up0", Program(ProgramKind.UPLINK, swap=True))])
    said = list(remains.remove(config, None))
    assert said[-1].startswith("left XDP program millrace_uplink on up0: ")
    assert on_up0() == "millrace_uplink"


def test_without_a_look_at_the_pins_no_program_is_touched(
    config: NodeConfig, ovs_object: Path, ifindex: int
) -> None:
    swap_ours_in(config, ovs_object, ifindex)
    (version_directory(config.bpf_root) / "counters").unlink()
    (version_directory(config.bpf_root) / "counters").mkdir()
    first, second = remains.remove(config, None)
    assert first.startswith("left XDP programs on uplinks as they are: ")
    assert second.startswith("removed pins")
    assert on_up0() == "millrace_uplink"
