"""The table `bonds`: one Port with several Interfaces, and what OVS thinks of each of them.

What is said of ports in `dataplane.drivers.ovsports` holds of members: one that OVS refuses must
not stay, and one whose device was made anew must be made anew. But a bond is there to outlive a
member, so a member that is absent or refused is left out, the others carry on, and the row says
which one is missing. Only a bond without a single member is taken back.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from functools import partial
from typing import Any

from dataplane.drivers.idl import Transaction
from dataplane.drivers.ovsdb import REJECTED_OFPORT, Ovs
from dataplane.drivers.ovsports import (
    BOND,
    DEVICE_TYPES,
    IFINDEX,
    UNREADY,
    kernel_ifindex,
    remove_port,
)
from dataplane.drivers.ovstables import (
    KEYS,
    NOT_YET,
    RECONFIGURE_TIMEOUT,
    RowRefusedError,
    batched,
    wait_configured,
)
from dataplane.drivers.replica import Replica, Row, optional, read, references, refers, write
from dataplane.model.names import OWNER, OWNER_KEY
from dataplane.model.rows import Bond, BondMember
from dataplane.ports import Failure


class BondsTable:
    """Table `bonds`: port name -> Bond.

    `ifindex` numbers the network devices that vswitchd sees; another namespace's in tests.
    """

    name = "bonds"

    def __init__(self, ovs: Ovs, ifindex: Callable[[str], int | None] = kernel_ifindex) -> None:
        self._ovs = ovs
        self._ifindex = ifindex

    def observe(self) -> Mapping[str, Bond]:
        """Bonds of ours; a member that does not work as it is has the type `UNREADY`."""
        found: dict[str, Bond] = self._ovs.look(partial(_observe, self._ifindex))
        return found

    def rejected(self) -> Mapping[Hashable, str]:
        """Bonds none of whose members OVS can make, with its own words."""
        verdicts: dict[str, list[str]] = {}
        for state in self._ovs.state().ports.values():
            if state.owner == OWNER and (bond := state.external_ids.get(BOND)):
                verdicts.setdefault(bond, []).append(state.rejected)
        return {bond: said[0] for bond, said in verdicts.items() if all(said)}

    def upsert(self, batch: Sequence[tuple[str, Bond]]) -> Mapping[str, Failure]:
        """Write the bonds, wait for vswitchd's verdict, and leave out members that it refuses."""
        missing: dict[str, list[str]] = {}
        numbers: dict[str, int | None] = {}
        for name, bond in batch:
            for member in bond.members:
                if member.type in DEVICE_TYPES:
                    numbers[member.name] = self._ifindex(member.name)
                    if numbers[member.name] is None:
                        missing.setdefault(name, []).append(member.name)
        failures: dict[str, Failure] = {}
        present = []
        for name, bond in batch:
            if len(missing.get(name, ())) == len(bond.members):
                failures.update(self.delete([name]))
                reason = f"none of its devices is there: {', '.join(missing[name])}"
                failures.setdefault(name, Failure(reason, waiting=True))
            else:
                present.append((name, bond))
        if present:
            failures.update(batched(self._ovs, present, _name_of, partial(_put, numbers)))
        for name, bond in present:
            if name not in failures and (failure := self._verdict(name, bond, missing)):
                failures[name] = failure
        return failures

    def delete(self, keys: Sequence[str]) -> Mapping[str, Failure]:
        """Remove the bonds; one that is missing, or not ours, is success."""
        return batched(self._ovs, keys, str, _drop)

    def _verdict(
        self, name: str, bond: Bond, missing: Mapping[str, Sequence[str]]
    ) -> Failure | None:
        gone = missing.get(name, ())
        members = [member.name for member in bond.members if member.name not in gone]
        wait_configured(
            self._ovs,
            lambda replica: all(_looked_at(replica, member) for member in members),
            RECONFIGURE_TIMEOUT,
        )
        states = self._ovs.state().ports
        refused = {one: states[one].rejected for one in members if one in states}
        refused = {one: said for one, said in refused.items() if said}
        if refused and len(refused) == len(members):
            self.delete([name])
            return Failure("; ".join(sorted(refused.values())), quarantine=True)
        if refused:
            batched(self._ovs, [(name, tuple(refused))], _name_of, _leave_out)
            said = "; ".join(f"{one}: {why}" for one, why in sorted(refused.items()))
            return Failure(f"it runs without {said}")
        if gone:
            reason = f"it runs without {', '.join(gone)}: no such device"
            return Failure(reason, waiting=True)
        if any(one not in states or states[one].ofport is None for one in members):
            return Failure(NOT_YET, waiting=True)
        return None


def _name_of(row: tuple[str, Any]) -> str:
    return row[0]


def _looked_at(replica: Replica, name: str) -> bool:
    row = replica.find("Interface", "name", name)
    return row is not None and (
        optional(row, "ofport") is not None or optional(row, "error") is not None
    )


def _is_ours(port: Row) -> bool:
    ids = read(port, "external_ids")
    return ids.get(OWNER_KEY) == OWNER and BOND in ids


def _observe(ifindex: Callable[[str], int | None], replica: Replica) -> dict[str, Bond]:
    bridges = {
        uuid: read(row, "name")
        for row in replica.rows("Bridge")
        for uuid in references(row, "ports")
    }
    found = {}
    for port in replica.rows("Port"):
        if not _is_ours(port) or port.uuid not in bridges:
            continue
        ours = set(read(port, "external_ids").get(KEYS, "").split())
        members = [_member(interface, ifindex) for interface in read(port, "interfaces")]
        found[read(port, "name")] = Bond(
            bridge=bridges[port.uuid],
            mode=optional(port, "bond_mode") or "",
            lacp=optional(port, "lacp") or "",
            other_config=tuple(
                sorted((k, v) for k, v in read(port, "other_config").items() if k in ours)
            ),
            members=tuple(sorted(members, key=lambda member: member.name)),
        )
    return found


def _works(interface: Row, number: int | None) -> bool:
    """Whether OVS made it, on the device that has its name now."""
    known = read(interface, "external_ids").get(IFINDEX, "")
    return (
        optional(interface, "ofport") not in (None, REJECTED_OFPORT)
        and not optional(interface, "error")
        and (not known or known == str(number))
    )


def _member(interface: Row, ifindex: Callable[[str], int | None]) -> BondMember:
    name = read(interface, "name")
    kind = read(interface, "type") or "system"
    works = _works(interface, ifindex(name) if kind in DEVICE_TYPES else None)
    return BondMember(
        name=name,
        type=kind if works else UNREADY,
        options=tuple(sorted(read(interface, "options").items())),
        mtu_request=optional(interface, "mtu_request"),
    )


def _put(
    numbers: Mapping[str, int | None], replica: Replica, txn: Transaction, item: tuple[str, Bond]
) -> None:
    name, wanted = item
    bridge = replica.find("Bridge", "name", wanted.bridge)
    if bridge is None:
        reason = f"bridge {wanted.bridge} is not there yet"
        raise RowRefusedError(Failure(reason, waiting=True))
    port = replica.find("Port", "name", name)
    if port is not None and port.external_ids.get(OWNER_KEY) != OWNER:
        reason = (
            f"a port of the name {name} exists and was not made by Millrace: remove it with "
            f"`ovs-vsctl del-port {name}`"
        )
        raise RowRefusedError(Failure(reason))
    if port is not None and not (_is_ours(port) and refers(bridge, "ports", port.uuid)):
        remove_port(replica, port)
        port = None
    kept: dict[str, Row] = {}
    for interface in port.interfaces if port is not None else ():
        member = next((one for one in wanted.members if one.name == interface.name), None)
        number = numbers.get(interface.name)
        same = member is not None and (interface.type or "system") == member.type
        if same and _works(interface, number):
            kept[interface.name] = interface
        else:
            interface.delete()
    interfaces = []
    for member in wanted.members:
        if member.name in numbers and numbers[member.name] is None:
            continue
        row = kept.get(member.name) or _new_member(replica, txn, name, member)
        number = numbers.get(member.name)
        marks = {BOND: name} if number is None else {BOND: name, IFINDEX: str(number)}
        for key, value in marks.items():
            if member.name not in kept or row.external_ids.get(key) != value:
                row.setkey("external_ids", key, value)
        write(row, "options", dict(member.options))
        write(row, "mtu_request", [] if member.mtu_request is None else [member.mtu_request])
        interfaces.append(row)
    if port is None:
        port = txn.insert(replica.tables["Port"])
        write(port, "name", name)
        write(port, "other_config", dict(wanted.other_config))
        bridge.addvalue("ports", port)
    else:
        _merge(port, wanted)
    write(port, "interfaces", interfaces)
    write(port, "external_ids", {
        OWNER_KEY: OWNER, BOND: name, KEYS: " ".join(key for key, _ in wanted.other_config),
    })  # fmt: skip
    write(port, "bond_mode", [wanted.mode])
    write(port, "lacp", [wanted.lacp])


def _new_member(replica: Replica, txn: Transaction, bond: str, member: BondMember) -> Row:
    other = replica.find("Interface", "name", member.name)
    if other is not None and other.external_ids.get(BOND) != bond:
        # Names of interfaces are unique: an uplink of before goes in this very round.
        reason = f"{member.name} is still an interface of another port"
        raise RowRefusedError(Failure(reason, waiting=True))
    row = txn.insert(replica.tables["Interface"])
    write(row, "name", member.name)
    write(row, "type", member.type)
    return row


def _merge(port: Row, wanted: Bond) -> None:
    """Set our keys of other_config; an operator's stay."""
    before = set(port.external_ids.get(KEYS, "").split())
    ours = dict(wanted.other_config)
    for key in (before & dict(port.other_config).keys()) - ours.keys():
        port.delkey("other_config", key)
    for key, value in ours.items():
        if port.other_config.get(key) != value:
            port.setkey("other_config", key, value)


def _leave_out(replica: Replica, _: Transaction, item: tuple[str, tuple[str, ...]]) -> None:
    name, members = item
    port = replica.find("Port", "name", name)
    if port is None or not _is_ours(port):
        return
    for interface in port.interfaces:
        if interface.name in members:
            port.delvalue("interfaces", interface)
            interface.delete()


def _drop(replica: Replica, _: Transaction, name: str) -> None:
    port = replica.find("Port", "name", name)
    if port is not None and _is_ours(port):
        remove_port(replica, port)
