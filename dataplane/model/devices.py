"""Names of the devices of attachments: a function of the container and the interface only.

So a restarted daemon, or a DEL whose record is lost, finds the device again. The kernel takes 15
bytes (IFNAMSIZ less its NUL); OVS names Port, Interface and netdev alike.
"""

from __future__ import annotations

import hashlib
from typing import assert_never

from dataplane.model.state import PortKind

VETH_PREFIX = "mrp"
PEER_PREFIX = "mrq"
VHOST_PREFIX = "vhu"

HASH_LENGTH = 12
"""Hex digits, 48 bits: among 1,000 ports of a node two collide with a chance of 2 in 10^9."""


def device_name(kind: PortKind, container_id: str, ifname: str) -> str:
    """The OVS port of an attachment; under veth also the link's name on the host."""
    return _prefix(kind) + _digest(container_id, ifname)


def peer_name(kind: PortKind, container_id: str, ifname: str) -> str:
    """The name that the pod's end of the link has while it is still on the host; "" if none."""
    if kind is PortKind.VETH:
        return PEER_PREFIX + _digest(container_id, ifname)
    return ""


def is_pod_link(name: str) -> bool:
    """Whether the name is one that `device_name` gives to a veth."""
    digits = name.removeprefix(VETH_PREFIX)
    return (
        name.startswith(VETH_PREFIX)
        and len(digits) == HASH_LENGTH
        and all(char in "0123456789abcdef" for char in digits)
    )


def _prefix(kind: PortKind) -> str:
    if kind is PortKind.VETH:
        return VETH_PREFIX
    if kind is PortKind.VHOST_USER:
        return VHOST_PREFIX
    assert_never(kind)


def _digest(container_id: str, ifname: str) -> str:
    # NUL is in neither, so no two pairs run together into one text.
    text = f"{container_id}\0{ifname}".encode("utf-8", "surrogateescape")
    return hashlib.sha256(text).hexdigest()[:HASH_LENGTH]
