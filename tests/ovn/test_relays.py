"""Nodes that read relays: what they see and write through one, and when relays or sources die."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from controller.ovn import nb, sb
from controller.ovn.nested import NestedTable
from controller.ovn.reach import unreachable
from controller.translate.ovn import NbSnapshot, SbSnapshot
from dataplane.drivers.idl import DatabaseClient
from dataplane.model.rows import Nested
from tests.labs.authority import Authority
from tests.labs.ovnsandbox import PATIENCE_S, OvnSandbox, run, wait_until
from tests.ovn.test_tls import CHASSIS, Secured, being, free_port, node, pod

DATABASES = {"nb": "OVN_Northbound", "sb": "OVN_Southbound"}


@pytest.fixture
def relayed(ovn: OvnSandbox) -> OvnSandbox:
    """The VPC of every test here, behind two relays of each database."""
    for name in DATABASES:
        for number in (1, 2):
            start(ovn, f"{name}{number}")
    return ovn


def start(box: OvnSandbox, relay: str) -> None:
    source = box.nb if relay.startswith("nb") else box.sb
    box.start_relay(relay, DATABASES[relay[:2]], source)


def remote(box: OvnSandbox, *relays: str) -> str:
    return ",".join(f"unix:{box.directory}/{relay}.sock" for relay in relays)


@contextmanager
def watching(
    box: OvnSandbox,
) -> Iterator[tuple[DatabaseClient[NbSnapshot], DatabaseClient[SbSnapshot], list[NbSnapshot]]]:
    """A node's clients of the relays, and every northbound snapshot that they published."""
    seen: list[NbSnapshot] = []
    with ExitStack() as stack:
        north = nb.client(remote(box, "nb1", "nb2"), seen.append)
        south = sb.client(remote(box, "sb1", "sb2"))
        for client in (north, south):
            stack.enter_context(client)
            client.wait_synced(PATIENCE_S)
        yield north, south, seen


def test_a_node_reads_and_writes_through_relays_and_outlives_them(relayed: OvnSandbox) -> None:
    relayed.nbctl("lsp-add", "sw0", "trunk-n1")
    with watching(relayed) as (north, south, seen):
        table = NestedTable(north, "n1")
        wanted = {"vm1.ns": Nested("trunk-n1", 7)}
        assert table.upsert(list(wanted.items())) == {}
        assert table.observe() == wanted
        assert "trunk-n1" in relayed.nbctl("get", "Logical_Switch_Port", "vm1.ns", "parent_name")
        for number, (dies, lives) in enumerate((("1", "2"), ("2", "1"), ("1", "2"))):
            for name in DATABASES:
                relayed.kill(f"{name}{dies}", 9)
            name = f"after{number}"
            relayed.switch(name)
            wait_until(
                f"the change comes through relay {lives}",
                lambda name=name: name in names(north),
            )
            wait_until("the southbound one, too", lambda: south.connected)
            assert table.observe() == wanted
            for one in DATABASES:
                start(relayed, f"{one}{dies}")
        # Nothing was ever seen missing: what is not in sync is not published.
        assert all({"vm1.ns", "vm2.ns"} <= port_names(one) for one in seen)


def may(remote: str, *words: str) -> bool:
    """Whether ovn-sbctl's words are taken there."""
    try:
        run("ovn-sbctl", f"--db={remote}", *words)
    except AssertionError:
        return False
    return True


def names(client: DatabaseClient[NbSnapshot]) -> set[str]:
    found = client.read(nb.snapshot, PATIENCE_S).switches.values()
    return {row.name for row in found}


def port_names(snapshot: NbSnapshot) -> set[str]:
    return {port.name for port in snapshot.switch_ports.values()}


def test_relays_whose_source_restarts_keep_what_they_had(relayed: OvnSandbox) -> None:
    """They say that it is gone after 30 s (OVS's own constant), which nobody waits for here."""
    relayed.nbctl("lsp-add", "sw0", "trunk-n1")
    with watching(relayed) as (north, _, seen):
        relayed.kill("nb", 9)
        assert "sw0" in names(north)
        relayed.start_database("nb")
        relayed.switch("back")
        # The relay has not come back to its source yet: a write waits for that.
        table = NestedTable(north, "n1")
        assert table.upsert([("vm1.ns", Nested("trunk-n1", 7))]) == {}
        wait_until("what changed meanwhile comes", lambda: "back" in names(north))
        assert all({"vm1.ns", "vm2.ns"} <= port_names(one) for one in seen)


def test_a_writer_that_is_sent_to_a_relay_says_so(relayed: OvnSandbox) -> None:
    there = remote(relayed, "nb1")
    with nb.client(there, leader_only=True) as client:
        wait_until("the reason is known", lambda: "is a relay" in client.problem)
        (problem,) = unreachable(client)
        assert (
            problem.cause == f"{there} is a relay, and who writes OVN_Northbound needs its leader"
        )
        assert problem.next_step == "name the database's own servers"
    with nb.client(f"{there},{relayed.nb}", leader_only=True) as client:
        client.wait_synced(PATIENCE_S)
        assert client.problem == ""


def test_roles_hold_behind_a_relay_that_takes_its_ports_from_the_database(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """The way of 200 nodes: the relay by a way without a role, the nodes by one with it."""
    authority = Authority(tmp_path_factory.mktemp("ca") / "ca")
    with tempfile.TemporaryDirectory(prefix="mrv-rly-") as directory:
        secured = Secured(OvnSandbox(Path(directory)), authority)
        box, relay = secured.box, authority.identity("relay")
        try:
            secured.start()
            # What the connections name is the relays' here; theirs is a port without roles.
            server, way = authority.identity("server"), {}
            for name, database in (("nb", "NB_Global"), ("sb", "SB_Global")):
                box.kill(name)
                box.start_database(name, *server.options)
                port, control = free_port(), f"{box.directory}/{name}.ctl"
                run(
                    "ovs-appctl", "-t", control, "ovsdb-server/add-remote", f"pssl:{port}:127.0.0.1"
                )
                way[name] = f"ssl:127.0.0.1:{port}"
                box.start_relay(
                    f"relay-{name}", DATABASES[name], way[name],
                    f"--remote=db:{DATABASES[name]},{database},connections", *relay.options,
                )  # fmt: skip
            identity = authority.identity(CHASSIS)
            secured.chassis(identity)
            wait_until("the chassis has registered itself", secured.is_known)
            pod(box)
            with being(identity), node(secured.nb, secured.sb) as (north, south):
                assert NestedTable(north, CHASSIS).upsert(
                    [("web.shop", Nested(f"trunk-{CHASSIS}", 7))]
                ) == {}  # fmt: skip
                box.vsctl(
                    "add-port", "br-int", "mrt0",
                    "--", "set", "Interface", "mrt0", f"external_ids:iface-id=trunk-{CHASSIS}",
                )  # fmt: skip
                wait_until(
                    "ovn-controller claims it through the relay",
                    lambda: south.read(sb.snapshot, PATIENCE_S).port_bindings["web.shop"].up,
                )
            words = (*identity.options, "--no-leader-only", "set-connection", "ptcp:1")
            with pytest.raises(AssertionError, match="permission error"):
                run("ovn-sbctl", f"--db={secured.sb}", *words)
            # A port that the relay was given by hand has no roles.
            box.kill("relay-sb")
            open_port = free_port()
            box.start_relay(
                "relay-sb", DATABASES["sb"], way["sb"], f"--remote=pssl:{open_port}:127.0.0.1",
                *relay.options,
            )  # fmt: skip
            words = (*words[:-1], "ptcp:1:127.0.0.1")
            wait_until(
                "the relay has its source", lambda: may(f"ssl:127.0.0.1:{open_port}", *words)
            )
            assert "ptcp:1:" in box.sbctl("get-connection")
        finally:
            box.stop()
