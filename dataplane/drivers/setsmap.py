"""Table `sets`: the backends of services, in the maps `sets`, `members` and `tables`.

A set is one aligned word that names a range of `members`, or a table of all slots for more of them
than a program likes to walk. A change writes its members elsewhere first, and then the word, so a
program sees the old set or the new one. What the old word named is used again only after a grace:
a program that read the word may still be walking.

How our own is recognised after a restart: the words say which ranges and tables are in use; the
rest is free.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from bpf import abi
from bpf.abi import Limit, SetMode
from bpf.pick import Candidate, table
from dataplane.drivers.bpfmaps import failure, number
from dataplane.drivers.bpfstate import MapOwner
from dataplane.drivers.libbpf import LibbpfError
from dataplane.drivers.mapbulk import Looks, dtype_of, read_array, update_keys, write_array
from dataplane.model.rows import SetEntry, SetScope
from dataplane.ports import Failure, ObserveError

if TYPE_CHECKING:
    from numpy.typing import NDArray

GRACE_S = 1.0
"""Far longer than a program runs."""

Key = tuple[int, SetScope]


class NoRoom(Exception):
    """The maps have no room for a set."""


@dataclass(frozen=True, slots=True)
class _Word:
    """One set as the map has it."""

    first: int
    count: int
    mode: SetMode

    @property
    def length(self) -> int:
        """Words of `members` that it takes."""
        return self.count * {SetMode.SET_LIST: 1, SetMode.SET_WEIGHTED: 2}.get(self.mode, 0)

    def packed(self) -> bytes:
        return abi.SET.pack(first=self.first, count=self.count, mode=self.mode)


def _word(rows: NDArray[Any], at: int) -> _Word:
    """One row of the map, as the array read from it has it.

    Raises:
        ValueError: no mode of ours.
    """
    row = rows[at]
    return _Word(int(row["first"]), int(row["count"]), SetMode(row["mode"]))


_NONE = _Word(0, 0, SetMode.SET_EMPTY)


class Ranges:
    """Which numbers of 1..size-1 are in use, in ranges; freed ones rest before they are reused."""

    def __init__(self, size: int, used: Sequence[tuple[int, int]] = ()) -> None:
        self._free: dict[int, list[int]] = {}
        self._resting: deque[tuple[float, int, int]] = deque()
        at = 1
        for first, length in sorted(used):
            if first > at:
                self._free.setdefault(first - at, []).append(at)
            at = max(at, first + length)
        self._end, self._size = at, size

    def take(self, length: int, now: float) -> int:
        """The first number of a free range.

        Raises:
            NoRoom: there is none of that length.
        """
        while self._resting and self._resting[0][0] <= now:
            _, first, free = self._resting.popleft()
            self._free.setdefault(free, []).append(first)
        if self._end + length <= self._size and not self._free.get(length):
            self._end += length
            return self._end - length
        for free in sorted(size for size in self._free if size >= length):
            first = self._free[free].pop()
            if not self._free[free]:
                del self._free[free]
            if free > length:
                self._free.setdefault(free - length, []).append(first + length)
            return first
        msg = f"no range of {length} is free among {self._size}"
        raise NoRoom(msg)

    def give_back(self, first: int, length: int, now: float) -> None:
        """A range is used no longer."""
        self._resting.append((now + GRACE_S, first, length))


class SetTable:
    """Table `sets`: key (service id, scope)."""

    name = "sets"
    steady = True

    def __init__(self, state: MapOwner) -> None:
        self._sets, self._members = state.maps["sets"], state.maps["members"]
        self._tables = state.maps["tables"]
        self._words: dict[int, _Word] = {}
        self._rows: dict[int, SetEntry] = {}
        self._looks = Looks(self._sets, dtype_of(abi.SET))
        self._touched: set[int] = set()
        self._found: Mapping[Key, SetEntry] = {}
        self._read_all()
        used = [(w.first, w.length) for w in self._words.values() if w.length]
        self._ranges = Ranges(self._members.info.max_entries, used)
        tables = [(w.first, 1) for w in self._words.values() if w.mode is SetMode.SET_TABLE]
        room = self._tables.info.max_entries // Limit.PICK_SLOTS
        self._free_tables = Ranges(room, tables)

    def _held(self) -> dict[int, _Word]:
        rows = read_array(self._sets, dtype_of(abi.SET))
        return {at: _word(rows, at) for at in np.flatnonzero(rows["mode"]).tolist()}

    def _read_all(self) -> None:
        try:
            self._words = self._held()
            members = read_array(self._members, dtype_of(abi.MEMBER)) if self._words else None
        except (LibbpfError, ValueError) as error:
            msg = f"map sets cannot be read: {error}"
            raise ObserveError(msg) from error
        if members is None:
            return
        for at, word in self._words.items():
            # Of a table only the ids are there, not who else might have been: written anew.
            if word.length:
                ids = members["backend_id"][word.first : word.first + word.length].tolist()
                keys = members["key"][word.first : word.first + word.length].tolist()
                if word.mode is SetMode.SET_WEIGHTED:
                    triples = zip(ids[::2], keys[::2], keys[1::2], strict=True)
                else:
                    triples = zip(ids, keys, [1] * len(ids), strict=True)
                self._rows[at] = SetEntry(tuple(triples))

    def observe(self) -> Mapping[Key, SetEntry]:
        """Every set that is not empty."""
        try:
            places = self._touched.union(self._looks.differing())
            words = {at: _word(self._looks.rows, at) for at in places}
        except (LibbpfError, ValueError) as error:
            self._looks.forget()
            self._found = {}
            msg = f"map sets cannot be read: {error}; remove its pin"
            raise ObserveError(msg) from error
        self._touched = set()
        if not words:
            return self._found
        # Only what was written since, by us or by others, may be another than at the last look.
        found = dict(self._found)
        for at, word in words.items():
            key = at // 2, SetScope(at % 2)
            if word.mode and self._words.get(at) == word and at in self._rows:
                found[key] = self._rows[at]
            else:
                found.pop(key, None)
        self._found = found
        return found

    def upsert(self, batch: Sequence[tuple[Key, SetEntry]]) -> Mapping[Key, Failure]:
        """Write members of all sets, then the words of all."""
        now = time.monotonic()
        failures: dict[Key, Failure] = {}
        keys: list[int] = []
        members: list[bytes] = []
        words: dict[int, tuple[Key, _Word, SetEntry]] = {}
        for key, row in batch:
            at = 2 * key[0] + key[1]
            try:
                word, octets = self._placed(row, now)
            except (NoRoom, LibbpfError) as error:
                failures[key] = Failure(
                    f"no room for the {len(row.members)} backends of service {key[0]}: {error}; "
                    "raise [services] backends in the node's file"
                )
                continue
            words[at] = key, word, row
            keys += range(word.first, word.first + len(octets))
            members += octets
        try:
            if keys:
                values = np.frombuffer(b"".join(members), dtype_of(abi.MEMBER))
                update_keys(self._members, np.array(keys, np.uint32), values)
            self._flip({at: word for at, (_, word, _) in words.items()}, now)
        except LibbpfError as error:
            return {**failures, **{key: failure(error, self._sets) for key, _, _ in words.values()}}
        for at, (_, _, row) in words.items():
            self._rows[at] = row
        return failures

    def _placed(self, row: SetEntry, now: float) -> tuple[_Word, list[bytes]]:
        """Where a set goes, and its words of `members`; a table is written at once."""
        count = len(row.members)
        if count > Limit.LIST_MAX:
            first = self._free_tables.take(1, now)
            candidates = [Candidate(key, backend, weight) for backend, key, weight in row.members]
            slots = np.ascontiguousarray(table(candidates), dtype=np.uint32)
            write_array(self._tables, slots, first * Limit.PICK_SLOTS)
            return _Word(first, min(count, 65535), SetMode.SET_TABLE), []
        weighted = any(weight != row.members[0][2] for _, _, weight in row.members)
        octets: list[bytes] = []
        for backend, key, weight in row.members:
            octets.append(abi.MEMBER.pack(backend_id=backend, key=key))
            if weighted or weight != 1:
                octets.append(abi.MEMBER.pack(key=weight))
        mode = SetMode.SET_LIST if len(octets) == count else SetMode.SET_WEIGHTED
        return _Word(self._ranges.take(len(octets), now), count, mode), octets

    def delete(self, keys: Sequence[Key]) -> Mapping[Key, Failure]:
        """Empty sets: new flows of these services find no backend."""
        gone = {2 * key[0] + key[1]: key for key in keys}
        try:
            self._flip(dict.fromkeys(gone, _NONE), time.monotonic())
        except LibbpfError as error:
            return {key: failure(error, self._sets) for key in keys}
        for at in gone:
            self._rows.pop(at, None)
        return {}

    def _flip(self, words: Mapping[int, _Word], now: float) -> None:
        self._touched.update(words)
        self._looks.reach(words)
        self._sets.update_batch([(number(at), word.packed()) for at, word in words.items()])
        for at, word in words.items():
            old = self._words.pop(at, _NONE)
            if word is not _NONE:
                self._words[at] = word
            if old.mode is SetMode.SET_TABLE:
                self._free_tables.give_back(old.first, 1, now)
            elif old.length:
                self._ranges.give_back(old.first, old.length, now)
