"""NICs that the node's file gives to OVS under vfio: bound, given back, listed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path

from dataplane.drivers.pcibind import NicRefused, PciBinder
from dataplane.model.config import NodeConfig, UplinkMode
from dataplane.plan.nicbinding import (
    BIFURCATED,
    VFIO_DRIVER,
    NicRecord,
    PciNic,
    Wanted,
    notes,
)
from dataplane.plan.ports import uplink_port_name


@dataclass(frozen=True, slots=True)
class NicLine:
    """One NIC for people: `name` is the one it had before it was bound, too."""

    name: str
    address: str
    driver: str
    node: int
    group: str
    queues: int
    used_by: str
    note: str


def wanted(config: NodeConfig) -> list[Wanted]:
    """Every NIC that the file gives to vfio."""
    return [
        Wanted(nic.device, nic.unsafe_noiommu) for nic in config.nics if nic.mode is UplinkMode.VFIO
    ]


def moving(config: NodeConfig) -> tuple[IPv4Address | IPv6Address, ...]:
    """Addresses that go to a bridge together with their NIC: the tunnel's endpoint."""
    return (config.tunnel.address.ip,) if config.tunnel else ()


def binder_of(config: NodeConfig) -> PciBinder:
    """The binder with this node's record."""
    return PciBinder(Path(config.statedir))


def bind(config: NodeConfig, binder: PciBinder, *, recorded: bool = False) -> list[str]:
    """Bind what the file names; what was done, in words.

    Args:
        config: the node's.
        binder: the machine's.
        recorded: only NICs that are on record. At boot no address and no route is there yet that
            would betray a NIC in use, so one that nobody has bound by hand before is left alone.

    Raises:
        DataplaneError: a NIC cannot be bound.
    """
    asked = wanted(config)
    said = []
    if recorded:
        known = binder.records()
        said = [
            f"left NIC {one.address}: nobody has bound it before; do it once with `millrace nics"
            " bind`, which sees whether the machine uses it"
            for one in asked
            if one.address not in known
        ]
        asked = [one for one in asked if one.address in known]
    return [*said, *binder.bind(asked, moving(config))]


def refusals(config: NodeConfig, binder: PciBinder) -> list[str]:
    """Why `bind` would refuse, a line for each NIC; nothing is touched.

    Raises:
        ObserveError: sysfs or the record cannot be read.
    """
    return binder.refusals(wanted(config), moving(config))


def not_bound(config: NodeConfig, binder: PciBinder | None = None) -> str:
    """Which NICs that are there OVS could not open under vfio, and what to do; "" if none.

    Raises:
        ObserveError: sysfs cannot be read.
    """
    asked = [one.address for one in wanted(config)]
    if not asked:
        return ""
    there = binder or binder_of(config)
    drivers = {one: nic.driver for one in asked if (nic := there.nic(one)) is not None}
    wrong = [
        f"{one} ({driver or 'no driver'})"
        for one, driver in drivers.items()
        if driver not in (VFIO_DRIVER, *BIFURCATED)
    ]
    return (
        f"not bound to {VFIO_DRIVER}: {', '.join(wrong)}; `millrace nics bind --config FILE` binds"
        " what a file names"
        if wrong
        else ""
    )


def mtu_problems(config: NodeConfig, mtus: Mapping[str, int | None]) -> list[dict[str, str]]:
    """NICs that OVS has with another MTU than the file asks for.

    OVS takes any `mtu_request` into its database and keeps the old MTU where the NIC refuses.

    Args:
        config: the node's.
        mtus: what OVS reports, by interface; None: nothing yet.
    """
    return [
        {
            "name": f"uplink {nic.device}",
            "cause": f"its MTU is {mtu} and not {nic.mtu}: the NIC does not take that",
            "next_step": f"write mtu = {mtu} in the node's file, or use a NIC that carries more",
        }
        for nic in config.nics
        if nic.mtu is not None
        and (mtu := mtus.get(uplink_port_name(nic))) is not None
        and mtu != nic.mtu
    ]


def release(binder: PciBinder, chosen: Sequence[str] = ()) -> list[str]:
    """Give NICs back, by name or PCI address; none chosen: all on record.

    Raises:
        NicRefused: one of them is not on record, or in use.
        DataplaneError: the kernel did not do it.
    """
    records = binder.records()
    by_name = {record.name: address for address, record in records.items()}
    addresses = [by_name.get(one, one) for one in chosen]
    for one in addresses:
        if one not in records:
            on_record = ", ".join(f"{r.name} ({r.address})" for r in records.values()) or "none"
            msg = (
                f"NIC {one} is not on record; those that Millrace has bound: {on_record};"
                " `millrace nics` lists all"
            )
            raise NicRefused(msg)
    return binder.release(addresses or None)


def listing(binder: PciBinder, config: NodeConfig | None) -> list[NicLine]:
    """Every PCI NIC of the machine, by address.

    Raises:
        ObserveError: sysfs or the record cannot be read.
    """
    records = binder.records()
    users = _users(config) if config else {}
    return [_line(nic, records, users, known=config is not None) for nic in binder.nics()]


def _users(config: NodeConfig) -> dict[str, str]:
    """What has a NIC, by the file: device -> "uplink of BRIDGE" or "BOND of BRIDGE"."""
    found = {uplink.device: f"uplink of {uplink.bridge}" for uplink in config.uplinks}
    for bond in config.bonds:
        found.update({one.device: f"{bond.name} of {bond.bridge}" for one in bond.members})
    return found


def _line(
    nic: PciNic, records: Mapping[str, NicRecord], users: Mapping[str, str], *, known: bool
) -> NicLine:
    record = records.get(nic.address)
    names: Iterable[str] = nic.names or ((record.name,) if record else ())
    name = next(iter(names), "")
    used = next((users[key] for key in (nic.address, *nic.names) if key in users), "")
    note = notes(nic, records)
    if known and record and not used:
        note = f"the file does not name it any more: `millrace nics release {nic.address}`"
    return NicLine(
        name=name if name != nic.address else "",
        address=nic.address,
        driver=nic.driver,
        node=nic.node,
        group=nic.group,
        queues=nic.queues,
        used_by=used,
        note=note,
    )
