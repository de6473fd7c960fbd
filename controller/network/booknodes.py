"""What the book remembers of each computation: what it gave, what it read, who read it."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

from controller.network.merging import NOTHING
from controller.network.store import Token
from controller.network.units import Unit
from controller.network.view import Derived

CLEAN, DOUBTFUL, DIRTY, RUNNING = range(4)


class Node:
    """A unit applied to a key, or a derived fact, with what it read."""

    __slots__ = ("asked", "key", "of", "rank", "readers", "reads", "state", "value")

    def __init__(self, of: Unit | Derived[Any], key: Hashable, rank: int = -1) -> None:
        self.of = of
        self.key = key
        self.rank = rank
        self.state = DIRTY
        self.value: Any = NOTHING if rank >= 0 else None
        # Tens of thousands of these are remembered: an empty set alone would be 216 bytes.
        self.reads: tuple[Token, ...] = ()
        self.asked: tuple[Node, ...] = ()
        self.readers: tuple[Node, ...] | set[Node] = ()


Nodes = tuple[Node, ...] | set[Node]
"""Several nodes: most often so few that a tuple is a third of a set."""
_FEW = 6


def with_one(nodes: Nodes, one: Node) -> Nodes:
    """These and one more."""
    if isinstance(nodes, set):
        nodes.add(one)
        return nodes
    if one in nodes:
        return nodes
    return (*nodes, one) if len(nodes) < _FEW else {*nodes, one}


def without(nodes: Nodes, one: Node) -> Nodes:
    """These but for one."""
    if isinstance(nodes, set):
        nodes.discard(one)
        return nodes
    return tuple(node for node in nodes if node is not one)


class Raised:
    """A derived fact that could not be computed; equal to no other value."""

    __slots__ = ("error",)

    def __init__(self, error: Exception) -> None:
        self.error = error


def place_of(error: Exception) -> str:
    """Where it was raised."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return f"{trace.tb_frame.f_code.co_filename}:{trace.tb_lineno}" if trace else "nowhere"
