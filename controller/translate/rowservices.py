"""What one load balancer row comes to, before the other rows have been asked."""

from __future__ import annotations

from dataclasses import dataclass

from controller.translate.ovn import Problem
from dataplane.model.service import Service


@dataclass(frozen=True, slots=True)
class RowServices:
    """A row's services, by VIP, and what is wrong with the row. `label` orders the claimants."""

    label: str
    services: tuple[Service, ...]
    problems: tuple[Problem, ...]
