"""The trunk that a node's containers share: its link, its OVS port, each container's place on it.

What a pod sends is tagged at its veth and leaves by the trunk's kernel end; OVS polls the other end
over AF_XDP, and OVN knows each container by the tag as a port nested in the trunk's own.
"""

from __future__ import annotations

import hashlib
from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass, field

from dataplane.model.addr import Mac
from dataplane.model.config import Attach, NodeConfig
from dataplane.model.names import INTEGRATION_BRIDGE, TRUNK_LINK, TRUNK_PORT, TRUNK_PREFIX
from dataplane.model.rows import Link, Nested, Port, TrunkEnd
from dataplane.model.state import Attachment, NodeState
from dataplane.plan.mtu import AF_XDP_MTU

TAG_SIZE = 4
TRUNK_MTU = AF_XDP_MTU - TAG_SIZE
"""Of the trunk's link, and so the most that a container on it may have [octets]."""

MIN_TAG, MAX_TAG = 1, 4094
"""IEEE 802.1Q: 0 is no VLAN, 4095 is reserved."""

OFPORT = 16000
"""The trunk's OpenFlow number, the same however often its device is made anew: every flow of a
nested port names it."""

MAX_QUEUES = 4
"""Each costs 64 MiB of pinned memory; a person may ask for more."""


@dataclass(frozen=True, slots=True)
class TrunkPlan:
    """The trunk's rows, by table; all empty on a node that has none."""

    links: Mapping[str, Link] = field(default_factory=dict)
    ports: Mapping[str, Port] = field(default_factory=dict)
    ends: Mapping[str, TrunkEnd] = field(default_factory=dict)
    nested: Mapping[str, Nested] = field(default_factory=dict)


def trunk_name(chassis: str) -> str:
    """The trunk's logical port."""
    return TRUNK_PREFIX + chassis


def queues(config: NodeConfig) -> int:
    """Of the trunk: as the file says, else one for each PMD thread that could poll it."""
    return config.containers.queues or min(max(1, len(config.dpdk.pmd)), MAX_QUEUES)


def trunk_plan(state: NodeState, limited: Container[str], mirror: str = "") -> TrunkPlan:
    """The rows of the trunk and of every container on it.

    `limited`: devices of pods whose receiving is limited; `mirror`: the device that copies leave
    by. Containers that are on the trunk keep it, whatever the file says now.
    """
    config = state.config
    on_it = [a for a in state.attachments if a.tag]
    if not on_it and not (state.has_trunk and config.containers.attach is Attach.TRUNK):
        return TrunkPlan()
    parent, many = trunk_name(config.name), queues(config)
    ends = {TRUNK_LINK: TrunkEnd(0, TRUNK_LINK)}
    ends.update(
        {
            a.device: TrunkEnd(
                a.tag,
                TRUNK_LINK,
                a.device in limited,
                mirror if a.iface_id in state.mirrored else "",
            )
            for a in on_it
            if a.device not in state.linkless
        }
    )
    return TrunkPlan(
        links={
            TRUNK_LINK: Link(
                TRUNK_PORT, _mac(config.name), TRUNK_MTU, many, (), tags_in_frames=True
            )
        },
        ports={TRUNK_PORT: _port(parent, many)},
        ends=ends,
        nested={a.iface_id: Nested(parent, a.tag) for a in on_it},
    )


def _port(iface_id: str, many: int) -> Port:
    return Port(
        INTEGRATION_BRIDGE,
        "afxdp",
        (("n_rxq", str(many)), ("xdp-mode", "native")),
        (("iface-id", iface_id),),
        None,
        None,
        OFPORT,
    )


def _mac(node: str) -> Mac:
    """Of the trunk's kernel end, which nobody speaks to; the same on every start."""
    digest = hashlib.sha256(f"{node}/{TRUNK_LINK}".encode()).digest()
    return Mac(":".join(f"{octet:02x}" for octet in b"\x0a\x59" + digest[:4]))


def free_tag(taken: Container[int], after: int) -> int | None:
    """The next tag that nobody has, beginning behind `after`; None: all are taken.

    A tag that was given back is the last to be given again: OVN may still know it as the earlier
    holder's for a moment.
    """
    around = range(MIN_TAG, MAX_TAG + 1)
    many = len(around)
    for step in range(many):
        tag = MIN_TAG + (after - MIN_TAG + 1 + step) % many
        if tag not in taken:
            return tag
    return None


def tags(attachments: Iterable[Attachment]) -> frozenset[int]:
    """The tags that attachments have."""
    return frozenset(a.tag for a in attachments if a.tag)
