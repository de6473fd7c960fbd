"""The database client against a real ovsdb-server."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from dataplane.drivers import ovsjson
from dataplane.drivers.idl import (
    DatabaseClient,
    DatabaseTimeoutError,
    Replica,
    TransactionError,
    read,
    write,
)
from dataplane.ports import DataplaneError
from tests.labs.sandbox import Sandbox, wait_until

TABLES = {
    "Open_vSwitch": ["bridges", "external_ids", "next_cfg"],
    "Bridge": ["name", "ports", "external_ids", "no_such_column"],
    "No_Such_Table": ["name"],
}


def names(replica: Replica) -> frozenset[str]:
    return frozenset(read(row, "name") for row in replica.rows("Bridge"))


def client(box: Sandbox, **kwargs: object) -> DatabaseClient[frozenset[str]]:
    return DatabaseClient(box.remote, "Open_vSwitch", TABLES, names, **kwargs)  # type: ignore[arg-type]


def add_bridge(name: str) -> Callable[[Replica, Any], str]:
    def build(replica: Replica, txn: Any) -> str:
        root = replica.rows("Open_vSwitch")[0]
        row = txn.insert(replica.tables["Bridge"])
        write(row, "name", name)
        root.addvalue("bridges", row)
        return name

    return build


def test_a_snapshot_comes_first_and_after_every_change(database_only: Sandbox) -> None:
    seen: list[frozenset[str]] = []
    with client(database_only, on_change=seen.append) as db:
        db.wait_synced(10)
        assert seen == [frozenset()]
        database_only.vsctl("--no-wait", "add-br", "br0")
        wait_until(lambda: seen[-1] == {"br0"}, "the bridge is in a snapshot")
        assert db.connected


def test_a_transaction_is_in_the_replica_when_it_returns(database_only: Sandbox) -> None:
    with client(database_only) as db:
        for number in range(20):
            db.transact(add_bridge(f"br{number}"), 10)
            assert f"br{number}" in db.read(names, 10)
        found = db.read(lambda r: read(r.find("Bridge", "name", "br7"), "name"), 10)
        assert found == "br7"
        assert db.read(lambda r: r.find("Bridge", "name", "br99") is None, 10)


def test_the_index_follows_deletions_and_changes(database_only: Sandbox) -> None:
    def owners(replica: Replica) -> int:
        return len(list(replica.find_all("Bridge", "external_ids", (("owner", "x"),))))

    with client(database_only) as db:
        db.transact(add_bridge("br0"), 10)
        assert db.read(lambda r: r.find("Bridge", "name", "br0") is not None, 10)
        database_only.vsctl("--no-wait", "del-br", "br0")
        db.wait_for(lambda r: True if r.find("Bridge", "name", "br0") is None else None, 10)


def test_what_ovsdb_refuses_is_raised_with_its_own_words(database_only: Sandbox) -> None:
    with client(database_only) as db:
        db.transact(add_bridge("br0"), 10)
        with pytest.raises(TransactionError, match=r"constraint violation.*br0"):
            db.transact(add_bridge("br0"), 10)
        with pytest.raises(DataplaneError, match=r"Bridge\.external_ids cannot be"):
            db.transact(lambda r, _: write(r.find("Bridge", "name", "br0"), "external_ids", 5), 10)


def test_a_verified_column_that_changed_meanwhile_is_tried_again(database_only: Sandbox) -> None:
    runs: list[int] = []

    def increment(replica: Replica, _: object) -> None:
        root = replica.rows("Open_vSwitch")[0]
        root.verify("external_ids")
        ids: Mapping[str, str] = dict(root.external_ids)
        runs.append(1)
        if len(runs) == 1:
            database_only.vsctl("--no-wait", "set", "Open_vSwitch", ".", "external_ids:n=5")
        write(root, "external_ids", {**ids, "n": str(int(ids.get("n", "0")) + 1)})

    with client(database_only) as db:
        db.wait_synced(10)
        db.transact(increment, 10)
        assert len(runs) == 2
        assert 'n="6"' in database_only.vsctl("get", "Open_vSwitch", ".", "external_ids")


def test_an_exception_in_the_function_aborts_and_is_raised(database_only: Sandbox) -> None:
    def fail(replica: Replica, txn: object) -> None:
        add_bridge("br0")(replica, txn)
        raise ZeroDivisionError

    with client(database_only) as db:
        with pytest.raises(ZeroDivisionError):
            db.transact(fail, 10)
        assert db.read(names, 10) == frozenset()


def test_it_reconnects_and_says_so(database_only: Sandbox) -> None:
    ups: list[bool] = []
    seen: list[frozenset[str]] = []
    with client(database_only, on_connection=ups.append, on_change=seen.append) as db:
        db.transact(add_bridge("br0"), 10)
        database_only.stop_ovsdb()
        wait_until(lambda: not db.connected, "the loss is noticed")
        with pytest.raises(DatabaseTimeoutError, match="not connected"):
            db.transact(add_bridge("br1"), 0.3)
        database_only.start_ovsdb()
        wait_until(lambda: db.connected, "it is connected again")
        db.transact(add_bridge("br2"), 10)
        assert db.read(names, 10) == {"br0", "br2"}
        assert db.read(lambda r: r.find("Bridge", "name", "br0") is not None, 10)
        assert ups[:3] == [True, False, True]


def test_without_a_server_it_times_out_by_name_and_stops_at_once(tmp_path: Path) -> None:
    db = DatabaseClient(f"unix:{tmp_path}/none.sock", "Open_vSwitch", TABLES, names)
    db.start()
    with pytest.raises(DatabaseTimeoutError, match=r"none\.sock.*not connected"):
        db.read(names, 0.3)
    with pytest.raises(DatabaseTimeoutError, match=r"none\.sock"):
        db.wait_synced(0.1)
    before = time.monotonic()
    db.stop()
    assert time.monotonic() - before < 5
    assert not [t for t in threading.enumerate() if t.name.startswith("ovsdb-")]


def test_a_burst_of_changes_is_coalesced(database_only: Sandbox) -> None:
    seen: list[frozenset[str]] = []
    with client(database_only, on_change=seen.append, coalesce_s=0.2) as db:
        for number in range(50):
            db.transact(add_bridge(f"br{number}"), 10)
        wait_until(lambda: len(seen[-1]) == 50, "the last state is delivered")
        assert len(seen) < 40


def test_the_fast_parser_serves_a_real_server(database_only: Sandbox) -> None:
    ovsjson.install()
    try:
        with client(database_only) as db:
            for number in range(30):
                db.transact(add_bridge(f"brücke{number}"), 10)
            assert len(db.read(names, 10)) == 30
        with client(database_only) as db:
            db.wait_synced(10)
            assert f"brücke{7}" in db.read(names, 10)
    finally:
        ovsjson.uninstall()


def test_a_transaction_larger_than_the_sockets_buffer_is_sent(database_only: Sandbox) -> None:
    def add_many(replica: Replica, txn: object) -> None:
        for number in range(2000):
            add_bridge(f"br{number:05}-{'x' * 200}")(replica, txn)

    with client(database_only) as db:
        db.transact(add_many, 60)
        assert len(db.read(names, 10)) == 2000
