"""What units say of policies, as ACLs whose verdict can be asked, before they are spelled."""

from __future__ import annotations

from typing import Any

from controller.network.adminpolicies import ANPS, BANPS, CNPS, Who, addresses_of, ports_of
from controller.network.adminpolicies import SHAPE as ADMIN_SHAPE
from controller.network.members import MEMBERS
from controller.network.policies import NETWORK_POLICIES, SHAPE
from controller.policy.boxes import texts
from tests.labs.factview import FactView
from tests.policies.whole import PolicyRows


def unit_rows(facts: Any) -> PolicyRows:
    """Of NetworkPolicies and those of administrators."""
    view, rows = FactView(facts), PolicyRows()
    for key in view.all(NETWORK_POLICIES):
        shape = view.ask(SHAPE, key)
        rows.acls.update({acl.key: acl for acl in shape.acls})
        for name, chosen in shape.groups.items():
            rows.port_groups[name] = view.ask(MEMBERS, chosen)[0]
        for base, chosen in shape.sets.items():
            _set(rows, base, view.ask(MEMBERS, chosen)[1])
    for kind in (ANPS, BANPS, CNPS):
        for name in view.all(kind):
            admin = view.ask(ADMIN_SHAPE, Who(kind.name, name))
            rows.acls.update({acl.key: acl for acl in admin.acls})
            for group, what in admin.groups.items():
                rows.port_groups[group] = ports_of(view, what)
            for base, what in admin.sets.items():
                _set(rows, base, texts(addresses_of(view, what)))
    return rows


def _set(rows: PolicyRows, base: str, addresses: frozenset[str]) -> None:
    for version, mark in ((4, "."), (6, ":")):
        rows.address_sets[f"{base}_{version}"] = frozenset(a for a in addresses if mark in a)
