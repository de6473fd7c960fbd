"""The plugin's process, the socket, the daemon's handlers and real links, together.

OVS and OVN are `tests.netns.memory_host`; the system tests have the real ones.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import pytest
from pyroute2 import IPRoute

from cni import spec
from controller import server
from controller.cni_host import Patience
from controller.cni_server import CniServer
from dataplane.drivers import netns, podlink
from dataplane.model.state import Attachment
from tests.netns.memory_host import OTHER_MAC, MemoryHost, logical_port

pytestmark = pytest.mark.netns

T = TypeVar("T")
NetnsMaker = Callable[[str], str]
ROOT = Path(__file__).resolve().parents[2]
LONG = Patience(logical_port=60, attach=60, installed=600, check=0.05)
SHORT = Patience(logical_port=0.05, attach=60, installed=0.05, check=0.05)


@dataclass
class Node:
    """A running CNI socket."""

    host: MemoryHost
    socket: Path
    rundir: Path
    running: server.ControlServer | None

    async def run(self, command: str, path: str, **options: object) -> tuple[int, spec.Json]:
        """Run the plugin's process; its exit code and what it printed."""
        process = await self.start(command, path, **options)
        out, err = await process.communicate()
        assert err == b""
        assert process.returncode is not None
        return process.returncode, json.loads(out) if out else {}

    async def start(self, command: str, path: str, **options: object) -> asyncio.subprocess.Process:
        """Start the plugin. Options are container, ifname, pod, uid, and keys of its stdin."""
        container = str(options.pop("container", "c0ffee"))
        ifname = str(options.pop("ifname", "eth0"))
        pod, uid = str(options.pop("pod", "web-0")), str(options.pop("uid", "u-1"))
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "cni.plugin",
            cwd=ROOT,
            env={
                "CNI_COMMAND": command,
                "CNI_CONTAINERID": container,
                "CNI_IFNAME": ifname,
                "CNI_NETNS": path,
                "CNI_ARGS": f"K8S_POD_NAMESPACE=shop;K8S_POD_NAME={pod};K8S_POD_UID={uid}",
            },
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        text = {
            "cniVersion": "1.1.0", "name": "mill", "type": "millrace-cni",
            "socket": str(self.socket), **options,
        }  # fmt: skip
        assert process.stdin is not None
        process.stdin.write(json.dumps(text).encode())
        process.stdin.close()
        return process

    def left(self, *paths: str) -> list[str]:
        """All traces of attachments: links on the node and in the pods, records, directories."""
        found = off_loop(names)
        for path in paths:
            found += links(path)
        found += [path.name for path in self.host.store.directory.iterdir()]
        found += [str(key) for key in self.host.records]
        if (self.rundir / "vhost").exists():
            found += [path.name for path in (self.rundir / "vhost").iterdir()]
        return [name for name in found if name != "lo"]


def off_loop(function: Callable[..., T], *args: object) -> T:
    """Run it in a thread: pyroute2 has an event loop of its own, and two do not nest."""
    with ThreadPoolExecutor(max_workers=1) as executor:
        return executor.submit(function, *args).result()


def names() -> list[str]:
    with IPRoute() as ipr:
        return [str(link.get_attr("IFLA_IFNAME")) for link in ipr.get_links()]


def links(path: str) -> list[str]:
    with netns.opened(path) as fd:
        return netns.inside(fd, path, names)


def check(attachment: Attachment) -> list[str]:
    return off_loop(podlink.check, attachment)


@asynccontextmanager
async def node(tmp_path: Path, patience: Patience = LONG, **flags: object) -> AsyncIterator[Node]:
    host = MemoryHost(tmp_path / "state", logical_port("web-0.shop"), logical_port("db-0.shop", 6))
    for name, value in flags.items():
        setattr(host, name, value)
    rundir = tmp_path / "run"
    handlers = CniServer(host, rundir, 1442, patience)
    path = rundir / "cni.sock"
    async with await server.serve(path, 0o600, handlers.handlers(), {0}) as running:
        yield Node(host, path, rundir, running)


def run(main: Callable[[], Awaitable[None]]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(120):
            await main()

    asyncio.run(bounded())


async def until(condition: Callable[[], bool]) -> None:
    """Wait for it; the test's own time limit ends a wait in vain."""
    while not condition():  # noqa: ASYNC110 - the kernel sets no event
        await asyncio.sleep(0.01)


def test_the_life_of_a_pods_interface(tmp_path: Path, new_netns: NetnsMaker) -> None:
    pod = new_netns("web")

    async def main() -> None:
        async with node(tmp_path) as n:
            status, result = await n.run("ADD", pod)
            assert status == 0
            (attachment,) = n.host.attachments()
            assert result == {
                "cniVersion": "1.1.0",
                "interfaces": [
                    {"name": attachment.device, "mtu": 1442},
                    {"name": "eth0", "mac": "0a:58:0a:00:00:05", "mtu": 1442, "sandbox": pod},
                ],
                "ips": [{"address": "10.0.0.5/24", "interface": 1, "gateway": "10.0.0.1"}],
                "routes": [{"dst": "0.0.0.0/0", "gw": "10.0.0.1"}],
                "dns": {},
            }
            assert check(attachment) == []
            assert links(pod) == ["lo", "eth0"]
            assert n.host.attached_before_device == []
            assert n.host.store.load_all() == (attachment,)

            assert await n.run("ADD", pod) == (0, result)
            assert await n.run("CHECK", pod, prevResult=result) == (0, {})
            assert n.host.attachments() == (attachment,)

            assert await n.run("DEL", pod, prevResult=result) == (0, {})
            assert n.left(pod) == []
            assert await n.run("DEL", pod) == (0, {})
            status, error = await n.run("CHECK", pod, prevResult=result)
            assert (status, error["code"]) == (1, spec.UNKNOWN_CONTAINER)

    run(main)


def test_a_configured_mtu_and_an_old_version(tmp_path: Path, new_netns: NetnsMaker) -> None:
    pod = new_netns("web")

    async def main() -> None:
        async with node(tmp_path) as n:
            status, result = await n.run("ADD", pod, cniVersion="0.4.0", mtu=1300)
            assert status == 0
            (attachment,) = n.host.attachments()
            assert attachment.mtu == 1300
            assert check(attachment) == []
            assert result["ips"] == [
                {"version": "4", "address": "10.0.0.5/24", "interface": 1, "gateway": "10.0.0.1"}
            ]

    run(main)


@pytest.mark.parametrize(
    ("flags", "patience", "pod_name", "code", "word"),
    [
        ({}, SHORT, "unknown", spec.TRY_AGAIN_LATER, "unknown.shop"),
        ({"rejected": "could not open network device"}, LONG, "web-0", 111, "could not open"),
        ({"installs": False}, SHORT, "web-0", spec.TRY_AGAIN_LATER, "web-0.shop"),
        ({"not_ready": "no OVSDB"}, LONG, "web-0", spec.TRY_AGAIN_LATER, "no OVSDB"),
    ],
    ids=["unknown port", "rejected", "not installed", "not ready"],
)
def test_a_failed_add_leaves_nothing(
    tmp_path: Path, new_netns: NetnsMaker, flags: dict[str, object], patience: Patience,
    pod_name: str, code: int, word: str,
) -> None:  # fmt: skip
    pod = new_netns("web")

    async def main() -> None:
        async with node(tmp_path, patience, **flags) as n:
            for mode in ("veth", "vhost-user"):
                status, error = await n.run("ADD", pod, pod=pod_name, mode=mode)
                assert (status, error["code"]) == (1, code)
                assert word in str(error["msg"])
                assert n.left(pod) == []

    run(main)


def test_what_is_no_namespace_leaves_nothing(tmp_path: Path) -> None:
    async def main() -> None:
        async with node(tmp_path) as n:
            for path in ("/etc/hostname", f"/proc/{os.getpid()}/ns/net", "/proc/self/ns/mnt"):
                status, error = await n.run("ADD", path)
                assert (status, error["code"]) == (1, spec.INVALID_ENVIRONMENT), error
                assert "CNI_NETNS" in str(error["msg"])
                assert n.left() == []

    run(main)


def test_a_taken_interface_name_leaves_nothing(tmp_path: Path, new_netns: NetnsMaker) -> None:
    pod = new_netns("web")

    def occupy() -> None:
        with IPRoute() as ipr:
            ipr.link("add", ifname="eth0", kind="veth", peer="eth9")

    with netns.opened(pod) as fd:
        netns.inside(fd, pod, occupy)

    async def main() -> None:
        async with node(tmp_path) as n:
            status, error = await n.run("ADD", pod)
            assert (status, error["code"]) == (1, spec.LINK_FAILED)
            assert "exists already" in str(error["msg"])
            assert sorted(n.left(pod)) == ["eth0", "eth9"]

    run(main)


def test_a_late_logical_port_is_waited_for(tmp_path: Path, new_netns: NetnsMaker) -> None:
    pod = new_netns("web")

    async def main() -> None:
        async with node(tmp_path) as n:
            adding = asyncio.create_task(n.run("ADD", pod, pod="late"))
            await asyncio.sleep(0.2)
            assert not adding.done()
            n.host.ports["late.shop"] = logical_port("late.shop", 9)
            status, _ = await adding
            assert status == 0

    run(main)


@pytest.mark.parametrize("conf", [{}, {"mode": "vhost-user"}], ids=["veth", "vhost-user"])
def test_a_plugin_killed_during_add_leaves_nothing(
    tmp_path: Path, new_netns: NetnsMaker, conf: dict[str, object]
) -> None:
    pod = new_netns("web")

    async def main() -> None:
        async with node(tmp_path, installs=False) as n:
            process = await n.start("ADD", pod, **conf)
            await n.host.waiting.wait()
            assert n.left(pod) != []
            process.kill()
            await process.wait()
            await until(lambda: n.left(pod) == [])
            n.host.installs = True
            status, _ = await n.run("ADD", pod, **conf)
            assert status == 0

    run(main)


def test_a_plugin_killed_at_any_moment_leaves_all_or_nothing(
    tmp_path: Path, new_netns: NetnsMaker
) -> None:
    pod = new_netns("web")

    async def main() -> None:
        async with node(tmp_path) as n:
            for step in range(25):
                process = await n.start("ADD", pod)
                await asyncio.sleep(step * 0.003)
                if process.returncode is None:
                    process.kill()
                await process.wait()

                # Killed early, nothing is there; killed after the answer, everything is right.
                def settled() -> bool:
                    recorded = n.host.attachments()
                    return n.left(pod) == [] if not recorded else check(recorded[0]) == []

                await until(settled)
                assert await n.run("DEL", pod) == (0, {})
                assert n.left(pod) == []

    run(main)


def test_a_daemon_killed_during_add_leaves_what_its_successor_removes(
    tmp_path: Path, new_netns: NetnsMaker
) -> None:
    pod = new_netns("web")

    @asynccontextmanager
    async def daemon(mode: str) -> AsyncIterator[asyncio.subprocess.Process]:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "tests.netns.memory_daemon", str(tmp_path), mode,
            cwd=ROOT, stdout=asyncio.subprocess.PIPE,
        )  # fmt: skip
        assert process.stdout is not None
        assert await process.stdout.readline() == b"serving\n"
        try:
            yield process
        finally:
            if process.returncode is None:
                process.kill()
            await process.wait()

    async def main() -> None:
        # Only its way of starting the plugin is used; the daemon is another process.
        caller = Node(
            MemoryHost(tmp_path / "unused"), tmp_path / "run" / "cni.sock", tmp_path / "run",
            None,
        )  # fmt: skip
        async with daemon("hangs") as first:
            adding = asyncio.create_task(caller.run("ADD", pod))
            assert first.stdout is not None
            assert await first.stdout.readline() == b"hanging\n"
            first.kill()
            status, error = await adding
            assert (status, error["code"]) == (1, spec.TRY_AGAIN_LATER)
        assert links(pod) == ["lo", "eth0"]
        async with daemon("installs"):
            status, result = await caller.run("ADD", pod)
            assert status == 0
            assert await caller.run("CHECK", pod, prevResult=result) == (0, {})
            assert await caller.run("DEL", pod) == (0, {})
        assert links(pod) == ["lo"]
        assert off_loop(names) == ["lo"]
        assert list((tmp_path / "state").iterdir()) == []

    run(main)


def test_a_daemon_that_stops_during_add_leaves_nothing(
    tmp_path: Path, new_netns: NetnsMaker
) -> None:
    pod = new_netns("web")

    async def main() -> None:
        async with node(tmp_path, installs=False) as n:
            process = await n.start("ADD", pod)
            await n.host.waiting.wait()
            assert n.running is not None
            await n.running.close()
            assert n.left(pod) == []
            out, _ = await process.communicate()
            assert json.loads(out)["code"] == spec.TRY_AGAIN_LATER

    run(main)


def test_del_during_add_waits_and_leaves_nothing(tmp_path: Path, new_netns: NetnsMaker) -> None:
    pod = new_netns("web")

    async def main() -> None:
        async with node(tmp_path, installs=False) as n:
            adding = await n.start("ADD", pod)
            await n.host.waiting.wait()
            deleting = asyncio.create_task(n.run("DEL", pod))
            await asyncio.sleep(0.3)
            assert not deleting.done()
            adding.kill()
            await adding.wait()
            assert await deleting == (0, {})
            assert n.left(pod) == []

    run(main)


def test_many_pods_at_once(tmp_path: Path, new_netns: NetnsMaker) -> None:
    pods = [new_netns(f"p{i}") for i in range(12)]

    async def main() -> None:
        async with node(tmp_path) as n:
            for i in range(len(pods)):
                n.host.ports[f"p{i}.shop"] = logical_port(f"p{i}.shop", 20 + i)
            added = await asyncio.gather(
                *(n.run("ADD", path, container=f"c{i}", pod=f"p{i}") for i, path in enumerate(pods))
            )
            assert [status for status, _ in added] == [0] * len(pods)
            assert all(check(one) == [] for one in n.host.attachments())
            gone = await asyncio.gather(
                *(n.run("DEL", path, container=f"c{i}", pod=f"p{i}") for i, path in enumerate(pods))
            )
            assert [status for status, _ in gone] == [0] * len(pods)
            assert n.left(*pods) == []

    run(main)


def test_check_finds_what_changed(tmp_path: Path, new_netns: NetnsMaker) -> None:
    pod = new_netns("web")

    async def main() -> None:
        async with node(tmp_path, SHORT) as n:
            _, result = await n.run("ADD", pod)
            (attachment,) = n.host.attachments()

            async def said(prev: object = result) -> str:
                status, error = await n.run("CHECK", pod, prevResult=prev)
                assert (status, error["code"]) == (1, spec.NOT_AS_EXPECTED)
                return f"{error['msg']} {error['details']}"

            assert "prevResult has no interface" in await said({})
            assert "lacks the address" in await said({**result, "ips": []})
            n.host.installs = False
            assert "ovn-installed" in await said()
            n.host.installs = True
            n.host.ports["web-0.shop"] = replace(logical_port("web-0.shop"), mac=OTHER_MAC)
            assert "OVN now says MAC" in await said()
            del n.host.ports["web-0.shop"]
            assert "no logical port" in await said()
            n.host.ports["web-0.shop"] = logical_port("web-0.shop")
            off_loop(podlink.remove, attachment.device)
            assert attachment.device in await said()

    run(main)


def test_an_address_changed_in_ovn_is_taken_by_the_next_add(
    tmp_path: Path, new_netns: NetnsMaker
) -> None:
    pod = new_netns("web")

    async def main() -> None:
        async with node(tmp_path) as n:
            await n.run("ADD", pod)
            n.host.ports["web-0.shop"] = logical_port("web-0.shop", 77)
            status, result = await n.run("ADD", pod)
            assert status == 0
            assert "10.0.0.77/24" in str(result["ips"])
            (attachment,) = n.host.attachments()
            assert check(attachment) == []

    run(main)


def test_a_new_sandbox_of_a_pod_takes_the_port_over(tmp_path: Path, new_netns: NetnsMaker) -> None:
    old, new = new_netns("old"), new_netns("new")

    async def main() -> None:
        async with node(tmp_path) as n:
            await n.run("ADD", old, container="old")
            status, _ = await n.run("ADD", new, container="new")
            assert status == 0
            assert [one.container_id for one in n.host.attachments()] == ["new"]
            assert links(old) == ["lo"]
            # The late DEL of the old sandbox must not touch the new one.
            assert await n.run("DEL", old, container="old") == (0, {})
            (attachment,) = n.host.attachments()
            assert check(attachment) == []

    run(main)


def test_two_interfaces_of_one_container_cannot_share_a_port(
    tmp_path: Path, new_netns: NetnsMaker
) -> None:
    pod = new_netns("web")

    async def main() -> None:
        async with node(tmp_path) as n:
            await n.run("ADD", pod)
            status, error = await n.run("ADD", pod, ifname="net1")
            assert (status, error["code"]) == (1, spec.PORT_CONFLICT)
            assert links(pod) == ["lo", "eth0"]
            (attachment,) = n.host.attachments()
            assert check(attachment) == []

    run(main)


def test_gc_removes_what_is_not_valid_in_its_own_network_only(
    tmp_path: Path, new_netns: NetnsMaker
) -> None:
    pods = [new_netns(name) for name in ("keep", "stale", "other")]

    async def main() -> None:
        async with node(tmp_path) as n:
            n.host.ports["x.shop"] = logical_port("x.shop", 9)
            await n.run("ADD", pods[0], container="keep")
            await n.run("ADD", pods[1], container="stale", pod="db-0")
            await n.run("ADD", pods[2], container="other", pod="x", name="second")
            valid = [{"containerID": "keep", "ifname": "eth0"}]
            conf: dict[str, object] = {"cni.dev/valid-attachments": valid}
            assert await n.run("GC", "", **conf) == (0, {})
            assert [one.container_id for one in n.host.attachments()] == ["keep", "other"]
            assert [links(path) for path in pods] == [["lo", "eth0"], ["lo"], ["lo", "eth0"]]

    run(main)


def test_status_says_why_not(tmp_path: Path) -> None:
    async def main() -> None:
        async with node(tmp_path) as n:
            assert await n.run("STATUS", "") == (0, {})
            n.host.not_ready = "OVN's databases are out of reach"
            status, error = await n.run("STATUS", "")
            assert (status, error["code"]) == (1, spec.NOT_AVAILABLE)
            assert "out of reach" in str(error["msg"])

    run(main)


def test_the_life_of_a_vhost_user_port(tmp_path: Path) -> None:
    async def main() -> None:
        async with node(tmp_path) as n:
            status, result = await n.run("ADD", "", mode="vhost-user", queues=2)
            assert status == 0
            (attachment,) = n.host.attachments()
            directory = n.rundir / "vhost" / "u-1"
            assert result["interfaces"] == [
                {
                    "name": "eth0", "mac": "0a:58:0a:00:00:05", "mtu": 1442, "sandbox": "c0ffee",
                    "socketPath": str(directory / "eth0.sock"),
                }
            ]  # fmt: skip
            assert stat.S_IMODE(directory.stat().st_mode) == 0o770
            assert (attachment.queues, attachment.device[:3]) == (2, "vhu")
            conf: dict[str, object] = {"mode": "vhost-user", "queues": 2}
            assert await n.run("ADD", "", **conf) == (0, result)
            assert await n.run("CHECK", "", prevResult=result, **conf) == (0, {})
            directory.chmod(0o777)
            status, error = await n.run("CHECK", "", prevResult=result, **conf)
            assert (status, error["code"]) == (1, spec.NOT_AS_EXPECTED)
            # QEMU's socket, and something else that a pod may have put there.
            (directory / "eth0.sock").touch()
            (directory / "other").touch()
            assert await n.run("DEL", "", **conf) == (0, {})
            assert n.left() == []

    run(main)


def test_a_late_del_of_an_old_sandbox_leaves_the_next_ones_socket(tmp_path: Path) -> None:
    async def main() -> None:
        async with node(tmp_path) as n:
            for container in ("01d", "beef"):
                status, _ = await n.run("ADD", "", mode="vhost-user", container=container)
                assert status == 0
            # The second sandbox's guest listens, in the directory that the pod always has.
            socket = n.rundir / "vhost" / "u-1" / "eth0.sock"
            socket.touch()
            assert await n.run("DEL", "", mode="vhost-user", container="01d") == (0, {})
            assert socket.exists()
            assert await n.run("DEL", "", mode="vhost-user", container="beef") == (0, {})
            assert n.left() == []

    run(main)


@pytest.mark.parametrize("mode", ["veth", "vhost-user"])
def test_an_mtu_that_the_tunnel_does_not_carry_is_refused(
    tmp_path: Path, new_netns: NetnsMaker, mode: str
) -> None:
    pod = new_netns("pod")

    async def main() -> None:
        async with node(tmp_path) as n:
            n.host.below = {"eth1": 1500}
            status, error = await n.run("ADD", pod, mode=mode, mtu=1500)
            assert (status, error["code"]) == (1, spec.INVALID_CONFIG)
            assert '"mtu" is 1500' in str(error["msg"])
            assert "carries 1442: eth1 has an MTU of 1500" in str(error["msg"])
            assert 'write at most "mtu": 1442' in str(error["details"])
            assert n.left() == []
            assert n.host.calls == []
            status, _ = await n.run("ADD", pod, mode=mode, mtu=1442)
            assert status == 0
            assert await n.run("DEL", pod, mode=mode) == (0, {})

    run(main)


def test_a_socket_path_too_long_is_refused(tmp_path: Path) -> None:
    async def main() -> None:
        async with node(tmp_path) as n:
            status, error = await n.run("ADD", "", mode="vhost-user", uid="u" * 100)
            assert (status, error["code"]) == (1, spec.INVALID_CONFIG)
            assert "107" in str(error["msg"])
            assert n.left() == []

    run(main)


def test_del_without_a_record_removes_what_the_names_say(
    tmp_path: Path, new_netns: NetnsMaker
) -> None:
    pod = new_netns("web")

    async def main() -> None:
        async with node(tmp_path) as n:
            await n.run("ADD", pod)
            (attachment,) = n.host.attachments()
            n.host.records.clear()
            n.host.store.delete(attachment.device)
            assert await n.run("DEL", "") == (0, {})
            assert n.left(pod) == []

    run(main)


def test_sweep_at_the_start_removes_what_a_crash_left(
    tmp_path: Path, new_netns: NetnsMaker
) -> None:
    kept, crashed = new_netns("kept"), new_netns("crashed")

    async def main() -> None:
        async with node(tmp_path) as n:
            await n.run("ADD", kept, container="kept")
            await n.run("ADD", crashed, container="crashed", pod="db-0")
            orphan = n.host.attachment("crashed", "eth0")
            assert orphan is not None
            # As if the daemon had died before recording it.
            n.host.store.delete(orphan.device)
            (n.rundir / "vhost" / "gone").mkdir(parents=True)
            reborn = CniServer(MemoryHost(tmp_path / "state"), n.rundir, 1442)
            assert await reborn.sweep() == (orphan.device, "gone")
            assert await reborn.sweep() == ()
            assert links(crashed) == ["lo"]
            (attachment,) = reborn._host.attachments()
            assert check(attachment) == []

    run(main)


# Who may use the socket.

CLIENT = """
import json, socket, sys
body = json.dumps({"v": 1, "op": "status", "args": {}}).encode()
conn = socket.socket(socket.AF_UNIX)
conn.connect(sys.argv[1])
conn.sendall(len(body).to_bytes(4, "big") + body)
conn.recv(4)
print(conn.recv(65536).decode())
"""
NOBODY = 65534


@pytest.fixture
def open_directory() -> Iterator[Path]:
    """A directory that everybody may pass (the test's own is root's)."""
    path = Path(tempfile.mkdtemp(prefix="mrc-"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path)


def client_as(uid: int, socket: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [os.path.realpath(sys.executable), "-I", "-S", "-c", CLIENT, str(socket)],
        user=uid, group=uid, extra_groups=[], cwd="/", env={},
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip


def test_another_uid_is_refused_by_its_credentials_and_logged(
    open_directory: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = open_directory / "cni.sock"

    async def status(_args: dict[str, object]) -> dict[str, object]:
        return {}

    async def main() -> None:
        # The mode lets everybody in, so that only the credentials stand in the way.
        async with await server.serve(path, 0o666, {"status": status}, {0}):
            refused = await asyncio.to_thread(client_as, NOBODY, path)
            served = await asyncio.to_thread(client_as, 0, path)
        assert json.loads(refused.stdout)["error"]["code"] == 100, refused
        assert json.loads(served.stdout) == {"v": 1, "ok": True, "result": {}}

    run(main)
    assert f"uid={NOBODY}" in caplog.text


def test_the_sockets_mode_keeps_another_uid_out(open_directory: Path) -> None:
    path = open_directory / "cni.sock"

    async def main() -> None:
        async with await server.serve(path, 0o600, {}, {0}):
            refused = await asyncio.to_thread(client_as, NOBODY, path)
        assert "PermissionError" in refused.stderr

    run(main)
