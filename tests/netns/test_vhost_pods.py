"""A pod's directory of sockets is in the volume that its containers mount, and goes with it."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from controller.vhost_dirs import VhostDirs
from controller.vhost_pods import BELOW, VOLUME, PodMounts

UID, OTHER = "2f1c7ad2-55c5-4a10-8d1c-1e2b3c4d5e6f", "9f1c7ad2-55c5-4a10-8d1c-1e2b3c4d5e6f"


@dataclass(frozen=True, slots=True)
class Node:
    kubelet: Path
    directories: VhostDirs

    def volume(self, uid: str) -> Path:
        return self.kubelet / "pods" / uid / VOLUME

    def inside(self, uid: str) -> Path:
        return self.volume(uid).joinpath(*BELOW)

    def add_pod(self, uid: str) -> None:
        """What kubelet has done before it asks for the sandbox."""
        self.volume(uid).mkdir(parents=True)
        self.volume(uid).chmod(0o777)


@pytest.fixture
def node() -> Iterator[Node]:
    top = Path(tempfile.mkdtemp(prefix="mrvp-", dir="/tmp"))
    made = Node(top / "kubelet", VhostDirs(top / "run", pods=PodMounts(top / "kubelet")))
    made.add_pod(UID)
    before = os.umask(0o077)
    try:
        yield made
    finally:
        os.umask(before)
        for line in reversed(mounts(top)):
            subprocess.run(["umount", "-l", line], check=True)
        shutil.rmtree(top)


def mounts(below: Path) -> list[str]:
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    return [point for line in lines if (point := line.split()[4]).startswith(f"{below}/")]


def test_a_socket_that_the_guest_makes_is_where_ovs_looks(node: Node) -> None:
    node.directories.make(UID)
    path = node.directories.socket(UID, "net1")
    # The path on the host has too many bytes for a socket; within the pod it is short.
    inside = os.open(node.inside(UID), os.O_DIRECTORY)
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(f"/proc/self/fd/{inside}/net1.sock")
        listening.listen()
        with socket.socket(socket.AF_UNIX) as asking:
            asking.connect(path)
    os.close(inside)
    assert node.directories.problems(UID) == []


def test_once_more_changes_nothing(node: Node) -> None:
    node.directories.make(UID)
    node.directories.make(UID)
    assert mounts(node.kubelet) == [str(node.inside(UID))]


def test_the_mount_goes_with_the_last_interface(node: Node) -> None:
    node.directories.make(UID)
    (node.inside(UID) / "net1.sock").touch()
    (node.inside(UID) / "net2.sock").touch()
    node.directories.remove(UID, "net1", last=False)
    assert [path.name for path in node.inside(UID).iterdir()] == ["net2.sock"]
    node.directories.remove(UID, "net2", last=True)
    assert mounts(node.kubelet) == []
    assert not list(node.inside(UID).iterdir())
    node.directories.remove(UID, "net2", last=True)


def test_an_empty_directory_that_is_removed_leaves_no_mount(node: Node) -> None:
    node.directories.make(UID)
    node.directories.remove(UID, "net1", last=False)
    assert mounts(node.kubelet) == []


def test_a_pod_without_the_volume_is_as_before(node: Node) -> None:
    node.directories.make(OTHER)
    assert (node.directories.root / OTHER).is_dir()
    assert mounts(node.kubelet) == []
    assert node.directories.problems(OTHER) == []


def test_a_start_sweeps_the_mounts_of_pods_that_are_gone(node: Node) -> None:
    node.add_pod(OTHER)
    node.directories.make(UID)
    node.directories.make(OTHER)
    assert node.directories.sweep({UID}) == [OTHER]
    assert mounts(node.kubelet) == [str(node.inside(UID))]


def test_a_mount_that_is_missing_is_named(node: Node) -> None:
    node.directories.make(UID)
    subprocess.run(["umount", str(node.inside(UID))], check=True)
    (problem,) = node.directories.problems(UID)
    assert "is not mounted on" in problem
    shutil.rmtree(node.volume(UID) / "millrace")
    (problem,) = node.directories.problems(UID)
    assert "not there" in problem
    node.directories.make(UID)
    assert node.directories.problems(UID) == []


def test_a_pod_cannot_lead_the_mount_into_another_pod(node: Node) -> None:
    node.add_pod(OTHER)
    node.directories.make(OTHER)
    (node.volume(UID) / "millrace").symlink_to(node.volume(OTHER) / "millrace")
    with pytest.raises(OSError, match="millrace"):
        node.directories.make(UID)
    assert mounts(node.kubelet) == [str(node.inside(OTHER))]
    node.directories.remove(UID, "net1", last=True)
    assert mounts(node.kubelet) == [str(node.inside(OTHER))]


def test_a_guest_that_is_not_root_passes_through(node: Node) -> None:
    node.directories.make(UID)
    os.chown(node.directories.root / UID, 65534, 65534)
    for path in (node.kubelet, *node.inside(UID).relative_to(node.kubelet).parents):
        (node.kubelet / path).chmod(0o755)
    node.kubelet.parent.chmod(0o755)
    done = subprocess.run(
        ["/usr/bin/touch", str(node.inside(UID) / "net1.sock")],
        user=65534, group=65534, extra_groups=[], check=False, capture_output=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert (node.directories.root / UID / "net1.sock").exists()


def test_a_node_that_is_taken_down_leaves_no_mount_in_any_pod(node: Node) -> None:
    node.add_pod(OTHER)
    node.directories.make(UID)
    node.directories.make(OTHER)
    elsewhere = VhostDirs(node.kubelet.parent / "run2", pods=node.directories.pods)
    third = "3" + UID[1:]
    node.add_pod(third)
    elsewhere.make(third)
    said = list(node.directories.pods.withdraw_all(node.directories.root))
    assert said == [f"unmounted {node.inside(uid)}" for uid in (UID, OTHER)]
    assert mounts(node.kubelet) == [str(node.inside(third))]
    assert list(node.directories.pods.withdraw_all(node.directories.root)) == []
