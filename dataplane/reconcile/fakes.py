"""A table in memory, for what no real surface can be made to do on demand.

Used by the tests of the reconciler's own logic: failures of every kind, in any order. Drivers are
tested against the real OVS, kernel and libbpf.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from dataplane.ports import Failure, ObserveError

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


@dataclass(slots=True)
class FakeTable(Generic[K, V]):
    """Rows in a dict, failures as told.

    `upsert_failures` and `delete_failures` fail those keys as long as they are there;
    `unobservable` makes `observe` raise; `crash` makes every write raise. `log` gets one entry per
    call that wrote: ("upsert" or "delete", table name, keys), shared between tables to see the
    order of things.
    """

    name: str
    rows: dict[K, V] = field(default_factory=dict)
    upsert_failures: dict[K, Failure] = field(default_factory=dict)
    delete_failures: dict[K, Failure] = field(default_factory=dict)
    unobservable: str = ""
    crash: Exception | None = None
    log: list[tuple[str, str, tuple[K, ...]]] = field(default_factory=list)

    def observe(self) -> Mapping[K, V]:
        """The rows."""
        if self.unobservable:
            raise ObserveError(self.unobservable)
        return dict(self.rows)

    def upsert(self, batch: Sequence[tuple[K, V]]) -> Mapping[K, Failure]:
        """Store the rows that are not told to fail."""
        self.log.append(("upsert", self.name, tuple(key for key, _ in batch)))
        if self.crash is not None:
            raise self.crash
        failed = {key: self.upsert_failures[key] for key, _ in batch if key in self.upsert_failures}
        self.rows.update((key, value) for key, value in batch if key not in failed)
        return failed

    def delete(self, keys: Sequence[K]) -> Mapping[K, Failure]:
        """Remove the rows that are not told to fail; a missing one is success."""
        self.log.append(("delete", self.name, tuple(keys)))
        if self.crash is not None:
            raise self.crash
        failed = {key: self.delete_failures[key] for key in keys if key in self.delete_failures}
        for key in keys:
            if key not in failed:
                self.rows.pop(key, None)
        return failed


@dataclass(slots=True)
class RejectingFakeTable(FakeTable[K, V]):
    """Takes any row and refuses some of them afterwards, as OVS does with ports."""

    refuses: dict[K, str] = field(default_factory=dict)

    def rejected(self) -> Mapping[Hashable, str]:
        """The rows that are there and refused."""
        return {key: reason for key, reason in self.refuses.items() if key in self.rows}
