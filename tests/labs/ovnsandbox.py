"""A private OVN: NB and SB databases and ovn-northd in a directory, nothing of the host's.

No ovn-controller and no switch: `chassis()` writes the rows that one would. Everything is stopped
by its own pid.
"""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

SCHEMAS = Path("/usr/share/ovn")
PATIENCE_S = 60.0
"""How long anything here may take before it counts as broken; the machine may be busy."""


@dataclass
class OvnSandbox:
    """NB, SB and northd of one test. Use `start`, then `stop`, also after a failure.

    A chassis reads `chassis_sb` ("": our own socket), its ovn-controller has `chassis_options`.
    With `chassis_netns`, a namespace's path, its devices are that namespace's own and no dummies.
    """

    directory: Path
    pids: dict[str, int] = field(default_factory=dict)
    chassis_sb: str = ""
    chassis_options: tuple[str, ...] = ()
    chassis_netns: str = ""

    @property
    def nb(self) -> str:
        """Connection method of the northbound database."""
        return f"unix:{self.directory}/nb.sock"

    @property
    def sb(self) -> str:
        """Connection method of the southbound database."""
        return f"unix:{self.directory}/sb.sock"

    def start(self) -> None:
        """Make both databases and start everything."""
        for name in ("nb", "sb"):
            self.make_database(name)
        self.nbctl("init")
        self.sbctl("init")
        self.start_northd()
        self.sync()

    def make_database(self, name: str) -> None:
        """Make `nb` or `sb`, empty, and start its ovsdb-server."""
        schema = str(SCHEMAS / f"ovn-{name}.ovsschema")
        run("ovsdb-tool", "create", str(self.directory / f"{name}.db"), schema)
        self.start_database(name)

    def start_database(self, name: str, *options: str) -> None:
        """Start the ovsdb-server of `nb` or `sb`."""
        self._daemon(
            name,
            "ovsdb-server",
            str(self.directory / f"{name}.db"),
            f"--remote=punix:{self.directory}/{name}.sock",
            *options,
        )

    def start_relay(self, name: str, database: str, source: str, *options: str) -> None:
        """Start an ovsdb-server that passes on what the one at `source` has of a database.

        It listens where `options` say, and at `<name>.sock`.
        """
        (self.directory / f"{name}.sock").unlink(missing_ok=True)
        self._daemon(
            name,
            "ovsdb-server",
            f"relay:{database}:{source}",
            f"--remote=punix:{self.directory}/{name}.sock",
            *options,
        )

    def start_northd(self) -> None:
        """Start ovn-northd."""
        self._daemon("northd", "ovn-northd", f"--ovnnb-db={self.nb}", f"--ovnsb-db={self.sb}")

    def _daemon(self, name: str, *command: str) -> None:
        pidfile = self.directory / f"{name}.pid"
        run(
            *command,
            "--detach",
            "--no-chdir",
            f"--pidfile={pidfile}",
            # ovn-controller 23.03 has no such option: its socket is in OVN_RUNDIR.
            *(() if name == "controller" else (f"--unixctl={self.directory}/{name}.ctl",)),
            f"--log-file={self.directory}/{name}.log",
            env=self.environment,
        )
        self.pids[name] = int(pidfile.read_text())

    @property
    def environment(self) -> dict[str, str]:
        """The environment in which OVN's programs find only this sandbox."""
        here = str(self.directory)
        return {
            **os.environ,
            "OVS_RUNDIR": here,
            "OVN_RUNDIR": here,
            "OVN_NB_DB": self.nb,
            "OVN_SB_DB": self.sb,
        }

    def start_chassis(
        self, name: str, address: str, physnet: str, bridge: str, *, tunnels: bool = False
    ) -> None:
        """Start a real chassis: OVS on dummy devices, and ovn-controller.

        `--enable-dummy` and `--disable-system` keep every device inside the process: `override`
        even those of tunnels, which then lead nowhere.
        """
        here = self.directory
        schema = "/usr/share/openvswitch/vswitch.ovsschema"
        run("ovsdb-tool", "create", str(here / "conf.db"), schema)
        self._daemon(
            "ovsdb", "ovsdb-server", str(here / "conf.db"), f"--remote=punix:{here}/db.sock"
        )
        self.vsctl("--no-wait", "init")
        ids = {
            "system-id": name,
            "hostname": name,
            "ovn-remote": self.chassis_sb or self.sb,
            "ovn-encap-type": "geneve",
            "ovn-encap-ip": address,
            "ovn-bridge-mappings": f"{physnet}:{bridge}",
        }
        self.vsctl(
            "--no-wait",
            "set",
            "Open_vSwitch",
            ".",
            *(f"external_ids:{k}={v}" for k, v in ids.items()),
        )
        netns = self.chassis_netns
        dummies = [f"--enable-dummy={'system' if tunnels else 'override'}"]
        if netns:
            self.vsctl("--no-wait", "set", "Open_vSwitch", ".",
                       "external_ids:ovn-bridge-datapath-type=netdev")  # fmt: skip
            dummies = []
        self._daemon(
            "vswitchd",
            *(("nsenter", f"--net={netns}", "--") if netns else ()),
            "ovs-vswitchd",
            f"unix:{here}/db.sock",
            *dummies,
            "--disable-system",
        )
        kind = ("--", "set", "Bridge", bridge, "datapath_type=netdev") if netns else ()
        self.vsctl("add-br", bridge, *kind)
        self._daemon("controller", "ovn-controller", f"unix:{here}/db.sock", *self.chassis_options)

    def vsctl(self, *arguments: str) -> str:
        """Run ovs-vsctl on the chassis of this sandbox."""
        return run("ovs-vsctl", f"--db=unix:{self.directory}/db.sock", *arguments)

    def appctl(self, *arguments: str) -> str:
        """Ask the chassis's vswitchd."""
        return run("ovs-appctl", "-t", f"{self.directory}/vswitchd.ctl", *arguments)

    def kill(self, name: str, signal_number: int = signal.SIGTERM) -> None:
        """End one daemon and wait until it is gone."""
        pid = self.pids.pop(name)
        os.kill(pid, signal_number)
        wait_until(f"{name} has ended", lambda: not is_running(pid))

    def stop(self) -> None:
        """End every daemon that is still there."""
        for name in reversed(list(self.pids)):
            self.kill(name)

    def nbctl(self, *arguments: str) -> str:
        """Run ovn-nbctl here."""
        return run("ovn-nbctl", f"--db={self.nb}", *arguments, env=self.environment)

    def sbctl(self, *arguments: str) -> str:
        """Run ovn-sbctl here."""
        return run("ovn-sbctl", f"--db={self.sb}", *arguments, env=self.environment)

    def sync(self) -> None:
        """Wait until northd has translated what the northbound database holds."""
        self.nbctl(f"--timeout={PATIENCE_S:.0f}", "--wait=sb", "sync")

    def trace(self, datapath: str, flow: str, *options: str) -> str:
        """What ovn-trace says of a packet, from the southbound database."""
        return run("ovn-trace", f"--db={self.sb}", *options, datapath, flow, env=self.environment)

    def warnings(self, daemon: str = "northd") -> list[str]:
        """Lines of a daemon's log that are warnings or worse, start-up's waiting left out."""
        text = (self.directory / f"{daemon}.log").read_text()
        return [
            line
            for line in text.splitlines()
            if any(level in line for level in ("|WARN|", "|ERR|", "|EMER|"))
        ]

    def chassis(self, name: str, address: str) -> None:
        """Write the rows that ovn-controller of a chassis would."""
        self.sbctl("chassis-add", name, "geneve", address)

    def switch(self, name: str) -> None:
        """Make a logical switch."""
        self.nbctl("ls-add", name)

    def router(self, name: str) -> None:
        """Make a logical router."""
        self.nbctl("lr-add", name)

    def connect(self, router: str, switch: str, mac: str, *networks: str) -> None:
        """Give a router a port on a switch, named <router>-<switch>."""
        port, side = f"{router}-{switch}", f"{switch}-{router}"
        self.nbctl("lrp-add", router, port, mac, *networks)
        self.nbctl(
            "lsp-add", switch, side,
            "--", "lsp-set-type", side, "router",
            "--", "lsp-set-addresses", side, "router",
            "--", "lsp-set-options", side, f"router-port={port}",
        )  # fmt: skip

    def vm(self, switch: str, port: str, mac: str, address: str) -> None:
        """Make a workload's port with port security."""
        both = f"{mac} {address}"
        self.nbctl(
            "lsp-add", switch, port,
            "--", "lsp-set-addresses", port, both,
            "--", "lsp-set-port-security", port, both,
        )  # fmt: skip

    def bind(self, port: str, chassis: str) -> None:
        """Bind a logical port to a chassis, as ovn-controller there would."""
        self.sbctl("lsp-bind", port, chassis)


@contextmanager
def northbound() -> Iterator[OvnSandbox]:
    """An empty northbound database and nothing else, for as long as the block lasts."""
    # Not pytest's tmp_path: a unix socket's path has at most 107 bytes.
    with tempfile.TemporaryDirectory(prefix="mrv-nb-") as directory:
        box = OvnSandbox(Path(directory))
        try:
            box.make_database("nb")
            box.nbctl("init")
            yield box
        finally:
            box.stop()


def is_running(pid: int) -> bool:
    """Whether a process is there and no zombie: a container's init may reap late (proc(5))."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"


def run(*command: str, env: dict[str, str] | None = None) -> str:
    """Run a command to its end and return its output; failure carries its words."""
    done = subprocess.run(
        command, env=env, capture_output=True, text=True, timeout=PATIENCE_S, check=False
    )
    if done.returncode:
        msg = f"{' '.join(command)}: exit {done.returncode}: {done.stderr.strip()}"
        raise AssertionError(msg)
    return done.stdout


def wait_until(what: str, condition: object, patience_s: float = PATIENCE_S) -> None:
    """Ask until `condition()` is true; the failure says what was waited for."""
    assert callable(condition)
    deadline = time.monotonic() + patience_s
    while not condition():
        if time.monotonic() > deadline:
            msg = f"after {patience_s:.0f} s still not so: {what}"
            raise AssertionError(msg)
        time.sleep(0.02)
