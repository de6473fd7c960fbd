"""Addresses over random histories: never two holders, never out of range, the same when rebuilt."""

from __future__ import annotations

from ipaddress import IPv4Address, ip_address, ip_network

from hypothesis import given, settings
from hypothesis import strategies as st

from controller.ipam.errors import AddressError, ExhaustedError
from controller.ipam.intervals import Intervals
from controller.ipam.ipam import Ipam
from controller.ipam.subnet import Pool, Subnet
from controller.ipam.want import Want

NICS = tuple(f"p{n}.ns" for n in range(12))
GATEWAY = (ip_address("10.0.0.1"), ip_address("fd00::1"))
NETWORKS = (ip_network("10.0.0.0/28"), ip_network("fd00::/124"))
numbers = st.integers(0, 15)
ranges = st.lists(st.tuples(numbers, numbers).map(sorted), max_size=2).map(
    lambda found: tuple(f"10.0.0.{a}..10.0.0.{b}" for a, b in found)
)
wants = st.builds(
    Want,
    st.sampled_from([("a",), ("a", "b"), ("b", "a")]),
    st.sampled_from(["", "", "", "p", "q"]),
    st.one_of(
        st.just(()),
        st.lists(numbers, min_size=1, max_size=2).map(
            lambda found: tuple((IPv4Address("10.0.0.0") + n,) for n in found)
        ),
    ),
    st.sampled_from([None, None, 4, 6]),
)
events = st.one_of(
    st.tuples(st.just("acquire"), st.sampled_from(NICS), wants),
    st.tuples(st.just("acquire"), st.sampled_from(NICS), wants),
    st.tuples(st.just("release"), st.sampled_from(NICS)),
    st.tuples(st.just("pool"), st.sampled_from("pq"), ranges),
    st.tuples(st.just("no pool"), st.sampled_from("pq")),
    st.tuples(st.just("subnet"), st.integers(1, 2), ranges),
)
sets = st.lists(st.tuples(numbers, numbers), max_size=4).map(Intervals.of)


def subnet(name: str, families: int = 2, excluded: tuple[str, ...] = ()) -> Subnet:
    return Subnet(name, NETWORKS[:families], GATEWAY[:families], excluded)


def happen(ipam: Ipam, event: tuple[object, ...]) -> None:
    match event:
        case ("acquire", str(nic), Want() as want):
            ipam.acquire(nic, want)
        case ("release", str(nic)):
            ipam.release(nic)
        case ("pool", str(name), tuple(texts)):
            ipam.set_pool(Pool(name, "a", texts))
        case ("no pool", str(name)):
            ipam.remove_pool("a", name)
        case ("subnet", int(families), tuple(texts)):
            ipam.set_subnet(subnet("a", families, texts))
        case _:
            raise AssertionError(event)


def held(ipam: Ipam) -> set[tuple[str, str]]:
    pairs = [(lease.subnet, str(a)) for lease in ipam.leases() for a in lease.addresses]
    assert len(pairs) == len(set(pairs)), "an address has two holders"
    macs = [(lease.subnet, lease.mac) for lease in ipam.leases()]
    assert len(macs) == len(set(macs)), "a MAC has two holders"
    return set(pairs)


@settings(max_examples=150, deadline=None)
@given(st.lists(events, max_size=40))
def test_no_address_has_two_holders_and_a_refusal_changes_nothing(
    history: list[tuple[object, ...]],
) -> None:
    ipam = Ipam()
    ipam.set_subnet(subnet("a"))
    ipam.set_subnet(subnet("b"))
    for event in history:
        before = held(ipam), tuple(ipam.leases())
        try:
            happen(ipam, event)
        except AddressError:
            assert (held(ipam), tuple(ipam.leases())) == before
        for lease in ipam.leases():
            assert not set(lease.addresses) & set(GATEWAY)
            assert all(any(a in n for n in NETWORKS) for a in lease.addresses)
        held(ipam)


@settings(max_examples=100, deadline=None)
@given(st.lists(events, max_size=30))
def test_rebuilt_from_its_objects_it_has_the_same_and_the_same_room(
    history: list[tuple[object, ...]],
) -> None:
    ipam, pools, last = Ipam(), dict[str, Pool](), subnet("a")
    ipam.set_subnet(last)
    ipam.set_subnet(subnet("b"))
    for event in history:
        try:
            happen(ipam, event)
        except AddressError:
            continue
        match event:
            case ("pool", str(name), tuple(texts)):
                pools[name] = Pool(name, "a", texts)
            case ("no pool", str(name)):
                pools.pop(name, None)
            case ("subnet", int(families), tuple(texts)):
                last = subnet("a", families, texts)
            case _:
                pass
    again = Ipam()
    again.set_subnet(last)
    again.set_subnet(subnet("b"))
    for pool in pools.values():
        again.set_pool(pool)
    for lease in ipam.leases():
        again.restore(lease)
    assert tuple(again.leases()) == tuple(ipam.leases())
    for name in ("a", "b"):
        assert again.usage(name) == ipam.usage(name)
    for name in pools:
        assert again.usage("a", name) == ipam.usage("a", name)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from(NICS), max_size=30), ranges)
def test_what_is_said_to_be_available_can_be_had_and_no_more(
    released: list[str], excluded: tuple[str, ...]
) -> None:
    ipam = Ipam()
    ipam.set_subnet(subnet("a", 1, excluded))
    for nic in NICS:
        try:
            ipam.acquire(nic, Want(("a",)))
        except ExhaustedError:
            break
    for nic in released:
        ipam.release(nic)
    room = ipam.usage("a")[4].available
    for number in range(room):
        ipam.acquire(f"q{number}.ns", Want(("a",)))
    assert ipam.usage("a")[4].available == 0
    try:
        ipam.acquire("one-more.ns", Want(("a",)))
    except ExhaustedError:
        return
    raise AssertionError("more was given than there is")


@given(sets, sets)
def test_intervals_are_sets(one: Intervals, other: Intervals) -> None:
    a, b = set(one.members()), set(other.members())
    assert set((one - other).members()) == a - b
    assert set((one & other).members()) == a & b
    assert set((one | other).members()) == a | b
    assert one.size == len(a)
    for number in range(-1, 18):
        assert (number in one) == (number in a)
        assert one.following(number) == min((m for m in a if m >= number), default=None)
