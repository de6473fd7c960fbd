"""vswitchd's answers, as OVS 3.1 and others print them, and any text whatever."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataplane.drivers.ovsreports.connections import Limits, Zone, by_protocol, limits, number
from dataplane.drivers.ovsreports.datapath import Datapath, Upcalls, datapaths, memory, upcalls
from dataplane.drivers.ovsreports.pools import Heap, Mempool, heaps, mempools
from dataplane.drivers.ovsreports.wires import (
    Bond,
    LacpMember,
    Member,
    Neighbour,
    bonds,
    lacp_members,
    neighbours,
)
from dataplane.drivers.ovstext import (
    PmdThread,
    Rxq,
    cycles_of_threads,
    parse_coverage,
    pmd_threads,
)

GOLDEN = Path(__file__).parents[1] / "golden"
SAMPLES = sorted(GOLDEN.rglob("*.txt"))


def sample(name: str) -> str:
    """A sample's text, without the line that names its source."""
    head, _, text = (GOLDEN / name).read_text(encoding="utf-8").partition("\n")
    assert head.startswith("# Source: ")
    return text


@pytest.mark.parametrize("path", SAMPLES, ids=lambda path: path.name)
def test_every_sample_names_its_source(path: Path) -> None:
    head = path.read_text(encoding="utf-8").partition("\n")[0]
    source = head.removeprefix("# Source: ")
    assert source != head
    assert any(word in source for word in ("https://", "recorded from OVS", "found by the text"))


def test_mempools() -> None:
    (pool,) = mempools(sample("ovs-3.1/get-mempool-info.txt"))
    assert pool == Mempool("ovs7b6aaf3600021580262144", 0, 262144, 262144, 2880)
    assert pool.in_use == 0
    low, plain = mempools(sample("ovs-others/dpdk-25.11-get-mempool-info.txt"))
    assert low == Mempool("ovs0a1b2c3d00002100262144", 1, 262144, 20300, 3008)
    assert low.in_use == 241844
    assert (plain.numa, plain.available) == (-1, 16384)


def test_heaps() -> None:
    assert heaps(sample("ovs-3.1/get-malloc-stats.txt")) == (
        Heap("socket_0", 933232640, 138734208),
    )


def test_datapaths() -> None:
    assert datapaths(sample("ovs-3.1/dpctl-show.txt")) == (
        Datapath("netdev", "ovs-netdev", 11, 79792940, 21, 0),
    )
    assert datapaths(sample("ovs-others/3.x-dpctl-show.txt")) == (
        Datapath("system", "ovs-system", 77, 123456, 11, 22),
    )
    assert datapaths(sample("ovs-others/3.3-dpctl-show.txt")) == (
        Datapath("dummy", "dp0", 0, 0, 0, 0),
    )


def test_upcalls() -> None:
    assert upcalls(sample("ovs-3.1/upcall-show.txt")) == (
        Upcalls("netdev@ovs-netdev", 11, 11, 21, 21000, 1, 11),
    )
    assert upcalls(sample("ovs-others/2.9-upcall-show.txt")) == (
        Upcalls("system@ovs-system", 2, 164, 16622, 200000, 2, 0),
    )


def test_memory() -> None:
    assert memory(sample("ovs-3.1/memory-show.txt")) == {
        "handlers": 1,
        "idl-cells-Open_vSwitch": 745,
        "ports": 12,
        "revalidators": 1,
        "rules": 535,
        "udpif keys": 11,
    }
    assert memory(sample("ovs-others/3.x-memory-show.txt"))["rules"] == 190


def test_connections() -> None:
    assert number(sample("ovs-3.1/ct-get-nconns.txt")) == 2
    assert number(sample("ovs-3.1/ct-get-maxconns.txt")) == 3_000_000
    assert by_protocol(sample("ovs-3.1/ct-stats-show.txt")) == {"udp": 2}
    assert by_protocol("Connections Stats:\n    Total: 7\n  TCP: 4\n  ICMPv6: 1\n") == {
        "tcp": 4,
        "icmpv6": 1,
        "other": 2,
    }
    assert limits(sample("ovs-3.1/ct-get-limits.txt")) == Limits(100000, {5: Zone(20000, 1)})
    assert limits(sample("ovs-others/3.x-ct-get-limits.txt")) == Limits(
        0, {2: Zone(1_000_000, 0), 3: Zone(1_000_000, 0)}
    )


def test_neighbours() -> None:
    assert neighbours(sample("ovs-3.1/tnl-neigh-show.txt")) == (
        Neighbour("10.9.0.2", "0a:00:00:00:00:02", "br-phy"),
    )


def test_bonds() -> None:
    left, right = bonds(sample("ovs-3.1/bond-show.txt"))
    assert left == Bond(
        "bondl",
        "balance-tcp",
        "negotiated",
        (Member("l0", enabled=True, active=False), Member("l1", enabled=True, active=True)),
    )
    assert right.members[0] == Member("r0", enabled=True, active=True)
    (newer,) = bonds(sample("ovs-others/3.2-bond-show.txt"))
    assert (newer.mode, newer.lacp, [m.name for m in newer.members]) == (
        "balance-slb",
        "off",
        ["eno1", "eno2"],
    )
    (older,) = bonds(sample("ovs-others/2.5-bond-show.txt"))
    assert older.members == (
        Member("eth0", enabled=True, active=True),
        Member("eth1", enabled=False, active=False),
    )


def test_lacp() -> None:
    found = lacp_members(sample("ovs-3.1/lacp-show-stats.txt"))
    assert found[0] == LacpMember("bondl", "l0", 0, 0, 0, 0)
    assert [(one.bond, one.name) for one in found[2:]] == [("bondr", "r0"), ("bondr", "r1")]
    assert lacp_members(sample("ovs-3.1/lacp-show.txt"))[0].name == "l0"


def test_pmd_threads_of_several_versions() -> None:
    (thread,) = pmd_threads(sample("ovs-3.1/pmd-perf-show.txt"), sample("ovs-3.1/pmd-rxq-show.txt"))
    assert thread.counters["Rx packets"] == 79321728
    assert thread.ratios["cycles/pkt"] == 418
    assert [rxq.interface for rxq in thread.rxqs] == ["absent", "pa", "pb"]
    (newest,) = pmd_threads(sample("ovs-others/4.0-pmd-perf-show.txt"))
    assert newest.counters["Lost upcalls"] == 2
    assert newest.counters["Megaflow hits"] == 19999990
    assert "MFEX Opt hits" not in newest.counters
    (sleepy,) = pmd_threads(sample("ovs-others/3.3-pmd-perf-show-sleep.txt"))
    assert sleepy.counters["Sleep time (us)"] == 9068841


def test_queues_of_several_versions() -> None:
    busy, idle = pmd_threads("", sample("ovs-others/3.2-pmd-rxq-show.txt"))
    assert (busy.numa, busy.cpu, [rxq.queue for rxq in busy.rxqs]) == (1, 1, [0, 1, 7])
    assert (busy.overhead, busy.rxqs[0].usage) == (None, None)
    assert (idle.numa, idle.cpu, idle.rxqs) == (0, 2, ())
    (doca,) = pmd_threads("", sample("ovs-others/3.x-doca-pmd-rxq-show.txt"))
    assert (doca.isolated, doca.overhead, len(doca.rxqs)) == (True, 0, 3)
    (old,) = pmd_threads("", sample("ovs-others/2.13-pmd-rxq-show.txt"))
    assert old.rxqs == (Rxq("dpdk1", 1, True, 96), Rxq("dpdk13", 1, True, 0))
    (other,) = pmd_threads("", sample("ovs-others/3.x-exporter-lines.txt"))
    assert (other.cpu, other.overhead, other.rxqs[0].usage) == (39, 11, 43)


def test_cycles() -> None:
    stats = cycles_of_threads(sample("ovs-3.1/pmd-stats-show.txt"))
    assert stats == {(0, 1): (6322639112, 33178339938)}
    # OVS 4.0 has that command no more: of pmd-perf-show, what its percentages say.
    perf = cycles_of_threads(sample("ovs-others/4.0-pmd-perf-show.txt"))
    assert perf == {(0, 4): (99003300000, 33001100000)}


def test_coverage() -> None:
    found = parse_coverage(sample("ovs-3.1/coverage-show.txt"))
    assert found["drop_action_of_pipeline"].total == 63
    other = parse_coverage(sample("ovs-others/3.x-coverage-show.txt"))
    assert other["ofproto_recv_openflow"].total == 2020864


PARSERS: tuple[Callable[[str], object], ...] = (
    mempools,
    heaps,
    datapaths,
    upcalls,
    memory,
    number,
    by_protocol,
    limits,
    neighbours,
    bonds,
    lacp_members,
    pmd_threads,
    cycles_of_threads,
    parse_coverage,
)
WORDS = st.sampled_from(
    sorted({word for path in SAMPLES for word in path.read_text(encoding="utf-8").split(" ")})
)


@pytest.mark.parametrize("parser", PARSERS, ids=lambda parser: parser.__name__)
@given(text=st.one_of(st.text(), st.lists(WORDS).map(" ".join)))
def test_no_text_is_an_error(parser: Callable[[str], object], text: str) -> None:
    assert parser(text) == parser(text)


@pytest.mark.parametrize("parser", PARSERS, ids=lambda parser: parser.__name__)
@given(data=st.data())
def test_a_sample_cut_anywhere_is_no_error(
    parser: Callable[[str], object], data: st.DataObject
) -> None:
    text = data.draw(st.sampled_from(SAMPLES)).read_text(encoding="utf-8")
    start = data.draw(st.integers(0, len(text)))
    end = data.draw(st.integers(start, len(text)))
    assert parser(text[start:end]) == parser(text[start:end])


def test_a_thread_is_known_by_either_text() -> None:
    assert pmd_threads("", "pmd thread numa_id 0 core_id 3:\n") == (PmdThread(0, 3),)
