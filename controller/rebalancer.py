"""Decides from measured loads which PMD thread polls which queue, and says so before it does.

Each poll of vswitchd brings every queue's share of its thread over the last minute. The average of
the last polls goes to `dataplane.plan.rebalance`. What comes out is shown (`millrace rebalance`),
and becomes part of the node's plan if the file says so (`[tuning] rebalance = "apply"`) and several
polls in a row had it so, or if an operator orders it. The pins are in OVS's database, marked as
ours, and are read from there when the daemon starts: a restart changes nothing.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

from controller.server import Args
from dataplane.drivers.affinity import AffinityTable
from dataplane.drivers.ovstext import PmdThread
from dataplane.drivers.pmdload import cores_of, queue_loads
from dataplane.model.config import NodeConfig
from dataplane.plan.ovs import port_keys
from dataplane.plan.ports import nic_affinity
from dataplane.plan.rebalance import (
    QueueLoad,
    Rebalance,
    highest,
    parsed,
    propose,
    variance,
)
from dataplane.ports import ObserveError

OFF, ADVISE, APPLY = "off", "advise", "apply"
POLLS = 3
"""Averaged, and in a row of one mind before anything moves by itself."""

AUTO_LB_PERCENT = 95
"""Load of a thread above which OVS's own pmd-auto-lb acts, unless it is told another."""

Pins = Mapping[str, Mapping[int, int]]


class Rebalancer:
    """One node's. Asked by the worker's thread, the poll's and the control socket's."""

    def __init__(self, table: AffinityTable) -> None:
        self.table = table
        self._lock = threading.Lock()
        self._pins: Pins | None = None  # unknown until the database has been read
        self._polls: deque[tuple[QueueLoad, ...]] = deque(maxlen=POLLS)
        self._proposal: Rebalance | None = None
        self._agreed = 0

    def pins(self, config: NodeConfig) -> Pins:
        """The pins that are to be; those of the database at first."""
        if config.rebalance == OFF:
            self._forget()
            return {}
        with self._lock:
            if self._pins is None:
                try:
                    rows = self.table.observe()
                except ObserveError:
                    return {}  # nobody can write either; asked again in the next round
                kept = self_pinned(config)
                self._pins = {n: parsed(row.pins) for n, row in rows.items() if n not in kept}
            return self._pins

    def _forget(self) -> None:
        with self._lock:
            self._pins, self._proposal, self._agreed = {}, None, 0
            self._polls.clear()

    def take(
        self, threads: Sequence[PmdThread], ports: Collection[str], config: NodeConfig
    ) -> bool:
        """Look at one poll; whether the plan has to be computed anew.

        Raises:
            ObserveError: the database is out of reach.
        """
        if config.rebalance == OFF or not threads:
            return False
        ours = {name: parsed(row.pins) for name, row in self.table.observe().items()}
        kept = self_pinned(config)
        given = {**self.table.foreign(), **{n: ours.pop(n) for n in kept if n in ours}}
        loads = queue_loads(threads, ports, ours, given)
        with self._lock:
            if self._polls and _places(self._polls[-1]) != _places(loads):
                # Loads from before queues moved, came or went say nothing about now.
                self._polls.clear()
            self._polls.append(loads)
            found = propose(cores_of(threads), _averaged(self._polls), isolates=isolates(config))
            same = self._proposal is not None and found.affinity == self._proposal.affinity
            self._agreed = self._agreed + 1 if same else 1
            self._proposal = found
            due = config.rebalance == APPLY and self._agreed >= POLLS
            if not due or len(self._polls) < POLLS or found.affinity == self._pins:
                return False
            self._pins, self._agreed = found.affinity, 0
            return True

    def order(self) -> bool:
        """Take the proposal over now, as an operator asks; whether that changes anything."""
        with self._lock:
            if self._proposal is None or self._proposal.affinity == self._pins:
                return False
            self._pins, self._agreed = self._proposal.affinity, 0
            return True

    def undo(self) -> bool:
        """Take all pins of ours back; whether there were any."""
        with self._lock:
            had = bool(self._pins)
            self._pins, self._agreed = {}, 0
            return had

    def view(self, config: NodeConfig) -> Args:
        """What `millrace rebalance` shows."""
        with self._lock:
            found, pins, polls = self._proposal, self._pins or {}, len(self._polls)
        shown: Args = {
            "mode": config.rebalance,
            "polls": polls,
            "pins": {port: {str(q): cpu for q, cpu in of.items()} for port, of in pins.items()},
            "present": [], "proposed": [], "moves": [], "reasons": [], "advice": "",
        }  # fmt: skip
        if found is None:
            return shown
        return shown | {
            "present": _loads(found.present),
            "proposed": _loads(found.proposed),
            "highest": [highest(found.present), highest(found.proposed)],
            "variance": [variance(found.present), variance(found.proposed)],
            "moves": [
                {"port": m.port, "queue": m.queue, "load": m.load, "from": m.before, "to": m.after}
                for m in found.moves
            ],
            "affinity": {
                port: {str(q): cpu for q, cpu in of.items()} for port, of in found.affinity.items()
            },
            "reasons": [{"numa": numa, "reason": why} for numa, why in found.reasons.items()],
            "advice": auto_lb_advice(found, config),
        }


def isolates(config: NodeConfig) -> bool:
    """Whether a pin takes its thread away from queues without one: OVS's default."""
    return _intended(config, "rxq_isolate") is not False


def _intended(config: NodeConfig, key: str) -> object:
    """What the file fixes, or the plan chose; None: OVS's default."""
    if key in config.tuning or config.computed is None:
        return config.tuning.get(key)
    chosen: object = getattr(config.computed.tuning, key)
    return chosen


def self_pinned(config: NodeConfig) -> frozenset[str]:
    """Ports whose queues the tuning plan pins: a NIC's stay where it put them."""
    return frozenset(nic_affinity(config.uplinks, port_keys(config, {}), ()))


def auto_lb_advice(found: Rebalance, config: NodeConfig) -> str:
    """When OVS's own load balancing is the better tool; empty where it is not."""
    if _intended(config, "auto_lb") is True:
        return "pmd-auto-lb is on: it leaves pinned queues and their threads alone"
    threshold = _intended(config, "auto_lb_load_percent")
    threshold = threshold if isinstance(threshold, int) else AUTO_LB_PERCENT
    if found.moves and highest(found.present) >= threshold:
        return (
            f"a thread is at {highest(found.present):.0f} %: OVS's own pmd-auto-lb acts on that, "
            "too, and follows loads that change from minute to minute; write [tuning] "
            'auto_lb = true and rebalance = "off" if yours do'
        )
    if found.moves:
        return (
            f"pmd-auto-lb would do nothing below {threshold} % of a thread; "
            "`millrace rebalance --apply` does it now"
        )
    return ""


def _places(loads: Sequence[QueueLoad]) -> frozenset[tuple[str, int, int, bool]]:
    return frozenset((one.port, one.queue, one.cpu, one.pinned) for one in loads)


def _averaged(polls: Sequence[tuple[QueueLoad, ...]]) -> tuple[QueueLoad, ...]:
    sums: dict[tuple[str, int], float] = {}
    for loads in polls:
        for one in loads:
            sums[one.name] = sums.get(one.name, 0.0) + one.load
    return tuple(replace(one, load=sums[one.name] / len(polls)) for one in polls[-1])


def _loads(loads: Mapping[int, float]) -> list[Args]:
    return [{"cpu": cpu, "load": round(load, 1)} for cpu, load in sorted(loads.items())]
