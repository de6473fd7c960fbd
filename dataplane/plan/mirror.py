"""Where copies of a workload's packets go: one link, at whose kernel end anybody may listen.

A container on the trunk is copied by the trunk's programs, a port of OVS by a mirror of OVS. The
copies come out at one place on each node, as Kube-OVN's do.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field

from dataplane.model.addr import Mac
from dataplane.model.names import INTEGRATION_BRIDGE, MIRROR_LINK, MIRROR_PORT
from dataplane.model.rows import Link, Port, PortMirror
from dataplane.model.state import NodeState


@dataclass(frozen=True, slots=True)
class MirrorPlan:
    """The rows, by table; all empty where nobody wants copies."""

    links: Mapping[str, Link] = field(default_factory=dict)
    ports: Mapping[str, Port] = field(default_factory=dict)
    mirrors: Mapping[str, PortMirror] = field(default_factory=dict)


def mirror_plan(state: NodeState) -> MirrorPlan:
    """The rows for those attachments whose logical ports want copies."""
    copied = [one for one in state.attachments if one.iface_id in state.mirrored]
    if not copied:
        return MirrorPlan()
    link = Link(MIRROR_PORT, _mac(state.config.name), max(one.mtu for one in copied), 1, ())
    devices = tuple(sorted(one.device for one in copied if not one.tag))
    if not devices:
        return MirrorPlan({MIRROR_LINK: link})
    return MirrorPlan(
        {MIRROR_LINK: link},
        {MIRROR_PORT: Port(INTEGRATION_BRIDGE, "system", (), (), None, None)},
        {MIRROR_LINK: PortMirror(INTEGRATION_BRIDGE, devices, MIRROR_PORT)},
    )


def _mac(node: str) -> Mac:
    """Of the end at which one listens, which speaks to nobody; the same on every start."""
    digest = hashlib.sha256(f"{node}/{MIRROR_LINK}".encode()).digest()
    return Mac(":".join(f"{octet:02x}" for octet in b"\x0a\x59" + digest[:4]))
