"""Long lives of the service tables over real maps: plans, changes by key, other hands, restarts.

What the drivers and the reconciler keep between two looks must never hide what is in the maps:
after a round that came to its end a daemon that has just started finds nothing to do.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Mapping
from ipaddress import ip_address, ip_network
from typing import Any

import numpy as np
import pytest

from bpf.pick import filter_bit, member_key
from dataplane.drivers import setsmap
from dataplane.drivers.bpfmaps import (
    BackendTable,
    KnownAddressTable,
    SourceRangeTable,
    VipTable,
)
from dataplane.drivers.bpfstate import BpfState
from dataplane.drivers.mapbulk import read_array
from dataplane.drivers.setsmap import SetTable
from dataplane.model.addr import L4Addr, Mac, Protocol
from dataplane.model.config import ServicesConfig
from dataplane.model.rows import (
    AddressFlag,
    BackendEntry,
    KnownAddress,
    SetEntry,
    SetScope,
    SourceRange,
    VipEntry,
    VipFlag,
)
from dataplane.model.service import Place
from dataplane.plan.capacity import map_sizes
from dataplane.ports import Table
from dataplane.reconcile.backoff import Backoff
from dataplane.reconcile.reconciler import Reconciler

pytestmark = pytest.mark.bpf

STEPS = 150
# More than one step of `Looks` (dataplane.drivers.mapbulk) for either array.
SIZES = map_sizes(ServicesConfig(flows=1024, services=4096, backends=8192))

Rows = dict[Any, Any]
MAKERS: tuple[Callable[[BpfState], Table[Any, Any]], ...] = (
    KnownAddressTable, BackendTable, SetTable, SourceRangeTable, VipTable,
)  # fmt: skip


def _tcp(text: str) -> L4Addr:
    return L4Addr(Protocol.TCP, ip_address(text), 80)


def _set(*numbers: int, weight: int = 1) -> SetEntry:
    return SetEntry(tuple((at, member_key(f"10.1.0.{at}:80/tcp"), weight) for at in numbers))


UNIVERSE: dict[str, tuple[list[Any], list[Any]]] = {
    "known_addresses": (
        [ip_address(text) for text in ("192.0.2.1", "192.0.2.2", "fd00::1")],
        [KnownAddress(AddressFlag.VIP), KnownAddress(AddressFlag.VIP | AddressFlag.OWNED)],
    ),
    "backends": (
        [1, 2, 3, 5000, 8191],
        [
            BackendEntry(_tcp("10.1.0.1"), Place.LOCAL, 1442),
            BackendEntry(_tcp("10.1.0.1"), Place.REMOTE, 1400, Mac("0a:58:ac:12:00:70")),
            BackendEntry(_tcp("fd01::1"), Place.REMOTE, 1400),
        ],
    ),
    "sets": (
        [(1, SetScope.CLUSTER), (1, SetScope.LOCAL), (2, SetScope.CLUSTER), (3000, SetScope.LOCAL)],
        [_set(1), _set(1, 2), _set(2, 3), _set(1, 2, weight=7)],
    ),
    "source_ranges": (
        [(1, ip_network("10.0.0.0/8")), (1, ip_network("fd00::/8")), (2, ip_network("10.0.0.0/8"))],
        [SourceRange()],
    ),
    "vips": (
        [_tcp(text) for text in ("192.0.2.1", "192.0.2.2", "192.0.2.3", "fd00::1")],
        [VipEntry(1, VipFlag.SNAT), VipEntry(2, VipFlag.SNAT), VipEntry(1, VipFlag.AFFINITY, 60)],
    ),
}
BY_HAND = 4096
"""Above it nobody but the daemon writes here: it does not look there before it has a row there."""


class Life:
    """One daemon's tables, what it wants of them, and another hand."""

    def __init__(self, state: BpfState, seed: int) -> None:
        self.state = state
        self.chance = random.Random(seed)
        self.now = 0.0
        self.wanted: dict[str, Rows] = {name: {} for name in UNIVERSE}
        self.left: frozenset[str] = frozenset()
        self.seen: dict[str, set[tuple[bytes, bytes]]] = {name: set() for name in UNIVERSE}
        self.restart()

    def restart(self) -> None:
        self.tables = [make(self.state) for make in MAKERS]
        self.reconciler = Reconciler(self.tables, Backoff())
        self.left = frozenset()

    def plan(self) -> None:
        """Another plan: tables that are not other objects are the ones of the last plan."""
        for name, (keys, values) in UNIVERSE.items():
            if self.chance.random() < 0.4:
                chosen = self.chance.sample(keys, self.chance.randint(0, len(keys)))
                self.wanted[name] = {key: self.chance.choice(values) for key in chosen}

    def keys(self) -> None:
        """Some rows change, are written by key, and are in the next plan."""
        changes: dict[str, Rows] = {}
        for name, (keys, values) in UNIVERSE.items():
            some = self.chance.sample(keys, self.chance.randint(0, 2))
            if some:
                changes[name] = {key: self.chance.choice([None, *values]) for key in some}
                rows = {**self.wanted[name], **changes[name]}
                self.wanted[name] = {key: row for key, row in rows.items() if row is not None}
        assert not self.reconciler.apply_keys(changes, self.now).failed

    def hand(self) -> None:
        """Somebody takes an entry away, or puts one there that was there before."""
        name = self.chance.choice(list(UNIVERSE))
        held = self.state.maps[name]
        array = name in {"backends", "sets"}
        for entry in held.items():
            if any(entry[1]) or not array:
                self.seen[name].add(entry)
        if not self.seen[name]:
            return
        key, value = self.chance.choice(sorted(self.seen[name]))
        if array and int.from_bytes(key, sys.byteorder) >= BY_HAND:
            return
        if self.chance.random() < 0.6:
            held.update(key, value)
        elif array:
            held.update(key, bytes(len(value)))
        else:
            held.delete(key)

    def round(self) -> None:
        """A round of everything, which may be interrupted, or what the last one has left."""
        self.now += 10
        only = self.left or None
        hurried = not self.left and self.chance.random() < 0.4
        report = self.reconciler.apply(
            self.wanted, self.now, only, pressed=lambda: hurried and self.chance.random() < 0.3
        )
        assert not report.failed
        self.left = report.left

    def everything(self) -> None:
        """A whole round, after which a new daemon has nothing to do."""
        self.now += 10
        report = self.reconciler.apply(self.wanted, self.now)
        assert not report.failed
        assert not self.reconciler.odd_statuses()
        self.left = frozenset()
        self.filter_is_right()
        fresh: Mapping[str, Any] = {
            table.name: table.observe() for table in (make(self.state) for make in MAKERS)
        }
        assert fresh == self.wanted
        assert self.reconciler.apply(self.wanted, self.now).writes == 0

    def filter_is_right(self) -> None:
        """A program looks a VIP up only if its bit is set. (A new daemon would mend the bits.)"""
        words = read_array(self.state.maps["vip_bits"], np.dtype(np.uint64))
        found = {
            int(at) * 64 + bit
            for at in np.flatnonzero(words)
            for bit in range(64)
            if int(words[at]) >> bit & 1
        }
        assert found == {
            filter_bit(vip.address.packed, vip.port, vip.protocol) for vip in self.wanted["vips"]
        }


@pytest.mark.parametrize("seed", range(6))
def test_after_a_whole_round_a_new_daemon_has_nothing_to_do(
    bpf_root: str, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(setsmap, "GRACE_S", 0.0)  # so that ranges are used again here, too
    with BpfState(bpf_root, sizes=SIZES) as state:
        life = Life(state, seed)
        steps = [life.plan, life.keys, life.hand, life.hand, life.round, life.round]
        for _ in range(STEPS):
            life.chance.choice(steps)()
            if life.chance.random() < 0.2:
                life.everything()
            if life.chance.random() < 0.03:
                life.restart()
