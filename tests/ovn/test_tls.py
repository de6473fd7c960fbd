"""Encrypted ways to OVN's databases: who may read and write what, and what is said of a bad file.

One private authority made by openssl; real ovsdb-servers, northd and ovn-controller.
"""

from __future__ import annotations

import asyncio
import shutil
import socket
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import ovs.stream
import pytest

from controller.network.rows import Row, RowKey
from controller.ovn import nb, sb
from controller.ovn.keyed import Writer
from controller.ovn.nested import NestedTable
from controller.ovn.reach import unreachable
from controller.translate.ovn import NbSnapshot, SbSnapshot
from dataplane.drivers.idl import DatabaseClient, DatabaseTimeoutError
from dataplane.drivers.ovsdb_tls import Tls, use_tls
from dataplane.model.rows import Nested
from tests.labs.authority import Authority, Identity
from tests.labs.ovnsandbox import PATIENCE_S, OvnSandbox, northbound, run, wait_until
from tests.ovn.test_central import Controller, gateway

CHASSIS = "n1"
OF_STREAM = ("_SSL_private_key_file", "_SSL_certificate_file", "_SSL_ca_cert_file")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def being(identity: Identity) -> Iterator[None]:
    """This process with these files, which are otherwise its own for good."""
    before = {name: getattr(ovs.stream.Stream, name) for name in OF_STREAM}
    for name in OF_STREAM:
        setattr(ovs.stream.Stream, name, None)
    try:
        use_tls(Tls(identity.key, identity.certificate, identity.authority))
        yield
    finally:
        for name, value in before.items():
            setattr(ovs.stream.Stream, name, value)


class Secured:
    """NB and SB behind TLS, the second by roles, with northd; `nb` and `sb` are their remotes."""

    def __init__(self, box: OvnSandbox, authority: Authority) -> None:
        self.box, self.authority = box, authority
        self.nb, self.sb = (f"ssl:127.0.0.1:{free_port()}" for _ in range(2))

    def start(self) -> None:
        box, server = self.box, self.authority.identity("server")
        for name in ("nb", "sb"):
            box.make_database(name)
        box.nbctl("init")
        box.sbctl("init")
        for name, remote, table in (
            ("nb", self.nb, "OVN_Northbound,NB_Global"),
            ("sb", self.sb, "OVN_Southbound,SB_Global"),
        ):
            box.kill(name)
            box.start_database(name, f"--remote=db:{table},connections", *server.options)
            role = ("role=ovn-controller",) if name == "sb" else ()
            ctl = box.sbctl if name == "sb" else box.nbctl
            ctl("set-connection", *role, "p" + remote.replace("127.0.0.1:", "") + ":127.0.0.1")
        box.start_northd()
        box.sync()

    def chassis(self, identity: Identity) -> None:
        self.box.chassis_sb, self.box.chassis_options = self.sb, identity.options
        self.box.start_chassis(CHASSIS, "127.0.0.1", "physnet1", "br-ex")

    def is_known(self) -> bool:
        return CHASSIS in self.box.sbctl("--bare", "--columns=name", "list", "Chassis").split()

    def log(self, name: str) -> str:
        return (self.box.directory / f"{name}.log").read_text()


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("ca") / "ca")


@pytest.fixture
def secured(authority: Authority) -> Iterator[Secured]:
    with tempfile.TemporaryDirectory(prefix="mrv-tls-") as directory:
        made = Secured(OvnSandbox(Path(directory)), authority)
        try:
            made.start()
            yield made
        finally:
            made.box.stop()


@contextmanager
def node(
    nb_remote: str, sb_remote: str
) -> Iterator[tuple[DatabaseClient[NbSnapshot], DatabaseClient[SbSnapshot]]]:
    """What the node daemon has of OVN, in sync."""
    with ExitStack() as stack:
        north, south = nb.client(nb_remote), sb.client(sb_remote)
        for client in (north, south):
            stack.enter_context(client)
            client.wait_synced(PATIENCE_S)
        yield north, south


def pod(box: OvnSandbox) -> None:
    box.switch("sw0")
    box.vm("sw0", "web.shop", "0a:00:00:00:00:11", "10.1.0.11")
    box.nbctl("lsp-add", "sw0", f"trunk-{CHASSIS}")
    box.sync()


def test_a_chassis_and_its_node_daemon_work_by_the_role_of_their_certificate(
    secured: Secured, authority: Authority
) -> None:
    box, identity = secured.box, authority.identity(CHASSIS)
    secured.chassis(identity)
    wait_until("the chassis has registered itself", secured.is_known)
    pod(box)
    with being(identity), node(secured.nb, secured.sb) as (north, south):
        table = NestedTable(north, CHASSIS)
        rows = {"web.shop": Nested(f"trunk-{CHASSIS}", 7)}
        assert table.upsert(list(rows.items())) == {}
        assert table.observe() == rows
        # The trunk's OVS port comes: ovn-controller claims both, in the database of roles.
        box.vsctl(
            "add-port", "br-int", "mrt0",
            "--", "set", "Interface", "mrt0", f"external_ids:iface-id=trunk-{CHASSIS}",
        )  # fmt: skip

        def is_up() -> bool:
            found = south.read(sb.snapshot, PATIENCE_S)
            return found.port_bindings["web.shop"].up

        wait_until("the role lets ovn-controller claim the pod", is_up)
        with pytest.raises(AssertionError, match="permission error"):
            run("ovn-sbctl", f"--db={secured.sb}", *identity.options, "set-connection", "ptcp:1")
    assert [line for line in secured.log("controller").splitlines() if "permission" in line] == []


def test_a_chassis_with_another_nodes_certificate_is_refused_and_reading_goes_on(
    secured: Secured, authority: Authority
) -> None:
    other = authority.identity("n2")
    secured.chassis(other)
    wait_until("OVSDB refuses it", lambda: "permission" in secured.log("controller"))
    assert not secured.is_known()
    with being(other), node(secured.nb, secured.sb) as (north, south):
        assert north.connected and south.connected


def test_both_controllers_write_the_northbound_database(
    secured: Secured, authority: Authority
) -> None:
    box, identity = secured.box, authority.identity("controller")
    box.router("vpc0")
    box.chassis(CHASSIS, "10.0.0.1")
    central = Controller(box)
    files = identity.toml
    central.path.write_text(
        f'[cluster]\nnb = "{secured.nb}"\nsb = "{secured.sb}"\n'
        f'service_pool = "100.64.255.0/24"\n{files}{gateway(CHASSIS, 111)}'
    )
    central.start()
    try:
        wait_until("the gateway router is made", lambda: "GR_n1" in box.nbctl("lr-list"))
        assert central.status()["problems"] == []
    finally:
        central.end()
    with being(identity):
        asyncio.run(one_row(secured.nb, identity))
    assert "(by-writer)" in box.nbctl("ls-list")


async def one_row(remote: str, identity: Identity) -> None:
    writer = Writer(remote, Tls(identity.key, identity.certificate, identity.authority))
    writer.start()
    working = asyncio.create_task(writer.run())
    try:
        writer.want({RowKey("Logical_Switch", "by-writer"): Row({"name": "by-writer"})})
        writer.begin()
        writer.lead(True)
        await asyncio.wait_for(writer.settled(), PATIENCE_S)
    finally:
        working.cancel()
        await asyncio.gather(working, return_exceptions=True)
        await writer.stop()


# -- what is wrong is named -----------------------------------------------------------------------


@pytest.fixture(scope="module")
def server() -> Iterator[OvnSandbox]:
    """A northbound database; `listen` has it answer."""
    with northbound() as box:
        yield box


def listen(box: OvnSandbox, identity: Identity, kind: str = "pssl") -> str:
    """The same database behind this identity; the remote."""
    port = free_port()
    if "nb" in box.pids:
        box.kill("nb")
    box.start_database("nb", f"--remote={kind}:{port}:127.0.0.1", *identity.options)
    return f"ssl:127.0.0.1:{port}"


def said_of(remote: str, identity: Identity) -> str:
    """What the client says of a connection that does not come about."""
    with being(identity), nb.client(remote) as client:
        wait_until("the reason is known", lambda: bool(client.problem))
        with pytest.raises(DatabaseTimeoutError) as caught:
            client.wait_synced(0.1)
        (problem,) = unreachable(client)
        assert problem.name == f"OVN_Northbound at {remote}"
        assert problem.cause in str(caught.value) and problem.next_step in str(caught.value)
        return f"{problem.cause} | {problem.next_step}"


def test_an_authority_that_did_not_sign_the_server(
    server: OvnSandbox, authority: Authority, tmp_path: Path
) -> None:
    remote = listen(server, authority.identity("server"))
    said = said_of(remote, Authority(tmp_path / "other").identity("n1"))
    assert f"the certificate of {remote} was refused" in said
    assert f"| {tmp_path}/other/n1/ca.pem has to have the authority that signed it" in said


def test_a_certificate_that_the_server_does_not_take(
    server: OvnSandbox, authority: Authority, tmp_path: Path
) -> None:
    remote, mine = listen(server, authority.identity("server")), tmp_path / "mine"
    stranger = Authority(mine).identity("n1")
    mixed = Identity(stranger.key, stranger.certificate, str(authority.certificate))
    said = said_of(remote, mixed)
    assert f"{remote} refuses our certificate {mine}/n1/cert.pem: it was signed by" in said
    old = authority.identity("old", days=-1)
    said = said_of(remote, old)
    assert f"{remote} refuses our certificate {old.certificate}: it has expired | renew it" in said


def test_a_server_whose_certificate_has_expired(server: OvnSandbox, authority: Authority) -> None:
    remote = listen(server, authority.identity("stale", days=-1))
    said = said_of(remote, authority.identity("n1"))
    assert f"the certificate of {remote} was refused: certificate has expired" in said
    assert "renew the server's certificate" in said


def test_a_server_that_speaks_plainly(server: OvnSandbox, authority: Authority) -> None:
    remote = listen(server, authority.identity("server"), kind="ptcp")
    assert "its pssl: port is meant" in said_of(remote, authority.identity("n1"))


def test_files_that_are_absent_foreign_or_of_another_key(
    server: OvnSandbox, authority: Authority, tmp_path: Path
) -> None:
    remote, good = listen(server, authority.identity("server")), authority.identity("n1")
    nowhere, text = str(tmp_path / "nowhere.pem"), tmp_path / "text.pem"
    text.write_text("hello\n")
    for bad, words in (
        (Identity(nowhere, good.certificate, good.authority), f"private_key {nowhere}: No such"),
        (Identity(good.key, nowhere, good.authority), f"certificate {nowhere}: No such file"),
        (Identity(good.key, good.certificate, nowhere), f"ca_certificate {nowhere}: No such"),
        (Identity(good.key, str(text), good.authority), f"certificate {text} is no PEM file"),
        (Identity(good.key, good.certificate, str(text)), f"ca_certificate {text} is no PEM"),
        (
            Identity(authority.identity("n2").key, good.certificate, good.authority),
            f"{good.certificate} is the certificate of another key",
        ),
    ):
        assert words in said_of(remote, bad)


def test_a_renewed_file_is_taken_without_a_restart(
    server: OvnSandbox, authority: Authority, tmp_path: Path
) -> None:
    remote, good = listen(server, authority.identity("server")), authority.identity("n1")
    old = authority.identity("old", days=-1)
    used = Identity(
        str(tmp_path / "tls.key"), str(tmp_path / "tls.crt"), str(authority.certificate)
    )

    def put(identity: Identity) -> None:
        for source, to in ((identity.key, used.key), (identity.certificate, used.certificate)):
            shutil.copy(source, f"{to}.new")
            Path(f"{to}.new").replace(to)

    put(old)
    with being(used), nb.client(remote) as client:
        wait_until("it is refused", lambda: "has expired" in client.problem)
        put(good)
        client.wait_synced(PATIENCE_S)
        assert (client.connected, client.problem) == (True, "")
        server.switch("after-renewal")
        wait_until(
            "changes come",
            lambda: any(
                row.name == "after-renewal"
                for row in client.read(nb.snapshot, PATIENCE_S).switches.values()
            ),
        )
