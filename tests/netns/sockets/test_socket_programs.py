"""The programs' life on a cgroup: attached, recognised, upgraded under load, taken off; and what
becomes of sockets whose backend went.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from bpf import abi
from dataplane.drivers.libbpf_programs import Program
from dataplane.drivers.migration import take_links_over
from dataplane.drivers.processes import wait_until
from dataplane.drivers.socketends import SocketEnds, namespaces
from dataplane.drivers.sockprograms import HOOKS, SocketTable
from dataplane.model.addr import L4Addr
from dataplane.model.rows import (
    BackendEntry,
    SetEntry,
    SetScope,
    SocketPrograms,
    VipEntry,
    VipFlag,
)
from dataplane.model.service import Place
from dataplane.ports import Failure
from tests.netns.sockets.sockworld import (
    DNS,
    TCP,
    UDP,
    V4,
    V6,
    VIP,
    WEB,
    Client,
    Pins,
    Refused,
    SockWorld,
    child_cgroup,
    endpoint,
    names,
    own_name,
    udp,
)

pytestmark = pytest.mark.netns

IN_PLACE, OUTDATED = SocketPrograms(), SocketPrograms(outdated=True)
SOURCE = Path(abi.__file__).parent


@pytest.fixture(scope="module")
def older(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with another version of the object: the same source, other instructions."""
    directory = tmp_path_factory.mktemp("older")
    shutil.copytree(SOURCE / "include", directory / "include")
    shutil.copytree(SOURCE / "progs", directory / "progs")
    shutil.copy(SOURCE / "Makefile", directory)
    made = "obj/sock.bpf.o"
    flags = ["make", "-s", "-C", str(directory), made]
    makefile = directory / "Makefile"
    makefile.write_text(makefile.read_text().replace("-mcpu=v3", "-mcpu=v2"))
    subprocess.run(flags, check=True)
    return directory / "obj"


def programs_of(pins: Pins, cgroup: Path) -> set[int]:
    """Ids of what is attached to the cgroup, as the kernel says."""
    out = subprocess.run(
        ["bpftool", "cgroup", "show", str(cgroup)], check=True, capture_output=True, text=True
    ).stdout
    return {int(line.split()[0]) for line in out.splitlines()[1:] if line.strip()}


def test_every_hook_has_its_program_and_a_second_time_changes_nothing(
    pins: Pins, table: SocketTable, cgroup: Path
) -> None:
    attached = programs_of(pins, cgroup)
    found = set()
    for number in attached:
        with Program.by_id(number) as program:
            found.add(program.info().name)
    assert found == {hook.function for hook in HOOKS}
    assert table.observe() == {str(cgroup): IN_PLACE}
    assert not table.upsert([(str(cgroup), IN_PLACE)])
    assert programs_of(pins, cgroup) == attached


def test_a_new_daemon_finds_its_own(pins: Pins, table: SocketTable, cgroup: Path) -> None:
    attached = programs_of(pins, cgroup)
    table.close()
    again = SocketTable(pins)
    assert again.observe() == {str(cgroup): IN_PLACE}
    assert programs_of(pins, cgroup) == attached
    again.close()


def test_a_killed_daemon_leaves_everything_working(
    world: SockWorld, pins: Pins, cgroup: Path, start: Callable[..., Client]
) -> None:
    world.serve(endpoint(f"{VIP}:80"), WEB)
    pid = os.fork()
    if pid == 0:
        with suppress(BaseException):
            SocketTable(pins).upsert([(str(cgroup), IN_PLACE)])
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(pid, 0)
    try:
        assert start().ask(f"{VIP}:80") in names(WEB)
    finally:
        table = SocketTable(pins)
        assert not table.delete([str(cgroup)])
        table.close()


def test_an_upgrade_under_load_loses_nothing(
    world: SockWorld,
    pins: Pins,
    older: Path,
    table: SocketTable,
    cgroup: Path,
    start: Callable[..., Client],
) -> None:
    world.serve(endpoint(f"{VIP}:80"), WEB)
    world.serve(udp(f"{VIP}:53"), DNS)
    process = start()
    process("make", "held", V4, TCP)
    process("connect", "held", VIP, 80)
    process("start_load", VIP, 80, 53)
    other = SocketTable(pins, older)
    for _ in range(10):
        assert table.observe() == {str(cgroup): IN_PLACE}
        assert other.observe() == {str(cgroup): OUTDATED}
        assert not other.upsert([(str(cgroup), IN_PLACE)])
        assert other.observe() == {str(cgroup): IN_PLACE}
        assert table.observe() == {str(cgroup): OUTDATED}
        assert not table.upsert([(str(cgroup), IN_PLACE)])
    other.close()
    load = process("stop_load")
    assert load["failed"] == []
    assert min(load["connections"], load["datagrams"]) > 100
    assert process("peer", "held") == [VIP, 80]


def test_links_of_an_older_version_are_taken_along(
    pins: Pins, servers: object, cgroup: Path
) -> None:
    older = Pins(pins.links / "v1" / "links", pins.maps)
    newer = Pins(pins.links / f"v{abi.Limit.ABI_VERSION:d}" / "links", pins.maps)
    older.links.mkdir(parents=True)
    table = SocketTable(older)
    assert not table.upsert([(str(cgroup), IN_PLACE)])
    attached = programs_of(pins, cgroup)
    table.close()
    assert len(take_links_over(str(pins.links))) == len(HOOKS)
    table = SocketTable(newer)
    assert table.observe() == {str(cgroup): IN_PLACE}
    assert programs_of(pins, cgroup) == attached
    assert not table.delete([str(cgroup)])
    table.close()


def test_what_is_half_there_is_made_whole(pins: Pins, table: SocketTable, cgroup: Path) -> None:
    [directory] = (pins.links / "cgroups").iterdir()
    (directory / "connect6").unlink()
    assert table.observe() == {str(cgroup): OUTDATED}
    assert not table.upsert([(str(cgroup), IN_PLACE)])
    assert table.observe() == {str(cgroup): IN_PLACE}


def test_a_cgroup_made_anew_is_served_anew(pins: Pins, servers: object) -> None:
    table, name = SocketTable(pins), own_name() + "-anew"
    with child_cgroup(name) as cgroup:
        assert not table.upsert([(str(cgroup), IN_PLACE)])
    assert table.observe() == {str(cgroup): OUTDATED}
    failed = table.upsert([(str(cgroup), IN_PLACE)])
    assert failed == {str(cgroup): Failure(f"there is no cgroup {cgroup} yet", waiting=True)}
    with child_cgroup(name) as cgroup:
        assert not table.upsert([(str(cgroup), IN_PLACE)])
        assert table.observe() == {str(cgroup): IN_PLACE}
        assert not table.delete([str(cgroup)])
    assert table.observe() == {}
    table.close()


def test_a_path_that_is_no_cgroup_is_refused_by_name(pins: Pins, tmp_path: Path) -> None:
    table = SocketTable(pins)
    [failure] = table.upsert([(str(tmp_path), IN_PLACE)]).values()
    assert not failure.waiting
    assert f"{tmp_path} is on " in failure.reason
    assert table.observe() == {}
    table.close()


def test_without_the_programs_nothing_is_translated(
    world: SockWorld, pins: Pins, cgroup: Path, start: Callable[..., Client]
) -> None:
    world.serve(endpoint(f"{VIP}:80"), WEB)
    table = SocketTable(pins)
    assert not table.upsert([(str(cgroup), IN_PLACE)])
    process = start()
    process("make", "held", V4, TCP)
    process("connect", "held", VIP, 80)
    assert not table.delete([str(cgroup)])
    assert not table.delete([str(cgroup)]), "a missing row is success"
    assert not list((pins.links / "cgroups").iterdir())
    # The kernel lets a link go some time after its last name.
    wait_until(lambda: not programs_of(pins, cgroup), "no program on the cgroup", timeout_s=20)
    assert process("peer", "held")[1] == 8080
    with pytest.raises(Refused):
        process.ask(f"{VIP}:80")
    table.close()


# A backend that goes -------------------------------------------------------------------------


@dataclass
class Served:
    """The rows of a plan."""

    vips: Mapping[L4Addr, VipEntry] = field(default_factory=dict)
    sets: Mapping[tuple[int, SetScope], SetEntry] = field(default_factory=dict)
    backends: Mapping[int, BackendEntry] = field(default_factory=dict)


def rows(world: SockWorld, vip: L4Addr, service: int, targets: list[L4Addr]) -> Served:
    numbers = {target: world.backends[target] for target in targets}
    return Served(
        {vip: VipEntry(service, VipFlag.REJECT)},
        {(service, SetScope.CLUSTER): SetEntry(tuple((n, 0, 1) for n in numbers.values()))},
        {number: BackendEntry(target, Place.LOCAL) for target, number in numbers.items()},
    )


@pytest.fixture
def ends(world: SockWorld, client: Client) -> Iterator[SocketEnds]:
    with SocketEnds(world.maps) as made:
        yield made


@pytest.mark.parametrize("family", [V4, V6], ids=["ipv4", "mapped"])
@pytest.mark.parametrize("where", ["here", "pod"])
def test_a_connected_udp_socket_to_a_backend_that_went_is_told(
    world: SockWorld,
    ends: SocketEnds,
    cgroup: Path,
    start: Callable[..., Client],
    pod: str,
    where: str,
    family: int,
) -> None:
    vip = udp(f"{VIP}:53")
    asked = VIP if family == V4 else f"::ffff:{VIP}"
    service = world.serve(vip, DNS)
    process = start(pod if where == "pod" else None)
    for name in ("a", "b", "c", "d", "e", "f"):
        process("make", name, family, UDP)
        process("connect", name, asked, 53)
        process("send", name, "x")
    backend = {name: process("recv", name).partition(" ")[0] for name in "abcdef"}
    process("make", "direct", V4, UDP)
    gone = next(target for target in DNS if names([target]) == {backend["a"]})
    process("connect", "direct", str(gone.address), gone.port)
    process("make", "stream", V4, TCP)

    assert ends.follow([str(cgroup)], rows(world, vip, service, DNS)) == 0
    left = [target for target in DNS if target != gone]
    world.serve(vip, left)
    told = {name for name, its in backend.items() if its == backend["a"]}
    assert ends.follow([str(cgroup)], rows(world, vip, service, left)) == len(told)
    for name in "abcdef":
        if name in told:
            with pytest.raises(Refused, match="ECONNABORTED"):
                process("recv", name)
            process("connect", name, asked, 53)
        process("send", name, "y")
        assert process("recv", name).partition(" ")[0] in names(left)
    process("send", "direct", "z")
    assert process("recv", "direct").endswith("z"), "who asked for the backend itself has it"


def test_a_connection_to_a_backend_that_went_lives_on(
    world: SockWorld, ends: SocketEnds, cgroup: Path, client: Client
) -> None:
    vip = endpoint(f"{VIP}:80")
    service = world.serve(vip, WEB[:1])
    client("make", "s", V4, TCP)
    client("connect", "s", VIP, 80)
    client("recv", "s")
    world.serve(vip, WEB[1:])
    assert ends.follow([str(cgroup)], rows(world, vip, service, WEB[1:])) == 0
    client("send", "s", "on")
    assert client("recv", "s") == "on"


def test_the_namespaces_of_a_cgroup_are_those_of_its_processes(
    cgroup: Path, start: Callable[..., Client], pod: str
) -> None:
    here, there = start(), start(pod)
    here("ping")
    there("ping")
    found = namespaces([str(cgroup)])
    assert set(found) == {
        Path(f"/proc/{process.pid}/ns/net").stat().st_ino for process in (here, there)
    }
