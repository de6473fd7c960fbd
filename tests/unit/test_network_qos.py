"""Limits of pods' annotations: through our words to what the node's reader makes of them."""

from __future__ import annotations

import pytest

from controller.network.qos import port_limits
from controller.translate.limits import limits_of, mirrored_of
from controller.translate.ovn import LogicalSwitchPort
from dataplane.model.bandwidth import UNLIMITED, Bandwidth, Limits


def read(provider: str = "ovn", **said: str) -> tuple[Limits, int]:
    """What a node holds the port to, and how many things are wrong with the annotations."""
    keys = {f"{provider}.kubernetes.io/{name}": value for name, value in said.items()}
    found = port_limits("pod ns/web", provider, keys)
    port = LogicalSwitchPort("web.ns", options=found.options, external_ids=found.external_ids)
    limits, problems = limits_of([port])
    assert problems == ()
    return limits.get("web.ns", UNLIMITED), len(found.problems)


def test_rates_are_in_megabits_and_ingress_is_what_is_received() -> None:
    found = read(ingress_rate="3", egress_rate="1.5", ingress_burst="0.2")
    assert found == (Limits(Bandwidth(1_500_000), Bandwidth(3_000_000, 200_000)), 0)


def test_another_interface_has_limits_of_its_own() -> None:
    assert read("net1.ns.ovn", egress_rate="10") == (Limits(Bandwidth(10_000_000)), 0)
    assert (
        port_limits("pod ns/web", "ovn", {"net1.ns.ovn.kubernetes.io/egress_rate": "1"}).options
        == {}
    )


@pytest.mark.parametrize("rate", ["fast", "0.01", "1e9", "NaN", "-1", "Infinity"])
def test_a_rate_that_cannot_be_is_no_limit_and_said(rate: str) -> None:
    assert read(ingress_rate=rate) == (UNLIMITED, 1)


def test_nothing_and_nought_are_no_limit() -> None:
    assert read() == (UNLIMITED, 0)
    assert read(ingress_rate="0", egress_rate="") == (UNLIMITED, 0)


@pytest.mark.parametrize("name", ["latency", "limit", "loss", "jitter"])
def test_netem_is_said_to_be_void(name: str) -> None:
    assert read(**{name: "10"}) == (UNLIMITED, 1)


def test_copies_are_wanted_of_the_interface_that_says_so() -> None:
    said = {"ovn.kubernetes.io/mirror": "true", "net1.ns.ovn.kubernetes.io/mirror": "false"}
    found = [
        LogicalSwitchPort(name, external_ids=port_limits("pod ns/web", name, said).external_ids)
        for name in ("ovn", "net1.ns.ovn", "net2.ns.ovn")
    ]
    assert mirrored_of(found) == {"ovn"}
    assert read(mirror="true") == (UNLIMITED, 0)
