"""Nested ports in a real chassis: ovn-controller claims them, vswitchd is asked for their flows."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from controller.ovn import nb, sb
from controller.ovn.nested import NestedTable
from controller.translate.ovn import NbSnapshot, PortBinding, SbSnapshot
from dataplane.drivers import flowprobe
from dataplane.drivers.idl import DatabaseClient
from dataplane.drivers.ovsdb import Ovs
from dataplane.drivers.ovsports import PortsTable
from dataplane.model.rows import Nested, Port
from dataplane.plan.trunk import OFPORT
from tests.labs.ovnsandbox import OvnSandbox, run, wait_until

POD, OTHER = "c1.ns", "c2.ns"
TRUNK = Port("br-int", "dummy", (), (("iface-id", "trunk-n1"),), None, None, OFPORT)


@dataclass(frozen=True)
class Node:
    """A chassis, and what its daemon would write with."""

    ovn: OvnSandbox
    ports: PortsTable
    nested: NestedTable
    nb: DatabaseClient[NbSnapshot]
    sb: DatabaseClient[SbSnapshot]

    def binding(self, name: str) -> PortBinding:
        return self.sb.read(sb.snapshot, 30).port_bindings[name]

    def tables(self, name: str) -> frozenset[int]:
        """Where the port's physical flows are."""

        async def ask() -> frozenset[int]:
            probe = flowprobe.FlowProbe(str(self.ovn.directory), "br-int")
            async with probe.used():
                return await probe.tables_with(flowprobe.cookie_of(self.binding(name).ref))

        return asyncio.run(ask())

    def has_pipeline(self, name: str) -> bool:
        """Whether the port's switch has flows here."""
        number = self.sb.read(sb.snapshot, 30).datapaths[self.binding(name).datapath or ""]

        async def ask() -> bool:
            probe = flowprobe.FlowProbe(str(self.ovn.directory), "br-int")
            async with probe.used():
                return await probe.has_datapath(number)

        return asyncio.run(ask())

    def is_in(self, name: str) -> bool:
        return flowprobe.is_installed(self.tables(name)) and self.has_pipeline(name)

    def made(self, port: Port) -> None:
        assert self.ports.upsert([("mrt0-ovs", port)]) == {}

    def from_trunk(self, tag: int) -> list[str]:
        """OVS's rules for what comes from the trunk with a tag."""
        match = (
            f"table=0,in_port={self.ovn.vsctl('get', 'Interface', 'mrt0-ovs', 'ofport').strip()}"
        )
        text = run(
            "ovs-ofctl", "-O", "OpenFlow13", "dump-flows",
            f"unix:{self.ovn.directory}/br-int.mgmt", f"{match},dl_vlan={tag}",
        )  # fmt: skip
        return [line for line in text.splitlines() if "actions=" in line]


@pytest.fixture
def node(ovn: OvnSandbox) -> Iterator[Node]:
    ovn.sbctl("chassis-del", "n1")
    ovn.start_chassis("n1", "127.0.0.1", "phys", "br-ex")
    ovn.nbctl("ls-add", "millrace-trunks", "--", "lsp-add", "millrace-trunks", "trunk-n1")
    for number in (1, 2):
        ovn.vm("sw0", f"c{number}.ns", f"0a:00:00:00:00:2{number}", f"10.1.0.2{number}")
    wait_until("br-int is there", lambda: "br-int" in ovn.vsctl("list-br"))
    ovs, northbound, southbound = (
        Ovs(f"unix:{ovn.directory}/db.sock"),
        nb.client(ovn.nb),
        sb.client(ovn.sb),
    )
    for one in (ovs, northbound, southbound):
        one.start()
        one.wait_synced(30)
    try:
        yield Node(ovn, PortsTable(ovs), NestedTable(northbound, "n1"), northbound, southbound)
    finally:
        for one in (ovs, northbound, southbound):
            one.stop()


def test_a_nested_port_is_in_when_the_probe_says_so(node: Node) -> None:
    node.made(TRUNK)
    assert node.tables(POD) == frozenset()
    assert not node.has_pipeline(POD)
    assert node.nested.upsert([(POD, Nested("trunk-n1", 7))]) == {}
    wait_until("its flows are in", lambda: node.is_in(POD))
    wait_until("it is up", lambda: node.binding(POD).up)
    assert len(node.from_trunk(7)) == 1
    assert node.from_trunk(8) == []
    assert node.nested.delete([POD]) == {}
    wait_until("they are out", lambda: node.from_trunk(7) == [])
    wait_until("and all of them", lambda: not flowprobe.is_installed(node.tables(POD)))


def test_nested_ports_live_through_a_trunk_made_anew(node: Node) -> None:
    node.made(TRUNK)
    rows = [(POD, Nested("trunk-n1", 7)), (OTHER, Nested("trunk-n1", 9))]
    assert node.nested.upsert(rows) == {}
    wait_until("both are in", lambda: node.is_in(POD) and node.is_in(OTHER))
    # As when its device was made anew: removed and added in one transaction.
    for kind in ("internal", "dummy"):
        node.made(Port("br-int", kind, (), TRUNK.external_ids, None, None, OFPORT))
        wait_until("OVN has looked", lambda: bool(node.binding(POD).up))
        wait_until("one finds its way", lambda: len(node.from_trunk(7)) == 1 and node.is_in(POD))
        wait_until("so does the other", lambda: len(node.from_trunk(9)) == 1 and node.is_in(OTHER))


def test_all_of_a_node_at_once(node: Node) -> None:
    node.made(TRUNK)
    rows = [(name, Nested("trunk-n1", tag)) for tag, name in enumerate((POD, OTHER), 1)]
    assert node.nested.upsert(rows) == {}
    for name, _ in rows:
        wait_until(f"{name} is in", lambda name=name: node.is_in(name))
    moved = [(POD, Nested("trunk-n1", 11))]
    assert node.nested.upsert(moved) == {}
    wait_until("the new tag leads to it", lambda: len(node.from_trunk(11)) == 1)
    wait_until("the old one no more", lambda: node.from_trunk(1) == [])


def test_a_hundred_who_ask_at_once_are_answered(node: Node) -> None:
    node.made(TRUNK)
    assert node.nested.upsert([(POD, Nested("trunk-n1", 7))]) == {}
    wait_until("its flows are in", lambda: node.is_in(POD))
    cookie = flowprobe.cookie_of(node.binding(POD).ref)

    async def ask() -> list[frozenset[int]]:
        probe = flowprobe.FlowProbe(str(node.ovn.directory), "br-int")

        async def one() -> frozenset[int]:
            async with probe.used():
                await probe.connect()
                return await probe.tables_with(cookie)

        cut = asyncio.create_task(one())
        asyncio.get_running_loop().call_later(0.001, cut.cancel)
        return await asyncio.gather(*(one() for _ in range(100)))

    assert all(flowprobe.is_installed(tables) for tables in asyncio.run(ask()))
