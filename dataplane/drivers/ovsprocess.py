"""The programs of Open vSwitch and OVN, started without an init system.

Every path given to them is absolute: relative ones are taken below a compiled-in run directory.
Several complete instances run side by side, each with its own run directory, and with DPDK each
with its own `--file-prefix` (`dataplane.plan.ovs` sees to that).
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from dataplane.drivers import processes
from dataplane.drivers.processes import Daemon, ProcessError

VSWITCHD = Path("/usr/lib/openvswitch-switch-dpdk/ovs-vswitchd-dpdk")
OVS_SCHEMA = Path("/usr/share/openvswitch/vswitch.ovsschema")
NB_SCHEMA = Path("/usr/share/ovn/ovn-nb.ovsschema")
SB_SCHEMA = Path("/usr/share/ovn/ovn-sb.ovsschema")
OVSDB_SERVER = "ovsdb-server"


@dataclass(frozen=True, slots=True)
class Instance:
    """One set of daemons that share a run directory (and a network namespace)."""

    rundir: Path
    netns: str | None = None

    def daemon(self, name: str) -> Daemon:
        """The daemon of that name: its pidfile is the marker on its command line."""
        pidfile = self.rundir / f"{name}.pid"
        return Daemon(name, pidfile, str(pidfile))

    def log(self, name: str) -> Path:
        """That daemon's log file."""
        return self.rundir / f"{name}.log"

    def control(self, name: str) -> Path:
        """That daemon's unixctl socket."""
        return self.rundir / f"{name}.ctl"

    @property
    def environment(self) -> dict[str, str]:
        """What OVS's and OVN's programs read from the environment."""
        return processes.clean_environment(
            OVS_RUNDIR=str(self.rundir),
            OVS_LOGDIR=str(self.rundir),
            OVS_DBDIR=str(self.rundir),
            OVN_RUNDIR=str(self.rundir),
            OVN_LOGDIR=str(self.rundir),
            # libxdp's dispatcher would sit between OVS's AF_XDP port and the program of ours
            # that takes its place.
            LIBXDP_SKIP_DISPATCHER="1",
        )


def start(
    instance: Instance,
    name: str,
    argv: Sequence[str],
    *,
    timeout_s: float = 60.0,
    own_control_name: bool = False,
) -> bool:
    """Start an OVS-style daemon unless it runs; whether it had to be started.

    It detaches itself once it is ready to serve. `own_control_name`: it takes no --unixctl and
    names its socket itself.

    Raises:
        ProcessError: it did not come up; the message ends with its log.
    """
    daemon = instance.daemon(name)
    if processes.running_pid(daemon) is not None:
        return False
    daemon.pidfile.unlink(missing_ok=True)
    command = [
        *argv,
        "--detach",
        "--no-chdir",
        f"--pidfile={daemon.pidfile}",
        f"--log-file={instance.log(name)}",
        *([] if own_control_name else [f"--unixctl={instance.control(name)}"]),
        "-vconsole:off",
        "-vsyslog:off",
        "-vfile:info",
    ]
    try:
        processes.run(command, netns=instance.netns, env=instance.environment, timeout_s=timeout_s)
    except ProcessError as error:
        msg = f"{name} did not start: {error}\n{processes.tail(instance.log(name))}"
        raise ProcessError(msg) from error
    processes.note_start(daemon)
    return True


def start_database(
    instance: Instance, name: str, *, schema: Path, database: Path, socket: Path
) -> bool:
    """Start an ovsdb-server on a database file, made from `schema` if it is not there."""
    if not schema.exists():
        msg = f"{schema} is missing: install openvswitch-switch and ovn-central (`make setup`)"
        raise ProcessError(msg)
    if not database.exists():
        database.parent.mkdir(parents=True, exist_ok=True, mode=0o750)
        processes.run(["ovsdb-tool", "create", str(database), str(schema)])
    if processes.running_pid(instance.daemon(name)) is None:
        # A server that was killed leaves its lock's file and its socket behind; the lock itself
        # went with the process.
        socket.unlink(missing_ok=True)
    return start(instance, name, [OVSDB_SERVER, str(database), f"--remote=punix:{socket}"])


def start_vswitchd(instance: Instance, database: str, *, timeout_s: float = 120.0) -> bool:
    """Start ovs-vswitchd with DPDK on a local database's remote.

    What it is to know about DPDK must be in the database before (`set_open_vswitch`).
    """
    if not VSWITCHD.exists():
        msg = f"{VSWITCHD} is missing: install openvswitch-switch-dpdk (`make setup`)"
        raise ProcessError(msg)
    return start(instance, "ovs-vswitchd", [str(VSWITCHD), database], timeout_s=timeout_s)


def start_ovn_controller(
    instance: Instance, database: str, tls: tuple[str, str, str] | None = None
) -> bool:
    """Start ovn-controller on a local OVS database's remote.

    `tls`: private key, certificate and authorities, where the southbound remote is an `ssl:` one.

    It names its control socket by its pid; `ovn-controller.ctl` is made to lead there.
    """
    files = dict(zip(("--private-key", "--certificate", "--ca-cert"), tls or (), strict=False))
    argv = ["ovn-controller", database, *(f"{option}={file}" for option, file in files.items())]
    started = start(instance, "ovn-controller", argv, own_control_name=True)
    pid = processes.running_pid(instance.daemon("ovn-controller"))
    link = instance.control("ovn-controller")
    link.unlink(missing_ok=True)
    link.symlink_to(f"ovn-controller.{pid}.ctl")
    return started


def open_vswitch(instance: Instance, database: str) -> dict[str, dict[str, str]]:
    """Both maps of the Open_vSwitch row that we write; the row is made if there is none."""
    columns = ("other_config", "external_ids")
    argv = ["ovs-vsctl", f"--db={database}", "--no-wait", "--format=json"]
    argv += ["--", "init", "--", f"--columns={','.join(columns)}", "list", "Open_vSwitch"]
    answer = json.loads(processes.run(argv, env=instance.environment))
    maps = zip(answer["headings"], answer["data"][0], strict=True)
    return {name: dict(pairs) for name, (_, pairs) in maps}


def set_open_vswitch(
    instance: Instance,
    database: str,
    *,
    other_config: Mapping[str, str],
    external_ids: Mapping[str, str],
) -> None:
    """Set keys of the Open_vSwitch row before a vswitchd is there to answer."""
    argv = ["ovs-vsctl", f"--db={database}", "--no-wait", "--", "init"]
    pairs = [f"other_config:{key}={_quoted(value)}" for key, value in other_config.items()]
    pairs += [f"external_ids:{key}={_quoted(value)}" for key, value in external_ids.items()]
    if pairs:
        argv += ["--", "set", "Open_vSwitch", ".", *pairs]
    processes.run(argv, env=instance.environment)


def installed_version() -> str:
    """The version of the ovs-vswitchd that `millrace up` would start; "" if there is none."""
    if shutil.which("ovs-vswitchd") is None:
        return ""
    answer = processes.run(["ovs-vswitchd", "--version"], check=False)
    return answer.splitlines()[0].split()[-1] if answer.strip() else ""


def file_prefix(dpdk_extra: str) -> str | None:
    """The --file-prefix in Open_vSwitch other_config:dpdk-extra: EAL's name for this process."""
    for word in dpdk_extra.split():
        if word.startswith("--file-prefix="):
            return word.partition("=")[2]
    return None


def remove_hugepage_files(mount: Path, prefix: str) -> None:
    """Remove what a killed DPDK process left in hugetlbfs, and its runtime directory."""
    if mount.is_dir():
        for entry in mount.glob(f"{prefix}map_*"):
            entry.unlink(missing_ok=True)
    runtime = Path("/run/dpdk") / prefix
    if runtime.is_dir():
        shutil.rmtree(runtime, ignore_errors=True)


def remove_taps(instance: Instance, names: Sequence[str]) -> list[str]:
    """Delete the tap devices that a stopped vswitchd leaves (ovs-netdev, one per bridge).

    Only tap devices are touched: a device of another kind by that name is somebody else's.
    """
    removed = []
    listed = processes.run(["ip", "-o", "-d", "link", "show"], netns=instance.netns, check=False)
    taps = {
        line.split(":")[1].strip().split("@")[0]
        for line in listed.splitlines()
        if " tun type tap" in line
    }
    for name in names:
        if name in taps:
            processes.run(["ip", "link", "del", name], netns=instance.netns, check=False)
            removed.append(name)
    return removed


def _quoted(value: str) -> str:
    return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
