"""The table [gateways] of the Kubernetes controller's file."""

from __future__ import annotations

from ipaddress import ip_address
from pathlib import Path

import pytest

from controller.config import ConfigProblems
from controller.config_kubernetes import load_kubernetes
from controller.network.gateways import GatewayTemplate

HEAD = '[controller]\nnb = "unix:/run/nb.sock"\n[gateways]\nsb = "unix:/run/sb.sock"\n'


def read(tmp_path: Path, *lines: str) -> GatewayTemplate:
    path = tmp_path / "controller.toml"
    path.write_text(HEAD + "\n".join(lines) + "\n", encoding="utf-8")
    found = load_kubernetes(path).gateways
    assert found is not None
    return found


def test_little_has_to_be_written(tmp_path: Path) -> None:
    found = read(tmp_path)
    assert (found.cluster.nb_remote, found.cluster.sb_remote) == (
        "unix:/run/nb.sock", "unix:/run/sb.sock",
    )  # fmt: skip
    assert (found.physnet, found.routers, found.nodes) == ("external", ("ovn-cluster",), None)
    assert found.cluster.trunks


def test_everything_may_be(tmp_path: Path) -> None:
    found = read(
        tmp_path, 'physnet = "phys"', 'networks = ["192.0.2.0/26"]', "trunks = false",
        'addresses = ["192.0.2.11-192.0.2.40"]', 'next_hops = ["192.0.2.1"]',
        'routers = ["ovn-cluster", "vpc1"]', 'nodes = "gateway=true"', 'join = "100.70.0.0/20"',
        'join6 = "fd00:1::/64"', 'service_pool6 = "fd00:2::/64"', "heartbeat_s = 1",
    )  # fmt: skip
    assert (found.physnet, found.length(4), found.nodes) == ("phys", 26, ("gateway", "true"))
    assert found.next_hops == (ip_address("192.0.2.1"),)
    assert (found.cluster.join, found.cluster.join6) == ("100.70.0.0/20", "fd00:1::/64")


def test_without_the_table_there_are_none(tmp_path: Path) -> None:
    path = tmp_path / "controller.toml"
    path.write_text('[controller]\nnb = "unix:/run/nb.sock"\n', encoding="utf-8")
    assert load_kubernetes(path).gateways is None


@pytest.mark.parametrize(
    ("line", "word"),
    [
        ('addresses = ["here"]', "addresses"),
        ('next_hops = ["192.0.2.1"]', "next_hops"),
        ('next_hops = ["router"]', "next_hops"),
        ('join6 = "fd00:1::/64"', "service_pool6"),
        ('nodes = "gateway"', "nodes"),
        ('join = "here"', "join"),
        ("wrong = 1", "wrong"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, line: str, word: str) -> None:
    with pytest.raises(ConfigProblems, match=word):
        read(tmp_path, line)
