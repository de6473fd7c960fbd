"""What a run says while it runs: which trial of how many, and about how long it will take yet."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from typing import Any

from perf.harness import catalog


class Display:
    """One line that is written over on a terminal; one line for each lab and note elsewhere."""

    def __init__(self, todo: Mapping[str, int], seconds: float) -> None:
        self._todo, self._seconds = dict(todo), seconds
        self._total, self._done = sum(todo.values()), 0
        self._building = set(todo)
        self._took: dict[str, list[float]] = {}
        self._lab, self._doing, self._shown = "", "", 0.0
        self._terminal = sys.stderr.isatty()
        self._began = time.monotonic()

    def left_s(self) -> float:
        """About how long yet: by what trials took so far, or by the catalog."""
        left = 0.0
        for lab, count in self._todo.items():
            if lab in self._building:
                left += catalog.SETUP_S[lab]
            took = self._took.get(lab)
            each = sum(took) / len(took) if took else catalog.estimate_s(lab, 1, self._seconds)
            left += count * each
        return left

    def event(self, told: Mapping[str, Any]) -> None:
        """A line of the worker or the keeper."""
        kind = told["event"]
        if kind == "build":
            self._lab = told["lab"]
            self._doing = f"building {self._lab}"
            if not self._terminal:
                self._line(f"{self._lab}: building, {self._todo.get(self._lab, 0)} trials")
        elif kind == "built":
            self._building.discard(told["lab"])
        elif kind == "trial":
            self._doing = f"{told['scenario']} #{told['number'] + 1}"
        elif kind == "done":
            self._done += 1
            self._todo[self._lab] = max(0, self._todo.get(self._lab, 0) - 1)
            self._took.setdefault(self._lab, []).append(float(told["seconds"]))
        elif kind == "problem":
            self._todo[told["lab"]] = 0
            self._building.discard(told["lab"])
            self.note(f"{told['lab']}: {told['reason']}")
        elif kind == "step":
            self._doing = f"{told['lab']}: {told['line']}"
        elif kind == "note":
            self.note(f"{told['lab']}: {told['line']}")
        self.tick(0)

    def note(self, text: str) -> None:
        """Something to keep on the screen."""
        self._clear()
        self._line(text)

    def tick(self, _since: float) -> None:
        """Show the time left anew, at most five times a second."""
        now = time.monotonic()
        if not self._terminal or now - self._shown < 0.2:
            return
        self._shown = now
        width = 24
        full = width * self._done // max(self._total, 1)
        bar = "#" * full + "-" * (width - full)
        left = int(self.left_s())
        text = f"[{bar}] {self._done}/{self._total}  left {left // 60}:{left % 60:02d}"
        sys.stderr.write(f"\r\x1b[2K{text}  {self._doing}"[:160])
        sys.stderr.flush()

    def close(self) -> None:
        """The last word."""
        self._clear()
        self._line(f"{self._done} of {self._total} trials")

    def _clear(self) -> None:
        if self._terminal:
            sys.stderr.write("\r\x1b[2K")

    def _line(self, text: str) -> None:
        sys.stderr.write(f"[{time.monotonic() - self._began:6.1f} s] {text}\n")
        sys.stderr.flush()
