"""The small executable prints what the plugin in Python prints, whatever it is given."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from cni import spec
from controller import cni_install
from controller.cni_install import Places
from tests.labs.cniverbs import devices_of
from tests.netns.test_cni_sequences import Daemon
from tests.netns.test_cni_sequences import daemon as running

pytestmark = pytest.mark.netns

ROOT = Path(__file__).resolve().parents[2]
CONFLIST = (ROOT / "deploy" / "10-millrace.conflist").read_bytes()
MIXED = 200

Said = tuple[int, bytes]


@dataclass(frozen=True, slots=True)
class Node:
    """What is installed, the daemon it speaks to, and a pod."""

    places: Places
    daemon: Daemon
    pod: str

    @property
    def socket(self) -> str:
        return str(self.daemon.directory / "run" / "cni.sock")

    def conf(self, **more: object) -> bytes:
        named = {"cniVersion": "1.1.0", "name": "mill", "type": "millrace-cni"}
        return json.dumps({**named, "socket": self.socket, **more}).encode()

    def env(self, command: str, **more: str) -> dict[str, str]:
        return {
            "CNI_COMMAND": command, "CNI_CONTAINERID": "c0ffee", "CNI_NETNS": self.pod,
            "CNI_IFNAME": "eth0", "CNI_PATH": "/opt/cni/bin",
            "CNI_ARGS": "K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web-0;K8S_POD_UID=u1", **more,
        }  # fmt: skip

    def both(self, env: dict[str, str], stdin: bytes) -> tuple[Said, Said]:
        return said(self.places.plugin, env, stdin), said(self.places.script, env, stdin)


def said(program: Path, env: dict[str, str], stdin: bytes) -> Said:
    done = subprocess.run([program], env=env, input=stdin, capture_output=True, check=False)
    assert done.stderr == b""
    return done.returncode, done.stdout


@pytest.fixture(scope="module")
def launcher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Compiled from what is there now."""
    into = tmp_path_factory.mktemp("launcher")
    shutil.copytree(ROOT / "cni" / "launcher", into, dirs_exist_ok=True)
    subprocess.run(["make", "-s", "-B", "-C", str(into)], check=True)
    return into / "obj" / "millrace-cni"


@pytest.fixture
def node(
    tmp_path: Path,
    launcher: Path,
    new_netns: Callable[[str], str],
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Node]:
    monkeypatch.setattr(cni_install, "LAUNCHER", launcher)
    places = Places(tmp_path / "bin", tmp_path / "net.d", "10-millrace.conflist")
    cni_install.install(places, CONFLIST, os.path.realpath(sys.executable))
    assert places.plugin.read_bytes() == launcher.read_bytes()
    with running(tmp_path, new_netns("node")) as daemon:
        yield Node(places, daemon, new_netns("pod"))


def test_every_verb_is_answered_alike(node: Node) -> None:
    records = node.daemon.directory / "state"
    for version in ("0.3.1", "1.0.0", "1.1.0"):
        ours, pythons = node.both(node.env("ADD"), node.conf(cniVersion=version))
        assert ours == pythons
        assert (ours[0], json.loads(ours[1])["cniVersion"]) == (0, version)
        assert devices_of(records)
        for command in ("VERSION", "STATUS", "CHECK", "GC", "DEL", "DEL"):
            stdin = node.conf(prevResult=json.loads(ours[1]), cniVersion=version)
            one, other = node.both(node.env(command), stdin)
            assert one == other, command
        assert not devices_of(records)


def test_what_is_wrong_is_refused_in_the_same_words(node: Node) -> None:
    conf = node.conf()
    odd = [
        b"", b"{", b"[]", b"null", b'{"a"', b'{"a":1}', b'"x"', b"\xff", conf + b" x", conf * 2,
        conf.replace(b"socket", b"soc\\u006bet"), node.conf(socket=""), node.conf(socket=7),
        node.conf(socket="/none"), node.conf(socket="/" + "x" * 120), node.conf(socket="/a\\b"),
        node.conf(server_socket="/run/openvswitch/kube-ovn-daemon.sock"), node.conf(queues=99),
        node.conf(unknown={"socket": "/none"}), node.conf(dns={"search": ['"', "}", "\u00e9"]}),
        conf[:-1] + b', "socket": "/none"}', b" \n" + conf + b"\n", node.conf(name="x" * 600_000),
        node.conf(prevResult={"a": ["}" * 9]}), node.conf(socket="/none\0"),
    ]  # fmt: skip
    for stdin in odd:
        for command in ("ADD", "STATUS", "VERSION", ""):
            ours, pythons = node.both(node.env(command), stdin)
            assert ours == pythons, (command, stdin[:200])
    strange = (
        {"CNI_IFNAME": "x" * 16}, {"CNI_NETNS": "/none"}, {"CNI_CONTAINERID": ""},
        {"CNI_ARGS": "="}, {"CNI_ARGS": "K8S_POD_NAME=\u00fc"}, {"OTHER": "x" * 100_000},
    )  # fmt: skip
    for more in strange:
        ours, pythons = node.both(node.env("ADD", **more), conf)
        assert ours == pythons, more


def test_another_plugins_wish_for_addresses_goes_where_it_says(node: Node) -> None:
    link = node.places.plugin.with_name("kube-ovn")
    link.symlink_to(node.places.plugin.name)
    for socket in (node.socket, "/none"):
        part = {"type": "kube-ovn", "provider": "mac.shop", "server_socket": socket}
        stdin = node.conf(type="macvlan", mode="bridge", ipam=part)
        for command in ("ADD", "DEL", "STATUS"):
            ours, pythons = node.both(node.env(command), stdin)
            assert ours == pythons == said(link, node.env(command), stdin)
            if command == "ADD":
                said_of = json.loads(ours[1])
                code = None if socket != "/none" else spec.TRY_AGAIN_LATER
                assert said_of.get("code") == code
                assert bool(said_of.get("ips")) is (socket != "/none")


def test_configurations_that_were_cut_and_mixed_up_are_read_alike(node: Node) -> None:
    chance = random.Random(1)
    conf = node.conf(dns={"nameservers": ["10.0.0.1"]}, **{"io.x/y": {"socket": '"', "b": "\\"}})
    for _ in range(MIXED):
        stdin = bytearray(conf)
        for _ in range(chance.randrange(4)):
            at = chance.randrange(len(stdin))
            stdin[at : at + chance.randrange(3)] = chance.choice(
                (b"", b'"', b"{", b"}", b"\\", b":", b",", b"\0", b"[]", b"socket")
            )
        ours, pythons = node.both(node.env("STATUS"), bytes(stdin))
        assert ours == pythons, bytes(stdin)


def test_without_a_daemon_the_plugin_has_the_words(node: Node) -> None:
    node.daemon.kill()
    for command, code in (("ADD", 11), ("STATUS", 50), ("DEL", 11)):
        ours, pythons = node.both(node.env(command), node.conf())
        assert ours == pythons
        assert (ours[0], json.loads(ours[1])["code"]) == (1, code)
    assert node.both(node.env("VERSION"), b"")[0][0] == 0
    node.daemon.start()
    assert said(node.places.plugin, node.env("STATUS"), node.conf()) == (0, b"")


def test_a_launcher_that_was_killed_leaves_nothing(node: Node) -> None:
    records = node.daemon.directory / "state"
    for _ in range(20):
        with subprocess.Popen(
            [node.places.plugin], env=node.env("ADD"), stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
        ) as started:  # fmt: skip
            assert started.stdin is not None
            started.stdin.write(node.conf())
            started.stdin.close()
            started.kill()
    # A call that comes later waits for what is being undone.
    assert said(node.places.plugin, node.env("DEL"), node.conf()) == (0, b"")
    assert not devices_of(records)


def test_without_the_plugin_beside_it_that_is_said(node: Node) -> None:
    node.places.script.unlink()
    status, printed = said(node.places.plugin, node.env("ADD"), b"{")
    assert (status, json.loads(printed)["code"]) == (1, 5)
    assert "cni-install" in json.loads(printed)["details"]
