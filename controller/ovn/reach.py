"""What keeps us from OVN's databases, for those who ask how we are."""

from __future__ import annotations

from typing import Any

from controller.translate.ovn import Problem
from dataplane.drivers.idl import DatabaseClient


def unreachable(*clients: DatabaseClient[Any]) -> tuple[Problem, ...]:
    """The databases that we have no connection to, where it is known why."""
    found = []
    for client in clients:
        cause, _, step = client.problem.rpartition("; ")
        if cause:
            found.append(Problem(f"{client.database} at {client.remote}", cause, step))
    return tuple(found)
