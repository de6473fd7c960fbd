"""Addresses and MACs of workloads: what is given, what is refused, and how it is said."""

from __future__ import annotations

from ipaddress import ip_address, ip_network

import pytest

from controller.ipam.errors import (
    ConflictError,
    ExhaustedError,
    FamilyError,
    NoSubnetError,
    OutOfRangeError,
    RangeTextError,
)
from controller.ipam.ipam import Ipam, Lease, Usage
from controller.ipam.subnet import Pool, Subnet, networks_of
from controller.ipam.want import Want, want_of
from dataplane.model.addr import Mac

SMALL = Subnet(
    "small", networks_of("10.1.0.0/29", "small"), (ip_address("10.1.0.1"),), ("10.1.0.1",)
)
BOTH = Subnet(
    "both", networks_of("10.2.0.0/24,fd02::/64", "both"),
    (ip_address("10.2.0.1"), ip_address("fd02::1")), ("10.2.0.1..10.2.0.9", "fd02::1"),
)  # fmt: skip
MACS_ONLY = Subnet("macs")


@pytest.fixture
def ipam() -> Ipam:
    made = Ipam()
    for subnet in (SMALL, BOTH, MACS_ONLY):
        made.set_subnet(subnet)
    return made


def want(subnet: str = "small", **more: object) -> Want:
    return Want((subnet,), **more)  # type: ignore[arg-type]


def texts(lease: Lease) -> list[str]:
    return [str(address) for address in lease.addresses]


def fixed(*addresses: str) -> tuple[tuple[object, ...], ...]:
    return (tuple(ip_address(address) for address in addresses),)


def test_hosts_go_out_in_order_without_gateway_and_broadcast(ipam: Ipam) -> None:
    given = [texts(ipam.acquire(f"p{n}.ns", want()))[0] for n in range(5)]
    assert given == ["10.1.0.2", "10.1.0.3", "10.1.0.4", "10.1.0.5", "10.1.0.6"]
    with pytest.raises(ExhaustedError, match=r"p5\.ns: subnet small has no IPv4 address left; wid"):
        ipam.acquire("p5.ns", want())
    assert ipam.lease("p5.ns") is None


def test_what_was_released_comes_last_and_in_the_order_of_its_release(ipam: Ipam) -> None:
    for n in range(3):
        ipam.acquire(f"p{n}.ns", want())
    ipam.release("p1.ns")
    ipam.release("p0.ns")
    given = [texts(ipam.acquire(f"q{n}.ns", want()))[0] for n in range(4)]
    assert given == ["10.1.0.5", "10.1.0.6", "10.1.0.3", "10.1.0.2"]


def test_both_families_and_one_of_them(ipam: Ipam) -> None:
    assert texts(ipam.acquire("a.ns", want("both"))) == ["10.2.0.10", "fd02::2"]
    assert texts(ipam.acquire("b.ns", want("both", version=6))) == ["fd02::3"]
    with pytest.raises(FamilyError, match="subnet small has no IPv6"):
        ipam.acquire("c.ns", want(version=6))


def test_one_fixed_family_is_joined_by_the_other(ipam: Ipam) -> None:
    lease = ipam.acquire("a.ns", want("both", choices=fixed("10.2.0.77")))
    assert texts(lease) == ["10.2.0.77", "fd02::2"]


def test_excluded_addresses_are_for_who_asks(ipam: Ipam) -> None:
    assert texts(ipam.acquire("a.ns", want("both", choices=fixed("10.2.0.5"))))[0] == "10.2.0.5"


@pytest.mark.parametrize(
    ("address", "why"),
    [("10.1.0.1", "is the gateway"), ("10.9.0.1", "is no host's address"),
     ("10.1.0.7", "is no host's address"), ("fd02::9", "is no host's address")],
)  # fmt: skip
def test_an_address_that_cannot_be_is_refused(ipam: Ipam, address: str, why: str) -> None:
    with pytest.raises(OutOfRangeError, match=why):
        ipam.acquire("a.ns", want(choices=fixed(address)))
    assert ipam.lease("a.ns") is None


def test_a_conflict_says_whose_it_is_and_changes_nothing(ipam: Ipam) -> None:
    before = ipam.acquire("a.ns", want(choices=fixed("10.1.0.4")))
    held = ipam.acquire("b.ns", want())
    with pytest.raises(ConflictError, match=r"10\.1\.0\.4 of subnet small is taken by a\.ns") as no:
        ipam.acquire("b.ns", want(choices=fixed("10.1.0.4")))
    assert no.value.holder == "a.ns"
    assert (ipam.lease("a.ns"), ipam.lease("b.ns")) == (before, held)


def test_half_of_a_pair_that_fails_leaves_nothing(ipam: Ipam) -> None:
    ipam.acquire("a.ns", want("both", choices=fixed("10.2.0.50", "fd02::50")))
    with pytest.raises(ConflictError):
        ipam.acquire("b.ns", want("both", choices=fixed("10.2.0.51", "fd02::50")))
    assert texts(ipam.acquire("c.ns", want("both", choices=fixed("10.2.0.51"))))[0] == "10.2.0.51"


def test_the_first_free_choice_is_taken(ipam: Ipam) -> None:
    choices = (*fixed("10.1.0.3"), *fixed("10.1.0.4"))
    assert [texts(ipam.acquire(n, want(choices=choices))) for n in ("a.ns", "b.ns")] == [
        ["10.1.0.3"], ["10.1.0.4"],
    ]  # fmt: skip
    with pytest.raises(ConflictError, match=r"10\.1\.0\.3 .* taken by a\.ns"):
        ipam.acquire("c.ns", want(choices=choices))


def test_the_same_again_is_the_same(ipam: Ipam) -> None:
    first = ipam.acquire("a.ns", want("both"))
    assert ipam.acquire("a.ns", want("both")) is first
    assert ipam.acquire("a.ns", Want(("small", "both"))) is first


def test_who_moves_gives_its_old_address_back(ipam: Ipam) -> None:
    first = ipam.acquire("a.ns", want())
    moved = ipam.acquire("a.ns", want(choices=fixed("10.1.0.6")))
    assert moved.mac == first.mac
    assert texts(ipam.acquire("b.ns", want(choices=fixed("10.1.0.2")))) == ["10.1.0.2"]


def test_the_first_subnet_with_room_is_taken(ipam: Ipam) -> None:
    for n in range(5):
        ipam.acquire(f"p{n}.ns", want())
    assert ipam.acquire("q.ns", Want(("small", "both"))).subnet == "both"
    with pytest.raises(NoSubnetError, match="there is no subnet 'none'"):
        ipam.acquire("r.ns", Want(("none",)))
    with pytest.raises(NoSubnetError, match="no subnet is named for it"):
        ipam.acquire("r.ns", Want(()))


def test_a_pools_addresses_are_for_who_names_it(ipam: Ipam) -> None:
    ipam.set_pool(Pool("web", "small", ("10.1.0.2..10.1.0.3", "10.1.0.1")))
    assert texts(ipam.acquire("a.ns", want())) == ["10.1.0.4"]
    assert texts(ipam.acquire("b.ns", want(pool="web"))) == ["10.1.0.2"]
    ipam.acquire("c.ns", want(pool="web"))
    with pytest.raises(ExhaustedError, match="pool web has no IPv4 address left"):
        ipam.acquire("d.ns", want(pool="web"))
    assert ipam.usage("small", "web") == {4: Usage(2, 0)}
    with pytest.raises(ConflictError, match=r"10\.1\.0\.3 is in pool web too"):
        ipam.set_pool(Pool("other", "small", ("10.1.0.3",)))
    ipam.remove_pool("small", "web")
    ipam.release("b.ns")
    given = [texts(ipam.acquire(f"q{n}.ns", want()))[0] for n in range(3)]
    assert given == ["10.1.0.5", "10.1.0.6", "10.1.0.2"]


def test_macs_are_unicast_local_and_ones_own(ipam: Ipam) -> None:
    lease = ipam.acquire("a.ns", want("macs"))
    assert lease.addresses == ()
    assert lease.mac.packed()[0] & 3 == 2
    ipam.release("a.ns")
    assert ipam.acquire("a.ns", want("macs")).mac == lease.mac
    with pytest.raises(ConflictError, match=r"is the MAC of a\.ns"):
        ipam.acquire("b.ns", want("macs", mac=lease.mac))


def test_a_subnet_cannot_shrink_from_under_its_workloads(ipam: Ipam) -> None:
    ipam.acquire("a.ns", want("both"))
    with pytest.raises(OutOfRangeError, match=r"10\.2\.0\.10 of a\.ns is not in its networks"):
        ipam.set_subnet(Subnet("both", (ip_network("10.3.0.0/24"), *BOTH.networks[1:])))
    with pytest.raises(ConflictError, match=r"the gateway 10\.2\.0\.10 is the address of a\.ns"):
        ipam.set_subnet(Subnet("both", BOTH.networks, (ip_address("10.2.0.10"),)))
    assert ipam.usage("both")[4].available == 244


def test_a_subnet_grows(ipam: Ipam) -> None:
    for n in range(5):
        ipam.acquire(f"p{n}.ns", want())
    ipam.set_subnet(Subnet("small", networks_of("10.1.0.0/28", "small"), SMALL.gateways))
    assert texts(ipam.acquire("q.ns", want())) == ["10.1.0.7"]


def test_a_subnet_that_goes_takes_its_leases_along(ipam: Ipam) -> None:
    ipam.acquire("a.ns", want())
    ipam.remove_subnet("small")
    assert list(ipam.leases()) == []


def test_an_ipv6_subnet_is_counted_and_not_listed(ipam: Ipam) -> None:
    assert ipam.usage("both")[6] == Usage(0, 2**64 - 2)


def test_what_is_restored_is_checked(ipam: Ipam) -> None:
    kept = ipam.acquire("a.ns", want())
    other = Ipam()
    other.set_subnet(SMALL)
    other.restore(kept)
    assert other.lease("a.ns") == kept
    with pytest.raises(ConflictError):
        other.restore(Lease("b.ns", "small", kept.addresses, Mac("02:00:00:00:00:01")))
    with pytest.raises(NoSubnetError):
        other.restore(Lease("b.ns", "both", (), Mac("02:00:00:00:00:01")))


@pytest.mark.parametrize("text", ["10.1.0.0", "10.1.0.1/24", "10.1.0.0/24,10.2.0.0/24", "x"])
def test_a_network_that_is_none_is_named(text: str) -> None:
    if text == "10.1.0.0":
        assert networks_of(text, "s")[0].prefixlen == 32
        return
    with pytest.raises(RangeTextError, match="subnet s: cidrBlock"):
        networks_of(text, "s")


@pytest.mark.parametrize("text", ["10.1.0.9..10.1.0.2", "10.1.0.2..fd00::1", "10.1.0.300", ".."])
def test_a_range_that_is_none_changes_nothing(ipam: Ipam, text: str) -> None:
    with pytest.raises(RangeTextError, match="subnet small"):
        ipam.set_subnet(Subnet("small", SMALL.networks, SMALL.gateways, (text,)))
    assert ipam.usage("small")[4].available == 5


def test_annotations_say_what_is_wanted() -> None:
    said = want_of(
        {
            "ovn.kubernetes.io/logical_switch": "red, blue",
            "ovn.kubernetes.io/ip_address": "10.1.0.5,fd00::5",
            "ovn.kubernetes.io/mac_address": "00:16:3E:00:00:05",
        },
        ("green",),
    )
    assert said == Want(
        ("red", "blue"), "", fixed("10.1.0.5", "fd00::5"), None, Mac("00:16:3e:00:00:05")  # type: ignore[arg-type]
    )  # fmt: skip


def test_a_remark_behind_a_value_is_none_of_it() -> None:
    said = want_of(
        {
            "ovn.kubernetes.io/ip_address": "10.1.0.9   // or both: 10.1.0.9,fd00:1::9",
            "ovn.kubernetes.io/mac_address": "00:00:00:53:6B:B6",
        },
        ("s",),
    )
    assert said.choices == ((ip_address("10.1.0.9"),),)
    listed = {"ovn.kubernetes.io/ip_pool": "10.1.0.5,10.1.0.6 // or 10.1.0.7;10.1.0.8"}
    assert len(want_of(listed, ("s",)).choices) == 2


def test_older_annotations_are_for_the_first_interface() -> None:
    older = {"kube-ovn/ipv4": "10.1.0.5", "kube-ovn/mac": "00:16:3e:00:00:05"}
    assert want_of(older, ("s",)).choices == fixed("10.1.0.5")
    assert want_of(older, ("s",), "net1.ns.ovn") == Want(("s",))


@pytest.mark.parametrize(
    ("text", "pool", "choices"),
    [
        ("web", "web", []),
        ("10.1.0.5", "", [["10.1.0.5"]]),
        ("10.1.0.5,10.1.0.6", "", [["10.1.0.5"], ["10.1.0.6"]]),
        ("10.1.0.5,fd00::5", "", [["10.1.0.5", "fd00::5"]]),
        (
            "10.1.0.5,fd00::5;10.1.0.6,fd00::6",
            "", [["10.1.0.5", "fd00::5"], ["10.1.0.6", "fd00::6"]],
        ),
    ],
)  # fmt: skip
def test_a_pool_is_a_name_or_a_list(text: str, pool: str, choices: list[list[str]]) -> None:
    said = want_of({"ovn.kubernetes.io/ip_pool": text}, ("s",))
    assert (said.pool, [[str(a) for a in choice] for choice in said.choices]) == (pool, choices)


def test_a_stateful_pod_has_its_own_entry_of_a_list() -> None:
    listed = {"ovn.kubernetes.io/ip_pool": "10.1.0.5,10.1.0.6"}
    assert want_of(listed, ("s",), ordinal=1).choices == fixed("10.1.0.6")
    with pytest.raises(RangeTextError, match="has 2 entries, and this pod is number 2"):
        want_of(listed, ("s",), ordinal=2)


@pytest.mark.parametrize(
    ("key", "value", "why"),
    [
        ("ip_address", "10.1.0", "'10.1.0' is no address"),
        ("ip_address", "10.1.0.5,10.1.0.6", "two addresses of one family"),
        ("mac_address", "01:00:5e:00:00:01", "is a group address"),
        ("mac_address", "x", "is not an Ethernet address"),
        ("ip_pool", "10.1.0.5,web", "'web' is no address"),
    ],
)
def test_an_annotation_that_cannot_be_read_is_named(key: str, value: str, why: str) -> None:
    with pytest.raises(RangeTextError, match=why) as refused:
        want_of({f"ovn.kubernetes.io/{key}": value}, ("s",))
    assert f"ovn.kubernetes.io/{key}" in str(refused.value)


@pytest.mark.parametrize(
    ("key", "text"),
    [
        ("ip_address", "10.1.0.9"),
        ("ip_address", "10.1.0.9,fd00:1::9"),
        ("ip_pool", "10.1.0.9,10.1.0.8"),
    ],
)
def test_fixed_addresses_are_of_the_family_that_is_asked_for(key: str, text: str) -> None:
    said = {"ovn.kubernetes.io/ip_family": "ipv6", f"ovn.kubernetes.io/{key}": text}
    with pytest.raises(FamilyError, match=f"ip_family is ipv6, and .*{key} has 10.1.0.9"):
        want_of(said, ("s",))
    said["ovn.kubernetes.io/ip_family"] = "dual"
    assert want_of(said, ("s",)).choices


def test_one_fixed_address_of_one_family_is_all(ipam: Ipam) -> None:
    said = {"ovn.kubernetes.io/ip_family": "ipv4", "ovn.kubernetes.io/ip_address": "10.2.0.77"}
    assert texts(ipam.acquire("a.ns", want_of(said, ("both",)))) == ["10.2.0.77"]


def test_a_family_that_is_none_is_named() -> None:
    assert want_of({"ovn.kubernetes.io/ip_family": "IPv6"}, ("s",)).version == 6
    with pytest.raises(FamilyError, match="say ipv4, ipv6 or dual"):
        want_of({"ovn.kubernetes.io/ip_family": "ipx"}, ("s",))
