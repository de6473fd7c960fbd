"""Reading a topology from a tree that looks like sysfs and procfs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dataplane.drivers.topology import read_topology
from dataplane.model.machine import HugepagePool
from dataplane.model.topology import NO_NODE, Guest, GuestPort, cpu_list
from dataplane.model.topologyjson import topology_from_json, topology_to_json
from dataplane.ports import ObserveError


def write(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n", encoding="utf-8")


@pytest.fixture
def machine(tmp_path: Path) -> Path:
    """Two nodes of two cores with threads, CPU 7 offline, three NICs."""
    cpu = "sys/devices/system/cpu"
    node = "sys/devices/system/node"
    files = {
        f"{cpu}/online": "0-6",
        f"{cpu}/offline": "7",
        f"{cpu}/isolated": "1,5",
        f"{cpu}/nohz_full": "(null)",
        f"{node}/online": "0-1",
        f"{node}/node0/cpulist": "0-1,4-5",
        f"{node}/node1/cpulist": "2-3,6",
        f"{node}/node0/distance": "10 21",
        f"{node}/node1/distance": "21 10",
        "sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages": "96",
        "sys/kernel/iommu_groups/0/type": "DMA",
        "sys/class/net/eth0/speed": "25000",
        "sys/class/net/eth0/mtu": "9000",
        "sys/class/net/eth0/queues/rx-0/rps_cpus": "0",
        "sys/class/net/eth0/queues/rx-1/rps_cpus": "0",
        "sys/class/net/eth0/queues/tx-0/xps_cpus": "0",
        "proc/cpuinfo": "processor : 0\nvendor_id : GenuineIntel\nmodel name : A CPU\n",
        "proc/cmdline": "ro secret=1 isolcpus=managed_irq,domain,1,5 rcu_nocbs=1,5 hugepages=96",
        "proc/net/route": "Iface Destination Gateway Flags RefCnt Use Metric Mask MTU\n"
        "eth0 00000000 0100000A 0003 0 0 0 00000000 0\n"
        "vio0 0000000A 00000000 0001 0 0 0 00FFFFFF 0",
        "proc/self/mountinfo": "30 1 0:1 / / rw - ext4 /dev/sda rw\n"
        "31 30 0:2 / /dev/hugepages rw - hugetlbfs hugetlbfs rw,pagesize=2M\n"
        "32 30 0:3 / /mnt/1g rw - hugetlbfs none rw,pagesize=1024M",
        "var/lib/kubelet/config.yaml": 'kind: KubeletConfiguration\nreservedSystemCPUs: "0,4"',
        "var/lib/kubelet/cpu_manager_state": json.dumps(
            {"policyName": "static", "defaultCpuSet": "0-5", "entries": {"uid": {"app": "6"}}}
        ),
    }
    for number in range(7):
        siblings = f"{number % 4},{number % 4 + 4}"
        files[f"{cpu}/cpu{number}/topology/thread_siblings_list"] = siblings
        files[f"{cpu}/cpu{number}/topology/physical_package_id"] = str(number % 4 // 2)
        shared = "0-1,4-5" if number % 4 < 2 else "2-3,6-7"
        files[f"{cpu}/cpu{number}/cache/index0/level"] = "1"
        files[f"{cpu}/cpu{number}/cache/index0/shared_cpu_list"] = siblings
        files[f"{cpu}/cpu{number}/cache/index3/level"] = "3"
        files[f"{cpu}/cpu{number}/cache/index3/shared_cpu_list"] = shared
    for number, pages in ((0, "64"), (1, "32")):
        folder = f"{node}/node{number}"
        files[f"{folder}/meminfo"] = (
            f"Node {number} MemTotal:  1048576 kB\nNode {number} MemFree: 1 kB"
        )
        files[f"{folder}/hugepages/hugepages-2048kB/nr_hugepages"] = pages
        files[f"{folder}/hugepages/hugepages-2048kB/free_hugepages"] = "10"
    devices = "sys/bus/pci/devices"
    for address, kind, home in (
        ("0000:3b:00.0", "0x020000", "1"),
        ("0000:3c:00.0", "0x020000", "-1"),
        ("0000:3d:00.0", "0x020000", "9"),
        ("0000:00:1f.2", "0x010601", "0"),
    ):
        files[f"{devices}/{address}/class"] = kind
        files[f"{devices}/{address}/numa_node"] = home
    files[f"{devices}/0000:3b:00.0/net/eth0/mtu"] = "9000"
    files[f"{devices}/0000:3c:00.0/virtio0/net/vio0/mtu"] = "1500"
    write(tmp_path, files)
    driver = tmp_path / "sys/bus/pci/drivers/ice"
    driver.mkdir(parents=True)
    (tmp_path / devices / "0000:3b:00.0/driver").symlink_to(driver)
    return tmp_path


def test_cores_siblings_nodes_and_caches(machine: Path) -> None:
    topology = read_topology(machine)
    found = {tuple(sorted(c.cpus)): (c.node, c.package, c.cache) for c in topology.cores}
    assert found == {(0, 4): (0, 0, 0), (1, 5): (0, 0, 0), (2, 6): (1, 1, 1), (3,): (1, 1, 1)}
    assert topology.offline == {7}
    assert (topology.vendor, topology.model) == ("GenuineIntel", "A CPU")


def test_nodes_have_memory_pages_and_distances(machine: Path) -> None:
    first, second = read_topology(machine).nodes
    assert (first.memory_mib, first.hugepages) == (1024, {2048: HugepagePool(64, 10)})
    assert (second.hugepages, second.distances) == ({2048: HugepagePool(32, 10)}, {0: 21, 1: 10})


def test_nics_and_nothing_else_on_pci(machine: Path) -> None:
    first, second, third = read_topology(machine).nics
    assert (first.device, first.driver, first.node) == ("eth0", "ice", 1)
    assert (first.max_queues, first.speed_mbps, first.mtu) == (2, 25000, 9000)
    assert first.has_default_route
    assert (second.device, second.node, second.has_default_route) == ("vio0", NO_NODE, False)
    assert (third.device, third.node, third.name) == ("", NO_NODE, "0000:3d:00.0")


def test_who_has_cpus_already(machine: Path) -> None:
    topology = read_topology(machine, host=frozenset({3}))
    assert topology.taken.host == {3}
    assert topology.taken.kubelet == frozenset({0, 4})
    assert topology.taken.exclusive == {6}
    assert set(topology.forbidden()) == {0, 3, 4, 6}


def test_boot_and_mounts(machine: Path) -> None:
    topology = read_topology(machine)
    assert topology.boot.isolated == topology.boot.rcu_nocbs == cpu_list("1,5")
    assert topology.boot.nohz_full == frozenset()
    assert topology.boot.iommu_groups == 1
    assert topology.mounts == {"/dev/hugepages": 2048, "/mnt/1g": 1 << 20}
    assert not any("secret" in word for word in topology.boot.arguments)


def test_a_kernel_without_numa_is_one_node(machine: Path) -> None:
    (machine / "sys/devices/system/node/online").unlink()
    write(machine, {"proc/meminfo": "MemTotal: 2097152 kB\nMemFree: 1 kB"})
    (node,) = read_topology(machine).nodes
    assert (node.number, node.memory_mib, node.hugepages[2048].total) == (0, 2048, 96)


def test_no_kubelet_reserves_nothing(machine: Path) -> None:
    write(machine, {"var/lib/kubelet/config.yaml": "kind: KubeletConfiguration"})
    assert read_topology(machine).taken.kubelet == frozenset()
    (machine / "var/lib/kubelet/config.yaml").unlink()
    (machine / "var/lib/kubelet/cpu_manager_state").unlink()
    taken = read_topology(machine).taken
    assert (taken.kubelet, taken.exclusive) == (None, frozenset())


def test_what_no_kernel_says_is_an_error(machine: Path) -> None:
    write(machine, {"sys/devices/system/cpu/online": "many"})
    with pytest.raises(ObserveError, match="'many' is no CPU"):
        read_topology(machine)


def test_this_machine_can_be_recorded() -> None:
    topology = read_topology()
    assert topology.cores and topology.nodes
    assert topology_from_json(topology_to_json(topology), "here.json") == topology


def test_what_systemd_keeps_for_the_host(machine: Path) -> None:
    write(
        machine,
        {
            "etc/systemd/system.conf": "[Manager]\n#CPUAffinity=5\nCPUAffinity=1 2\nCPUAffinity=3",
            "etc/systemd/system.conf.d/own.conf": "[Manager]\nCPUAffinity=\nCPUAffinity=0-1,4",
        },
    )
    assert read_topology(machine).taken.host == frozenset({0, 1, 4})


def test_running_vms_with_their_memory_and_ports(machine: Path) -> None:
    words = [
        "qemu-system-x86_64", "-name", "guest=web,debug-threads=on", "-netdev",
        "vhost-user,chardev=c0,id=net0,queues=4", "-netdev", "user,id=net1",
        "-netdev", "type=vhost-user,id=net2,chardev=c1",
    ]  # fmt: skip
    maps = "7f00 bind:0 file=/dev/hugepages/x huge dirty=5 N0=3 N1=2 kernelpagesize_kB=2048\n"
    write(
        machine,
        {
            "proc/77/comm": "qemu-system-x86",
            "proc/77/cmdline": "\0".join(words),
            "proc/77/numa_maps": maps + "8f00 default anon=9 N0=9 kernelpagesize_kB=4",
            "proc/78/comm": "qemu-img",
            "proc/78/cmdline": "qemu-img",
            "proc/79/comm": "bash",
            "proc/79/numa_maps": maps,
        },
    )
    (guest,) = read_topology(machine).guests
    assert guest == Guest("web", {0: 6, 1: 4}, (GuestPort("net0", 4), GuestPort("net2", 1)))
