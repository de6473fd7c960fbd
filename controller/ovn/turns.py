"""What to look at next, and one transaction after the other. Lives in the database's thread.

A key is *dirty* when the row wanted or the row there may have changed; what turns out as wanted
needs nothing. Committed rows come back as notices and are compared once more, so what is believed
done has been seen.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field

from controller.network.reach import ALL_AND_MEMBERS, NOTHING, Hold
from controller.network.rows import Row, RowKey
from controller.ovn.differ import Deed, Desired, Plan
from controller.ovn.ours import Ours
from controller.ovn.rows import committed
from dataplane.drivers.idl import Replica, Transaction

LOCK = "millrace_kubernetes"
"""OVSDB's lock that the one writer holds, beside the Lease: the two fail independently."""
STUBBORN = 8
"""Writes of one wanted row in a row after which it counts as one that somebody else writes too."""
ROOTS = frozenset({
    "Address_Set", "BFD", "Chassis_Template_Var", "Copp", "DHCP_Options", "DNS",
    "HA_Chassis_Group", "Load_Balancer", "Load_Balancer_Group", "Meter", "Mirror",
})  # fmt: skip
RANKS = {"Logical_Router": 1, "Logical_Switch": 1, "Logical_Router_Port": 2}
LAST, GOING = 3, 4
"""Roots first, then routers and switches, their ports, all else; then what goes."""


class NotOurs(Exception):
    """We may not write, or another process holds the lock."""


@dataclass(frozen=True, slots=True)
class Failure:
    """A row that cannot be made.

    Attributes:
        reason: why.
        attempts: how often it was tried.
        retry_at: when it is tried again [s, monotonic].
    """

    reason: str
    attempts: int
    retry_at: float


@dataclass(frozen=True, slots=True)
class Turn:
    """What one transaction was about.

    Attributes:
        keys: whose rows it changes, those first that others need.
        needed: those of them that were not asked for, but what was asked for needs them.
        stubborn: those of them that are left alone from now on, although they were written.
    """

    keys: tuple[RowKey, ...]
    deeds: tuple[Deed, ...]
    needed: tuple[RowKey, ...]
    stubborn: frozenset[RowKey] = frozenset()


@dataclass(frozen=True, slots=True)
class PortThere:
    """A logical switch port of ours: its key, its switch, and `addresses` as OVN spells them."""

    name: str
    switch: str
    addresses: tuple[str, ...]


@dataclass(slots=True)
class Turns:
    """The state of the writer that belongs to the database's thread.

    Attributes:
        failures: rows that are left alone for a while; written by `blame` and `forgive`.
        blame: is called with a row that cannot be made, and why; must not wait.
        forgive: is called with rows that came to be as wanted, or are wanted otherwise.
        inbox: what is wanted from now on, None: forget what was; anybody may append.
    """

    failures: Mapping[RowKey, Failure]
    blame: Callable[[RowKey, str], None]
    forgive: Callable[[tuple[RowKey, ...]], None]
    batch: int
    inbox: deque[Mapping[RowKey, Row | None] | None] = field(default_factory=deque)
    locked: bool = False
    _blank: bool = True
    _held: Hold = NOTHING
    _ours: Ours = field(default_factory=Ours)
    _desired: Desired = field(default_factory=Desired)
    _dirty: dict[RowKey, int] = field(default_factory=dict)
    _queues: tuple[dict[RowKey, None], ...] = field(
        default_factory=lambda: tuple({} for _ in range(GOING + 1))
    )
    _waiting: dict[RowKey, set[RowKey]] = field(default_factory=dict)
    _unwanted: set[RowKey] = field(default_factory=set)
    _tries: dict[RowKey, int] = field(default_factory=dict)

    def notice(self, replica: Replica) -> bool:
        """After each change of the database: whether there is something to look at."""
        self._intake(replica)
        return bool(self._dirty) or self.locked != replica.has_lock

    def turn(
        self,
        replica: Replica,
        txn: Transaction,
        asked: tuple[RowKey, ...] | None,
        *,
        hold: Hold,
    ) -> Turn:
        """Make one transaction: of these keys, or of what is dirty.

        Args:
            replica: the database.
            txn: gets the operations.
            asked: only these and what they need; None: as many as a transaction takes.
            hold: which rows stay of those of which nobody ever said anything; those that were
                wanted and are no more always may go.

        Raises:
            NotOurs: we may not write, or another holds the lock still.
        """
        self._intake(replica)
        self._look_at_lock(replica)
        # Who was told to forget may have been asked to sweep before: nothing is wanted then.
        hold = ALL_AND_MEMBERS if self._blank else hold
        if self._held != hold:
            # Who belongs to a group is to be asked once more, and who may go at last.
            for key, row in self._desired.rows.items():
                if row.refs or key.table == "Address_Set":
                    self._mark(key)
        self._held = hold
        now = time.monotonic()
        patient = {key for key, one in tuple(self.failures.items()) if one.retry_at > now}
        for key in self.failures.keys() - patient:
            self._enqueue(key)
        plan = self._plan(replica, self._dirty.keys(), patient, hold)
        if asked is not None:
            for key in asked:
                plan.add(key)
        else:
            for rank, queue in enumerate(self._queues):
                for key in tuple(queue):
                    if plan.size >= self.batch:
                        break
                    may = rank != GOING or key not in hold or key in self._unwanted
                    if may and key not in patient:
                        plan.add(key)
        stubborn = self._conclude(plan)
        if plan.deeds:
            txn.operations = plan.operations()
        keys = tuple(plan.deeds)
        return Turn(keys, tuple(plan.deeds.values()), self._needed(keys, asked), stubborn)

    def _plan(
        self, replica: Replica, dirty: Collection[RowKey], failed: Collection[RowKey], hold: Hold
    ) -> Plan:
        def mute(key: RowKey) -> bool:
            wanted = key in self._desired.rows or key in self._unwanted
            return key in hold and not wanted

        args = (replica, self._ours, self._desired, dirty, failed)
        return Plan(*args, members=hold.members, mute=mute if hold else None)

    def difference(
        self, replica: Replica, *, hold: Hold = NOTHING
    ) -> tuple[list[Deed], dict[RowKey, str]]:
        """What would be done now, and what is refused beforehand."""
        self._intake(replica)
        everything = {*self._desired.rows, *self._ours.keys()}
        plan = self._plan(replica, everything, (), hold)
        for key in sorted(everything, key=lambda key: (self._rank(key), key)):
            if key in self._desired.rows or key not in hold:
                plan.add(key)
        return list(plan.deeds.values()), plan.refused

    def ports(self, replica: Replica) -> list[PortThere]:
        """Our logical switch ports as they are there, with the name of the switch."""
        self._intake(replica)
        if not replica.has("Logical_Switch_Port"):
            return []
        rows = replica.tables["Logical_Switch_Port"].rows
        switches = replica.tables["Logical_Switch"].rows
        found: list[PortThere] = []
        for key in tuple(self._ours.keys()):
            if key.table != "Logical_Switch_Port":
                continue
            uuid = self._ours.find(key)[0]
            switch = next((switches[one] for one in self._ours.holders(uuid)), None)
            if switch is not None:
                addresses = tuple(sorted(committed(rows[uuid], "addresses")))
                found.append(PortThere(key.name, str(committed(switch, "name")), addresses))
        return found

    def _needed(
        self, keys: Iterable[RowKey], asked: tuple[RowKey, ...] | None
    ) -> tuple[RowKey, ...]:
        wanted = frozenset(asked or ())
        rows = self._desired.rows

        def is_child(key: RowKey) -> bool:
            row = rows.get(key)
            return row is not None and row.parent is not None and row.parent[0] in wanted

        return tuple(key for key in keys if key not in wanted and not is_child(key))

    def _intake(self, replica: Replica) -> None:
        for key in self._ours.absorb(replica):
            self._mark(key)
        while self.inbox:
            wanted = self.inbox.popleft()
            self._blank = wanted is None
            if wanted is None:
                self._desired = Desired()
                self._unwanted.clear()
                for key in tuple(self._dirty):
                    self._enqueue(key)
                continue
            changed: list[RowKey] = []
            for key, row in wanted.items():
                self._desired.put(key, row)
                if row is None:
                    self._unwanted.add(key)
                else:
                    self._unwanted.discard(key)
                self._tries.pop(key, None)
                if key in self.failures:
                    changed.append(key)
                self._enqueue(key)
                self._mark(key)
            if changed:
                self.forgive(tuple(changed))

    def _mark(self, key: RowKey) -> None:
        """This row is to be looked at, and those that wait for it."""
        if key not in self.failures:
            self._enqueue(key)
        for waiting in self._waiting.pop(key, ()):
            self._mark(waiting)

    def _enqueue(self, key: RowKey) -> None:
        rank = self._rank(key)
        before = self._dirty.get(key)
        if before is not None and before != rank:
            del self._queues[before][key]
        self._dirty[key] = rank
        self._queues[rank][key] = None

    def _rank(self, key: RowKey) -> int:
        if key not in self._desired.rows:
            return GOING
        return 0 if key.table in ROOTS else RANKS.get(key.table, LAST)

    def lead(self, replica: Replica, *, leads: bool) -> bool:
        """Ask for the lock, or give it away; not inside of a transaction."""
        wanted = LOCK if leads else None
        if replica.lock_name != wanted:
            replica.set_lock(wanted)
        return True

    def steal(self, replica: Replica) -> bool:
        """Take the lock from whoever has it, if we asked for it; not inside of a transaction."""
        if replica.lock_name is not None and not replica.has_lock:
            replica.steal_lock()
        return True

    def _look_at_lock(self, replica: Replica) -> None:
        has = replica.lock_name is not None and replica.has_lock
        if has and not self.locked:
            # Somebody else may have written, and thought otherwise of what is wanted.
            for key in {*self._desired.rows, *self._ours.keys()}:
                self._mark(key)
        self.locked = has
        if not has:
            raise NotOurs

    def _conclude(self, plan: Plan) -> frozenset[RowKey]:
        """Note what needs no transaction; which rows are as before however often they are made."""
        for key in (*plan.same, *plan.held, *plan.refused):
            rank = self._dirty.pop(key, None)
            if rank is not None:
                del self._queues[rank][key]
            self._tries.pop(key, None)
        self._unwanted -= plan.same
        if healed := tuple(key for key in plan.same if key in self.failures):
            self.forgive(healed)
        for key, missing in plan.held.items():
            self._waiting.setdefault(missing, set()).add(key)
        for key, lost in plan.partly.items():
            for missing in lost:
                self._waiting.setdefault(missing, set()).add(key)
        for key, reason in plan.refused.items():
            self.blame(key, reason)
        stubborn: set[RowKey] = set()
        for key, deed in plan.deeds.items():
            tries = self._tries[key] = self._tries.get(key, 0) + 1
            if tries > STUBBORN:
                self._tries[key] = 0
                stubborn.add(key)
                columns = ", ".join(deed.columns)
                self.blame(key, f"somebody else keeps writing it ({columns}); find out who")
        return frozenset(stubborn)
