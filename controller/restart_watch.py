"""Which settings of OVS wait for a restart of vswitchd.

vswitchd reads some keys of Open_vSwitch.other_config once, when DPDK starts. What they were then is
noted when a process is first seen, in a file of the run directory, so that a restart of the daemon
forgets nothing: the file is written aside and renamed, and one that cannot be read counts as none.
Who was seen late, after a change, is not found out.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
from collections.abc import Mapping
from pathlib import Path

from dataplane.drivers.unixctl import ProcessId
from dataplane.plan.ovskeys import RESTART_KEYS

log = logging.getLogger(__name__)

FORMAT = 1
SETTINGS_RECORD = "vswitchd-settings.json"
"""In the run directory; who asks later than another finds what that one noted."""

RECORD_MODE = 0o600


class RestartWatch:
    """Compares the settings with those that the running vswitchd began with.

    Args:
        record: the file to remember by; its directory exists.
    """

    def __init__(self, record: Path) -> None:
        self._record = record
        self._process: ProcessId | None = None
        self._began: Mapping[str, str] = {}

    def pending(
        self, process: ProcessId | None, settings: Mapping[str, str]
    ) -> dict[str, tuple[str | None, str | None]]:
        """By key, what changed since this process began: old and new; nothing while none runs.

        None stands for a key that is not there: OVS's default.

        Args:
            process: vswitchd.
            settings: Open_vSwitch.other_config as it is.
        """
        if process is None:
            return {}
        now = {key: value for key, value in settings.items() if key in RESTART_KEYS}
        if process != self._process:
            known = self._read(process)
            if known is None:
                self._write(process, now)
            self._process, self._began = process, now if known is None else known
        keys = sorted(now.keys() | self._began.keys())
        return {
            key: (self._began.get(key), now.get(key))
            for key in keys
            if now.get(key) != self._began.get(key)
        }

    def _read(self, process: ProcessId) -> Mapping[str, str] | None:
        try:
            kept = json.loads(self._record.read_text(encoding="utf-8"))
            if kept["format"] != FORMAT or kept["process"] != [process.pid, process.started]:
                return None
            return {str(key): str(value) for key, value in kept["settings"].items()}
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return None

    def _write(self, process: ProcessId, settings: Mapping[str, str]) -> None:
        kept = {
            "format": FORMAT,
            "process": [process.pid, process.started],
            "settings": dict(settings),
        }
        fresh = self._record.with_name(self._record.name + ".new")
        try:
            number = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, RECORD_MODE)
            with os.fdopen(number, "w", encoding="utf-8") as file:
                json.dump(kept, file, sort_keys=True)
            fresh.replace(self._record)
        except OSError as error:
            # Without it, a later daemon may not know of a change; nothing else depends on it.
            log.warning("settings_not_noted path=%s error=%s", self._record, error)
            with contextlib.suppress(OSError):
                fresh.unlink()
