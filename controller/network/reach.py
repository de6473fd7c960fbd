"""What stays in OVN while somebody who may want it cannot say so. Pure.

An object that cannot be read since this controller began, or whose unit failed since then, has said
nothing. What the controller before wrote because of it must not go; but only that: everybody else's
rows go on coming and going.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from controller.kinds.securitygroup import SECURITY_GROUPS
from controller.network.adminpolicies import FORMS as ADMIN_FORMS
from controller.network.facts import NAMESPACES
from controller.network.policies import NETWORK_POLICIES
from controller.network.rows import RowKey
from controller.network.unsupported import UNSERVED
from controller.network.view import Kind

RULES = frozenset({"ACL", "Address_Set", "Meter", "Meter_Band", "Port_Group"})
"""Tables of policies. What follows from there being one is in others, and is kept by
`controller.network.judges.UNREAD`."""


@dataclass(frozen=True, slots=True)
class Hold:
    """Rows that stay although nobody wants them.

    Attributes:
        tables: those of these tables; None: of all.
        members: port groups and address sets lose nobody, either. Otherwise they keep those of
            whose ports nobody says anything, and no others.
    """

    tables: frozenset[str] | None = frozenset()
    members: bool = False

    def __contains__(self, key: RowKey) -> bool:
        return self.tables is None or key.table in self.tables

    def __bool__(self) -> bool:
        return self != NOTHING

    def __or__(self, other: Hold) -> Hold:
        both = None
        if self.tables is not None and other.tables is not None:
            both = self.tables | other.tables
        return Hold(both, self.members or other.members)


NOTHING = Hold()
EVERYTHING = Hold(None)
"""What nobody wants stays; who speaks for himself leaves groups all the same."""
ALL_AND_MEMBERS = Hold(None, members=True)

_POLICIES: tuple[Kind[Any], ...] = (
    SECURITY_GROUPS,
    NETWORK_POLICIES,
    *(kind for _, kind, _ in ADMIN_FORMS),
)
_REACH: dict[Kind[Any], Hold] = {
    # By its labels pods that speak for themselves belong to groups.
    NAMESPACES: ALL_AND_MEMBERS,
    **dict.fromkeys(_POLICIES, Hold(RULES)),
    **{one.kind: NOTHING for one in UNSERVED},
}


def hold_of(kinds: Iterable[Kind[Any] | None]) -> Hold:
    """What has to stay while an object of each of these kinds is unread; None: nobody knows."""
    held = NOTHING
    for kind in kinds:
        held |= ALL_AND_MEMBERS if kind is None else _REACH.get(kind, EVERYTHING)
    return held
