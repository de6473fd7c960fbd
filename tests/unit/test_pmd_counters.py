"""The PMDs' counters, from text as OVS 3.1 prints it."""

from __future__ import annotations

from dataplane.drivers.pmdcounters import PmdCounters, pmd_counters

TEXT = """pmd thread numa_id 0 core_id 1:
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
    assert pmd_counters(TEXT, main_thread=True) == PmdCounters(2077, 507, 500_000, 1)


def test_threads_are_added_up() -> None:
    counters = pmd_counters(TEXT)
    assert counters == PmdCounters(2000, 500, 500_000, 1)
    assert counters.passes_per_packet == 1.25
    assert counters.cycles_per_packet == 250.0


def test_a_difference_is_what_happened_in_between() -> None:
    before, after = PmdCounters(10, 1, 100, 0), PmdCounters(110, 1, 30_100, 2)
    assert after.since(before) == PmdCounters(100, 0, 30_000, 2)


def test_no_pmd_yet_is_nothing_done() -> None:
    assert pmd_counters("main thread:\n  packets received: 0\n").passes_per_packet == 0.0
