"""The database client over TLS, against a Raft cluster, and with several remotes."""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from dataplane.drivers.idl import (
    DatabaseClient,
    DatabaseTimeoutError,
    Replica,
    Tls,
    Transaction,
    read,
    write,
)
from dataplane.ports import ConfigError
from tests.labs.sandbox import SCHEMA, Sandbox, stop_pid

TABLES = {"Open_vSwitch": ["external_ids"]}


def ids(replica: Replica) -> dict[str, str]:
    return dict(read(replica.rows("Open_vSwitch")[0], "external_ids"))


def put(replica: Replica, txn: Transaction, number: str) -> None:
    rows = replica.rows("Open_vSwitch")
    row = rows[0] if rows else txn.insert(replica.tables["Open_vSwitch"])
    write(row, "external_ids", {"n": number})


def run(*argv: str) -> None:
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> Tls:
    """One key and self-signed certificate for both ends."""
    where = tmp_path_factory.mktemp("tls")
    run("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj",
        "/CN=mro", "-keyout", f"{where}/key.pem", "-out", f"{where}/cert.pem")  # fmt: skip
    return Tls(f"{where}/key.pem", f"{where}/cert.pem", f"{where}/cert.pem")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def secure(database_only: Sandbox, tls: Tls) -> str:
    """The sandbox's database on a TLS port too; the remote."""
    port = free_port()
    box = database_only
    box.vsctl("--no-wait", "set-ssl", tls.private_key, tls.certificate, tls.ca_certificate)
    box.vsctl("--no-wait", "set", "Open_vSwitch", ".", "external_ids:over=tls")
    control = f"{box.rundir}/ovsdb-server.ctl"
    for what, path in (
        ("private-key", tls.private_key), ("certificate", tls.certificate),
        ("ca-cert", tls.ca_certificate),
    ):  # fmt: skip
        box.run("ovs-appctl", "-t", control, f"ovsdb-server/set-{what}", path, check=False)
    box.stop_ovsdb()
    box.run(
        "ovsdb-server", f"{box.rundir}/conf.db", f"--remote=punix:{box.rundir}/db.sock",
        f"--remote=pssl:{port}:127.0.0.1", f"--private-key={tls.private_key}",
        f"--certificate={tls.certificate}", f"--ca-cert={tls.ca_certificate}",
        "--detach", "--no-chdir", f"--pidfile={box.rundir}/ovsdb-server.pid",
        f"--unixctl={control}", f"--log-file={box.rundir}/ovsdb-server.log", "-vconsole:off",
    )  # fmt: skip
    return f"ssl:127.0.0.1:{port}"


def test_tls_with_its_files(secure: str, tls: Tls) -> None:
    with DatabaseClient(secure, "Open_vSwitch", TABLES, ids, tls=tls) as db:
        db.wait_synced(20)
        assert db.read(ids, 10) == {"over": "tls"}
    other = DatabaseClient(secure, "Open_vSwitch", TABLES, ids, tls=Tls("a", "b", "c"))
    with pytest.raises(ConfigError, match="one TLS identity"):
        other.start()


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[str]:
    """A Raft cluster of one; the remote."""
    run("ovsdb-tool", "create-cluster", f"{tmp_path}/c.db", SCHEMA, f"unix:{tmp_path}/raft.sock")
    run(
        "ovsdb-server", f"{tmp_path}/c.db", f"--remote=punix:{tmp_path}/c.sock", "--detach",
        "--no-chdir", f"--pidfile={tmp_path}/c.pid", f"--unixctl={tmp_path}/c.ctl",
        f"--log-file={tmp_path}/c.log", "-vconsole:off",
    )  # fmt: skip
    yield f"unix:{tmp_path}/c.sock"
    stop_pid(int((tmp_path / "c.pid").read_text()))


def test_the_leader_of_a_cluster_and_a_dead_remote_before_it(cluster: str, tmp_path: Path) -> None:
    remote = f"unix:{tmp_path}/nobody.sock,{cluster}"
    with DatabaseClient(
        remote, "Open_vSwitch", TABLES, lambda r: len(r.rows("Open_vSwitch")), leader_only=True
    ) as db:
        db.wait_synced(20)
        for number in range(20):
            db.transact(partial(put, number=str(number)), 10)
            assert db.read(ids, 10) == {"n": str(number)}


def test_a_database_that_the_server_does_not_have_is_waited_for(database_only: Sandbox) -> None:
    with (
        DatabaseClient(database_only.remote, "No_Such", {}, lambda _: 0) as db,
        pytest.raises(DatabaseTimeoutError, match="No_Such"),
    ):
        db.wait_synced(0.5)
