"""Random verbs with kills in between, and fuzzed requests, against the daemon's real socket.

Links, records, directories and the socket are real; OVS and OVN are `tests.netns.memory_host`. The
same sequences against OVS and OVN: tests/system/test_cni_verbs.py.
"""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import os
import random
import socket
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

import pytest

from cni import wire
from controller import cni_run, server
from controller.cni_host import Patience
from controller.cni_server import CniServer
from dataplane.drivers import netns
from dataplane.drivers.processes import wait_until
from dataplane.model.devices import device_name
from dataplane.model.state import PortKind
from tests.labs.cniverbs import Runtime, Sandbox, devices_of
from tests.netns.memory_daemon import PODS
from tests.netns.memory_host import MemoryHost, logical_port

pytestmark = pytest.mark.netns

NetnsMaker = Callable[[str], str]
ROOT = Path(__file__).resolve().parents[2]
SEQUENCES, STEPS = 50, 8
FUZZED = 10_000
GROWTH_MIB = 16
"""More than the allocator keeps, less than a kilobyte or two of each request."""

MODES = ("veth", "veth", "vhost-user")


class Daemon:
    """The memory daemon as a process, in a network namespace of its own.

    In the machine's the sweep at its start would remove other tests' links, and theirs its.
    """

    def __init__(self, directory: Path, node: str) -> None:
        self.directory, self.node = directory, node
        self.process: subprocess.Popen[str] | None = None

    def start(self) -> None:
        self.process = subprocess.Popen(
            [
                "nsenter", f"--net={self.node}", sys.executable,
                "-m", "tests.netns.memory_daemon", str(self.directory), "installs",
            ],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )  # fmt: skip
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "serving\n"

    def kill(self) -> None:
        assert self.process is not None
        assert self.process.stdout is not None
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()


@contextmanager
def daemon(directory: Path, node: str) -> Iterator[Daemon]:
    made = Daemon(directory, node)
    made.start()
    try:
        yield made
    finally:
        made.kill()


def pod_links(node: str) -> set[str]:
    """In the daemon's namespace."""
    names = netns.inside_named(node, socket.if_nameindex)
    return {name for _, name in names if name.startswith("mrp")}


def has_links(node: str, links: set[str]) -> bool:
    return pod_links(node) == links


def device(one: Sandbox) -> str:
    return device_name(PortKind(one.mode), one.container, "eth0")


def test_any_sequence_ends_with_what_should_be_attached(
    tmp_path: Path, new_netns: NetnsMaker
) -> None:
    assert_sequences(tmp_path, new_netns, range(SEQUENCES))


def assert_sequences(directory: Path, new_netns: NetnsMaker, seeds: Iterable[int]) -> None:
    """One sequence for each seed, against one daemon that is killed now and then."""
    sandboxes = [
        Sandbox(
            f"{pod}{turn}", f"{pod}-0", "shop", mode,
            new_netns(f"{pod}{turn}") if mode == "veth" else "",
        )
        for pod, mode in zip(PODS, MODES, strict=True)
        for turn in "ab"
    ]  # fmt: skip
    node = new_netns("node")
    vhost = directory / "run" / "vhost"
    with daemon(directory, node) as running:
        for seed in seeds:
            runtime = Runtime(
                directory / "run" / "cni.sock", sandboxes, running.kill, running.start, seed
            )
            runtime.run(STEPS, deaths=0.05)
            certain = runtime.settle()
            wanted = {device(one) for one in certain.values()}
            assert devices_of(directory / "state") == wanted, runtime.history
            # A call that was cut short is undone without anybody waiting for it.
            links = {name for name in wanted if name.startswith("mrp")}
            wait_until(
                partial(has_links, node, links), f"just {links} are there: {runtime.history}"
            )
            directories = {path.name for path in vhost.iterdir()} if vhost.exists() else set()
            assert directories == {
                one.container for one in certain.values() if one.mode == "vhost-user"
            }, runtime.history
            runtime.empty()
            assert devices_of(directory / "state") == set()


def requests(seed: int) -> Iterator[tuple[bytes, bool]]:
    """What may come over a socket: noise, halves, huge announcements, and almost right calls.

    With each whether it is all that comes: the client then hangs up.
    """
    chance = random.Random(seed)
    good = Sandbox("c0", "web-0", "shop", "vhost-user").arguments()
    odd: list[object] = [
        None, True, -1, 0, 1 << 70, 1.5, "", "..", "../../etc", "\0", "\ud800", "x" * 5000, [],
        [[]], {}, {"a": {}}, "01:00:5e:00:00:01", "10.0.0.5", "::1", ["10.0.0.300"], "veth",
        [{"host_port": 1, "port": 2, "protocol": "tcp", "host_ip": "x"}],
    ]  # fmt: skip
    while True:
        kind = chance.randrange(7)
        if kind == 6:
            yield run_of(chance, good), chance.random() < 0.1
            continue
        if kind == 0:
            yield chance.randbytes(chance.randrange(64)), True
            continue
        op = chance.choice(("add", "del", "check", "gc", "status", "", "ADD", "stop"))
        args: object = dict(good)
        for _ in range(chance.randrange(4)):
            key = chance.choice([*good, "asked", "routes", "provider", "socket_name", "valid"])
            if isinstance(args, dict):
                args[key] = chance.choice(odd)
        if chance.random() < 0.1:
            args = chance.choice(odd)
        body = {"v": chance.choice([1, 1, 1, 1, 2, None]), "op": op, "args": args}
        payload = json.dumps(body).encode()
        if kind == 1:
            payload = payload[: chance.randrange(len(payload))]
        size = len(payload) if kind != 2 else chance.randrange(1 << 32)
        yield size.to_bytes(4, "big") + payload, kind in (1, 2) or chance.random() < 0.1


def run_of(chance: random.Random, good: Mapping[str, object]) -> bytes:
    """A call of the executable, more or less."""
    environment = {
        "CNI_COMMAND": chance.choice(("ADD", "DEL", "CHECK", "GC", "STATUS", "VERSION", "")),
        "CNI_CONTAINERID": str(good["container_id"]), "CNI_IFNAME": "eth0", "CNI_NETNS": "/none",
        "CNI_ARGS": "K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web-0;K8S_POD_UID=c0",
    }  # fmt: skip
    conf = {"cniVersion": "1.1.0", "name": "mill", "type": "x", "mode": "vhost-user"}
    head = "".join(f"{name}={value}\0" for name, value in environment.items())
    payload = bytearray(f"{head}\0{json.dumps(conf)}".encode())
    for _ in range(chance.randrange(4)):
        at = chance.randrange(len(payload))
        payload[at : at + chance.randrange(3)] = chance.choice((b"", b"\0", b"\0\0", b"=", b"\xff"))
    return (wire.RAW | len(payload)).to_bytes(4, "big") + payload


def test_ten_thousand_fuzzed_requests_leave_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    # Ten thousand lines that the test itself would keep.
    with caplog.at_level(logging.CRITICAL, "controller"):
        asyncio.run(fuzz(tmp_path))


async def fuzz(tmp_path: Path) -> None:
    host = MemoryHost(tmp_path / "state", logical_port("web-0.shop"))
    patience = Patience(logical_port=0.001, attach=5, installed=0.001, check=0.001)
    handlers = CniServer(host, tmp_path / "run", 1442, patience)
    path = tmp_path / "run" / "cni.sock"
    answers: dict[int | None, int] = {}

    async def one(data: bytes, ends: bool) -> None:
        reader, writer = await asyncio.open_unix_connection(str(path))
        try:
            writer.write(data)
            if ends:
                writer.write_eof()
            with suppress(asyncio.IncompleteReadError, ConnectionError):
                header = await reader.readexactly(wire.HEADER_SIZE)
                if printed := wire.raw_size(header):
                    said = await reader.readexactly(printed)
                    ran = json.loads(said[1:]).get("code") if said[1:] else None
                    answers[ran] = answers.get(ran, 0) + 1
                    return
                answer = json.loads(await reader.readexactly(wire.payload_size(header)))
                code = None if answer["ok"] else answer["error"]["code"]
                answers[code] = answers.get(code, 0) + 1
        finally:
            writer.close()
            with suppress(ConnectionError):
                await writer.wait_closed()

    async with await server.serve(path, 0o600, handlers.handlers(), {0}, runner=cni_run.run):
        source = requests(1)
        held: list[tuple[int, int, int]] = []
        for _ in range(FUZZED // 20):
            await asyncio.gather(*(one(*next(source)) for _ in range(20)))
            if len(held) < 1 and sum(answers.values()) > FUZZED // 5:
                held.append(await quiet())
        held.append(await quiet())
        assert not any(code == wire.CODE_INTERNAL for code in answers), answers
        assert sum(answers.values()) > FUZZED // 4, answers
        await handlers.gc({"network": "mill", "valid": []})
        for record in list(host.attachments()):
            await handlers.gc({"network": record.network, "valid": []})
    assert devices_of(tmp_path / "state") == set()
    vhost = tmp_path / "run" / "vhost"
    assert not vhost.exists() or list(vhost.iterdir()) == []
    (tasks, files, mib), (tasks_now, files_now, mib_now) = held
    assert (tasks_now, files_now) == (tasks, files)
    assert mib_now - mib < GROWTH_MIB


async def quiet() -> tuple[int, int, int]:
    """Tasks, descriptors and resident memory [MiB], once the last connections are over."""
    last = (-1, -1)
    while True:
        await asyncio.sleep(0.1)
        gc.collect()
        now = (len(asyncio.all_tasks()), len(os.listdir("/proc/self/fd")))  # noqa: PTH208
        if now == last:
            pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
            return (*now, pages * os.sysconf("SC_PAGE_SIZE") >> 20)
        last = now
