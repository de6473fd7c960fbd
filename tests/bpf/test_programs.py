"""Table `programs` on real devices: swap, pinned links, upgrade, restart, and what is not ours."""

from __future__ import annotations

import errno
import shutil
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from bpf.abi import Reason
from bpf.objects import OBJECT_DIRECTORY
from dataplane.drivers import xdphook
from dataplane.drivers.bpfstate import BpfState, version_directory
from dataplane.drivers.libbpf import XDP_FLAGS_DRV_MODE, XDP_FLAGS_SKB_MODE, LibbpfError, Map
from dataplane.drivers.libbpf_programs import Program as LoadedProgram
from dataplane.drivers.libbpf_programs import ProgramInfo
from dataplane.drivers.programs import ProgramTable, program_info
from dataplane.model.rows import Program, ProgramKind
from tests.bpf import standin
from tests.labs.netns import Namespace

pytestmark = pytest.mark.bpf

UPLINK = Program(ProgramKind.UPLINK, swap=True)
KERNEL_UPLINK = Program(ProgramKind.UPLINK, swap=False)
SERVICE = Program(ProgramKind.SERVICE, swap=False)


@pytest.fixture
def state(bpf_root: str) -> Iterator[BpfState]:
    with BpfState(bpf_root) as made:
        yield made


@pytest.fixture
def table(state: BpfState) -> Iterator[ProgramTable]:
    made = ProgramTable(state)
    try:
        yield made
    finally:
        made.delete(["up0", "svc0"])
        standin.take_off(socket.if_nametoindex("up0"))


@pytest.fixture(scope="module")
def ovs_object(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return standin.compiled(tmp_path_factory.mktemp("standin"))


def attached(device: str) -> ProgramInfo:
    info = program_info(device)
    assert info is not None
    return info


@pytest.mark.parametrize("mode", [XDP_FLAGS_DRV_MODE, XDP_FLAGS_SKB_MODE], ids=["native", "skb"])
def test_ours_takes_the_place_of_ovs_and_uses_its_sockets(
    table: ProgramTable, state: BpfState, ovs_object: Path, mode: int
) -> None:
    ifindex = socket.if_nametoindex("up0")
    with standin.attached(ovs_object, ifindex, mode, "standin") as sockets:
        assert table.observe() == {}
        assert table.upsert([("up0", UPLINK)]) == {}
        info = attached("up0")
        assert info.name == "millrace_uplink"
        assert sockets.info.id in info.map_ids
        assert state.maps["vips"].info.id in info.map_ids
        held = xdphook.attached(ifindex)
        assert held is not None
        assert held.mode == mode
        assert table.observe() == {"up0": UPLINK}


def test_before_ovs_attached_the_row_waits(table: ProgramTable) -> None:
    failures = table.upsert([("up0", UPLINK)])
    assert failures["up0"].waiting
    assert "OVS has not attached its AF_XDP program to up0 yet" in failures["up0"].reason


def test_a_device_that_is_not_there_yet_waits(table: ProgramTable) -> None:
    assert table.upsert([("nosuch0", SERVICE)])["nosuch0"].waiting


def test_when_ovs_attaches_again_ours_is_missing_and_swapped_in_again(
    table: ProgramTable, ovs_object: Path
) -> None:
    ifindex = socket.if_nametoindex("up0")
    with standin.attached(ovs_object, ifindex, XDP_FLAGS_DRV_MODE, "standin"):
        table.upsert([("up0", UPLINK)])
    with standin.attached(ovs_object, ifindex, XDP_FLAGS_DRV_MODE, "standin") as sockets:
        assert table.observe() == {}
        assert table.upsert([("up0", UPLINK)]) == {}
        assert sockets.info.id in attached("up0").map_ids


def test_a_program_without_sockets_is_not_taken_for_ovs(
    table: ProgramTable, ovs_object: Path
) -> None:
    ifindex = socket.if_nametoindex("up0")
    with standin.attached(ovs_object, ifindex, XDP_FLAGS_DRV_MODE, "stranger"):
        failure = table.upsert([("up0", UPLINK)])["up0"]
        assert not failure.waiting
        assert "stranger on up0 has no map of AF_XDP sockets" in failure.reason
        assert attached("up0").name == "stranger"
        assert table.delete(["up0"]) == {}
        assert attached("up0").name == "stranger"


def test_a_link_is_pinned_and_outlives_its_maker(bpf_root: str) -> None:
    with BpfState(bpf_root) as state:
        assert ProgramTable(state).upsert([("svc0", SERVICE)]) == {}
        before = attached("svc0")
    with BpfState(bpf_root) as state:
        table = ProgramTable(state)
        assert table.observe() == {"svc0": SERVICE}
        assert attached("svc0") == before
        assert table.delete(["svc0"]) == {}
        assert program_info("svc0") is None
        assert table.delete(["svc0"]) == {}


def test_a_restart_finds_the_swapped_program_and_its_maps(bpf_root: str, ovs_object: Path) -> None:
    ifindex = socket.if_nametoindex("up0")
    with standin.attached(ovs_object, ifindex, XDP_FLAGS_DRV_MODE, "standin"):
        with BpfState(bpf_root) as state:
            assert ProgramTable(state).upsert([("up0", UPLINK)]) == {}
            before = attached("up0")
        with BpfState(bpf_root) as state:
            table = ProgramTable(state)
            assert table.observe() == {"up0": UPLINK}
            assert attached("up0").id == before.id
            assert table.delete(["up0"]) == {}
            assert program_info("up0") is None


def test_an_uplink_in_kernel_mode_gets_a_link(table: ProgramTable, state: BpfState) -> None:
    assert table.upsert([("up0", KERNEL_UPLINK)]) == {}
    assert table.observe() == {"up0": KERNEL_UPLINK}
    assert (state.links / "up0").exists()


def test_an_uplink_that_replies_cannot_leave_by_is_outdated(
    table: ProgramTable, state: BpfState
) -> None:
    table.upsert([("up0", KERNEL_UPLINK)])
    for key in list(state.maps["tx_ports"].keys()):
        state.maps["tx_ports"].delete(key)
    assert table.observe() == {"up0": Program(ProgramKind.OUTDATED, swap=False)}
    assert table.upsert([("up0", KERNEL_UPLINK)]) == {}
    assert table.observe() == {"up0": KERNEL_UPLINK}


@pytest.fixture
def other_version(tmp_path: Path) -> Path:
    """Objects of another version: one counts another reason, and so every tag differs."""
    shutil.copytree(OBJECT_DIRECTORY, tmp_path / "obj")
    load = b"\xb4\x01\x00\x00%c\x00\x00\x00"  # w1 = a number, in little-endian BPF
    for path in (tmp_path / "obj").glob("*.bpf.o"):
        wanted, other = load % Reason.DROP_NO_GATEWAY, load % Reason.REASON_UNUSED
        path.write_bytes(path.read_bytes().replace(wanted, other))
    return tmp_path / "obj"


def test_an_upgrade_is_the_same_swap(bpf_root: str, ovs_object: Path, other_version: Path) -> None:
    ifindex = socket.if_nametoindex("up0")
    with standin.attached(ovs_object, ifindex, XDP_FLAGS_DRV_MODE, "standin") as sockets:
        with BpfState(bpf_root, other_version) as state:
            table = ProgramTable(state)
            assert table.upsert([("up0", UPLINK), ("svc0", SERVICE)]) == {}
            old = attached("up0"), attached("svc0")
        with BpfState(bpf_root) as state:
            table = ProgramTable(state)
            assert table.observe()["up0"] == Program(ProgramKind.OUTDATED, swap=True)
            assert table.upsert([("up0", UPLINK), ("svc0", SERVICE)]) == {}
            assert table.observe() == {"up0": UPLINK, "svc0": SERVICE}
            new = attached("up0"), attached("svc0")
            assert new[0].tag == state.program_info(ProgramKind.UPLINK).tag != old[0].tag
            assert sockets.info.id in new[0].map_ids
            table.delete(["up0", "svc0"])


class Watched(BpfState):
    """Calls `loading` before an uplink's program is loaded, with its number from 1."""

    def __init__(self, bpf_root: str, loading: Callable[[int], None]) -> None:
        super().__init__(bpf_root)
        self._loading = loading
        self.loads = 0

    @contextmanager
    def uplink_over(self, xsks_map: Map) -> Iterator[LoadedProgram]:
        self.loads += 1
        self._loading(self.loads)
        with super().uplink_over(xsks_map) as program:
            yield program


@pytest.fixture
def uplinks(namespace: Namespace, ovs_object: Path) -> Iterator[list[str]]:
    """Three uplinks that OVS has attached its program to; svc0 has none."""
    names = ["up0", "up1", "up2"]
    with ExitStack() as stack:
        for name in names[1:]:
            namespace.run("ip", "link", "add", name, "type", "veth", "peer", "name", f"{name}-peer")
            stack.callback(namespace.run, "ip", "link", "del", name)
        stack.callback(standin.take_off, socket.if_nametoindex("up0"))
        for name in names:
            ifindex = socket.if_nametoindex(name)
            stack.enter_context(
                standin.attached(ovs_object, ifindex, XDP_FLAGS_DRV_MODE, "standin")
            )
        yield names


def running(devices: Sequence[str]) -> list[str]:
    return [info.name if (info := program_info(device)) else "" for device in devices]


def test_all_uplinks_programs_are_loaded_before_one_is_swapped(
    bpf_root: str, uplinks: list[str]
) -> None:
    seen: list[tuple[str, list[str]]] = []

    def see(what: str) -> None:
        seen.append((what, running([*uplinks, "svc0"])))

    rows = {"svc0": SERVICE, **dict.fromkeys(uplinks, UPLINK)}
    with Watched(bpf_root, lambda _: see("load")) as state:
        table = ProgramTable(state, lambda: see("about to swap"))
        assert table.upsert(list(rows.items())) == {}
        before = [*["standin"] * 3, ""]
        assert seen == [*[("load", before)] * 3, ("about to swap", before)]
        assert running([*uplinks, "svc0"]) == [*["millrace_uplink"] * 3, "millrace_svc"]
        assert table.observe() == rows
        # Who is in place already is neither loaded nor waited for.
        assert table.upsert(list(rows.items())) == {}
        assert len(seen) == 4
        table.delete(list(rows))


def test_an_uplinks_program_that_cannot_be_loaded_fails_that_uplink_only(
    bpf_root: str, uplinks: list[str]
) -> None:
    def loading(number: int) -> None:
        if number == 2:
            raise LibbpfError("load the second uplink's program", errno.E2BIG)

    rows = {"svc0": SERVICE, **dict.fromkeys(uplinks, UPLINK)}
    with Watched(bpf_root, loading) as state:
        table = ProgramTable(state)
        failures = table.upsert(list(rows.items()))
        assert set(failures) == {"up1"}
        assert "load the second uplink's program: Argument list too long" in failures["up1"].reason
        assert not failures["up1"].waiting
        assert running([*uplinks, "svc0"]) == [
            "millrace_uplink", "standin", "millrace_uplink", "millrace_svc",
        ]  # fmt: skip
        table.delete(list(rows))


def test_an_uplink_whose_program_was_replaced_since_fails_alone(
    bpf_root: str, uplinks: list[str], ovs_object: Path
) -> None:
    rows = {"svc0": SERVICE, **dict.fromkeys(uplinks, UPLINK)}
    with ExitStack() as stack, BpfState(bpf_root) as state:

        def replaced() -> None:
            ifindex = socket.if_nametoindex("up1")
            stack.enter_context(
                standin.attached(ovs_object, ifindex, XDP_FLAGS_DRV_MODE, "stranger")
            )

        table = ProgramTable(state, replaced)
        failures = table.upsert(list(rows.items()))
        assert set(failures) == {"up1"}
        assert "another XDP program is on up1 (or came in between)" in failures["up1"].reason
        assert running([*uplinks, "svc0"]) == [
            "millrace_uplink", "stranger", "millrace_uplink", "millrace_svc",
        ]  # fmt: skip
        table.delete(list(rows))


def test_objects_replaced_under_a_running_daemon_wait_for_its_restart(
    bpf_root: str, ovs_object: Path, other_version: Path, tmp_path: Path
) -> None:
    shutil.copytree(OBJECT_DIRECTORY, tmp_path / "live")
    ifindex = socket.if_nametoindex("up0")
    with (
        standin.attached(ovs_object, ifindex, XDP_FLAGS_DRV_MODE, "standin"),
        BpfState(bpf_root, tmp_path / "live") as state,
    ):
        shutil.copytree(other_version, tmp_path / "live", dirs_exist_ok=True)
        table = ProgramTable(state)
        assert table.upsert([("up0", UPLINK)]) == {}
        assert table.observe() == {"up0": UPLINK}
        table.delete(["up0"])


def test_another_nodes_programs_are_not_ours(
    bpf_root: str, bpffs: Path, table: ProgramTable
) -> None:
    table.upsert([("svc0", SERVICE)])
    with BpfState(str(bpffs / "other")) as other:
        theirs = ProgramTable(other)
        assert theirs.observe() == {}
        failure = theirs.upsert([("svc0", SERVICE)])["svc0"]
        assert "another XDP program is on svc0" in failure.reason
        theirs.delete(["svc0"])
        assert table.observe() == {"svc0": SERVICE}


def test_a_device_that_was_made_anew_gets_its_link_anew(
    table: ProgramTable, namespace: Namespace
) -> None:
    for _ in range(2):
        namespace.run("ip", "link", "add", "mrbx", "type", "veth", "peer", "name", "mrby")
        assert table.upsert([("mrbx", SERVICE)]) == {}
        assert table.observe() == {"mrbx": SERVICE}
        namespace.run("ip", "link", "del", "mrbx")
        assert table.observe() == {}
    table.delete(["mrbx"])
    assert not (table._state.links / "mrbx").exists()


def test_the_pins_directory_is_ours_alone(bpf_root: str, state: BpfState) -> None:
    assert state.directory == version_directory(bpf_root)
    for path in (Path(bpf_root), state.directory, state.links):
        assert path.stat().st_mode & 0o777 == 0o700
