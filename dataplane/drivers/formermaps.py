"""Maps that this version of the layouts once had under other names.

A map whose meaning changes gets another name (bpf/include/maps.h), so that programs of both builds
may run while they are swapped, each over its own. Nothing is taken along: filters are made from the
VIPs and addresses, and services are counted from zero.
"""

from __future__ import annotations

from dataplane.drivers.bpfstate import version_directory

FORMER = ("service_stats", "vip_filter", "address_filter")


def remove_former(bpf_root: str) -> list[str]:
    """Remove their pins; which there were. No program that works on them is attached any more."""
    directory = version_directory(bpf_root)
    gone = [name for name in FORMER if (directory / name).exists()]
    for name in gone:
        (directory / name).unlink()
    return gone
