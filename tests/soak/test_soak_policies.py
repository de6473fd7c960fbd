"""Random policies of all kinds, each cluster of them by real packets: no difference from the texts.

MILLRACE_POLICY_CLUSTERS says how many clusters; each is tried with 120 new connections.
"""

from __future__ import annotations

import os
from typing import Any

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from tests.policies.admins import admins
from tests.policies.evaluate import World
from tests.policies.evaluate_admin import Tiers
from tests.policies.packets import (
    SPACES,
    differences,
    probes,
    rows_of_tiers,
    running,
    wanted_of,
    write,
)
from tests.property.test_policy_laws import policies
from tests.soak.verdicts import Verdicts

pytestmark = pytest.mark.soak

CLUSTERS = int(os.environ.get("MILLRACE_POLICY_CLUSTERS", "60"))


def test_random_policies_by_packets(verdicts: Verdicts) -> None:
    tried_of: list[int] = []
    with running() as trial:
        # No shrinking: every try takes a second.
        @settings(max_examples=CLUSTERS, deadline=None, phases=[Phase.generate])
        @given(st.one_of(st.just([]), admins), policies, st.integers(0, 5))
        def judge(objects: list[Any], others: list[Any], shift: int) -> None:
            tiers = Tiers(World(others, SPACES), objects)
            write(trial.lab.box, rows_of_tiers(tiers))
            trial.lab.sync()
            tried = probes(shift)
            assert differences(trial, tried, wanted_of(tiers, tried)) == []
            tried_of.append(len(tried))

        judge()
    tried = sum(tried_of)
    enough = tried >= 60 * CLUSTERS
    figures = f"{tried} connections in {len(tried_of)} clusters"
    assert verdicts.note("packets fare as random policies say", figures, holds=enough)
