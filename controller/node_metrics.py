"""Keeps the metrics' snapshot of a node daemon fresh, so that a scrape asks nobody."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from controller.completion import in_thread
from controller.metrics import (
    Counted,
    MetricsSnapshot,
)
from controller.metrics_ports import PortSeries, TopPorts, Workload, workload
from controller.metrics_services import ConntrackFigures, ServiceSeries, TopServices
from controller.restart_watch import SETTINGS_RECORD, RestartWatch
from controller.vswitchd import control_socket
from dataplane.drivers.counters import counters, evictions
from dataplane.drivers.napithreads import NapiThreadsTable
from dataplane.drivers.ovsinterfaces import InterfaceState
from dataplane.drivers.ovsqos import void_shapers
from dataplane.drivers.ovsscrape import OvsFigures, OvsPoll
from dataplane.drivers.pmdtasks import Switches, switches_of_pmds
from dataplane.drivers.servicestats import read_counts
from dataplane.drivers.unixctl import UnixctlClient
from dataplane.ports import DataplaneError, ObserveError

if TYPE_CHECKING:
    from controller.node import NodeDaemon

log = logging.getLogger(__name__)

REFRESH_S = 10.0
"""unixctl commands run on vswitchd's main thread: asked one after the other, and not often."""

COMMAND_TIMEOUT_S = 5.0
SHARE = 20
"""A poll that took long is followed by a pause this many times as long, at most PAUSE_MOST_S."""

PAUSE_MOST_S = 120.0


def pause_after(figures: OvsFigures | None) -> float:
    """How long to leave vswitchd alone after a poll [s]."""
    took = figures.poll_seconds if figures else 0.0
    return min(max(REFRESH_S, SHARE * took), PAUSE_MOST_S)


class NodeMetrics:
    """`controller.metrics.MetricsSource` over one daemon."""

    def __init__(self, daemon: NodeDaemon) -> None:
        self._daemon = daemon
        self._latest: MetricsSnapshot | None = None
        self._top = TopServices()
        self._top_ports = TopPorts()
        self._poll = OvsPoll()
        self._spent = 0.0
        self._moved = False
        self._restart = RestartWatch(Path(daemon.config.rundir) / SETTINGS_RECORD)

    def metrics(self) -> MetricsSnapshot | None:
        """The last snapshot."""
        return self._latest

    async def refresh(self) -> None:
        """Take a snapshot every REFRESH_S, or more seldom if vswitchd is slow, until cancelled."""
        while True:
            try:
                self._latest = await in_thread(self._measured)
                if self._moved:
                    self._moved = False
                    self._daemon.loop.invalidate("plan")
            except DataplaneError as error:
                log.warning("metrics_not_refreshed error=%s", error)
            except Exception:
                # The boundary: figures must never end the daemon.
                log.exception("metrics_not_refreshed")
            await asyncio.sleep(pause_after(self._latest.figures if self._latest else None))

    def _measured(self) -> MetricsSnapshot:
        """A snapshot that says what it cost, all before it included."""
        began = time.thread_time()
        found = self._snapshot()
        self._spent += time.thread_time() - began
        return replace(found, cpu_seconds=self._spent)

    def _snapshot(self) -> MetricsSnapshot:
        daemon = self._daemon
        applied, ovs, pid = daemon.applied, daemon.ovs.latest, daemon.vswitchd.pid
        client = self._client()
        figures = self._poll.take(client) if client else None
        switches = self._switches(pid) if pid is not None else {}
        states = self._states()
        return MetricsSnapshot(
            at=time.time(),
            converged=daemon.converged(),
            in_sync=daemon.sources.in_sync,
            rounds=applied.rounds,
            writes=applied.writes,
            last_round_seconds=applied.last_ms / 1000,
            vswitchd_restarts=daemon.vswitchd.restarts,
            started_at=daemon.started_at,
            tables=self._daemon.reconciler.tallies(),
            restart_pending=self._restart_pending(client),
            figures=figures,
            switches=switches,
            ports=self._ports(states),
            conditions=self._conditions(figures, switches, states),
            xdp={
                reason.name: Counted(count.packets, count.octets)
                for reason, count in counters(daemon.bpf).items()
            },
            trunk={
                reason.name: Counted(passed.packets, passed.octets)
                for reason, passed in daemon.trunk.counted().items()
            },
            services=self._services(),
            conntrack=self._conntrack(),
            evicted=evictions(daemon.bpf.maps["counters"]),
            ovs={
                "ovs_version": daemon.ovs_version,
                "dpdk_version": ovs.dpdk_version,
                "db_version": ovs.db_version,
            }
            if ovs
            else {},
            dpdk_initialized=ovs.dpdk_initialized if ovs else None,
        )

    def _switches(self, pid: int) -> Mapping[int, Switches]:
        """What the kernel says of vswitchd's PMD threads, and of ours on their cores."""
        found, planned = switches_of_pmds(pid), self._daemon.planned
        turns: Mapping[int, int] = {}
        with contextlib.suppress(ObserveError):
            turns = NapiThreadsTable().turns(planned.polls if planned is not None else {})
        return {cpu: replace(one, turns=turns.get(cpu, 0)) for cpu, one in found.items()}

    def _client(self) -> UnixctlClient | None:
        pid = self._daemon.vswitchd.pid
        if pid is None:
            return None
        socket = control_socket(Path(self._daemon.config.ovs_rundir), pid)
        return UnixctlClient(str(socket), COMMAND_TIMEOUT_S)

    def _restart_pending(self, client: UnixctlClient | None) -> int:
        settings = self._settings()
        if not settings:
            return 0
        return len(self._restart.pending(client.process() if client else None, settings))

    def _settings(self) -> Mapping[str, str]:
        try:
            return self._daemon.ovs.other_config()
        except DataplaneError:
            return {}  # the age of the other figures says enough

    def _states(self) -> Mapping[str, InterfaceState] | None:
        try:
            return self._daemon.ovs.interface_states()
        except DataplaneError as error:
            log.warning("interface_figures_missing error=%s", error)
            return None

    def _conditions(
        self,
        figures: OvsFigures | None,
        switches: Mapping[int, Switches],
        states: Mapping[str, InterfaceState] | None,
    ) -> Counter[str]:
        """How many conditions of each kind hold; what queues cost goes to the rebalancer, too."""
        daemon, planned = self._daemon, self._daemon.planned
        attachments = tuple(daemon.attachments.values())
        if figures is not None and planned is not None:
            polled = {name for name, port in planned.ports.items() if port.type != "system"}
            with contextlib.suppress(DataplaneError):
                self._moved |= daemon.rebalancer.take(figures.pmds, polled, daemon.config)
        shapers: Mapping[str, str] = {}
        with contextlib.suppress(DataplaneError):
            shapers = daemon.ovs.look(void_shapers)
        found = daemon.conditions.take(
            time.monotonic(),
            figures,
            switches,
            states or {},
            attachments,
            self._settings(),
            shapers,
        )
        return Counter(one.kind for one in found)

    def _ports(self, states: Mapping[str, InterfaceState] | None) -> PortSeries:
        if states is None:
            return PortSeries()
        states = {**states, **self._daemon.containers.interfaces()}
        return self._top_ports.take(states.values(), self._workloads(states))

    def _workloads(self, states: Mapping[str, InterfaceState]) -> dict[str, Workload]:
        return {
            one.device: workload(states[one.device].external_ids, one.namespace, one.pod)
            for one in tuple(self._daemon.attachments.values())
            if one.device in states
        }

    def _services(self) -> ServiceSeries:
        daemon = self._daemon
        return self._top.take(
            read_counts(daemon.bpf.maps),
            daemon.serving.names,
            daemon.config.services.metrics,
        )

    def _conntrack(self) -> dict[str, ConntrackFigures]:
        follow_up = self._daemon.follow_up
        found = {
            f"ipv{version}": ConntrackFigures(fill.slots, fill.slots // 2, fill.live)
            for version, fill in follow_up.conntrack.fill().items()
        }
        # Behind it, for it has ended the flows whose time is over. Not while flows are carried
        # over: a record that is claimed is taken for one that becomes a flow there.
        if not self._daemon.carrying.active:
            follow_up.tidy()
        return found
