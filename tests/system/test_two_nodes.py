"""Two nodes, one OVN: what crosses from one to the other goes through Geneve, then VXLAN."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from dataplane.drivers.processes import wait_until
from tests.labs import traffic
from tests.labs.lab import PORT, VIP_VM
from tests.labs.twonodes import GUEST, TwoNodeLab

Millrace = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="module")
def two(progress: Callable[[str], None]) -> Iterator[TwoNodeLab]:
    with TwoNodeLab("mrtwo", progress) as built:
        yield built


def test_a_container_reaches_a_guest_of_the_other_node(two: TwoNodeLab) -> None:
    # Each side learns the other's port and the tunnel's neighbour in its own time.
    took = wait_until(
        lambda: traffic.ping(two.container, GUEST[1], 1)[0] == 1, "the first echo over Geneve"
    )
    received, mean = traffic.ping(two.container, GUEST[1], 5)
    print(f"ping over Geneve: first after {took:.2f} s, then {received}/5, {mean} ms")
    assert received == 5
    answers = traffic.http(two.container, GUEST[1], PORT, 20)
    assert answers.all_ok, answers.failures
    assert answers.names == {GUEST[0]: 20}
    flows = two.nodes[0].megaflows()
    assert any("tnl_push" in flow and "geneve" in flow for flow in flows), flows


def test_a_vip_is_served_by_a_backend_on_the_other_node(two: TwoNodeLab, tmp_path: Path) -> None:
    with traffic.captured(two.client, "eth0", tmp_path / "client.pcap", "tcp") as capture:
        answers = traffic.http(two.client, VIP_VM, 80, 20)
    assert answers.all_ok, answers.failures
    assert answers.names == {GUEST[0]: 20}
    backends = two.nodes[0].services()[VIP_VM]["backends"]
    assert [backend["place"] for backend in backends] == ["remote"]
    incoming = [line for line in traffic.read_capture(capture) if "> 172.18.0.2." in line]
    assert all(f" {VIP_VM}.80 > " in line for line in incoming)


def test_the_same_over_vxlan(two: TwoNodeLab, millrace: Millrace) -> None:
    """The last of this file: the nodes stay on VXLAN."""
    first = two.nodes[0].config_path
    asked = millrace("preflight", "vxlan", "--config", str(first))
    assert asked.returncode == 0, asked.stdout
    for node in two.nodes:
        text = node.config_path.read_text(encoding="utf-8")
        node.config_path.write_text(text.replace('"geneve"', '"vxlan"'), encoding="utf-8")
        done = millrace("apply", "--config", str(node.config_path))
        assert done.returncode == 0, done.stderr
    said = two.nodes[0].vsctl("get", "Open_vSwitch", ".", "external_ids:ovn-encap-type")
    assert said.strip().strip('"') == "vxlan"

    def pushed() -> bool:
        got, _ = traffic.ping(two.container, GUEST[1], 3)
        flows = two.nodes[0].megaflows()
        return got == 3 and any("tnl_push" in flow and "vxlan" in flow for flow in flows)

    wait_until(pushed, "echoes over VXLAN", timeout_s=60)
    assert not any("tnl_push" in flow and "geneve" in flow for flow in two.nodes[0].megaflows())
    answers = traffic.http(two.container, GUEST[1], PORT, 20)
    assert answers.all_ok, answers.failures
    assert traffic.http(two.client, VIP_VM, 80, 20).all_ok
