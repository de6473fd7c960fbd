"""The node's own address on a NIC that OVS takes: one TCP stream through all that happens."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable, Iterator

import pytest

from dataplane.drivers.processes import wait_until
from tests.labs import lab as topology
from tests.labs import traffic
from tests.labs.lab import Lab

Millrace = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def bare(progress: Callable[[str], None]) -> Iterator[Lab]:
    """A node's surroundings, and a server on the node, before anything of Millrace runs."""
    made = Lab("mrown", progress, guests=False)
    try:
        made.prepare()
        made.servers["node"].start()
        yield made
    finally:
        made.remove()


def test_one_connection_outlives_the_uplinks_whole_life(bare: Lab, millrace: Millrace) -> None:
    phases: list[tuple[str, float]] = []
    began = time.monotonic()

    def phase(name: str) -> None:
        phases.append((name, time.monotonic() - began))

    with traffic.beside(bare.client, "echo", topology.NODE_ADDRESS, topology.PORT, 0) as stream:
        assert stream.server() == "node"
        began = time.monotonic()
        assert _program(bare) is None

        phase("millrace up, first attach")
        bare.start()
        bound = bare.node.program("up0").tag
        assert traffic.http(bare.client, topology.VIP_WEB, 80, 3).all_ok

        phase("up0 taken out by millrace apply")
        kept = bare.node.config_path.read_text()
        bare.node.config_path.write_text(_without_uplink(kept, "up0"))
        _apply(bare, millrace)
        wait_until(lambda: "up0" not in _ports(bare), "OVS has let go of up0")
        time.sleep(1)

        phase("up0 put back by millrace apply")
        bare.node.config_path.write_text(kept)
        _apply(bare, millrace)
        bare.node.wait_served(topology.FAST_VIPS)
        assert bare.node.program("up0").tag == bound
        assert traffic.http(bare.client, topology.VIP_WEB, 80, 3).all_ok

        phase("millrace down")
        down = millrace("down", "--config", str(bare.node.config_path))
        assert down.returncode == 0, down.stderr
        assert _program(bare) is None
        time.sleep(1)

    for (name, start), (_, end) in zip(phases, [*phases[1:], ("", float("inf"))], strict=True):
        silent = [ms for at, ms in stream.result["silences"] if start <= at < end]
        print(f"{name}: from {start:.1f} s; silences [ms]: {silent}")
    print(stream.result)
    assert stream.result["error"] == ""
    assert stream.result["lines"] > 5


def _apply(lab: Lab, millrace: Millrace) -> None:
    applied = millrace("apply", "--config", str(lab.node.config_path))
    assert applied.returncode == 0, applied.stderr


def _without_uplink(text: str, device: str) -> str:
    """A node's file without one of its [[uplink]] tables."""
    first, *tables = text.split("[[uplink]]")
    rest = [table for table in tables if f'device = "{device}"' not in table]
    assert len(rest) == len(tables) - 1
    assert all("[tunnel]" not in table for table in set(tables) - set(rest))
    return "[[uplink]]".join([first, *rest])


def _ports(lab: Lab) -> list[str]:
    return lab.node.vsctl("--columns=name", "--format=csv", "list", "Port").split()


def _program(lab: Lab) -> object:
    """What XDP runs on the uplink, None if nothing does."""
    shown = lab.namespace.run("ip", "-j", "-d", "link", "show", "dev", "up0")
    return json.loads(shown)[0].get("xdp")
