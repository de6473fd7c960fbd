"""Uplinks in kernel mode, for development: the same programs, with AF_PACKET in place of AF_XDP."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tests.labs import paths, traffic
from tests.labs.lab import NODE_ADDRESS, PORT, VIP_LOCAL, VIP_WEB, Lab


@pytest.fixture(scope="module")
def kernel_lab(progress: Callable[[str], None]) -> Iterator[Lab]:
    """A node whose NICs OVS reads by AF_PACKET; no guests, the paths are the same."""
    with Lab("mrker", progress, guests=False, mode="kernel") as built:
        yield built


@pytest.mark.parametrize("vip", [VIP_WEB, VIP_LOCAL], ids=["cluster", "local"])
def test_xdp_serves_without_af_xdp(kernel_lab: Lab, vip: str) -> None:
    with paths.every_packet_hit(kernel_lab, vip, "tcp", 80) as sent:
        answers = traffic.http(kernel_lab.client, vip, 80, paths.REQUESTS)
    assert answers.all_ok, answers.failures
    assert sent[0] >= paths.REQUESTS


def test_the_nodes_own_address_is_the_kernels(kernel_lab: Lab) -> None:
    answers = traffic.http(kernel_lab.client, NODE_ADDRESS, PORT, paths.REQUESTS)
    assert answers.all_ok, answers.failures


def test_the_programs_are_pinned_links(kernel_lab: Lab) -> None:
    programs = {p["device"]: p for p in kernel_lab.node.ask("status")["programs"]}
    assert {name: row["attached"] for name, row in programs.items()} == {"up0": True, "svc0": True}
