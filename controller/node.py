"""The node daemon: makes this node's data plane equal to what OVN, the kernel and CNI calls ask.

One composition root of two (the cluster controller is the other). Watchers hand frozen snapshots
to the event loop; each only invalidates. The loop computes the plan from the latest snapshots and
a single worker thread applies it, so that every driver is used by one thread at a time.

It may be killed at any moment: pinned maps and links, OVSDB rows, flows and the attachments'
records stay, and the next start compares and writes only what differs.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from controller import cni_run
from controller import config as config_files
from controller.agent_api import AgentApi
from controller.applied import Applied
from controller.attachments import AttachmentStore
from controller.cni_server import CniServer
from controller.completion import in_thread
from controller.conditions import Conditions
from controller.config_machine import check_machine
from controller.containers import Containers
from controller.draining import Draining
from controller.followup import FollowUp
from controller.health_ports import HealthPorts
from controller.host import NodeHost
from controller.loop import ApplyLoop
from controller.metrics import serve_metrics
from controller.node_metrics import NodeMetrics
from controller.node_tables import tables_of
from controller.ovn import nb as nb_database
from controller.ovn import sb as sb_database
from controller.ovn.nested import NestedTable
from controller.rebalancer import Rebalancer
from controller.rounds import Rounds, nics_of
from controller.server import serve
from controller.serving import Serving
from controller.sources import Sources
from controller.translate.changed import Marked
from controller.translate.hostports import balancers
from controller.translate.ovn import NbSnapshot
from controller.tuning import settle
from controller.upset import ATTACHED, LINK_TABLES, PLAN, upset_by
from controller.vhost_dirs import VhostDirs
from controller.vswitchd import (
    Vswitchd,
    control_socket,
    running_pid,
    seen,
    uid_of,
    version_of,
)
from dataplane.drivers import migration, ovsjson
from dataplane.drivers.affinity import AffinityTable
from dataplane.drivers.announce import AnnouncementsTable
from dataplane.drivers.bpfstate import BpfState
from dataplane.drivers.carrying import Carrying, keep_maps
from dataplane.drivers.machinefacts import machine_facts
from dataplane.drivers.nics import LinkMonitor
from dataplane.drivers.nodemap import NodeTable
from dataplane.drivers.ovsdb import Ovs, OvsState
from dataplane.drivers.ovsdb_tls import Tls, use_tls
from dataplane.drivers.ovstables import SettingsTable
from dataplane.drivers.sockprograms import SocketTable
from dataplane.drivers.trunk import TrunkTable
from dataplane.drivers.turns import SHORT_NS, ask_for_turns
from dataplane.drivers.unixctl import UnixctlClient
from dataplane.model.config import NodeConfig
from dataplane.model.devices import is_pod_link
from dataplane.model.names import FORWARDING_KEY, INTEGRATION_BRIDGE
from dataplane.model.state import Attachment
from dataplane.plan.capacity import map_sizes
from dataplane.plan.node import NodePlan
from dataplane.plan.trunk import trunk_name
from dataplane.ports import DataplaneError
from dataplane.reconcile.backoff import Backoff
from dataplane.reconcile.reconciler import Reconciler

log = logging.getLogger(__name__)

WATCH_S = 0.2
"""How often vswitchd's process is looked at [s]."""

STALE_LOOK_S = 0.2
"""From a pod's link going to the look whether it left something behind [s]: they go in numbers."""

CALL_THREADS = 32

SWITCH_S = 0.001
"""How long a thread may compute while another waits for its turn [s]; Python's own 5 ms would be
paid at each hand-over between databases, rounds and calls."""

AGENT_MODE = 0o600
CNI_MODE = 0o600


class NodeDaemon:
    """One running node daemon."""

    def __init__(self, path: Path, config: NodeConfig) -> None:
        self.path = path
        self.config = config
        self.started_at = time.time()
        self.sources = Sources()
        self.vswitchd = Vswitchd()
        self.ovs_version = ""
        self.store = AttachmentStore(Path(config.statedir) / "attachments")
        self.attachments: dict[tuple[str, str], Attachment] = {
            (a.container_id, a.ifname): a for a in self.store.load_all()
        }
        self.linkless: set[str] = set()
        """Devices of attachments whose link is still being made."""
        self.loop = ApplyLoop(
            lambda scope: self.rounds.apply(scope), urgent=frozenset({PLAN, ATTACHED})
        )
        if kept := keep_maps(config.bpf_root):
            log.info("maps_kept names=%s", ",".join(kept))
        self.bpf = BpfState(config.bpf_root, sizes=map_sizes(config.services))
        self.carrying = Carrying(config.bpf_root, self.bpf.maps)
        if NodeTable(self.bpf).take_derived():
            log.info("node_entry_brought_up_to_date")
        if taken := migration.take_links_over(config.bpf_root):
            log.info("links_taken_over names=%s", ",".join(taken))
        self.ovs = Ovs(
            config.ovs_remote,
            lambda state: self._from_thread(lambda: self._saw_ovs(state)),
            lambda _: self._from_thread(self.loop.invalidate),
        )
        self.nb = nb_database.client(
            config.nb_remote,
            lambda snapshot: self._from_thread(lambda: self._saw("nb", snapshot)),
        )
        self.bindings = sb_database.Bindings(config.name, everything=config.services.announce)
        self.sb = sb_database.client(
            config.sb_remote,
            lambda snapshot: self._from_thread(lambda: self._saw("sb", snapshot)),
            bindings=self.bindings,
        )
        self.settings = SettingsTable(self.ovs)
        self.draining = Draining(self)
        self.rebalancer = Rebalancer(AffinityTable(self.ovs))
        self.conditions = Conditions()
        self.links = LinkMonitor(
            lambda: self._from_thread(lambda: self.loop.invalidate(*LINK_TABLES)),
            # br-int's own link has no row of ours, and takes the MTU of whatever port comes.
            ignored=lambda name: is_pod_link(name) or name == INTEGRATION_BRIDGE,
            on_ignored_gone=lambda: self._from_thread(self._pod_link_gone),
        )
        self.trunk = TrunkTable(config.bpf_root)
        self.nested = NestedTable(self.nb, config.name)
        self.containers = Containers(self)
        self.follow_up = FollowUp(self.bpf)
        self.serving = Serving(self.sources, self.bpf)
        self.sockets = SocketTable(self.bpf)
        self.announcements = AnnouncementsTable()
        self.reconciler = Reconciler(tables_of(self), Backoff())
        self.rounds = Rounds(self)
        self.health_ports = HealthPorts(
            self.sources.with_health_port,
            self.converged,
            lambda: self.config.services.nodeport_addresses,
        )
        self._event_loop: asyncio.AbstractEventLoop | None = None
        self._changed = asyncio.Event()
        self._ovs_seen: OvsState | None = None
        self._stale_look: asyncio.TimerHandle | None = None
        self._nested: Mapping[str, int | None] = {}
        self._forwarded = Marked(FORWARDING_KEY)
        self.cni: CniServer | None = None
        self._vhost_dirs: VhostDirs | None = None

    # -- life ---------------------------------------------------------------------------------

    async def run(self) -> None:
        """Work until SIGTERM or SIGINT."""
        self._event_loop = asyncio.get_running_loop()
        # Calls wait there for the kernel and the disk; 5 threads would keep a full node waiting.
        self._event_loop.set_default_executor(
            ThreadPoolExecutor(CALL_THREADS, thread_name_prefix="call")
        )
        stop = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            self._event_loop.add_signal_handler(number, stop.set)
        host = NodeHost(self)
        metrics = NodeMetrics(self)
        self.sources.host_ports = balancers(self.attachments.values())
        self.sources.saw_nics(await asyncio.to_thread(nics_of, self.config))
        for source in (self.ovs, self.nb, self.sb, self.links):
            source.start()
        try:
            async with contextlib.AsyncExitStack() as stack:
                rundir, uids = Path(self.config.rundir), {0, os.geteuid()}
                api = AgentApi(self)
                await stack.enter_async_context(
                    await serve(rundir / "agent.sock", AGENT_MODE, api.handlers(), uids)
                )
                dirs = self._vhost_dirs = VhostDirs(rundir, self.config.vhost, self._vswitchd_uid)
                cni = self.cni = CniServer(
                    host, rundir, self.config.port_mtu, dirs=dirs, template=self.config.iface_id
                )
                await cni.sweep()
                await stack.enter_async_context(
                    await serve(
                        rundir / "cni.sock", CNI_MODE, cni.handlers(), uids, runner=cni_run.run
                    )
                )
                stack.callback(serve_metrics(self.config.metrics_listen, metrics))
                async with asyncio.TaskGroup() as group:
                    work = [
                        group.create_task(self.loop.run()),
                        group.create_task(self._watch_vswitchd()),
                        group.create_task(self.draining.take_back_left()),
                        group.create_task(metrics.refresh()),
                        group.create_task(self.health_ports.run()),
                    ]
                    log.info("node_started name=%s pid=%d", self.config.name, os.getpid())
                    await stop.wait()
                    # First the calls: what is under way is undone by rounds of the loop.
                    await stack.aclose()
                    for task in work:
                        task.cancel()
        finally:
            await asyncio.to_thread(self._stop_sources)
        log.info("node_stopped name=%s", self.config.name)

    def _stop_sources(self) -> None:
        # First the clients: a round under way waits for them, and fails at once without.
        for source in (self.links, self.ovs, self.nb, self.sb):
            source.stop()
        self.rounds.stop()
        self.announcements.close()
        self.sockets.close()
        self.trunk.close()
        self.follow_up.close()
        self.carrying.close()
        self.bpf.close()

    # -- events only invalidate ---------------------------------------------------------------

    def _from_thread(self, note: Callable[[], None]) -> None:
        """Hand something from a watcher's thread to the event loop."""
        if self._event_loop is not None:
            # The loop may be closed already while a watcher's thread still ends.
            with contextlib.suppress(RuntimeError):
                self._event_loop.call_soon_threadsafe(note)

    def _saw(self, source: str, snapshot: object) -> None:
        if isinstance(snapshot, NbSnapshot) and self._is_nested_otherwise(snapshot):
            self.loop.invalidate("nested")
        setattr(self.sources, source, snapshot)
        if source == "nb":
            self._ask_for_bindings()
        told, self._changed = self._changed, asyncio.Event()
        told.set()
        self.loop.invalidate(PLAN)

    def _ask_for_bindings(self) -> None:
        """Where other nodes' ports are bound is asked for once something depends on it."""
        nb, sb = self.sources.nb, self.sources.sb
        forwarded = self._forwarded.take(nb.load_balancers if nb is not None else {})
        wanted = self.config.services.announce or bool(forwarded)
        if wanted == self.bindings.everything:
            return
        self.bindings.everything = wanted
        if wanted and sb is not None and sb.partial and self.planned is None:
            # A first plan without them would write what the next one takes back.
            self.sources.sb = None
        self.sb.again()

    def _is_nested_otherwise(self, nb: NbSnapshot) -> bool:
        """Whether other ports than at the last look are nested in this chassis's trunk."""
        before = self.sources.nb
        if before is not None and before.switch_ports is nb.switch_ports:
            return False
        parent, planned = trunk_name(self.config.name), self.planned
        ours = {name: row.tag for name, row in planned.nested.items()} if planned else {}
        held, self._nested = (
            self._nested,
            {
                port.name: port.tag
                for port in nb.switch_ports.values()
                if port.parent_name == parent
            },
        )
        return self._nested not in (held, ours)

    def sources_changed(self) -> asyncio.Event:
        """Set at the next word from OVN."""
        return self._changed

    def _saw_ovs(self, state: OvsState) -> None:
        before, self._ovs_seen = self._ovs_seen, state
        if upset := upset_by(before, state):
            self.loop.invalidate(*upset)

    def _pod_link_gone(self) -> None:
        if self._stale_look is None:
            assert self._event_loop is not None
            self._stale_look = self._event_loop.call_later(STALE_LOOK_S, self._look_for_stale)

    def _look_for_stale(self) -> None:
        """What a pod that went with its namespace leaves in the trunk's maps."""
        self._stale_look = None
        if self.trunk.has_stale():
            self.loop.invalidate("trunk")

    async def _watch_vswitchd(self) -> None:
        pidfile = Path(self.config.ovs_rundir) / "ovs-vswitchd.pid"
        while True:
            before = self.vswitchd
            now = seen(before, running_pid(pidfile), time.monotonic())
            if now is not before:
                self.vswitchd = now
                self.ovs_version = ""
                log.info("vswitchd pid=%s restarts=%d", now.pid, now.restarts)
                if now.restarts != before.restarts:
                    self.announcements.again()
                    # What the old process refused, the new one may take.
                    for table, key in self._quarantined():
                        self.reconciler.retry(table, key)
                self.loop.invalidate()
            if now.pid is not None and not self.ovs_version:
                self.ovs_version = await in_thread(self._ask_version, now.pid)
            await asyncio.sleep(WATCH_S)

    def _ask_version(self, pid: int) -> str:
        """OVS's own word: its database has a version only if whoever started it wrote one."""
        socket = control_socket(Path(self.config.ovs_rundir), pid)
        try:
            return version_of(UnixctlClient(str(socket)).call("version"))
        except DataplaneError:
            return ""  # it does not listen yet; asked again at the next look

    def _quarantined(self) -> list[tuple[str, object]]:
        return [key for key, status in self.reconciler.odd_statuses().items() if status.quarantined]

    def _vswitchd_uid(self) -> int | None:
        pid = self.vswitchd.pid
        return uid_of(pid) if pid is not None else None

    # -- what the rounds made of it ------------------------------------------------------------

    @property
    def planned(self) -> NodePlan | None:
        """The plan of the last round."""
        return self.rounds.planned

    @property
    def applied(self) -> Applied:
        """What the rounds have done so far."""
        return self.rounds.applied

    def converged(self) -> bool:
        """Every planned row is as planned, quarantined ones aside, and nothing is out of sight."""
        return self.rounds.converged()

    # -- the operator's orders ----------------------------------------------------------------

    def take_config(self, config: NodeConfig) -> None:
        """Use another configuration from the next round on."""
        self.config = config
        if self.cni is not None:
            self.cni.default_mtu = config.port_mtu
            self.cni.template = config.iface_id
        if self._vhost_dirs is not None:
            self._vhost_dirs.vhost = config.vhost
        self._ask_for_bindings()
        self.loop.invalidate()


def main(config_path: Path) -> int:
    """Run the node daemon in the foreground; the exit code.

    The caller has set logging up and keeps the pid file.

    Raises:
        ConfigProblems: the node's file is wrong.
        DataplaneError: the kernel or the BPF objects cannot do what is needed.
    """
    ovsjson.install()
    sys.setswitchinterval(SWITCH_S)
    # A change goes through three threads, each of which works for a millisecond.
    ask_for_turns(SHORT_NS)
    source = config_files.load_node(config_path)
    problems = check_machine(source, machine_facts())
    if problems:
        raise config_files.ConfigProblems(problems)
    if source.config.ovn_tls is not None:
        use_tls(Tls(*source.config.ovn_tls))
    daemon = NodeDaemon(config_path, settle(source))
    asyncio.run(daemon.run())
    return 0
