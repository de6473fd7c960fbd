"""Who answers for a VIP on the wire, and who takes over: two nodes on one segment with a client."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from functools import partial
from ipaddress import ip_address
from pathlib import Path

import pytest

from dataplane.drivers.processes import wait_until
from dataplane.plan.owners import owner
from tests.labs import netns, traffic
from tests.labs.labnode import LabNode
from tests.labs.servicenodes import ServiceLab, backends4, backends6

HEARTBEAT_S = 1
FIRST, SECOND = 0, 1


@pytest.fixture(scope="module")
def lab(progress: Callable[[str], None]) -> Iterator[ServiceLab]:
    """Two serving nodes whose chassis are asked for signs of life."""
    with ServiceLab("mrann", progress) as built:
        path = built.dir / "cluster.toml"
        text = path.read_text().replace("[cluster]\n", f"[cluster]\nheartbeat_s = {HEARTBEAT_S}\n")
        path.write_text(text)
        central = built.nodes[0].pid("central")
        assert central is not None
        os.kill(central, signal.SIGHUP)
        yield built


def vip_of(lab: ServiceLab, node: int, form: str) -> str:
    """An address of this form that the node owns while both live."""
    names = [one.name for one in lab.nodes]
    return next(
        text
        for number in range(10, 99)
        if owner(ip_address(text := form.format(number)), names) == names[node]
    )


def knows(lab: ServiceLab, vip: str) -> str:
    """The MAC that the client has for an address."""
    found = json.loads(lab.client.run("ip", "-j", "neigh", "show", vip))
    return str(found[0].get("lladdr", "")) if found else ""


def at_node(lab: ServiceLab, address: str, node: int) -> bool:
    """Whether the client has been told that an address is at this node's uplink."""
    return knows(lab, address) == uplink(lab, node)


def uplink(lab: ServiceLab, node: int) -> str:
    return netns.mac_of(lab.nodes[node].namespace, "up0")


def forget(lab: ServiceLab) -> None:
    lab.client.run("ip", "neigh", "flush", "dev", "eth0")
    lab.client.run("ip", "-6", "neigh", "flush", "dev", "eth0")


def cut(node: LabNode) -> None:
    """A node that loses power: nothing of it runs any more, and its wire is dead."""
    for daemon in ("node", "ovn-controller", "ovs-vswitchd"):
        node.kill(daemon)
    node.namespace.run("ip", "link", "set", "up0", "down")


def mend(lab: ServiceLab, node: LabNode) -> None:
    """It comes back."""
    node.namespace.run("ip", "link", "set", "up0", "up")
    node.up()
    node.let_pmd_sleep()
    wait_until(lambda: lab.nodes[0].ask_central()["down"] == [], "nobody is down", timeout_s=120)
    wait_until(lambda: node.ask("status")["converged"], "the node has converged", timeout_s=120)


@pytest.mark.parametrize("node", [FIRST, SECOND])
def test_the_owner_answers_and_nobody_else(lab: ServiceLab, node: int, tmp_path: Path) -> None:
    vip, vip6 = vip_of(lab, node, "172.18.0.2{:02}"), vip_of(lab, node, "fd18::2:{}")
    vips = {f"{vip}:80": backends4("c1", "c3"), f"[{vip6}]:80": backends6("c1", "c3")}
    with lab.serving("web", vips):
        forget(lab)
        with traffic.captured(lab.client, "eth0", tmp_path / "arp.pcap", "arp or icmp6") as capture:
            for address in (vip, vip6):
                assert traffic.ping(lab.client, address, 3)[0] == 3
                assert traffic.http(lab.client, address, 80, 10).all_ok
                assert knows(lab, address) == uplink(lab, node)
        other = uplink(lab, 1 - node)
        said = [line for line in traffic.read_capture(capture) if f" {other} > " in line]
        assert not [line for line in said if f" {vip} is-at" in line or f"tgt is {vip6}" in line]


def test_under_local_policy_the_node_with_the_backend_owns_it(lab: ServiceLab) -> None:
    vip = vip_of(lab, FIRST, "172.18.0.2{:02}")
    with lab.serving("local", {f"{vip}:80": backends4("c3")}, traffic_policy="local"):
        forget(lab)
        assert traffic.http(lab.client, vip, 80, 10).names == {"c3": 10}
        assert knows(lab, vip) == uplink(lab, SECOND)
        # The only backend moves to the other node, and the VIP with it: the client is told.
        lab.declare("local", {f"{vip}:80": backends4("c1")}, traffic_policy="local")
        wait_until(lambda: knows(lab, vip) == uplink(lab, FIRST), "the client has been told")
        assert traffic.http(lab.client, vip, 80, 10).names == {"c1": 10}


def test_when_a_node_goes_the_other_takes_over_and_gives_back(lab: ServiceLab) -> None:
    second = lab.nodes[SECOND]
    vip, vip6 = vip_of(lab, SECOND, "172.18.0.2{:02}"), vip_of(lab, SECOND, "fd18::2:{}")
    kept = vip_of(lab, FIRST, "172.18.0.2{:02}")
    vips = {
        f"{vip}:80": backends4("c1"), f"[{vip6}]:80": backends6("c1"), f"{kept}:80": backends4("c1")
    }  # fmt: skip
    with lab.serving("web", vips):
        for address in (vip, vip6, kept):
            assert traffic.http(lab.client, address, 80, 5).all_ok
        with traffic.beside(lab.client, "echo", kept, 80, 0) as stream:
            assert stream.server() == "c1"
            began = time.monotonic()
            cut(second)
            for address in (vip, vip6):
                wait_until(
                    partial(at_node, lab, address, FIRST),
                    f"the client has been told of {address}", timeout_s=60,
                )  # fmt: skip
            took = time.monotonic() - began
            for address in (vip, vip6):
                assert traffic.http(lab.client, address, 80, 5).names == {"c1": 5}
            print(f"both VIPs were taken over {took:.1f} s after the node was cut off")
        assert stream.result["error"] == "", "a stream of the node that stayed was touched"
        assert second.name in lab.nodes[0].ask_central()["down"]
        mend(lab, second)
        for address in (vip, vip6):
            wait_until(
                partial(at_node, lab, address, SECOND),
                f"{address} is given back", timeout_s=60,
            )  # fmt: skip
            assert traffic.http(lab.client, address, 80, 5).names == {"c1": 5}


def test_a_node_whose_ovs_is_restarted_gives_its_vips_away_before(
    lab: ServiceLab, millrace: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    second = lab.nodes[SECOND]
    vip = vip_of(lab, SECOND, "172.18.0.2{:02}")
    with lab.serving("web", {f"{vip}:80": backends4("c1")}):
        assert traffic.http(lab.client, vip, 80, 5).all_ok
        with traffic.beside(lab.client, "http", vip, 80, 0, 5) as loop:
            done = millrace("restart-ovs", "--force", "--config", str(second.config_path), "--json")
            assert done.returncode == 0, done.stderr
        answer = json.loads(done.stdout)
        print(f"{answer}; requests in the meantime: {loop.result}")
        assert answer["withdrawn_vips"] >= 1
        assert answer["notes"] == []
        # One request at a time, and two hand-overs: a connection that is open at that moment is
        # known to the old owner only, and the backend resets what comes with the new one's SNAT
        # (docs/announcement.md). No other request may notice.
        failures = loop.answers.failures
        assert len(failures) <= 2, failures
        assert all("ConnectionResetError" in failure for failure in failures), failures
        wait_until(partial(at_node, lab, vip, SECOND), f"{vip} is given back", timeout_s=60)
    assert "millrace-withdrawn" not in second.vsctl("get", "Open_vSwitch", ".", "external_ids")


def test_a_stream_with_snat_ends_at_once_and_one_with_dsr_lives(lab: ServiceLab) -> None:
    second = lab.nodes[SECOND]
    plain = vip_of(lab, SECOND, "172.18.0.2{:02}")
    names = [node.name for node in lab.nodes]
    direct = next(
        text
        for number in range(10, 99)
        if (text := f"172.18.0.2{number:02}") != plain
        and owner(ip_address(text), names) == second.name
    )
    lab.declare("direct", {f"{direct}:80": backends4("c1")}, forwarding="dsr")
    try:
        with lab.serving("plain", {f"{plain}:80": backends4("c1")}):
            lab.wait_settled({f"{direct}:80/tcp": 1})
            with (
                traffic.beside(lab.client, "echo", plain, 80, 0) as ends,
                traffic.beside(lab.client, "echo", direct, 80, 0) as lives,
            ):
                assert (ends.server(), lives.server()) == ("c1", "c1")
                cut(second)
                wait_until(lambda: ends.process.poll() is not None, "the stream ends", timeout_s=60)
                for address in (plain, direct):
                    wait_until(partial(at_node, lab, address, FIRST), "it is taken over")
                time.sleep(2)
            assert "Reset" in ends.result["error"], ends.result
            assert lives.result["error"] == "", lives.result
    finally:
        lab.withdraw("direct")
        mend(lab, second)


def test_after_a_restart_of_vswitchd_everything_is_said_again(
    lab: ServiceLab, tmp_path: Path
) -> None:
    vip = vip_of(lab, FIRST, "172.18.0.2{:02}")
    with lab.serving("web", {f"{vip}:80": backends4("c1")}):
        assert traffic.http(lab.client, vip, 80, 1).all_ok
        path = tmp_path / "arp.pcap"
        with traffic.captured(lab.client, "eth0", path, "arp"):
            lab.nodes[FIRST].restart_vswitchd()
            wait_until(
                lambda: any(f"{vip} is-at" in line for line in traffic.read_capture(path)),
                "the VIP is announced again", timeout_s=60,
            )  # fmt: skip
            wait_until(
                lambda: traffic.http(lab.client, vip, 80, 1).all_ok, "it is served", timeout_s=60
            )
