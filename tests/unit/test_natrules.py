"""What of natOutgoingPolicyRules becomes rows, against the rules gone through one by one."""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import ip_address, ip_network

from hypothesis import given
from hypothesis import strategies as st

from controller.translate.natrules import alike
from dataplane.model.addr import IPNetwork
from dataplane.model.config import Outgoing, OutgoingRule


def networks(*texts: str) -> tuple[IPNetwork, ...]:
    return tuple(map(ip_network, texts))


def rule(sources: str, destinations: str, *, translated: bool) -> OutgoingRule:
    return OutgoingRule(
        networks(*sources.split()), networks(*destinations.split()), translated=translated
    )


def way(network: str, *rules: OutgoingRule) -> Outgoing:
    return Outgoing("vpc", networks(network), translated=True, rules=rules)


def said(rules: Iterable[OutgoingRule], source: str, destination: str) -> bool:
    """The first rule that fits decides; translated if none does (Kube-OVN's order)."""
    for one in rules:
        fits = [
            not nets or any(ip_address(text) in net for net in nets)
            for nets, text in ((one.sources, source), (one.destinations, destination))
        ]
        if all(fits):
            return one.translated
    return True


def made(ways: Iterable[Outgoing], source: str, destination: str) -> bool:
    """What the rows do; no address is in two of them."""
    rows = [kept for kept, nets in alike(ways).items() for net in nets if ip_address(source) in net]
    assert len(rows) <= 1
    return bool(rows) and all(ip_address(destination) not in ip_network(text) for text in rows[0])


def test_rules_that_overlap() -> None:
    ways = [
        way(
            "10.0.11.0/24",
            rule("10.0.11.0/30 10.0.11.254", "", translated=False),
            rule("10.0.11.128/26", "198.51.100.1 198.51.100.2", translated=True),
            rule("10.0.11.128/25", "198.51.100.0/24", translated=False),
        )
    ]
    found = alike(ways)
    assert set(found) == {
        (),
        ("198.51.100.0/24",),
        ("198.51.100.0/32", "198.51.100.3/32", "198.51.100.4/30", "198.51.100.8/29",
         "198.51.100.16/28", "198.51.100.32/27", "198.51.100.64/26", "198.51.100.128/25"),
    }  # fmt: skip
    assert not made(ways, "10.0.11.2", "203.0.113.1")
    assert made(ways, "10.0.11.4", "203.0.113.1")
    assert made(ways, "10.0.11.130", "198.51.100.1")
    assert not made(ways, "10.0.11.130", "198.51.100.9")
    assert not made(ways, "10.0.11.254", "198.51.100.1")


def test_without_rules_networks_that_are_neighbours_are_one_row() -> None:
    nats = rule("10.0.0.7", "", translated=True)
    found = alike([way("10.0.0.0/24", nats), way("10.0.1.0/24"), way("fd00::/64")])
    assert found == {(): list(networks("10.0.0.0/23", "fd00::/64"))}


def test_a_rule_for_everything_and_one_of_the_other_family() -> None:
    ways = [
        way(
            "fd00::/64",
            rule("10.0.0.1", "", translated=False),
            rule("", "2001:db8::/32", translated=True),
            rule("", "", translated=False),
        )
    ]
    assert made(ways, "fd00::1", "2001:db8::1")
    assert not made(ways, "fd00::1", "2001:db9::1")
    assert alike([way("10.0.0.0/24", rule("", "", translated=False))]) == {}


_SOURCES = st.integers(0, 255).map(lambda at: f"10.0.0.{at}")
_BLOCKS = st.builds(
    lambda at, length: str(ip_network(f"10.0.0.{at}/{length}", strict=False)),
    st.integers(0, 255), st.integers(23, 32),
)  # fmt: skip
_RULES = st.lists(
    st.builds(
        lambda sources, destinations, nat: rule(
            " ".join(sources), " ".join(destinations), translated=nat
        ),
        st.lists(_BLOCKS, max_size=3), st.lists(_BLOCKS, max_size=3), st.booleans(),
    ),
    max_size=5,
)  # fmt: skip


@given(_RULES, _SOURCES, _SOURCES)
def test_rows_do_what_the_rules_say(
    rules: list[OutgoingRule], source: str, destination: str
) -> None:
    assert made([way("10.0.0.0/24", *rules)], source, destination) == said(
        rules, source, destination
    )
