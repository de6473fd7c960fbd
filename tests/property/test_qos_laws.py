"""What every policer's row promises, whatever rate, burst and MTU."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from dataplane.model.bandwidth import Bandwidth, Limits
from dataplane.plan.qos import (
    MAX_BURST_MS,
    MAX_RATE,
    MIN_RATE,
    bucket,
    burst_bytes,
    policer,
    refusal,
    rounding,
)

WANTED = st.builds(
    Bandwidth,
    st.integers(MIN_RATE, MAX_RATE),
    st.none() | st.integers(1, 2**64),
)
MTU = st.integers(68, 9600)


@given(WANTED, MTU)
def test_the_burst_is_at_most_two_percent_of_ten_seconds_or_one_packet(
    wanted: Bandwidth, mtu: int
) -> None:
    depth = burst_bytes(wanted, mtu)
    assert mtu < depth <= max(wanted.rate * MAX_BURST_MS // 8000, mtu + 4)


@given(WANTED, st.booleans())
def test_units_round_by_less_than_one_percent(wanted: Bandwidth, sending: bool) -> None:
    assert abs(rounding(wanted, sending=sending).error) < 0.01
    assert refusal(wanted) == ""


@given(st.none() | WANTED, st.none() | WANTED, MTU)
def test_a_row_limits_what_was_asked_for_and_nothing_else(
    send: Bandwidth | None, receive: Bandwidth | None, mtu: int
) -> None:
    limits = Limits(send, receive)
    row, mine = policer(limits, mtu), bucket(limits, mtu)
    if send is None and receive is None:
        assert row is None
        assert mine is None
        return
    assert row is not None
    assert mine is not None
    for asked, numbers in (
        (send, (row.ingress_kbps, row.ingress_burst_kb, mine.send_rate, mine.send_burst)),
        (receive, (row.cir, row.cbs, mine.receive_rate, mine.receive_burst)),
    ):
        assert all(numbers) if asked else not any(numbers)
    # OVS turns kilobits into octets, rounded down; the largest packet still fits.
    if send is not None:
        assert row.ingress_burst_kb * 1000 // 8 >= mtu
