"""Conntrack from user space: listing, counting, ending, on records as programs leave them."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import Any

import numpy as np
import pytest

from bpf import abi
from bpf.abi import CtState
from dataplane.drivers.conntrack import Conntrack
from dataplane.drivers.libbpf import Map
from dataplane.drivers.mapbulk import dtype_of, read_array, read_hash, write_array
from dataplane.model.addr import L4Addr, Mac, Protocol
from dataplane.model.conntrack import Endings, Endpoint, FlowFilter, FlowState
from dataplane.model.rows import BackendEntry, SetEntry, SetScope, VipEntry, VipFlag
from dataplane.model.service import Place
from tests.bpf import flowtable
from tests.bpf.flowtable import NOW, TIMEOUT, alive, flow4, flow6, put

pytestmark = pytest.mark.bpf

SLOTS = 4096


@pytest.fixture
def maps() -> Iterator[dict[str, Map]]:
    with flowtable.tables(SLOTS) as made:
        yield made


@pytest.fixture
def conntrack(maps: dict[str, Map]) -> Iterator[Conntrack]:
    with Conntrack(maps) as made:
        yield made


def end(text: str) -> Endpoint:
    return Endpoint.parse(text)


def address(protocol: Protocol, text: str, port: int) -> L4Addr:
    return L4Addr(protocol, ip_address(text), port)


MIXED: dict[int, dict[str, Any]] = {
    1: flow4(),
    2: flow4(client_port=40001, state=CtState.CT_SYN),
    3: flow4(proto=17, state=CtState.CT_UDP, vip_port=53, backend_port=5353),
    4: flow4(proto=17, state=CtState.CT_UDP_ONE_WAY, vip_port=53, backend="10.16.0.3"),
    5: flow4(client="203.0.113.8", vip="192.0.2.11", service_id=2, state=CtState.CT_FIN),
    6: flow6(),
    7: flow6(client="2001:db8::8", state=CtState.CT_SYN, backend="fd00:16::3"),
    8: flow6(client="2001:db8::9", proto=17, state=CtState.CT_UDP_ANSWERED, vip_port=53),
    # None of these is a flow: dead, its time over, a state that nobody knows.
    9: flow4(life=2),
    10: flow4(seen=NOW - TIMEOUT - 1),
    11: flow4(state=13),
    12: flow6(life=0),
}
LIVE4, LIVE6 = {1, 2, 3, 4, 5}, {6, 7, 8}


@pytest.mark.parametrize(
    ("wanted", "numbers"),
    [
        (FlowFilter(), LIVE4 | LIVE6),
        (FlowFilter(vip=end("192.0.2.10")), {1, 2, 3, 4}),
        (FlowFilter(vip=end("192.0.2.10:53")), {3, 4}),
        (FlowFilter(vip=end("[2001:db8:1::10]:80")), {6, 7}),
        (FlowFilter(vip=end("2001:db8:1::10")), LIVE6),
        (FlowFilter(client=end("203.0.113.8")), {5}),
        (FlowFilter(client=end("203.0.113.7:40001")), {2}),
        (FlowFilter(client=end("2001:db8::8")), {7}),
        (FlowFilter(backend=end("10.16.0.3")), {4}),
        (FlowFilter(backend=end("10.16.0.2:8080")), {1, 2, 5}),
        (FlowFilter(vip=end("192.0.2.10"), backend=end("10.16.0.2:8080")), {1, 2}),
        (FlowFilter(vip=end("192.0.2.11"), client=end("203.0.113.7")), set()),
        (FlowFilter(vip=end("192.0.2.11"), client=end("2001:db8::8")), set()),
        (FlowFilter(states=frozenset({FlowState.SYN})), {2, 7}),
        (FlowFilter(states=frozenset({FlowState.UDP, FlowState.FIN})), {3, 5}),
        (FlowFilter(states=frozenset({FlowState.UDP_ANSWERED})), {8}),
        (FlowFilter(protocol=Protocol.UDP), {3, 4, 8}),
        (FlowFilter(protocol=Protocol.SCTP), set()),
        (FlowFilter(protocol=Protocol.TCP, vip=end("192.0.2.10:53")), set()),
    ],
    ids=str,
)
def test_a_filter_lists_counts_and_ends_the_same_flows(
    maps: dict[str, Map], conntrack: Conntrack, wanted: FlowFilter, numbers: set[int]
) -> None:
    put(maps, MIXED)
    flows, hidden = conntrack.flows(wanted)
    assert {flow.number for flow in flows} == numbers
    assert hidden == 0
    assert conntrack.count(wanted).total == len(numbers)
    before = alive(maps, 4) | alive(maps, 6)
    swept = conntrack.flush(wanted)
    assert (swept.ended, swept.total) == (len(numbers), len(numbers))
    assert before - (alive(maps, 4) | alive(maps, 6)) == numbers
    assert conntrack.flush(wanted).ended == 0


def test_a_flow_is_listed_as_it_is(maps: dict[str, Map], conntrack: Conntrack) -> None:
    put(maps, {3000: flow4(seen=NOW - 10, flags=abi.FlowFlag.FLOW_NO_SNAT), 8: flow6(seen=NOW)})
    (six, four), _ = conntrack.flows(FlowFilter())
    assert (four.number, str(four.client), str(four.vip)) == (
        3000,
        "203.0.113.7:40000",
        "192.0.2.10:80",
    )
    assert (str(four.backend), str(four.source)) == ("10.16.0.2:8080", "100.64.255.1:40000")
    assert (four.state, four.flags) == (FlowState.ESTABLISHED, abi.FlowFlag.FLOW_NO_SNAT)
    assert (four.idle, four.left, four.service_id) == (10, TIMEOUT - 10, 1)
    assert (str(six.client), str(six.backend)) == ("[2001:db8::7]:40000", "[fd00:16::2]:8080")


def test_of_many_flows_the_youngest_are_shown(maps: dict[str, Map], conntrack: Conntrack) -> None:
    put(maps, {n: flow4(client_port=n, seen=NOW - n) for n in range(1, 50)})
    put(maps, {n: flow6(client_port=n, seen=NOW - n) for n in range(1, 50)})
    flows, hidden = conntrack.flows(FlowFilter(), limit=10)
    assert [flow.idle for flow in flows] == [1, 1, 2, 2, 3, 3, 4, 4, 5, 5]
    assert hidden == 88


def test_a_packet_from_the_clocks_future_is_young(
    maps: dict[str, Map], conntrack: Conntrack
) -> None:
    # Another CPU's tick may be ahead, and the clock wraps.
    put(maps, {1: flow4(seen=NOW + 3)})
    assert conntrack.flows(FlowFilter())[0][0].idle == 0
    assert conntrack.count(FlowFilter()).total == 1
    maps["node"].update(bytes(4), flowtable.node_octets(now=5))
    put(maps, {1: flow4(seen=(1 << 32) - 5)})
    assert conntrack.flows(FlowFilter())[0][0].idle == 10
    assert conntrack.count(FlowFilter()).total == 1


def test_fill_is_by_family_and_state(maps: dict[str, Map], conntrack: Conntrack) -> None:
    put(maps, MIXED)
    fill = conntrack.fill()
    assert (fill[4].slots, fill[4].flows, fill[6].flows) == (SLOTS, 5, 3)
    assert fill[4].live == {
        FlowState.SYN: 1,
        FlowState.ESTABLISHED: 1,
        FlowState.FIN: 1,
        FlowState.UDP_ONE_WAY: 1,
        FlowState.UDP: 1,
    }
    assert fill[6].live[FlowState.UDP_ANSWERED] == 1
    assert conntrack.by_service() == {1: 7, 2: 1}


def test_a_big_table_is_the_same_to_the_program_and_to_the_listing() -> None:
    count, slots = 150_000, 1 << 18
    with flowtable.tables(slots) as maps, Conntrack(maps) as conntrack:
        flows = flowtable.many(count)
        flowtable.write(maps, flows)
        assert (read_array(maps["ct4"], flows.dtype)[:count] == flows).all()
        assert len(conntrack.records(4)) == count == conntrack.fill()[4].flows
        wanted = FlowFilter(vip=end("192.0.2.7"), states=frozenset({FlowState.SYN}))
        some = (flows["vip"] == int(end("192.0.2.7").address)) & (flows["state"] == FlowState.SYN)
        assert conntrack.count(wanted).total == some.sum() == len(conntrack.records(4, wanted))
        assert conntrack.flush(wanted).ended == some.sum()
        assert conntrack.flush(FlowFilter()).ended == count - some.sum()


def test_only_what_a_plan_names_ends(maps: dict[str, Map], conntrack: Conntrack) -> None:
    shared = "10.16.0.9"
    put(
        maps,
        {
            1: flow4(vip="192.0.2.1"),
            2: flow4(vip="192.0.2.1", proto=17, state=CtState.CT_UDP),
            3: flow4(vip="192.0.2.1", vip_port=81),
            10: flow4(backend=shared, proto=17, state=CtState.CT_UDP),
            11: flow4(backend=shared, proto=17, state=CtState.CT_UDP_ONE_WAY),
            12: flow4(backend=shared, proto=17, state=CtState.CT_UDP, service_id=7),
            13: flow4(backend=shared, proto=17, state=CtState.CT_UDP, backend_port=1),
            14: flow4(backend=shared, proto=17, state=CtState.CT_UDP_ANSWERED),
            20: flow4(backend=shared, state=CtState.CT_SYN),
            **{
                30 + state: flow4(backend=shared, state=state)
                for state in (
                    CtState.CT_SYN_ACK,
                    CtState.CT_MIDDLE,
                    CtState.CT_ESTABLISHED,
                    CtState.CT_FIN,
                    CtState.CT_TIME_WAIT,
                    CtState.CT_RESET,
                )
            },
            40: flow4(vip="192.0.2.3", state=CtState.CT_SYN),
            41: flow4(vip="192.0.2.3"),
            42: flow4(vip="192.0.2.3", state=CtState.CT_SYN, service_id=2),
        },
    )
    before = alive(maps)
    ended = conntrack.end(
        Endings(
            vips=frozenset({address(Protocol.TCP, "192.0.2.1", 80)}),
            moved=frozenset({(1, address(Protocol.TCP, "192.0.2.3", 80))}),
            backends=frozenset(
                {
                    (1, address(Protocol.UDP, shared, 8080)),
                    (1, address(Protocol.TCP, shared, 8080)),
                }
            ),
        )
    )
    assert before - alive(maps) == {1, 10, 11, 14, 20, 40}
    assert ended == 6


def test_of_flows_that_are_handed_on_the_node_is_what_counts(
    maps: dict[str, Map], conntrack: Conntrack
) -> None:
    gone, stays = bytes.fromhex("020000000001"), bytes.fromhex("020000000002")
    handed = {"flags": abi.FlowFlag.FLOW_DSR, "backend": "192.0.2.10", "backend_port": 80}
    udp = {"proto": 17, "state": CtState.CT_UDP_ONE_WAY}
    put(
        maps,
        {
            1: flow4(**handed, **udp, vip_mac=gone),
            2: flow4(**handed, **udp, vip_mac=stays),
            3: flow4(**handed, vip_mac=gone),
            4: flow4(**udp, vip_mac=gone),
            5: flow4(**handed, **udp, vip_mac=gone, service_id=2),
        },
    )
    mac = Mac("02:00:00:00:00:01")
    assert conntrack.end(Endings(nodes=frozenset({(1, mac)}))) == 1
    assert alive(maps) == {2, 3, 4, 5}
    rows = Rows(
        {VIP: VipEntry(1, VipFlag.DSR), address(Protocol.UDP, "192.0.2.10", 80): BOTH.vips[VIP]},
        BOTH.sets,
        {1: BackendEntry(WEB, Place.REMOTE, mac=Mac("02:00:00:00:00:02"))},
    )
    strays = conntrack.strays(rows)
    assert strays.nodes == {(1, mac), (2, mac)}
    assert strays.moved == {(2, address(Protocol.UDP, "192.0.2.10", 80))}


def test_what_is_over_stays_over_when_the_clock_has_gone_round(
    maps: dict[str, Map], conntrack: Conntrack
) -> None:
    put(maps, MIXED)
    conntrack.fill()
    assert alive(maps) == LIVE4 | {11}, "a state that only the program counts is a flow's, too"
    assert alive(maps, 6) == LIVE6
    # From here on what was seen last half a round ago looks as if it were seen later than now.
    maps["node"].update(bytes(4), flowtable.node_octets(NOW - TIMEOUT - 1 + 2**31))
    assert [fill.flows for fill in conntrack.fill().values()] == [0, 0]
    assert alive(maps) == set()


def test_more_ends_than_one_sweep_takes(maps: dict[str, Map], conntrack: Conntrack) -> None:
    put(maps, {n: flow4(vip=f"192.0.2.{n}") for n in range(1, 4)})
    room = conntrack._sweeps.room
    ends = {L4Addr(Protocol.TCP, ip_address(0x0A000000 + n), 80): None for n in range(room - 1)} | {
        address(Protocol.TCP, f"192.0.2.{n}", 80): None for n in range(1, 4)
    }
    assert conntrack.end(Endings(vips=frozenset(ends))) == 3


@dataclass(frozen=True, slots=True)
class Rows:
    vips: dict[L4Addr, VipEntry] = field(default_factory=dict)
    sets: dict[tuple[int, SetScope], SetEntry] = field(default_factory=dict)
    backends: dict[int, BackendEntry] = field(default_factory=dict)


WEB, WEB_TWO = address(Protocol.TCP, "10.16.0.2", 8080), address(Protocol.TCP, "10.16.0.3", 8080)
VIP = address(Protocol.TCP, "192.0.2.10", 80)
VIP6 = address(Protocol.TCP, "2001:db8:1::10", 80)
BACKENDS = {1: BackendEntry(WEB, Place.LOCAL), 2: BackendEntry(WEB_TWO, Place.LOCAL)}
BOTH = Rows(
    {VIP: VipEntry(1, VipFlag.SNAT), VIP6: VipEntry(1, VipFlag.SNAT)},
    {(1, SetScope.CLUSTER): SetEntry(((1, 11, 1), (2, 22, 1)))},
    BACKENDS,
)
ONE_LEFT = Rows(BOTH.vips, {(1, SetScope.CLUSTER): SetEntry(((2, 22, 1),))}, {2: BACKENDS[2]})


def bind(maps: dict[str, Map], service_id: int, client: str, backend_id: int) -> bytes:
    packed = bytes(10) + b"\xff\xff" + ip_address(client).packed
    key = abi.AFFINITY_KEY.pack(service_id=service_id, client=packed)
    maps["affinities"].update(key, abi.AFFINITY.pack(backend_id=backend_id, seen=NOW))
    return key


def test_a_removed_backend_loses_what_it_never_answered_and_its_affinities(
    maps: dict[str, Map], conntrack: Conntrack
) -> None:
    put(
        maps,
        {
            1: flow4(state=CtState.CT_SYN),
            2: flow4(),
            3: flow4(state=CtState.CT_SYN, backend="10.16.0.3"),
        },
    )
    bound = [bind(maps, 1, "203.0.113.7", 1), bind(maps, 1, "203.0.113.8", 2)]
    bound.append(bind(maps, 2, "203.0.113.7", 1))
    assert conntrack.follow(BOTH, BOTH) == 0
    assert conntrack.follow(BOTH, ONE_LEFT) == 1
    assert alive(maps) == {2, 3}
    assert [maps["affinities"].lookup(key) is not None for key in bound] == [False, True, True]


def test_after_a_start_flows_without_service_are_found_by_a_listing(
    maps: dict[str, Map], conntrack: Conntrack
) -> None:
    put(
        maps,
        {
            1: flow4(state=CtState.CT_SYN),
            2: flow4(),
            3: flow4(vip="192.0.2.77", backend="10.16.0.3"),
            4: flow4(backend="10.16.0.3", state=CtState.CT_SYN),
            5: flow4(service_id=9, state=CtState.CT_SYN, backend="10.16.0.3"),
            6: flow6(vip="2001:db8:1::99"),
            7: flow6(),
        },
    )
    bound = [bind(maps, 1, "203.0.113.7", 1), bind(maps, 1, "203.0.113.8", 2)]
    assert conntrack.follow(None, ONE_LEFT) == 4
    assert alive(maps) == {2, 4}
    assert alive(maps, 6) == {7}
    assert [maps["affinities"].lookup(key) is not None for key in bound] == [False, True]
    assert conntrack.follow(None, ONE_LEFT) == 0


def test_a_flow_that_takes_anothers_place_meanwhile_is_not_ended(
    maps: dict[str, Map], conntrack: Conntrack
) -> None:
    """Another thread puts flows to another backend in place of those that are swept."""
    old, new = flow4(backend="10.16.0.66"), flow4(backend="10.16.0.67")
    stop = threading.Event()

    def rebirths() -> None:
        life = 1
        while not stop.is_set():
            life += 2
            put(maps, {n: new | {"life": life} for n in range(64)})

    thread = threading.Thread(target=rebirths)
    put(maps, dict.fromkeys(range(64, 128), old))
    thread.start()
    try:
        ended = sum(
            conntrack.flush(FlowFilter(backend=end("10.16.0.66"))).ended for _ in range(200)
        )
    finally:
        stop.set()
        thread.join()
    assert ended == 64
    assert set(range(64)) <= alive(maps)


def test_arrays_are_read_and_written_across_chunks() -> None:
    with Map.create(2, "words", 4, 8, 400_003) as words:
        values = np.arange(400_003, dtype=np.uint64) * 7
        write_array(words, values)
        assert (read_array(words, np.dtype(np.uint64)) == values).all()
        write_array(words, values[:5], first=400_000 - 2)
        assert words.lookup((400_002).to_bytes(4, "little")) == values[4].tobytes()
        with pytest.raises(ValueError, match="takes values of 8 octets"):
            write_array(words, values.astype(np.uint32))


def test_a_hash_is_read_whole(maps: dict[str, Map]) -> None:
    for number in range(1000):
        bind(maps, number, "203.0.113.7", number)
    keys, values = read_hash(maps["affinities"], dtype_of(abi.AFFINITY_KEY), dtype_of(abi.AFFINITY))
    assert sorted(keys["service_id"].tolist()) == list(range(1000))
    assert (keys["service_id"] == values["backend_id"]).all()
