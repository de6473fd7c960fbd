"""Limits that OVN's rows name, on a VM's port and a container's; a capture of a VM's packets."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

from dataplane.drivers import processes
from dataplane.drivers.netns import inside_named
from dataplane.drivers.pcapfile import packets
from dataplane.drivers.podbuckets import BucketTable
from dataplane.drivers.podtap import PodTap
from dataplane.drivers.processes import wait_until
from dataplane.model.names import MIRROR_KEY, MIRROR_LINK, MIRROR_PORT
from dataplane.model.rows import Bucket
from tests.labs import lab as topology
from tests.labs import logical, traffic
from tests.labs.lab import Lab
from tests.labs.workloads import POD_NAMESPACE, ROOT

VM, POD = f"{topology.QEMU[0]}.{POD_NAMESPACE}", f"c1.{POD_NAMESPACE}"
RATES = ("options:qos_max_rate=100000000", 'external_ids:"millrace:ingress-rate"=50000000')


def device(lab: Lab, iface_id: str) -> str:
    rows: list[dict[str, Any]] = lab.node.ask("ports")["ports"]
    return next(str(row["device"]) for row in rows if row["iface_id"] == iface_id)


def policing(lab: Lab, port: str) -> str:
    return lab.node.vsctl("get", "Interface", port, "ingress_policing_rate").strip()


def buckets(lab: Lab) -> dict[str, Bucket]:
    return dict(inside_named(lab.namespace.name, BucketTable().observe))


@contextmanager
def dumping(lab: Lab, *argv: str) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "controller.cli.main", "dump", *argv]
    config = ["--config", str(lab.node.config_path)]
    with subprocess.Popen(
        [*command, *config],
        stderr=subprocess.PIPE,
        text=True,
        env=processes.clean_environment(PYTHONPATH=str(ROOT)),
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def mirrors(lab: Lab) -> list[str]:
    return lab.node.vsctl("--bare", "--columns=name", "list", "Mirror").split()


def test_ovns_rows_limit_a_vm_and_a_container(lab: Lab) -> None:
    vm, pod = device(lab, VM), device(lab, POD)
    for port in (VM, POD):
        logical.nbctl(lab.nb, "set", "Logical_Switch_Port", port, *RATES)
    wait_until(lambda: policing(lab, vm) == "100000", "what the guest sends is policed")
    row = lab.node.vsctl("get", "Port", vm, "qos").strip()
    config = lab.node.vsctl("get", "QoS", row, "other_config").strip()
    assert config == '{cbs="625000", cir="6250000"}'
    shown = lab.node.appctl("qos/show", vm)
    assert "egress-policer" in shown
    assert "cir: 6250000" in shown
    limited = Bucket(12_500_000, 1_250_000, 6_250_000, 625_000)
    wait_until(lambda: buckets(lab) == {pod: limited}, "the container has its buckets")
    assert traffic.http(lab.client, topology.VIP_VM, 80, 3).all_ok
    assert traffic.http(lab.client, topology.VIP_WEB, 80, 3).all_ok
    assert lab.node.ask("status")["problems"] == []

    logical.nbctl(lab.nb, "set", "Logical_Switch_Port", VM, "options:qos_max_rate=much")
    wait_until(lambda: policing(lab, vm) == "0", "a rate that is none is no limit")
    (problem,) = lab.node.ask("status")["problems"]
    assert "qos_max_rate='much' is not a whole number" in problem["cause"]

    for port in (VM, POD):
        for column, key in (
            ("options", "qos_max_rate"),
            ("external_ids", "millrace:ingress-rate"),
        ):
            words = ("remove", "Logical_Switch_Port", port, column, f'"{key}"')
            logical.nbctl(lab.nb, *words)
    wait_until(lambda: buckets(lab) == {}, "the container's limits are gone")
    wait_until(lambda: lab.node.vsctl("list", "QoS") == "", "the guest's are gone")


def echoes(lab: Lab) -> int:
    """How many of 200 echoes of 1.2 kB, 5 ms apart, the VM answers a container."""
    said = lab.containers["c1"].run(
        "ping", "-q", "-i", "0.005", "-c", "200", "-s", "1200", "-W", "1", topology.QEMU[1],
        check=False, timeout_s=60,
    )  # fmt: skip
    found = re.search(r"(\d+) received", said)
    assert found is not None, said
    return int(found.group(1))


def test_a_qos_row_of_ovns_is_a_meter_that_the_userspace_datapath_applies(lab: Lab) -> None:
    """Nothing of ours: what docs/qos.md says of it is seen here."""
    wait_until(lambda: echoes(lab) > 190, "the guest answers")
    match = f'inport == "{VM}" && icmp4'
    words = ("qos-add", "sw0", "from-lport", "100", match, "rate=200", "burst=200")
    logical.nbctl(lab.nb, "--wait=hv", *words)
    try:
        # A second's worth is in the burst: some 20 packets, and as many again while it lasts.
        wait_until(lambda: echoes(lab) < 100, "the meter drops")
        manage = f"unix:{lab.node.rundir}/br-int.mgmt"
        shown = processes.run(["ovs-ofctl", "-OOpenFlow15", "dump-meters", manage])
        assert "rate=200" in shown
    finally:
        logical.nbctl(lab.nb, "--wait=hv", "qos-del", "sw0")
    wait_until(lambda: echoes(lab) > 190, "all get through again")


def test_a_capture_has_the_guests_packets(lab: Lab, tmp_path: Path) -> None:
    file = tmp_path / "vm.pcap"
    with dumping(lab, VM, "-w", str(file), "-c", "20") as process:
        wait_until(lambda: bool(mirrors(lab)), "the mirror is there")
        for _ in range(50):
            assert traffic.http(lab.client, topology.VIP_VM, 80, 3).all_ok
            if process.poll() is not None:
                break
        said = process.stderr.read() if process.stderr else ""
        assert process.wait(timeout=60) == 0, said
    found = list(packets(file))
    print(said)
    assert len(found) == 20
    guest = IPv4Address(topology.QEMU[1]).packed
    # Both directions: to the guest's address and from it, in IPv4's header.
    assert any(packet.octets[26:30] == guest for packet in found)
    assert any(packet.octets[30:34] == guest for packet in found)
    assert mirrors(lab) == []
    assert "mrdump" not in lab.node.vsctl("list-ports", "br-int")
    assert not list(lab.node.rundir.glob("mrdump*"))


def test_a_capture_of_a_container_on_the_trunk_has_both_directions(
    lab: Lab, tmp_path: Path
) -> None:
    file = tmp_path / "pod.pcap"
    with dumping(lab, POD, "-w", str(file), "-c", "20") as process:
        for _ in range(50):
            assert traffic.ping(lab.containers["c1"], topology.QEMU[1], 3)[0] == 3
            if process.poll() is not None:
                break
        said = process.stderr.read() if process.stderr else ""
        assert process.wait(timeout=60) == 0, said
    print(said)
    # No mirror: neither OVS nor another container's packets have a part in it, and no tag is seen.
    assert mirrors(lab) == []
    found = [packet.octets for packet in packets(file)]
    assert len(found) == 20
    pod, guest = (IPv4Address(one).packed for one in (topology.CONTAINERS["c1"], topology.QEMU[1]))
    echoes = [octets[26:34] for octets in found if octets[12:14] == b"\x08\x00"]
    assert {pod + guest, guest + pod} == set(echoes)


def has_mirror(lab: Lab) -> bool:
    return MIRROR_LINK in lab.namespace.run("ip", "-br", "link")


def mirror_is_up(lab: Lab) -> bool:
    """Made and set up: a socket that was bound to a link that is down hears nothing but that."""
    return MIRROR_LINK in lab.namespace.run("ip", "-br", "link", "show", "up")


def copies(lab: Lab) -> Counter[bytes]:
    """Echoes that come out at the mirror while a container pings the guest thrice, by direction."""
    found: Counter[bytes] = Counter()
    with PodTap(str(lab.namespace.path), MIRROR_LINK) as tap:
        assert traffic.ping(lab.containers["c1"], topology.QEMU[1], 3)[0] == 3
        while (packet := tap.next(1.0)) is not None:
            if packet.octets[12:14] == b"\x08\x00" and packet.octets[23] == socket.IPPROTO_ICMP:
                found[packet.octets[26:34]] += 1
    return found


def has_copies(lab: Lab, wanted: Counter[bytes]) -> bool:
    return copies(lab) == wanted


def test_what_passes_a_port_that_says_so_is_copied_to_the_mirror(lab: Lab) -> None:
    """A container on the trunk by the trunk's programs, a machine's port by OVS."""
    pod, guest = (IPv4Address(one).packed for one in (topology.CONTAINERS["c1"], topology.QEMU[1]))
    key = f'"{MIRROR_KEY}"'
    for port, each in ((POD, 1), (VM, 2)):
        logical.nbctl(lab.nb, "set", "Logical_Switch_Port", port, f"external_ids:{key}=true")
        wait_until(lambda: mirror_is_up(lab), "the link is there and up")
        wanted = Counter({pod + guest: 3 * each, guest + pod: 3 * each})
        # Each of both ends has its copies of either direction.
        wait_until(partial(has_copies, lab, wanted), f"copies of {port}")
    assert lab.node.ask("status")["problems"] == []
    for port in (VM, POD):
        logical.nbctl(lab.nb, "remove", "Logical_Switch_Port", port, "external_ids", key)
    wait_until(lambda: not has_mirror(lab) and mirrors(lab) == [], "nothing of it is left")
    assert MIRROR_PORT not in lab.node.vsctl("list-ports", "br-int")
    assert traffic.ping(lab.containers["c1"], topology.QEMU[1], 3)[0] == 3


def test_an_interrupted_capture_is_whole_and_a_killed_one_is_cleaned_up(
    lab: Lab, tmp_path: Path
) -> None:
    file = tmp_path / "vm.pcap"
    with dumping(lab, VM, "-w", str(file)) as process:
        wait_until(lambda: bool(mirrors(lab)), "the mirror is there")
        assert traffic.http(lab.client, topology.VIP_VM, 80, 3).all_ok
        process.terminate()
        assert process.wait(timeout=60) == 0
    assert mirrors(lab) == []
    assert list(packets(file))

    with dumping(lab, VM, "-w", str(file)) as process:
        wait_until(lambda: bool(mirrors(lab)), "the mirror is there")
        os.kill(process.pid, signal.SIGKILL)
        process.wait(timeout=60)
    # A port that comes is a reason for the daemon to look.
    pod = lab.workloads["c3"]
    pod.detach()
    pod.attach()
    wait_until(lambda: mirrors(lab) == [], "the daemon removes what was left")
    wait_until(
        lambda: "mrdump" not in lab.node.vsctl("list-ports", "br-int"), "and the port of the file"
    )
    assert traffic.http(lab.client, topology.VIP_VM, 80, 3).all_ok
