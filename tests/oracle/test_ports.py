"""Source ports and room, told as they come: kept, chosen, of the second choice, refused."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.oracle import crafted
from tests.oracle.flows import FIRST_CHOICE, PRIVILEGED
from tests.oracle.pair import Pair
from tests.oracle.place import standing
from tests.oracle.states import TICKS
from tests.oracle.tables import Table
from tests.oracle.test_found import OTHER, VIP, answers, asks, given, given_last, service, told
from tests.oracle.wire import ACK, IPV4, TCP, UDP
from tests.oracle.worlds import GATEWAY_MAC, PODS, SERVICE_MAC, SVC, Comes, Passes, Serves, Setting

pytestmark = pytest.mark.oracle

FULL = Setting(table=Table.CROWDED)
NEARLY_FULL = Setting(table=Table.LADEN, others=int(Table.LADEN.records * 0.98))


@contextmanager
def serving(proto: int, setting: Setting) -> Iterator[Pair]:
    """Programs and model over a table, with one service of one backend."""
    with standing(setting.table) as bench:
        pair = told(bench, setting)
        pair.apply(Serves(service(proto)))
        yield pair


def asks_inside(port: int) -> Comes:
    """A datagram of a client behind OVN."""
    pod = PODS[4][1]
    packet = crafted.ip(pod, VIP, UDP, crafted.udp(pod, VIP, port, 80))
    return Comes(SVC, crafted.eth(SERVICE_MAC, GATEWAY_MAC, IPV4, packet))


def counted(pair: Pair, event: Comes) -> str:
    """The reason, and the model agrees."""
    assert pair.apply(event) is None, event
    assert pair.last is not None
    return pair.last.reason


def test_a_privileged_port_is_kept_as_long_as_it_is_free() -> None:
    with serving(UDP, Setting()) as pair:
        assert given(pair, asks(proto=UDP, port=700)) == 700
        assert given(pair, asks(proto=UDP, port=700, src=OTHER)) >= FIRST_CHOICE
        assert given(pair, asks(proto=UDP, port=PRIVILEGED)) >= FIRST_CHOICE
        assert given(pair, asks(proto=UDP, port=0)) >= FIRST_CHOICE
        pair.apply(Passes(30 * TICKS + 1))
        assert given(pair, asks(proto=UDP, port=700, src=OTHER)) == 700


def test_established_flows_fill_a_table_and_none_of_them_ends() -> None:
    with serving(TCP, FULL) as pair:
        known, refused = dict[int, int](), 0
        for port in range(2000, 2200):
            if counted(pair, asks(port=port)) == "DROP_CT_FULL":
                refused += 1
                continue
            known[port] = given_last(pair)
            assert counted(pair, answers(port=known[port])) == "SVC_REPLY"
            assert counted(pair, asks(ACK, port=port)) == "VIP_FORWARD"
        assert refused
        assert Table.CROWDED.records // 2 < len(known) <= Table.CROWDED.records
        for port, ours in known.items():
            assert counted(pair, asks(ACK, port=port)) == "VIP_FORWARD"
            assert counted(pair, answers(ACK, port=ours)) == "SVC_REPLY"


def test_a_new_flow_takes_the_place_of_one_that_nobody_answered() -> None:
    with serving(TCP, FULL) as pair:
        for port in range(2000, 2000 + 4 * Table.CROWDED.records):
            assert counted(pair, asks(port=port)) == "VIP_NEW"


def test_what_comes_by_one_door_ends_no_flow_of_the_other_while_there_is_room() -> None:
    # Seen: each program went where the other had been just before, and took what nobody had
    # answered yet, in a table of which a twentieth was in use.
    each, turns = Table.ROOMY.records // 16, (0, 1, 0, 1)
    with serving(UDP, Setting()) as pair:
        for turn, inside in enumerate(turns):
            for port in range(2000 + turn * each, 2000 + (turn + 1) * each):
                asked = asks_inside(port) if inside else asks(proto=UDP, port=port)
                assert counted(pair, asked) == ("SVC_NEW" if inside else "VIP_NEW")
        for turn, inside in enumerate(turns):
            for port in range(2000 + turn * each, 2000 + (turn + 1) * each):
                asked = asks_inside(port) if inside else asks(proto=UDP, port=port)
                assert counted(pair, asked) == ("SVC_FORWARD" if inside else "VIP_FORWARD")


def test_a_port_of_the_second_choice_has_its_replies() -> None:
    with serving(UDP, NEARLY_FULL) as pair:
        second = 0
        for port in range(2000, 2400):
            if counted(pair, asks(proto=UDP, port=port)) == "VIP_NEW":
                ours = given_last(pair)
                assert counted(pair, answers(proto=UDP, port=ours)) == "SVC_REPLY"
                second += ours < FIRST_CHOICE
        assert second
