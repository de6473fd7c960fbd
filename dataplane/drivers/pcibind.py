"""Gives NICs to vfio-pci and back, through sysfs; the decisions are `dataplane.plan.nicbinding`'s.

Everything is below a root directory, so that tests work on a tree of their own: no machine that
tests run on has a NIC to give away. Each action is done, then the NIC is looked at anew and the
plan is asked again, so a process killed between any two writes leaves what the next call goes on
with. Sources: the kernel's Documentation/ABI/testing/sysfs-bus-pci and
Documentation/driver-api/vfio.rst.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path

from dataplane.drivers.nicrecords import NicRecords, NicState
from dataplane.drivers.nics import read_nics
from dataplane.drivers.topology import default_route_devices
from dataplane.plan.nicbinding import (
    NETWORK_CLASS,
    VFIO_DRIVER,
    Action,
    Neighbour,
    NicRecord,
    PciNic,
    Refusal,
    Vfio,
    Wanted,
    label,
    next_to_bind,
    next_to_release,
    refused,
)
from dataplane.ports import ConfigError, DataplaneError, ObserveError

Addresses = tuple[IPv4Address | IPv6Address, ...]

NOIOMMU = "sys/module/vfio/parameters/enable_unsafe_noiommu_mode"
DEVICES = "sys/bus/pci/devices"
DRIVERS = "sys/bus/pci/drivers"
CLEARED = "\n"
"""What takes a driver_override away (sysfs-bus-pci: an empty line)."""


class NicRefused(ConfigError):
    """NICs that cannot be what is asked; nothing was changed. One line for each."""


class BindError(DataplaneError):
    """The kernel did not do what was written to it."""


def kernel_addresses(names: Iterable[str]) -> Mapping[str, Addresses]:
    """Addresses of netdevs of this namespace that are not link-local.

    Raises:
        ObserveError: the kernel could not be asked.
    """
    return {
        name: tuple(one for one in nic.addresses if not one.is_link_local)
        for name, nic in read_nics(names).items()
    }


class PciBinder:
    """The NICs of one machine.

    Args:
        statedir: where the record of what was taken is kept.
        root: the machine's root directory.
        addresses: what has addresses, by netdev's name.
    """

    def __init__(
        self,
        statedir: Path,
        root: Path = Path("/"),
        addresses: Callable[[Iterable[str]], Mapping[str, Addresses]] = kernel_addresses,
    ) -> None:
        self._root = root
        self._records = NicRecords(statedir)
        self._addresses = addresses

    # -- looking ------------------------------------------------------------------------------

    def records(self) -> Mapping[str, NicRecord]:
        """What was noted, by PCI address.

        Raises:
            ObserveError: the record cannot be read.
        """
        return self._records.load().records

    def nics(self) -> tuple[PciNic, ...]:
        """Every PCI network device, by address.

        Raises:
            ObserveError: sysfs or the kernel cannot be read.
        """
        folder = self._root / DEVICES
        found = [
            path.name
            for path in sorted(folder.glob("*"))
            if _text(path / "class").startswith(NETWORK_CLASS)
        ]
        return tuple(nic for address in found if (nic := self.nic(address)) is not None)

    def nic(self, address: str) -> PciNic | None:
        """One PCI device; None if there is none at the address.

        Raises:
            ObserveError: sysfs or the kernel cannot be read.
        """
        folder = self._root / DEVICES / address
        if not folder.is_dir():
            return None
        try:
            return self._read(folder)
        except (OSError, ValueError) as error:
            msg = f"PCI device {address} cannot be read below {folder}: {error}"
            raise ObserveError(msg) from error

    def _read(self, folder: Path) -> PciNic:
        # A virtio NIC's netdev is below the virtio device, one folder down.
        names = sorted(
            path.name for pattern in ("net/*", "virtio*/net/*") for path in folder.glob(pattern)
        )
        links = [self._root / "sys/class/net" / name for name in names]
        held = self._addresses(names) if names else {}
        group = _linked(folder / "iommu_group")
        return PciNic(
            address=folder.name,
            pci_class=_text(folder / "class"),
            driver=_linked(folder / "driver"),
            override=_none(_text(folder / "driver_override")),
            names=tuple(names),
            macs=tuple(mac for link in links if (mac := _text(link / "address"))),
            addresses=tuple(one for name in names for one in held.get(name, ())),
            has_default_route=bool(default_route_devices(self._root) & set(names)),
            master=next((m for link in links if (m := _linked(link / "master"))), ""),
            uppers=tuple(
                path.name.removeprefix("upper_") for link in links for path in link.glob("upper_*")
            ),
            group=group,
            neighbours=self._neighbours(folder.name, group),
            node=int(_text(folder / "numa_node") or -1),
            queues=max((len(list((x / "queues").glob("rx-*"))) for x in links), default=0),
            users=self._users(group) if group else (),
        )

    def _neighbours(self, address: str, group: str) -> tuple[Neighbour, ...]:
        if not group:
            return ()
        folder = self._root / "sys/kernel/iommu_groups" / group / "devices"
        others = sorted(path.name for path in folder.glob("*") if path.name != address)
        devices = self._root / DEVICES
        return tuple(
            Neighbour(one, _linked(devices / one / "driver"), _text(devices / one / "class"))
            for one in others
        )

    def _users(self, group: str) -> tuple[str, ...]:
        """Processes that hold a group open (vfio.rst: /dev/vfio/GROUP, noiommu-GROUP)."""
        files = {f"/dev/vfio/{group}", f"/dev/vfio/noiommu-{group}"}
        found = []
        for folder in (self._root / "proc").glob("[0-9]*"):
            # A process may end while it is looked at.
            with contextlib.suppress(OSError):
                if any(str(fd.readlink()) in files for fd in (folder / "fd").iterdir()):
                    found.append(f"{_text(folder / 'comm')} ({folder.name})")
        return tuple(sorted(found))

    def vfio(self) -> Vfio:
        """What the kernel has of vfio."""
        mode = _text(self._root / NOIOMMU)
        vendor = next(
            (
                line.partition(":")[2].strip()
                for line in _text(self._root / "proc/cpuinfo").splitlines()
                if line.startswith("vendor_id")
            ),
            "",
        )
        present = (self._root / DRIVERS / VFIO_DRIVER).is_dir()
        return Vfio(present, mode == "Y" if mode else None, vendor)

    def refusals(
        self, wanted: Sequence[Wanted], moving: Collection[IPv4Address | IPv6Address] = ()
    ) -> list[str]:
        """Why `bind` would refuse, a line for each NIC. Arguments: those of `bind`.

        Raises:
            ObserveError: sysfs or the record cannot be read.
        """
        if not wanted:
            return []
        records, vfio = self._records.load().records, self.vfio()
        others = {one.address for one in wanted}
        found = (
            refused(one, self.nic(one.address), records.get(one.address), vfio, others, moving)
            for one in wanted
        )
        return [str(refusal) for refusal in found if refusal]

    # -- doing --------------------------------------------------------------------------------

    def bind(
        self, wanted: Sequence[Wanted], moving: Collection[IPv4Address | IPv6Address] = ()
    ) -> list[str]:
        """Make all of these NICs ready for OVS-DPDK; what was done, in words.

        All are looked at before the first is touched: if one cannot be taken, none is.

        Args:
            wanted: the NICs.
            moving: addresses that move to a bridge together with their NIC.

        Raises:
            NicRefused: some cannot be taken; nothing was changed.
            BindError: the kernel did not do what was written.
            ObserveError: sysfs or the record cannot be read.
        """
        if refusals := self.refusals(wanted, moving):
            raise NicRefused("\n".join(refusals))
        others = {one.address for one in wanted}
        return [line for one in wanted for line in self._bind_one(one, others, moving)]

    def _bind_one(
        self,
        wanted: Wanted,
        others: Collection[str],
        moving: Collection[IPv4Address | IPv6Address],
    ) -> list[str]:
        def decide(nic: PciNic | None, record: NicRecord | None) -> Action | Refusal:
            return next_to_bind(wanted, nic, record, self.vfio(), others, moving)

        return self._converge(wanted.address, decide)

    def release(self, addresses: Iterable[str] | None = None) -> list[str]:
        """Give NICs that are on record back to their drivers; what was done, in words.

        Args:
            addresses: which; None: all that are on record.

        Raises:
            NicRefused: one is in use; those before it were given back.
            BindError: the kernel did not do what was written.
            ObserveError: sysfs or the record cannot be read.
        """
        state = self._records.load()
        chosen = sorted(state.records) if addresses is None else list(addresses)
        said = [line for one in chosen for line in self._converge(one, next_to_release)]
        state = self._records.load()
        if state.noiommu_set and not state.records:
            self._write(self._root / NOIOMMU, "N")
            self._records.save(NicState())
            said.append("switched vfio's mode without IOMMU off again")
        return said

    def _converge(
        self,
        address: str,
        decide: Callable[[PciNic | None, NicRecord | None], Action | Refusal],
    ) -> list[str]:
        said: list[str] = []
        before: Action | None = None
        while True:
            nic, record = self.nic(address), self._records.load().records.get(address)
            action = decide(nic, record)
            if isinstance(action, Refusal):
                raise NicRefused(str(action))
            if action is Action.NOTHING:
                return said
            if action is before:
                msg = (
                    f"NIC {address}: told the kernel to {action.value}, and nothing changed;"
                    " `dmesg` may say why"
                )
                raise BindError(msg)
            self._do(action, address, nic, record)
            before = action
            if action in (Action.PROBE, Action.BIND):
                now = self.nic(address)
                driver = now.driver if now else ""
                if driver:
                    said.append(f"NIC {label(now or PciNic(address, '', ''), record)}: {driver}")

    def _do(
        self, action: Action, address: str, nic: PciNic | None, record: NicRecord | None
    ) -> None:
        device, drivers = self._root / DEVICES / address, self._root / DRIVERS
        state = self._records.load()
        if action is Action.RECORD:
            assert nic is not None
            name = nic.names[0] if nic.names else address
            mac = nic.macs[0] if nic.macs else ""
            fresh = NicRecord(name, address, mac, nic.driver)
            self._records.save(replace(state, records={**state.records, address: fresh}))
        elif action is Action.FORGET:
            rest = {key: one for key, one in state.records.items() if key != address}
            self._records.save(replace(state, records=rest))
        elif action is Action.NOIOMMU:
            self._records.save(replace(state, noiommu_set=True))
            self._write(self._root / NOIOMMU, "Y")
        elif action is Action.OVERRIDE:
            self._write(device / "driver_override", VFIO_DRIVER)
        elif action is Action.CLEAR:
            self._write(device / "driver_override", CLEARED)
        elif action is Action.UNBIND:
            assert nic is not None
            self._write(drivers / nic.driver / "unbind", address)
        elif action is Action.PROBE:
            self._write(drivers.parent / "drivers_probe", address)
        elif action is Action.BIND:
            assert record is not None
            self._write(drivers / record.driver / "bind", address)

    def _write(self, path: Path, text: str) -> None:
        """Write to a file of sysfs, which must be there.

        Raises:
            BindError: it is not, or the kernel refused.
        """
        try:
            control = open_control(path)
            try:
                os.write(control, text.encode("ascii"))
            finally:
                os.close(control)
        except OSError as error:
            msg = f"{text.strip() or 'nothing'!r} cannot be written to {path}: {error.strerror}"
            raise BindError(msg) from error


def open_control(path: Path) -> int:
    """A descriptor to write to a file of sysfs by.

    For writing alone: whoever asks to read `unbind` or `drivers_probe`, too, is refused, root
    included. Never made: what is not there belongs to a device or driver that is not.

    Raises:
        OSError: there is no such file, or the kernel refuses.
    """
    return os.open(path, os.O_WRONLY | os.O_CLOEXEC)


def _text(path: Path) -> str:
    """A file's text; "" if there is none."""
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except (FileNotFoundError, NotADirectoryError):
        return ""


def _none(text: str) -> str:
    return "" if text == "(null)" else text


def _linked(path: Path) -> str:
    """The name of what a symbolic link leads to; "" if there is no link."""
    try:
        return path.readlink().name
    except OSError:
        return ""
