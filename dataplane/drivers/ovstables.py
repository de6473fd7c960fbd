"""The tables `ovs` and `bridges`: keys of the Open_vSwitch row, and bridges of ours."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from dataplane.drivers.idl import DatabaseTimeoutError, Transaction, TransactionError
from dataplane.drivers.ovsdb import Ovs, root
from dataplane.drivers.replica import Replica, Row, optional, read, write
from dataplane.model.addr import Mac
from dataplane.model.names import INTEGRATION_BRIDGE, OWNER, OWNER_KEY
from dataplane.model.rows import Bridge, OvsSetting
from dataplane.plan.ovsowner import KEYS as KEYS
from dataplane.plan.ovsowner import OTHER_CONFIG, Owned, SettingKey
from dataplane.ports import DataplaneError, Failure

log = logging.getLogger(__name__)

K = TypeVar("K")
T = TypeVar("T")

ADOPTED = "millrace-adopted"
"""external_ids key of a bridge that somebody else made and that is therefore never deleted."""

RECONFIGURE_TIMEOUT = 5.0
"""How long [s] to wait for vswitchd to act on a change; AF_XDP ports take 0.1-0.4 s each."""


def batched(
    ovs: Ovs, rows: Sequence[T], key: Callable[[T], K], change: Callable[[Any, Any, T], None]
) -> dict[K, Failure]:
    """Make all changes in one transaction; if OVSDB refuses it, one by one, to name the culprit.

    `change(replica, txn, row)` raises `Refusal` for a row that cannot be, which fails that row
    alone. Ends when the transactions are committed; vswitchd has heard of it, no more.
    """
    failures: dict[K, Failure] = {}

    def build(chosen: Sequence[T]) -> Callable[[Replica, Transaction], dict[K, Failure]]:
        def run(replica: Replica, txn: Transaction) -> dict[K, Failure]:
            refused: dict[K, Failure] = {}
            for row in chosen:
                try:
                    change(replica, txn, row)
                except RowRefusedError as refusal:
                    refused[key(row)] = refusal.failure
            if len(refused) < len(chosen):
                # A counter that vswitchd copies to cur_cfg when it has done as told.
                root(replica).increment("next_cfg")
            return refused

        return run

    try:
        return ovs.db.transact(build(rows), ovs.timeout)
    except (TransactionError, DataplaneError) as error:
        if isinstance(error, DatabaseTimeoutError) or len(rows) == 1:
            return {key(row): Failure(str(error)) for row in rows}
    for row in rows:
        failures.update(batched(ovs, [row], key, change))
    return failures


class RowRefusedError(Exception):
    """One row of a batch cannot be; the others can."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.reason)
        self.failure = failure


def wait_configured(ovs: Ovs, also: Callable[[Replica], bool], timeout: float) -> bool:
    """Wait until vswitchd has acted on everything written so far, and `also` holds."""
    target = ovs.look(lambda replica: read(root(replica), "next_cfg"))

    def done(replica: Replica) -> bool | None:
        acted = read(root(replica), "cur_cfg") >= target and also(replica)
        return True if acted else None

    try:
        return ovs.db.wait_for(done, timeout)
    except DatabaseTimeoutError:
        return False


def _columns(replica: Replica) -> dict[str, Mapping[str, str]]:
    row = root(replica)
    return {column: read(row, column) for column in (OTHER_CONFIG, "external_ids")}


class SettingsTable:
    """Table `ovs`: (column, key) of Open_vSwitch.other_config and external_ids -> OvsSetting."""

    name = "ovs"

    def __init__(self, ovs: Ovs) -> None:
        self._ovs = ovs

    def observe(self) -> Mapping[SettingKey, OvsSetting]:
        """The keys that we have set and that are still there."""
        return self._ovs.look(self._observe)  # type: ignore[no-any-return]

    @staticmethod
    def _observe(replica: Replica) -> dict[SettingKey, OvsSetting]:
        columns = _columns(replica)
        return Owned.noted(columns["external_ids"]).settings(columns)

    def foreign(self) -> tuple[Mapping[str, str], Mapping[str, str]]:
        """The keys of other_config that are not ours, and those of a hand that ours overwrote.

        Raises:
            ObserveError: the database is out of reach.
        """

        def read_notes(replica: Replica) -> tuple[Mapping[str, str], Mapping[str, str]]:
            columns = _columns(replica)
            owned = Owned.noted(columns["external_ids"])
            return owned.foreign(columns[OTHER_CONFIG]), owned.overwrote

        return self._ovs.look(read_notes)  # type: ignore[no-any-return]

    def upsert(
        self, batch: Sequence[tuple[SettingKey, OvsSetting]]
    ) -> Mapping[SettingKey, Failure]:
        """Set the keys, and note that they are ours."""
        return self._change(dict(batch), [key for key, _ in batch])

    def delete(self, keys: Sequence[SettingKey]) -> Mapping[SettingKey, Failure]:
        """Remove the keys; a key that is not ours stays."""
        return self._change({}, keys)

    def _change(
        self, wanted: Mapping[SettingKey, OvsSetting], keys: Sequence[SettingKey]
    ) -> Mapping[SettingKey, Failure]:
        def run(replica: Replica, _: Transaction) -> None:
            row, columns = root(replica), _columns(replica)
            owned = Owned.noted(columns["external_ids"])
            writes, after = owned.change(wanted, set(keys) - set(wanted), columns)
            notes = {("external_ids", key): text or None for key, text in after.notes().items()}
            for (column, key), value in {**writes, **notes}.items():
                if value is not None:
                    row.setkey(column, key, value)
                elif key in columns[column]:
                    row.delkey(column, key)
            row.increment("next_cfg")
            for key in sorted(after.overwrote.keys() - owned.overwrote.keys()):
                log.warning("setting_overwritten key=%s was=%s", key, after.overwrote[key])

        self._ovs.db.transact(run, self._ovs.timeout)
        return {}


class BridgesTable:
    """Table `bridges`: name -> Bridge. br-int is adopted if ovn-controller made it first."""

    name = "bridges"

    def __init__(self, ovs: Ovs) -> None:
        self._ovs = ovs

    def observe(self) -> Mapping[str, Bridge]:
        """Bridges of ours.

        One whose LOCAL port vswitchd has not made yet is shown without a datapath type: different
        from any plan, but there, to be waited for or removed.
        """
        return self._ovs.look(self._observe)  # type: ignore[no-any-return]

    @staticmethod
    def _observe(replica: Replica) -> dict[str, Bridge]:
        return {
            read(row, "name"): _bridge_value(row, ready=_local_ready(replica, read(row, "name")))
            for row in replica.rows("Bridge")
            if read(row, "external_ids").get(OWNER_KEY) == OWNER
        }

    def upsert(self, batch: Sequence[tuple[str, Bridge]]) -> Mapping[str, Failure]:
        """Make the bridges, and wait until vswitchd has."""
        failures = batched(self._ovs, batch, _name_of, _put_bridge)
        names = [name for name, _ in batch if name not in failures]
        wait_configured(
            self._ovs,
            lambda replica: all(_local_ready(replica, name) for name in names),
            RECONFIGURE_TIMEOUT,
        )
        state = self._ovs.state()
        for name in names:
            local = state.ports.get(name)
            if local is not None and local.rejected:
                failures[name] = Failure(local.rejected)
            elif local is None or local.ofport is None:
                failures[name] = Failure(NOT_YET, waiting=True)
        return failures

    def delete(self, keys: Sequence[str]) -> Mapping[str, Failure]:
        """Remove the bridges; an adopted one only loses our marks."""
        return batched(self._ovs, keys, str, _drop_bridge)


NOT_YET = "ovs-vswitchd has not acted on it yet: is it running?"


def _name_of(row: tuple[str, Any]) -> str:
    return row[0]


def _bridge_value(row: Row, *, ready: bool) -> Bridge:
    hwaddr = read(row, "other_config").get("hwaddr")
    try:
        mac = Mac(hwaddr) if hwaddr is not None else None
    except ValueError:
        mac = None  # somebody wrote nonsense; unequal to the plan, so it is put right
    datapath_type = read(row, "datapath_type") if ready else ""
    return Bridge(datapath_type, optional(row, "fail_mode") or "", mac)


def _local_ready(replica: Replica, name: str) -> bool:
    row = replica.find("Interface", "name", name)
    return row is not None and optional(row, "ofport") is not None


def _put_bridge(replica: Replica, txn: Transaction, item: tuple[str, Bridge]) -> None:
    name, bridge = item
    row = replica.find("Bridge", "name", name)
    if row is None:
        if replica.find("Port", "name", name) is not None:
            reason = f"a port of the name {name} exists already: remove it, or rename the bridge"
            raise RowRefusedError(Failure(reason))
        interface = txn.insert(replica.tables["Interface"])
        write(interface, "name", name)
        write(interface, "type", "internal")
        port = txn.insert(replica.tables["Port"])
        write(port, "name", name)
        write(port, "interfaces", [interface])
        row = txn.insert(replica.tables["Bridge"])
        write(row, "name", name)
        write(row, "ports", [port])
        write(row, "external_ids", {OWNER_KEY: OWNER})
        write(row, "other_config", {"hwaddr": str(bridge.hwaddr)} if bridge.hwaddr else {})
        root(replica).addvalue("bridges", row)
    else:
        owner = read(row, "external_ids").get(OWNER_KEY)
        if owner != OWNER and name != INTEGRATION_BRIDGE:
            reason = (
                f"bridge {name} exists and was not made by Millrace: delete it, or hand it over "
                f"with `ovs-vsctl br-set-external-id {name} {OWNER_KEY} {OWNER}`"
            )
            raise RowRefusedError(Failure(reason))
        if owner != OWNER:
            row.setkey("external_ids", ADOPTED, "true")
        row.setkey("external_ids", OWNER_KEY, OWNER)
        if bridge.hwaddr is not None:
            row.setkey("other_config", "hwaddr", str(bridge.hwaddr))
        elif "hwaddr" in read(row, "other_config"):
            row.delkey("other_config", "hwaddr")
    write(row, "datapath_type", bridge.datapath_type)
    write(row, "fail_mode", [bridge.fail_mode] if bridge.fail_mode else [])


def _drop_bridge(replica: Replica, _: Transaction, name: str) -> None:
    row = replica.find("Bridge", "name", name)
    if row is None or read(row, "external_ids").get(OWNER_KEY) != OWNER:
        return
    if ADOPTED in read(row, "external_ids"):
        row.delkey("external_ids", OWNER_KEY)
        row.delkey("external_ids", ADOPTED)
        return
    foreign = sorted(
        port.name
        for port in row.ports
        if port.name != name
        and port.external_ids.get(OWNER_KEY) != OWNER
        and any(interface.type != "patch" for interface in port.interfaces)
    )
    if foreign:
        reason = f"it has ports that are not ours: remove {', '.join(foreign)} first"
        raise RowRefusedError(Failure(reason))
    root(replica).delvalue("bridges", row)
    row.delete()
