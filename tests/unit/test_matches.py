"""Matches of users: what of them OVN cannot parse, and what it says. `tests/ovn/test_matches.py`
asks OVN itself."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.network.matches import broader, fault
from tests.labs.matchtexts import BROADER, COSTLY, PARSED, REFUSED, UNKNOWN


@pytest.mark.parametrize("match", [*PARSED, *UNKNOWN])
def test_what_ovn_may_parse_passes(match: str) -> None:
    assert fault(match) == ""


@pytest.mark.parametrize(("match", "said"), [*REFUSED, *COSTLY])
def test_what_it_cannot_parse_is_told(match: str, said: str) -> None:
    assert said in fault(match)


@pytest.mark.parametrize(("match", "instead"), BROADER)
def test_of_what_is_too_many_flows_all_and_more_can_be_had(match: str, instead: str) -> None:
    assert fault(match) and broader(match) == instead
    assert fault(instead) == ""


@pytest.mark.parametrize("match", [*PARSED, *UNKNOWN, *(match for match, _ in REFUSED)])
def test_of_another_match_nothing_is_left_out(match: str) -> None:
    assert broader(match) == ""


# Python reads no more than 4,300 digits.
_NUMBERS = st.builds(
    str.__mul__, st.text("0123456789", min_size=1, max_size=4), st.sampled_from((5000, 9, 1))
)
_WITH_A_NUMBER = ("tcp.dst == {}", "tcp.dst == 0x{}", "10.0.0.0/{} != ip4.src", "tcp.dst[{}]")
_PIECES = st.one_of(
    st.builds(str.format, st.sampled_from(_WITH_A_NUMBER), _NUMBERS),
    st.text(alphabet='ip4.src=<>!&|(){}[],"/01:@$ \n', max_size=40),
    st.sampled_from((" && ", " || ", "!")),
)


@given(st.lists(_PIECES, max_size=5).map("".join))
def test_every_text_gets_an_answer(match: str) -> None:
    assert isinstance(fault(match), str)
    assert fault(broader(match) or "1") == ""


def test_parentheses_without_end_are_no_defect() -> None:
    assert "too many" in fault("(" * 100_000 + "ip4")
