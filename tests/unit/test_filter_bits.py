"""The filters' hash: neighbours share cache lines, strangers are told apart."""

from __future__ import annotations

import random
from ipaddress import IPv4Address, IPv4Network, IPv6Network

import pytest

from bpf.abi import Limit
from bpf.pick import filter_bit
from dataplane.model.addr import Protocol

NETWORKS = (IPv4Network("10.96.0.0/16"), IPv6Network("fd00:10:96::/112"))
LINE_BITS = 512
_RANDOM = random.Random(20)


def lines(bits: set[int]) -> set[int]:
    return {bit // LINE_BITS for bit in bits}


@pytest.mark.parametrize("network", NETWORKS, ids=str)
def test_a_clusters_vips_of_one_port_are_in_few_lines(network: IPv4Network | IPv6Network) -> None:
    chosen = _RANDOM.sample(range(network.num_addresses), 10_000)
    bits = {filter_bit(network[number].packed, 443, Protocol.TCP) for number in chosen}
    assert len(bits) > 9_700, "some blocks of addresses share a line, and hardly a bit more"
    assert len(lines(bits)) <= network.num_addresses // LINE_BITS


def test_node_ports_are_in_few_lines() -> None:
    node = IPv4Address("172.18.0.11").packed
    bits = {filter_bit(node, port, Protocol.TCP) for port in range(30_000, 32_768)}
    assert len(bits) > 2_600
    assert len(lines(bits)) <= 7


def test_ports_of_one_address_and_protocols_have_bits_of_their_own() -> None:
    address = IPv4Address("10.96.0.1").packed
    ports = (53, 80, 443, 6443, 8080, 8443, 9153)
    bits = {
        filter_bit(address, port, protocol)
        for port in ports
        for protocol in (Protocol.TCP, Protocol.UDP, Protocol.SCTP)
    }
    assert len(bits) == 3 * len(ports)


@pytest.mark.parametrize("network", NETWORKS, ids=str)
def test_what_goes_elsewhere_is_rarely_taken_for_a_service(
    network: IPv4Network | IPv6Network,
) -> None:
    """With 10,000 VIPs the filter holds back all but a percent or two of other addresses."""
    served = {
        filter_bit(network[number].packed, port, Protocol.TCP)
        for number in _RANDOM.sample(range(network.num_addresses), 5_000)
        for port in (80, 443)
    }
    others = [
        _RANDOM.randbytes(4 if network.version == 4 else 16) for _ in range(20_000)
    ]  # of a hundred, one or two would be in the network itself
    taken = sum(
        filter_bit(address, _RANDOM.choice((80, 443, 5000)), Protocol.TCP) in served
        for address in others
    )
    assert taken < 0.02 * len(others)
    assert max(served) < Limit.FILTER_BITS
