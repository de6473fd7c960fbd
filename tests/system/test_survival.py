"""What a node lives through: killed daemons and a restarted vswitchd."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from dataplane.drivers.processes import wait_until
from tests.labs import lab as topology
from tests.labs import traffic
from tests.labs.lab import Lab


@pytest.mark.parametrize("victim", ["node", "central"])
def test_killing_a_daemon_fails_no_request(lab: Lab, victim: str) -> None:
    with (
        traffic.beside(lab.client, "http", topology.VIP_WEB, 80, 0, 5) as loop,
        traffic.beside(lab.client, "echo", topology.NODE_ADDRESS, topology.PORT, 0) as stream,
    ):
        time.sleep(0.5)
        lab.node.kill(victim)
        log = lab.node.rundir / f"{victim}.log"
        size = log.stat().st_size
        time.sleep(1)
        lab.node.up()
        time.sleep(1)
    print(f"{victim}: {loop.result}")
    assert loop.answers.all_ok, loop.answers.failures
    assert stream.result["error"] == ""
    if victim == "central":
        _central_wrote_nothing(log, size)


def _central_wrote_nothing(log: Path, size: int) -> None:
    """What the cluster controller logs from `size` on: it has taken over, and changed nothing."""

    def said() -> str:
        return log.read_bytes()[size:].decode()

    wait_until(lambda: "active=True" in said(), "the cluster controller has the lock")
    time.sleep(1)
    assert "applied writes=" not in said(), said()
    assert "round_failed" not in said(), said()


def test_a_restarted_daemon_writes_nothing(lab: Lab) -> None:
    lab.node.kill("node")
    lab.node.up()
    lab.node.wait_served(topology.FAST_VIPS)
    applied = lab.node.ask("status")["last_apply"]
    print(applied)
    assert applied["rounds"] > 0
    assert applied["total_writes"] == 0


def test_up_again_starts_only_what_is_missing(
    lab: Lab, millrace: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    names = ("db", "ovs-vswitchd", "nb", "sb", "ovn-northd", "ovn-controller", "node", "central")
    before = {name: lab.node.pid(name) for name in names}
    assert None not in before.values()
    lab.node.kill("ovn-northd")
    again = millrace("up", "--config", str(lab.node.config_path))
    assert again.returncode == 0, again.stderr
    after = {name: lab.node.pid(name) for name in names}
    assert after["ovn-northd"] not in {None, before["ovn-northd"]}
    assert {n for n in names if before[n] != after[n]} == {"ovn-northd"}


def _resumes(lab: Lab, restart: Callable[[], object], what: str) -> None:
    """Traffic of every kind comes back by itself after `restart`."""
    outages = lab.node.ask("status")["ovs"]["restarts"]
    with traffic.beside(lab.client, "echo", topology.NODE_ADDRESS, topology.PORT, 0) as stream:
        began = time.monotonic()
        restart()
        back = time.monotonic() - began

        def served() -> bool:
            return traffic.ping(lab.client, topology.QEMU[1], 1)[0] == 1

        wait_until(served, "client -> guest", timeout_s=60)
        routed = time.monotonic() - began
        assert traffic.http(lab.client, topology.VIP_VM, 80, 5).all_ok
        through = time.monotonic() - began
        assert traffic.http(lab.client, topology.VIP_WEB, 80, 5).all_ok
        wait_until(
            lambda: traffic.ping(lab.wire, topology.TUNNEL_ADDRESS, 1)[0] == 1,
            "the tunnel endpoint's address answers",
            timeout_s=60,
        )
        tunnel = time.monotonic() - began
        assert traffic.ping(lab.containers["c1"], topology.TESTPMD[1])[0] == 3
        time.sleep(1)
    status = lab.node.ask("status")["ovs"]
    print(
        f"{what}: vswitchd back after {back:.2f} s, guest reachable {routed:.2f} s, VIP through "
        f"XDP {through:.2f} s, tunnel address {tunnel:.2f} s; the daemon says {status}; "
        f"own address: {stream.result}"
    )
    assert stream.result["error"] == ""
    wait_until(lambda: lab.node.ask("status")["ovs"]["restarts"] == outages + 1, "counted")


def test_a_restart_of_vswitchd_heals_by_itself(lab: Lab) -> None:
    _resumes(lab, lab.node.restart_vswitchd, "restart")


def test_a_killed_vswitchd_heals_once_it_is_started(lab: Lab) -> None:
    def killed() -> None:
        lab.node.kill("ovs-vswitchd")
        lab.node.up()

    _resumes(lab, killed, "kill -9")
