"""The plugin and the conflist in a runtime's directories: whole, in order, and gone again."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from controller import cni_install
from controller.cni_install import InstallError, Places

PYTHON = os.path.realpath(sys.executable)
ROOT = Path(__file__).resolve().parents[2]
SHIPPED = (ROOT / "deploy" / "10-millrace.conflist").read_bytes()


@pytest.fixture
def places(tmp_path: Path) -> Places:
    return Places(tmp_path / "bin", tmp_path / "net.d", "10-millrace.conflist")


def conflist(*kinds: str) -> bytes:
    plugins = [{"type": kind} for kind in kinds]
    return json.dumps({"cniVersion": "1.1.0", "name": "m", "plugins": plugins}).encode()


def names(places: Places) -> list[str]:
    found = (place.iterdir() for place in (places.binaries, places.networks) if place.exists())
    return sorted(path.name for place in found for path in place)


def test_what_is_installed_runs_by_itself_and_goes_again(places: Places, tmp_path: Path) -> None:
    (library, *others) = cni_install.install(places, SHIPPED, PYTHON)
    assert others == [places.script, places.plugin, places.network]
    assert places.network.read_bytes() == SHIPPED
    assert names(places) == [
        library.name, ".millrace-cni.py", "10-millrace.conflist", "millrace-cni"
    ]  # fmt: skip
    done = subprocess.run(
        [str(places.plugin)],
        env={"CNI_COMMAND": "STATUS"},
        cwd=tmp_path,
        input=json.dumps(
            {"cniVersion": "1.1.0", "name": "m", "type": "x", "socket": f"{tmp_path}/none"}
        ).encode(),
        capture_output=True,
        check=False,
    )
    assert (done.returncode, json.loads(done.stdout)["code"], done.stderr) == (1, 50, b"")
    # Again, over what is there: an upgrade.
    (places.binaries / ".millrace-cni-0123.zip").write_bytes(b"an earlier version")
    cni_install.install(places, SHIPPED, PYTHON)
    assert cni_install.remove(places) == [places.network, places.plugin, places.script, library]
    assert cni_install.remove(places) == []
    assert names(places) == []


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"{", "not a CNI conflist"),
        (b"[]", "not a CNI conflist"),
        (conflist("millrace-cni").replace(b"1.1.0", b"0.2.0"), "0.2.0"),
        (conflist("bridge", "millrace-cni"), "first"),
        (conflist("millrace-cni", "portmap"), '"capabilities": {"portMappings": true}'),
        (conflist("millrace-cni", "tuning", "bandwidth"), '"capabilities": {"bandwidth": true}'),
        (conflist(), "first"),
    ],
)
def test_a_conflist_that_cannot_work_is_refused_before_anything_is_written(
    places: Places, data: bytes, said: str
) -> None:
    with pytest.raises(InstallError, match=r"\w") as caught:
        cni_install.install(places, data, PYTHON)
    assert said in str(caught.value)
    assert names(places) == []


def test_without_an_interpreter_the_conflist_does_not_come(places: Places) -> None:
    with pytest.raises(InstallError, match="does not run here"):
        cni_install.install(places, SHIPPED, "/nonexistent/python3")
    assert names(places) == []


def test_until_the_daemon_is_ready_the_conflist_does_not_come(
    places: Places, tmp_path: Path
) -> None:
    entry = {"type": "millrace-cni", "socket": f"{tmp_path}/none"}
    data = json.dumps({"cniVersion": "1.1.0", "name": "m", "plugins": [entry]}).encode()
    with pytest.raises(InstallError, match="not ready"):
        cni_install.install(places, data, PYTHON, wait_s=0.01)
    assert names(places)[1:] == [".millrace-cni.py", "millrace-cni"]


def test_a_failed_upgrade_leaves_the_earlier_files(places: Places) -> None:
    cni_install.install(places, SHIPPED, PYTHON)
    before = places.plugin.read_bytes()
    with pytest.raises(InstallError):
        cni_install.install(places, SHIPPED, "/nonexistent/python3")
    assert places.plugin.read_bytes() == before
    assert names(places)[1:] == [".millrace-cni.py", "10-millrace.conflist", "millrace-cni"]


def test_every_module_that_the_plugin_imports_is_in_the_file() -> None:
    package = ROOT / "cni"
    assert set(cni_install.MODULES) == {path.stem for path in package.glob("*.py")}
