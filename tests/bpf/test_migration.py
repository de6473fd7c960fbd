"""Flows go from one layout to another while programs are swapped under traffic.

The layouts are made up, both programs real: each answers a datagram with the backend of its flow,
so a flow that was lost or mixed up shows in its very next answer.
"""

from __future__ import annotations

import os
import socket
import subprocess
import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self

import numpy as np
import pytest
from numpy.typing import NDArray

from bpf import abi
from dataplane.drivers import migration, xdphook
from dataplane.drivers.carrying import CONVERTERS
from dataplane.drivers.libbpf import BPF_NOEXIST, XDP_FLAGS_DRV_MODE, LibbpfError, Map
from dataplane.drivers.libbpf_programs import Program, loaded
from dataplane.drivers.mapbulk import read_hash
from dataplane.drivers.migration import Converter, migrate
from tests.bpf.conftest import enter
from tests.labs.netns import Namespace, finish_checksums, mac_of, veth

pytestmark = pytest.mark.bpf

_SOURCE = Path(__file__).parent / "progs" / "versions.bpf.c"
_NODE = ("10.99.0.1", 5000)
_TUPLE = np.dtype([("proto", "u1"), ("pad", "u1", (3,)), ("sport", ">u2"), ("pad2", "u2")])
_FLOW2 = np.dtype([("packets", "u8"), ("backend", "u8")])
_ROW = np.dtype([("port", "u4"), ("backend", "u4"), ("packets", "u4")])


class MadeUp(Converter):
    """Version 1 keeps (port) -> (backend, packets), version 2 (proto, port) -> the same, wider."""

    source, target = 1, 2
    identity: tuple[str, ...] = ("port",)
    content: tuple[str, ...] = ("backend",)

    def __init__(self) -> None:
        self.ended: list[int] = []

    def live(self, old: Mapping[str, Map]) -> NDArray[Any]:
        value = np.dtype([("backend", "u4"), ("packets", "u4")])
        keys, values = read_hash(old["flows"], np.dtype([("port", "u4")]), value)
        rows = np.zeros(len(keys), _ROW)
        rows["port"] = keys["port"]
        rows["backend"], rows["packets"] = values["backend"], values["packets"]
        return rows

    def _key(self, row: Any) -> bytes:
        key = np.zeros(1, _TUPLE)
        key["proto"], key["sport"] = socket.IPPROTO_UDP, row["port"]
        return key.tobytes()

    def adopt(self, new: Mapping[str, Map], rows: NDArray[Any]) -> int:
        refused = 0
        for row in rows:
            value = np.zeros(1, _FLOW2)
            value["backend"], value["packets"] = row["backend"], row["packets"]
            try:
                new["flows"].update(self._key(row), value.tobytes(), BPF_NOEXIST)
            except LibbpfError as error:
                refused += error.errno != 17  # EEXIST: the new program's word is newer
        return refused

    def end(self, new: Mapping[str, Map], rows: NDArray[Any]) -> None:
        for row in rows:
            self.ended.append(int(row["port"]))
            new["flows"].delete(self._key(row))


class Traffic:
    """Many flows that send without pause; every answer has to name the flow's first backend."""

    def __init__(self, client: Namespace) -> None:
        self._client = client
        self._stop, self.warm = threading.Event(), threading.Event()
        self.sent = self.lost = 0
        self.moved: set[int] = set()
        self.backends: dict[int, int] = {}
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Self:
        self._thread.start()
        try:
            assert self.warm.wait(30), "no answers"
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._end()

    def _end(self) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        enter(self._client.path)
        with ExitStack() as stack:
            socks: list[socket.socket] = []
            rounds = 0
            while not self._stop.is_set():
                if rounds % 5 == 0 and len(socks) < 400:  # flows begin all the time
                    for _ in range(1 if socks else 200):
                        sock = stack.enter_context(socket.socket(type=socket.SOCK_DGRAM))
                        sock.settimeout(5)
                        sock.connect(_NODE)
                        socks.append(sock)
                for sock in socks:
                    sock.send(bytes(8))
                self.sent += len(socks)
                for sock in socks:
                    self._answer(sock)
                rounds += 1
                if rounds == 20:
                    self.warm.set()

    def _answer(self, sock: socket.socket) -> None:
        try:
            backend = int.from_bytes(sock.recv(64)[:4], "little")
        except TimeoutError:
            self.lost += 1
            return
        port = sock.getsockname()[1]
        if self.backends.setdefault(port, backend) != backend:
            self.moved.add(port)


@pytest.fixture
def ends() -> Iterator[tuple[Namespace, Namespace]]:
    client = Namespace(f"mrs-{os.getpid()}-c").create()
    node = Namespace(f"mrs-{os.getpid()}-n").create()
    try:
        for end in (client, node):
            end.quiet()
        veth(client, "c0", node, "n0", left_addresses=["10.99.0.2/24"])
        finish_checksums(client, "c0")
        mac = mac_of(node, "n0")
        client.run("ip", "neigh", "add", _NODE[0], "lladdr", mac, "dev", "c0", "nud", "permanent")
        home = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
        enter(node.path)  # the test acts as the node
        try:
            yield client, node
        finally:
            enter(Path(f"/proc/self/fd/{home}"))
            os.close(home)
    finally:
        client.delete()
        node.delete()


@pytest.fixture(scope="module")
def objects(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    directory = tmp_path_factory.mktemp("versions")
    include = f"/usr/include/{os.uname().machine}-linux-gnu"
    flags = ["-target", "bpf", "-mcpu=v3", "-O2", "-g", "-Wall", "-Werror", "-isystem", include]
    made = {}
    for version in (1, 2):
        made[version] = directory / f"versions{version}.bpf.o"
        subprocess.run(
            ["clang", *flags, f"-DVERSION={version}", "-c", str(_SOURCE), "-o", made[version]],
            check=True,
        )
    return made


def set_era(era: Map, number: int) -> None:
    era.update(bytes(4), number.to_bytes(4, "little"))


def test_flows_keep_their_backends_through_a_change_of_layout_under_traffic(
    ends: tuple[Namespace, Namespace], objects: dict[int, Path]
) -> None:
    client, node = ends
    ifindex = socket.if_nametoindex("n0")
    with ExitStack() as stack:
        old, new = (stack.enter_context(loaded(objects[version])) for version in (1, 2))
        maps = [
            {name: stack.enter_context(made.map(name)) for name in ("flows", "era")}
            for made in (old, new)
        ]
        programs = [stack.enter_context(made.program("versions")) for made in (old, new)]
        set_era(maps[0]["era"], 1)
        xdphook.attach(ifindex, programs[0], XDP_FLAGS_DRV_MODE)
        passing = stack.enter_context(old.program("pass"))
        enter(client.path)
        xdphook.attach(socket.if_nametoindex("c0"), passing, XDP_FLAGS_DRV_MODE)
        enter(node.path)
        with Traffic(client) as traffic:
            # From now on flows go elsewhere: the first ones' backends are in conntrack only.
            for found in maps:
                set_era(found["era"], 2)
            swaps = []

            def swap() -> None:
                swaps.append(traffic.sent)
                xdphook.replace(ifindex, programs[1], programs[0], XDP_FLAGS_DRV_MODE)

            done = migrate(MadeUp(), maps[0], maps[1], swap)
            after = traffic.sent
            for _ in range(600):
                if traffic.sent > after + 20_000:
                    break
                threading.Event().wait(0.05)
        held = xdphook.attached(ifindex)
        assert held is not None
        assert held.prog_id == programs[1].info().id
        counted = int(read_hash(maps[1]["flows"], _TUPLE, _FLOW2)[1]["packets"].sum())
    assert (traffic.lost, traffic.moved, done.refused) == (0, set(), 0)
    assert swaps[0] < traffic.sent
    assert done.copied >= 200
    assert sum(backend < 2000 for backend in traffic.backends.values()) >= 200
    assert sum(backend >= 2000 for backend in traffic.backends.values()) > 0
    assert counted > 20_000


class Scripted(MadeUp):
    """What `live` finds each time; the last picture stays."""

    def __init__(self, *pictures: list[tuple[int, int]]) -> None:
        super().__init__()
        self._pictures = list(pictures)
        self.adopted: list[list[tuple[int, int]]] = []

    def live(self, old: Mapping[str, Map]) -> NDArray[Any]:
        del old
        picture = self._pictures.pop(0) if len(self._pictures) > 1 else self._pictures[0]
        rows = np.zeros(len(picture), _ROW)
        rows["port"] = [port for port, _ in picture]
        rows["backend"] = [backend for _, backend in picture]
        return rows

    def adopt(self, new: Mapping[str, Map], rows: NDArray[Any]) -> int:
        del new
        self.adopted.append([(int(row["port"]), int(row["backend"])) for row in rows])
        return 0

    def end(self, new: Mapping[str, Map], rows: NDArray[Any]) -> None:
        del new
        self.ended += [int(row["port"]) for row in rows]


def test_what_began_changed_and_ended_meanwhile_is_carried_over() -> None:
    converter = Scripted(
        [(1, 10), (2, 20), (3, 30)],
        [(1, 10), (2, 21), (4, 40)],
        [(2, 21), (4, 41), (5, 50)],
    )
    done = migrate(converter, {}, {}, lambda: None)
    assert converter.adopted == [
        [(1, 10), (2, 20), (3, 30)],
        [(2, 21), (4, 40)],
        [(4, 41), (5, 50)],
    ]
    assert converter.ended == [3, 1]
    assert (done.copied, done.again, done.ended, done.refused) == (3, 4, 2, 0)


def test_a_swap_that_fails_takes_the_copies_back() -> None:
    converter = Scripted([(1, 10)])

    def swap() -> None:
        raise OSError("no")

    with pytest.raises(OSError, match="no"):
        migrate(converter, {}, {}, swap)
    assert converter.ended == [1]


def test_nothing_of_version_1_can_be_carried_over() -> None:
    assert set(CONVERTERS) == {(2, 3)}
    assert int(abi.Limit.ABI_VERSION) == 3


@pytest.fixture
def root(bpffs: Path) -> Iterator[Path]:
    made = bpffs / "versions"
    made.mkdir()
    yield made
    for path in sorted(made.rglob("*"), key=lambda path: len(path.parts), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    made.rmdir()


def test_a_link_of_an_older_version_becomes_this_ones_while_it_stays_attached(
    root: Path, objects: dict[int, Path], ends: tuple[Namespace, Namespace]
) -> None:
    ifindex = socket.if_nametoindex("n0")
    (root / "v1" / "links").mkdir(parents=True)
    with (
        loaded(objects[1]) as made,
        made.program("versions") as program,
        made.map("flows") as flows,
    ):
        flows.pin(root / "v1" / "flows")
        xdphook.pin_link(ifindex, program, root / "v1" / "links" / "n0")
        assert migration.older(str(root)) == {1: root / "v1"}
        assert migration.take_links_over(str(root)) == ["n0"]
        assert (root / "v3" / "links" / "n0").exists()
        held = xdphook.attached(ifindex)
        assert held is not None
        assert held.prog_id == program.info().id
        with loaded(objects[2]) as newer, newer.program("versions") as other:
            xdphook.update_link(root / "v3" / "links" / "n0", other, program)
            held = xdphook.attached(ifindex)
            assert held is not None
            with Program.by_id(held.prog_id) as attached:
                assert attached.info().id == other.info().id
    with ExitStack() as stack:
        assert list(migration.open_maps(stack, root / "v1")) == ["flows"]
    assert migration.take_links_over(str(root)) == []
    assert migration.remove_older(str(root)) == [1]
    assert migration.older(str(root)) == {}
    assert not (root / "v1").exists()
