"""The node daemon's rounds: from the latest word of every source to a node that equals the plan.

A single worker thread runs them, so that every driver is used by one thread at a time. Two changes
take a short way before anything is looked at: services, row by row (`controller.serving`), and
attachments, of which a call says itself whose rows it changed.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import time
from collections.abc import Callable, Hashable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from controller.applied import Applied
from controller.loop import RoundFailed, Scope
from controller.sources import EARLY_TABLES
from controller.vswitchd import recovered
from dataplane.drivers import migration
from dataplane.drivers.formermaps import remove_former
from dataplane.drivers.nics import read_nics
from dataplane.drivers.preemption import Preemption, preemption
from dataplane.drivers.programs import ProgramTable
from dataplane.model.config import NodeConfig
from dataplane.model.rows import Hugepages, Program
from dataplane.model.state import Attachment, HeldIds, Nic
from dataplane.plan.ids import OutOfIds
from dataplane.plan.node import NodePlan, plan
from dataplane.ports import DataplaneError
from dataplane.reconcile.report import Report

if TYPE_CHECKING:
    from controller.node import NodeDaemon

log = logging.getLogger(__name__)

ATTACHED_TABLES = ("ports", "qos", "buckets", "trunk", "nested")
"""Tables with rows of attachments, by their device or logical port."""

SERVICE_TABLES = ("backends", "sets", "source_ranges", "vips")
"""Tables that hold ids of service ports and backends."""

RETRY_S = 1.0
"""After a round that could not read one of its surfaces."""

Rows = Mapping[str, Mapping[Any, Any]]


class Rounds:
    """Computes plans and applies them.

    Attributes:
        planned: the plan of the last round.
        applied: what the rounds did so far.
        wanted_pages: the huge pages of the plan that is being applied.
    """

    def __init__(self, daemon: NodeDaemon) -> None:
        self._daemon = daemon
        self.planned: NodePlan | None = None
        self.applied = Applied()
        self.wanted_pages: Mapping[int, Hugepages] = {}
        self._whole = False
        self._left: frozenset[str] = frozenset()
        """Tables that a round of everything has not come to, for something was more urgent."""
        self._anew = True
        """Whether the book of services was made anew since the last round that came to its end."""
        self._touched: set[Hashable] = set()
        self._to_the_end = preemption() is Preemption.NONE
        self._worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="apply")

    def stop(self) -> None:
        """Return when the round under way is over; there is none after it."""
        self._worker.shutdown(wait=True)

    def touch(self, *keys: Hashable) -> None:
        """Have the next round write, or remove, what attachments have under these keys.

        Whatever is there. They are devices and logical ports.
        """
        self._touched.update(keys)

    async def apply(self, scope: Scope) -> float | None:
        """One round; seconds until the next retry.

        Raises:
            RoundFailed: it did not look at all that it was told to.
        """
        daemon = self._daemon
        touched = frozenset(self._touched)
        if daemon.sources.in_sync:
            self._touched = set()
        try:
            return await asyncio.get_running_loop().run_in_executor(
                self._worker,
                self._round,
                daemon.config,
                tuple(daemon.attachments[key] for key in sorted(daemon.attachments)),
                frozenset(daemon.linkless),
                scope,
                touched,
                daemon.sources.in_sync,
            )
        except (DataplaneError, OutOfIds) as error:
            log.warning("round_failed error=%s", error)
            self.applied = replace(self.applied, problem=str(error))
        except Exception as error:
            # The boundary: what somebody else wrote into a database must not end the daemon.
            log.exception("round_failed")
            self.applied = replace(self.applied, problem=repr(error))
        self._touched |= touched
        raise RoundFailed(RETRY_S)

    # -- in the worker thread -----------------------------------------------------------------

    def _round(
        self,
        config: NodeConfig,
        attachments: tuple[Attachment, ...],
        linkless: frozenset[str],
        scope: Scope,
        touched: frozenset[Hashable],
        in_sync: bool,
    ) -> float | None:
        daemon, started = self._daemon, time.monotonic()
        if not self._whole:
            scope = None if in_sync else EARLY_TABLES
        if scope is None or "links" in scope:
            daemon.sources.saw_nics(nics_of(config))
        quick = self._serve(config, started)
        known = daemon.serving.served()
        planned = plan(replace(self._state(config, attachments), linkless=linkless), known)
        if self.planned is not None and self._whole and in_sync:
            rows, rest = of_attachments(self.planned, planned, touched)
            if rows:
                quick = quick.then(daemon.reconciler.apply_keys(rows, started))
        else:
            rest = planned.differences(self.planned)
        whole = scope is None or (in_sync and bool(self._left))
        if scope is not None and in_sync:
            scope |= rest | self._left
        self.wanted_pages = planned.hugepages
        # What the plan has otherwise than the last one is waited for, too.
        pressed = self._pressed(in_sync) if not rest else _never
        tables = planned.tables() if in_sync else self._early(planned)
        report = daemon.reconciler.apply(
            tables, started, only=scope, prune=in_sync, pressed=pressed
        )
        if in_sync:
            self._left = report.left
        if in_sync and not report.left:
            daemon.follow_up.follow(planned)
            self._anew = False
        whole = whole and not report.left
        if whole and looked_at(report, SERVICE_TABLES):
            daemon.serving.settle()
        self.planned = planned
        self._note(quick.then(report), started, whole=whole)
        if whole:
            self._after_whole(config)
        if report.next_retry_at is None:
            return None
        return max(report.next_retry_at - time.monotonic(), 0.0)

    def _early(self, planned: NodePlan) -> dict[str, Mapping[Hashable, object]]:
        """What is applied of a plan before every source has spoken."""
        if not self._daemon.carrying.active:
            return planned.tables()
        return without_older(planned, ProgramTable(self._daemon.bpf).observe())

    def _pressed(self, in_sync: bool) -> Callable[[], bool]:
        """Who may end a round of everything early, which the next one ends: whoever waits."""
        loop = self._daemon.loop
        if self._whole and in_sync and loop.periodic:
            return loop.pressed
        return _never

    def _serve(self, config: NodeConfig, started: float) -> Report:
        """The short way of services: the changed rows, before anything else is looked at."""
        daemon, quick = self._daemon, Report({}, None)
        changes = daemon.serving.update(config)
        # Changes are of the book, and say nothing as long as the maps may not have the rest of it.
        self._anew |= changes is None
        if changes and not self._anew and self.planned is not None and self._whole:
            quick = daemon.reconciler.apply_keys(changes, started)
            known = daemon.serving.served()
            if known is not None:
                self.planned = self.planned.serving(known)
                daemon.follow_up.follow(self.planned, changes)
        return quick

    def _state(self, config: NodeConfig, attachments: tuple[Attachment, ...]) -> Any:
        daemon = self._daemon
        state = daemon.sources.state(config, attachments, HeldIds())
        if config.computed is not None:
            # Without the database nothing is written to it either; the rest must go on.
            with contextlib.suppress(DataplaneError):
                pinned_by_hand = frozenset(daemon.rebalancer.table.foreign())
                theirs = daemon.settings.foreign()[0]
                state = replace(state, theirs=theirs, pinned_by_hand=pinned_by_hand)
        return replace(state, pins=daemon.rebalancer.pins(config), to_the_end=self._to_the_end)

    def _note(self, report: Report, started: float, *, whole: bool) -> None:
        ms = (time.monotonic() - started) * 1000
        self.applied = self.applied.add(report, time.time(), ms, whole=whole)
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

    def _after_whole(self, config: NodeConfig) -> None:
        if not self._whole:
            # What is there now mostly stays. The collector need not walk it time and again,
            # which at 10,000 services would hold up every thread for a tenth of a second.
            gc.collect()
            gc.freeze()
        self._whole = True
        if self.converged():
            self._daemon.vswitchd = recovered(self._daemon.vswitchd, time.monotonic())
            # Today's programs are everywhere, so nothing works on other versions' maps.
            self._daemon.carrying.finish()
            if gone := migration.remove_older(config.bpf_root):
                log.info("old_pins_removed versions=%s", gone)
            if former := remove_former(config.bpf_root):
                log.info("former_maps_removed names=%s", ",".join(former))

    def converged(self) -> bool:
        """Every planned row is as planned, quarantined ones aside, and nothing is out of sight."""
        daemon = self._daemon
        return (
            self._whole
            and not self.applied.problem
            and not daemon.reconciler.unobserved
            and daemon.ovs.connected
            and daemon.vswitchd.pid is not None
            and all(status.quarantined for status in daemon.reconciler.odd_statuses().values())
        )


def _never() -> bool:
    return False


def of_attachments(
    before: NodePlan, now: NodePlan, touched: frozenset[Hashable]
) -> tuple[Rows, frozenset[str]]:
    """The rows of these attachments by table (None: it goes), and the tables that differ besides.

    Rows are named even where both plans have the same: what is on the node may be another.
    """
    rows: dict[str, Mapping[Any, Any]] = {}
    rest = set(now.differences(before))
    for name in ATTACHED_TABLES:
        then, wanted = getattr(before, name), getattr(now, name)
        of_table = {key: wanted.get(key) for key in touched if key in wanted or key in then}
        if of_table:
            rows[name] = of_table
        if name in rest and all(
            key in touched or then.get(key) == wanted.get(key) for key in then.keys() | wanted
        ):
            rest.discard(name)
    return rows, frozenset(rest)


def without_older(
    planned: NodePlan, there: Mapping[str, Program]
) -> dict[str, Mapping[Hashable, object]]:
    """A plan without programs on devices that have one of ours, which is an older version's.

    Of svc0's nothing is known before every source has spoken, and until then the two ways of flows
    would be in the hands of two versions. But where OVS has put its own program since, the node's
    address is cut off, and what is waited for may be behind it.
    """
    tables = planned.tables()
    tables["programs"] = {
        device: row for device, row in planned.programs.items() if device not in there
    }
    return tables


def looked_at(report: Report, tables: Iterable[str]) -> bool:
    """Whether the round looked at all these tables, and they are as planned."""
    return all(
        (table := report.tables.get(name)) is not None
        and not (table.failed or table.held or table.error)
        for name in tables
    )


def nics_of(config: NodeConfig) -> Mapping[str, Nic]:
    """What the kernel says of the NICs that the file names."""
    return read_nics(sorted({uplink.device for uplink in config.nics}))
