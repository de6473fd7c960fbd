"""A guest's QEMU that is not root, but in the right group, reaches its own directory only."""

from __future__ import annotations

import grp
import os
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from controller import embedded, node_dirs, vhost_dirs
from controller.vhost_dirs import VhostDirs

NOBODY = 65534
LISTEN = "import socket, sys; socket.socket(socket.AF_UNIX).bind(sys.argv[1])"


@pytest.fixture
def rundir(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    # Not below pytest's own directory, which is its user's alone.
    top = Path(tempfile.mkdtemp(prefix="mrc-", dir="/tmp"))
    top.chmod(0o755)
    if not any(group.gr_name == vhost_dirs.GROUP for group in grp.getgrall()):
        monkeypatch.setattr(vhost_dirs, "GROUP", "daemon")
    before = os.umask(0o077)
    try:
        yield top / "millrace" / "n"
    finally:
        os.umask(before)
        shutil.rmtree(top)


def as_guest(*argv: str, group: int) -> int:
    command = ["/usr/bin/python3", "-c", *argv]
    done = subprocess.run(
        command, user=NOBODY, group=group, extra_groups=[], capture_output=True, check=False
    )
    return done.returncode


@pytest.mark.parametrize("made_by", ["up", "daemon"])
def test_it_makes_its_socket_whatever_the_umask(rundir: Path, made_by: str) -> None:
    if made_by == "up":
        node_dirs.make(rundir, "n", node_dirs.RUN_MODE)
    else:
        rundir.parent.mkdir()
        rundir.parent.chmod(0o711)  # as the unit's RuntimeDirectoryMode has it
    directories = VhostDirs(rundir)
    directories.make("pod")
    group = grp.getgrnam(vhost_dirs.GROUP).gr_gid
    socket = directories.socket("pod", "eth0")
    assert as_guest(LISTEN, socket, group=NOBODY) != 0
    assert as_guest(LISTEN, socket, group=group) == 0
    assert stat.S_ISSOCK(Path(socket).stat().st_mode)
    assert as_guest("import os, sys; os.listdir(sys.argv[1])", str(rundir), group=group) != 0


def test_what_up_and_its_daemons_write_is_not_for_everybody(rundir: Path) -> None:
    node_dirs.make(rundir, "n", node_dirs.RUN_MODE)
    os.umask(0)
    with embedded.private_files():
        file = rundir / "x.log"
        subprocess.run([sys.executable, "-c", f"open({str(file)!r}, 'w')"], check=True)
    assert stat.S_IMODE(file.stat().st_mode) == 0o640
    assert os.umask(0) == 0
