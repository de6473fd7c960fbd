from __future__ import annotations

from pathlib import Path

import pytest

from dataplane.drivers.hugepages import HugepagesTable
from dataplane.model.rows import Hugepages
from dataplane.ports import ObserveError
from dataplane.reconcile.backoff import Backoff
from dataplane.reconcile.reconciler import Reconciler


@pytest.fixture
def sysfs(tmp_path: Path) -> Path:
    (tmp_path / "hugepages-2048kB").mkdir()
    (tmp_path / "hugepages-2048kB" / "nr_hugepages").write_text("100\n")
    return tmp_path


@pytest.fixture
def mountinfo(tmp_path: Path) -> Path:
    """Fabricated like the sysfs: a unit test mounts nothing."""
    line = "42 27 0:39 / /nowhere/at/all rw - hugetlbfs hugetlbfs rw,pagesize=2M"
    (tmp_path / "mountinfo").write_text(f"{line}\n")
    return tmp_path / "mountinfo"


def pages(sysfs: Path) -> int:
    return int((sysfs / "hugepages-2048kB" / "nr_hugepages").read_text())


def test_pages_are_raised_and_never_lowered(sysfs: Path, mountinfo: Path) -> None:
    plan: dict[int, Hugepages] = {}
    table = HugepagesTable(lambda: plan, sysfs, mountinfo)
    assert table.upsert([(2048, Hugepages(300, "/nowhere/at/all"))]) == {}
    assert pages(sysfs) == 300
    assert table.upsert([(2048, Hugepages(50, "/nowhere/at/all"))]) == {}
    assert pages(sysfs) == 300
    assert table.delete([2048]) == {}
    assert pages(sysfs) == 300


def test_more_than_enough_pages_equal_the_plan(sysfs: Path, mountinfo: Path) -> None:
    plan = {2048: Hugepages(60, "/nowhere/at/all")}
    table = HugepagesTable(lambda: plan, sysfs, mountinfo)
    assert table.observe() == plan
    plan = {2048: Hugepages(160, "/nowhere/at/all")}
    assert table.observe() == {2048: Hugepages(100, "/nowhere/at/all")}


def test_a_missing_mount_differs_from_the_plan(sysfs: Path, mountinfo: Path) -> None:
    plan = {2048: Hugepages(60, "/elsewhere")}
    table = HugepagesTable(lambda: plan, sysfs, mountinfo)
    assert table.observe() == {2048: Hugepages(60, "")}


def test_a_size_that_the_kernel_lacks_is_named(sysfs: Path) -> None:
    plan = {4096: Hugepages(1, "/mnt")}
    one = Reconciler([HugepagesTable(lambda: plan, sysfs)], Backoff())
    one.apply({"hugepages": plan}, 0)
    assert "no hugepages of 4096 KiB" in one.statuses()["hugepages", 4096].reason


def test_nonsense_in_sysfs_is_an_observe_error(sysfs: Path) -> None:
    (sysfs / "hugepages-2048kB" / "nr_hugepages").write_text("many\n")
    plan = {2048: Hugepages(1, "/mnt")}
    with pytest.raises(ObserveError, match="nr_hugepages"):
        HugepagesTable(lambda: plan, sysfs).observe()
