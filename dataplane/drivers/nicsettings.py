"""Table `nics`: what the kernel is told of NICs that OVS has through AF_XDP or as they are.

MTU, the number of receive queues, and when interrupts are put off (napi_defer_hard_irqs and
gro_flush_timeout: the kernel's Documentation/networking/napi.rst). How our own is recognised after
a restart: by the record file, which holds what was there before. It is written before anything is
changed, so that a crash in between loses nothing, and it lives as long as the settings do: neither
outlives a boot.

MTU and queues are told by netlink and ethtool; the interrupts' files are read in a sysfs of the
caller's own network namespace, because /sys shows the one that it was mounted in.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from pyroute2 import NetlinkError
from pyroute2.ethtool.ethtool import Ethtool
from pyroute2.ethtool.ioctl import NoSuchDevice, NotSupportedError

from dataplane.drivers.rtnl import links, route_socket
from dataplane.model.rows import NicSettings
from dataplane.ports import Failure, ObserveError

DEFER, FLUSH = "napi_defer_hard_irqs", "gro_flush_timeout"
BUSY: Mapping[str, int] = {DEFER: 2, FLUSH: 200_000}
"""Rounds, and nanoseconds: what DPDK's AF_XDP guide gives for its own busy polling."""

RECORD = "nic-settings.json"
"""The record's name in a node's run directory."""

RECORD_MODE = 0o600

_FSOPEN, _FSCONFIG, _FSMOUNT = 430, 431, 432
"""System calls, alike on all architectures (linux/include/uapi/asm-generic/unistd.h)."""

_CMD_CREATE = 6
_libc = ctypes.CDLL(None, use_errno=True)


class NicsTable:
    """Table `nics`: key device name.

    Args:
        record: the file that remembers what was there before; its directory exists.
    """

    name = "nics"

    def __init__(self, record: Path) -> None:
        self._record = record

    def observe(self) -> Mapping[str, NicSettings]:
        """Devices in our record, with what they are told now."""
        found = {}
        for device, before in self.held().items():
            try:
                found[device] = NicSettings(
                    mtu=mtu_of(device) if "mtu" in before else None,
                    queues=queues_of(device) if "queues" in before else None,
                    busy_poll=DEFER in before and deferral(device) == BUSY,
                )
            except OSError:
                found[device] = NicSettings(None, None, busy_poll=False)  # gone: may be dropped
        return found

    def upsert(self, batch: Sequence[tuple[str, NicSettings]]) -> Mapping[str, Failure]:
        """Tell the kernel, remembering what it was told before."""
        failures: dict[str, Failure] = {}
        for device, wanted in batch:
            try:
                self._set(device, wanted)
            except OSError as error:
                waiting = error.errno == errno.ENODEV
                failures[device] = Failure(str(error.strerror or error), waiting=waiting)
        return failures

    def delete(self, keys: Sequence[str]) -> Mapping[str, Failure]:
        """Tell the kernel what it was told before; a device that is gone needs nothing."""
        failures: dict[str, Failure] = {}
        for device in keys:
            held = self.held()
            try:
                for key, value in held.get(device, {}).items():
                    _tell(device, key, value)
            except OSError as error:
                if error.errno != errno.ENODEV:
                    failures[device] = Failure(str(error.strerror or error))
                    continue
            held.pop(device, None)
            self._write(held)
        return failures

    def _set(self, device: str, wanted: NicSettings) -> None:
        values: dict[str, int] = {}
        if wanted.queues is not None:
            values["queues"] = wanted.queues
        if wanted.mtu is not None:
            values["mtu"] = wanted.mtu
        if wanted.busy_poll:
            values.update(BUSY)
        now = {"queues": queues_of(device), "mtu": mtu_of(device), **deferral(device)}
        held = self.held()
        before = {**{key: now[key] for key in values}, **held.get(device, {})}
        held[device] = before
        self._write(held)
        for key in [key for key in before if key not in values]:
            _tell(device, key, before.pop(key))
        self._write(held)
        for key, value in values.items():
            if now[key] != value:
                _tell(device, key, value)

    def held(self) -> dict[str, dict[str, int]]:
        """What was there before, by device."""
        try:
            held = json.loads(self._record.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return {}
        except ValueError as error:
            msg = f"{self._record} is not what was written there ({error}); remove it"
            raise ObserveError(msg) from error
        return {
            str(device): {str(key): int(value) for key, value in before.items()}
            for device, before in held.items()
        }

    def _write(self, held: Mapping[str, Mapping[str, int]]) -> None:
        fresh = self._record.with_suffix(".new")
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
        with os.fdopen(os.open(fresh, flags, RECORD_MODE), "w", encoding="utf-8") as file:
            json.dump(held, file, sort_keys=True)
        fresh.replace(self._record)


def _tell(device: str, key: str, value: int) -> None:
    if key == "mtu":
        set_mtu(device, value)
    elif key == "queues":
        set_queues(device, value)
    else:
        with namespace_sysfs() as root:
            (root / "class/net" / device / key).write_text(f"{value}\n", encoding="ascii")


def mtu_of(device: str) -> int:
    """A device's MTU.

    Raises:
        OSError: no such device.
    """
    with route_socket() as ipr:
        for link in links(ipr):
            if link.name == device:
                return link.mtu
    raise OSError(errno.ENODEV, f"no such device: {device}")


def set_mtu(device: str, mtu: int) -> None:
    """Set a device's MTU.

    Raises:
        OSError: no such device, or its driver refused.
    """
    with route_socket() as ipr:
        index = next((link.index for link in links(ipr) if link.name == device), None)
        if index is None:
            raise OSError(errno.ENODEV, f"no such device: {device}")
        try:
            ipr.link("set", index=index, mtu=mtu)
        except NetlinkError as error:
            text = f"{device} does not take an MTU of {mtu}: {os.strerror(error.code)}"
            raise OSError(error.code, text) from error


def queues_of(device: str) -> int:
    """How many receive queues are in use; one where the driver has nothing to say of it.

    Raises:
        OSError: no such device.
    """
    return _channels(device)[0]


def set_queues(device: str, wanted: int) -> None:
    """Use so many receive queues, from the first on.

    Raises:
        OSError: no such device, or its driver refused.
    """
    now, combined = _channels(device)
    if now == wanted:
        return
    try:
        with Ethtool() as ethtool:
            count = "combined_count" if combined else "rx_count"
            ethtool.set_channels(device, {count: wanted})
    except (NotSupportedError, NoSuchDevice, OSError) as error:
        number = getattr(error, "errno", None) or errno.EOPNOTSUPP
        text = f"{device} does not take {wanted} receive queues: {os.strerror(number)}"
        raise OSError(number, text) from error


def _channels(device: str) -> tuple[int, bool]:
    """Receive queues in use, and whether they are combined ones."""
    try:
        with Ethtool() as ethtool:
            channels = ethtool.get_channels(device)
    except NotSupportedError:
        return 1, False
    except (NoSuchDevice, OSError) as error:
        number = getattr(error, "errno", None) or errno.ENODEV
        if number == errno.EOPNOTSUPP:
            return 1, False
        raise OSError(number, f"queues of {device}: {os.strerror(number)}") from error
    combined = bool(channels.max_combined)
    return (channels.combined_count if combined else channels.rx_count) or 1, combined


def deferral(device: str) -> dict[str, int]:
    """When the device's interrupts are put off: see BUSY.

    Raises:
        OSError: no such device, or no sysfs to read it in.
    """
    with namespace_sysfs() as root:
        folder = root / "class/net" / device
        try:
            return {key: int((folder / key).read_text(encoding="ascii")) for key in BUSY}
        except FileNotFoundError as error:
            raise OSError(errno.ENODEV, f"no such device: {device}") from error


@contextmanager
def namespace_sysfs() -> Iterator[Path]:
    """A sysfs of the caller's network namespace, mounted nowhere (fsopen(2); Linux 5.2).

    Raises:
        OSError: the kernel refused; it takes CAP_SYS_ADMIN.
    """
    context = _call(_FSOPEN, b"sysfs", 1)
    try:
        _call(_FSCONFIG, context, _CMD_CREATE, None, None, 0)
        mount = _call(_FSMOUNT, context, 1, 0)
    finally:
        os.close(context)
    try:
        yield Path(f"/proc/self/fd/{mount}")
    finally:
        with contextlib.suppress(OSError):
            os.close(mount)


def _call(number: int, *arguments: int | bytes | None) -> int:
    converted = [ctypes.c_long(a) if isinstance(a, int) else a for a in arguments]
    found: int = _libc.syscall(ctypes.c_long(number), *converted)
    if found < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"a sysfs of this namespace: {os.strerror(code)}")
    return found
