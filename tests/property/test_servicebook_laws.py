"""The book of services against the plan as a whole, after any history of changes.

Both are asked with the ids that the maps hold at that moment, so the choice of fresh ids, which is
history's, is no part of the comparison; that ids are kept, and shared by nobody, is a law apart.
"""

from __future__ import annotations

from ipaddress import ip_address, ip_network
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dataplane.model.addr import L4Addr, Mac, Protocol
from dataplane.model.service import (
    Backend,
    EndpointState,
    Forwarding,
    Place,
    ServedBy,
    Service,
    ServiceKind,
    TrafficPolicy,
)
from dataplane.model.state import HeldIds
from dataplane.plan.ids import Numbers, OutOfIds
from dataplane.plan.served import Circumstances, served
from dataplane.plan.servicebook import Changes, ServiceBook
from dataplane.plan.services import Vantage, port_key

OWN = (ip_address("172.18.0.11"), ip_address("fd18::11"))
HERE = Vantage(
    "n1", "east", OWN, {Place.LOCAL: 1442, Place.REMOTE: 1400}, {"n2": Mac("0a:58:ac:12:00:70")}
)
PLACES = (Place.LOCAL, Place.REMOTE, Place.HOST, Place.OTHER_HOST)
ROWS = ("a", "b", "c", "d")


def target(number: int) -> L4Addr:
    return L4Addr(Protocol.TCP, ip_address(f"10.1.0.{number}"), 8080)


@st.composite
def backends(draw: st.DrawFn) -> tuple[Backend, ...]:
    numbers = draw(st.lists(st.integers(1, 8), unique=True, max_size=4))
    return tuple(
        Backend(
            target(number),
            # Where a backend is follows from its address.
            PLACES[number % 3],
            f"p{number}",
            draw(st.sampled_from(EndpointState)),
            draw(st.integers(1, 2)),
            {0: "n1", 1: "n2"}.get(number % 3),
        )
        for number in numbers
    )


@st.composite
def services(draw: st.DrawFn, row: str) -> tuple[Service, ...]:
    """Of one row: its VIPs are its own, as `Claims` sees to; identities may be other rows' too."""
    found = []
    for number in draw(st.lists(st.integers(0, 2), unique=True, max_size=3)):
        kind = draw(st.sampled_from(ServiceKind))
        port = 80 + 10 * ROWS.index(row) + number
        node = kind in {ServiceKind.NODE_PORT, ServiceKind.HOST_PORT}
        host = "0.0.0.0" if node else draw(st.sampled_from(("192.0.2.1", "192.0.2.2")))
        found.append(
            Service(
                row,
                L4Addr(Protocol.TCP, ip_address(host), port),
                draw(backends()),
                draw(st.sampled_from(TrafficPolicy)),
                draw(st.sampled_from((ServedBy.XDP, ServedBy.XDP, ServedBy.NOBODY))),
                "why",
                draw(st.sampled_from(("x", "y", f"{row}:{number}"))),
                kind,
                affinity_s=draw(st.sampled_from((0, 30))),
                source_ranges=draw(
                    st.sampled_from(((), (ip_network("10.0.0.0/8"), ip_network("192.0.2.0/24"))))
                ),
                forwarding=draw(st.sampled_from(Forwarding)),
            )
        )
    return tuple(found)


changes = st.fixed_dictionaries(
    {}, optional={row: st.one_of(st.none(), services(row)) for row in ROWS}
)
histories = st.lists(st.tuples(changes, st.booleans()), min_size=1, max_size=8)
held_before = st.builds(
    HeldIds,
    st.dictionaries(
        st.builds(
            L4Addr,
            st.just(Protocol.TCP),
            st.sampled_from((ip_address("192.0.2.1"), ip_address("192.0.2.2"))),
            st.integers(80, 92),
        ),
        st.integers(1, 6),
    ),
    # A number is one backend's, and many VIPs'.
    st.lists(st.integers(1, 20), unique=True, max_size=8).map(
        lambda numbers: {target(at): number for at, number in enumerate(numbers, 1)}
    ),
    st.just(30),
    st.just(30),
)
announcing = st.sampled_from((None, frozenset({"n1", "n2"}), frozenset({"n2"})))


def flat(rows: dict[str, tuple[Service, ...]]) -> tuple[Service, ...]:
    return tuple(service for row in sorted(rows) for service in rows[row])


def taken(tables: dict[str, dict[Any, Any]], changed: Changes) -> None:
    for table, rows in changed.items():
        for key, row in rows.items():
            if row is None:
                del tables[table][key]
            else:
                assert tables[table].get(key) != row, "what does not differ is no change"
                tables[table][key] = row


def shown(book: ServiceBook) -> dict[str, dict[Any, Any]]:
    now = book.served()
    return {
        "vips": dict(now.tables.vips),
        "sets": dict(now.tables.sets),
        "backends": dict(now.tables.backends),
        "source_ranges": dict(now.tables.source_ranges),
        "known_addresses": dict(now.known),
    }


@settings(max_examples=300, deadline=None)
@given(
    st.fixed_dictionaries({row: services(row) for row in ROWS}), histories, held_before, announcing
)
def test_after_any_history_the_book_is_the_whole_plan(
    first: dict[str, tuple[Service, ...]],
    history: list[tuple[dict[str, tuple[Service, ...] | None], bool]],
    held: HeldIds,
    announcers: frozenset[str] | None,
) -> None:
    rows = dict(first)
    around = Circumstances(HERE, held, OWN, announcers)
    book = ServiceBook(rows, around)
    # From the same held ids both choose the same fresh ones, too.
    assert book.served() == served(flat(rows), around)
    tables = shown(book)
    for change, settled in history:
        before = book.held()
        ports = {(port_key(s), s.vip) for s in flat(rows) if s.served_by is ServedBy.XDP}
        rows |= {row: found or () for row, found in change.items()}
        taken(tables, book.change(change))
        assert tables == shown(book)
        now = book.served()
        after = Circumstances(HERE, book.held(), OWN, announcers)
        assert now == served(flat(rows), after)
        for service in flat(rows):
            vip = service.vip
            if (port_key(service), vip) in ports and service.served_by is ServedBy.XDP:
                assert now.tables.vips[vip].service_id == before.services[vip]
        for number, entry in now.tables.backends.items():
            assert before.backends.get(entry.target, number) == number
        if settled:
            book.settle()
            assert book.served() is now


@settings(deadline=None)
@given(services("a"), services("a"))
def test_there_and_back_changes_everything_back(
    first: tuple[Service, ...], other: tuple[Service, ...]
) -> None:
    book = ServiceBook({"a": first}, Circumstances(HERE, HeldIds(), OWN))
    before = book.served()
    book.change({"a": other})
    book.change({"a": first})
    again = ServiceBook({"a": first}, Circumstances(HERE, book.held(), OWN))
    assert book.served() == again.served()
    assert book.served().known == before.known
    assert book.served().replies == before.replies
    assert book.change({"a": first}) == {}


def test_numbers_are_given_as_a_whole_allocation_would() -> None:
    numbers = Numbers(4, [2], [1])
    assert [numbers.take(), numbers.take(), numbers.take()] == [3, 4, 1]
    with pytest.raises(OutOfIds, match="room for 4"):
        numbers.take()
    numbers.give_back(3)
    assert not numbers.take_back(4)
    assert numbers.take_back(3)
    numbers.give_back(2)
    numbers.settle()
    assert numbers.take() == 2
