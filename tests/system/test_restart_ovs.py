"""`millrace restart-ovs` on a node with guests, pods, a VIP and a tunnel address, under traffic."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from cni.wire import CODE_TRY_AGAIN, RemoteError, call
from dataplane.drivers.processes import wait_until
from tests.labs import lab as topology
from tests.labs import traffic
from tests.labs.lab import Lab

Millrace = Callable[..., "subprocess.CompletedProcess[str]"]

PIN = "\n[tuning]\nvhost_postcopy = true\n"
KEY = "vhost-postcopy-support"
MILESTONES = (
    "old process gone", "new process up", "uplinks polled", "guests' queues polled",
    "bridges' addresses", "OVN's flows", "all as planned",
)  # fmt: skip

ADD: dict[str, object] = {
    "network": "n", "container_id": "c0ffee", "ifname": "eth9", "netns": "/run/netns/none",
    "pod": "late", "namespace": "default", "pod_uid": "u-1", "mode": "veth", "mtu": 0, "queues": 1,
}  # fmt: skip


def settings(lab: Lab) -> dict[str, object]:
    return dict(lab.node.ask("status")["ovs"])


def test_without_anything_waiting_it_refuses(lab: Lab, millrace: Millrace) -> None:
    before = lab.node.pid("ovs-vswitchd")
    assert settings(lab)["restart_pending"] == {}
    refused = millrace("restart-ovs", "--config", str(lab.node.config_path))
    assert refused.returncode == 1
    assert "--force" in refused.stderr
    assert lab.node.pid("ovs-vswitchd") == before


def test_a_restart_in_order_puts_the_pin_into_effect(
    lab: Lab, millrace: Millrace, tmp_path: Path
) -> None:
    before = lab.node.pid("ovs-vswitchd")
    pinned = tmp_path / "node.toml"
    pinned.write_text(lab.node.config_path.read_text(encoding="utf-8") + PIN, encoding="utf-8")
    applied = millrace("apply", "--config", str(lab.node.config_path), str(pinned), "--json")
    assert applied.returncode == 0, applied.stderr
    assert settings(lab)["restart_pending"] == {KEY: [None, "true"]}
    assert lab.node.pid("ovs-vswitchd") == before

    with traffic.beside(lab.client, "echo", topology.NODE_ADDRESS, topology.PORT, 0) as stream:
        assert stream.server() == "node"
        began = time.monotonic()
        done = millrace("restart-ovs", "--config", str(lab.node.config_path), "--json")
        took = time.monotonic() - began
        print(done.stdout, done.stderr)
        assert done.returncode == 0, done.stderr
        answer = json.loads(done.stdout)
        wait_until(
            lambda: traffic.ping(lab.client, topology.QEMU[1], 1)[0] == 1,
            "client -> guest",
            timeout_s=60,
        )
        through = time.monotonic() - began
    assert lab.node.pid("ovs-vswitchd") not in (None, before)
    assert answer["missing"] == []
    assert set(answer["milestones_ms"]) == set(MILESTONES)
    assert answer["applied"] == {KEY: [None, "true"]}
    assert answer["outage_ms"] == max(answer["milestones_ms"].values())
    now = settings(lab)
    print(f"the command took {took:.2f} s, the guest answered after {through:.2f} s; {now}")
    assert now["restart_pending"] == {}
    assert now["draining"] == ""
    log = (lab.node.rundir / "ovs-vswitchd.log").read_text(encoding="utf-8", errors="replace")
    assert "POSTCOPY support for vhost-user-client enabled" in log
    assert stream.result["error"] == ""
    for vip in (topology.VIP_VM, topology.VIP_WEB):
        assert traffic.http(lab.client, vip, 80, 5).all_ok


def test_while_it_drains_attachments_are_put_off(lab: Lab) -> None:
    lab.node.ask("drain", holder="test")
    try:
        assert "restart-ovs" in str(settings(lab)["draining"])
        with pytest.raises(RemoteError) as put_off:
            call(str(lab.node.cni_socket), "add", ADD, 10.0)
        assert put_off.value.code == CODE_TRY_AGAIN
        assert "restart-ovs" in put_off.value.msg
    finally:
        lab.node.ask("resume", holder="test")
    assert settings(lab)["draining"] == ""
