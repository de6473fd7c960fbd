"""The latest word of every source of a node's plan, and when it is enough to act on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Address

from controller.translate.index import Index
from controller.translate.node import gateway, services
from controller.translate.ovn import NbSnapshot, SbSnapshot
from dataplane.model.config import NodeConfig
from dataplane.model.service import Service
from dataplane.model.state import Attachment, Gateway, HeldIds, Nic, NodeState

CONFIG_TABLES = frozenset({"hugepages", "ovs", "bridges", "addresses"})
"""Tables whose rows follow from the configuration alone: they need no word from OVN."""


@dataclass(frozen=True, slots=True)
class OvnView:
    """What both OVN databases say together, for one node."""

    index: Index
    services: tuple[Service, ...]
    gateway: Gateway | None


@dataclass(slots=True)
class Sources:
    """Set by the watchers' callbacks in the event loop; None until a source is in sync."""

    nb: NbSnapshot | None = None
    sb: SbSnapshot | None = None
    nics: Mapping[str, Nic] | None = None
    _view: OvnView | None = field(default=None, repr=False)
    _viewed: tuple[object, ...] = field(default=(), repr=False)

    def saw_nics(self, nics: Mapping[str, Nic]) -> None:
        """Take what the kernel says; the same word again changes nothing."""
        if nics != self.nics:
            self.nics = nics

    @property
    def in_sync(self) -> bool:
        """Every source has spoken; until then only CONFIG_TABLES may be applied."""
        return self.nb is not None and self.sb is not None and self.nics is not None

    def view(self, chassis: str) -> OvnView | None:
        """OVN's word translated; computed anew only after one of its sources changed."""
        if self.nb is None or self.sb is None:
            return None
        # Snapshots are frozen, so the same objects give the same view.
        current = (self.nb, self.sb, self.nics, chassis)
        if self._view is None or any(
            a is not b for a, b in zip(current, self._viewed, strict=True)
        ):
            index = Index(self.nb, self.sb)
            own = {
                address
                for nic in (self.nics or {}).values()
                for address in nic.addresses
                if isinstance(address, IPv4Address)
            }
            self._view = OvnView(
                index,
                services(self.nb, self.sb, chassis, own, index),
                gateway(self.nb, chassis, index),
            )
            self._viewed = current
        return self._view

    def state(
        self, config: NodeConfig, attachments: tuple[Attachment, ...], held: HeldIds
    ) -> NodeState:
        """The frozen state that the plan is computed from."""
        view = self.view(config.name)
        return NodeState(
            config=config,
            gateway=view.gateway if view else None,
            services=view.services if view else (),
            attachments=attachments,
            nics=self.nics or {},
            held=held,
        )
