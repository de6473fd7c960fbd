"""The kinds of objects that allow and forbid by workloads' addresses, and whether there is one."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

from controller.kinds.securitygroup import SECURITY_GROUPS
from controller.network.adminpolicies import ANPS, BANPS, CNPS
from controller.network.policies import NETWORK_POLICIES
from controller.network.view import Derived, Kind, View

JUDGES: tuple[Kind[Any], ...] = (NETWORK_POLICIES, ANPS, BANPS, CNPS, SECURITY_GROUPS)
UNREAD: Kind[bool] = Kind("policies-that-cannot-be-read")
"""Of the key (name of the kind, key): what isolates, and nobody knows whom. Its ACLs stay."""


def _any(view: View, _: Hashable) -> bool:
    return any(view.all(kind) for kind in (*JUDGES, UNREAD))


ANY: Derived[bool] = Derived("any-policy", _any)
"""Whether there is any. Derived, so that the second policy is nothing new to those who ask."""
