"""A private OVS: ovsdb-server and ovs-vswitchd with the dummy datapath, in a directory of its own.

Every path is absolute, every process is stopped by its own pid, and nothing of the machine's own
OVS is touched. With `dpdk=True` the real OVS-DPDK runs instead of the dummy datapath.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Self

VSWITCHD = "/usr/lib/openvswitch-switch/ovs-vswitchd"
VSWITCHD_DPDK = "/usr/lib/openvswitch-switch-dpdk/ovs-vswitchd-dpdk"
SCHEMA = "/usr/share/openvswitch/vswitch.ovsschema"


def wait_until(condition: Callable[[], object], what: str, timeout: float = 30.0) -> None:
    """Ask `condition` until it is true; its own failures count as "not yet"."""
    deadline = time.monotonic() + timeout
    last: Exception | None = None
    while time.monotonic() < deadline:
        try:
            if condition():
                return
        except Exception as error:
            last = error
        time.sleep(0.02)
    msg = f"{what} did not come true within {timeout:g} s (last error: {last!r})"
    raise AssertionError(msg)


def alive(pid: int) -> bool:
    """Whether the process runs; one that nobody has waited for yet (a zombie) does not."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"


def stop_pid(pid: int, timeout: float = 10.0) -> None:
    """SIGTERM, and SIGKILL when that did not help; a process that is gone is success."""
    for number, patience in ((signal.SIGTERM, timeout), (signal.SIGKILL, 5.0)):
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            return
        deadline = time.monotonic() + patience
        while time.monotonic() < deadline:
            if not alive(pid):
                return
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)
            time.sleep(0.01)


class Sandbox:
    """One private OVS; a context manager.

    `rundir` holds db.sock, ovs-vswitchd.ctl, the bridges' management sockets and the logs.
    """

    def __init__(
        self, *, vswitchd: bool = True, dpdk: bool = False, netns: str | None = None
    ) -> None:
        self.rundir = Path(tempfile.mkdtemp(prefix="mro-", dir="/tmp"))
        self.remote = f"unix:{self.rundir}/db.sock"
        self.unixctl = self.rundir / "ovs-vswitchd.ctl"
        self._want_vswitchd = vswitchd
        self._dpdk = dpdk
        self._netns = netns
        self._env = {
            **os.environ,
            "OVS_RUNDIR": str(self.rundir),
            "OVS_LOGDIR": str(self.rundir),
            "OVS_DBDIR": str(self.rundir),
            "LIBXDP_SKIP_DISPATCHER": "1",
        }

    def __enter__(self) -> Self:
        try:
            self.run("ovsdb-tool", "create", f"{self.rundir}/conf.db", SCHEMA)
            self.start_ovsdb()
            self.run("ovs-vsctl", "--no-wait", "init")
            if self._want_vswitchd:
                self.start_vswitchd()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop both daemons and remove the directory."""
        self.stop_vswitchd()
        self.stop_ovsdb()
        shutil.rmtree(self.rundir, ignore_errors=True)

    def run(self, *command: str, check: bool = True) -> str:
        """Run a command in this sandbox's environment; its output."""
        argv = list(command)
        if argv[0] == "ovs-vsctl":
            argv[1:1] = [f"--db={self.remote}", "--timeout=20"]
        done = subprocess.run(
            argv, env=self._env, capture_output=True, text=True, check=False, timeout=60
        )
        if check and done.returncode != 0:
            msg = f"{' '.join(argv)} ended with {done.returncode}: {done.stderr.strip()}"
            raise RuntimeError(msg)
        return done.stdout

    def vsctl(self, *args: str) -> str:
        """`ovs-vsctl` on this sandbox's database."""
        return self.run("ovs-vsctl", *args)

    def appctl(self, *args: str) -> str:
        """`ovs-appctl` on this sandbox's vswitchd."""
        return self.run("ovs-appctl", "-t", str(self.unixctl), *args)

    def ofctl(self, command: str, bridge: str, *args: str) -> str:
        """`ovs-ofctl` on a bridge of this sandbox."""
        return self.run("ovs-ofctl", command, f"unix:{self.rundir}/{bridge}.mgmt", *args)

    def start_ovsdb(self) -> None:
        """Start ovsdb-server on the directory's database."""
        self._daemon(
            "ovsdb-server",
            f"{self.rundir}/conf.db",
            f"--remote=punix:{self.rundir}/db.sock",
            name="ovsdb-server",
        )

    def stop_ovsdb(self) -> None:
        """Stop ovsdb-server."""
        self._stop("ovsdb-server")

    def start_vswitchd(self) -> None:
        """Start vswitchd; returns when it answers."""
        if self._dpdk:
            self._daemon(VSWITCHD_DPDK, self.remote, name="ovs-vswitchd")
        else:
            self._daemon(
                VSWITCHD,
                self.remote,
                "--enable-dummy=override",
                "--disable-system",
                name="ovs-vswitchd",
            )

    def stop_vswitchd(self) -> None:
        """Stop vswitchd; what is in the database stays."""
        self._stop("ovs-vswitchd")

    def kill_vswitchd(self) -> None:
        """kill -9."""
        pid = self.pid("ovs-vswitchd")
        if pid is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            wait_until(lambda: not alive(pid), "vswitchd is gone")
        (self.rundir / "ovs-vswitchd.pid").unlink(missing_ok=True)

    def pid(self, name: str) -> int | None:
        """The pid of a daemon of ours, None if it does not run."""
        file = self.rundir / f"{name}.pid"
        try:
            return int(file.read_text())
        except (OSError, ValueError):
            return None

    def log(self) -> str:
        """vswitchd's log."""
        file = self.rundir / "ovs-vswitchd.log"
        return file.read_text(errors="replace") if file.exists() else ""

    def _daemon(self, program: str, *args: str, name: str) -> None:
        argv = [
            program,
            *args,
            "--detach",
            "--no-chdir",
            f"--pidfile={self.rundir}/{name}.pid",
            f"--unixctl={self.rundir}/{name}.ctl",
            f"--log-file={self.rundir}/{name}.log",
            "-vconsole:off",
            "-vsyslog:off",
        ]
        if self._netns is not None and name == "ovs-vswitchd":
            argv = ["nsenter", f"--net=/run/netns/{self._netns}", *argv]
        self.run(*argv)

    def _stop(self, name: str) -> None:
        pid = self.pid(name)
        if pid is not None:
            stop_pid(pid)
            (self.rundir / f"{name}.pid").unlink(missing_ok=True)
