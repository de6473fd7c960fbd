"""A BPF filesystem and a network namespace of the tests' own, and a fresh node for each test."""

from __future__ import annotations

import ctypes
import os
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from dataplane.drivers.bpfstate import BpfState, remove_pins
from dataplane.model.config import ServicesConfig
from dataplane.plan.capacity import map_sizes
from tests.bpf.hurl import Hurler, hurler
from tests.bpf.world import World
from tests.labs.netns import Namespace

CLONE_NEWNET = 0x40000000
_libc = ctypes.CDLL(None, use_errno=True)


def enter(path: Path) -> None:
    """Move this thread into a network namespace."""
    with path.open("rb") as file:
        if _libc.setns(file.fileno(), CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), f"setns {path}")


@pytest.fixture(scope="session")
def bpffs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A BPF filesystem that nobody else mounts, unmounts or pins in."""
    path = tmp_path_factory.mktemp("bpffs")
    subprocess.run(["mount", "-t", "bpf", "bpf", str(path)], check=True)
    try:
        yield path
    finally:
        subprocess.run(["umount", str(path)], check=True)


@pytest.fixture(scope="session")
def _namespace() -> Iterator[Namespace]:
    """A namespace with up0 and svc0, each one end of a veth pair."""
    made = Namespace(f"mrb-{os.getpid()}").create()
    made.quiet()
    try:
        for name in ("up0", "svc0"):
            made.run("ip", "link", "add", name, "type", "veth", "peer", "name", f"{name}-peer")
            for end in (name, f"{name}-peer"):
                made.run("ip", "link", "set", end, "up")
        yield made
    finally:
        made.delete()


@pytest.fixture(autouse=True)
def namespace(_namespace: Namespace) -> Iterator[Namespace]:
    """The test runs inside the namespace."""
    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    enter(_namespace.path)
    try:
        yield _namespace
    finally:
        assert not _libc.setns(home, CLONE_NEWNET)
        os.close(home)


@pytest.fixture
def one_cpu() -> Iterator[int]:
    """The test runs on this CPU alone: each makes its flows where it was last."""
    home = os.sched_getaffinity(0)
    cpu = min(home)
    os.sched_setaffinity(0, {cpu})
    try:
        yield cpu
    finally:
        os.sched_setaffinity(0, home)


@pytest.fixture
def bpf_root(bpffs: Path, request: pytest.FixtureRequest) -> Iterator[str]:
    """A directory for one node's pins."""
    root = bpffs / f"node-{abs(hash(request.node.nodeid)):x}"
    try:
        yield str(root)
    finally:
        remove_pins(str(root))


@pytest.fixture(scope="session")
def shared_state(bpffs: Path) -> Iterator[BpfState]:
    """Maps and programs loaded once: the tests clear them instead of making them anew."""
    small = map_sizes(ServicesConfig(flows=2048, services=1024, backends=4096))
    with BpfState(str(bpffs / "shared"), sizes=small) as state:
        yield state


@pytest.fixture
def empty(shared_state: BpfState) -> Iterator[World]:
    """A node that knows nothing. Whatever a test did, conntrack's laws hold afterwards."""
    devices = socket.if_nametoindex("up0"), socket.if_nametoindex("svc0")
    made = World(shared_state, *devices).clear()
    yield made
    assert made.laws() == []


@pytest.fixture
def world(empty: World) -> World:
    """A node with a service of each kind."""
    return empty.fill()


@pytest.fixture
def first(world: World) -> Iterator[Hurler]:
    """Who hurls packets at that node's uplink."""
    with hurler(world) as made:
        yield made


@pytest.fixture
def second(world: World) -> Iterator[Hurler]:
    """Another one, on a processor of its own."""
    with hurler(world) as made:
        yield made
