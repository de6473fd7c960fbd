"""From one poll of OVS to the next: what is wrong, as `dataplane.plan.advice` sees it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from dataplane.drivers.ovsinterfaces import InterfaceState
from dataplane.drivers.ovsscrape import OvsFigures
from dataplane.drivers.ovstext import PmdThread
from dataplane.drivers.pmdtasks import Switches
from dataplane.model.state import Attachment, PortKind
from dataplane.plan.advice import (
    Condition,
    GuestMeasure,
    PmdMeasure,
    PoolMeasure,
    Reports,
    conditions,
)
from dataplane.plan.ovskeys import flow_cache

Json = dict[str, object]
_Before = tuple[float, OvsFigures, Mapping[int, Switches]]


class Conditions:
    """Remembers the last poll, and since when a guest has been gone. For one thread at a time.

    `exists` says whether a guest's socket is there: QEMU makes it, and takes it away as it ends.
    """

    def __init__(self, exists: Callable[[str], bool] = lambda path: Path(path).exists()) -> None:
        self._exists = exists
        self._before: _Before | None = None
        self._gone: dict[str, float] = {}
        self.latest: tuple[Condition, ...] = ()

    def take(
        self,
        now: float,
        figures: OvsFigures | None,
        switches: Mapping[int, Switches],
        interfaces: Mapping[str, InterfaceState],
        attachments: Iterable[Attachment],
        settings: Mapping[str, str],
        void_shapers: Mapping[str, str],
    ) -> tuple[Condition, ...]:
        """The conditions at `now` [s]; without figures nothing but guests is judged.

        `settings`: Open_vSwitch.other_config, whoever wrote it: that is what threads act on.
        `void_shapers`: types of QoS rows that do nothing, by port.
        """
        before, self._before = self._before, (now, figures, switches) if figures else None
        found = figures or OvsFigures()
        self.latest = conditions(
            Reports(
                pmds=tuple(_pmds(now, found, switches, before)),
                pools=tuple(
                    PoolMeasure(one.name, one.numa, one.size, one.available)
                    for one in found.mempools
                ),
                guests=tuple(self._guests(now, found, interfaces, attachments)),
                flows=sum(one.flows for one in found.datapaths),
                tracked=found.tracked,
                tracked_most=found.tracked_most,
                zones={
                    number: (zone.limit, zone.connections)
                    for number, zone in found.limits.zones.items()
                },
                cache=flow_cache(settings),
                void_shapers=void_shapers,
            )
        )
        return self.latest

    def _guests(
        self,
        now: float,
        figures: OvsFigures,
        interfaces: Mapping[str, InterfaceState],
        attachments: Iterable[Attachment],
    ) -> Iterable[GuestMeasure]:
        here = [one for one in attachments if one.kind is PortKind.VHOST_USER]
        for device in self._gone.keys() - {one.device for one in here}:
            del self._gone[device]
        for one in here:
            state = interfaces.get(one.device)
            if state is None:
                continue
            connected = state.status.get("status") == "connected"
            if connected or not self._exists(one.socket):
                self._gone.pop(one.device, None)
            polled = [
                (thread.numa, rxq)
                for thread in figures.pmds
                for rxq in thread.rxqs
                if rxq.interface == one.device
            ]
            numa = state.status.get("numa", "")
            yield GuestMeasure(
                one.device,
                one.iface_id,
                numa=int(numa) if connected and numa.isdigit() else None,
                polled_on=frozenset(node for node, _ in polled),
                gone_s=0.0
                if connected or not self._exists(one.socket)
                else now - self._gone.setdefault(one.device, now),
                queues=len(polled),
                disabled=sum(not rxq.enabled for _, rxq in polled) if connected else 0,
            )


def view(found: Iterable[Condition]) -> list[Json]:
    """The conditions in the answer to `status`."""
    return [
        {
            "kind": one.kind,
            "subject": one.subject,
            "cause": one.cause,
            "next_step": one.next_step,
        }
        for one in found
    ]


def _pmds(
    now: float,
    figures: OvsFigures,
    switches: Mapping[int, Switches],
    before: _Before | None,
) -> Iterable[PmdMeasure]:
    if before is None:
        return
    then, old, were = before
    was = {(one.numa, one.cpu): one for one in old.pmds}
    for thread in figures.pmds:
        place = thread.numa, thread.cpu
        previous = was.get(place)
        if previous is None:
            continue
        done = _since(thread, previous)
        if any(count < 0 for count in done.values()):
            continue  # vswitchd is another process, or somebody cleared its counters
        yield PmdMeasure(
            cpu=thread.cpu,
            numa=thread.numa,
            seconds=now - then,
            busy=_busy(
                figures.cycles.get(place),
                old.cycles.get(place),
                done["Sleep time (us)"] / 1e6 / (now - then) if now > then else 0.0,
            ),
            queues=len(thread.rxqs),
            packets=done["Rx packets"],
            emc_hits=done["EMC hits"],
            smc_hits=done["SMC hits"],
            megaflow_hits=done["Megaflow hits"],
            lost_upcalls=done["Lost upcalls"],
            forced_switches=switches[thread.cpu].stolen_since(were[thread.cpu])
            if thread.cpu in switches and thread.cpu in were
            else 0,
        )


_WORDS = ("Rx packets", "EMC hits", "SMC hits", "Megaflow hits", "Lost upcalls", "Sleep time (us)")
"""OVS's own (dpif-netdev-perf.c)."""


def _since(thread: PmdThread, before: PmdThread) -> dict[str, int]:
    return {word: thread.counters.get(word, 0) - before.counters.get(word, 0) for word in _WORDS}


def _busy(
    cycles: tuple[int, int] | None, before: tuple[int, int] | None, slept: float
) -> float | None:
    """Share of the time between two polls in which a thread had packets [%].

    Cycles are counted while it is awake only: of a thread that sleeps until packets come nearly all
    are busy. `slept`: the share of the time that it was not.
    """
    if cycles is None or before is None:
        return None
    idle, busy = cycles[0] - before[0], cycles[1] - before[1]
    if idle < 0 or busy < 0 or not idle + busy:
        return None
    return 100 * busy / (idle + busy) * (1 - min(slept, 1))
