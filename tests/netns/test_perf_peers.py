"""`millrace perf peers` measures what it says: the packets of all arrive, whole and alike."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial

import pytest

from dataplane.drivers.netns import inside_named
from perf import peerlab
from perf.peerends import Datagrams
from perf.peerprogs import FRAME_SIZE
from perf.peers import ALONE, FRESH, OURS, PLAIN, Peers

SERVICES = 3


def _send(peers: Peers, head: bytes) -> None:
    """One packet at the router's device of the calling thread's namespace."""
    peers.source.send(socket.if_nametoindex("r0"), head, 1)


@pytest.fixture(scope="module")
def peers() -> Iterator[Peers]:
    """All contestants with a few services, on one CPU."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(before)})
    made = Peers([SERVICES], lambda _: None)
    try:
        yield made
    finally:
        made.close()
        os.sched_setaffinity(0, before)


@pytest.mark.parametrize("sink", ["xsk", "xdp", "skb", "socket"])
def test_every_contestant_delivers_into_every_sink(peers: Peers, sink: str) -> None:
    rows = peers.run(sink, 1)
    assert {row.name for row in rows} == {ALONE, PLAIN, OURS, "nftables", "iptables"}
    assert all(len(row.samples_ns) == 1 and row.delivered > 0.98 for row in rows)
    fresh = {row.name for row in rows if row.flows == FRESH}
    assert fresh == {OURS, "nftables", "iptables"}


def test_what_arrives_is_the_clients_packet_at_a_backends_port(peers: Peers) -> None:
    with ExitStack() as stack:
        for one in list(peers._contestants(stack, "socket")):
            if one.row.name == ALONE:
                continue
            assert isinstance(one.end, Datagrams)
            one.forget()
            peers.source.aim(one.head, 1, one.program)
            # The sockets share a port: only the one of this trio may see it.
            inside_named(
                one.trio.router,
                partial(_send, peers, one.head),
            )
            body, (address, _) = one.end.first()
            assert len(body) == FRAME_SIZE - 42
            kept = str(peerlab.CLIENTS[0])
            wanted = str(peerlab.SERVICE_ADDRESS) if one.row.name == OURS else kept
            assert address == wanted
