"""What one load balancer row comes to, before the other rows have been asked."""

from __future__ import annotations

from dataclasses import dataclass

from controller.translate.ovn import Problem
from dataplane.model.service import Service


@dataclass(frozen=True, slots=True)
class RowServices:
    """A row's services, by VIP, and what is wrong with the row. `label` orders the claimants.

    `attached` names the switches and routers that have the row: OVN serves it there.
    """

    label: str
    services: tuple[Service, ...]
    problems: tuple[Problem, ...]
    attached: tuple[str, ...] = ()
