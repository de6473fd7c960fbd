"""A bench for each module of tests; while it stands, the thread is in a namespace of its own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.oracle.bench import Bench
from tests.oracle.place import standing


@pytest.fixture(scope="module")
def bench() -> Iterator[Bench]:
    """The programs over a table that is never full."""
    with standing() as made:
        yield made
