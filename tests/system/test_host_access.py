"""The node's own way to workloads: ovn0, both families, near and far, and what it lives through."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from ipaddress import IPv4Address

import pytest

from cni.wire import RemoteError, WireError
from dataplane.drivers.processes import wait_until
from dataplane.model.addr import mac_of_address
from dataplane.model.hostrows import ROUTE_TABLE
from tests.labs import logical, traffic
from tests.labs.guests import QemuGuest, TestpmdGuest
from tests.labs.lab import PORT
from tests.labs.labnode import LabNode
from tests.labs.servicenodes import ServiceLab, backends4, backends6, pod4, pod6
from tests.labs.workloads import POD_NAMESPACE, Server, Workload
from tests.netns.sockets.sockworld import child_cgroup

HOSTS = '\n[hosts]\nnetwork = "100.65.0.0/24"\nnetwork6 = "fd00:102::/64"\n'
REAL, REAL4, REAL6 = "vm1", "10.1.0.20", "fd01::20"
TESTPMD, TESTPMD4 = "vm2", "10.1.0.30"
VIP4, VIP6 = "10.96.0.40", "fd96::40"
HOST_PORT = 9090
Millrace = Callable[..., subprocess.CompletedProcess[str]]


@dataclass
class World:
    """The lab, and what this file adds to it."""

    lab: ServiceLab
    cgroup: str
    guests: list[QemuGuest | TestpmdGuest] = field(default_factory=list)

    @property
    def node(self) -> LabNode:
        """The node whose kernel is tested most."""
        return self.lab.nodes[0]

    def own(self, at: int = 0) -> list[str]:
        """ovn0's addresses on a node, IPv4 first."""
        listed = self.lab.nodes[at].namespace.run("ip", "-j", "address", "show", "dev", "ovn0")
        found = [(one["family"], one["local"]) for one in json.loads(listed)[0]["addr_info"]]
        return [local for _, local in sorted(found)]

    def order(self, hosts: str) -> None:
        """Have the cluster's file say this of hosts, and nothing else of them."""
        path = self.lab.dir / "cluster.toml"
        text = path.read_text(encoding="utf-8").partition("\n[hosts]")[0]
        path.write_text(text + hosts, encoding="utf-8")
        pid = self.node.pid("central")
        assert pid is not None, "the cluster controller does not run"
        os.kill(pid, signal.SIGHUP)

    def wait_reached(self) -> None:
        """Both nodes' kernels reach a container of each node."""
        for node in self.lab.nodes:
            for address in (pod4("c1"), pod6("c1"), pod4("c3"), pod6("c3")):
                _wait_ping(node, address)


def _wait_ping(node: LabNode, address: str) -> None:
    wait_until(
        lambda: traffic.ping(node.namespace, address, 1)[0] == 1,
        f"{node.name}'s kernel reaches {address}; see {node.rundir}/node.log",
        timeout_s=60,
    )


@pytest.fixture(scope="module")
def world(progress: Callable[[str], None]) -> Iterator[World]:
    with child_cgroup(f"millrace-hosts-{os.getpid()}") as cgroup:
        lab = ServiceLab("mrhost", progress)
        first, second = lab.nodes
        services = f'{first.file.services}\nconnect = ["{cgroup}"]'
        lab.nodes = (replace(first, file=replace(first.file, services=services)), second)
        with lab:
            made = World(lab, str(cgroup))
            try:
                _start_guests(made)
                made.order(HOSTS)
                made.wait_reached()
                yield made
            finally:
                for guest in made.guests:
                    guest.stop()


def _start_guests(world: World) -> None:
    lab = world.lab
    real = _attach(lab, REAL, REAL4, REAL6)
    world.guests.append(
        QemuGuest(
            REAL, real.socket, real.mac, f"{REAL4}/24", "10.1.0.1", PORT, lab.dir,
            address6=f"{REAL6}/64", gateway6="fd01::1",
        )
    )  # fmt: skip
    testpmd = _attach(lab, TESTPMD, TESTPMD4)
    world.guests.append(TestpmdGuest(TESTPMD, testpmd.socket, testpmd.mac, lab.dir))
    for guest in world.guests:
        guest.start()
    for guest in world.guests:
        guest.wait_ready()


def _attach(lab: ServiceLab, name: str, *addresses: str) -> Workload:
    """A guest on the first node: its port in OVN, with port security, and its socket."""
    port = f"{name}.{POD_NAMESPACE}"
    entry = " ".join((str(mac_of_address(IPv4Address(addresses[0]))), *addresses))
    logical.nbctl(
        lab.nb, "lsp-add", "sw0", port, "--", "lsp-set-addresses", port, entry,
        "--", "lsp-set-port-security", port, entry,
    )  # fmt: skip
    work = Workload(name, f"{lab.prefix}-{name}", lab.nodes[0].cni_socket, "vhost-user")
    work.attach()
    return work


def test_the_hosts_reach_containers_near_and_far_from_ovn0s_address(world: World) -> None:
    for at, node in enumerate(world.lab.nodes):
        for own, address_of in zip(world.own(at), (pod4, pod6), strict=True):
            for name in ("c1", "c3"):
                answers = traffic.http(node.namespace, address_of(name), PORT, 5)
                assert answers.all_ok, answers.failures
                assert answers.names == {name: 5}
                assert set(answers.peers) == {_bracketed(own)}
                assert traffic.ping(node.namespace, address_of(name), 3)[0] == 3


def _bracketed(address: str) -> str:
    return f"[{address}]" if ":" in address else address


def test_the_hosts_reach_guests(world: World) -> None:
    for node in world.lab.nodes:
        for address in (REAL4, REAL6):
            answers = traffic.http(node.namespace, address, PORT, 3)
            assert answers.all_ok, answers.failures
            assert answers.names == {REAL: 3}
        for address in (REAL4, REAL6, TESTPMD4):
            assert traffic.ping(node.namespace, address, 3)[0] == 3


def test_containers_reach_a_socket_of_the_host_by_ovn0s_address(world: World) -> None:
    for at, node in enumerate(world.lab.nodes):
        # As strict as a kernel can be about where a packet comes from.
        node.namespace.run("sysctl", "-q", "-w", "net.ipv4.conf.ovn0.rp_filter=1")
        with _listening(world.lab, node, f"host{at}"):
            for name in ("c1", "c3"):
                for address in world.own(at):
                    answers = traffic.http(world.lab.pods[name], address, HOST_PORT, 3)
                    assert answers.all_ok, answers.failures
                    assert answers.names == {f"host{at}": 3}


@contextmanager
def _listening(lab: ServiceLab, node: LabNode, name: str) -> Iterator[None]:
    server = Server(name, node.namespace, HOST_PORT, lab.dir)
    server.start()
    try:
        yield
    finally:
        server.stop()


def test_a_pmd_thread_polls_ovn0_and_no_tap_is_in_the_path(world: World) -> None:
    node = world.node
    taps = _tap_packets(node)
    assert traffic.ping(node.namespace, pod4("c1"), 20)[0] == 20
    assert traffic.ping(node.namespace, TESTPMD4, 20)[0] == 20
    flows = _flows_by_thread(node)
    # 40 echoes went and came; a tap has its own ARP and ND at times.
    grown = {name: after - taps.get(name, 0) for name, after in _tap_packets(node).items()}
    assert grown
    assert all(packets < 20 for packets in grown.values()), grown
    shown = node.appctl("dpif-netdev/pmd-rxq-show")
    assert re.search(r"port: ovn0-ovs\s+queue-id:\s+0 \(enabled\)", shown), shown
    assert node.vsctl("get", "Interface", "ovn0-ovs", "type").strip() == "afxdp"
    detailed = json.loads(node.namespace.run("ip", "-j", "-d", "link", "show", "dev", "ovn0"))
    assert detailed[0]["linkinfo"]["info_kind"] == "veth"
    mine = {
        thread: [f for f in lines if "in_port(ovn0-ovs)" in f] for thread, lines in flows.items()
    }
    print(mine)
    assert [thread for thread, lines in mine.items() if lines] == ["pmd"]
    towards = [line for lines in mine.values() for line in lines if "eth_type(0x0800)" in line]
    assert towards
    assert not any("ct(" in line or "userspace" in line for line in towards)


def test_status_names_the_way(world: World) -> None:
    told = world.node.ask("status")["host"]
    assert told["link"] == "ovn0"
    assert [address.partition("/")[0] for address in told["addresses"]] == world.own()
    assert [route["network"] for route in told["routes"]] == ["10.1.0.0/24", "fd01::/64"]


def _tap_packets(node: LabNode) -> dict[str, int]:
    """Packets through each tap of the node: bridges' LOCAL ports."""
    listed = json.loads(node.namespace.run("ip", "-s", "-j", "-d", "link", "show"))
    return {
        link["ifname"]: link["stats64"]["rx"]["packets"] + link["stats64"]["tx"]["packets"]
        for link in listed
        if link.get("linkinfo", {}).get("info_kind") == "tun"
    }


def _flows_by_thread(node: LabNode) -> dict[str, list[str]]:
    """The datapath's flows with ports' names, by what runs them: "pmd" or "main"."""
    found: dict[str, list[str]] = {"pmd": [], "main": []}
    thread = "main"
    for line in node.appctl("dpctl/dump-flows", "--names").splitlines():
        if line.startswith("flow-dump from"):
            thread = "pmd" if "pmd on cpu" in line else "main"
        elif "actions:" in line:
            found[thread].append(line)
    return found


def test_vips_that_are_translated_as_sockets_connect_leave_by_ovn0(world: World) -> None:
    vips = {
        f"{VIP4}:80": backends4("c1", "c3"),
        f"[{VIP6}]:80": backends6("c1", "c3"),
    }
    with world.lab.serving("hosts-web", vips):
        for vip, own in zip((VIP4, VIP6), world.own(), strict=True):
            said = json.loads(_in_cgroup(world, "http", vip, 80, 12))
            assert said["ok"] == said["sent"] == 12, said["failures"]
            assert set(said["names"]) == {"c1", "c3"}
            assert set(said["peers"]) == {_bracketed(own)}


def _in_cgroup(world: World, kind: str, address: str, port: int, count: int) -> str:
    """The lab's client on the node, in the cgroup whose sockets are translated."""
    client = f"{traffic.PYTHON} -I -S {traffic.CLIENT} {kind} {address} {port} {count}"
    shell = f"echo $$ > {world.cgroup}/cgroup.procs && exec {client}"
    return world.node.namespace.run("sh", "-c", shell)


def test_what_has_another_of_the_nodes_addresses_goes_where_it_went_before(world: World) -> None:
    where = world.node.namespace
    for own, uplink, to in zip(
        world.own(), ("172.18.0.11", "fd18::11"), (pod4("c1"), pod6("c1")), strict=True
    ):
        version = "-6" if ":" in to else "-4"
        for source, device in (("", "ovn0"), (own, "ovn0")):
            words = ["from", source] if source else []
            assert f"dev {device} " in where.run("ip", version, "route", "get", to, *words)
        other = where.run("ip", version, "route", "get", to, "from", uplink, check=False)
        assert "ovn0" not in other


def test_the_hosts_port_sends_from_its_own_addresses_only(world: World) -> None:
    where, address = world.node.namespace, pod4("c1")
    via = json.loads(where.run("ip", "-j", "route", "get", address))[0]["gateway"]
    where.run("ip", "address", "add", "100.65.0.99/32", "dev", "lo")
    where.run("ip", "route", "add", f"{address}/32", "via", via, "dev", "ovn0")
    try:
        said = where.run(
            "ping", "-n", "-q", "-c", "3", "-i", "0.1", "-W", "1", "-I", "100.65.0.99", address,
            check=False,
        )  # fmt: skip
        assert "3 packets transmitted, 0 received" in said, said
        assert traffic.ping(where, address, 3)[0] == 3
    finally:
        where.run("ip", "route", "del", f"{address}/32")
        where.run("ip", "address", "del", "100.65.0.99/32", "dev", "lo")


def test_full_frames_pass_both_ways(world: World) -> None:
    mtu = json.loads(world.node.namespace.run("ip", "-j", "link", "show", "dev", "ovn0"))[0]["mtu"]
    assert mtu == 1442
    for at, name in ((0, "c1"), (0, "c3"), (1, "c1")):
        said = world.lab.nodes[at].namespace.run(
            "ping", "-n", "-q", "-c", "3", "-i", "0.1", "-M", "do", "-s", str(mtu - 28), pod4(name)
        )
        assert "3 received" in said


def test_a_restarted_daemon_writes_nothing(world: World) -> None:
    world.node.kill("node")
    world.node.up()
    _wait_converged(world.node)
    world.node.wrote_nothing()
    assert traffic.ping(world.node.namespace, pod4("c1"))[0] == 3


def _wait_converged(node: LabNode) -> None:
    def converged() -> bool:
        try:
            return bool(node.ask("status")["converged"])
        except (WireError, RemoteError):
            return False

    wait_until(converged, f"{node.name} converges; see {node.rundir}/node.log", timeout_s=60)


def test_a_killed_vswitchd_comes_back_with_the_hosts_way(world: World) -> None:
    world.node.kill("ovs-vswitchd")
    world.node.up()
    world.wait_reached()
    # OVS connects to each guest in its own second.
    for guest in (TESTPMD4, REAL4):
        _wait_ping(world.node, guest)
    assert traffic.http(world.node.namespace, REAL4, PORT, 3).all_ok
    assert "ovn0-ovs" in world.node.appctl("dpif-netdev/pmd-rxq-show")


def test_it_goes_with_the_setting_and_comes_back_with_the_same_addresses(world: World) -> None:
    before = [world.own(at) for at in (0, 1)]
    world.order("")
    for node in world.lab.nodes:
        wait_until(lambda node=node: not _traces(node), f"{node.name}'s way is gone")  # type: ignore[misc]
    listed = logical.nbctl(world.lab.nb, "show")
    assert "millrace-hosts" not in listed
    assert "node-mrhost" not in listed
    world.order(HOSTS)
    world.wait_reached()
    assert [world.own(at) for at in (0, 1)] == before


def _traces(node: LabNode) -> list[str]:
    """What there is of ovn0 in the kernel and in OVS."""
    where, table = node.namespace, str(ROUTE_TABLE)
    found = [
        *(line for line in where.run("ip", "-o", "link").splitlines() if "ovn0" in line),
        *(line for v in ("-4", "-6") for line in where.run("ip", v, "rule").splitlines()
          if table in line),
        *where.run("ip", "route", "show", "table", table, check=False).splitlines(),
        *where.run("ip", "-6", "route", "show", "table", table, check=False).splitlines(),
    ]  # fmt: skip
    if node.pid("db") is not None:
        ports = node.vsctl("list-ports", "br-int").split()
        found += [name for name in ports if name.startswith("ovn0")]
    return found


def test_down_leaves_nothing_of_it(world: World, millrace: Millrace) -> None:
    far = world.lab.nodes[1]
    assert _traces(far)
    down = millrace("down", "--config", str(far.config_path))
    assert down.returncode == 0, down.stderr
    assert _traces(far) == []
