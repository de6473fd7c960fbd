"""Sweeping the directories of guests' sockets: nothing found there stops a daemon."""

from __future__ import annotations

import logging
import os
import socket
import stat
import struct
from pathlib import Path

import pytest

from controller.vhost_acl import ACCESS
from controller.vhost_dirs import VhostDirs
from controller.vhost_pods import VOLUME
from dataplane.model.config import VhostConfig


@pytest.fixture
def directories(tmp_path: Path) -> VhostDirs:
    made = VhostDirs(tmp_path / "run")
    for name in ("known", "gone"):
        made.make(name)
    return made


def test_a_stray_file_goes_as_a_stray_directory_does(
    directories: VhostDirs, tmp_path: Path
) -> None:
    (directories.root / "file").touch()
    (tmp_path / "elsewhere").mkdir()
    (directories.root / "link").symlink_to(tmp_path / "elsewhere")
    assert directories.sweep({"known"}) == ["file", "gone", "link"]
    assert [path.name for path in directories.root.iterdir()] == ["known"]
    assert (tmp_path / "elsewhere").is_dir()


def test_what_cannot_be_removed_is_logged_and_the_rest_goes(
    directories: VhostDirs, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    (directories.root / "a-file").touch()
    monkeypatch.setattr(Path, "unlink", _busy)
    with caplog.at_level(logging.WARNING):
        assert directories.sweep({"known"}) == ["gone"]
    assert "a-file" in caplog.text


def test_a_file_in_place_of_them_all_is_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "vhost").touch()
    with caplog.at_level(logging.WARNING):
        assert VhostDirs(tmp_path).sweep(()) == []
    assert "Not a directory" in caplog.text


def _busy(path: Path, missing_ok: bool = False) -> None:
    raise OSError(16, "Device or resource busy", str(path), missing_ok)


def test_without_a_word_in_the_file_the_mode_is_all(tmp_path: Path) -> None:
    dirs = VhostDirs(tmp_path)
    dirs.make("pod")
    assert stat.S_IMODE((dirs.root / "pod").stat().st_mode) == 0o770
    assert dirs.problems("pod") == []


def test_the_files_user_and_group_own_the_directory(tmp_path: Path) -> None:
    mine = (tmp_path.stat().st_uid, tmp_path.stat().st_gid)
    wanted = (65534, 65533) if mine[0] == 0 else mine
    dirs = VhostDirs(tmp_path, VhostConfig(str(wanted[0]), str(wanted[1])))
    dirs.make("pod")
    found = (dirs.root / "pod").stat()
    assert (found.st_uid, found.st_gid) == wanted
    assert stat.S_IMODE(found.st_mode) == 0o770


@pytest.mark.parametrize("kind", ["user", "group"])
def test_a_name_that_nobody_has_is_refused(tmp_path: Path, kind: str) -> None:
    dirs = VhostDirs(tmp_path, VhostConfig(**{kind: "nobody-has-this"}))
    with pytest.raises(OSError, match=f'{kind} = "nobody-has-this"'):
        dirs.make("pod")
    assert not (dirs.root / "pod").exists()


def test_a_vswitchd_that_is_not_roots_may_connect(tmp_path: Path) -> None:
    """If QEMU's umask leaves the group's rights, a socket made there is open to it."""
    dirs = VhostDirs(tmp_path, ovs_uid=lambda: 4711)
    dirs.make("pod")
    folder = dirs.root / "pod"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o770
    assert dirs.problems("pod") == []
    before = os.umask(0o007)
    try:
        with socket.socket(socket.AF_UNIX) as listening:
            listening.bind(str(folder / "eth0.sock"))
    finally:
        os.umask(before)
    acl = os.getxattr(folder / "eth0.sock", ACCESS)
    entries = [struct.unpack_from("<HHI", acl, at) for at in range(4, len(acl), 8)]
    assert (0x02, 7, 4711) in entries  # its own entry
    assert next(perm for tag, perm, _ in entries if tag == 0x10) == 7  # and the mask lets it
    assert next(perm for tag, perm, _ in entries if tag == 0x20) == 0  # others stay out
    other = VhostDirs(tmp_path, ovs_uid=lambda: 4712)
    assert "closed to vswitchd, which is user 4712" in other.problems("pod")[0]


def test_kubelets_directory_is_that_of_the_nodes_file(tmp_path: Path) -> None:
    kubelet = tmp_path / "k"
    volume = kubelet / "pods/p" / VOLUME
    volume.mkdir(parents=True)
    dirs = VhostDirs(tmp_path / "run")
    dirs.make("p")
    assert dirs.problems("p") == []
    # A file that is taken over while the daemon runs.
    dirs.vhost = VhostConfig(kubelet=str(kubelet))
    (problem,) = dirs.problems("p")
    assert str(volume) in problem
