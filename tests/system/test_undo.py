"""`millrace down`: nothing of ours is left, whatever the state it finds."""

from __future__ import annotations

from collections.abc import Callable

from tests.labs.lab import Lab
from tests.leftovers import Snapshot, settle, snapshot

PREFIX = "mrgone"


def _ours(before: Snapshot) -> list[str]:
    """What is left of this test's; the whole run's own check looks at the machine."""
    return [item for item in settle(before, timeout_s=5) if PREFIX in item]


def test_undo_leaves_nothing(progress: Callable[[str], None]) -> None:
    before = snapshot()
    lab = Lab(PREFIX, progress, guests=False)
    try:
        lab.build()
        # Half of it is gone already when `millrace down` comes.
        lab.node.kill("node")
        lab.node.kill("ovs-vswitchd")
        lab.node.kill("nb")
    finally:
        lab.remove()
    assert _ours(before) == []
    lab.remove()
    assert _ours(before) == []
