"""`millrace perf peers` measures what it says: the packets of all arrive, whole and translated."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from functools import partial

import pytest

from bpf import abi
from dataplane.drivers import processes
from dataplane.drivers.mapbulk import dtype_of, read_array
from dataplane.drivers.netns import inside_named
from perf import peerflows, peerlab
from perf.peerends import Datagrams, Socketed, counted
from perf.peerlab import Trio
from perf.peerprogs import FRAME_SIZE, PeersError, request
from perf.peerrules import Rules
from perf.peers import ALONE, FRESH, OURS, PLAIN, Peers
from perf.peerxsk import FRAMES

SERVICES = 3
BACKENDS = {str(peerlab.backend(SERVICES - 1, i)) for i in range(peerlab.BACKENDS_PER_SERVICE)}
CLIENT, ROUTER = str(peerlab.CLIENTS[0]), str(peerlab.ROUTER)
SENDERS = {
    (PLAIN, ""): CLIENT,
    (OURS, ""): str(peerlab.SERVICE_ADDRESS),
    ("nftables", Rules.KUBE_PROXY): ROUTER,
    ("iptables", Rules.KUBE_PROXY): ROUTER,
    ("nftables", Rules.BARE): CLIENT,
    ("iptables", Rules.BARE): CLIENT,
}
"""Whom a backend takes each contestant's packets to be from."""


def _send(peers: Peers, head: bytes, count: int = 1) -> None:
    """Packets at the router's device of the calling thread's namespace."""
    peers.source.send(socket.if_nametoindex("r0"), head, count)


@pytest.fixture(scope="module")
def peers() -> Iterator[Peers]:
    """All contestants with a few services, on one CPU."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(before)})
    made = Peers([SERVICES], lambda _: None, tuple(Rules))
    try:
        yield made
    finally:
        made.close()
        os.sched_setaffinity(0, before)


@pytest.mark.parametrize("sink", ["xsk", "xdp", "skb", "socket"])
def test_every_contestant_delivers_into_every_sink(peers: Peers, sink: str) -> None:
    rows = peers.run(sink, 1)
    assert {(row.name, row.rules) for row in rows} == {*SENDERS, (ALONE, "")}
    assert all(len(row.samples_ns) == 1 and row.delivered > 0.98 for row in rows)
    fresh = {(row.name, row.rules) for row in rows if row.flows == FRESH}
    assert fresh == SENDERS.keys() - {(PLAIN, "")}


def test_flows_of_ours_that_are_evicted_are_told(peers: Peers) -> None:
    """Their row would not be what new flows cost a node that has room for them."""
    with ExitStack() as stack:
        (one,) = (
            one
            for one in peers.contestants(stack, "xdp")
            if (one.row.name, one.row.flows) == (OURS, FRESH)
        )
        assert one.ours is not None
        held = one.ours.maps["node"]
        node = abi.NODE.unpack(held.lookup(bytes(4)) or b"")
        buckets = one.packets // 2 // abi.Limit.CT_WAYS
        node["ct4_mask"] = (1 << buckets.bit_length() - 1) - 1
        held.update(bytes(4), abi.NODE.pack(**node))
        with pytest.raises(PeersError, match="EVENT_EVICTED"):
            peers.sample(one)
        one.forget()


def test_each_run_has_flows_that_the_last_one_had_not(peers: Peers) -> None:
    with ExitStack() as stack:
        found = [one for one in peers.contestants(stack, "xdp") if one.row.flows == FRESH]
        (one,) = (one for one in found if one.row.name == OURS)
        assert one.ours is not None
        kept, rounds = one.ours, []
        for _ in range(2):
            flows: set[bytes] = set()

            def forget(into: set[bytes] = flows) -> None:
                rows = read_array(kept.maps["ct4"], dtype_of(abi.FLOW4))
                alive = rows[rows["life"] & 1 != 0]
                into.update(client.tobytes() for client in alive["client"])
                kept.forget_flows()

            peers.sample(replace(one, forget=forget))
            rounds.append(flows)
        assert rounds[0]
        assert rounds[0].isdisjoint(rounds[1])


def test_what_arrives_is_the_clients_packet_translated_as_the_rules_say(peers: Peers) -> None:
    seen = {}
    with ExitStack() as stack:
        for one in peers.contestants(stack, "socket"):
            if one.row.name == ALONE:
                continue
            assert isinstance(one.end, Datagrams)
            one.forget()
            peers.source.aim(one.head, 1, one.program)
            # The sockets share a port: only the one of this trio may see it.
            inside_named(one.trio.router, partial(_send, peers, one.head))
            body, sender, receiver = one.end.first()
            assert len(body) == FRAME_SIZE - 42
            targets = {str(peerlab.backend(0, 0))} if one.row.name == PLAIN else BACKENDS
            assert receiver in targets, one.row
            seen[one.row.name, one.row.rules] = sender
    assert seen == SENDERS


def test_answered_flows_are_not_new_to_the_filters(peers: Peers) -> None:
    trio = peers.filters["nftables", Rules.KUBE_PROXY, SERVICES]
    rules = (
        "table ip seen { counter fresh { }\n"
        "chain end { type filter hook forward priority 9; ct state new counter name fresh; }; }"
    )
    processes.run(["nft", "-f", "-"], netns=trio.router, text_in=rules)
    head = request(peerlab.vip(SERVICES - 1), trio.mac("r"))
    trio.forget_flows()
    peers.source.aim(head, 8, peers.source.kernel)
    for expected in (8, 16):
        inside_named(trio.router, partial(_send, peers, head, 8))
        assert _new(trio) == expected
    assert inside_named(trio.router, peerflows.answer_all) == 8
    inside_named(trio.router, partial(_send, peers, head, 8))
    assert _new(trio) == 16
    processes.run(["nft", "delete", "table", "ip", "seen"], netns=trio.router)
    trio.forget_flows()


def _new(trio: Trio) -> int:
    return counted(trio.router, "ip", "seen", "fresh")


def test_a_receiver_writes_to_few_frames_in_turn(peers: Peers) -> None:
    trio = peers.plain
    head = request(peerlab.backend(0, 0), trio.mac("r"), peerlab.BACKEND_PORT)
    with Socketed(peers.source, trio, "b0") as end:
        end.choose()
        peers.source.aim(head, 1, peers.source.kernel)
        for turn in range(1, 3):
            inside_named(trio.router, partial(_send, peers, head, 2 * FRAMES))
            assert len(end.receiver.waiting()) == FRAMES
            assert end.arrived() == turn * 2 * FRAMES
