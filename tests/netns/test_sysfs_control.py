"""The one thing of PCI binding that a machine without a spare NIC can show: files do open."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from dataplane.drivers.pcibind import open_control


def test_files_that_the_kernel_only_takes_writes_for_open_and_nothing_is_written() -> None:
    found = sorted(Path("/sys/bus").glob("*/drivers_probe"))
    assert found
    for path in found:
        os.close(open_control(path))


def test_a_file_of_sysfs_that_is_not_there_is_not_made() -> None:
    with pytest.raises(OSError, match="drivers_prob") as caught:
        open_control(Path("/sys/bus/pci/drivers_prob"))
    assert caught.value.errno in {errno.ENOENT, errno.EACCES}
