"""The operations of the daemon's control socket: what `millrace status` and the like ask."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from cni.wire import CODE_TRY_AGAIN, RemoteError
from controller import conditions, nics, views
from controller import config as config_files
from controller.balance_api import BalanceApi
from controller.completion import in_thread
from controller.config_machine import check_machine
from controller.ovn.reach import unreachable
from controller.restart_watch import SETTINGS_RECORD, RestartWatch
from controller.server import Args, Handler
from controller.sight_api import SightApi
from controller.translate.node import gateway_problems
from controller.tuning import settle
from controller.vswitchd import control_socket
from dataplane.drivers.idl import DatabaseTimeoutError
from dataplane.drivers.libbpf import LibbpfError
from dataplane.drivers.machinefacts import machine_facts
from dataplane.drivers.programs import program_info
from dataplane.drivers.unixctl import UnixctlClient
from dataplane.model.config import NodeConfig
from dataplane.model.state import Attachment
from dataplane.plan.ovs import foreign_settings, ovs_settings, spelt, yielded
from dataplane.plan.ovskeys import RESTART_KEYS
from dataplane.plan.untested import untested
from dataplane.ports import DataplaneError
from dataplane.reconcile.status import State, Status
from dataplane.reconcile.statuses import Tally

if TYPE_CHECKING:
    from controller.node import NodeDaemon

CODE_CONFIG = 110
"""Refusal of `apply`: the file is wrong; `details` has every problem with its line."""

APPLY_TIMEOUT_S = 30.0
"""How long an order waits for the round that carries it out; a slow vswitchd takes seconds."""

FIXED = ("name", "rundir", "statedir", "bpf_root", "ovs_remote", "ovs_rundir", "nb_remote",
         "sb_remote", "metrics_listen", "embedded_ovs", "embedded_ovn", "ovn_tls")  # fmt: skip
"""Fields of the configuration that a running daemon cannot change."""

CAPACITIES = ("flows", "services", "backends")
"""The same below [services]: the sizes of maps, which are made as the daemon starts."""


def _iso(epoch_s: float) -> str | None:
    return (
        datetime.fromtimestamp(epoch_s, UTC).isoformat(timespec="milliseconds") if epoch_s else None
    )


class AgentApi:
    """Handlers over one daemon; they read what it has, and change nothing but its configuration."""

    def __init__(self, daemon: NodeDaemon) -> None:
        self._daemon = daemon
        self._restart = RestartWatch(Path(daemon.config.rundir) / SETTINGS_RECORD)

    def handlers(self) -> Mapping[str, Handler]:
        """Operation name to handler, for `controller.server.serve`."""
        return {
            "status": self.status,
            "ports": self.ports,
            "apply": self.apply,
            "retry": self.retry,
            **SightApi(self._daemon).handlers(),
            **self._daemon.draining.handlers(),
            **BalanceApi(self._daemon).handlers(),
        }

    async def status(self, args: Args) -> Args:
        """Where the node stands; `all` lists objects that are done, too."""
        daemon = self._daemon
        reconciler = daemon.reconciler
        # All of one moment: a round may end while OVS is asked. Who has converged has counted it.
        converged = daemon.converged()
        statuses = reconciler.statuses() if args.get("all") else reconciler.odd_statuses()
        tables = _tables(reconciler.tallies())
        now, clock = time.time(), time.monotonic()
        applied, vswitchd, ovs = daemon.applied, daemon.vswitchd, daemon.ovs.latest
        view = daemon.sources.view(daemon.config)
        settings = await in_thread(self._settings)
        found = [
            *unreachable(daemon.nb, daemon.sb),
            *(gateway_problems(daemon.sources.nb, daemon.config.name) if daemon.sources.nb else ()),
            *daemon.sources.problems(),
            *daemon.sources.mtu_problems(daemon.config, daemon.attachments.values()),
            *daemon.health_ports.problems(),
        ]
        return {
            "node": daemon.config.name,
            "pid": os.getpid(),
            "uptime_s": now - daemon.started_at,
            "config": str(daemon.path),
            "converged": converged,
            "degraded": any(s.state is State.ERROR for s in statuses.values()),
            "last_apply": {
                "writes": applied.last_writes,
                "first_writes": applied.first_writes,
                "total_writes": applied.writes,
                "rounds": applied.rounds,
                "ms": applied.last_ms,
                "at": _iso(applied.last_at),
                "problem": applied.problem,
            },
            "tables": tables,
            "objects": [
                _object(table, key, status, now - clock)
                for (table, key), status in statuses.items()
                if args.get("all") or status.state is not State.DONE
            ],
            "containers": daemon.containers.view(),
            "gateway": views.gateway_view(view.gateway if view else None),
            "host": views.host_view(view.host if view else None, daemon.config.host.link),
            "ovn": {"nb": daemon.nb.connected, "sb": daemon.sb.connected},
            "ovs": {
                "connected": daemon.ovs.connected,
                "pid": vswitchd.pid,
                "version": daemon.ovs_version or (ovs.version if ovs else ""),
                "dpdk": ovs.dpdk_version if ovs and ovs.dpdk_initialized else "",
                "restarts": vswitchd.restarts,
                "recovering": vswitchd.recovering,
                **settings,
                "draining": daemon.draining.reason() or "",
                "last_outage_ms": None if vswitchd.outage_s is None else vswitchd.outage_s * 1000,
            },
            "programs": await in_thread(_programs, daemon),
            "untested": list(untested(daemon.config)),
            "conditions": conditions.view(daemon.conditions.latest),
            "problems": views.problems_view(found)
            + nics.mtu_problems(
                daemon.config, {p.name: p.mtu for p in ovs.ports.values()} if ovs else {}
            )
            + [
                {"name": "attachment record", "cause": text, "next_step": "see the daemon's log"}
                for text in daemon.store.quarantined
            ],
        }

    def _settings(self) -> Args:
        """What others set in OVS, what waits for its restart, and what its release cannot do."""
        daemon, pid = self._daemon, self._daemon.vswitchd.pid
        config = daemon.config
        theirs: Mapping[str, str] = {}
        overwrote: Mapping[str, str] = {}
        pending: Mapping[str, tuple[str | None, str | None]] = {}
        # Without the database nothing is said of it; `connected` tells.
        with contextlib.suppress(DataplaneError):
            there = daemon.ovs.other_config()
            theirs, overwrote = daemon.settings.foreign()
            if pid is not None:
                socket = control_socket(Path(config.ovs_rundir), pid)
                pending = self._restart.pending(UnixctlClient(str(socket)).process(), there)
        return {
            "foreign_settings": foreign_settings(config, theirs),
            "foreign_wins": {key: list(both) for key, both in yielded(config, theirs).items()},
            "overwrote": dict(overwrote),
            "restart_pending": {key: list(change) for key, change in pending.items()},
            "cannot": list(spelt(config).cannot),
        }

    async def ports(self, _: Args) -> Args:
        """Every attachment, with what OVS says of its port."""
        daemon = self._daemon
        try:
            interfaces = await in_thread(daemon.ovs.interface_states)
        except DataplaneError:
            interfaces = {}
        with contextlib.suppress(DataplaneError):
            interfaces = {**interfaces, **await in_thread(daemon.containers.interfaces)}
        reconciler = daemon.reconciler

        def facts(attachment: Attachment) -> views.PortFacts:
            status = reconciler.status("ports", attachment.device)
            state = interfaces.get(attachment.device)
            counters = state.statistics if state else {}
            link = state.link_state if state else ""
            if state and state.status.get("status"):
                link = state.status["status"]  # vhost-user: connected or disconnected
            installed = state is not None and state.external_ids.get("ovn-installed") == "true"
            word = status.state.value if status else "pending"
            reason = status.reason if status else "not applied yet"
            if attachment.tag:
                word, reason = daemon.containers.state(attachment)
            elif word == "done" and not installed:
                word, reason = "pending", "ovn-controller has not installed its flows yet"
            told = state.status if state and link == "connected" else {}
            return views.PortFacts(
                word,
                reason,
                link,
                counters.get("rx_packets", 0),
                counters.get("tx_packets", 0),
                vrings=_number(told.get("num_of_vrings", "")),
                numa=_number(told.get("numa", "")),
            )

        return views.ports_view((a, facts(a)) for a in daemon.attachments.values())

    async def apply(self, args: Args) -> Args:
        """Take a configuration file over, whole or not at all; what changed.

        The answer comes after a round with the new configuration.
        """
        daemon = self._daemon
        path = Path(str(args.get("path") or daemon.path))
        try:
            source = await in_thread(config_files.load_node, path)
            facts = await in_thread(machine_facts)
        except config_files.ConfigProblems as error:
            raise _refused(path, str(error)) from error
        found = check_machine(source, facts)
        if found:
            raise _refused(path, str(config_files.ConfigProblems(found)))
        if waiting := await in_thread(nics.not_bound, source.config):
            raise _refused(path, waiting)
        try:
            before, after = daemon.config, await in_thread(settle, source)
        except config_files.ConfigProblems as error:
            raise _refused(path, str(error)) from error
        changed = [f for f in NodeConfig.__slots__ if getattr(before, f) != getattr(after, f)]
        fixed = [name for name in changed if name in FIXED]
        fixed += [
            f"services.{name}"
            for name in CAPACITIES
            if getattr(before.services, name) != getattr(after.services, name)
        ]
        if fixed:
            raise _refused(
                path,
                f"{path}: {', '.join(fixed)} cannot change while the daemon runs; "
                "restart it with this file instead",
            )
        settings = ovs_settings(before), ovs_settings(after)
        pending = [
            key[1]
            for key in sorted(settings[0].keys() | settings[1].keys())
            if key[1] in RESTART_KEYS and settings[0].get(key) != settings[1].get(key)
        ]
        # What vswitchd began with is noted before it changes, if nobody has asked before.
        await in_thread(self._settings)
        daemon.take_config(after)
        await _applied(daemon)
        return {
            "changed": changed,
            "restart_pending": pending,
            "writes": daemon.applied.last_writes,
            "problem": daemon.applied.problem,
            "restart_reads": str(daemon.path),
        }

    async def retry(self, args: Args) -> Args:
        """Try a quarantined or failed object again now: `table`, and `key` as status shows it."""
        daemon = self._daemon
        tried = [
            f"{table} {key_text(key)}"
            for (table, key), status in daemon.reconciler.odd_statuses().items()
            if status.state is not State.DONE
            and args.get("table") in (None, table)
            and args.get("key") in (None, key_text(key))
            and daemon.reconciler.retry(table, key)
        ]
        daemon.loop.invalidate()
        await _applied(daemon)
        return {"retried": tried}


def _number(text: str) -> int | None:
    return int(text) if text.isascii() and text.isdigit() else None


def key_text(key: object) -> str:
    """A row's key as `millrace status` shows it."""
    return " ".join(str(part) for part in key) if isinstance(key, tuple) else str(key)


async def _applied(daemon: NodeDaemon) -> None:
    """Wait for the round that carries an order out."""
    try:
        await asyncio.wait_for(daemon.loop.applied(), APPLY_TIMEOUT_S)
    except TimeoutError as error:
        claim = f"no round has ended within {APPLY_TIMEOUT_S:g} s; it goes on"
        raise RemoteError(CODE_TRY_AGAIN, claim, "see the daemon's log") from error


def _refused(path: Path, details: str) -> RemoteError:
    return RemoteError(
        CODE_CONFIG, f"{path} is refused, the last good configuration stays", details
    )


def _tables(tallies: Mapping[str, Tally]) -> list[Args]:
    return [
        {"name": name, "rows": tally.rows, "pending": tally.pending, "error": tally.errors}
        for name, tally in tallies.items()
    ]


def _object(table: str, key: object, status: Status, epoch: float) -> Args:
    """One object of `status`; `epoch` turns the daemon's clock into the epoch's."""
    return {
        "table": table,
        "key": key_text(key),
        "state": status.state.value,
        "reason": status.reason,
        "since": _iso(status.since + epoch),
        "attempts": status.attempts,
        "quarantined": status.quarantined,
    }


def _programs(daemon: NodeDaemon) -> list[Args]:
    planned = daemon.planned
    rows: list[Args] = []
    for device, program in sorted(planned.programs.items()) if planned else ():
        try:
            info = program_info(device)
        except (LibbpfError, DatabaseTimeoutError):
            info = None
        ours = info is not None and daemon.bpf.kind_of(info) is program.kind
        rows.append(
            {
                "device": device,
                "kind": program.kind.value,
                "attached": ours,
                "id": info.id if info else None,
                "tag": info.tag if info else None,
                "name": info.name if info else None,
                "run_cnt": info.run_cnt if info else None,
                "run_time_ns": info.run_time_ns if info else None,
            }
        )
    return rows
