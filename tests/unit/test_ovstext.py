"""vswitchd's texts, as OVS 3.1 and others print them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataplane.drivers.ovstext import (
    PmdCounters,
    PmdThread,
    Rxq,
    measured_seconds,
    parse_coverage,
    parse_megaflows,
    pmd_counters,
    pmd_threads,
)

GOLDEN = Path(__file__).parents[1] / "golden"

PERF = """
Time: 02:34:17.887
Measurement duration: 12.094 s

pmd thread numa_id 0 core_id 1:

  Iterations:                13384  (15719305887.63 us/it)
  - Used TSC cycles:     210387190  (223816159574.5 % of total cycles)
  - idle iterations:         13379  ( 93.5 % of used cycles)
  - busy iterations:             5  (  6.5 % of used cycles)
  - sleep iterations:            3  (  0.0 % of iterations)
  Sleep time (us):               0  (  0 us/iteration avg.)
  Rx packets:                 1000  (4731 Kpps, 379 cycles/pkt)
  Datapath passes:            3000  (3.00 passes/pkt)
  - PHWOL hits:                  0  (  0.0 %)
  - MFEX Opt hits:               0  (  0.0 %)
  - Simple Match hits:           7  (  0.0 %)
  - EMC hits:                   10  (  0.0 %)
  - SMC hits:                    2  (  0.0 %)
  - Megaflow hits:            2980  ( 80.0 %, 1.50 subtbl lookups/hit)
  - Upcalls:                     1  ( 20.0 %, 0.0 us/upcall)
  - Lost upcalls:                4  (  0.0 %)
  Tx packets:                  990  (0 Kpps)
  Tx batches:                   33  (30.00 pkts/batch)

pmd thread numa_id 1 core_id 3:

  Iterations:                    0
  - Used TSC cycles:             0
  Rx packets:                    0
"""

# OVS 2.17: no line of sleep, other indentation; and words that no version knows yet.
OTHER = """pmd thread numa_id -1 core_id 12:

  Iterations:        9 (1.00 us/it)
    - idle iterations:  4
  Rx packets:  5 (1 Kpps, 10 cycles/pkt)
  Brand new counter:  77  (whatever)
  a line without a number

main thread:

  Rx packets:  99 (1 Kpps, 10 cycles/pkt)
"""


def test_pmd_threads_of_ovs_3_1() -> None:
    first, second = pmd_threads(PERF)
    assert (first.numa, first.cpu, second.numa, second.cpu) == (0, 1, 1, 3)
    assert first.counters == {
        "Iterations": 13384,
        "Used TSC cycles": 210387190,
        "idle iterations": 13379,
        "busy iterations": 5,
        "sleep iterations": 3,
        "Sleep time (us)": 0,
        "Rx packets": 1000,
        "Datapath passes": 3000,
        "PHWOL hits": 0,
        "MFEX Opt hits": 0,
        "Simple Match hits": 7,
        "EMC hits": 10,
        "SMC hits": 2,
        "Megaflow hits": 2980,
        "Upcalls": 1,
        "Lost upcalls": 4,
        "Tx packets": 990,
        "Tx batches": 33,
    }
    assert (first.ratios["cycles/pkt"], first.ratios["passes/pkt"]) == (379.0, 3.0)
    assert first.ratios["subtbl lookups/hit"] == 1.5
    assert second.counters == {"Iterations": 0, "Used TSC cycles": 0, "Rx packets": 0}
    assert "cycles/pkt" not in second.ratios
    assert measured_seconds(PERF) == 12.094


def test_other_versions_are_read_as_far_as_they_go() -> None:
    (only,) = pmd_threads(OTHER)
    assert (only.numa, only.cpu) == (-1, 12)
    assert (only.counters["Rx packets"], only.counters["idle iterations"]) == (5, 4)
    assert "Datapath passes" not in only.counters


def test_the_two_texts_of_vswitchd_become_threads() -> None:
    first, second = pmd_threads(
        (GOLDEN / "pmd-perf-show.txt").read_text(encoding="utf-8"),
        (GOLDEN / "pmd-rxq-show.txt").read_text(encoding="utf-8"),
    )
    assert (first.numa, first.cpu) == (0, 1)
    assert first.counters["Rx packets"] == 2400
    assert first.counters["idle iterations"] == 834100
    assert first.counters["Sleep time (us)"] == 12
    assert first.rxqs == (Rxq("up0", 0, enabled=True, usage=12), Rxq("vhu0", 1, False, None))
    assert (first.isolated, first.overhead) == (False, 5)
    assert second == PmdThread(1, 9, isolated=True, overhead=None)


@pytest.mark.parametrize("text", ["", "\n", "pmd thread numa_id x core_id 1:\n  Rx packets: 1\n"])
def test_text_that_says_nothing_is_no_threads(text: str) -> None:
    assert pmd_threads(text, text) == ()


STATS = """pmd thread numa_id 0 core_id 1:
  packets received: 5
  packet recirculations: 2
  avg. datapath passes per packet: 1.00
  megaflow hits: 4
  idle cycles: 228408414 (94.33%)
  processing cycles: 13720564 (5.67%)
  avg cycles per packet: 48425795.60 (242128978/5)
main thread:
  packets received: 7
"""


def test_pmd_stats() -> None:
    assert {thread.cpu: thread.counters for thread in pmd_threads(STATS)} == {
        1: {
            "packets received": 5,
            "packet recirculations": 2,
            "megaflow hits": 4,
            "idle cycles": 228408414,
            "processing cycles": 13720564,
        }
    }


TWO_THREADS = """pmd thread numa_id 0 core_id 1:
  packets received: 1000
  packet recirculations: 500
  avg. datapath passes per packet: 1.50
  phwol hits: 0
  emc hits: 900
  avg. subtable lookups per megaflow hit: 1.00
  miss with success upcall: 3
  miss with failed upcall: 1
  avg. packets per output batch: 20.00
  idle cycles: 10000000 (90.00%)
  processing cycles: 400000 (10.00%)
  avg cycles per packet: 10400.00 (10400000/1000)
  avg processing cycles per packet: 400.00 (400000/1000)
pmd thread numa_id 0 core_id 2:
  packets received: 1000
  packet recirculations: 0
  miss with failed upcall: 0
  processing cycles: 100000 (10.00%)
main thread:
  packets received: 77
  packet recirculations: 7
"""


def test_the_main_thread_counts_only_if_asked() -> None:
    assert pmd_counters(TWO_THREADS, main_thread=True) == PmdCounters(2077, 507, 500_000, 1)


def test_threads_are_added_up() -> None:
    counters = pmd_counters(TWO_THREADS)
    assert counters == PmdCounters(2000, 500, 500_000, 1)
    assert counters.passes_per_packet == 1.25
    assert counters.cycles_per_packet == 250.0


def test_a_difference_is_what_happened_in_between() -> None:
    before, after = PmdCounters(10, 1, 100, 0), PmdCounters(110, 1, 30_100, 2)
    assert after.since(before) == PmdCounters(100, 0, 30_000, 2)


def test_no_pmd_yet_is_nothing_done() -> None:
    assert pmd_counters("main thread:\n  packets received: 0\n").passes_per_packet == 0.0


# Lines of vswitchd are as long as they are.
FLOWS = """flow-dump from pmd on cpu core: 1
ufid:f8cd5c4e-e043-40f3-927b-c02172fcc714, skb_priority(0/0),ct_state(0/0),recirc_id(0),dp_hash(0/0),in_port(p1),packet_type(ns=0,id=0),eth(src=50:54:00:00:00:09,dst=50:54:00:00:00:0a),eth_type(0x0800),ipv4(src=10.0.0.1/0.0.0.0,dst=10.0.0.2/0.0.0.0,proto=17/0,tos=0/0,ttl=64/0,frag=no),udp(src=1/0,dst=2/0), packets:4, bytes:176, used:0.044s, dp:ovs, actions:br-ex,p2, dp-extra-info:miniflow_bits(5,1)
ufid:00000000-e043-40f3-927b-c02172fcc714, recirc_id(0x2a),in_port(3),eth_type(0x0800), packets:0, bytes:0, used:never, dp:ovs, actions:ct(commit,zone=5,nat(src=10.0.0.1)),recirc(0x2b)
flow-dump from the main thread:
recirc_id(0),in_port(2),eth_type(0x0806), packets:1, bytes:42, used:1.5s, flags:SFR., actions:drop
"""  # noqa: E501


def test_megaflows() -> None:
    first, second, third = parse_megaflows(FLOWS)
    assert (first.core, first.packets, first.bytes, first.used_s) == (1, 4, 176, 0.044)
    assert first.ufid == "f8cd5c4e-e043-40f3-927b-c02172fcc714"
    assert first.match.startswith("skb_priority(0/0)")
    assert first.match.endswith("udp(src=1/0,dst=2/0)")
    assert first.actions == "br-ex,p2"
    assert (first.recirculation, first.tracks_connections) == (0, False)
    assert (second.recirculation, second.tracks_connections, second.used_s) == (42, True, None)
    assert (third.core, third.actions, third.used_s) == (None, "drop", 1.5)


COVERAGE = """Event coverage, avg rate over last: 5 seconds, last minute, last hour,  hash=63852afc:
bridge_reconfigure         0.0/sec     0.017/sec        0.0003/sec   total: 3
datapath_drop_meter        1.5/sec     0.1/sec        0.2/sec   total: 1234567890123
151 events never hit
"""


def test_coverage() -> None:
    counters = parse_coverage(COVERAGE)
    assert set(counters) == {"bridge_reconfigure", "datapath_drop_meter"}
    assert counters["datapath_drop_meter"].total == 1234567890123
    assert counters["datapath_drop_meter"].rate_5s == 1.5


@pytest.mark.parametrize(
    "parse", [pmd_threads, pmd_counters, parse_megaflows, parse_coverage, measured_seconds]
)
@given(
    text=st.text(max_size=200) | st.text(st.sampled_from("pmd thread_:-()0123\n ,"), max_size=99)
)
def test_no_text_breaks_a_parser(parse: Callable[[str], object], text: str) -> None:
    parse(text)


@given(text=st.text(max_size=200))
def test_no_text_of_queues_breaks_their_parser(text: str) -> None:
    pmd_threads("", "pmd thread numa_id 0 core_id 1:\n " + text)
