"""A pod's directory of sockets, shown inside the pod: a bind mount in a volume that it has anyway.

A KubeVirt pod with a hook sidecar has an emptyDir that virt-launcher's container mounts at
/var/run/kubevirt-hooks. Kubelet makes it before the sandbox and the containers come after ADD, so a
directory that is bound into it by then is in all of them: QEMU makes its socket below
`INSIDE`, the same path on every node, and the pod needs no hostPath and no right of its own.
OVS goes by `<rundir>/vhost`, which no pod can change.

Two levels deep, because virt-launcher calls whatever else it finds in the volume.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
from collections.abc import Iterator
from pathlib import Path

KUBELET = Path("/var/lib/kubelet")
VOLUME = "volumes/kubernetes.io~empty-dir/hook-sidecar-sockets"
"""The volume's place below the pod's, and its name in KubeVirt's pods."""

BELOW = ("millrace", "vhost")
INSIDE = Path("/var/run/kubevirt-hooks", *BELOW)
"""The directory as the pod's containers see it."""

_MS_BIND = 4096
_MNT_DETACH, _UMOUNT_NOFOLLOW = 2, 8
_MODE = 0o755

_libc = ctypes.CDLL(None, use_errno=True)


class PodMounts:
    """The mounts in pods' volumes. A name is the pod's uid, and of a directory below vhost/."""

    def __init__(self, kubelet: Path = KUBELET) -> None:
        self.kubelet = kubelet

    def expose(self, uid: str, directory: Path) -> bool:
        """Show `directory` in the pod; False if it has no volume for it. Again is success.

        Raises:
            OSError: the kernel refused, or something that is no directory is in the way.
        """
        try:
            inner = self._open(uid, make=True)
        except FileNotFoundError:
            return False
        try:
            if not os.path.samestat(os.fstat(inner), directory.stat()):
                _call(
                    _libc.mount,
                    os.fsencode(directory), f"/proc/self/fd/{inner}".encode(), None, _MS_BIND, None,
                )  # fmt: skip
        finally:
            os.close(inner)
        return True

    def withdraw(self, uid: str) -> None:
        """Take the pod's mount away; none there is success.

        Raises:
            OSError: the kernel refused.
        """
        for point in self._mounted(uid):
            with contextlib.suppress(FileNotFoundError):
                _call(_libc.umount2, os.fsencode(point), _MNT_DETACH | _UMOUNT_NOFOLLOW)

    def withdraw_all(self, directories: Path) -> Iterator[str]:
        """Take the mounts of every pod that has one of these directories away; what was done."""
        names = sorted(path.name for path in directories.iterdir()) if directories.is_dir() else ()
        for uid in names:
            points = list(self._mounted(uid))
            try:
                self.withdraw(uid)
            except OSError as error:
                yield f"left the mount of pod {uid}'s sockets: {error.strerror}"
                continue
            yield from (f"unmounted {point}" for point in points)

    def problems(self, uid: str, directory: Path) -> list[str]:
        """What is wrong with a pod's mount, in words."""
        try:
            inner = self._open(uid, make=False)
        except OSError as error:
            if not self._volume(uid).is_dir():
                return []
            return [f"{self._volume(uid).joinpath(*BELOW)}: {error.strerror}"]
        try:
            same = os.path.samestat(os.fstat(inner), directory.stat())
        finally:
            os.close(inner)
        where = self._volume(uid).joinpath(*BELOW)
        return [] if same else [f"{directory} is not mounted on {where}: the guest has no socket"]

    def _volume(self, uid: str) -> Path:
        return self.kubelet / "pods" / uid / VOLUME

    def _open(self, uid: str, *, make: bool) -> int:
        """A descriptor of the innermost directory. The pod writes here: no link is followed."""
        flags = os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
        here = os.open(self._volume(uid), flags)
        for part in BELOW:
            try:
                if make:
                    with contextlib.suppress(FileExistsError):
                        os.mkdir(part, _MODE, dir_fd=here)
                        # Whatever the umask: QEMU passes through.
                        os.chmod(part, _MODE, dir_fd=here)
                below = os.open(part, flags, dir_fd=here)
            except FileNotFoundError as error:
                raise OSError(errno.ENOTDIR, "the directory is not there", part) from error
            finally:
                os.close(here)
            here = below
        return here

    def _mounted(self, uid: str) -> Iterator[str]:
        """Where the pod's directory is mounted in its volumes, as the kernel names it."""
        top = f"{self.kubelet / 'pods' / uid}/"
        table = Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="surrogateescape")
        for line in table.splitlines():
            words = line.split()
            # proc_pid_mountinfo(5): the fourth is what is mounted, the fifth where.
            if words[4].startswith(top) and words[3].removesuffix("//deleted").endswith(
                f"/vhost/{uid}"
            ):
                yield words[4]


def _call(function: object, *arguments: object) -> None:
    if function(*arguments) != 0:  # type: ignore[operator]
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), *(a for a in arguments if isinstance(a, bytes)))
