"""Two provider networks on a node: an uplink, and a bond with a VLAN behind it; real OVS-DPDK.

::

    c2 --- br-int --- br-ex --- up0 ------------------ wu0   10.8.0.99, untagged
    c1 --- br-int --- br-two -- bond0 --- m0 --------- w0    10.9.0.99 in VLAN 101, answering
                                   `----- m1 --------- w1    on whichever it is asked by
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from ipaddress import IPv4Interface
from pathlib import Path

import pytest

from dataplane.drivers import processes
from tests.labs import logical, netns
from tests.labs.built import Built
from tests.labs.labnode import LabNode
from tests.labs.logical import PodPort, nbctl
from tests.labs.netns import Namespace
from tests.labs.nodefile import NodeFile
from tests.labs.sandbox import wait_until
from tests.labs.workloads import POD_NAMESPACE, ROOT, Workload

pytestmark = pytest.mark.system

PREFIX = "mrnic"
TAG = 101
MTU = 2000
LINKS = {"up0": "wu0", "m0": "w0", "m1": "w1"}
PODS = {"c1": ("prov2", "10.9.0.11"), "c2": ("prov1", "10.8.0.11")}
PEERS = {"c1": "10.9.0.99", "c2": "10.8.0.99"}

FILE = f"""\
[node]
name = "{PREFIX}-node1"
port_mtu = {MTU}
[ovs]
embedded = true
[ovn]
embedded = true
[hugepages]
count = 512
[dpdk]
lcore = [0]
pmd = [1]
socket_mem_mib = 512
[[bridge]]
name = "br-ex"
physnet = "physnet1"
[[bridge]]
name = "br-two"
physnet = "physnet2"
[[uplink]]
device = "up0"
bridge = "br-ex"
mtu = {MTU}
affinity = "0:1"
[[bond]]
name = "bond0"
bridge = "br-two"
devices = ["m0", "m1"]
mode = "active-backup"
mtu = {MTU}
busy_poll = true
[tuning]
rxq_assign = "group"
rxq_isolate = false
"""


@dataclass(slots=True)
class NicLab(Built):
    """The node, its wire, and two containers."""

    progress: Callable[[str], None]
    space: Namespace = field(default_factory=lambda: Namespace(f"{PREFIX}-node1"))
    wire: Namespace = field(default_factory=lambda: Namespace(f"{PREFIX}-wire"))
    dir: Path = Path("/run/millrace-labs") / PREFIX
    node: LabNode = field(init=False)
    pods: dict[str, Namespace] = field(init=False)
    peer: subprocess.Popen[bytes] | None = None

    def __post_init__(self) -> None:
        file = NodeFile(f"{PREFIX}-node1", (), None)
        self.node = LabNode(self.space, file, self.dir / "node.toml", None, self.progress)
        self.pods = {name: Namespace(f"{PREFIX}-{name}") for name in PODS}

    def build(self) -> None:
        """Everything, from whatever a crashed run left."""
        self.remove()
        for where in (self.space, self.wire, *self.pods.values()):
            where.create()
            where.quiet()
        for device, other in LINKS.items():
            netns.veth(self.wire, other, self.space, device)
            netns.finish_checksums(self.wire, other)
            self.wire.run("ip", "link", "set", other, "mtu", str(MTU))
        self.dir.mkdir(parents=True)
        (self.dir / "node.toml").write_text(FILE)
        words = [*LINKS.values(), f"{PEERS['c1']}@{TAG}", PEERS["c2"]]
        self.peer = subprocess.Popen(
            ["nsenter", f"--net={self.wire.path}", sys.executable,
             str(ROOT / "tests/labs/wirepeer.py"), str(self.log), *words],
        )  # fmt: skip
        self.node.up()
        self.node.let_pmd_sleep()
        nb = logical.socket_remote(self.node.rundir)
        for switch, physnet, tag in (("prov1", "physnet1", ""), ("prov2", "physnet2", str(TAG))):
            nbctl(
                nb, "ls-add", switch, "--", "lsp-add", switch, f"{switch}-net",
                *(("", tag) if tag else ()),
                "--", "lsp-set-type", f"{switch}-net", "localnet",
                "--", "lsp-set-addresses", f"{switch}-net", "unknown",
                "--", "lsp-set-options", f"{switch}-net", f"network_name={physnet}",
            )  # fmt: skip
        for name, (switch, address) in PODS.items():
            port = PodPort(f"{name}.{POD_NAMESPACE}", switch, IPv4Interface(f"{address}/24"))
            logical.add_port(nb, port)
            cni = self.node.cni_socket
            Workload(name, f"{PREFIX}-{name}", cni, "veth", self.pods[name]).attach()
            where = self.pods[name]
            where.run("ip", "address", "add", f"{address}/24", "dev", "eth0", check=False)

    def remove(self) -> None:
        """Everything of this lab, in whatever state it is."""
        self.node.down()
        if self.peer is not None:
            self.peer.kill()
            self.peer.wait()
        netns.sweep(PREFIX)
        shutil.rmtree(self.dir, ignore_errors=True)
        if self.dir.parent.is_dir() and not any(self.dir.parent.iterdir()):
            self.dir.parent.rmdir()

    @property
    def log(self) -> Path:
        """What came to the wire."""
        return self.dir / "wire.log"

    def arrived(self) -> set[tuple[str, int]]:
        """Devices of the wire, each with the tags that came to it; ARP and IPv4 only."""
        words = (line.split() for line in self.log.read_text().splitlines())
        return {(device, int(tag)) for device, tag, _ in words}

    def ping(self, pod: str, *words: str) -> str:
        """`ping` from a container to its peer."""
        return self.pods[pod].run("ping", "-W", "2", *words, PEERS[pod], check=False)

    def reaches(self, pod: str, *words: str) -> bool:
        """Whether one ping is answered."""
        return " 1 received" in self.ping(pod, "-c", "1", *words)

    def active(self) -> str:
        """The member by which the bond sends."""
        said = self.node.appctl("bond/show", "bond0")
        found = re.search(r"member (\w+): enabled\n\s+active member", said)
        return found.group(1) if found else ""

    def kernel(self, device: str) -> tuple[int, str]:
        """MTU, and by netlink nothing else changes without us."""
        link = json.loads(self.space.run("ip", "-j", "link", "show", device))[0]
        return int(link["mtu"]), str(link["operstate"])


@pytest.fixture(scope="module")
def lab(progress: Callable[[str], None]) -> Iterator[NicLab]:
    with NicLab(progress) as built:
        yield built


def test_each_network_has_its_bridge_and_its_tag(lab: NicLab) -> None:
    mappings = lab.node.vsctl("get", "Open_vSwitch", ".", "external_ids:ovn-bridge-mappings")
    assert mappings.strip().strip('"') == "physnet1:br-ex,physnet2:br-two"
    wait_until(lambda: lab.reaches("c2"), "the untagged network", 60)
    wait_until(lambda: lab.reaches("c1"), "the network in a VLAN", 60)
    arrived = lab.arrived()
    assert ("wu0", 0) in arrived
    assert {tag for device, tag in arrived if device != "wu0"} == {TAG}
    assert {tag for device, tag in arrived if device == "wu0"} == {0}


def test_a_queue_that_the_file_pins_is_pinned_in_ovs(lab: NicLab) -> None:
    told = lab.node.vsctl("get", "Interface", "up0", "other_config:pmd-rxq-affinity")
    assert told.strip(' "\n') == "0:1"
    shown = lab.node.appctl("dpif-netdev/pmd-rxq-show")
    assert "port: up0" in shown
    assert "core_id 1:" in shown


def test_the_mtu_holds_from_the_container_to_the_wire(lab: NicLab) -> None:
    for device in LINKS:
        assert lab.kernel(device)[0] == MTU
        assert lab.node.vsctl("get", "Interface", device, "mtu").strip() == str(MTU)
    # 28: the headers of IPv4 and ICMP. Not to be cut in pieces on the way.
    for pod in PODS:
        wait_until(
            lambda pod=pod: lab.reaches(pod, "-M", "do", "-s", str(MTU - 28)),  # type: ignore[misc]
            f"{MTU} octets from {pod}",
        )


def test_a_member_that_goes_down_takes_no_connection_with_it(
    lab: NicLab, progress: Callable[[str], None]
) -> None:
    wait_until(lambda: lab.active() in ("m0", "m1"), "an active member")
    first = lab.active()
    other = {"m0": "m1", "m1": "m0"}[first]
    asking = subprocess.Popen(
        ["nsenter", f"--net={lab.pods['c1'].path}", "ping", "-i", "0.01", "-c", "500", "-W", "1",
         PEERS["c1"]], stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    time.sleep(1)
    lab.wire.run("ip", "link", "set", LINKS[first], "down")
    wait_until(lambda: lab.active() == other, "the other member")
    said = asking.communicate(timeout=60)[0]
    found = re.search(r"(\d+) packets transmitted, (\d+) received", said)
    assert found is not None, said
    lost = int(found.group(1)) - int(found.group(2))
    progress(f"failover: {lost} of {found.group(1)} pings lost, 10 ms apart")
    assert {("w0", TAG), ("w1", TAG)} <= lab.arrived()
    assert lab.reaches("c1")
    lab.wire.run("ip", "link", "set", LINKS[first], "up")
    wait_until(
        lambda: lab.node.appctl("bond/show", "bond0").count(": enabled") == 2, "both members again"
    )
    assert lab.reaches("c1")


def test_a_restarted_daemon_writes_nothing(lab: NicLab) -> None:
    lab.node.kill("node")
    lab.node.start_agent()

    def settled() -> bool:
        return bool(lab.node.ask("status")["converged"])

    wait_until(settled, "a settled node", 60)
    tables = {table["name"]: table for table in lab.node.ask("status")["tables"]}
    assert tables["bonds"]["rows"] == 1
    assert tables["nics"]["rows"] == 3
    assert lab.reaches("c1")


def test_down_puts_the_nics_back(lab: NicLab) -> None:
    """The last of this file: the node is gone afterwards."""
    record = lab.node.rundir / "nic-settings.json"
    held = json.loads(record.read_text())
    assert {device: before["mtu"] for device, before in held.items()} == dict.fromkeys(LINKS, 1500)
    assert set(held["m0"]) == {"mtu", "queues", "napi_defer_hard_irqs", "gro_flush_timeout"}
    lab.node.down()
    for device in LINKS:
        assert lab.kernel(device)[0] == 1500
    assert processes.pids_in_netns(lab.space.path) == []
