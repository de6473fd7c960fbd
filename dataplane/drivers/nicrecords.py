"""The durable record of NICs that were taken from their drivers: the state's `nics.json`.

A NIC under vfio-pci has no name, no MAC and no first driver any more; all three stand here, written
before anything is done to it. The file is written aside, synced and renamed, so it is whole or
absent, and one that cannot be read is never written over: what it knew exists nowhere else.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from dataplane.drivers import durable
from dataplane.plan.nicbinding import NicRecord
from dataplane.ports import ObserveError

FORMAT = 1
FILE = "nics.json"
_FIELDS = ("address", "mac", "driver")


@dataclass(frozen=True, slots=True)
class NicState:
    """Records by PCI address. `noiommu_set`: vfio's unsafe mode was off, and was switched on."""

    records: Mapping[str, NicRecord] = field(default_factory=dict)
    noiommu_set: bool = False


def _check_format(found: object) -> None:
    if found != FORMAT:
        msg = f"it has format {found!r}, this version reads {FORMAT}"
        raise ValueError(msg)


class NicRecords:
    """The file. Calls block on the disk for a few milliseconds."""

    def __init__(self, statedir: Path) -> None:
        self.path = statedir / FILE

    def load(self) -> NicState:
        """What was noted; a missing file holds nothing.

        Raises:
            ObserveError: the file is not one of ours, or of a newer format.
        """
        try:
            raw = json.loads(self.path.read_text(encoding="utf-8"))
            _check_format(raw["format"])
            records = [
                NicRecord(str(name), **{key: str(values[key]) for key in _FIELDS})
                for name, values in raw["nics"].items()
            ]
            return NicState({one.address: one for one in records}, bool(raw["noiommu_set"]))
        except FileNotFoundError:
            return NicState()
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            msg = (
                f"{self.path}, the record of NICs that were taken from their drivers, cannot be"
                f" read ({error!r}); mend it, or remove it: then bind each NIC to its driver"
                " yourself (`driverctl unset-override ADDRESS`)"
            )
            raise ObserveError(msg) from error

    def save(self, state: NicState) -> None:
        """Write it; it is on the disk when this returns. With nothing to say there is no file.

        Raises:
            OSError: the disk refused; what was there before is still whole.
        """
        if not state.records and not state.noiommu_set:
            self.path.unlink(missing_ok=True)
            return
        self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        body = {
            "format": FORMAT,
            "nics": {
                one.name: {key: getattr(one, key) for key in _FIELDS}
                for one in state.records.values()
            },
            "noiommu_set": state.noiommu_set,
        }
        durable.put(self.path, json.dumps(body, indent=1, sort_keys=True).encode())
