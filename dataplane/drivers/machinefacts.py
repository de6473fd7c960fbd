"""Reads what the machine has: sysfs, /proc/meminfo, rtnetlink. Writes nothing."""

from __future__ import annotations

from collections.abc import Container, Mapping
from pathlib import Path
from typing import Any

from pyroute2 import IPRoute, NetNS

from dataplane.model.machine import HugepagePool, MachineFacts, NicFacts
from dataplane.ports import ObserveError

_SYSFS = Path("/sys")

_TAKERS = frozenset({"bridge", "bond", "team", "openvswitch"})
"""Kinds of links that take every frame from their members; a VRF leaves them theirs."""


def cpu_list(text: str) -> frozenset[int]:
    """The CPUs of a list such as "0-3,8" (kernel doc, admin-guide/cputopology)."""
    found: set[int] = set()
    for part in text.strip().split(","):
        if part:
            first, _, last = part.partition("-")
            found.update(range(int(first), int(last or first) + 1))
    return frozenset(found)


def meminfo(text: str) -> dict[str, int]:
    """The lines of /proc/meminfo, in KiB (or in pages, where the kernel counts pages)."""
    values = {}
    for line in text.splitlines():
        key, _, rest = line.partition(":")
        values[key] = int(rest.split()[0])
    return values


def machine_facts(netns: str | None = None) -> MachineFacts:
    """The machine, and the network devices of a namespace (None: this process's own).

    Raises:
        ObserveError: the namespace does not exist, or sysfs or netlink cannot be read.
    """
    if netns is not None and not (Path("/run/netns") / netns).exists():
        # Asked first: pyroute2 leaks its event loop when it fails to enter a namespace.
        msg = f"there is no network namespace {netns}; `ip netns list` shows what there is"
        raise ObserveError(msg)
    try:
        memory = meminfo(Path("/proc/meminfo").read_text(encoding="ascii"))
        return MachineFacts(
            cpus=cpu_list(_text("devices/system/cpu/online")),
            numa_nodes=_numa_nodes(),
            memory_kib=memory["MemTotal"],
            available_kib=memory["MemAvailable"],
            hugepages=_hugepages(),
            nics=_nics(netns),
            pci_devices=frozenset(_names("bus/pci/devices")),
        )
    except (OSError, KeyError, ValueError) as error:
        msg = f"the machine's facts cannot be read: {error}"
        raise ObserveError(msg) from error


def filesystem_of(path: Path) -> str:
    """The type of the filesystem that an absolute path is, or would be, on (proc(5), mountinfo)."""
    types: dict[str, str] = {}
    for line in Path("/proc/self/mountinfo").read_text(encoding="utf-8").splitlines():
        before, _, after = line.partition(" - ")
        types[before.split()[4]] = after.split()[0]
    return next((types[str(p)] for p in (path, *path.parents) if str(p) in types), "unknown")


def _text(path: str) -> str:
    return (_SYSFS / path).read_text(encoding="ascii")


def _names(path: str) -> list[str]:
    folder = _SYSFS / path
    return [entry.name for entry in folder.iterdir()] if folder.is_dir() else []


def _numa_nodes() -> int:
    online = _SYSFS / "devices/system/node/online"
    # A kernel without NUMA has no such file, and one node.
    return len(cpu_list(online.read_text(encoding="ascii"))) if online.exists() else 1


def _hugepages() -> dict[int, HugepagePool]:
    pools = {}
    for name in _names("kernel/mm/hugepages"):
        size_kib = int(name.removeprefix("hugepages-").removesuffix("kB"))
        folder = f"kernel/mm/hugepages/{name}"
        pools[size_kib] = HugepagePool(
            total=int(_text(f"{folder}/nr_hugepages")),
            free=int(_text(f"{folder}/free_hugepages")),
        )
    return pools


def _nics(netns: str | None) -> dict[str, NicFacts]:
    # flags=0: never make a namespace that is not there.
    with IPRoute() if netns is None else NetNS(netns, flags=0) as netlink:
        links = list(netlink.get_links())
    names = {link["index"]: link.get_attr("IFLA_IFNAME") for link in links}
    takers = {link["index"] for link in links if _kind(link) in _TAKERS}
    return {link.get_attr("IFLA_IFNAME"): _nic(link, names, takers) for link in links}


def _kind(link: Any) -> str:
    info = link.get_attr("IFLA_LINKINFO")
    return (info.get_attr("IFLA_INFO_KIND") or "") if info else ""


def _nic(link: Any, names: Mapping[int, str], takers: Container[int]) -> NicFacts:
    kind, xdp = _kind(link), link.get_attr("IFLA_XDP")
    master = link.get_attr("IFLA_MASTER") or 0
    on_pci = link.get_attr("IFLA_PARENT_DEV_BUS_NAME") == "pci"
    # The index of a peer in another namespace means nothing here.
    peer_is_here = kind == "veth" and link.get_attr("IFLA_LINK_NETNSID") is None
    return NicFacts(
        kind=kind,
        mtu=link.get_attr("IFLA_MTU"),
        rx_queues=link.get_attr("IFLA_NUM_RX_QUEUES") or 1,
        tx_queues=link.get_attr("IFLA_NUM_TX_QUEUES") or 1,
        peer=names.get(link.get_attr("IFLA_LINK") or 0, "") if peer_is_here else "",
        xdp_program=(xdp.get_attr("IFLA_XDP_PROG_ID") or 0) if xdp else 0,
        master=names.get(master, "") if master in takers else "",
        pci=link.get_attr("IFLA_PARENT_DEV_NAME") or "" if on_pci else "",
    )
