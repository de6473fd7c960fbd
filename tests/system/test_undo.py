"""`millrace down`: nothing of ours is left, whatever the state it finds."""

from __future__ import annotations

from collections.abc import Callable

from tests.labs.lab import Lab
from tests.leftovers import left_behind, settle, snapshot

PREFIX = "mrgone"

# Without guests no link of the machine's own namespace is made.
MADE = {"namespaces", "mounts", "pins", "processes", "hugepages", "files"}
"""Kinds of things that a node and its lab bring, and that `down` has to take away."""


def test_undo_leaves_nothing(progress: Callable[[str], None]) -> None:
    before = snapshot()
    lab = Lab(PREFIX, progress, guests=False)
    try:
        lab.build()
        made = left_behind(before, snapshot())
        # Half of it is gone already when `millrace down` comes.
        lab.node.kill("node")
        lab.node.kill("ovs-vswitchd")
        lab.node.kill("nb")
    finally:
        lab.remove()
    # What is compared below is there to be seen while the node lives.
    assert {item.partition(":")[0] for item in made} >= MADE
    left = settle(before, timeout_s=15)
    assert not left, "\n".join(left)
    lab.remove()
    left = settle(before, timeout_s=15)
    assert not left, "\n".join(left)
