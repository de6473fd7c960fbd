"""What no frame shows: no record is named by two words, so they cannot pile up."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from bpf import abi
from bpf.objects import OBJECT_DIRECTORY
from dataplane.drivers.mapbulk import read_array
from tests.oracle.breaking import Broken, built
from tests.oracle.campaign import run
from tests.oracle.place import standing
from tests.oracle.tables import Table

pytestmark = pytest.mark.oracle

SEED, PACKETS = 41, 10_000
LEFT_BEHIND = Broken(
    "the word of a record's former flow is left behind",
    "include/ct_add.h",
    "\tif (likely(work->used))\n\t\tCT(unname)(work->id);",
    "\tif (0)\n\t\tCT(unname)(work->id);",
    ("uplink", "svc"),
)


def named_twice(objects: Path = OBJECT_DIRECTORY) -> int:
    """How many records more than one word of the clients' index names, after a campaign.

    One world, since another one has another hash: a node keeps its own as long as its tables.
    """
    found, table = 0, Table.CROWDED
    with standing(table, objects) as bench:
        _, failure = run(bench, PACKETS, SEED, table, per_world=PACKETS)
        assert failure is None, failure.wrong
        for name in ("ct4_tags", "ct6_tags"):
            octets = np.dtype((np.uint32, (abi.INDEX_BUCKET.size // 4,)))
            words = read_array(bench.maps[name], octets)[:, -int(abi.Limit.INDEX_WAYS) :]
            numbers = words[words != 0] & np.uint32(table.records - 1)
            assert len(numbers) > table.records // 2
            found += int((np.bincount(numbers) > 1).sum())
    return found


def test_no_record_is_named_twice() -> None:
    assert not named_twice()


def test_a_copy_that_leaves_words_behind_names_records_twice(tmp_path: Path) -> None:
    assert named_twice(built(LEFT_BEHIND, tmp_path))
