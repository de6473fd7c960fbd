"""What a node lives through: killed daemons and a restarted vswitchd."""

from __future__ import annotations

import json
import socket
import subprocess
import time
from collections.abc import Callable

import pytest
from scapy.layers.inet import ICMP, IP, UDP
from scapy.layers.l2 import Ether

from bpf import abi
from cni.wire import RemoteError, WireError
from controller.config import load_node
from dataplane.drivers import processes, xdphook
from dataplane.drivers.bpfstate import version_directory
from dataplane.drivers.libbpf import Map
from dataplane.drivers.libbpf_programs import Program
from dataplane.drivers.napithreads import NapiThreadsTable
from dataplane.drivers.netns import inside_named
from dataplane.drivers.preemption import Preemption, preemption
from dataplane.drivers.processes import wait_until
from dataplane.model.rows import NapiThread
from tests.labs import lab as topology
from tests.labs import traffic
from tests.labs.lab import Lab


@pytest.mark.parametrize("victim", ["node", "central"])
def test_killing_a_daemon_fails_no_request(lab: Lab, victim: str) -> None:
    with (
        traffic.beside(lab.client, "http", topology.VIP_WEB, 80, 0, 5) as loop,
        traffic.beside(lab.client, "echo", topology.NODE_ADDRESS, topology.PORT, 0) as stream,
    ):
        assert stream.server() == "node"
        time.sleep(0.5)
        lab.node.kill(victim)
        time.sleep(1)
        lab.node.up()
        time.sleep(1)
    print(f"{victim}: {loop.result}")
    assert loop.answers.all_ok, loop.answers.failures
    assert stream.result["error"] == ""
    if victim == "central":
        _central_wrote_nothing(lab)


def _central_wrote_nothing(lab: Lab) -> None:
    """The new cluster controller has had its round, and found everything as it should be."""

    def settled() -> bool:
        try:
            status = lab.node.ask_central()
        except (WireError, RemoteError):
            return False  # it does not listen yet
        return (
            status["pid"] == lab.node.pid("central")
            and bool(status["in_sync"] and status["active"])
            and status["applied"]["rounds"] > 0
        )

    wait_until(settled, f"a round of the new controller; see {lab.node.rundir}/central.log")
    status = lab.node.ask_central()
    print(status["applied"])
    assert status["applied"]["writes"] == 0
    assert status["unfinished"] == []


def test_a_restarted_daemon_writes_nothing(lab: Lab) -> None:
    lab.node.kill("node")
    lab.node.up()
    lab.node.wait_served(topology.FAST_VIPS)
    lab.node.wrote_nothing()


def test_what_is_answered_at_svc0_has_its_mac_whatever_it_lives_through(lab: Lab) -> None:
    first = _number(lab)
    _answers_with_its_mac(lab)

    lab.namespace.run("ip", "link", "del", "svc0")
    wait_until(lambda: _number(lab) not in (0, first), "svc0 is made anew", timeout_s=60)
    wait_until(lambda: _known(lab) == _number(lab), "the programs know the new svc0", timeout_s=60)
    lab.node.wait_served(topology.FAST_VIPS)
    _answers_with_its_mac(lab)
    for vip in (topology.VIP_VM, topology.VIP_WEB):
        wait_until(
            lambda vip=vip: traffic.http(lab.client, vip, 80, 1).all_ok,  # type: ignore[misc]
            f"{vip} is served by way of the new svc0",
            timeout_s=60,
        )

    again = _number(lab)
    lab.node.kill("node")
    lab.node.up()
    lab.node.wait_served(topology.FAST_VIPS)
    lab.node.wrote_nothing()
    assert _number(lab) == again
    _answers_with_its_mac(lab)


def _number(lab: Lab) -> int:
    """The kernel's of svc0 now; 0: there is none."""
    listed = json.loads(lab.namespace.run("ip", "-j", "link", "show"))
    return next((int(link["ifindex"]) for link in listed if link["ifname"] == "svc0"), 0)


def _known(lab: Lab) -> int:
    """The number that the programs take for svc0's."""
    pins = version_directory(f"/sys/fs/bpf/millrace/{lab.node.name}")
    with Map.at(pins / "node") as entry:
        return int(abi.NODE.unpack(entry.lookup(bytes(4)) or b"")["svc_ifindex"])


def _answers_with_its_mac(lab: Lab) -> None:
    """What is attached to svc0 is run on a packet that came there under another's MAC.

    The rules of br-ex lead replies of services that keep the client's address to svc0 like that.
    """
    listed = json.loads(lab.namespace.run("ip", "-j", "link", "show", "dev", "svc0"))
    router, other = "0a:58:ac:12:00:6f", "02:00:00:00:00:c1"
    expiring = IP(src=topology.CONTAINERS["c1"], dst=topology.VIP_UDP, ttl=1)
    packet = bytes(Ether(src=router, dst=other) / expiring / UDP(sport=40001, dport=53))

    def run() -> bytes:
        ifindex = socket.if_nametoindex("svc0")
        held = xdphook.attached(ifindex)
        assert held is not None
        with Program.by_id(held.prog_id) as program:
            return program.run(packet, ifindex=ifindex).packet

    answer = Ether(inside_named(lab.namespace.name, run))
    assert answer[ICMP].type == 11, answer.show(dump=True)
    assert (answer.src, answer.dst) == (listed[0]["address"], router)


def test_svc0_is_polled_on_the_pmd_threads_core_whatever_it_lives_through(lab: Lab) -> None:
    if preemption() is not Preemption.NONE:
        assert _polls(lab) == {}
        return
    (core,) = load_node(lab.node.config_path).config.dpdk.pmd
    polled = {"svc0": NapiThread(core)}
    wait_until(lambda: _polls(lab) == polled, "a thread polls svc0")
    was = _number(lab)
    lab.namespace.run("ip", "link", "del", "svc0")
    wait_until(lambda: _number(lab) not in (0, was), "svc0 is made anew", timeout_s=60)
    wait_until(lambda: _polls(lab) == polled, "a thread polls the new svc0", timeout_s=60)
    lab.node.wait_served(topology.FAST_VIPS)

    text = lab.node.config_path.read_text(encoding="utf-8")
    lab.node.config_path.write_text(f"{text}\n[services]\npoll_thread = false\n", encoding="utf-8")
    try:
        lab.node.kill("node")
        lab.node.up()
        wait_until(lambda: _polls(lab) == {}, "softirqs poll svc0")
    finally:
        lab.node.config_path.write_text(text, encoding="utf-8")
        lab.node.kill("node")
        lab.node.up()
    wait_until(lambda: _polls(lab) == polled, "a thread polls svc0 again")
    lab.node.wait_served(topology.FAST_VIPS)
    vip = topology.VIP_WEB
    wait_until(lambda: traffic.http(lab.client, vip, 80, 1).all_ok, f"{vip} is served")


def _polls(lab: Lab) -> dict[str, NapiThread]:
    return dict(inside_named(lab.namespace.name, NapiThreadsTable().observe))


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
        assert stream.server() == "node"
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
        # OVS connects to each guest in its own second.
        wait_until(
            lambda: traffic.ping(lab.containers["c1"], topology.TESTPMD[1])[0] == 3,
            "container -> testpmd",
            timeout_s=60,
        )
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


def test_stopped_and_kept_it_comes_back_as_it_was(
    lab: Lab, millrace: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    names = ("db", "ovs-vswitchd", "nb", "sb", "ovn-northd", "ovn-controller", "node", "central")
    before = _made(lab)
    with traffic.beside(lab.client, "echo", topology.NODE_ADDRESS, topology.PORT, 0) as stream:
        assert stream.server() == "node"
        try:
            stopped = millrace("down", "--keep", "--config", str(lab.node.config_path))
            assert stopped.returncode == 0, stopped.stderr
            assert not [name for name in names if lab.node.pid(name)]
            assert millrace("status", "--config", str(lab.node.config_path)).returncode == 3
        finally:
            lab.node.up()
        lab.node.wait_served(topology.FAST_VIPS)
        wait_until(
            lambda: traffic.ping(lab.client, topology.QEMU[1], 1)[0] == 1,
            "client -> guest",
            timeout_s=60,
        )
        for vip in (topology.VIP_VM, topology.VIP_WEB):
            assert traffic.http(lab.client, vip, 80, 5).all_ok
        assert _made(lab) == before
    assert stream.result["error"] == ""


PINNED = ("vips", "vip_bits", "sets", "backends", "node", "known_addresses")
"""Maps whose entries the daemon makes; the others are written by the packets."""


def test_without_ovns_databases_a_restarted_node_keeps_its_address(lab: Lab) -> None:
    bound = lab.node.program("up0").tag
    before = _made(lab)
    with traffic.beside(lab.client, "echo", topology.NODE_ADDRESS, topology.PORT, 0) as stream:
        assert stream.server() == "node"
        try:
            for database in ("nb", "sb"):
                lab.node.kill(database)
            lab.node.kill("node")
            lab.node.start_agent()
            _reachable(lab, "after the daemon's restart")
            assert lab.node.program("up0").tag == bound

            lab.node.restart_vswitchd()
            _reachable(lab, "after vswitchd's restart")
            wait_until(
                lambda: lab.node.program("up0").tag == bound, "our program is in OVS's place again"
            )
            status = lab.node.ask("status")
            print(status["last_apply"])
            assert status["ovn"] == {"nb": False, "sb": False}
            assert _made(lab) == before
        finally:
            lab.node.up()
        lab.node.wait_served(topology.FAST_VIPS)
        assert _made(lab) == before
        wait_until(
            lambda: traffic.ping(lab.client, topology.QEMU[1], 1)[0] == 1,
            "client -> guest",
            timeout_s=60,
        )
        for vip in (topology.VIP_VM, topology.VIP_WEB):
            assert traffic.http(lab.client, vip, 80, 5).all_ok
    print(f"own address: {stream.result}")
    assert stream.result["error"] == ""


def _reachable(lab: Lab, when: str) -> None:
    took = wait_until(
        lambda: traffic.ping(lab.client, topology.NODE_ADDRESS, 1)[0] == 1,
        f"the node's own address answers {when}",
        timeout_s=60,
    )
    print(f"{when}: own address answers {took:.2f} s later")


def _made(lab: Lab) -> dict[str, object]:
    """What the daemon has made and may not take away: ports in OVS, entries of maps, links."""
    pins = version_directory(f"/sys/fs/bpf/millrace/{lab.node.name}")
    listed = json.loads(lab.namespace.run("ip", "-j", "link", "show"))
    dump = ["bpftool", "-j", "map", "dump", "pinned"]
    maps = {name: json.loads(processes.run([*dump, str(pins / name)])) for name in PINNED}
    return {
        "ports": sorted(lab.node.vsctl("--columns=name", "--format=csv", "list", "Port").split()),
        "links": sorted(str(link["ifname"]) for link in listed),
        "pins": sorted(str(pin) for pin in pins.rglob("*")),
        **{name: sorted(json.dumps(entry) for entry in entries) for name, entries in maps.items()},
    }
