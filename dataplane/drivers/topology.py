"""Reads a machine's topology from sysfs and procfs. Writes nothing.

Everything is below a root directory, so that tests read a tree of their own. Sources: the kernel's
Documentation/ABI (sysfs-devices-system-cpu, sysfs-devices-node, sysfs-bus-pci, sysfs-class-net,
sysfs-kernel-mm-hugepages) and proc(5).
"""

from __future__ import annotations

import contextlib
import itertools
import json
import platform
from collections.abc import Iterator
from pathlib import Path

from dataplane.model.machine import HugepagePool
from dataplane.model.topology import (
    NO_NODE,
    Boot,
    Core,
    Guest,
    GuestPort,
    NicPort,
    NumaNode,
    Origin,
    OriginKind,
    Taken,
    Topology,
    cpu_list,
)
from dataplane.ports import ObserveError

NETWORK_CLASS = "0x02"
"""PCI class of network controllers (PCI Code and ID Assignment)."""

KUBELET_STATE = "var/lib/kubelet/cpu_manager_state"
SYSTEMD_CONFIG = "etc/systemd/system.conf"
KUBELET_CONFIG = "var/lib/kubelet/config.yaml"


def read_topology(root: Path = Path("/"), host: frozenset[int] = frozenset()) -> Topology:
    """The machine below `root`. `host`: CPUs that its operator keeps for the host.

    Raises:
        ObserveError: sysfs or procfs cannot be read, or says what no kernel says.
    """
    try:
        return _Reader(root).read(host)
    except (OSError, ValueError, KeyError) as error:
        msg = f"the machine's topology cannot be read below {root}: {error}"
        raise ObserveError(msg) from error


class _Reader:
    def __init__(self, root: Path) -> None:
        self._root = root
        self._sys = root / "sys"
        self._cpus = self._sys / "devices/system/cpu"

    def read(self, host: frozenset[int]) -> Topology:
        vendor, model = self._processor()
        nodes = self._nodes()
        arch = platform.machine()
        return Topology(
            origin=Origin(OriginKind.RECORDED, f"{model or arch}, by `millrace plan --record`"),
            arch=arch,
            vendor=vendor,
            model=model,
            nodes=nodes,
            cores=self._cores(nodes),
            offline=cpu_list(_text(self._cpus / "offline")),
            nics=self._nics(nodes),
            guests=tuple(self._guests()),
            taken=Taken(
                host=host | self._host(),
                kubelet=self._kubelet(),
                exclusive=self._exclusive(),
                allowed=None,
            ),
            boot=self._boot(),
            page_sizes_kib=tuple(sorted(_sizes(self._sys / "kernel/mm/hugepages"))),
            mounts=self._mounts(),
        )

    def _processor(self) -> tuple[str, str]:
        """Vendor and model; Arm's kernels name numbers only (proc(5), /proc/cpuinfo)."""
        found: dict[str, str] = {}
        for line in _text(self._root / "proc/cpuinfo").splitlines():
            key, _, value = line.partition(":")
            found.setdefault(key.strip(), value.strip())
        vendor = found.get("vendor_id", found.get("CPU implementer", ""))
        return vendor, found.get("model name", "")

    def _nodes(self) -> tuple[NumaNode, ...]:
        folder = self._sys / "devices/system/node"
        numbers = sorted(cpu_list(_text(folder / "online")))
        if not numbers:
            # A kernel without NUMA: one node with all there is.
            memory = self._meminfo(self._root / "proc/meminfo")
            return (NumaNode(0, memory, self._pools(self._sys / "kernel/mm/hugepages")),)
        return tuple(self._node(folder / f"node{number}", number, numbers) for number in numbers)

    def _node(self, folder: Path, number: int, numbers: list[int]) -> NumaNode:
        distances = [int(word) for word in _text(folder / "distance").split()]
        return NumaNode(
            number=number,
            memory_mib=self._meminfo(folder / "meminfo"),
            hugepages=self._pools(folder / "hugepages"),
            distances=dict(zip(numbers, distances, strict=False)),
        )

    def _meminfo(self, path: Path) -> int:
        """MemTotal in MiB; a node's file says "Node 0 " before each line."""
        for line in _text(path).splitlines():
            before, _, after = line.partition("MemTotal:")
            if after and (not before or before.startswith("Node")):
                return int(after.split()[0]) // 1024
        return 0

    def _pools(self, folder: Path) -> dict[int, HugepagePool]:
        pools = {}
        for size in _sizes(folder):
            path = folder / f"hugepages-{size}kB"
            total = int(_text(path / "nr_hugepages") or 0)
            pools[size] = HugepagePool(total, min(total, int(_text(path / "free_hugepages") or 0)))
        return pools

    def _cores(self, nodes: tuple[NumaNode, ...]) -> tuple[Core, ...]:
        online = cpu_list(_text(self._cpus / "online"))
        home = {
            cpu: node.number
            for node in nodes
            for cpu in cpu_list(_text(self._sys / f"devices/system/node/node{node.number}/cpulist"))
        }
        groups: dict[frozenset[int], int] = {}
        cores: dict[frozenset[int], Core] = {}
        for cpu in sorted(online):
            topology = self._cpus / f"cpu{cpu}/topology"
            siblings = (cpu_list(_text(topology / "thread_siblings_list")) & online) | {cpu}
            if any(cpu in known for known in cores):
                continue
            group = self._cache_group(cpu) or siblings
            cores[siblings] = Core(
                cpus=siblings,
                node=home.get(cpu, nodes[0].number),
                package=max(0, int(_text(topology / "physical_package_id") or 0)),
                cache=groups.setdefault(group, len(groups)),
            )
        return tuple(cores.values())

    def _cache_group(self, cpu: int) -> frozenset[int]:
        """CPUs that share this one's last cache, if it has a shared one."""
        best, group = 0, frozenset[int]()
        for index in sorted((self._cpus / f"cpu{cpu}/cache").glob("index*")):
            level = int(_text(index / "level") or 0)
            if level > best:
                best, group = level, cpu_list(_text(index / "shared_cpu_list"))
        return group

    def _nics(self, nodes: tuple[NumaNode, ...]) -> tuple[NicPort, ...]:
        known = {node.number for node in nodes}
        routed = default_route_devices(self._root)
        found = []
        for folder in sorted((self._sys / "bus/pci/devices").glob("*")):
            if not _text(folder / "class").startswith(NETWORK_CLASS):
                continue
            names = sorted(path.name for path in (folder / "net").glob("*")) or [""]
            node = int(_text(folder / "numa_node") or NO_NODE)
            found += [
                self._nic(folder, name, node if node in known else NO_NODE, routed)
                for name in names
            ]
            # A virtio NIC's netdev is below the virtio device, one folder down.
        return tuple(found)

    def _nic(self, folder: Path, name: str, node: int, routed: frozenset[str]) -> NicPort:
        if not name:
            below = sorted(folder.glob("virtio*/net/*"))
            name = below[0].name if below else ""
        device = self._sys / "class/net" / name
        driver = folder / "driver"
        speed = 0
        with contextlib.suppress(OSError, ValueError):
            # Reading it fails with EINVAL while the link is down.
            speed = max(0, int(_text(device / "speed"))) if name else 0
        return NicPort(
            address=folder.name,
            device=name,
            driver=driver.resolve().name if driver.exists() else "",
            node=node,
            max_queues=max(1, len(list((device / "queues").glob("rx-*"))) if name else 1),
            speed_mbps=speed,
            mtu=int(_text(device / "mtu") or 1500) if name else 1500,
            has_default_route=name in routed,
        )

    def _boot(self) -> Boot:
        arguments = tuple(_text(self._root / "proc/cmdline").split())
        values = dict(word.partition("=")[::2] for word in arguments)
        groups = self._sys / "kernel/iommu_groups"
        return Boot(
            # Only those that the plan may speak of: the rest is nobody's business in a file.
            arguments=tuple(word for word in arguments if word.startswith(_SPOKEN_OF)),
            isolated=cpu_list(_text(self._cpus / "isolated")),
            nohz_full=cpu_list(_none(_text(self._cpus / "nohz_full"))),
            rcu_nocbs=_lenient(values.get("rcu_nocbs", "")),
            iommu_groups=len(list(groups.glob("*"))),
        )

    def _mounts(self) -> dict[str, int]:
        """Each hugetlbfs and its page size [KiB] (proc_pid_mountinfo(5))."""
        found = {}
        for line in _text(self._root / "proc/self/mountinfo").splitlines():
            left, _, right = line.partition(" - ")
            kind, _, options = right.partition(" ")
            if kind == "hugetlbfs":
                size = next(
                    (o.removeprefix("pagesize=") for o in options.replace(" ", ",").split(",")
                     if o.startswith("pagesize=")), "2M",
                )  # fmt: skip
                found[left.split()[4]] = _page_kib(size)
        return found

    def _host(self) -> frozenset[int]:
        """Where systemd keeps the host's processes (systemd-system.conf(5), CPUAffinity)."""
        files = [self._root / SYSTEMD_CONFIG]
        files += sorted((self._root / f"{SYSTEMD_CONFIG}.d").glob("*.conf"))
        kept = frozenset[int]()
        for line in (line for file in files for line in _text(file).splitlines()):
            key, equals, value = line.partition("=")
            if equals and key.strip() == "CPUAffinity":
                # Values of several lines add up; an empty one begins anew.
                more = _lenient(",".join(value.replace(",", " ").split()))
                kept = kept | more if value.strip() else frozenset()
        return kept

    def _guests(self) -> Iterator[Guest]:
        """QEMU's processes that have memory in hugepages, by what procfs says of them."""
        for folder in sorted((self._root / "proc").glob("[0-9]*"), key=lambda path: int(path.name)):
            # A process may end, or be another user's, while it is looked at.
            with contextlib.suppress(OSError):
                if not _text(folder / "comm").startswith("qemu"):
                    continue
                memory = _huge_mib(_text(folder / "numa_maps"))
                words = _text(folder / "cmdline").split("\0")
                if memory:
                    yield Guest(_guest_name(words, folder.name), memory, _guest_ports(words))

    def _kubelet(self) -> frozenset[int] | None:
        """The `reservedSystemCPUs` of kubelet's file, empty by default; None: there is no file."""
        text = _text(self._root / KUBELET_CONFIG)
        for line in text.splitlines():
            key, colon, value = line.partition(":")
            if colon and key.strip() == "reservedSystemCPUs":
                return cpu_list(value.split("#")[0].strip().strip("\"'"))
        return frozenset() if text else None

    def _exclusive(self) -> frozenset[int]:
        """CPUs that kubelet's static CPU manager gave to containers."""
        text = _text(self._root / KUBELET_STATE)
        if not text:
            return frozenset()
        entries = json.loads(text).get("entries") or {}
        return frozenset().union(
            *(cpu_list(cpus) for pod in entries.values() for cpus in pod.values())
        )


def default_route_devices(root: Path) -> frozenset[str]:
    """Devices of default routes, IPv4's and IPv6's (proc(5), net/route and net/ipv6_route)."""
    found = set()
    for line in _text(root / "proc/net/route").splitlines()[1:]:
        words = line.split()
        if len(words) > 7 and words[1] == "00000000" and words[7] == "00000000":
            found.add(words[0])
    for line in _text(root / "proc/net/ipv6_route").splitlines():
        words = line.split()
        if len(words) == 10 and set(words[0]) == {"0"} and words[1] == "00":
            found.add(words[9])
    return frozenset(found - {"lo"})


_SPOKEN_OF = (
    "isolcpus=", "nohz_full=", "rcu_nocbs=", "hugepages=", "hugepagesz=", "default_hugepagesz=",
    "intel_iommu=", "amd_iommu=", "iommu=", "iommu.passthrough=",
)  # fmt: skip


def _huge_mib(text: str) -> dict[int, int]:
    """Memory in hugepages by node [MiB] (numa(7), /proc/PID/numa_maps)."""
    found: dict[int, int] = {}
    for words in (line.split() for line in text.splitlines()):
        sizes = [int(w.partition("=")[2]) for w in words if w.startswith("kernelpagesize_kB=")]
        if "huge" not in words or not sizes:
            continue
        for word in words:
            node, equals, pages = word.partition("=")
            if equals and node[:1] == "N" and node[1:].isdigit():
                found[int(node[1:])] = found.get(int(node[1:]), 0) + int(pages) * sizes[0]
    return {node: kib // 1024 for node, kib in sorted(found.items())}


def _options(words: list[str], option: str) -> list[dict[str, str]]:
    """The comma-separated settings of each use of an option of QEMU."""
    found = []
    for name, value in itertools.pairwise(words):
        if name in (f"-{option}", f"--{option}"):
            found.append(dict(part.partition("=")[::2] for part in value.split(",")))
    return found


def _guest_name(words: list[str], number: str) -> str:
    """The name after -name, with or without "guest="; else the process's number."""
    for settings in _options(words, "name"):
        first = next(iter(settings))
        return settings.get("guest") or first
    return f"pid {number}"


def _guest_ports(words: list[str]) -> tuple[GuestPort, ...]:
    """The netdevs of type vhost-user, with their queue pairs."""
    ports = []
    for settings in _options(words, "netdev"):
        if "vhost-user" in settings or settings.get("type") == "vhost-user":
            queues = settings.get("queues", "1")
            ports.append(
                GuestPort(settings.get("id", ""), max(1, int(queues)) if queues.isdigit() else 1)
            )
    return tuple(ports)


def _text(path: Path) -> str:
    """A file's text; "" if there is none."""
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except (FileNotFoundError, NotADirectoryError):
        return ""


def _none(text: str) -> str:
    """Some kernels write "(null)" for an empty list."""
    return "" if text == "(null)" else text


def _lenient(text: str) -> frozenset[int]:
    """A list of an argument; forms such as "all" or "0-N" are left out, not refused."""
    try:
        return cpu_list(text)
    except ValueError:
        return frozenset()


def _sizes(folder: Path) -> Iterator[int]:
    for path in folder.glob("hugepages-*kB"):
        yield int(path.name.removeprefix("hugepages-").removesuffix("kB"))


def _page_kib(text: str) -> int:
    """A page size as mount options have it: 2M, 1024M, 1G, 512K."""
    unit = {"K": 1, "M": 1 << 10, "G": 1 << 20}.get(text[-1:].upper())
    return int(text[:-1]) * unit if unit else int(text) // 1024
