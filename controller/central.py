"""The cluster controller: keeps our northbound rows equal to what the cluster file asks for.

One composition root of two (the node daemon is the other): it marries the watchers of OVN's
databases, the pure translation, and the reconciler. It holds nothing in memory that it would miss:
what was given out before is read from the rows themselves, so it may be killed at any moment. Of
several, the holder of an OVSDB lock works and the others stand by.

Nothing is written before both databases are in sync, or while one of them is away.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import time
from collections.abc import Callable, Coroutine
from dataclasses import asdict, dataclass
from pathlib import Path

from controller import config
from controller.loop import ApplyLoop, RoundFailed, Scope
from controller.ovn import nb as nb_database
from controller.ovn import sb as sb_database
from controller.ovn.reach import unreachable
from controller.ovn.tables import tables
from controller.server import Args, serve
from controller.translate.central import northbound
from controller.translate.nbrows import NbPlan
from controller.translate.ovn import NbSnapshot, SbSnapshot, is_ours
from controller.vitals import Vitals
from dataplane.drivers.idl import Replica
from dataplane.drivers.ovsdb_tls import Tls, use_tls
from dataplane.model.config import ClusterConfig
from dataplane.model.names import DOWN_KEY
from dataplane.ports import DataplaneError
from dataplane.reconcile.backoff import Backoff
from dataplane.reconcile.reconciler import Reconciler
from dataplane.reconcile.report import Report
from dataplane.reconcile.status import State

log = logging.getLogger(__name__)

READ_TIMEOUT_S = 10.0
RETRY_S = 1.0
"""After a round that could not read a database; its reconnection wakes us earlier."""

TABLES = (
    "switches",
    "routers",
    "router_ports",
    "switch_ports",
    "static_macs",
    "routes",
    "policies",
    "address_sets",
    "nats",
    "balancer_groups",
    "grouped_switches",
)
SOCKET_MODE = 0o600

LOCK = "millrace_central"
"""OVSDB's lock (RFC 7047, 4.1.8) that the one writer holds; others stand by until it is gone.

An <id>, so without a hyphen: the server refuses others, and the library says nothing of it.
"""


@dataclass(slots=True)
class Applied:
    """What the rounds so far did; times are seconds since the epoch."""

    rounds: int = 0
    writes: int = 0
    last_at: float = 0.0
    last_seconds: float = 0.0
    last_writes: int = 0
    last_failed: int = 0
    last_change_at: float = 0.0
    last_change_writes: int = 0

    def add(self, report: Report, at: float, seconds: float) -> None:
        """Count one round."""
        self.rounds += 1
        self.writes += report.writes
        self.last_at, self.last_seconds = at, seconds
        self.last_writes, self.last_failed = report.writes, report.failed
        if report.writes:
            self.last_change_at, self.last_change_writes = at, report.writes


class Central:
    """One running cluster controller."""

    def __init__(self, path: Path, cluster: ClusterConfig) -> None:
        self.path, self.cluster = path, cluster
        self.applied = Applied()
        self.plan = NbPlan()
        self.config_problem = ""
        self.active = False
        self._vitals: Vitals | None = None
        self._heartbeat_changed = asyncio.Event()
        self._nb_seen = False
        self._sb: SbSnapshot | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._apply_loop = ApplyLoop(self._apply)
        self._nb = nb_database.client(
            cluster.nb_remote,
            lambda _: self._from_thread(self._saw_nb),
            lambda _: self._from_thread(self._apply_loop.invalidate),
            leader_only=True,
        )
        self._sb_client = sb_database.client(
            cluster.sb_remote,
            lambda sb: self._from_thread(lambda: self._saw_sb(sb)),
            lambda _: self._from_thread(self._apply_loop.invalidate),
            ports=False,
        )
        self._reconciler = Reconciler(tables(self._nb), Backoff())

    async def run(self, socket: Path | None) -> None:
        """Work until SIGTERM or SIGINT; SIGHUP reads the cluster file again."""
        loop = asyncio.get_running_loop()
        stop = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        loop.add_signal_handler(signal.SIGHUP, self._reload)
        async with contextlib.AsyncExitStack() as stack:
            if socket is not None:
                handlers = {"status": self._status}
                allowed = {0, os.geteuid()}
                await stack.enter_async_context(await serve(socket, SOCKET_MODE, handlers, allowed))
            await _until(stop, self.keep())
        log.info("central_stopped")

    async def keep(self) -> None:
        """Work until cancelled; signals and sockets are the caller's."""
        self._loop = asyncio.get_running_loop()
        self._nb.start()
        self._sb_client.start()
        try:
            await self._work()
        finally:
            # First the clients: a round under way waits for them, and fails at once without.
            await asyncio.to_thread(self._stop_clients)

    async def _work(self) -> None:
        """Rounds, and the watch over the chassis beside them."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._apply_loop.run())
            group.create_task(self._watch())

    async def _watch(self) -> None:
        """Ask the chassis for signs of life, as often as the cluster file says at the moment."""
        while True:
            self._heartbeat_changed.clear()
            every_s = self.cluster.heartbeat_s
            if every_s > 0 and not self.in_sync:
                await asyncio.sleep(RETRY_S)
                continue
            watching = None
            if every_s > 0:
                down = await asyncio.to_thread(self._nb.read, _marked_down, READ_TIMEOUT_S)
                self._vitals = Vitals(
                    self.cluster.nb_remote,
                    self.cluster.sb_remote,
                    every_s,
                    down,
                    lambda: self.active and self.in_sync,
                    self._apply_loop.invalidate,
                )
                watching = asyncio.create_task(self._vitals.run())
            try:
                await self._heartbeat_changed.wait()
            finally:
                self._vitals = None
                if watching is not None:
                    watching.cancel()
                    await asyncio.gather(watching, return_exceptions=True)

    def _from_thread(self, note: Callable[[], None]) -> None:
        """Hand something from a database's thread to the event loop."""
        if self._loop is not None:
            # The loop may be closed already while a client's thread still ends.
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(note)

    def _stop_clients(self) -> None:
        self._nb.stop()
        self._sb_client.stop()

    def _saw_nb(self) -> None:
        self._nb_seen = True
        self._apply_loop.invalidate()

    def _saw_sb(self, sb: SbSnapshot) -> None:
        before, self._sb = self._sb, sb
        # nb_cfg and the like change all the time; only what we read counts.
        if before is None or before.chassis != sb.chassis:
            self._apply_loop.invalidate()

    def _reload(self) -> None:
        """Take the cluster file anew; a bad one is refused whole and the last good one stays."""
        try:
            cluster = config.load_cluster(self.path)
        except config.ConfigProblems as error:
            self.config_problem = str(error)
            log.error("cluster_file_refused path=%s problems=%s", self.path, error)  # noqa: TRY400
            return
        if (cluster.nb_remote, cluster.sb_remote) != (
            self.cluster.nb_remote,
            self.cluster.sb_remote,
        ):
            self.config_problem = "cluster.nb or cluster.sb changed: restart the controller for it"
            log.error("cluster_file_refused path=%s problems=%s", self.path, self.config_problem)
            return
        self.config_problem = ""
        self.take(cluster)
        log.info("cluster_file_taken path=%s gateways=%d", self.path, len(cluster.gateways))

    def take(self, cluster: ClusterConfig) -> None:
        """Go by other decisions from now on; the databases stay those of the first ones."""
        before, self.cluster = self.cluster, cluster
        if cluster.heartbeat_s != before.heartbeat_s:
            self._heartbeat_changed.set()
        self._apply_loop.invalidate()

    @property
    def in_sync(self) -> bool:
        """Both databases have spoken and are there now."""
        return (
            self._nb_seen
            and self._sb is not None
            and self._nb.connected
            and self._sb_client.connected
        )

    async def _apply(self, _: Scope) -> float | None:
        """One round: plan from what is there at this moment, and make it so.

        Raises:
            RoundFailed: a database could not be read, or somebody else's rows were too odd.
        """
        if self._sb is None or not self.in_sync:
            return None
        try:
            down = self._vitals.down if self._vitals is not None else frozenset[str]()
            return await asyncio.to_thread(self._round, self.cluster, self._sb, down)
        except DataplaneError as error:
            log.warning("round_failed error=%s", error)
        except Exception:
            # The boundary: rows that somebody else wrote must not end the controller.
            log.exception("round_failed")
        raise RoundFailed(RETRY_S)

    def _round(self, cluster: ClusterConfig, sb: SbSnapshot, down: frozenset[str]) -> float | None:
        """In a thread of its own, one at a time: it waits for the database.

        The northbound database is read here, not taken from the last notice: a plan from before
        our own last writes would give the same addresses out again.
        """
        started = time.monotonic()
        nb = self._nb.read(_locked_snapshot, READ_TIMEOUT_S)
        if (nb is not None) != self.active:
            self.active = nb is not None
            log.info("active=%s", self.active)
        if nb is None:
            return None  # gaining the lock counts as a change and wakes us
        plan = northbound(cluster, nb, sb, down)
        report = self._reconciler.apply({name: getattr(plan, name) for name in TABLES}, started)
        if plan.problems != self.plan.problems:
            for problem in plan.problems:
                log.warning("problem %s", problem)
        self.plan = plan
        seconds = time.monotonic() - started
        self.applied.add(report, time.time(), seconds)
        if report.writes:
            log.info(
                "applied writes=%d failed=%d ms=%.1f tables=%s",
                report.writes,
                report.failed,
                seconds * 1000,
                {
                    name: table.upserts + table.deletes
                    for name, table in report.tables.items()
                    if table.upserts + table.deletes
                },
            )
        if report.next_retry_at is None:
            return None
        return max(report.next_retry_at - time.monotonic(), 0.0)

    async def _status(self, _: Args) -> Args:
        """The answer to `status` on the socket."""
        statuses = self._reconciler.statuses()
        return {
            "pid": os.getpid(),
            "cluster_file": str(self.path),
            "config_problem": self.config_problem,
            "connected": {"nb": self._nb.connected, "sb": self._sb_client.connected},
            "in_sync": self.in_sync,
            "active": self.active,
            "down": sorted(self._vitals.down) if self._vitals is not None else [],
            "applied": asdict(self.applied),
            "rows": {name: len(getattr(self.plan, name)) for name in TABLES},
            "problems": [
                asdict(problem)
                for problem in (*unreachable(self._nb, self._sb_client), *self.plan.problems)
            ],
            "unfinished": [
                {
                    "table": table,
                    "row": str(key),
                    "state": status.state.value,
                    "reason": status.reason,
                    "attempts": status.attempts,
                }
                for (table, key), status in statuses.items()
                if status.state is not State.DONE
            ],
        }


def _locked_snapshot(replica: Replica) -> NbSnapshot | None:
    """The northbound database, in the database's thread; None while another process writes it.

    Two writers would each make a row of the same name: OVN keeps names of routers not unique.
    """
    if replica.lock_name is None:
        replica.set_lock(LOCK)
    return nb_database.snapshot(replica) if replica.has_lock else None


def _marked_down(replica: Replica) -> frozenset[str]:
    """The chassis that our rows say are down."""
    return frozenset(
        router.options.get("chassis", "")
        for router in nb_database.snapshot(replica).routers.values()
        if is_ours(router.external_ids) and DOWN_KEY in router.external_ids
    )


async def _until(stop: asyncio.Event, work: Coroutine[None, None, None]) -> None:
    """Run `work` until `stop` is set; what `work` raises is raised."""
    loop = asyncio.get_running_loop()
    working = loop.create_task(work)
    stopping = loop.create_task(stop.wait())
    try:
        await asyncio.wait({working, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            working.result()
    finally:
        for task in (working, stopping):
            task.cancel()
        await asyncio.gather(working, stopping, return_exceptions=True)


def main(cluster_path: Path, socket: Path | None = None) -> int:
    """Run the cluster controller in the foreground; the exit code.

    The caller has set logging up and keeps the pid file.

    Raises:
        ConfigProblems: the cluster file is wrong.
    """
    cluster = config.load_cluster(cluster_path)
    if cluster.tls is not None:
        use_tls(Tls(*cluster.tls))
    central = Central(cluster_path, cluster)
    asyncio.run(central.run(socket))
    return 0
