"""The generators behind one protocol, each sending for real."""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest

from dataplane.drivers import processes
from perf import priority
from perf.harness import latency, results, search
from perf.harness.generator import IMIX, Generator, HarnessError, Traffic
from perf.harness.generators import Iperf, Loop, Paced, iperf_counts
from perf.harness.search import Goal
from perf.pktgen.driver import Pktgen
from tests.labs import netns, perfruns
from tests.labs.netns import Namespace

PREFIX = "mrgens"


@pytest.fixture(scope="module")
def ring() -> Iterator[Paced]:
    """Our generator on a port that gives back what it is given."""
    rundir = Path(tempfile.mkdtemp(prefix="mrgn-", dir="/run"))
    try:
        with Pktgen(PREFIX, rundir, ["--vdev=net_ring0"], huge=False) as made:
            priority.give(made.pid, priority.FIRST)
            yield Paced(made, ports=(0, 0))
    finally:
        shutil.rmtree(rundir, ignore_errors=True)


@pytest.fixture(scope="module")
def iperf() -> Iterator[Iperf]:
    """iperf3 between two namespaces."""
    netns.sweep(PREFIX)
    left, right = (Namespace(f"{PREFIX}-{side}").create() for side in ("l", "r"))
    try:
        netns.veth(left, "e0", right, "e0", left_addresses=["192.0.2.1/24"],
                   right_addresses=["192.0.2.2/24"])  # fmt: skip
        log = Path(tempfile.mkdtemp(prefix="mrgn-", dir="/run"))
        processes.spawn(["iperf3", "-s"], log=log / "iperf3.log", netns=right.name)
        processes.wait_until(lambda: "5201" in right.run("ss", "-ltn"), "iperf3's server listens")
        yield Iperf(left.run, "192.0.2.2")
        shutil.rmtree(log, ignore_errors=True)
    finally:
        left.delete()
        right.delete()


def test_the_paced_one_counts_and_times_each_frame(ring: Paced) -> None:
    found = ring.start(Traffic(50_000, sizes=IMIX, flows=100), 0.4)
    assert (found.tx, found.rx, found.lost, found.reordered) == (20_000, 20_000, 0, 0)
    assert latency.summary(found.latency_ns).count == 20_000


def test_a_search_with_the_paced_one_ends_at_the_most_of_a_path_without_loss(ring: Paced) -> None:
    # A trial during which something else had the processor is no fault of the rate.
    goal = Goal("PDR", 0.005, width=0.05, trial_s=0.05, sum_s=0.4, exceed=0.75)
    (found,) = search.search(ring, Traffic(), 10_000, 100_000, (goal,))
    assert found.lower == pytest.approx(100_000, rel=0.01)
    assert found.upper is None


def test_iperf_sends_the_rate_on_average_and_counts_at_the_other_end(iperf: Iperf) -> None:
    found = iperf.start(Traffic(2_000, sizes=((512, 1),), flows=2), 1.0)
    assert 1_000 < found.tx < 3_000
    assert 0 < found.rx <= found.tx
    assert found.lost == found.tx - found.rx


def test_what_a_generator_cannot_is_refused(iperf: Iperf) -> None:
    with pytest.raises(HarnessError, match="one size"):
        iperf.start(Traffic(sizes=IMIX), 1)
    with pytest.raises(HarnessError, match="128 streams"):
        iperf.start(Traffic(flows=1000), 1)
    with pytest.raises(HarnessError, match=r"unable to connect|refused"):
        Iperf(iperf.run, "192.0.2.2", port=5999).start(Traffic(), 1)
    with pytest.raises(HarnessError, match="iperf3"):
        iperf_counts("no json")
    turning = count(0, 1000)
    loop = Loop(lambda: next(turning))
    with pytest.raises(HarnessError, match="use pktgen"):
        loop.start(Traffic(rate_pps=5), 0.1)
    assert loop.start(Traffic(), 0.1).rx == 1000
    with pytest.raises(HarnessError, match="nothing went round"):
        Loop(lambda: 7).start(Traffic(), 0.05)
    unpaced: tuple[Generator, ...] = (loop, iperf)
    for generator in unpaced:
        with pytest.raises(HarnessError, match="keeps no rate"):
            search.search(generator, Traffic(), 1, 2)


def test_a_scenario_runs_on_ports_that_somebody_names(tmp_path: Path) -> None:
    run = tmp_path / "run"
    words = ["p2p-imix", "--trials", "2", "--seconds", "0.2", "--port=--vdev=net_ring0"]
    assert perfruns.started(run, words).wait(perfruns.PATIENCE_S) == 0, (
        tmp_path / "log"
    ).read_text()
    told = results.read(run)
    assert told.complete
    (measured,) = told.scenarios
    assert measured.configuration == {"ports": ["--vdev=net_ring0"]}
    assert min(measured.samples("pdr")) > 0
    assert not measured.samples("cycles")
    assert set(measured.trials[0].latency) == {str(load) for load in latency.LOADS_PERCENT}
    shares = ("stolen_share", "sender_away_share", "path_refused_share")
    for trial in measured.trials:
        assert all(0 <= trial.counters[share] <= 1 for share in shares)
    assert not perfruns.mentioning("mrwire")


SENDER = """\
import json, sys
asked = json.load(sys.stdin)
sent = round(min(asked["rate_pps"] or 2e6, 2e6) * asked["duration_s"])
got = min(sent, round(1e6 * asked["duration_s"]))
latency = [[4000, got]] if asked["dst_mac"] == "0a:58:00:00:00:01" else []
print(json.dumps({"tx": sent, "rx": got, "seconds": asked["duration_s"], "latency_ns": latency}))
"""


def test_a_scenario_runs_by_a_sender_that_somebody_brings(tmp_path: Path) -> None:
    program, run = tmp_path / "sender.py", tmp_path / "run"
    program.write_text(SENDER)
    words = ["p2p", "--trials", "2", "--seconds", "0.2", "--sender", f"{sys.executable} {program}"]
    words += ["--dst-mac", "0a:58:00:00:00:01"]
    assert perfruns.started(run, words).wait(perfruns.PATIENCE_S) == 0, (
        tmp_path / "log"
    ).read_text()
    (measured,) = results.read(run).scenarios
    assert measured.configuration == {"sender": f"{sys.executable} {program}"}
    assert measured.samples("pdr") == pytest.approx([1.0, 1.0], rel=0.05)
    assert measured.samples("us50_50") == pytest.approx([4.0, 4.0], rel=0.01)
