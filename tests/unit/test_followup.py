"""What follows a round: flows are walked through now and then, whether or not anything changed."""

from __future__ import annotations

import time

import pytest

from controller.followup import FollowUp


class _Conntrack:
    """Counts walks; nothing here is about flows."""

    def __init__(self) -> None:
        self.walks = 0

    def fill(self) -> None:
        self.walks += 1


def test_a_walk_comes_once_an_hour(monkeypatch: pytest.MonkeyPatch) -> None:
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now)
    made = FollowUp.__new__(FollowUp)
    walked = _Conntrack()
    made.__dict__ |= {"conntrack": walked, "_walked_at": now}
    seen = []
    for minutes in (0, 59, 60, 61, 119, 120):
        monkeypatch.setattr(time, "monotonic", lambda at=minutes: now + at * 60)
        made._walk()
        seen.append(walked.walks)
    assert seen == [0, 0, 1, 1, 1, 2]
