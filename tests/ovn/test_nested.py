"""Containers' ports nested in a chassis's trunk: what we write, and what OVN makes of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from controller.ovn import nb, sb
from controller.ovn.nested import NestedTable
from controller.translate.ovn import PortBinding
from dataplane.model.rows import Nested
from tests.labs.ovnsandbox import OvnSandbox, wait_until

POD = "c1.ns"
OpenTable = Callable[[str], NestedTable]


@pytest.fixture
def table_of(ovn: OvnSandbox) -> Iterator[OpenTable]:
    for chassis in ("n1", "n2"):
        ovn.nbctl("lsp-add", "sw0", f"trunk-{chassis}")
    for number in (1, 2, 3):
        ovn.vm("sw0", f"c{number}.ns", f"0a:00:00:00:00:2{number}", f"10.1.0.2{number}")
    ovn.sync()
    with ExitStack() as stack:

        def opened(chassis: str) -> NestedTable:
            client = nb.client(ovn.nb)
            client.start()
            stack.callback(client.stop)
            client.wait_synced(30)
            return NestedTable(client, chassis)

        yield opened


def binding(ovn: OvnSandbox, name: str) -> PortBinding:
    client = sb.client(ovn.sb)
    client.start()
    try:
        client.wait_synced(30)
        snapshot = client.read(sb.snapshot, 30)
    finally:
        client.stop()
    found = snapshot.port_bindings[name]
    assert snapshot.datapaths[found.datapath or ""] > 0
    return found


def test_rows_are_written_once_and_northd_leaves_the_tag(
    ovn: OvnSandbox, table_of: OpenTable
) -> None:
    table = table_of("n1")
    assert table.observe() == {}
    rows = {"c1.ns": Nested("trunk-n1", 7), "c2.ns": Nested("trunk-n1", 4094)}
    assert table.upsert(list(rows.items())) == {}
    assert table.observe() == rows
    ovn.sync()
    assert table.observe() == rows
    found = binding(ovn, POD)
    assert (found.parent, found.tag) == ("trunk-n1", 7)
    assert table_of("n1").observe() == rows  # as a daemon that was killed finds them
    assert table_of("n2").observe() == {}


def test_a_port_that_is_let_go_is_as_it_was(ovn: OvnSandbox, table_of: OpenTable) -> None:
    table = table_of("n1")
    before = ovn.nbctl("list", "Logical_Switch_Port", POD)
    table.upsert([(POD, Nested("trunk-n1", 7))])
    assert table.delete([POD, "never.ns"]) == {}
    assert table.observe() == {}
    ovn.sync()
    found = binding(ovn, POD)
    assert (found.parent, found.tag) == (None, None)
    assert ovn.nbctl("list", "Logical_Switch_Port", POD) == before


def test_a_missing_port_is_waited_for_and_the_others_are_made(table_of: OpenTable) -> None:
    table = table_of("n1")
    row = (POD, Nested("trunk-n1", 7))
    failures = table.upsert([("gone.ns", Nested("trunk-n1", 8)), row])
    assert set(failures) == {"gone.ns"}
    assert failures["gone.ns"].waiting
    assert table.observe() == dict([row])


def test_a_tag_is_never_two_ports(ovn: OvnSandbox, table_of: OpenTable) -> None:
    # Somebody else's: without our mark.
    ovn.nbctl("set", "Logical_Switch_Port", "c3.ns", "parent_name=trunk-n1", "tag=7")
    table = table_of("n1")
    failed = table.upsert([(POD, Nested("trunk-n1", 7))])[POD]
    assert failed.waiting
    assert "c3.ns" in failed.reason
    assert table.observe() == {}
    assert table.delete(["c3.ns"]) == {}
    assert ovn.nbctl("get", "Logical_Switch_Port", "c3.ns", "tag").strip() == "7"


def test_who_has_a_port_keeps_it_unless_an_add_takes_it(table_of: OpenTable) -> None:
    one, two = table_of("n1"), table_of("n2")
    assert one.upsert([(POD, Nested("trunk-n1", 7))]) == {}
    wait_until("the other node has heard", lambda: bool(two.upsert([(POD, Nested("trunk-n2", 9))])))
    assert "trunk-n1" in two.upsert([(POD, Nested("trunk-n2", 9))])[POD].reason
    two.take(POD)
    assert two.upsert([(POD, Nested("trunk-n2", 9))]) == {}
    # The first one's round does not take it back, and its DEL leaves it alone.
    wait_until("the first node has heard", lambda: one.observe() == {})
    assert POD in one.upsert([(POD, Nested("trunk-n1", 7))])
    assert one.delete([POD]) == {}
    assert two.observe() == {POD: Nested("trunk-n2", 9)}


def test_a_port_nested_by_somebody_else_is_not_taken(ovn: OvnSandbox, table_of: OpenTable) -> None:
    ovn.nbctl("set", "Logical_Switch_Port", POD, "parent_name=vm1.ns", "tag=3")
    table = table_of("n1")
    table.take(POD)
    assert "vm1.ns" in table.upsert([(POD, Nested("trunk-n1", 7))])[POD].reason
