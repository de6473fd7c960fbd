"""The embedded node: every daemon of one node, started and stopped by `millrace up` and `down`.

Here a node needs no init system and no OVS or OVN of the distribution's running: databases,
vswitchd, northd, ovn-controller, the node daemon and the cluster controller all live in the
node's run directory, and in one network namespace if one is named. `up` starts what is missing
and touches nothing that runs; `down` works on whatever is left, in any state.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from cni.wire import RemoteError, WireError, call
from controller import nics, node_dirs, remains
from controller.config import load_node, parse_node
from controller.tuning import settle
from dataplane.drivers import machine, ovsprocess, processes
from dataplane.drivers.netns import is_there
from dataplane.drivers.ovsprocess import Instance
from dataplane.drivers.processes import Daemon, ProcessError
from dataplane.model.config import NodeConfig
from dataplane.model.names import INTEGRATION_BRIDGE
from dataplane.plan.ovs import ovs_settings
from dataplane.plan.ovsowner import Owned

Progress = Callable[[str], None]

ROOT = Path(__file__).resolve().parents[1]
DEFAULT_HUGEPAGE_KIB = 2048
DEFAULT_HUGEPAGE_MOUNT = Path("/dev/hugepages")


@dataclass(frozen=True, slots=True)
class Node:
    """One embedded node: its configuration, where it came from, and where it runs."""

    config: NodeConfig
    config_path: Path
    cluster_path: Path | None
    netns: str | None

    @property
    def rundir(self) -> Path:
        """The run directory, absolute."""
        return Path(self.config.rundir)

    @property
    def statedir(self) -> Path:
        """Where databases live: they outlast a reboot, sockets and pidfiles do not."""
        return Path(self.config.statedir)

    @property
    def instance(self) -> Instance:
        """The OVS and OVN daemons' common ground."""
        return Instance(self.rundir, self.netns)

    @property
    def database(self) -> str:
        """The local OVS database's remote."""
        return f"unix:{self.rundir / 'db.sock'}"

    @property
    def agent(self) -> Daemon:
        """The node daemon."""
        return Daemon("node", self.rundir / "node.pid", f"node --config {self.config_path}")

    @property
    def central(self) -> Daemon:
        """The cluster controller; its marker is its pidfile's directory and its file."""
        marker = f"central --cluster {self.cluster_path}"
        return Daemon("central", self.rundir / "central.pid", marker)


@contextmanager
def private_files() -> Iterator[None]:
    """What is made inside, by children too, is nobody else's to read: logs, databases, records.

    The run directory is open for passing through, so the files in it have to see to that.
    """
    before = os.umask(0o027)
    try:
        yield
    finally:
        os.umask(before)


@private_files()
def up(config_path: Path, cluster_path: Path | None, netns: str | None, progress: Progress) -> None:
    """Start what is missing of an embedded node. Safe to repeat.

    Raises:
        ProcessError: a daemon did not start; the message ends with its log.
        ConfigProblems: the configuration is refused.
    """
    node = _load(config_path, cluster_path, netns)
    node = replace(node, config=settle(load_node(node.config_path)))
    node_dirs.make(node.rundir, node.config.name, node_dirs.RUN_MODE)
    node_dirs.make(node.statedir, node.config.name, node_dirs.STATE_MODE)
    _write_undo(node)
    prepare_machine(node, progress)
    for line in nics.bind(node.config, nics.binder_of(node.config)):
        progress(line)
    if node.config.embedded_ovs:
        start_ovs(node, progress)
    if node.config.embedded_ovn:
        start_ovn(node, progress)
    if node.config.embedded_ovs:
        _timed(
            progress,
            "ovn-controller",
            lambda: ovsprocess.start_ovn_controller(
                node.instance, node.database, node.config.ovn_tls
            ),
        )
    start_agent(node, progress)
    if node.cluster_path is not None:
        start_central(node, progress)


def down(config_path: Path, progress: Progress, *, keep: bool = False) -> None:
    """Stop an embedded node and put back what it changed, in whatever state it is.

    Args:
        config_path: the node's file.
        progress: told each step.
        keep: end the daemons only. Databases, records, maps, links, NICs and hugepages stay for the
            next `up`, which finds every port and attachment again.
    """
    node = _load(config_path, None, None)
    for daemon in (node.central, node.agent):
        if processes.stop(daemon):
            progress(f"stopped {daemon.name}")
    stop_ovs_and_ovn(node, progress)
    if keep:
        return
    for line in remains.remove(node.config, node.netns):
        progress(line)
    # Before the state directory goes: it says whose driver each had.
    for line in nics.release(nics.binder_of(node.config)):
        progress(line)
    for line in node_dirs.remove_run(node.rundir, node.config.name):
        progress(line)
    for line in node_dirs.remove_state(node.statedir, node.config.name):
        progress(line)
    for line in machine.give_back(node.rundir):
        progress(line)


def prepare_machine(node: Node, progress: Progress) -> None:
    """Hugepages, hugetlbfs and bpffs, noted so that `down` can undo them."""
    pages = node.config.hugepages
    did = machine.borrow(
        node.rundir,
        size_kib=pages.size_kib if pages else DEFAULT_HUGEPAGE_KIB,
        count=pages.count if pages else 0,
        mount=Path(pages.mount) if pages else DEFAULT_HUGEPAGE_MOUNT,
    )
    for line in did:
        progress(line)


def start_ovs(node: Node, progress: Progress) -> None:
    """The local OVSDB and vswitchd; DPDK's settings are in the database before it starts."""
    instance = node.instance
    _timed(
        progress,
        "ovsdb-server (local)",
        lambda: ovsprocess.start_database(
            instance,
            "db",
            schema=ovsprocess.OVS_SCHEMA,
            database=node.statedir / "conf.db",
            socket=node.rundir / "db.sock",
        ),
    )
    if processes.running_pid(instance.daemon("ovs-vswitchd")) is None:
        _tell_ovs(node)
    start_vswitchd(node, progress)


def _tell_ovs(node: Node) -> None:
    """Write the node's keys, and that they are ours, as the daemon does once it runs."""
    columns = ovsprocess.open_vswitch(node.instance, node.database)
    owned = Owned.noted(columns["external_ids"])
    settings = ovs_settings(node.config, owned.foreign(columns["other_config"]))
    writes, after = owned.change(settings, (), columns)
    ovsprocess.set_open_vswitch(
        node.instance,
        node.database,
        other_config={key: text for (c, key), text in writes.items() if text and c != EXTERNAL},
        external_ids={
            **{key: text for (c, key), text in writes.items() if text and c == EXTERNAL},
            **{key: text for key, text in after.notes().items() if text},
        },
    )


EXTERNAL = "external_ids"


def start_vswitchd(node: Node, progress: Progress) -> None:
    """Only vswitchd, with what its database already says."""
    _timed(
        progress,
        "ovs-vswitchd with DPDK",
        lambda: ovsprocess.start_vswitchd(node.instance, node.database),
    )


@private_files()
def restart_vswitchd(config: NodeConfig, progress: Progress = lambda _line: None) -> None:
    """Stop vswitchd and start it again; everything else keeps running."""
    node = Node(config, Path(), None, _read_undo(Path(config.rundir)).get("netns"))
    processes.stop(node.instance.daemon("ovs-vswitchd"))
    start_vswitchd(node, progress)


def start_ovn(node: Node, progress: Progress) -> None:
    """The two OVN databases and ovn-northd."""
    instance = node.instance
    for name, schema in (("nb", ovsprocess.NB_SCHEMA), ("sb", ovsprocess.SB_SCHEMA)):
        _timed(
            progress,
            f"ovsdb-server ({name})",
            lambda name=name, schema=schema: ovsprocess.start_database(  # type: ignore[misc]
                instance,
                name,
                schema=schema,
                database=node.statedir / f"{name}.db",
                socket=node.rundir / f"{name}.sock",
            ),
        )
    _timed(
        progress,
        "ovn-northd",
        lambda: ovsprocess.start(
            instance,
            "ovn-northd",
            [
                "ovn-northd",
                f"--ovnnb-db=unix:{node.rundir / 'nb.sock'}",
                f"--ovnsb-db=unix:{node.rundir / 'sb.sock'}",
            ],
        ),
    )


def start_agent(node: Node, progress: Progress) -> None:
    """The node daemon; returns once it answers on its socket."""
    socket = node.rundir / "agent.sock"

    def start() -> bool:
        if not _spawn(node, node.agent, ["node", "--config", str(node.config_path)]):
            return False
        _wait_alive(node, node.agent, lambda: _answers(socket))
        return True

    _timed(progress, "node daemon", start)


def start_central(node: Node, progress: Progress) -> None:
    """The cluster controller; its socket beside the daemon's is for `millrace status`."""
    socket = node.rundir / "central.sock"

    def start() -> bool:
        words = ["central", "--cluster", str(node.cluster_path), "--socket", str(socket)]
        return _spawn(node, node.central, words)

    _timed(progress, "cluster controller", start)


def stop_ovs_and_ovn(node: Node, progress: Progress) -> None:
    """Stop OVN's daemons, then OVS's, and remove the taps that vswitchd leaves."""
    instance = node.instance
    for name in ("ovn-controller", "ovn-northd", "sb", "nb", "ovs-vswitchd", "db"):
        if processes.stop(instance.daemon(name)):
            progress(f"stopped {name}")
    extra = ovs_settings(node.config).get(("other_config", "dpdk-extra"))
    prefix = ovsprocess.file_prefix(extra.value) if extra else None
    if node.config.embedded_ovs and prefix is not None:
        pages = node.config.hugepages
        mount = Path(pages.mount) if pages else DEFAULT_HUGEPAGE_MOUNT
        ovsprocess.remove_hugepage_files(mount, prefix)
    if node.config.embedded_ovs and is_there(node.netns):
        bridges = ["ovs-netdev", INTEGRATION_BRIDGE, *(b.name for b in node.config.bridges)]
        for tap in ovsprocess.remove_taps(instance, bridges):
            progress(f"removed tap {tap}")


def load(config_path: Path) -> Node:
    """The node that `up` started with this configuration file."""
    return _load(config_path, None, None)


def _load(config_path: Path, cluster_path: Path | None, netns: str | None) -> Node:
    config_path = config_path.resolve()
    config = parse_node(config_path.read_text(encoding="utf-8"), str(config_path))
    noted = _read_undo(Path(config.rundir))
    if netns is None:
        netns = noted.get("netns")
    elif noted.get("netns", netns) != netns:
        msg = (
            f"node {config.name} runs in namespace {noted['netns']}, not in {netns}; "
            f"`millrace down --config {config_path}` first"
        )
        raise ProcessError(msg)
    if cluster_path is None and "cluster" in noted:
        cluster_path = Path(noted["cluster"])
    return Node(config, config_path, cluster_path.resolve() if cluster_path else None, netns)


def _read_undo(rundir: Path) -> dict[str, str]:
    """What `up` noted for a later `up` or `down`."""
    try:
        raw = json.loads((rundir / "undo.json").read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return {}
    return {str(key): str(value) for key, value in raw.items()}


def _write_undo(node: Node) -> None:
    noted = {"config": str(node.config_path)}
    if node.netns is not None:
        noted["netns"] = node.netns
    if node.cluster_path is not None:
        noted["cluster"] = str(node.cluster_path)
    partial = node.rundir / "undo.json.new"
    partial.write_text(json.dumps(noted, indent=1) + "\n", encoding="utf-8")
    partial.replace(node.rundir / "undo.json")


def _spawn(node: Node, daemon: Daemon, words: Sequence[str]) -> bool:
    if processes.running_pid(daemon) is not None:
        return False
    processes.spawn(
        [sys.executable, "-m", "controller.cli.main", *words],
        log=node.instance.log(daemon.name),
        pidfile=daemon.pidfile,
        netns=node.netns,
        # PYTHONSAFEPATH: a root daemon must not import what lies where somebody typed `up`.
        env=node.instance.environment
        | {"PYTHONPATH": str(ROOT), "PYTHONSAFEPATH": "1", "PYTHONUNBUFFERED": "1"},
    )
    processes.note_start(daemon)
    return True


def _wait_alive(node: Node, daemon: Daemon, ready: Callable[[], bool]) -> None:
    """Wait for `ready`, but not for a process that has ended."""

    def ready_or_dead() -> bool:
        return ready() or processes.running_pid(daemon) is None

    log = node.instance.log(daemon.name)
    processes.wait_until(ready_or_dead, f"{daemon.name} answers; see {log}", timeout_s=60)
    if processes.running_pid(daemon) is None:
        msg = f"{daemon.name} ended while starting; {log} ends with:\n{processes.tail(log)}"
        raise ProcessError(msg)


def _answers(socket: Path) -> bool:
    try:
        call(str(socket), "status", {}, 5.0)
    except (WireError, OSError):
        return False
    except RemoteError:
        return True
    return True


def _timed(progress: Progress, what: str, start: Callable[[], bool]) -> None:
    began = time.monotonic()
    if start():
        progress(f"{what} up in {time.monotonic() - began:.1f} s")
