"""Table `offloads`: receive offloads that change frames before an XDP program sees them.

LRO and hardware GRO merge packets, and VLAN parsing takes the tag out of the frame: a rewrite of
such a frame breaks what it carries. They are switched off on the uplinks that carry services, and
switched on again when the row goes.

How our own is recognised after a restart: by the record file, which names the features that were on
before. It is written before anything is switched, so that a crash in between loses nothing.
"""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pyroute2.ethtool.ethtool import Ethtool
from pyroute2.ethtool.ioctl import NoSuchDevice, NotSupportedError

from dataplane.model.rows import ReceiveOffloads
from dataplane.ports import Failure, ObserveError

HARMFUL = ("rx-lro", "rx-gro-hw", "rx-vlan-hw-parse", "rx-vlan-stag-hw-parse")
"""Names of features as the kernel has them (net/ethtool/common.c)."""

RECORD = "offloads.json"
"""The record's name in a node's run directory."""

RECORD_MODE = 0o600


def harmful_features(device: str) -> frozenset[str]:
    """Those of HARMFUL that are on at a device of this network namespace.

    Raises:
        OSError: no such device, or it has no features to ask for.
    """
    features = _call(device, lambda ethtool: ethtool.get_features(device)).features
    return frozenset(n for n in HARMFUL if n in features and features[n].enable)


def switch_features(device: str, names: frozenset[str], *, on: bool) -> None:
    """Switch features that the device can switch; others stay, see `harmful_features`.

    Raises:
        OSError: no such device, or the kernel refused.
    """
    wanted = _call(device, lambda ethtool: ethtool.get_features(device))
    for name in names & wanted.features.keys():
        if wanted.features[name].available:
            wanted.features[name].enable = on
    _call(device, lambda ethtool: ethtool.set_features(device, wanted))


def _call(device: str, order: Callable[[Ethtool], Any]) -> Any:
    try:
        with Ethtool() as ethtool:
            return order(ethtool)
    except NotSupportedError as error:
        raise OSError(errno.EOPNOTSUPP, f"{device} has no features to switch") from error
    except (NoSuchDevice, OSError) as error:
        number = getattr(error, "errno", None) or errno.ENODEV
        raise OSError(number, f"features of {device}: {os.strerror(number)}") from error


class OffloadsTable:
    """Table `offloads`: key device name.

    Args:
        record: the file that remembers what was on before; its directory exists.
    """

    name = "offloads"

    def __init__(self, record: Path) -> None:
        self._record = record

    def observe(self) -> Mapping[str, ReceiveOffloads]:
        """Devices in our record on which none of HARMFUL is on now."""
        return {
            device: ReceiveOffloads() for device in self.held() if not self._on_if_there(device)
        }

    def upsert(self, batch: Sequence[tuple[str, ReceiveOffloads]]) -> Mapping[str, Failure]:
        """Switch off what is on, remembering it."""
        failures: dict[str, Failure] = {}
        for device, _ in batch:
            try:
                on = harmful_features(device)
                held = self.held()
                held[device] = sorted(on | set(held.get(device, ())))
                self._write(held)
                switch_features(device, on, on=False)
                if left := harmful_features(device):
                    failures[device] = Failure(
                        f"{', '.join(sorted(left))} cannot be switched off at {device}: "
                        "services through it may break; use another NIC for them"
                    )
            except OSError as error:
                waiting = error.errno == errno.ENODEV
                failures[device] = Failure(str(error.strerror or error), waiting=waiting)
        return failures

    def delete(self, keys: Sequence[str]) -> Mapping[str, Failure]:
        """Switch on again what was on before; a device that is gone needs nothing."""
        failures: dict[str, Failure] = {}
        for device in keys:
            held = self.held()
            try:
                switch_features(device, frozenset(held.get(device, ())), on=True)
            except OSError as error:
                if error.errno not in {errno.ENODEV, errno.EOPNOTSUPP}:
                    failures[device] = Failure(str(error.strerror or error))
                    continue
            held.pop(device, None)
            self._write(held)
        return failures

    def _on_if_there(self, device: str) -> frozenset[str]:
        try:
            return harmful_features(device)
        except OSError:
            return frozenset()  # gone: nothing to switch off, and the row may be taken back

    def held(self) -> dict[str, list[str]]:
        """What was on before, by device."""
        try:
            held = json.loads(self._record.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return {}
        except ValueError as error:
            msg = f"{self._record} is not what was written there ({error}); remove it"
            raise ObserveError(msg) from error
        return {str(device): [str(name) for name in names] for device, names in held.items()}

    def _write(self, held: Mapping[str, Sequence[str]]) -> None:
        fresh = self._record.with_suffix(".new")
        with os.fdopen(
            os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, RECORD_MODE),
            "w",
            encoding="utf-8",
        ) as file:
            json.dump(held, file, sort_keys=True)
        fresh.replace(self._record)
