"""A bench for each module of tests; while it stands, the thread is in a namespace of its own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.oracle.bench import Bench
from tests.oracle.place import standing

CROWDED_SLOTS = 64
"""Records of a table in which new flows push others out."""


@pytest.fixture(scope="module")
def bench() -> Iterator[Bench]:
    """The programs over a table that is never full."""
    with standing() as made:
        yield made


@pytest.fixture(scope="module")
def crowded() -> Iterator[Bench]:
    """The programs over a table of a few flows."""
    with standing(CROWDED_SLOTS) as made:
        yield made
