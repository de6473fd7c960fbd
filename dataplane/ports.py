"""The seams of the data plane: what a driver offers, and how it says that it failed.

Errors::

    DataplaneError
    ├── ConfigError        the operator asked for what cannot be
    ├── ObserveError       a table could not be read
    ├── AbiMismatch        an object and its codec disagree
    └── CapabilityMissing  the kernel or OVS lacks what is asked
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar, runtime_checkable

K = TypeVar("K")
V = TypeVar("V")


class DataplaneError(Exception):
    """Base of every error that a driver raises."""


class ConfigError(DataplaneError):
    """The operator asked for something that cannot be."""


class ObserveError(DataplaneError):
    """A table could not be read; nothing may be concluded about its rows."""


class AbiMismatch(DataplaneError):
    """A BPF object and the Python codec disagree about a layout."""


class CapabilityMissing(DataplaneError):
    """The kernel, libbpf or OVS on this node lacks what is asked for."""


@dataclass(frozen=True, slots=True)
class Failure:
    """Why one row could not be made as planned.

    `waiting`: something else has to happen first (OVS has not attached yet); shown as pending.
    `quarantine`: the row was taken back and must not be tried until its long back-off ends.
    """

    reason: str
    waiting: bool = False
    quarantine: bool = False


class Table(Protocol[K, V]):
    """One key/value surface of the node that we own rows of.

    `observe` returns only rows of ours. `upsert` returns the keys that failed. `delete` treats a
    missing row as success. All three may raise `ObserveError` when the surface is out of reach.
    """

    name: str

    def observe(self) -> Mapping[K, V]:
        """The rows of ours that are there."""
        ...

    def upsert(self, batch: Sequence[tuple[K, V]]) -> Mapping[K, Failure]:
        """Make these rows so; the keys that failed, with why."""
        ...

    def delete(self, keys: Sequence[K]) -> Mapping[K, Failure]:
        """Remove these rows; the keys that failed, with why."""
        ...


@runtime_checkable
class Rejecting(Protocol):
    """A table whose surface may refuse a row some time after it took it.

    OVS takes any Port into its database and says only later, in Interface.error, that it cannot
    make it. The reconciler asks in every round, takes such rows back and quarantines them.
    """

    def rejected(self) -> Mapping[Hashable, str]:
        """Rows of ours that are there but refused, each with the surface's own words."""
        ...


@runtime_checkable
class Steady(Protocol):
    """A table that gives the very same mapping as long as no row of it differs.

    Nor does it ever change one that it gave, so what was compared need not be compared again.
    """

    steady: bool
