from __future__ import annotations

import pytest

from dataplane.ports import Failure
from dataplane.reconcile.backoff import Backoff, Delays


@pytest.mark.parametrize(
    ("failure", "attempts", "expected"),
    [
        (Failure("x"), 1, 1.0),
        (Failure("x"), 2, 2.0),
        (Failure("x"), 6, 32.0),
        (Failure("x"), 7, 60.0),
        (Failure("x"), 100_000, 60.0),
        (Failure("x", waiting=True), 1, 0.2),
        (Failure("x", waiting=True), 2, 0.4),
        (Failure("x", waiting=True), 9, 5.0),
        (Failure("x", quarantine=True), 1, 30.0),
        (Failure("x", quarantine=True), 4, 240.0),
        (Failure("x", quarantine=True), 9, 3600.0),
    ],
)
def test_the_default_delays(failure: Failure, attempts: int, expected: float) -> None:
    assert Backoff().delay(failure, attempts) == pytest.approx(expected)


@pytest.mark.parametrize("bounds", [(0, 1), (-1, 1), (2, 1)])
def test_impossible_delays_are_refused(bounds: tuple[float, float]) -> None:
    with pytest.raises(ValueError, match="0 < first <= last"):
        Delays(*bounds)
