"""docs/services.md names what exists: files, and tests by their names."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "services.md").read_text(encoding="utf-8")
SPANS = set(re.findall(r"`([^`\n]+)`", TEXT))
PATHS = sorted(s for s in SPANS if re.fullmatch(r"(bpf|controller|dataplane|tests)(/[\w.]+)+", s))
NAMES = sorted(s for s in SPANS if re.fullmatch(r"test_\w+", s))


@pytest.mark.parametrize("path", PATHS)
def test_a_file_that_is_named_exists(path: str) -> None:
    assert (ROOT / path).exists()


def test_a_test_that_is_named_exists() -> None:
    sources = [path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("test_*.py")]
    defined = set(re.findall(r"^def (test_\w+)", "\n".join(sources), re.MULTILINE))
    assert NAMES
    assert set(NAMES) <= defined
