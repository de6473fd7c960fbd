"""Hugepages and mounts, borrowed by several users and given back by the last."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator
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


@pytest.fixture
def bpffs(users: tuple[Path, Path]) -> Iterator[Path]:
    """Mounted already, so that no unmounting takes away what is in it."""
    machine.BPFFS.mkdir()
    processes.run(["mount", "-t", "bpf", "bpf", str(machine.BPFFS)])
    yield machine.BPFFS
    processes.run(["umount", str(machine.BPFFS)])


@pytest.mark.parametrize("before", [True, False])
def test_what_libxdp_leaves_goes_if_it_was_not_there_before(
    users: tuple[Path, Path], tmp_path: Path, bpffs: Path, before: bool
) -> None:
    left = bpffs / "xdp"
    if before:
        left.mkdir()
    machine.borrow(users[0], size_kib=SIZE_KIB, count=1, mount=tmp_path / "huge")
    left.mkdir(exist_ok=True)
    machine.give_back(users[0])
    assert left.is_dir() is before


def test_libxdps_directory_with_programs_in_it_stays(
    users: tuple[Path, Path], tmp_path: Path, bpffs: Path
) -> None:
    machine.borrow(users[0], size_kib=SIZE_KIB, count=1, mount=tmp_path / "huge")
    held = bpffs / "xdp" / "dispatch-1-1"
    held.mkdir(parents=True)
    machine.give_back(users[0])
    assert held.is_dir()


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


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"users": {"/x": 1}}', "\xff\x00"])
def test_a_record_that_cannot_be_read_is_named_with_the_next_step(
    users: tuple[Path, Path], tmp_path: Path, text: str
) -> None:
    machine.STATE_DIR.mkdir()
    (machine.STATE_DIR / "machine.json").write_text(text, encoding="latin-1")
    with pytest.raises(processes.ProcessError, match=r"machine\.json, the record of .* remove it"):
        machine.give_back(users[0])
    with pytest.raises(processes.ProcessError, match=r"machine\.json"):
        machine.borrow(users[0], size_kib=SIZE_KIB, count=1, mount=tmp_path / "huge")


def test_a_directory_that_somebody_uses_by_now_stays(
    users: tuple[Path, Path], tmp_path: Path
) -> None:
    before, mount = pages(), tmp_path / "huge"
    machine.borrow(users[0], size_kib=SIZE_KIB, count=1, mount=mount)
    processes.run(["umount", str(mount)])
    (mount / "precious").touch()
    said = machine.give_back(users[0])
    assert f"left {mount}, which `millrace up` made: Directory not empty" in said
    assert pages() == before
    assert not machine.STATE_DIR.exists()


def test_the_last_to_leave_and_the_next_to_come_keep_one_lock(
    users: tuple[Path, Path], tmp_path: Path
) -> None:
    inside: list[str] = []
    errors: list[BaseException] = []

    def visit(user: str) -> None:
        try:
            for _ in range(200):
                with machine._locked():
                    inside.append(user)
                    assert inside == [user]
                    inside.remove(user)
                    # As `give_back` of the last one does.
                    (machine.STATE_DIR / ".machine" / "lock").unlink()
                    machine._remove_if_empty(machine.STATE_DIR / ".machine")
                    machine._remove_if_empty(machine.STATE_DIR)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=visit, args=(name,)) for name in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
