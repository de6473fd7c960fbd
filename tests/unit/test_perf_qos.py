"""What `millrace perf qos` makes of counts: IP octets, and which cases say anything."""

from __future__ import annotations

import pytest

from perf.qos import Case, case_of, ip_rate, line
from perf.qoslab import VM, Counts


def case(received: int, sent: int, unshaped: float, seconds: float = 10.0) -> Case:
    counts = Counts(seconds, sent, received, received * 64, 0)
    return case_of(VM, 1_000_000, 64, counts, unshaped, sending=True)


def test_the_ethernet_header_does_not_count() -> None:
    assert ip_rate(Counts(10.0, 0, 25_000, 25_000 * 64, 0)) == 1_000_000
    exact = case(25_000, 50_000, 2e6)
    assert (exact.ratio, exact.frame_ratio, exact.offered) == (1.0, 1.28, 2_000_000)
    assert exact.judged
    assert exact.holds


@pytest.mark.parametrize(
    ("received", "sent", "unshaped", "word"),
    [
        (26_000, 50_000, 2e6, "holds"),
        (26_300, 50_000, 2e6, "FAILS"),
        (23_700, 50_000, 2e6, "FAILS"),
        (23_700, 30_000, 2e6, "not judged"),
        (12_000, 50_000, 1.4e6, "not judged"),
    ],
)
def test_a_case_is_judged_where_the_path_and_the_sender_carry_more(
    received: int, sent: int, unshaped: float, word: str
) -> None:
    assert line(case(received, sent, unshaped)).endswith(word)
