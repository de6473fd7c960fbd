"""The DRA driver and the daemon's own CNI handlers, over the real socket."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from cni.dra.claims import DRIVER, ClaimError
from cni.dra.driver import Driver, Places, ask_daemon

ROOT = Path(__file__).parents[2]
UID = "c7e7b22e-239b-4498-b27c-7f1344481e14"


@pytest.fixture
def top() -> Iterator[Path]:
    """A directory with a short name, in which the daemon serves `run/cni.sock`."""
    made = Path(tempfile.mkdtemp(prefix="mrda-", dir="/tmp"))
    for name in ("state", "run"):
        (made / name).mkdir()
    command = [sys.executable, "-m", "tests.netns.memory_daemon", str(made), "installs"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as daemon:
        assert daemon.stdout
        assert daemon.stdout.readline() == "serving\n"
        yield made
        daemon.terminate()
    shutil.rmtree(made)


def driver_for(top: Path, *pods: str) -> Driver:
    result = {"request": "vhost-port", "driver": DRIVER, "pool": "node", "device": "br-int"}
    claim = {
        "metadata": {"namespace": "shop", "name": "c", "uid": UID},
        "status": {
            "allocation": {"devices": {"results": [result]}},
            "reservedFor": [{"resource": "pods", "name": pod} for pod in pods],
        },
    }
    places = Places(top / "kubelet", top / "cdi")
    return Driver(places, lambda _path: claim, ask_daemon(str(top / "run/cni.sock")))


def test_a_claim_has_a_directory_of_its_own_until_it_is_given_back(top: Path) -> None:
    driver = driver_for(top, "web-0")
    assert driver.prepare("shop", "c", UID) == driver.prepare("shop", "c", UID)
    directory = top / "run/vhost" / UID
    assert directory.is_dir()
    assert str(directory) in driver.places.spec(UID).read_text()
    (record,) = (top / "state").rglob("*.json")
    assert f"{directory}/vhost.sock" in record.read_text()
    driver.unprepare(UID)
    driver.unprepare(UID)
    assert not directory.exists()
    assert list((top / "state").rglob("*.json")) == []


def test_a_pod_that_ovn_does_not_know_is_named_with_the_next_step(top: Path) -> None:
    driver = driver_for(top, "nobody-0")
    with pytest.raises(ClaimError, match=r"no logical switch port .*nobody-0\.shop.*create it"):
        driver.prepare("shop", "c", UID)
    driver.unprepare(UID)
    assert not driver.places.claim(UID).exists()
