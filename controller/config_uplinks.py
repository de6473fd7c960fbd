"""The tables [[uplink]] and [[bond]] of a node's file: NICs, one by one or several as one port."""

from __future__ import annotations

import re
from dataclasses import replace
from enum import StrEnum

from controller import config_values as values
from controller.config_reader import TableReader, dotted, shown
from dataplane.model.config import BondConfig, BondMode, UplinkConfig, UplinkMode
from dataplane.plan.mtu import AF_XDP_MTU
from dataplane.plan.tuning.pins import MAX_DESCRIPTORS
from dataplane.plan.tuning.queues import parse_affinity

LINK_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,14}")
LINK_RULE = "a link's name has 1 to 15 letters, digits, dots, dashes, underscores"
_PCI = re.compile(r"[0-9a-f]{4}:[0-9a-f]{2}:[01][0-9a-f]\.[0-7]")
_PCI_RULE = "under vfio it is a PCI address in lower case"

_PAIRS = re.compile(r"[0-9][0-9:, ]*")
_PAIRS_RULE = "it has pairs of a queue and the CPU of the PMD thread that polls it"

MOST_MTU = 9710
"""What no NIC that DPDK drives goes beyond by much; OVS asks each for its own limit."""


class XdpMode(StrEnum):
    """OVS's option xdp-mode of an afxdp port (ovs-vswitchd.conf.db(5))."""

    BEST_EFFORT = "best-effort"
    NATIVE = "native"
    NATIVE_WITH_ZEROCOPY = "native-with-zerocopy"
    GENERIC = "generic"


def known_bridge(table: TableReader, names: set[str]) -> str:
    """The bridge that a table names, which has to be there."""
    bridge = table.text("bridge", example="br-ex", pattern=LINK_NAME, rule=LINK_RULE)
    if table.sound("bridge") and bridge not in names:
        table.fault(
            "bridge",
            f"{table.name('bridge')} = {shown(bridge)}",
            f"there is no such bridge; there are: {', '.join(sorted(names)) or 'none'}",
            f'add [[bridge]] with name = "{bridge}", or name one that is there',
        )
    return bridge


def uplinks_and_bonds(
    root: TableReader, bridges: set[str]
) -> tuple[tuple[UplinkConfig, ...], tuple[BondConfig, ...]]:
    """Every NIC of the file; one that stands twice is a fault, whichever tables it stands in."""
    devices: dict[str, int] = {}
    uplinks = tuple(_uplink(table, bridges, devices) for table in root.tables("uplink"))
    return uplinks, _bonds(root, bridges, devices)


def _uplink(table: TableReader, bridges: set[str], devices: dict[str, int]) -> UplinkConfig:
    mode = table.choice("mode", UplinkMode, default=UplinkMode.AF_XDP)
    vfio = mode is UplinkMode.VFIO
    device = table.text(
        "device",
        example="0000:3b:00.0" if vfio else "eth0",
        pattern=_PCI if vfio else LINK_NAME,
        rule=_PCI_RULE if vfio else LINK_RULE,
    )
    values.unique(table, "device", device, devices)
    bridge = known_bridge(table, bridges)
    services = table.boolean("services", default=False)
    if vfio and services:
        table.fault(
            "services",
            f"{table.name('services')} = true",
            "a NIC that is bound to vfio-pci has no XDP hook",
            'write services = false (OVN serves then), or mode = "af_xdp"',
        )
    found = _nic(table, device, bridge, mode, services=services)
    found = replace(found, affinity=_affinity(table, found))
    table.finish()
    return found


def _affinity(table: TableReader, uplink: UplinkConfig) -> str:
    """Which CPU polls which queue, as OVS writes it; a member of a bond has no such key."""
    key = "affinity"
    if not table.has(key):
        return ""
    text = table.text(key, example="0:3,1:7", pattern=_PAIRS, rule=_PAIRS_RULE)
    if not table.sound(key):
        return ""
    try:
        queues = parse_affinity(text)
    except ValueError as error:
        what = f"{table.name(key)} = {shown(text)}"
        table.fault(key, what, str(error), 'write it as in "0:3,1:7", each queue once')
        return ""
    beyond = [queue for queue in sorted(queues) if queue >= uplink.queues]
    if uplink.mode is UplinkMode.KERNEL:
        table.fault(
            key,
            f"{table.name(key)} = {shown(text)}",
            "no PMD thread polls a NIC in kernel mode",
            'remove it, or use mode "af_xdp" or "vfio"',
        )
    elif beyond and (uplink.mode is UplinkMode.AF_XDP or uplink.queues > 1):
        table.fault(
            key,
            f"{table.name(key)} names queue {beyond[0]}",
            f"this NIC has {uplink.queues} of them here, numbered from 0",
            f"raise queues, or remove {beyond[0]}:{queues[beyond[0]]}",
        )
    return text


def _nic(
    table: TableReader, device: str, bridge: str, mode: UplinkMode, *, services: bool
) -> UplinkConfig:
    """What uplinks and members of bonds are told alike."""
    mtu = table.integer("mtu", 1280, MOST_MTU, default=1500) if table.has("mtu") else None
    if mtu is not None and mode is UplinkMode.AF_XDP and mtu > AF_XDP_MTU and table.sound("mtu"):
        table.fault(
            "mtu",
            f"{table.name('mtu')} = {mtu}",
            f"an AF_XDP frame has to fit one page with its headroom: {AF_XDP_MTU} at most",
            f'write at most mtu = {AF_XDP_MTU}, or use mode "vfio" or "kernel"',
        )
    for key, only, why in (
        ("busy_poll", UplinkMode.AF_XDP, "only AF_XDP sockets are served by the NIC's NAPI"),
        ("unsafe_noiommu", UplinkMode.VFIO, "only vfio goes through an IOMMU"),
    ):
        if table.boolean(key, default=False) and mode is not only:
            table.fault(
                key, f"{table.name(key)} = true", why, f'remove it, or use the mode "{only}"'
            )
    rx, tx = (_descriptors(table, key, mode) for key in ("rx_descriptors", "tx_descriptors"))
    return UplinkConfig(
        device=device,
        bridge=bridge,
        mode=mode,
        queues=table.integer("queues", 1, 64, default=1),
        xdp_mode=table.choice("xdp_mode", XdpMode, default=XdpMode.BEST_EFFORT).value,
        services=services,
        mtu=mtu,
        busy_poll=table.boolean("busy_poll", default=False),
        unsafe_noiommu=table.boolean("unsafe_noiommu", default=False),
        rx_descriptors=rx,
        tx_descriptors=tx,
    )


def _descriptors(table: TableReader, key: str, mode: UplinkMode) -> int | None:
    """Of a queue; None: the plan's, or OVS's default."""
    if not table.has(key):
        return None
    count = table.integer(key, 1, MAX_DESCRIPTORS, default=2048)
    if mode is not UplinkMode.VFIO:
        table.fault(
            key,
            f"{table.name(key)} = {count}",
            "only a NIC that DPDK drives has descriptors to choose",
            'remove it, or use mode "vfio"',
        )
    elif count & (count - 1) and table.sound(key):
        why = f"it has to be a power of two up to {MAX_DESCRIPTORS}"
        table.fault(key, f"{table.name(key)} = {count}", why, "write 2048")
    return count


def _bonds(root: TableReader, bridges: set[str], devices: dict[str, int]) -> tuple[BondConfig, ...]:
    found = []
    names: dict[str, int] = {}
    for table in root.tables("bond"):
        name = table.text("name", example="bond0", pattern=LINK_NAME, rule=LINK_RULE)
        values.unique(table, "name", name, names)
        if table.sound("name") and (name in devices or name in bridges):
            table.fault(
                "name",
                f"{table.name('name')} = {shown(name)}",
                "a NIC or a bridge has this name already",
                "choose another name",
            )
        bridge = known_bridge(table, bridges)
        mode = table.choice("mode", BondMode, default=BondMode.ACTIVE_BACKUP)
        members = _devices(table, devices)
        kernel_names = [one for one in members if not _PCI.fullmatch(one)]
        attach = _attach(table, members, kernel_names)
        lacp_fast = table.boolean("lacp_fast", default=False)
        if lacp_fast and mode is not BondMode.BALANCE_TCP:
            table.fault(
                "lacp_fast",
                f"{table.name('lacp_fast')} = true",
                f"LACP is spoken by bonds of mode {BondMode.BALANCE_TCP} only",
                f'remove it, or write mode = "{BondMode.BALANCE_TCP}"',
            )
        if table.boolean("services", default=False):
            table.fault(
                "services",
                f"{table.name('services')} = true",
                "the program for services answers for one NIC with the node's own addresses on"
                " it, and a bond has several",
                "write services = false (OVN serves then), or make an [[uplink]] of one NIC",
            )
        model = _nic(table, "", bridge, attach, services=False)
        table.finish()
        nics = tuple(replace(model, device=device) for device in members)
        found.append(BondConfig(name, bridge, mode, nics, lacp_fast))
    return tuple(found)


def _devices(table: TableReader, devices: dict[str, int]) -> list[str]:
    key = "devices"
    given = table.items(key, str, example='["eth1", "eth2"]')
    members: list[str] = []
    for index, device in given.items():
        path = (*table.path, key, index)
        if not (_PCI.fullmatch(device) or LINK_NAME.fullmatch(device)):
            table.fault_at(key, index, f"{LINK_RULE}; {_PCI_RULE}", 'write it as "eth1"')
        elif device in members:
            table.fault_at(key, index, "this bond has it already", "name each NIC once")
        elif device in devices:
            why = f"line {devices[device]} has it already"
            table.fault_at(key, index, why, "give a NIC to one uplink or one bond")
        else:
            members.append(device)
            devices[device] = table.notes.line_of(path)
    if table.sound(key) and len(members) < 2:
        table.fault(
            key,
            f"{table.name(key)} has {len(members)} device{'' if len(members) == 1 else 's'}",
            "a bond of less than two is none, and OVS refuses it",
            "name two NICs, or make an [[uplink]] of the one",
        )
    return members


def _attach(table: TableReader, members: list[str], kernel_names: list[str]) -> UplinkMode:
    """How the members join OVS: one way for all of them."""
    pci = [one for one in members if one not in kernel_names]
    default = UplinkMode.VFIO if pci and not kernel_names else UplinkMode.AF_XDP
    attach = table.choice("attach", UplinkMode, default=default)
    if table.sound("devices") and pci and kernel_names:
        table.fault(
            "devices",
            f"{dotted((*table.path, 'devices'))} mixes {pci[0]} with {kernel_names[0]}",
            "a PCI address is given to vfio and a name to AF_XDP or the kernel, and the members"
            " of a bond are attached alike",
            "name all by PCI address, or all by name",
        )
    elif table.sound("attach") and (attach is UplinkMode.VFIO) != bool(pci) and members:
        table.fault(
            "attach",
            f"{table.name('attach')} = {shown(str(attach))}",
            _PCI_RULE + ", and else a name",
            f'write attach = "{default}", or name the devices otherwise',
        )
    return attach
