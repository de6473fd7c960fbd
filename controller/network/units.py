"""Who computes what: one unit for each kind of objects that becomes rows."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field
from typing import Any

from controller.network.rows import Row, RowKey
from controller.network.view import Kind, View
from controller.translate.ovn import Problem

_NONE: Mapping[Any, Any] = {}


def _none() -> Mapping[Any, Any]:
    """Nothing, once for tens of thousands of objects that say nothing."""
    return _NONE


@dataclass(frozen=True, slots=True)
class ObjectRef:
    """An object of the API. `resource` as in `pods` or `subnets.kubeovn.io`."""

    resource: str
    namespace: str
    name: str

    def __str__(self) -> str:
        where = f"{self.namespace}/" if self.namespace else ""
        return f"{self.resource} {where}{self.name}"


@dataclass(frozen=True, slots=True)
class Wanted:
    """What an object should say of itself; only what differs is written, and nothing else touched.

    Attributes:
        annotations: by key; None: the annotation should not be there.
        status: fields of the status as JSON values; `conditions` goes by itself, below.
        conditions: by type: (status "True" or "False", reason in CamelCase, message).
        finalizer: whether ours should be there; None: say nothing of it.
    """

    annotations: Mapping[str, str | None] = field(default_factory=_none)
    status: Mapping[str, Any] = field(default_factory=_none)
    conditions: Mapping[str, tuple[str, str, str]] = field(default_factory=_none)
    finalizer: bool | None = None


@dataclass(frozen=True, slots=True)
class Said:
    """What one unit says for one object.

    Several units may say the same row if they say it equally (port groups and address sets that
    several policies share); a row said in two ways is a problem of those who say it second.

    Attributes:
        rows: what should be in OVN because of this object.
        writes: what objects should say of themselves.
        problems: what is wrong, by the object that it is wrong with: its status says so, and an
            event. What can still be done is done.
    """

    rows: Mapping[RowKey, Row] = field(default_factory=_none)
    writes: Mapping[ObjectRef, Wanted] = field(default_factory=_none)
    problems: Mapping[ObjectRef, tuple[Problem, ...]] = field(default_factory=_none)


@dataclass(frozen=True, slots=True, eq=False)
class Unit:
    """A pure function that is applied to every fact of a kind.

    Attributes:
        name: unique; what `millrace explain` names beside the object.
        of: the kind.
        compute: from the view and the fact's key. Raises nothing: what is wrong is said.
        when: of which facts the unit may say anything, by the fact alone; of the others it is not
            remembered at all, which for a rare wish of pods saves ten thousand memories. Pure.
    """

    name: str
    of: Kind[Any]
    compute: Callable[[View, Hashable], Said]
    when: Callable[[Any], bool] | None = None
