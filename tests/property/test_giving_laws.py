"""Laws of addresses that are given: nobody's twice, kept while they may be, whatever the order."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address, ip_address

from hypothesis import given
from hypothesis import strategies as st

from controller.network.giving import Claim, give, ranges_of
from dataplane.model.addr import IPAddress

RANGES, _FAULTS = ranges_of(["10.0.0.0/29", "10.0.0.20-10.0.0.22", "fd00::10..fd00::13"])
SOME = st.lists(
    st.integers(0, 30).map(lambda n: ip_address(int(IPv4Address("10.0.0.0")) + n))
    | st.integers(14, 22).map(lambda n: ip_address(f"fd00::{n:x}")),
    max_size=3,
).map(tuple)


@st.composite
def claims(draw: st.DrawFn) -> list[Claim]:
    names = draw(st.lists(st.integers(0, 20), unique=True, max_size=14))
    return [
        Claim(
            f"c{name}",
            (str(draw(st.integers(0, 3))), f"c{name}"),
            draw(st.sampled_from([(4,), (6,), (4, 6)])),
            draw(SOME) if draw(st.booleans()) else (),
            draw(SOME),
        )
        for name in names
    ]


def addresses(found: list[IPAddress]) -> list[str]:
    return sorted(map(str, found))


@given(claims(), SOME, st.randoms())
def test_nobody_has_anothers_and_the_order_of_claims_is_nothing(
    asked: list[Claim], taken: tuple[IPAddress, ...], random: object
) -> None:
    found = give(RANGES, asked, taken)
    got = [address for one in found.values() for address in one.addresses.values()]
    assert len(got) == len(set(got))
    assert not set(got) & set(taken)
    for address in got:
        assert int(address) in RANGES[address.version]
    mixed = list(asked)
    random.shuffle(mixed)  # type: ignore[attr-defined]
    assert give(RANGES, mixed, taken) == found


@given(claims())
def test_what_was_given_is_given_again(asked: list[Claim]) -> None:
    found = give(RANGES, asked)
    held = [replace(one, held=tuple(found[one.who].addresses.values())) for one in asked]
    assert {who: one.addresses for who, one in give(RANGES, held).items()} == {
        who: one.addresses for who, one in found.items()
    }


@given(claims(), claims())
def test_who_comes_later_changes_nothing_for_those_who_have(
    asked: list[Claim], more: list[Claim]
) -> None:
    found = give(RANGES, asked)
    held = [replace(one, held=tuple(found[one.who].addresses.values())) for one in asked]
    late = [
        Claim(f"late-{one.who}", ("", f"late-{one.who}"), one.families, one.wished) for one in more
    ]
    after = give(RANGES, [*held, *late])
    assert all(after[who].addresses == one.addresses for who, one in found.items())


@given(claims())
def test_whoever_gets_less_than_asked_is_told_why(asked: list[Claim]) -> None:
    for who, one in give(RANGES, asked).items():
        (claim,) = [claim for claim in asked if claim.who == who]
        short = {a.version for a in claim.wished} | set(claim.families)
        assert one.faults or short == set(one.addresses)
