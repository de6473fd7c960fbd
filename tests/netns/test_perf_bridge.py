"""The Linux bridge that containers are compared with carries what their MTU says."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from perf import containerlab
from perf.containerlab import Pair
from tests.labs import netns

PREFIX = "mrbrg"
MTU = 3448
ICMP_AND_IP = 28
"""Octets of the headers (RFC 791, RFC 792)."""


@pytest.fixture(scope="module")
def pair() -> Iterator[Pair]:
    netns.sweep(PREFIX)
    try:
        yield containerlab.bridged(MTU, PREFIX)
    finally:
        netns.sweep(PREFIX)


def test_a_packet_as_large_as_the_mtu_comes_back_whole(pair: Pair) -> None:
    words = ["-n", "-M", "do", "-c", "3", "-s", str(MTU - ICMP_AND_IP), pair.address]
    assert "3 received" in pair.client.run("ping", *words, check=False)


def test_all_between_the_two_has_one_mtu(pair: Pair) -> None:
    between = netns.Namespace(f"{PREFIX}-bridge")
    found = [
        link
        for where in (pair.client, between, pair.server)
        for link in json.loads(where.run("ip", "-j", "link", "show"))
        if link["ifname"] in ("eth0", "br0", "to0", "to1")
    ]
    assert sorted(link["ifname"] for link in found) == ["br0", "eth0", "eth0", "to0", "to1"]
    assert {link["mtu"] for link in found} == {MTU}
