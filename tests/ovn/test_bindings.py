"""What a node is sent of the southbound database: its own chassis's ports, or all where it asks."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from controller.ovn import nb, sb
from controller.ovn.sb import Bindings
from controller.translate.ovn import SbSnapshot
from controller.translate.services import services
from dataplane.drivers.idl import DatabaseClient
from dataplane.model.service import Place
from tests.labs.ovnsandbox import PATIENCE_S, OvnSandbox, wait_until

Watched = tuple[DatabaseClient[SbSnapshot], Bindings, list[SbSnapshot]]


@pytest.fixture
def watched(ovn: OvnSandbox) -> Iterator[Watched]:
    """A client for n1, on which vm1 is; vm2 is on n2."""
    seen: list[SbSnapshot] = []
    bindings = Bindings("n1")
    with sb.client(ovn.sb, seen.append, bindings=bindings) as client:
        client.wait_synced(PATIENCE_S)
        yield client, bindings, seen


def names(snapshot: SbSnapshot) -> set[str]:
    return set(snapshot.port_bindings)


def test_a_node_sees_its_own_ports_from_the_first_snapshot_on(watched: Watched) -> None:
    _, _, seen = watched
    assert {frozenset(names(one)) for one in seen} == {frozenset({"vm1.ns"})}
    assert all(one.partial for one in seen)
    assert {row.name for row in seen[-1].chassis.values()} == {"n1", "n2"}


def test_ports_come_and_go_with_their_binding(ovn: OvnSandbox, watched: Watched) -> None:
    _, _, seen = watched
    ovn.vm("sw0", "vm3.ns", "0a:00:00:00:00:13", "10.1.0.13")
    ovn.sync()
    ovn.bind("vm3.ns", "n1")
    wait_until("the new port is seen", lambda: "vm3.ns" in names(seen[-1]))
    ovn.sbctl("lsp-unbind", "vm1.ns")
    wait_until("the one that left is not", lambda: names(seen[-1]) == {"vm3.ns"})
    count = len(seen)
    ovn.sbctl("lsp-unbind", "vm2.ns")
    ovn.bind("vm2.ns", "n2")
    ovn.bind("vm1.ns", "n1")
    wait_until("it is back", lambda: names(seen[-1]) == {"vm1.ns", "vm3.ns"})
    # What happened on the other node was no message here.
    assert "vm1.ns" in names(seen[count])


def test_everything_is_sent_once_it_is_asked_for_and_no_longer_after(watched: Watched) -> None:
    client, bindings, seen = watched
    bindings.everything = True
    client.again()
    wait_until("all are here", lambda: {"vm1.ns", "vm2.ns"} <= names(seen[-1]))
    assert not seen[-1].partial
    bindings.everything = False
    client.again()
    wait_until("the others' are gone", lambda: names(seen[-1]) == {"vm1.ns"})
    # A snapshot never says "partial" of what is not, nor the other way round.
    assert all(one.partial == ("vm2.ns" not in names(one)) for one in seen)


def test_a_chassis_that_comes_later_and_one_that_is_made_anew(ovn: OvnSandbox) -> None:
    seen: list[SbSnapshot] = []
    with sb.client(ovn.sb, seen.append, bindings=Bindings("n3")) as client:
        client.wait_synced(PATIENCE_S)
        assert names(seen[-1]) == set()
        for turn in (1, 2):
            ovn.chassis("n3", f"10.0.0.3{turn}")
            ovn.sbctl("lsp-unbind", "vm1.ns")
            ovn.bind("vm1.ns", "n3")
            wait_until("its port is seen", lambda: names(seen[-1]) == {"vm1.ns"})
            ovn.sbctl("chassis-del", "n3")
            wait_until("with the chassis it goes", lambda: names(seen[-1]) == set())


def test_a_server_that_restarts_is_asked_the_same(ovn: OvnSandbox, watched: Watched) -> None:
    _, _, seen = watched
    ovn.kill("sb", 9)
    ovn.start_database("sb")
    ovn.vm("sw0", "vm3.ns", "0a:00:00:00:00:13", "10.1.0.13")
    ovn.sync()
    ovn.bind("vm3.ns", "n1")
    wait_until("the new port is seen", lambda: names(seen[-1]) == {"vm1.ns", "vm3.ns"})
    assert all("vm1.ns" in names(one) and one.partial for one in seen)


def test_backends_are_here_or_elsewhere_and_where_exactly_only_for_who_asks(
    ovn: OvnSandbox, watched: Watched
) -> None:
    client, bindings, seen = watched
    ovn.nbctl("lb-add", "web", "10.96.0.10:80", "10.1.0.11:80,10.1.0.12:80,10.1.0.99:80", "tcp")

    def places() -> dict[str, tuple[Place, str | None]]:
        with nb.client(ovn.nb) as north:
            north.wait_synced(PATIENCE_S)
            rows = north.read(nb.snapshot, PATIENCE_S)
        (service,) = services(rows, seen[-1], "n1")
        return {str(b.target.address): (b.place, b.chassis) for b in service.backends}

    own = {"10.1.0.11": (Place.LOCAL, "n1"), "10.1.0.99": (Place.UNKNOWN, None)}
    assert places() == {**own, "10.1.0.12": (Place.REMOTE, None)}
    bindings.everything = True
    client.again()
    wait_until("all are here", lambda: not seen[-1].partial)
    assert places() == {**own, "10.1.0.12": (Place.REMOTE, "n2")}
