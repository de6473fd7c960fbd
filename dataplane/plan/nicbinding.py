"""Which NICs may be given to vfio-pci, and the next thing to do for it or to undo it. Pure.

Facts in, one action out: whoever carries it out looks again and asks again, so a crash between any
two of them leaves nothing but a machine that is asked about anew. Source of the files and their
order: the kernel's Documentation/ABI/testing/sysfs-bus-pci (driver_override, drivers_probe, unbind)
and Documentation/driver-api/vfio.rst (groups).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from enum import Enum
from ipaddress import IPv4Address, IPv6Address

VFIO_DRIVER = "vfio-pci"

BIFURCATED = frozenset({"mlx4_core", "mlx5_core"})
"""Drivers below which DPDK works beside the kernel (DPDK's mlx4 and mlx5 guides): never rebound."""

FOREIGN = frozenset({"igb_uio", "uio_pci_generic"})
"""Other drivers that somebody gives a NIC to DPDK with (DPDK's Linux drivers guide)."""

HARMLESS = frozenset({"", VFIO_DRIVER, "pci-stub", "pcieport"})
"""Drivers of a group's other devices that leave the group to its user (vfio.rst)."""

NETWORK_CLASS = "0x02"
BRIDGE_CLASS = "0x06"


@dataclass(frozen=True, slots=True)
class Neighbour:
    """Another device of a NIC's IOMMU group; `pci_class` as sysfs writes it."""

    address: str
    driver: str
    pci_class: str


@dataclass(frozen=True, slots=True)
class PciNic:
    """One PCI device as it is now.

    `names` and `macs` are its netdevs', none while no kernel network driver has it. `master` is the
    device that has one of them as a member (a bond, a bridge), "" for none. `addresses` are global
    ones of its netdevs, `uppers` the devices made on top of them (VLANs). `group`: "" without an
    IOMMU. `users`: processes that hold its group open, as "NAME (PID)".
    """

    address: str
    pci_class: str
    driver: str
    override: str = ""
    names: tuple[str, ...] = ()
    macs: tuple[str, ...] = ()
    addresses: tuple[IPv4Address | IPv6Address, ...] = ()
    has_default_route: bool = False
    master: str = ""
    uppers: tuple[str, ...] = ()
    group: str = ""
    neighbours: tuple[Neighbour, ...] = ()
    node: int = -1
    queues: int = 0
    users: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class NicRecord:
    """What was noted of a NIC before it was taken from its driver ("": it had none)."""

    name: str
    address: str
    mac: str
    driver: str


@dataclass(frozen=True, slots=True)
class Vfio:
    """What the kernel has of vfio.

    `present`: the driver vfio-pci is there. `noiommu`: its unsafe mode is on; None: this kernel
    has none.
    """

    present: bool
    noiommu: bool | None
    vendor: str = ""


@dataclass(frozen=True, slots=True)
class Wanted:
    """A NIC that the configuration gives to OVS under vfio, by PCI address.

    `unsafe_noiommu`: its operator has said in so many words that it may go without an IOMMU.
    """

    address: str
    unsafe_noiommu: bool = False


class Action(Enum):
    """The next thing to do. Each can be repeated."""

    NOTHING = "nothing"
    RECORD = "record name, MAC and driver"
    NOIOMMU = "switch on vfio's mode without IOMMU"
    OVERRIDE = "set driver_override"
    UNBIND = "take it from its driver"
    PROBE = "let the kernel probe"
    CLEAR = "clear driver_override"
    BIND = "give it back to its driver"
    FORGET = "drop the record"


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a NIC stays what it is, and what to do about it."""

    what: str
    why: str
    next_step: str

    def __str__(self) -> str:
        return f"{self.what}; {self.why}; {self.next_step}"


def next_to_bind(
    wanted: Wanted,
    nic: PciNic | None,
    record: NicRecord | None,
    vfio: Vfio,
    others: Collection[str] = (),
    moving: Collection[IPv4Address | IPv6Address] = (),
) -> Action | Refusal:
    """The next action towards a NIC that OVS-DPDK can open, or why it cannot be.

    Args:
        wanted: what the configuration asks for.
        nic: the device, None if there is none at the address.
        record: what was noted of it before.
        vfio: what the kernel has.
        others: addresses of all NICs that the configuration asks for.
        moving: addresses that move to a bridge with the NIC (the tunnel's endpoint).
    """
    if refusal := refused(wanted, nic, record, vfio, others, moving):
        return refusal
    assert nic is not None
    if nic.driver in BIFURCATED:
        return Action.NOTHING
    if record is None:
        return Action.RECORD
    if not nic.group and vfio.noiommu is False:
        return Action.NOIOMMU
    if nic.override != VFIO_DRIVER:
        return Action.OVERRIDE
    if nic.driver not in ("", VFIO_DRIVER):
        return Action.UNBIND
    return Action.PROBE if nic.driver == "" else Action.NOTHING


def next_to_release(nic: PciNic | None, record: NicRecord | None) -> Action | Refusal:
    """The next action towards a NIC that its first driver has again."""
    if record is None:
        return Action.NOTHING
    if nic is None:
        return Action.FORGET  # taken out of the machine: there is nothing to give back
    if nic.driver == VFIO_DRIVER and nic.users:
        return Refusal(
            f"NIC {label(nic, record)} cannot be given back",
            f"{', '.join(nic.users)} has it open, and the kernel would wait for that to end",
            "remove its port (`ovs-vsctl del-port`) or stop vswitchd first",
        )
    if nic.override == VFIO_DRIVER:
        return Action.CLEAR
    if nic.driver == VFIO_DRIVER:
        return Action.UNBIND
    return Action.BIND if nic.driver == "" and record.driver else Action.FORGET


def label(nic: PciNic, record: NicRecord | None) -> str:
    """What people call a NIC: its name, now or before, and its address."""
    name = nic.names[0] if nic.names else record.name if record else ""
    return f"{name} ({nic.address})" if name and name != nic.address else nic.address


def refused(
    wanted: Wanted,
    nic: PciNic | None,
    record: NicRecord | None,
    vfio: Vfio,
    others: Collection[str] = (),
    moving: Collection[IPv4Address | IPv6Address] = (),
) -> Refusal | None:
    """Why a NIC may not be taken, None if it may. Arguments: those of `next_to_bind`."""
    if nic is None:
        return Refusal(
            f"NIC {wanted.address} is not there",
            "this machine has no such PCI device",
            "look for its address with `millrace nics`",
        )
    what = f"NIC {label(nic, record)} cannot be given to OVS-DPDK"
    if not nic.pci_class.startswith(NETWORK_CLASS):
        why = f"it is no network device (PCI class {nic.pci_class})"
        return Refusal(what, why, "name a NIC (`millrace nics`)")
    return (
        _in_use(what, nic, moving)
        or _out_of_sight(what, nic, record)
        or _other_card(what, nic, record)
        or _foreign(what, nic, record)
        or (None if nic.driver in BIFURCATED else _no_vfio(what, nic, wanted, vfio, others))
    )


def _in_use(
    what: str, nic: PciNic, moving: Collection[IPv4Address | IPv6Address]
) -> Refusal | None:
    if nic.has_default_route:
        return Refusal(
            what,
            "it carries the default route, so this machine would be cut off",
            "name another NIC, or move the default route first",
        )
    if nic.master:
        why = f"it is a member of {nic.master}"
        return Refusal(what, why, f"`ip link set {nic.names[0]} nomaster`, or name another NIC")
    if nic.uppers:
        why = f"{', '.join(nic.uppers)} is made on top of it"
        return Refusal(what, why, "remove that first, or name another NIC")
    if held := [str(address) for address in nic.addresses if address not in moving]:
        return Refusal(
            what,
            f"the host uses it: it has {', '.join(held)}",
            f"remove the address (`ip addr flush dev {nic.names[0]}`), or name another NIC",
        )
    return None


def _out_of_sight(what: str, nic: PciNic, record: NicRecord | None) -> Refusal | None:
    """A netdev in another namespace shows neither its addresses nor its routes."""
    if nic.names or record is not None or nic.driver in {"", VFIO_DRIVER, *FOREIGN}:
        return None
    return Refusal(
        what,
        f"{nic.driver} has it, and its network device is not in this namespace, so nothing shows"
        " whether it is in use",
        "move the device here first, or unload the driver",
    )


def _other_card(what: str, nic: PciNic, record: NicRecord | None) -> Refusal | None:
    """An address that belongs to another card by now: cards were moved or added."""
    if record is None or not record.mac or not nic.macs or record.mac in nic.macs:
        return None
    return Refusal(
        what,
        f"{record.name} with the MAC {record.mac} was noted at this address, and there is"
        f" {', '.join(nic.macs)} now",
        f"look for the card with `millrace nics`; `millrace nics release {nic.address}` forgets it",
    )


def _foreign(what: str, nic: PciNic, record: NicRecord | None) -> Refusal | None:
    if nic.driver in FOREIGN or (nic.driver == VFIO_DRIVER and record is None):
        return Refusal(
            what,
            f"somebody else has bound it to {nic.driver}",
            f"give it back first (`driverctl unset-override {nic.address}`, or `dpdk-devbind.py"
            f" -u {nic.address}`)",
        )
    if nic.override not in ("", VFIO_DRIVER):
        return Refusal(
            what,
            f"its driver_override says {nic.override}, which somebody else wrote",
            f"clear it first (`driverctl unset-override {nic.address}`)",
        )
    return None


def _no_vfio(
    what: str, nic: PciNic, wanted: Wanted, vfio: Vfio, others: Collection[str]
) -> Refusal | None:
    if not vfio.present:
        return Refusal(what, f"the driver {VFIO_DRIVER} is not loaded", f"modprobe {VFIO_DRIVER}")
    if not nic.group:
        return _no_iommu(what, wanted, vfio)
    blocking = [
        f"{one.address} ({one.driver})"
        for one in nic.neighbours
        if one.driver not in HARMLESS
        and one.address not in others
        and not one.pci_class.startswith(BRIDGE_CLASS)
    ]
    if not blocking:
        return None
    return Refusal(
        what,
        f"its IOMMU group {nic.group} holds {', '.join(blocking)} as well, and a group has"
        " one user",
        f"take these from their drivers too, or put the NIC into another slot"
        f" (/sys/kernel/iommu_groups/{nic.group}/devices)",
    )


def kernel_arguments(vendor: str) -> str:
    """What the kernel has to be started with for an IOMMU, by /proc/cpuinfo's vendor_id."""
    if vendor == "GenuineIntel":
        return "intel_iommu=on iommu=pt"
    return "iommu=pt" if vendor else "intel_iommu=on iommu=pt (AMD and Arm: iommu=pt)"


def _no_iommu(what: str, wanted: Wanted, vfio: Vfio) -> Refusal | None:
    arguments = kernel_arguments(vfio.vendor)
    if not wanted.unsafe_noiommu:
        return Refusal(
            what,
            "this machine uses no IOMMU, so the NIC could write to any memory",
            f"switch it on in the firmware and start the kernel with {arguments}; or write"
            " unsafe_noiommu = true at the uplink",
        )
    if vfio.noiommu is None:
        return Refusal(
            what,
            "this kernel's vfio has no mode without IOMMU (CONFIG_VFIO_NOIOMMU)",
            f"start the kernel with {arguments}",
        )
    return None


def notes(nic: PciNic, records: Mapping[str, NicRecord]) -> str:
    """What a person should know of a NIC that stands in a list; "" for nothing."""
    if nic.driver in BIFURCATED:
        return "never rebound: DPDK works beside its driver"
    if nic.has_default_route:
        return "default route"
    if nic.driver in FOREIGN or (nic.driver == VFIO_DRIVER and nic.address not in records):
        return "bound by somebody else"
    return ""
