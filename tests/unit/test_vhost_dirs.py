"""Sweeping the directories of guests' sockets: nothing found there stops a daemon."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from controller.vhost_dirs import VhostDirs


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
