"""A node of addresses and servers, a cgroup of the tests' own, processes in it."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from bpf import abi
from bpf.objects import OBJECT_DIRECTORY
from dataplane.drivers.libbpf import Map
from dataplane.drivers.libbpf_programs import Object
from dataplane.drivers.sockprograms import SocketTable
from dataplane.model.rows import SocketPrograms
from tests.netns.sockets.sockworld import (
    ADDRESSES,
    ADDRESSES6,
    DNS,
    DNS6,
    WEB,
    WEB6,
    Client,
    Pins,
    Servers,
    SockWorld,
    child_cgroup,
    own_name,
)


@pytest.fixture(scope="module")
def bpffs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    path = tmp_path_factory.mktemp("bpffs")
    subprocess.run(["mount", "-t", "bpf", "bpf", str(path)], check=True)
    try:
        yield path
    finally:
        subprocess.run(["umount", str(path)], check=True)


@pytest.fixture(scope="module")
def maps() -> Iterator[dict[str, Map]]:
    """The node's maps, made once."""
    with ExitStack() as stack:
        made = stack.enter_context(Object(OBJECT_DIRECTORY / "sock.bpf.o"))
        for name in abi.MAPS:
            made.keep_private(name)
        made.load()
        yield {name: stack.enter_context(made.map(name)) for name in abi.MAPS}


@pytest.fixture
def world(maps: dict[str, Map]) -> Iterator[SockWorld]:
    made = SockWorld(maps)
    yield made
    made.clear()


@pytest.fixture
def servers(own_node: None) -> Iterator[Servers]:
    """The node's namespace has every backend's address, and its servers."""
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    for address in ADDRESSES:
        subprocess.run(["ip", "address", "add", f"{address}/32", "dev", "lo"], check=True)
    for address in ADDRESSES6:
        command = ["ip", "address", "add", f"{address}/128", "dev", "lo", "nodad"]
        subprocess.run(command, check=True)
    made = Servers()
    try:
        made.listen(*WEB, *WEB6, *DNS, *DNS6)
        yield made
    finally:
        made.close()


@pytest.fixture
def pins(maps: dict[str, Map], bpffs: Path) -> Iterator[Pins]:
    made = Pins(bpffs / own_name(), maps)
    made.links.mkdir()
    yield made
    for path in sorted(made.links.rglob("*"), key=lambda path: -len(path.parts)):
        path.rmdir() if path.is_dir() else path.unlink()
    made.links.rmdir()


@pytest.fixture
def cgroup() -> Iterator[Path]:
    with child_cgroup(own_name()) as path:
        yield path


@pytest.fixture
def start(cgroup: Path, servers: Servers) -> Iterator[Callable[..., Client]]:
    """Start a process in the cgroup, here or in another namespace; all end with the test."""
    with ExitStack() as stack:

        def make(netns: str | None = None, *, inside: bool = True) -> Client:
            made = Client(cgroup if inside else None, netns)
            stack.callback(made.close)
            return made

        yield make


@pytest.fixture
def table(pins: Pins, cgroup: Path, servers: Servers) -> Iterator[SocketTable]:
    """The programs are attached to the cgroup."""
    made = SocketTable(pins)
    assert not made.upsert([(str(cgroup), SocketPrograms())])
    yield made
    assert not made.delete([str(cgroup)])
    made.close()


@pytest.fixture
def client(table: SocketTable, start: Callable[..., Client]) -> Client:
    """A process of the node's namespace whose sockets are translated."""
    return start()


@pytest.fixture
def pod(servers: Servers, new_netns: Callable[[str], str]) -> str:
    """A container's namespace, with a link to the node."""
    path = new_netns("pod")
    node, there = ["ip", "link"], ["nsenter", f"--net={path}", "ip"]
    veth = [*node, "add", "pod0", "type", "veth", "peer", "name", "eth0", "netns", path]
    subprocess.run(veth, check=True)
    for command in (
        ["ip", "address", "add", "10.20.0.1/24", "dev", "pod0"],
        ["ip", "address", "add", "fd00:20::1/64", "dev", "pod0", "nodad"],
        ["ip", "link", "set", "pod0", "up"],
        [*there, "link", "set", "lo", "up"],
        [*there, "address", "add", "10.20.0.2/24", "dev", "eth0"],
        [*there, "address", "add", "fd00:20::2/64", "dev", "eth0", "nodad"],
        [*there, "link", "set", "eth0", "up"],
        [*there, "route", "add", "default", "via", "10.20.0.1"],
        [*there, "-6", "route", "add", "default", "via", "fd00:20::1"],
    ):
        subprocess.run(command, check=True)
    return path
