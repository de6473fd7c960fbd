"""docs/services.md names what exists: files, and tests by their names."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from bpf.abi import CtState
from dataplane.drivers.nodemap import TIMEOUTS_S

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


def test_the_table_of_states_is_the_programs() -> None:
    """Every state, its timeout and whether new flows may end it."""
    told: dict[CtState, tuple[int, bool]] = {}
    for row in re.findall(r"^\| (`[a-z`;\- ]+`) \| (?:UDP|TCP|SCTP)\b(.*) \|$", TEXT, re.MULTILINE):
        states = [
            CtState[f"CT_{name.upper().replace('-', '_')}"]
            for name in re.findall(r"`([a-z-]+)`", row[0])
        ]
        seconds, weak = (cell.strip() for cell in row[1].split("|")[-2:])
        times = [int(s.replace(",", "")) for s in re.findall(r"[\d,]+", seconds.partition("(")[0])]
        for at, state in enumerate(states):
            told[state] = times[at if len(times) > 1 else 0], weak == "yes"
    header = (ROOT / "bpf" / "include" / "ct.h").read_text(encoding="utf-8")
    weak_states = header.partition("#define WEAK_STATES")[2].partition("\n\n")[0]
    weak_names = set(re.findall(r"BIT\((CT_\w+)\)", weak_states))
    assert told == {s: (seconds, s.name in weak_names) for s, seconds in TIMEOUTS_S.items()}
