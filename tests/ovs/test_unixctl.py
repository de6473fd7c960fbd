"""unixctl against a real vswitchd, whose PMD threads of the dummy datapath really poll."""

from __future__ import annotations

import os
import select
from pathlib import Path

import pytest

from dataplane.drivers.ovstext import (
    measured_seconds,
    parse_coverage,
    parse_megaflows,
    pmd_counters,
    pmd_threads,
)
from dataplane.drivers.unixctl import UnixctlClient, UnixctlError, process_ended
from dataplane.ports import ObserveError
from tests.labs.sandbox import Sandbox, wait_until

PACKET = "50540000000a50540000000908004500001c00000000401166cc0a0000010a00000200010002000800000000"


def test_a_command_is_answered_as_ovs_appctl_prints_it(sandbox: Sandbox) -> None:
    client = UnixctlClient(str(sandbox.unixctl))
    assert client.version().startswith("3.")
    assert client.call("version").strip() == sandbox.appctl("version").strip()
    assert client.call("list-commands") == sandbox.appctl("list-commands")


def test_a_refusal_has_the_daemons_words(sandbox: Sandbox) -> None:
    with pytest.raises(UnixctlError, match=r"no-such-command.*is not a valid command"):
        UnixctlClient(str(sandbox.unixctl)).call("no-such-command")


def test_nobody_there_is_an_observe_error(tmp_path: Path) -> None:
    client = UnixctlClient(str(tmp_path / "none.ctl"))
    with pytest.raises(ObserveError, match="does the daemon run"):
        client.call("version")
    assert client.process() is None


def test_a_restarted_daemon_is_another_process_and_its_end_an_event(sandbox: Sandbox) -> None:
    client = UnixctlClient(str(sandbox.unixctl))
    before = client.process()
    assert before is not None
    assert before.pid == sandbox.pid("ovs-vswitchd")
    fd = process_ended(before)
    try:
        assert select.select([fd], [], [], 0)[0] == []
        sandbox.kill_vswitchd()
        assert select.select([fd], [], [], 10)[0] == [fd]
    finally:
        os.close(fd)
    sandbox.start_vswitchd()
    after = client.process()
    assert after is not None
    assert after != before


def test_counters_of_real_pmd_threads_are_read_and_cleared(sandbox: Sandbox) -> None:
    sandbox.vsctl(
        "add-br", "br0", "--", "set", "Bridge", "br0", "datapath_type=dummy",
        "--", "add-port", "br0", "p1", "--", "set", "Interface", "p1", "type=dummy-pmd",
        "--", "add-port", "br0", "p2", "--", "set", "Interface", "p2", "type=dummy-pmd",
    )  # fmt: skip
    client = UnixctlClient(str(sandbox.unixctl))

    def received() -> int:
        threads = pmd_threads(client.call("dpif-netdev/pmd-perf-show"))
        return sum(thread.counters["Rx packets"] for thread in threads)

    for _ in range(5):
        client.call("netdev-dummy/receive", "p1", PACKET)
    wait_until(lambda: received() == 5, "the PMD threads have seen them")
    text = client.call("dpif-netdev/pmd-perf-show")
    assert measured_seconds(text) > 0
    (busy,) = [thread for thread in pmd_threads(text) if thread.counters["Rx packets"]]
    assert busy.counters["Datapath passes"] == 5
    assert busy.ratios["passes/pkt"] == 1.0
    ways = ("Upcalls", "Megaflow hits", "EMC hits", "Simple Match hits")
    assert sum(busy.counters[way] for way in ways) == 5
    assert busy.ratios["cycles/pkt"] > 0
    shown = client.call("dpif-netdev/pmd-stats-show")
    stats = {thread.cpu: thread.counters for thread in pmd_threads(shown)}
    assert stats[busy.cpu]["packets received"] == 5
    summed = pmd_counters(shown)
    assert (summed.rx_packets, summed.passes_per_packet) == (5, 1.0)
    assert summed.cycles_per_packet > 0
    flows = parse_megaflows(client.call("dpctl/dump-flows", "-m", "--names"))
    assert any("in_port(p1)" in flow.match and flow.core == busy.cpu for flow in flows)
    assert not any(flow.tracks_connections for flow in flows)
    client.clear_pmd_stats()
    wait_until(lambda: received() == 0, "each PMD thread has started anew")


def test_coverage_of_a_real_vswitchd(sandbox: Sandbox) -> None:
    sandbox.vsctl("add-br", "br0")
    client = UnixctlClient(str(sandbox.unixctl))
    # Counters appear once vswitchd has taken stock of them, every few seconds.
    wait_until(
        lambda: "bridge_reconfigure" in parse_coverage(client.call("coverage/show")), "counters"
    )
