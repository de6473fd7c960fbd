"""What of a node's file no machine of ours could run: said in `millrace status` and the README."""

from __future__ import annotations

from collections.abc import Iterator

from dataplane.model.config import BondMode, NodeConfig, UplinkConfig, UplinkMode

ZERO_COPY = "native-with-zerocopy"


def untested(config: NodeConfig) -> tuple[str, ...]:
    """One line for each uplink and bond in a mode that no test has run, or not on hardware."""
    found = [
        f"uplink {uplink.device}: {text}" for uplink in config.uplinks for text in _of_nic(uplink)
    ]
    for bond in config.bonds:
        texts = [*_of_nic(bond.members[0])]
        if bond.mode is BondMode.BALANCE_TCP:
            texts.append("LACP has been agreed upon with another bond of OVS's, with no switch")
        found += [f"bond {bond.name}: {text}" for text in texts]
    return tuple(found)


def _of_nic(uplink: UplinkConfig) -> Iterator[str]:
    if uplink.mode is UplinkMode.VFIO:
        yield "vfio has run on no NIC, its binding on a fabricated sysfs only"
    if uplink.mode is UplinkMode.AF_XDP and uplink.xdp_mode == ZERO_COPY:
        yield "zero-copy AF_XDP has run on no NIC"
    if uplink.busy_poll:
        yield "busy polling was switched on and off at veth; what it gains was measured on no NIC"
