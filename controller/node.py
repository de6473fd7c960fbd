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
import gc
import logging
import os
import signal
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

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
from controller.loop import ApplyLoop, RoundFailed, Scope
from controller.metrics import serve_metrics
from controller.node_metrics import NodeMetrics
from controller.ovn import nb as nb_database
from controller.ovn import sb as sb_database
from controller.ovn.nested import NestedTable
from controller.rebalancer import Rebalancer
from controller.server import serve
from controller.serving import Serving
from controller.sources import EARLY_TABLES, Sources
from controller.translate.hostports import balancers
from controller.translate.ovn import NbSnapshot
from controller.tuning import settle
from controller.vhost_dirs import VhostDirs
from controller.vswitchd import (
    Vswitchd,
    control_socket,
    recovered,
    running_pid,
    seen,
    uid_of,
    version_of,
)
from dataplane.drivers import migration, ovsjson
from dataplane.drivers.addresses import AddressesTable
from dataplane.drivers.affinity import AffinityTable
from dataplane.drivers.announce import AnnouncementsTable
from dataplane.drivers.bpfmaps import (
    BackendTable,
    KnownAddressTable,
    SourceRangeTable,
    VipTable,
)
from dataplane.drivers.bpfstate import BpfState
from dataplane.drivers.hugepages import HugepagesTable
from dataplane.drivers.links import LinksTable
from dataplane.drivers.machinefacts import machine_facts
from dataplane.drivers.mirrors import MirrorsTable
from dataplane.drivers.nics import LinkMonitor, read_nics
from dataplane.drivers.nicsettings import NicsTable
from dataplane.drivers.nodemap import NodeTable
from dataplane.drivers.offloads import OffloadsTable
from dataplane.drivers.openflow import FlowsTable
from dataplane.drivers.ovsbonds import BondsTable
from dataplane.drivers.ovsdb import Ovs, OvsState
from dataplane.drivers.ovsports import PortsTable
from dataplane.drivers.ovsqos import QosTable
from dataplane.drivers.ovstables import BridgesTable, SettingsTable
from dataplane.drivers.podbuckets import BucketTable
from dataplane.drivers.programs import ProgramTable
from dataplane.drivers.routes import RoutesTable, RulesTable
from dataplane.drivers.setsmap import SetTable
from dataplane.drivers.sockprograms import SocketTable
from dataplane.drivers.trunk import TrunkTable
from dataplane.drivers.unixctl import UnixctlClient
from dataplane.model.config import NodeConfig
from dataplane.model.devices import is_pod_link
from dataplane.model.rows import Hugepages
from dataplane.model.state import Attachment, HeldIds, Nic
from dataplane.plan.capacity import map_sizes
from dataplane.plan.ids import OutOfIds
from dataplane.plan.node import NodePlan, plan
from dataplane.plan.trunk import trunk_name
from dataplane.ports import DataplaneError
from dataplane.reconcile.backoff import Backoff
from dataplane.reconcile.reconciler import Reconciler
from dataplane.reconcile.report import Report
from dataplane.reconcile.status import State

log = logging.getLogger(__name__)

WATCH_S = 0.2
"""How often vswitchd's process is looked at [s]."""

PLAN = "plan"
"""Invalidates no table as such: those whose desired rows come out different are applied."""

LINK_TABLES = (
    PLAN, "links", "nics", "addresses", "routes", "rules", "known_addresses", "node", "offloads",
    "programs", "trunk",
)  # fmt: skip
"""What a change of a link, an address or an attached program may have upset."""

SERVICE_TABLES = ("backends", "sets", "source_ranges", "vips")
"""Tables that hold ids of service ports and backends."""

OVS_TABLES = (
    "ports", "bonds", "qos", "mirrors", "affinity", "bridges", "addresses", "flows", "programs",
)  # fmt: skip
"""What vswitchd may have upset by adding or removing a port."""

RETRY_S = 1.0
"""After a round that could not read one of its surfaces."""

AGENT_MODE = 0o600
CNI_MODE = 0o600


class NodeDaemon:
    """One running node daemon."""

    def __init__(self, path: Path, config: NodeConfig) -> None:
        self.path = path
        self.config = config
        self.started_at = time.time()
        self.sources = Sources()
        self.applied = Applied()
        self.planned: NodePlan | None = None
        self.vswitchd = Vswitchd()
        self.ovs_version = ""
        self.store = AttachmentStore(Path(config.statedir) / "attachments")
        self.attachments: dict[tuple[str, str], Attachment] = {
            (a.container_id, a.ifname): a for a in self.store.load_all()
        }
        self.loop = ApplyLoop(self._apply, urgent=frozenset({PLAN, "trunk", "nested"}))
        self.bpf = BpfState(config.bpf_root, sizes=map_sizes(config.services))
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
        self.sb = sb_database.client(
            config.sb_remote,
            lambda snapshot: self._from_thread(lambda: self._saw("sb", snapshot)),
        )
        self.settings = SettingsTable(self.ovs)
        self.draining = Draining(self)
        self.rebalancer = Rebalancer(AffinityTable(self.ovs))
        self.conditions = Conditions()
        self.links = LinkMonitor(
            lambda: self._from_thread(lambda: self.loop.invalidate(*LINK_TABLES)),
            ignored=is_pod_link,
            # What a pod that went with its namespace leaves in the trunk's maps.
            on_ignored_gone=lambda: self._from_thread(lambda: self.loop.invalidate("trunk")),
        )
        self.trunk = TrunkTable(config.bpf_root)
        self.nested = NestedTable(self.nb, config.name)
        self.containers = Containers(self)
        self.follow_up = FollowUp(self.bpf)
        self.serving = Serving(self.sources, self.bpf)
        self.sockets = SocketTable(self.bpf)
        self.announcements = AnnouncementsTable()
        self.reconciler = Reconciler(
            (
                HugepagesTable(lambda: self._wanted_pages),
                self.settings,
                LinksTable(),
                NicsTable(Path(config.rundir) / "nic-settings.json"),
                BridgesTable(self.ovs),
                PortsTable(self.ovs),
                BondsTable(self.ovs),
                QosTable(self.ovs),
                BucketTable(),
                self.trunk,
                self.nested,
                MirrorsTable(self.ovs),
                self.rebalancer.table,
                AddressesTable(),
                RoutesTable(),
                RulesTable(),
                FlowsTable(config.ovs_rundir, self.ovs.openflow_ports),
                NodeTable(self.bpf),
                KnownAddressTable(self.bpf),
                BackendTable(self.bpf),
                SetTable(self.bpf),
                SourceRangeTable(self.bpf),
                VipTable(self.bpf),
                OffloadsTable(Path(config.rundir) / "offloads.json"),
                ProgramTable(self.bpf),
                self.sockets,
                self.announcements,
            ),
            Backoff(),
        )
        self.health_ports = HealthPorts(
            self.sources.with_health_port,
            self.converged,
            lambda: self.config.services.nodeport_addresses,
        )
        self._event_loop: asyncio.AbstractEventLoop | None = None
        self._changed = asyncio.Event()
        self._ofports: dict[str, tuple[str, int | None]] = {}
        self._nested: Mapping[str, int | None] = {}
        self._whole = False
        self.cni: CniServer | None = None
        self._vhost_dirs: VhostDirs | None = None
        self._wanted_pages: Mapping[int, Hugepages] = {}
        self._worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="apply")

    # -- life ---------------------------------------------------------------------------------

    async def run(self) -> None:
        """Work until SIGTERM or SIGINT."""
        self._event_loop = asyncio.get_running_loop()
        stop = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            self._event_loop.add_signal_handler(number, stop.set)
        host = NodeHost(self)
        metrics = NodeMetrics(self)
        self.sources.host_ports = balancers(self.attachments.values())
        self.sources.saw_nics(await asyncio.to_thread(_nics_of, self.config))
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
                cni = self.cni = CniServer(host, rundir, self.config.port_mtu, dirs=dirs)
                await cni.sweep()
                await stack.enter_async_context(
                    await serve(rundir / "cni.sock", CNI_MODE, cni.handlers(), uids)
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
        self._worker.shutdown(wait=True)
        self.announcements.close()
        self.sockets.close()
        self.trunk.close()
        self.follow_up.close()
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
        told, self._changed = self._changed, asyncio.Event()
        told.set()
        self.loop.invalidate(PLAN)

    def _is_nested_otherwise(self, nb: NbSnapshot) -> bool:
        """Whether other ports than at the last look are nested in this chassis's trunk."""
        before = self.sources.nb
        if before is not None and before.switch_ports is nb.switch_ports:
            return False
        parent = trunk_name(self.config.name)
        held, self._nested = (
            self._nested,
            {
                port.name: port.tag
                for port in nb.switch_ports.values()
                if port.parent_name == parent
            },
        )
        return held != self._nested

    def sources_changed(self) -> asyncio.Event:
        """Set at the next word from OVN."""
        return self._changed

    def _saw_ovs(self, state: OvsState) -> None:
        numbers = {name: (port.bridge, port.ofport) for name, port in state.ports.items()}
        before, self._ofports = self._ofports, numbers
        # A rejected port costs vswitchd thousands of tries a second: `ports` looks for those first.
        self.loop.invalidate(*(("ports", "bonds") if numbers == before else OVS_TABLES))

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
        return [key for key, status in self.reconciler.statuses().items() if status.quarantined]

    def _vswitchd_uid(self) -> int | None:
        pid = self.vswitchd.pid
        return uid_of(pid) if pid is not None else None

    # -- one round ----------------------------------------------------------------------------

    async def _apply(self, scope: Scope) -> float | None:
        """Compute the plan and make the node equal to it; seconds until the next retry."""
        in_sync = self.sources.in_sync
        assert self._event_loop is not None
        try:
            return await self._event_loop.run_in_executor(
                self._worker,
                self._round,
                self.config,
                tuple(self.attachments[key] for key in sorted(self.attachments)),
                scope,
                in_sync,
            )
        except (DataplaneError, OutOfIds) as error:
            log.warning("round_failed error=%s", error)
            self.applied = replace(self.applied, problem=str(error))
        except Exception as error:
            # The boundary: what somebody else wrote into a database must not end the daemon.
            log.exception("round_failed")
            self.applied = replace(self.applied, problem=repr(error))
        raise RoundFailed(RETRY_S)

    def _round(
        self,
        config: NodeConfig,
        attachments: tuple[Attachment, ...],
        scope: Scope,
        in_sync: bool,
    ) -> float | None:
        """In the worker thread."""
        started = time.monotonic()
        if not self._whole:
            scope = None if in_sync else EARLY_TABLES
        if scope is None or "links" in scope:
            self.sources.saw_nics(_nics_of(config))
        changes = self.serving.update(config)
        quick = Report({}, None)
        short = bool(changes) and self.planned is not None and self._whole
        if changes and short:
            # The short way: nothing but the changed rows, before anything else is looked at.
            quick = self.reconciler.apply_keys(changes, started)
        known = self.serving.served()
        if short and known is not None and self.planned is not None:
            self.planned = self.planned.serving(known)
            self.follow_up.follow(self.planned, changes)
        state = self.sources.state(config, attachments, HeldIds())
        if config.computed is not None:
            # Without the database nothing is written to it either; the rest must go on.
            with contextlib.suppress(DataplaneError):
                pinned_by_hand = frozenset(self.rebalancer.table.foreign())
                theirs = self.settings.foreign()[0]
                state = replace(state, theirs=theirs, pinned_by_hand=pinned_by_hand)
        planned = plan(replace(state, pins=self.rebalancer.pins(config)), known)
        if scope is not None and in_sync:
            scope |= planned.differences(self.planned)
        self._wanted_pages = planned.hugepages
        report = self.reconciler.apply(planned.tables(), started, only=scope, prune=in_sync)
        if in_sync:
            self.follow_up.follow(planned)
        if scope is None and not any(
            (table := report.tables[name]).failed or table.held or table.error
            for name in SERVICE_TABLES
        ):
            self.serving.settle()
        report = quick.then(report)
        self.planned = planned
        ms = (time.monotonic() - started) * 1000
        self.applied = self.applied.add(report, time.time(), ms, whole=scope is None)
        if report.writes:
            written = {
                name: table.upserts + table.deletes
                for name, table in report.tables.items()
                if table.upserts + table.deletes
            }
            log.info(
                "applied writes=%d failed=%d ms=%.1f tables=%s",
                report.writes, report.failed, ms, written,
            )  # fmt: skip
        if scope is None:
            if not self._whole:
                # What is there now mostly stays. The collector need not walk it time and again,
                # which at 10,000 services would hold up every thread for a tenth of a second.
                gc.collect()
                gc.freeze()
            self._whole = True
            if self.converged():
                self.vswitchd = recovered(self.vswitchd, time.monotonic())
                # Today's programs are everywhere, so nothing works on other versions' maps.
                if gone := migration.remove_older(config.bpf_root):
                    log.info("old_pins_removed versions=%s", gone)
        if report.next_retry_at is None:
            return None
        return max(report.next_retry_at - time.monotonic(), 0.0)

    def converged(self) -> bool:
        """Every planned row is as planned, quarantined ones aside, and nothing is out of sight."""
        return (
            self._whole
            and not self.applied.problem
            and not self.reconciler.unobserved
            and self.ovs.connected
            and self.vswitchd.pid is not None
            and all(
                status.state is State.DONE or status.quarantined
                for status in self.reconciler.statuses().values()
            )
        )

    # -- the operator's orders ----------------------------------------------------------------

    def take_config(self, config: NodeConfig) -> None:
        """Use another configuration from the next round on."""
        self.config = config
        if self.cni is not None:
            self.cni.default_mtu = config.port_mtu
        if self._vhost_dirs is not None:
            self._vhost_dirs.vhost = config.vhost
        self.loop.invalidate()


def _nics_of(config: NodeConfig) -> Mapping[str, Nic]:
    return read_nics(sorted({uplink.device for uplink in config.nics}))


def main(config_path: Path) -> int:
    """Run the node daemon in the foreground; the exit code.

    The caller has set logging up and keeps the pid file.

    Raises:
        ConfigProblems: the node's file is wrong.
        DataplaneError: the kernel or the BPF objects cannot do what is needed.
    """
    ovsjson.install()
    source = config_files.load_node(config_path)
    problems = check_machine(source, machine_facts())
    if problems:
        raise config_files.ConfigProblems(problems)
    daemon = NodeDaemon(config_path, settle(source))
    asyncio.run(daemon.run())
    return 0
