"""A fabricated tree of sysfs and procfs, with the kernel's side of PCI driver binding.

Fabricated, because no machine that tests run on has a NIC to give away: what the kernel answers to
a write is written here after its documentation (Documentation/ABI/testing/sysfs-bus-pci,
Documentation/driver-api/vfio.rst), not observed on hardware.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from ipaddress import ip_address
from pathlib import Path

from dataplane.drivers.nicrecords import NicRecords, NicState
from dataplane.drivers.pcibind import DEVICES, DRIVERS, NOIOMMU, Addresses, PciBinder

ETHERNET = "0x020000"


class Killed(BaseException):
    """The process ends here."""


class Machine:
    """A machine with a few NICs below `root`; `writes_left` more writes, then it kills."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.addresses: dict[str, Addresses] = {}
        self.writes_left: int | None = None
        self._names: dict[str, tuple[str, str]] = {}
        for path in (DEVICES, DRIVERS, "sys/class/net", "sys/kernel/iommu_groups", "proc/net"):
            (root / path).mkdir(parents=True)
        (root / "sys/bus/pci/drivers_probe").touch()
        (root / "proc/cpuinfo").write_text("vendor_id\t: GenuineIntel\n")
        self.add_driver("vfio-pci")

    def add_driver(self, name: str) -> None:
        folder = self.root / DRIVERS / name
        folder.mkdir(exist_ok=True)
        (folder / "bind").touch()
        (folder / "unbind").touch()

    def add(
        self, address: str, name: str, mac: str, driver: str, group: str = "", kind: str = ETHERNET
    ) -> None:
        device = self.root / DEVICES / address
        device.mkdir()
        (device / "class").write_text(kind + "\n")
        (device / "driver_override").write_text("(null)\n")
        (device / "numa_node").write_text("0\n")
        self._names[address] = (name, mac)
        if group:
            members = self.root / "sys/kernel/iommu_groups" / group / "devices"
            members.mkdir(parents=True, exist_ok=True)
            (members / address).symlink_to(device)
            (device / "iommu_group").symlink_to(members.parent)
        self.attach(address, driver)

    def add_noiommu(self, *, on: bool = False) -> None:
        path = self.root / NOIOMMU
        path.parent.mkdir(parents=True)
        path.write_text("Y\n" if on else "N\n")

    def attach(self, address: str, driver: str) -> None:
        """What the kernel shows once a driver has a device."""
        device = self.root / DEVICES / address
        if not driver:
            return
        self.add_driver(driver)
        (device / "driver").symlink_to(self.root / DRIVERS / driver)
        name, mac = self._names[address]
        if name and driver not in ("vfio-pci", "igb_uio", "uio_pci_generic"):
            link = self.root / "sys/class/net" / name
            (link / "queues/rx-0").mkdir(parents=True, exist_ok=True)
            (link / "address").write_text(mac + "\n")
            (device / "net" / name).mkdir(parents=True, exist_ok=True)

    def detach(self, address: str) -> None:
        device = self.root / DEVICES / address
        (device / "driver").unlink()
        for link in device.glob("net/*"):
            link.rmdir()

    def driver(self, address: str) -> str:
        link = self.root / DEVICES / address / "driver"
        return link.readlink().name if link.is_symlink() else ""

    def override(self, address: str) -> str:
        return (self.root / DEVICES / address / "driver_override").read_text().strip()

    def route_by(self, name: str) -> None:
        """The default route goes by this netdev (proc(5), net/route)."""
        (self.root / "proc/net/route").write_text(
            "Iface Destination Gateway Flags RefCnt Use Metric Mask MTU Window IRTT\n"
            f"{name} 00000000 0102A8C0 0003 0 0 0 00000000 0 0 0\n"
        )

    def give_address(self, name: str, address: str) -> None:
        self.addresses[name] = (ip_address(address),)

    def snapshot(self) -> dict[str, str]:
        """Every file and link of the tree with what it holds."""
        return {
            str(path.relative_to(self.root)): str(path.readlink())
            if path.is_symlink()
            else path.read_text()
            for path in sorted(self.root.rglob("*"))
            if path.is_symlink() or path.is_file()
        }

    def binder(self, statedir: Path) -> FabricatedBinder:
        return FabricatedBinder(self, statedir)

    def wrote(self, path: Path, text: str) -> None:
        """The kernel's side of one write."""
        address = text.strip()
        if path.name == "unbind":
            self.detach(address)
        elif path.name == "bind":
            self.attach(address, path.parent.name)
        elif path.name == "drivers_probe" and not self.driver(address):
            self.attach(address, self.override(address))
        elif path.name == "driver_override":
            path.write_text((address or "(null)") + "\n")
        self.count()

    def count(self) -> None:
        if self.writes_left is None:
            return
        self.writes_left -= 1
        if self.writes_left <= 0:
            raise Killed


class FabricatedBinder(PciBinder):
    """The driver on the fabricated tree; only the kernel's reaction is added."""

    def __init__(self, machine: Machine, statedir: Path) -> None:
        super().__init__(statedir, machine.root, lambda names: _held(machine, names))
        self._machine = machine
        self._records = CountedRecords(machine, statedir)

    def _write(self, path: Path, text: str) -> None:
        super()._write(path, text)
        self._machine.wrote(path, text)


class CountedRecords(NicRecords):
    """The record, whose writes count as writes."""

    def __init__(self, machine: Machine, statedir: Path) -> None:
        super().__init__(statedir)
        self._machine = machine

    def save(self, state: NicState) -> None:
        super().save(state)
        self._machine.count()


def _held(machine: Machine, names: Iterable[str]) -> Mapping[str, Addresses]:
    return {name: machine.addresses[name] for name in names if name in machine.addresses}
