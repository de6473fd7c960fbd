"""A hundred thousand packets of every kind through the programs and the model: no difference.

Worlds of fixed seeds, so that a red run is red again, and as a fifth of all worlds of a seed that
is new each time and printed. What fails is made small before it is told.
"""

from __future__ import annotations

import secrets
from collections import Counter
from dataclasses import dataclass

import pytest

from tests.oracle.campaign import Failure, Tally, run
from tests.oracle.classes import EXPECTED, EXPECTED_REASONS
from tests.oracle.kernel import KernelLog
from tests.oracle.place import standing
from tests.oracle.shrink import shrunk, told
from tests.oracle.tables import Table

pytestmark = pytest.mark.oracle

PER_WORLD = 2000


@dataclass(frozen=True, slots=True)
class Part:
    """So many packets through worlds of one kind; `seed` None: another one each time."""

    name: str
    packets: int
    seed: int | None
    table: Table = Table.ROOMY


PARTS = (
    Part("fixed worlds", 80_000, 41),
    Part("fixed worlds with full tables", 20_000, 1, Table.CROWDED),
    Part("fixed worlds with wide tables that are full", 20_000, 1, Table.LADEN),
    Part("new worlds", 20_000, None),
    Part("new worlds with full tables", 5_000, None, Table.CROWDED),
    Part("new worlds with wide tables that are full", 5_000, None, Table.LADEN),
)
WANTED = 100_000


@dataclass(frozen=True, slots=True)
class Result:
    """What became of all parts."""

    tallies: dict[str, Tally]
    failures: dict[str, str]
    complaints: list[str]

    def seen(self) -> Counter[str]:
        """How often each class and reason occurred."""
        total: Counter[str] = Counter()
        for tally in self.tallies.values():
            total += tally.reasons + tally.classes
        return total


def _text(failure: Failure, small: Failure | None) -> str:
    if small is not None:
        return told(small)
    last = failure.events[-1]
    return f"seed {failure.seed}, not again from the beginning: {failure.wrong}\n{last!r}"


@pytest.fixture(scope="module")
def result() -> Result:
    found = Result({}, {}, [])
    with KernelLog() as log:
        for part in PARTS:
            seed = secrets.randbelow(1 << 40) if part.seed is None else part.seed
            with standing(part.table) as bench:
                tally, failure = run(bench, part.packets, seed, part.table, per_world=PER_WORLD)
                print(f"{part.name}: seed {seed}, {tally.packets:,}, {tally.rate:,.0f} a second")
                found.tallies[part.name] = tally
                if failure is not None:
                    small = shrunk(bench, failure)
                    found.failures[part.name] = _text(failure, small)
        found.complaints.extend(log.complaints())
    return found


@pytest.mark.parametrize("part", PARTS, ids=lambda part: part.name.replace(" ", "-"))
def test_programs_and_model_agree(result: Result, part: Part) -> None:
    assert part.name not in result.failures, result.failures[part.name]
    assert result.tallies[part.name].packets == part.packets


def test_they_were_a_hundred_thousand(result: Result) -> None:
    assert sum(tally.packets for tally in result.tallies.values()) >= WANTED


def test_every_class_of_frame_came(result: Result) -> None:
    missing = EXPECTED - set(result.seen())
    assert not missing, f"no frame was {', '.join(sorted(missing))}: the traffic has changed"


def test_every_reason_was_counted(result: Result) -> None:
    missing = EXPECTED_REASONS - set(result.seen())
    assert not missing, f"nothing was counted as {', '.join(sorted(missing))}"


def test_the_kernel_did_not_complain(result: Result) -> None:
    assert not result.complaints
