"""Network namespaces for tests.

Each test runs in one of its own, so that the node's end of a link is not on the machine either;
pods' namespaces are bound below the test's directory, so nothing in /run is ours.
"""

from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

CLONE_NEWNET = 0x40000000
MS_BIND = 4096
MNT_DETACH = 2

NetnsMaker = Callable[[str], str]


def _bind_new_namespace(path: Path) -> None:
    """Make a namespace and keep it alive by a bind mount at `path`."""
    path.touch()
    failures: list[str] = []

    def make() -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.unshare(CLONE_NEWNET) != 0:
            failures.append(f"unshare: {os.strerror(ctypes.get_errno())}")
            return
        source = f"/proc/self/task/{threading.get_native_id()}/ns/net".encode()
        if libc.mount(source, os.fsencode(path), None, MS_BIND, None) != 0:
            failures.append(f"mount: {os.strerror(ctypes.get_errno())}")

    thread = threading.Thread(target=make)
    thread.start()
    thread.join()
    assert not failures, failures


def unbind(path: str) -> None:
    """Let the namespace go; the file stays, and is then no namespace."""
    assert ctypes.CDLL(None).umount2(os.fsencode(path), MNT_DETACH) == 0


@pytest.fixture(autouse=True)
def own_node() -> Iterator[None]:
    """Put the test, and every thread and process that it starts, into a new namespace."""
    assert os.geteuid() == 0, "network namespaces need root"
    libc = ctypes.CDLL(None, use_errno=True)
    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        assert libc.unshare(CLONE_NEWNET) == 0, os.strerror(ctypes.get_errno())
        yield
    finally:
        assert libc.setns(home, CLONE_NEWNET) == 0
        os.close(home)


@pytest.fixture
def new_netns(tmp_path: Path) -> Iterator[NetnsMaker]:
    """Make a namespace by name; its path. All are gone after the test."""
    with ExitStack() as stack:

        def make(name: str) -> str:
            path = tmp_path / f"mrc-{name}"
            _bind_new_namespace(path)

            def drop() -> None:
                ctypes.CDLL(None).umount2(os.fsencode(path), MNT_DETACH)

            stack.callback(drop)
            return str(path)

        yield make
