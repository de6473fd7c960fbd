"""Flows, and all else that lives in maps, go from version 2 to version 3: shown by packets.

Version 2's maps are made here, with thousands of flows of both families (`tests.bpf.version2`); its
programs would find them by indexes that nothing reads any more, so they change by the test's hand.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path

import numpy as np
import pytest
from scapy.packet import Packet

from bpf import abi
from bpf.abi import CtState, FlowFlag, Limit, NodeFlag, Reason
from dataplane.drivers.bpfstate import BpfState, remove_pins
from dataplane.drivers.carrying import CONVERTERS, Carrying, keep_maps
from dataplane.drivers.libbpf import Map
from dataplane.drivers.mapbulk import dtype_of, read_array
from dataplane.drivers.migration import open_maps, remove_older
from dataplane.drivers.nodemap import NodeTable
from dataplane.model.addr import Mac, Protocol
from dataplane.model.config import ServicesConfig
from dataplane.model.rows import NodeEntry, ProgramKind
from dataplane.plan.capacity import map_sizes
from tests.bpf import version2
from tests.bpf import world as w
from tests.bpf.version2 import BACKENDS, LAYOUTS, VIPS, Old
from tests.bpf.world import To, World

pytestmark = [pytest.mark.bpf, pytest.mark.timeout(600)]

FLOWS = 2000
"""Of each family, among 4,096 records: hundreds find the record that their port names taken."""

SMALL = map_sizes(ServicesConfig(flows=2048, services=64, backends=256))
ENTRY = NodeEntry(
    IPv4Address(w.SERVICE_ADDRESS), IPv6Address(w.SERVICE_ADDRESS6), Mac(w.SERVICE_MAC),
    Mac(w.GATEWAY_MAC), 7, Mac(w.UPLINK_MAC), "svc0",
)  # fmt: skip

LATER = 50
"""Ticks that pass while flows are carried over."""


class Upgrade:
    """A node of version 2 and what it becomes.

    Attributes:
        old, new: the maps of both versions; `new` only after `begin`.
        world: packets through the programs of version 3.
    """

    def __init__(self, root: str, stack: ExitStack) -> None:
        self.root, self._stack = root, stack
        devices = socket.if_nametoindex("up0"), socket.if_nametoindex("svc0")
        with BpfState(root, sizes=SMALL) as state:
            world = World(state, *devices)
            world.clear().fill()
            for family, (vip_tcp, vip_udp) in VIPS.items():
                web, web_two, dns = BACKENDS[family]
                world.serve(vip_tcp, [To(web), To(web_two)], affinity_s=0)
                world.serve(vip_udp, [To(dns)])
            self._devices, self._world = devices, world
            for version in (4, 6):
                flows = version2.made(world, version, FLOWS, seed=version)
                numbers = np.random.default_rng(version).permutation(SMALL[f"ct{version}"])[:FLOWS]
                version2.put(world.maps, version, numbers, flows)
            self.service_id = world.service_id
            self.tick = world.tick
        directory = Path(root) / f"v{int(Limit.ABI_VERSION)}"
        directory.rename(Path(root) / "v2")
        self.old = open_maps(stack, Path(root) / "v2")

    def begin(self) -> Carrying:
        """As the daemon does it at its start."""
        keep_maps(self.root)
        state = self._stack.enter_context(BpfState(self.root, sizes=SMALL))
        carrying = self._stack.enter_context(Carrying(self.root, state.maps))
        world = World(state, *self._devices)
        world._vips, world._ids, world.tick = self._world._vips, self._world._ids, self.tick
        world._node = self._world._node
        self.world, self.new = world, state.maps
        return carrying

    def pass_time(self, ticks: int) -> None:
        """For the programs of both versions."""
        self.tick = self.world.tick = self.tick + ticks
        for maps in (self.old, self.new):
            fields = node_of(maps["node"])
            maps["node"].update(bytes(4), abi.NODE.pack(**fields | {"tick": self.tick}))

    def rewrite(self, version: int, numbers: list[int], **fields: int) -> None:
        """Change old records, as a packet of theirs would."""
        records = read_array(self.old[f"ct{version}"], dtype_of(LAYOUTS[version]))[numbers]
        for name, value in fields.items():
            records[name] = records[name] + 1 if name == "life" else value
        version2.put(self.old, version, np.array(numbers), records)

    def through(self, kind: ProgramKind, packet: Packet) -> bytes:
        """What a program makes of a packet, without a look at every counter."""
        link = self.world.uplink if kind is ProgramKind.UPLINK else self.world.service_link
        return self.world.state.program(kind).run(bytes(packet), ifindex=link).packet


def node_of(held: Map) -> abi.Fields:
    return abi.NODE.unpack(held.lookup(bytes(4)) or b"")


def is_held(upgrade: Upgrade) -> bool:
    """Whether TCP flows may not begin in the middle."""
    return bool(node_of(upgrade.new["node"])["flags"] & NodeFlag.NODE_CARRYING)


def events(counters: Map) -> int:
    """Flows that were ended for others."""
    found = 0
    for event in abi.Event:
        octets = counters.lookup(int(event).to_bytes(4, "little")) or b""
        found += sum(struct.unpack(f"={len(octets) // 8}Q", octets)[0::2])
    return found


def asked(flow: Old) -> Packet:
    return w.from_client(flow.vip, client=flow.client, port=flow.client_port, tcp="A")


def is_translated(upgrade: Upgrade, flow: Old) -> None:
    """Both ways, each octet."""
    packet = asked(flow)
    there = upgrade.through(ProgramKind.UPLINK, packet)
    if flow.flags & FlowFlag.FLOW_DSR:
        assert there[14:] == bytes(packet)[14:]
        assert there[:6] == w.mac(w.OTHER_NODE_MAC)
        return
    assert there == w.translated(packet, flow.target, flow.source_port, flow.source), flow
    answer = w.from_backend(there, tcp="A")
    back = upgrade.through(ProgramKind.SERVICE, answer)
    assert back == w.reversed_to_client(answer, packet), flow


def are_translated(upgrade: Upgrade, flows: Sequence[Old]) -> None:
    """All of them, and each packet counted as one of a known flow."""
    before = upgrade.world.counted()
    for flow in flows:
        is_translated(upgrade, flow)
    after = upgrade.world.counted()
    handed = sum(bool(flow.flags & FlowFlag.FLOW_DSR) for flow in flows)
    wanted = {
        Reason.VIP_FORWARD: len(flows) - handed,
        Reason.VIP_DIRECT: handed,
        Reason.SVC_REPLY: len(flows) - handed,
    }
    found = {reason: count - before.get(reason, 0) for reason, count in after.items()}
    assert {reason: n for reason, n in found.items() if n} == {r: n for r, n in wanted.items() if n}


@pytest.fixture
def root(bpffs: Path) -> Iterator[str]:
    made = str(bpffs / "carrying")
    yield made
    remove_pins(made)


@pytest.fixture
def upgrade(root: str) -> Iterator[Upgrade]:
    with ExitStack() as stack:
        yield Upgrade(root, stack)


def test_every_flow_of_version_2_goes_on_both_ways_and_what_changed_meanwhile_too(
    upgrade: Upgrade,
) -> None:
    carrying = upgrade.begin()
    before = {version: version2.living(upgrade.old, version) for version in (4, 6)}
    ended: dict[int, list[Old]] = {}
    closed: dict[int, list[Old]] = {}
    reset: dict[int, list[Old]] = {}
    begun: dict[int, list[tuple[str, int]]] = {}
    with carrying.around_a_swap():
        # The new programs are in, old ones still run; both change what they know of flows.
        upgrade.pass_time(LATER)
        for version, flows in before.items():
            tcp = [f for f in flows if f.state is CtState.CT_ESTABLISHED and not f.flags]
            ended[version], closed[version] = flows[:100], [f for f in tcp if f not in flows[:300]]
            closed[version], reset[version] = closed[version][:50], closed[version][50:80]
            # What a packet here has touched since is the new programs' affair: not to be ended.
            upgrade.rewrite(version, [f.number for f in ended[version]], life=1)
            upgrade.rewrite(version, [f.number for f in closed[version]],
                            state=CtState.CT_FIN, seen=upgrade.tick)  # fmt: skip
            for flow in reset[version]:
                packet = w.from_client(flow.vip, client=flow.client, port=flow.client_port, tcp="R")
                assert upgrade.world.arrive(packet).reason is Reason.VIP_FORWARD
            upgrade.rewrite(version, [f.number for f in reset[version]],
                            flags=FlowFlag.FLOW_CLIENT_FIN)  # fmt: skip
            late = version2.made(
                upgrade._world, version, 300, seed=60 + version, first_client=FLOWS
            )
            held = {f.reply_tuple for f in flows}
            free = [n for n in range(SMALL[f"ct{version}"]) if n not in {f.number for f in flows}]
            late["seen"] = upgrade.tick
            version2.put(upgrade.old, version, np.array(free[:300]), late)
            fresh = [f for f in version2.living(upgrade.old, version) if f.number in free[:300]]
            twins = [f.number for f in fresh if f.reply_tuple in held]
            upgrade.rewrite(version, twins, life=1)  # version 2 would not have given them that port
            # Its packet may come before it does: no flow of another port may begin with that.
            at_once = next(f for f in fresh if f.vip.protocol is Protocol.TCP and not f.flags)
            assert upgrade.world.arrive(asked(at_once)).reason is Reason.DROP_CT_BUSY
            begun[version] = [(f.client, f.client_port) for f in fresh if f.number not in twins]
        assert upgrade.world.arrive(w.from_client(client=w.CLIENT_TWO)).reason is Reason.VIP_NEW
    assert not is_held(upgrade)
    done = carrying.finish()
    assert done is not None
    assert done.refused == 0
    assert done.copied == 2 * FLOWS
    assert done.ended == 200
    assert done.again >= sum(map(len, begun.values())) + 100
    words, evicted = 0, events(upgrade.new["counters"])
    assert evicted < 10
    for version in (4, 6):
        now = {(f.client, f.client_port): f for f in version2.living(upgrade.new, version)}
        now.pop((w.CLIENT_TWO, w.CLIENT_PORT), None)
        wanted = version2.living(upgrade.old, version)
        assert {f.client for f in ended[version]}.isdisjoint(client for client, _ in now)
        assert len(wanted) == FLOWS - 100 + len(begun[version])
        # What found no free record near took a weak flow's: as any new flow does, and counted.
        missing = [f for f in wanted if (f.client, f.client_port) not in now]
        assert all(f.state is CtState.CT_SYN_ACK for f in missing)
        evicted -= len(missing)
        wanted = [f for f in wanted if f not in missing]
        assert len(now) == len(wanted)
        for flow in wanted:
            copy = now[flow.client, flow.client_port]
            assert (copy.vip, copy.reply_tuple) == (flow.vip, flow.reply_tuple)
        for flow in closed[version]:
            assert now[flow.client, flow.client_port].state is CtState.CT_FIN
        for flow in reset[version]:
            assert now[flow.client, flow.client_port].state is CtState.CT_RESET
            assert not now[flow.client, flow.client_port].flags
        are_translated(upgrade, wanted)
        for flow in ended[version]:
            if not flow.flags & FlowFlag.FLOW_DSR:
                assert upgrade.world.arrive(asked(flow)).reason is Reason.VIP_NEW
        replies = read_array(upgrade.new[f"ct{version}_replies"], dtype_of(abi.REPLY_BUCKET))
        words += int((replies["words"].view(np.uint64) != 0).sum())
    # Else nothing of this has shown that a port may name another's record.
    snat = [f for v in (4, 6) for f in version2.living(upgrade.old, v) if not f.flags]
    low = sum(f.source_port < Limit.DIRECT_PORT_MIN for f in snat)
    assert words > low + 200
    assert node_of(upgrade.new["node"])["flags"] & NodeFlag.NODE_CARRIED
    assert evicted == 0
    assert upgrade.world.locks() == 0


def test_new_flows_get_no_reply_tuple_of_a_flow_that_was_carried_over(upgrade: Upgrade) -> None:
    """Where such a flow's own record became free again, and the one that is claimed next."""
    carrying = upgrade.begin()
    with carrying.around_a_swap():
        pass
    carrying.finish()
    upgrade.pass_time(1)
    for version in (4, 6):
        target, vip = BACKENDS[version][2], VIPS[version][1]
        flows = [f for f in version2.living(upgrade.new, version) if f.target == target]
        numbers = {f.number for f in version2.living(upgrade.new, version)}
        worded = {f.source_port for f in flows if f.source_port >= Limit.DIRECT_PORT_MIN}
        # Whoever was in their way goes: all but this backend's flows.
        records = read_array(upgrade.new[f"ct{version}"], dtype_of(LAYOUTS[version]))
        others = np.array(sorted(numbers - {f.number for f in flows}))
        gone = records[others]
        gone["life"] += 1
        version2.put(upgrade.new, version, others, gone)
        assert len(worded) > 100
        # Ports of clients give the bits that a small table leaves open: those of carried flows.
        for number, port in enumerate(sorted(worded) * 12):
            client = (
                f"203.0.{113 + number // 250}.{1 + number % 250}"
                if version == 4
                else f"2001:db8:beef::{1 + number:x}"
            )
            packet = w.from_client(vip, client=client, port=port)
            upgrade.through(ProgramKind.UPLINK, packet)
        found = version2.living(upgrade.new, version)
        tuples = [f.reply_tuple for f in found if not f.flags & FlowFlag.FLOW_DSR]
        assert len(tuples) == len(set(tuples))
        are_translated(upgrade, [flow for flow in flows if flow in found])


def test_a_client_kept_with_an_address_of_ours_is_found_where_its_port_names_anothers_record(
    upgrade: Upgrade,
) -> None:
    """Version 2 kept such a client (version 3 gives it a port), and nothing else is on its way."""
    for version in (4, 6):
        others = [flow.number for flow in version2.living(upgrade.old, version)]
        upgrade.rewrite(version, others, life=1)
        made = version2.made(upgrade._world, version, 32, seed=version)
        two = made[made["flags"] == FlowFlag.FLOW_NO_SNAT]
        assert len(two) == 2
        assert (two["backend"][0] == two["backend"][1]).all()
        two["client"] = two["source"] = version2.octets(version2.SOURCE[version])
        two["client_port"] = two["source_port"] = [20_000, 20_000 + SMALL[f"ct{version}"]]
        version2.put(upgrade.old, version, np.arange(2), two)
    carrying = upgrade.begin()
    with carrying.around_a_swap():
        pass
    done = carrying.finish()
    assert done is not None
    assert (done.copied, done.refused) == (4, 0)
    assert node_of(upgrade.new["node"])["flags"] & NodeFlag.NODE_CARRIED
    for version in (4, 6):
        flows = version2.living(upgrade.new, version)
        assert len(flows) == 2
        are_translated(upgrade, flows)


def test_what_is_not_conntrack_is_the_same_map_and_ids_counts_and_clients_stay(
    upgrade: Upgrade,
) -> None:
    affinity = abi.AFFINITY_KEY.pack(service_id=3, client=bytes(16)), abi.AFFINITY.pack(seen=7)
    upgrade.old["affinities"].update(*affinity)
    one = upgrade.old["counters"]
    one.update(bytes(4), struct.pack(f"={one.value_size // 8}Q", *range(one.value_size // 8)))
    carrying = upgrade.begin()
    kept = CONVERTERS[2, 3]().kept
    assert "vips" in kept
    assert {
        name for name in abi.MAPS if upgrade.old[name].info.id == upgrade.new[name].info.id
    } == (kept)
    assert upgrade.new["affinities"].lookup(affinity[0]) == affinity[1]
    # The node's own word is there before anything else is known: programs are swapped early.
    before, now = node_of(upgrade.old["node"]), node_of(upgrade.new["node"])
    assert now.pop("ct_seed") not in (0, before.pop("ct_seed"))
    assert now == before
    assert now["flags"] & NodeFlag.NODE_VALID4
    assert upgrade.world.arrive(w.from_client(w.VIP_TCP)).reason is Reason.VIP_NEW
    carrying.finish()
    assert remove_older(upgrade.root) == [2]
    assert keep_maps(upgrade.root) == []
    assert Carrying(upgrade.root, upgrade.new).finish() is None


def test_the_word_that_flows_were_carried_over_stays_as_long_as_the_maps(upgrade: Upgrade) -> None:
    with upgrade.begin().around_a_swap():
        pass
    assert node_of(upgrade.new["node"])["flags"] & NodeFlag.NODE_CARRIED
    table = NodeTable(upgrade.world.state)
    assert table.upsert([(0, ENTRY)]) == {}
    assert table.observe() == {0: ENTRY}
    assert node_of(upgrade.new["node"])["flags"] & NodeFlag.NODE_CARRIED
    assert table.delete([0]) == {}
    assert node_of(upgrade.new["node"])["flags"] == NodeFlag.NODE_CARRIED


def test_nothing_is_held_back_but_around_the_last_swap(upgrade: Upgrade) -> None:
    """Of programs that are swapped before, nobody knows whether others come after them."""
    carrying = upgrade.begin()
    with carrying.around_a_swap(last=False):
        assert not is_held(upgrade)
    with carrying.around_a_swap():
        assert is_held(upgrade)
    assert not is_held(upgrade)


def test_what_a_daemon_that_died_held_back_is_let_go(upgrade: Upgrade) -> None:
    with ExitStack() as stack:
        stack.enter_context(upgrade.begin().around_a_swap())
        held = upgrade.new["node"].lookup(bytes(4)) or b""
    # By the next daemon's table, if there are no older maps any more,
    table = NodeTable(upgrade.world.state)
    assert table.upsert([(0, ENTRY)]) == {}
    fields = node_of(upgrade.new["node"])
    fields["flags"] |= NodeFlag.NODE_CARRYING
    upgrade.new["node"].update(bytes(4), abi.NODE.pack(**fields))
    assert table.observe() == {}
    assert table.upsert([(0, ENTRY)]) == {}
    assert table.observe() == {0: ENTRY}
    assert not is_held(upgrade)
    # and at once where there are; and what it had not carried over is.
    upgrade.new["node"].update(bytes(4), held)
    assert is_held(upgrade)
    with Carrying(upgrade.root, upgrade.new) as carrying:
        assert not is_held(upgrade)
        done = carrying.finish()
    assert done is not None
    assert done.copied == 2 * FLOWS


def test_flows_that_ended_since_do_not_come_back_by_another_start(upgrade: Upgrade) -> None:
    """The daemon begins anew before its older maps went; today's programs are everywhere."""
    with upgrade.begin().around_a_swap():
        pass
    numbers = [flow.number for flow in version2.living(upgrade.new, 4)][:100]
    records = read_array(upgrade.new["ct4"], dtype_of(LAYOUTS[4]))[numbers]
    records["life"] += 1
    version2.put(upgrade.new, 4, np.array(numbers), records)
    before = version2.living(upgrade.new, 4)
    with Carrying(upgrade.root, upgrade.new) as carrying:
        assert carrying.active
        carrying.finish()
    assert version2.living(upgrade.new, 4) == before


@pytest.mark.parametrize("name", ["ct4", "ct6", "node"])
def test_older_pins_that_are_half_there_keep_nobody_from_working(
    upgrade: Upgrade, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Of a daemon that died as it made or removed them: flows begin anew."""
    (Path(upgrade.root) / "v2" / name).unlink()
    carrying = upgrade.begin()
    with carrying.around_a_swap():
        pass
    assert not carrying.active
    assert carrying.finish() is None
    assert not is_held(upgrade)
    assert "flows_not_carried" in caplog.text
    assert remove_older(upgrade.root) == [2]


def test_nothing_of_a_version_without_a_converter_is_taken(upgrade: Upgrade) -> None:
    (Path(upgrade.root) / "v2").rename(Path(upgrade.root) / "v1")
    assert keep_maps(upgrade.root) == []
    assert upgrade.begin().finish() is None
    assert all(upgrade.old[name].info.id != held.info.id for name, held in upgrade.new.items())
    assert not any(upgrade.new["node"].lookup(bytes(4)) or b"")
