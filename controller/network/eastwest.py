"""Who serves workloads behind OVN: the fast path (`svc0`), or OVN on its switches.

Policies judge the addresses of a packet. What goes by svc0 leaves its client for the service's
address and comes to the backend from svc0's, so a policy that names pods would drop it. Where OVN
serves, the client's switch translates before a policy looks, and the client's address stays.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

from controller.kinds.securitygroup import SECURITY_GROUPS
from controller.network.adminpolicies import ANPS, BANPS, CNPS
from controller.network.policies import NETWORK_POLICIES
from controller.network.settings import settings
from controller.network.view import Derived, Kind, View
from dataplane.model.config import EastWest

JUDGES: tuple[Kind[Any], ...] = (NETWORK_POLICIES, ANPS, BANPS, CNPS, SECURITY_GROUPS)
"""The kinds of objects that allow and forbid by workloads' addresses."""


def _served(view: View, _: Hashable) -> bool:
    chosen = settings(view).east_west
    if chosen is EastWest.AUTO:
        return any(view.all(kind) for kind in JUDGES)
    return chosen is EastWest.SWITCH


BY_OVN: Derived[bool] = Derived("whether OVN serves workloads", _served)
"""Derived, so that the second policy is nothing new to two thousand services."""


def by_ovn(view: View) -> bool:
    """Whether OVN's load balancers serve workloads at this moment."""
    return view.ask(BY_OVN, "")


def leads_to_svc0(view: View) -> bool:
    """Whether the service ranges are routed to svc0.

    With AUTO also while OVN serves: what its load balancers have translated does not come there,
    and until they are in every chassis's flows somebody has to answer.
    """
    return settings(view).east_west is not EastWest.SWITCH
