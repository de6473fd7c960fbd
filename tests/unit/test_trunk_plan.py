"""The trunk in the plan, in the files, in the records, and in the cluster controller's rows."""

from __future__ import annotations

import asyncio
import struct
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller import attachments
from controller.config import ConfigProblems, parse_cluster, parse_node
from controller.translate.central import northbound
from controller.translate.nbrows import TRUNK_SWITCH, SwitchPortRow
from controller.translate.ovn import (
    Chassis,
    LogicalSwitch,
    LogicalSwitchPort,
    NbSnapshot,
    SbSnapshot,
)
from dataplane.drivers import flowprobe
from dataplane.model.bandwidth import Bandwidth, Limits
from dataplane.model.config import Attach, ClusterConfig, ContainersConfig
from dataplane.model.names import MIRROR_LINK, MIRROR_PORT, OWNER, OWNER_KEY, TRUNK_LINK, TRUNK_PORT
from dataplane.model.rows import Nested, PortMirror, TrunkEnd
from dataplane.model.state import PortKind
from dataplane.plan.node import plan
from dataplane.plan.trunk import MAX_TAG, MIN_TAG, TRUNK_MTU, free_tag
from tests.labs.planned import CONFIG, STATE, attachment

POD = replace(attachment("c1"), tag=7)


def test_without_ovns_port_there_is_no_trunk() -> None:
    rows = plan(replace(STATE, attachments=(attachment("c1"),)))
    assert TRUNK_LINK not in rows.links
    assert TRUNK_PORT not in rows.ports
    assert not (rows.trunk or rows.nested)
    assert rows.ports["mrpc1"].type == "system"


def test_a_container_on_the_trunk_has_no_ovs_port() -> None:
    rows = plan(replace(STATE, attachments=(POD, attachment("c2")), has_trunk=True))
    assert POD.device not in rows.ports
    assert rows.ports["mrpc2"].type == "system"
    assert rows.nested == {"c1.default": Nested("trunk-n1", 7)}
    assert rows.trunk == {
        TRUNK_LINK: TrunkEnd(0, TRUNK_LINK),
        POD.device: TrunkEnd(7, TRUNK_LINK),
    }
    link = rows.links[TRUNK_LINK]
    assert (link.peer_name, link.mtu, link.tags_in_frames) == (TRUNK_PORT, TRUNK_MTU, True)
    port = rows.ports[TRUNK_PORT]
    assert (port.bridge, port.type) == ("br-int", "afxdp")
    assert ("iface-id", "trunk-n1") in port.external_ids


def test_ovn_is_told_of_a_container_whose_link_is_still_being_made() -> None:
    limited = replace(POD, limits=Limits(receive=Bandwidth(10**7)))
    both = replace(STATE, attachments=(limited, attachment("c2")), has_trunk=True)
    before, rows = plan(both), plan(replace(both, linkless=frozenset({POD.device})))
    assert rows.nested == before.nested
    assert set(before.trunk) - set(rows.trunk) == {POD.device}
    assert set(before.buckets) - set(rows.buckets) == {POD.device}
    assert rows.differences(before) == {"trunk", "buckets"}


def test_copies_come_out_at_one_link_of_the_node() -> None:
    many = (POD, attachment("c2"), replace(attachment("c3"), mtu=1300))
    state = replace(STATE, attachments=many, has_trunk=True)
    without = plan(state)
    on_trunk = plan(replace(state, mirrored=frozenset({"c1.default", "gone.default"})))
    assert on_trunk.trunk[POD.device] == TrunkEnd(7, TRUNK_LINK, mirror=MIRROR_PORT)
    assert on_trunk.links[MIRROR_LINK].peer_name == MIRROR_PORT
    assert on_trunk.links[MIRROR_LINK].mtu == POD.mtu
    # The trunk's programs copy by themselves: OVS has no part in it.
    assert on_trunk.differences(without) == {"links", "trunk"}
    both = plan(replace(state, mirrored=frozenset({"c1.default", "c3.default"})))
    assert both.mirrors == {MIRROR_LINK: PortMirror("br-int", ("mrpc3",), MIRROR_PORT)}
    port = both.ports[MIRROR_PORT]
    assert (port.bridge, port.type, port.external_ids) == ("br-int", "system", ())
    assert both.differences(on_trunk) == {"ports", "mirrors"}


def test_what_is_on_the_trunk_stays_on_it() -> None:
    config = replace(CONFIG, containers=ContainersConfig(Attach.PORT))
    empty = plan(replace(STATE, config=config, has_trunk=True))
    assert not (empty.trunk or empty.nested)
    for has_trunk in (False, True):
        kept = plan(replace(STATE, config=config, attachments=(POD,), has_trunk=has_trunk))
        assert set(kept.trunk) == {TRUNK_LINK, POD.device}
        assert TRUNK_PORT in kept.ports


@pytest.mark.parametrize(("limits", "limited"), [
    (Limits(receive=Bandwidth(10**7)), True), (Limits(send=Bandwidth(10**7)), False),
])  # fmt: skip
def test_only_a_limited_receiver_passes_its_bucket(limits: Limits, limited: bool) -> None:
    rows = plan(replace(STATE, attachments=(replace(POD, limits=limits),), has_trunk=True))
    assert rows.trunk[POD.device].limited is limited
    assert POD.device in rows.buckets


def test_queues_are_the_pmds_or_what_the_file_says() -> None:
    for pmd, wanted, many in (((1,), 0, "1"), (tuple(range(9)), 0, "4"), ((1,), 8, "8")):
        config = replace(
            CONFIG,
            dpdk=replace(CONFIG.dpdk, pmd=pmd),
            containers=ContainersConfig(queues=wanted),
        )
        rows = plan(replace(STATE, config=config, has_trunk=True))
        assert ("n_rxq", many) in rows.ports[TRUNK_PORT].options
        assert rows.links[TRUNK_LINK].queues == int(many)


@given(st.frozensets(st.integers(MIN_TAG, MAX_TAG), max_size=50), st.integers(0, MAX_TAG))
def test_a_tag_is_free_and_comes_behind_the_last(taken: frozenset[int], after: int) -> None:
    tag = free_tag(taken, after)
    assert tag is not None
    assert MIN_TAG <= tag <= MAX_TAG
    assert tag not in taken
    passed = (
        range(after + 1, tag) if tag > after else [*range(after + 1, MAX_TAG + 1), *range(1, tag)]
    )
    assert set(passed) <= taken


def test_of_all_tags_none_is_left() -> None:
    everything = frozenset(range(MIN_TAG, MAX_TAG + 1))
    assert free_tag(everything, 17) is None
    assert free_tag(everything - {17}, 17) == 17


def test_a_record_keeps_its_tag_and_earlier_ones_have_none() -> None:
    encoded = attachments.encode(POD)
    assert attachments.decode(encoded) == POD
    del encoded["tag"]
    assert attachments.decode(encoded) == replace(POD, tag=0)
    with pytest.raises(attachments.RecordError, match="tag"):
        attachments.decode({**encoded, "tag": "7"})


NODE = '[node]\nname = "n"\n'


def test_the_nodes_file() -> None:
    assert parse_node(NODE, "n.toml").containers == ContainersConfig()
    text = f'{NODE}[containers]\nattach = "port"\nqueues = 2\n'
    assert parse_node(text, "n.toml").containers == ContainersConfig(Attach.PORT, 2)
    for bad in ('attach = "bridge"', "queues = 0", "queue = 1"):
        with pytest.raises(ConfigProblems, match=r"n\.toml:4"):
            parse_node(f"{NODE}[containers]\n{bad}\n", "n.toml")


def cluster(trunks: bool = True) -> ClusterConfig:
    return ClusterConfig(
        "unix:/nb", "unix:/sb", "100.64.0.0/24", "100.64.255.0/24", (), trunks=trunks
    )


SB = SbSnapshot(chassis={"1": Chassis("n1"), "2": Chassis("n2")})


def test_every_chassis_gets_a_port_for_its_containers() -> None:
    found = northbound(cluster(), NbSnapshot(), SB)
    assert found.problems == ()
    assert set(found.switches) == {TRUNK_SWITCH}
    assert found.switch_ports == {
        f"trunk-{name}": SwitchPortRow(TRUNK_SWITCH, "", (), (("requested-chassis", name),))
        for name in ("n1", "n2")
    }
    assert northbound(cluster(trunks=False), NbSnapshot(), SB).switch_ports == {}


def test_a_chassis_that_is_away_keeps_its_port_while_containers_are_nested_in_it() -> None:
    ours = {OWNER_KEY: OWNER}
    ports = {
        name: LogicalSwitchPort(name, external_ids=ours) for name in ("trunk-gone", "trunk-empty")
    }
    ports["c1.ns"] = LogicalSwitchPort("c1.ns", parent_name="trunk-gone", tag=3)
    ports["c2.ns"] = LogicalSwitchPort("c2.ns", parent_name="trunk-theirs", tag=3)
    ports["trunk-theirs"] = LogicalSwitchPort("trunk-theirs")
    found = northbound(cluster(), NbSnapshot(switch_ports=ports), SB)
    assert set(found.switch_ports) == {"trunk-n1", "trunk-n2", "trunk-gone"}


def test_a_foreign_switch_of_the_name_is_left_alone() -> None:
    nb = NbSnapshot(switches={"1": LogicalSwitch(TRUNK_SWITCH)})
    found = northbound(cluster(), nb, SB)
    assert found.switch_ports == {}
    assert [problem.name for problem in found.problems] == [f"switch {TRUNK_SWITCH}"]


def test_the_clusters_file_has_trunks_unless_it_says_no() -> None:
    text = '[cluster]\nnb = "unix:/nb"\nsb = "unix:/sb"\n'
    assert parse_cluster(text, "c.toml").trunks
    assert not parse_cluster(f"{text}trunks = false\n", "c.toml").trunks


def test_a_vm_is_not_on_the_trunk() -> None:
    vm = attachment("vm1", PortKind.VHOST_USER)
    rows = plan(replace(STATE, attachments=(vm,), has_trunk=True))
    assert rows.nested == {}
    assert rows.ports[vm.device].type == "dpdkvhostuserclient"


# -- the question whether flows are in --------------------------------------------------------


def flow_entry(table: int) -> bytes:
    return struct.pack("!HBx", 56, table) + bytes(52)


def flows_counted(flows: int) -> bytes:
    """One message: an OFPMP_AGGREGATE is never in parts."""
    return struct.pack("!HHI", 2, 0, 0) + struct.pack("!QQI4x", 5, 500, flows)


def in_parts(entries: bytes) -> tuple[bytes, ...]:
    """An OFPMP_FLOW's entries, and a last part that has none."""
    return struct.pack("!HHI", 1, 1, 0) + entries, struct.pack("!HHI", 1, 0, 0)


async def _answering(path: Path, answers: list[tuple[bytes, ...]]) -> asyncio.Server:
    """A bridge that speaks OpenFlow 1.3 as far as the probe asks; an echo request comes between."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        async def message() -> tuple[int, int, bytes]:
            _, kind, size, xid = struct.unpack("!BBHI", await reader.readexactly(8))
            return kind, xid, await reader.readexactly(size - 8)

        def say(kind: int, xid: int, body: bytes) -> None:
            writer.write(struct.pack("!BBHI", 4, kind, 8 + len(body), xid) + body)

        await message()
        say(0, 1, b"")
        for answer in answers:
            _, xid, _ = await message()
            say(2, 99, b"ping")
            await message()
            for part in answer:
                say(19, xid, part)
        await writer.drain()
        writer.close()

    return await asyncio.start_unix_server(serve, str(path))


def test_flows_are_asked_for_by_cookie_and_by_datapath(tmp_path: Path) -> None:
    async def run() -> None:
        answers = [
            in_parts(flow_entry(0) + flow_entry(65)), (flows_counted(0),), (flows_counted(700),),
        ]  # fmt: skip
        server = await _answering(tmp_path / "br-int.mgmt", answers)
        probe = flowprobe.FlowProbe(str(tmp_path), "br-int")
        async with server, probe.used():
            tables = await probe.tables_with(flowprobe.cookie_of("deadbeef-0000"))
            assert tables == {0, 65}
            assert flowprobe.is_installed(tables)
            assert not await probe.has_datapath(3)
            assert await probe.has_datapath(4)
        assert not flowprobe.is_installed(frozenset({0}))

    asyncio.run(run())


def test_a_bridge_that_is_not_there_or_breaks_off_is_an_error(tmp_path: Path) -> None:
    async def run() -> None:
        with pytest.raises(flowprobe.ProbeError, match=r"br-int\.mgmt"):
            await flowprobe.FlowProbe(str(tmp_path), "br-int").connect()
        server = await _answering(tmp_path / "br-int.mgmt", [])
        probe = flowprobe.FlowProbe(str(tmp_path), "br-int")
        async with server, probe.used():
            for _ in range(2):  # each over a connection of its own
                with pytest.raises(flowprobe.ProbeError, match="does not answer"):
                    await probe.tables_with(1)

    asyncio.run(run())
