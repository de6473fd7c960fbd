"""Directories of vhost-user sockets: one per pod below `<rundir>/vhost`.

QEMU makes the socket in its pod's directory and OVS connects to it. Each pod can be given its own
directory and no other, so the mode is 0770 and never 0777. Owner and group are those of the node's
file ([vhost]); without, the group is hugetlbfs where it exists, which QEMU has to be in for its
memory anyway. A vswitchd that is not root's gets an ACL beside.
"""

from __future__ import annotations

import contextlib
import errno
import grp
import logging
import os
import pwd
import shutil
import stat
from collections.abc import Callable, Collection, Iterator
from pathlib import Path

from controller.vhost_acl import grant, granted
from controller.vhost_pods import PodMounts
from dataplane.model.config import VhostConfig

log = logging.getLogger(__name__)

MODE = 0o770
GROUP = "hugetlbfs"
_PARENT_MODE = 0o711
"""Others may pass through to a directory that they can name, and list nothing."""

_PASS = 0o011
NOBODY_IN_PARTICULAR = VhostConfig()


class VhostDirs:
    """The directories below `<rundir>/vhost`. A name is one path component, checked by callers.

    `vhost` names QEMU's user and group; `ovs_uid` is vswitchd's user, None while it is away.
    """

    def __init__(
        self,
        rundir: str | os.PathLike[str],
        vhost: VhostConfig = NOBODY_IN_PARTICULAR,
        ovs_uid: Callable[[], int | None] = lambda: None,
        pods: PodMounts | None = None,
    ) -> None:
        self._pods = pods
        self.root = Path(rundir) / "vhost"
        self.vhost = vhost
        self._ovs_uid = ovs_uid

    @property
    def pods(self) -> PodMounts:
        """The volumes of pods, below the directory that the node's file says now."""
        return self._pods or PodMounts(Path(self.vhost.kubelet))

    def socket(self, name: str, ifname: str, file: str = "") -> str:
        """The path of an interface's socket; `file`: the name that its network gives it."""
        return str(self.root / name / (file or f"{ifname}.sock"))

    def make(self, name: str) -> None:
        """Make a pod's directory, or set its owner, group and mode anew.

        Raises:
            OSError: the file system refused, or a user or group of the file is not known.
        """
        uid, gid = self._owner()
        self.root.mkdir(parents=True, exist_ok=True)
        self.root.chmod(_PARENT_MODE)
        self._open_the_way()
        path = self.root / name
        path.mkdir(mode=0o700, exist_ok=True)
        if self.vhost.user or self.vhost.group:
            os.chown(path, uid, gid)
        else:
            # Not ours to give: then only root's QEMU can use it.
            with contextlib.suppress(PermissionError):
                os.chown(path, uid, gid)
        path.chmod(MODE)
        if other := self._outsider():
            grant(path, other)
        self.pods.expose(name, path)

    def _owner(self) -> tuple[int, int]:
        """User and group of the directories; -1: as it is."""
        uid = _number(self.vhost.user, "user", _uid)
        if self.vhost.group or self.vhost.user:
            return uid, _number(self.vhost.group, "group", _gid)
        with contextlib.suppress(KeyError):
            return uid, grp.getgrnam(GROUP).gr_gid
        return uid, -1

    def _outsider(self) -> int | None:
        """The user of vswitchd, if it needs to be let in."""
        return self._ovs_uid() or None

    def _open_the_way(self) -> None:
        """Let others pass through the run directory, whatever umask it was made with."""
        rundir = self.root.parent
        mode = stat.S_IMODE(rundir.stat().st_mode)
        if mode & _PASS != _PASS:
            rundir.chmod(mode | _PASS)

    def remove(self, name: str, ifname: str, *, last: bool, file: str = "") -> None:
        """Remove an interface's socket, and the pod's directory when it is empty or this the last.

        `file`: the socket's name, if its network gave it one. What is not there is success.

        Raises:
            OSError: the file system refused.
        """
        path = self.root / name
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            (path / (file or f"{ifname}.sock")).unlink()
        if last:
            self.pods.withdraw(name)
            # The pod could write here; rmtree follows no link out of it.
            with contextlib.suppress(FileNotFoundError):
                shutil.rmtree(path)
        else:
            with contextlib.suppress(OSError):
                path.rmdir()
                self.pods.withdraw(name)

    def problems(self, name: str) -> list[str]:
        """What is wrong with a pod's directory, in words."""
        path = self.root / name
        try:
            mode = path.stat().st_mode & 0o7777
        except OSError as error:
            return [f"vhost-user directory {path}: {error.strerror}"]
        if mode != MODE:
            return [f"vhost-user directory {path} has mode {mode:o}, not {MODE:o}"]
        other = self._outsider()
        if other and not granted(path, other):
            return [f"vhost-user directory {path} is closed to vswitchd, which is user {other}"]
        return self.pods.problems(name, path)

    def sweep(self, known: Collection[str]) -> list[str]:
        """Remove what has a name that is not in `known`, files too; the names removed.

        What cannot be removed stays, with a line in the log: it must not keep a daemon from
        starting.
        """
        try:
            present = sorted(path.name for path in self.root.iterdir())
        except FileNotFoundError:
            return []
        except OSError as error:
            log.warning("vhost_sweep_failed path=%s error=%s", self.root, error)
            return []
        gone = []
        for name in present:
            if name in known:
                continue
            path = self.root / name
            try:
                self.pods.withdraw(name)
                if path.is_dir() and not path.is_symlink():
                    shutil.rmtree(path)
                else:
                    path.unlink(missing_ok=True)
            except OSError as error:
                log.warning("vhost_sweep_failed path=%s error=%s", path, error)
            else:
                gone.append(name)
        return gone


def unknown_names(vhost: VhostConfig) -> Iterator[str]:
    """What of [vhost] this machine does not know, in words."""
    for kind, name, look in (("user", vhost.user, _uid), ("group", vhost.group, _gid)):
        try:
            _number(name, kind, look)
        except OSError as error:
            yield str(error.strerror)


def _uid(name: str) -> int:
    return pwd.getpwnam(name).pw_uid


def _gid(name: str) -> int:
    return grp.getgrnam(name).gr_gid


def _number(name: str, kind: str, look: Callable[[str], int]) -> int:
    """The number of a user or a group; -1 for none."""
    if not name or name.isdigit():
        return int(name or -1)
    try:
        return look(name)
    except KeyError:
        msg = f'[vhost] {kind} = "{name}" of the node\'s file: there is no such {kind} here'
        raise OSError(errno.ENOENT, msg) from None
