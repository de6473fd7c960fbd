"""Which flows a change of services ends: the rows before, the rows after, and nothing else.

A flow follows its service: a VIP that goes takes its flows along; a backend that is in no set of
its service port any more (it was removed, or terminates while others serve) keeps the connections
that it has answered, and loses the rest at once, so that UDP clients move to one that serves.

Source: Kubernetes' conntrack clean-up for UDP, and its rule that connections to terminating
endpoints go on (KEP-1669).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Protocol

from dataplane.model.addr import L4Addr, Mac
from dataplane.model.conntrack import Endings
from dataplane.model.rows import BackendEntry, SetEntry, SetScope, VipEntry


class ServiceRows(Protocol):
    """The rows of a plan that flows depend on."""

    @property
    def vips(self) -> Mapping[L4Addr, VipEntry]:
        """Table `vips`."""
        ...

    @property
    def sets(self) -> Mapping[tuple[int, SetScope], SetEntry]:
        """Table `sets`."""
        ...

    @property
    def backends(self) -> Mapping[int, BackendEntry]:
        """Table `backends`."""
        ...


def _members(rows: ServiceRows, service_id: int) -> set[int]:
    """Backend ids that a service's new flows may go to, from outside or inside."""
    return {
        backend_id
        for scope in SetScope
        if (found := rows.sets.get((service_id, scope)))
        for backend_id, _, _ in found.members
    }


def _entries(rows: ServiceRows, backend_ids: Iterable[int]) -> list[BackendEntry]:
    found = (rows.backends.get(backend_id) for backend_id in backend_ids)
    return [entry for entry in found if entry is not None]


def _targets(rows: ServiceRows, service_id: int) -> set[L4Addr]:
    return {entry.target for entry in _entries(rows, _members(rows, service_id))}


def _nodes(rows: ServiceRows, backend_ids: Iterable[int]) -> set[Mac]:
    return {entry.mac for entry in _entries(rows, backend_ids) if entry.mac is not None}


def flows_to_end(
    before: ServiceRows,
    after: ServiceRows,
    changed_keys: Mapping[str, Mapping[Any, object]] | None = None,
) -> Endings:
    """What ends when the tables go from `before` to `after`.

    Costs one comparison a row of the tables that are not the same object, so a round that changed
    no service costs nothing. `changed_keys`: by table the only keys that differ, if that is known.
    """
    gone: set[L4Addr] = set()
    moved: set[tuple[int, L4Addr]] = set()
    if before.vips is not after.vips:
        vips = before.vips if changed_keys is None else changed_keys.get("vips", {})
        for vip in vips:
            row = before.vips.get(vip)
            if row is None:
                continue
            held = after.vips.get(vip)
            if held is None:
                gone.add(vip)
            elif held.service_id != row.service_id:
                moved.add((row.service_id, vip))
    changed = set()
    if before.sets is not after.sets:
        sets = before.sets if changed_keys is None else changed_keys.get("sets", {})
        changed = {
            key[0] for key in sets if key in before.sets and after.sets.get(key) != before.sets[key]
        }
    pairs: set[tuple[int, L4Addr]] = set()
    nodes: set[tuple[int, Mac]] = set()
    affinities: set[tuple[int, int]] = set()
    for service_id in changed:
        now = _members(after, service_id)
        left = _members(before, service_id) - now
        serving = _targets(after, service_id)
        affinities.update((service_id, backend_id) for backend_id in left)
        pairs.update(
            (service_id, entry.target)
            for entry in _entries(before, left)
            if entry.target not in serving
        )
        nodes.update((service_id, mac) for mac in _nodes(before, left) - _nodes(after, now))
    return Endings(
        frozenset(gone),
        frozenset(moved),
        frozenset(pairs),
        frozenset(nodes),
        frozenset(affinities),
    )


def flows_without_service(
    vips: Iterable[tuple[L4Addr, int]],
    targets: Iterable[tuple[int, L4Addr]],
    nodes: Iterable[tuple[int, Mac]],
    bound: Iterable[tuple[int, int]],
    after: ServiceRows,
) -> Endings:
    """What ends where nobody knows what was before: at the first round after a start.

    Args:
        vips: VIP and service id of the flows there are, each combination once.
        targets: service id and backend of the same flows, likewise; but for DSR flows.
        nodes: service id and the backend's node of DSR flows, likewise.
        bound: service id and backend id of every affinity.
        after: what is served now.
    """
    gone: set[L4Addr] = set()
    moved: set[tuple[int, L4Addr]] = set()
    for vip, service_id in vips:
        row = after.vips.get(vip)
        if row is None:
            gone.add(vip)
        elif row.service_id != service_id:
            moved.add((service_id, vip))
    serving: dict[int, set[L4Addr]] = {}
    pairs: set[tuple[int, L4Addr]] = set()
    for service_id, target in targets:
        if service_id not in serving:
            serving[service_id] = _targets(after, service_id)
        if target not in serving[service_id]:
            pairs.add((service_id, target))
    members: dict[int, set[int]] = {}
    strangers: set[tuple[int, Mac]] = set()
    for service_id, mac in nodes:
        if service_id not in members:
            members[service_id] = _members(after, service_id)
        if mac not in _nodes(after, members[service_id]):
            strangers.add((service_id, mac))
    affinities: set[tuple[int, int]] = set()
    for service_id, backend_id in bound:
        if service_id not in members:
            members[service_id] = _members(after, service_id)
        if backend_id not in members[service_id]:
            affinities.add((service_id, backend_id))
    return Endings(
        frozenset(gone),
        frozenset(moved),
        frozenset(pairs),
        frozenset(strangers),
        frozenset(affinities),
    )
