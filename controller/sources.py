"""The latest word of every source of a node's plan, and when it is enough to act on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from controller.translate.claims import Claims
from controller.translate.index import Index
from controller.translate.node import announcers, gateway, gateway_macs
from controller.translate.ovn import NbSnapshot, SbSnapshot
from controller.translate.served import as_served, means
from controller.translate.services import Vantage, claims
from dataplane.model.addr import Mac
from dataplane.model.config import NodeConfig
from dataplane.model.service import Service
from dataplane.model.state import Attachment, Gateway, HeldIds, Nic, NodeState

EARLY_TABLES = frozenset(
    {"hugepages", "ovs", "bridges", "ports", "addresses", "known_addresses", "programs"}
)
"""Tables with rows that follow from the configuration, the kernel and the recorded attachments.

They need no word from OVN, and must not wait for one: OVS attaches its own program to an uplink
as soon as it starts, which cuts the node's own address off, and OVN may be behind that address.
Until OVN has spoken they are applied without removing anything.
"""


@dataclass(frozen=True, slots=True)
class OvnView:
    """What both OVN databases say together, for one node."""

    index: Index
    claims: Claims
    services: tuple[Service, ...]
    gateway: Gateway | None
    announcers: frozenset[str]
    routers: Mapping[str, Mac]


@dataclass(slots=True)
class Sources:
    """Set by the watchers' callbacks in the event loop; None until a source is in sync."""

    nb: NbSnapshot | None = None
    sb: SbSnapshot | None = None
    nics: Mapping[str, Nic] | None = None
    _view: tuple[tuple[object, ...], OvnView] | None = field(default=None, repr=False)

    def saw_nics(self, nics: Mapping[str, Nic]) -> None:
        """Take what the kernel says; the same word again changes nothing."""
        if nics != self.nics:
            self.nics = nics

    @property
    def in_sync(self) -> bool:
        """Every source has spoken; until then only EARLY_TABLES may be applied."""
        return self.nb is not None and self.sb is not None and self.nics is not None

    @property
    def latest(self) -> OvnView | None:
        """The view as it was last computed; nothing is computed for it."""
        return self._view[1] if self._view else None

    def view(self, config: NodeConfig) -> OvnView | None:
        """OVN's word translated; computed anew only after one of its sources changed."""
        nb, sb, nics, held = self.nb, self.sb, self.nics, self._view
        if nb is None or sb is None:
            return None
        # Snapshots are frozen, so the same objects give the same view.
        current = (nb, sb, nics, config)
        if held is not None and all(a is b for a, b in zip(current, held[0], strict=True)):
            return held[1]
        index = Index(nb, sb, held[1].index if held else None)
        own = {address for nic in (nics or {}).values() for address in nic.addresses}
        found = gateway(nb, config.name, index)
        rows = claims(nb, Vantage.of(config.name, index, own))
        served = as_served(rows.rows(), means(found, config, own))
        # Who announces nothing need not know who else would.
        peers = frozenset[str]()
        if found is not None and config.services.announce:
            peers = announcers(nb, found.physnet, index)
        routers = gateway_macs(nb, found.physnet, index) if found is not None else {}
        view = OvnView(index, rows, served, found, peers, routers)
        self._view = current, view  # in one store: two threads may be here
        return view

    def state(
        self, config: NodeConfig, attachments: tuple[Attachment, ...], held: HeldIds
    ) -> NodeState:
        """The frozen state that the plan is computed from."""
        view = self.view(config)
        return NodeState(
            config=config,
            gateway=view.gateway if view else None,
            services=view.services if view else (),
            attachments=attachments,
            nics=self.nics or {},
            held=held,
            announcers=view.announcers if view else frozenset(),
            routers=view.routers if view else {},
        )
