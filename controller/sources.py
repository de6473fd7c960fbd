"""The latest word of every source of a node's plan, and when it is enough to act on."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from threading import Lock

from controller.translate.changed import concerned, differing
from controller.translate.claims import Claims
from controller.translate.hostaccess import host_access
from controller.translate.index import Index
from controller.translate.limits import limits_of, mirrored_of
from controller.translate.mtu import problems_of, too_big
from controller.translate.node import announcers, gateway, gateways_on
from controller.translate.ovn import LoadBalancer, NbSnapshot, Problem, SbSnapshot
from controller.translate.served import Means, in_order, means, row_as_served
from controller.translate.services import Vantage, claims, services_of_row
from dataplane.model.config import NodeConfig
from dataplane.model.layered import Layered
from dataplane.model.service import Service
from dataplane.model.state import Attachment, Gateway, HeldIds, HostAccess, Nic, NodeState
from dataplane.plan.mtu import TooBig
from dataplane.plan.trunk import trunk_name

EARLY_TABLES = frozenset(
    {
        "hugepages",
        "ovs",
        "nics",
        "bridges",
        "ports",
        "bonds",
        "addresses",
        "known_addresses",
        "programs",
    }
)
"""Tables with rows that follow from the configuration, the kernel and the recorded attachments.

They need no word from OVN, and must not wait for one: OVS attaches its own program to an uplink
as soon as it starts, which cuts the node's own address off, and OVN may be behind that address.
Until OVN has spoken they are applied without removing anything.
"""


# Without slots: what few ask for is kept with the view that it was made from.
@dataclass(frozen=True)
class OvnView:
    """What both OVN databases say together, for one node. `rows`: each row's services, by UUID."""

    index: Index
    claims: Claims
    rows: Layered[str, tuple[Service, ...]]
    means: Means
    gateway: Gateway | None
    announcers: frozenset[str]
    routers: Mapping[str, Gateway]
    host: HostAccess | None

    @cached_property
    def services(self) -> tuple[Service, ...]:
        """All services, by VIP."""
        return in_order(service for ref in sorted(self.rows) for service in self.rows[ref])


@dataclass(slots=True)
class Sources:
    """Set by the watchers' callbacks in the event loop; None until a source is in sync."""

    nb: NbSnapshot | None = None
    sb: SbSnapshot | None = None
    nics: Mapping[str, Nic] | None = None
    host_ports: Mapping[str, LoadBalancer] = field(default_factory=dict)
    """Load balancers of this node's own making, beside OVN's (controller.translate.hostports)."""

    _view: tuple[tuple[object, ...], OvnView] | None = field(default=None, repr=False)
    _joined: tuple[NbSnapshot, Mapping[str, LoadBalancer], NbSnapshot] | None = field(
        default=None, repr=False
    )
    _changed: frozenset[str] | None = field(default=None, repr=False)
    _limit_problems: tuple[Problem, ...] = field(default=(), repr=False)
    # The claims of a view are changed in place, and asked from several threads.
    _lock: Lock = field(default_factory=Lock, repr=False)

    def saw_nics(self, nics: Mapping[str, Nic]) -> None:
        """Take what the kernel says; the same word again changes nothing."""
        if nics != self.nics:
            self.nics = nics

    @property
    def in_sync(self) -> bool:
        """Every source has spoken; until then only EARLY_TABLES may be applied."""
        return self.nb is not None and self.sb is not None and self.nics is not None

    def view(self, config: NodeConfig) -> OvnView | None:
        """OVN's word translated; computed anew only after one of its sources changed."""
        with self._lock:
            return self._refreshed(config)

    def changes(self, config: NodeConfig) -> tuple[OvnView | None, frozenset[str] | None]:
        """The view, and the rows whose services changed since the last call; None: any."""
        with self._lock:
            view = self._refreshed(config)
            changed, self._changed = self._changed, frozenset()
            return view, changed

    def problems(self) -> tuple[Problem, ...]:
        """What is wrong with the rows of the last view."""
        with self._lock:
            refused = self._view[1].claims.problems() if self._view else ()
        return (*refused, *self._limit_problems)

    def too_big(self, config: NodeConfig, name: str, mtu: int) -> TooBig | None:
        """Whether a workload at logical port `name` gets more than the tunnel carries."""
        view = self.view(config)
        return too_big(view.index, config, self._kernel_mtus(), name, mtu) if view else None

    def mtu_problems(
        self, config: NodeConfig, attachments: Iterable[Attachment]
    ) -> tuple[Problem, ...]:
        """MTUs of what is attached here that the tunnel does not carry."""
        view = self.view(config)
        if view is None:
            return ()
        return problems_of(view.index, config, self._kernel_mtus(), attachments)

    def _kernel_mtus(self) -> Mapping[str, int]:
        return {name: nic.mtu for name, nic in (self.nics or {}).items()}

    def with_health_port(self) -> tuple[Service, ...]:
        """The services of the last view that a health check is asked for."""
        with self._lock:
            return self._view[1].claims.with_health_port() if self._view else ()

    def _refreshed(self, config: NodeConfig) -> OvnView | None:
        nb, sb, nics, held = self._with_host_ports(), self.sb, self.nics, self._view
        if nb is None or sb is None:
            return None
        # Snapshots are frozen, so the same objects give the same view.
        current = (nb, sb, nics, config)
        if held is not None and all(a is b for a, b in zip(current, held[0], strict=True)):
            return held[1]
        index = Index(nb, sb, held[1].index if held else None)
        own = {address for nic in (nics or {}).values() for address in nic.addresses}
        vantage = Vantage.of(config.name, index, own)
        view = None
        if held is not None and held[0][2] is nics and held[0][3] is config:
            view = self._step(held[1], index, vantage)
        if view is None:
            view = self._whole(config, index, vantage)
            self._changed = None
        self._view = current, view
        return view

    def _with_host_ports(self) -> NbSnapshot | None:
        """OVN's rows and ours: the same object as long as neither changed."""
        nb, ours = self.nb, self.host_ports
        if nb is None or not ours:
            self._joined = None
            return nb
        if self._joined is None or self._joined[0] is not nb or self._joined[1] is not ours:
            self._joined = nb, ours, replace(nb, load_balancers=self._both(nb, ours))
        return self._joined[2]

    def _both(self, nb: NbSnapshot, ours: Mapping[str, LoadBalancer]) -> Mapping[str, LoadBalancer]:
        """OVN's load balancers and ours; from the last time's, if only rows of OVN's differ."""
        if self._joined is not None and self._joined[1] is ours:
            before, _, both = self._joined
            found = differing(before.load_balancers, nb.load_balancers)
            if isinstance(both.load_balancers, Layered):
                theirs = {ref: nb.load_balancers.get(ref) for ref in found if ref not in ours}
                return both.load_balancers.changed(theirs)
        return Layered({**nb.load_balancers, **ours})

    def _step(self, before: OvnView, index: Index, vantage: Vantage) -> OvnView | None:
        """The view after a change of rows alone; None: more has changed."""
        refs = concerned(before.index, index, before.rows)
        if refs is None:
            return None
        balancers = index.nb.load_balancers
        updates = {
            ref: services_of_row(ref, balancers[ref], vantage) if ref in balancers else None
            for ref in refs
        }
        changed = before.claims.update(updates)
        rows = {
            ref: row_as_served(row, before.means) if row is not None else None
            for ref, row in ((ref, before.claims.row(ref)) for ref in changed)
        }
        if self._changed is not None:
            self._changed |= changed
        return replace(before, index=index, rows=before.rows.changed(rows) if rows else before.rows)

    def _whole(self, config: NodeConfig, index: Index, vantage: Vantage) -> OvnView:
        found = gateway(index.nb, config.name, index)
        node = means(found, config, vantage.own)
        all_claims = claims(index.nb, vantage)
        rows = Layered({ref: row_as_served(row, node) for ref, row in all_claims.by_ref().items()})
        # Who announces nothing need not know who else would.
        peers = frozenset[str]()
        if found is not None and config.services.announce:
            peers = announcers(index.nb, found.physnet, index)
        routers = gateways_on(index.nb, found.physnet, index) if found is not None else {}
        host = host_access(index, config.name)
        return OvnView(index, all_claims, rows, node, found, peers, routers, host)

    def state(
        self, config: NodeConfig, attachments: tuple[Attachment, ...], held: HeldIds
    ) -> NodeState:
        """The frozen state that the plan is computed from, all but its services.

        They are in the view, and what follows from them is kept up apart (`controller.serving`).
        """
        view = self.view(config)
        by_name = view.index.port_by_name if view else {}
        names = sorted({a.iface_id for a in attachments} & by_name.keys())
        rows = [by_name[name] for name in names]
        limits, self._limit_problems = limits_of(rows)
        return NodeState(
            config=config,
            gateway=view.gateway if view else None,
            services=(),
            attachments=attachments,
            nics=self.nics or {},
            held=held,
            announcers=view.announcers if view else frozenset(),
            routers={name: one.mac for name, one in view.routers.items()} if view else {},
            peers=view.routers if view else {},
            limits=limits,
            mirrored=mirrored_of(rows),
            has_trunk=trunk_name(config.name) in by_name,
            host=view.host if view else None,
        )
