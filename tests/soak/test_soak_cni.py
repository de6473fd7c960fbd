"""A thousand random sequences of CNI verbs, with kills of callers and daemon in between."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.labs import netns
from tests.labs.netns import Namespace
from tests.netns.test_cni_sequences import SEQUENCES, assert_sequences
from tests.soak.verdicts import Verdicts

pytestmark = pytest.mark.soak

PREFIX = "mrseq"
USUAL = 1_000


def test_any_sequence_ends_as_it_should(tmp_path: Path, verdicts: Verdicts, scale: float) -> None:
    count = max(int(USUAL * scale), SEQUENCES)
    netns.sweep(PREFIX)
    try:
        # Other seeds than the quick test's.
        assert_sequences(
            tmp_path,
            lambda name: str(Namespace(f"{PREFIX}-{name}").create().path),
            range(SEQUENCES, SEQUENCES + count),
        )
        verdicts.note("random CNI sequences end as they should", f"n={count}", holds=True)
    finally:
        netns.sweep(PREFIX)
