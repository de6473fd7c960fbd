"""Hugepages and mounts, borrowed by several users and given back by the last."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from dataplane.drivers import machine, processes

SIZE_KIB = 2048
PAGES = Path(f"/sys/kernel/mm/hugepages/hugepages-{SIZE_KIB}kB/nr_hugepages")


def pages() -> int:
    return int(PAGES.read_text())


@pytest.fixture
def users(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    monkeypatch.setattr(machine, "STATE_DIR", tmp_path / "record")
    monkeypatch.setattr(machine, "BPFFS", tmp_path / "bpf")
    both = (tmp_path / "one", tmp_path / "two")
    for user in both:
        user.mkdir()
    return both


def mounted(path: Path) -> bool:
    return f" {path} " in Path("/proc/self/mountinfo").read_text()


def test_each_brings_its_pages_and_the_last_puts_everything_back(
    users: tuple[Path, Path], tmp_path: Path
) -> None:
    before, mount = pages(), tmp_path / "huge"
    machine.borrow(users[0], size_kib=SIZE_KIB, count=2, mount=mount)
    try:
        assert pages() == before + 2
        assert mounted(mount)
        assert machine.borrow(users[0], size_kib=SIZE_KIB, count=2, mount=mount) == []
        machine.borrow(users[1], size_kib=SIZE_KIB, count=3, mount=mount)
        assert pages() == before + 5
        assert machine.give_back(users[0]) == []
        assert pages() == before + 3
        assert mounted(mount)
    finally:
        machine.give_back(users[0])
        machine.give_back(users[1])
    assert pages() == before
    assert not mounted(mount)
    assert not mount.exists()
    assert not machine.STATE_DIR.exists()
    assert machine.give_back(users[1]) == []


def test_a_user_whose_directory_is_gone_does_not_hold_the_machine(
    users: tuple[Path, Path], tmp_path: Path
) -> None:
    before, mount = pages(), tmp_path / "huge"
    for user in users:
        machine.borrow(user, size_kib=SIZE_KIB, count=1, mount=mount)
    shutil.rmtree(users[0])
    machine.give_back(users[1])
    assert pages() == before
    assert not mounted(mount)


def test_more_pages_than_memory_is_an_error_and_undone(
    users: tuple[Path, Path], tmp_path: Path
) -> None:
    before = pages()
    with pytest.raises(processes.ProcessError, match="MiB of memory available"):
        machine.borrow(users[0], size_kib=SIZE_KIB, count=10_000_000, mount=tmp_path / "huge")
    machine.give_back(users[0])
    assert pages() == before
