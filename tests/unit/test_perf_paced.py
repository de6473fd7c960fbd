"""Trials with a paced generator on a device that is known; the self-test on runs that are known."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dataplane.drivers.processes import ProcessError
from perf import pacedlab
from perf.harness import catalog, pacedtrial, selftest, worker
from perf.harness.generator import Counts, HarnessError, Traffic
from perf.harness.labs import Sample
from perf.harness.latency import LOADS_PERCENT
from perf.harness.results import Measured, Results, Trial
from perf.harness.rundir import Plan, RunDirectory
from perf.harness.scenario import Scenario
from perf.harness.servedbench import SOMEWHERE, places
from perf.harness.simulated import SimulatedDevice

KNOWN = 1_234_567.0


class Timed(SimulatedDevice):
    """The device with a delay that grows with the load; it pushes back instead of losing."""

    def start(self, traffic: Traffic, duration_s: float) -> Counts:
        """A frame takes a microsecond, and ten at the full rate."""
        rate = traffic.rate_pps or self.ndr_pps
        took = duration_s * max(1.0, rate / self.ndr_pps)
        sent = round(rate * duration_s)
        delay = round(1000 + 9000 * min(1.0, rate / self.ndr_pps))
        return Counts(sent, sent, took, latency_ns=((delay, sent),))


def test_a_device_that_pushes_back_has_its_rate_found_and_its_delays() -> None:
    ran: list[str] = []
    found = pacedtrial.measure(
        Timed(KNOWN, 0.0, 1),
        Traffic(),
        0.5,
        around=lambda run: (ran.append("greatest"), run())[1],  # type: ignore[func-returns-value]
    )
    true = KNOWN / 0.995
    assert pacedtrial.pushed(Timed(KNOWN, 0.0, 1), Traffic(), 0.5) == pytest.approx(KNOWN, rel=0.01)
    assert found.pdr_pps == pytest.approx(true, rel=pacedtrial.WIDTH)
    assert found.upper_pps is not None
    assert ran == ["greatest"]
    values = found.values()
    assert set(values) == {"pdr", *(f"us{p}_{load}" for p in (50, 99) for load in LOADS_PERCENT)}
    for load in LOADS_PERCENT:
        assert values[f"us50_{load}"] == pytest.approx(1 + 9 * load / 100, rel=0.05)


@pytest.mark.parametrize(("share", "delivered"), [(0.5, 100.0), (1.0, 100.0), (2.0, 50.0)])
def test_a_rate_that_was_asked_for_is_measured_and_no_other(share: float, delivered: float) -> None:
    traffic = Traffic(rate_pps=KNOWN * share)
    found = pacedtrial.measure(Timed(KNOWN, 0.0, 1), traffic, 0.5)
    values = found.values()
    assert set(values) == {"delivered", "us50_100", "us99_100"}
    assert values["delivered"] == pytest.approx(delivered, rel=0.001)
    assert values["us50_100"] == pytest.approx(1 + 9 * min(share, 1), rel=0.05)
    assert found.trials == 1
    with pytest.raises(HarnessError, match=r"none of .* frames came through"):
        pacedtrial.measure(SimulatedDevice(KNOWN, 0, 1, floor=1.0), traffic, 0.5)


def test_what_no_counter_has_of_the_lost_is_said_to_be_lost_somewhere_else() -> None:
    before, now = {"queue": 5, "XDP: DROP": 2}, {"queue": 12, "XDP: DROP": 2, "new": 1}
    assert places(before, now, 8) == {"queue": 7, "new": 1}
    assert places(before, now, 11) == {"queue": 7, "new": 1, SOMEWHERE: 3}
    assert places({}, {}, 0) == {}


class Moody:
    """A bench that fails so many times."""

    def __init__(self, failures: int) -> None:
        self.failures, self.asked = failures, 0

    def sample(self, scenario: Scenario, number: int, seconds: float) -> Sample:
        """Fails, or says how often it was asked."""
        self.asked += 1
        if self.asked <= self.failures:
            msg = f"{scenario.name}: a bad moment"
            raise HarnessError(msg)
        return Sample({"asked": float(self.asked)})

    def configuration(self, scenario: Scenario) -> dict[str, Any]:
        """Nothing."""
        del scenario
        return {}


def test_one_bad_moment_of_the_machine_costs_no_scenario() -> None:
    (scenario,) = catalog.chosen(["p2p"])
    assert worker.sampled(Moody(0), scenario, 0, 1.0).values == {"asked": 1.0}
    assert worker.sampled(Moody(1), scenario, 0, 1.0).values == {"asked": 2.0}
    twice = Moody(2)
    with pytest.raises(HarnessError, match="p2p: a bad moment"):
        worker.sampled(twice, scenario, 0, 1.0)
    assert twice.asked == 2


def test_a_path_that_is_dead_or_loses_at_any_rate_has_no_rate() -> None:
    with pytest.raises(HarnessError, match="no PDR"):
        pacedtrial.measure(SimulatedDevice(KNOWN, 0, 1, floor=0.1), Traffic(), 0.5)
    assert pacedtrial.pushed(SimulatedDevice(KNOWN, 0, 1, floor=0.1), Traffic(), 0.5) == 0
    dead = SimulatedDevice(KNOWN, 0, 1, floor=1.0)
    with pytest.raises(HarnessError, match=r"none of .* frames came through"):
        pacedtrial.measure(dead, Traffic(), 0.5)


def test_every_way_of_the_paced_lab_has_flows_and_ports_of_its_own() -> None:
    ways = {each.way for each in catalog.SCENARIOS if each.lab == "paced"}
    assert {"p2p", "pvp", "pvvp", "geneve", "vxlan"} <= ways
    for way in ways:
        found = pacedlab.way_of(way)
        assert found.tx != found.rx
        flows = pacedlab.flows_of(way)
        assert len(set(flows)) == len(flows)
        # OVN makes its own; any other way ends where the generator counts.
        assert way.startswith("ovn") or any("output:p1" in flow for flow in flows)
    with pytest.raises(ProcessError, match="no way 'tokyo'"):
        pacedlab.way_of("tokyo")


def test_a_share_of_flows_has_the_same_rules_whatever_it_is() -> None:
    none, some = pacedlab.flows_of("shared/0"), pacedlab.flows_of("shared/9")
    assert len(none) == len(some)
    assert sum("ct(table=2)" in flow for flow in some) == 9


def test_frames_that_a_path_does_not_carry_are_refused_by_name() -> None:
    (large,) = catalog.chosen(["p2p"], size=9018)
    assert large.traffic.sizes == ((9018, 1),)
    with pytest.raises(HarnessError, match=r"two-nodes-vxlan: .*1518.*1468"):
        catalog.chosen(["two-nodes-vxlan"], size=1518)
    with pytest.raises(HarnessError, match="20000 octets"):
        catalog.chosen(["p2p"], size=20_000)


def known(
    path: Path, slower: float, noise: float, trials: int = 5 * selftest.TRIALS_OF_A_RUN
) -> Results:
    """A run whose figures are made up."""
    random = np.random.default_rng(7)
    directory = RunDirectory(path)
    directory.create(Plan(catalog.SELFTEST, trials, 0.5), {})
    scale = dict(zip(catalog.SELFTEST, (1.0, 1.0, slower), strict=True))
    for name, number in directory.missing("paced"):
        around = max(0.05, 1 + noise * random.standard_normal())
        values = {
            "pushed": around / scale[name],
            "cycles": 900 * around * scale[name],
            "passes": 2.0,
        }
        directory.append("trial", Trial(name, number, 1.0, 1.0, 0.1, values))
    return directory.finish("2026-01-01")


def test_the_selftest_tells_the_same_from_the_slower(tmp_path: Path) -> None:
    found = selftest.judge(known(tmp_path, 1.1, 0.005))
    assert [each.metric for each in found] == ["pushed", "cycles", "passes"]
    assert len(found[0].same) == len(found[0].slower) == 5
    assert found[0].met
    assert found[1].slowdown == pytest.approx(1.1, rel=0.01)
    assert selftest.command([str(tmp_path)]) == selftest.MET


def test_a_slowdown_that_is_none_is_not_found_and_noise_is_no_verdict(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    known(tmp_path / "none", 1.0, 0.005)
    assert selftest.command([str(tmp_path / "none"), "--json"]) == selftest.NOT_MET
    assert json.loads(capsys.readouterr().out)["pushed"]["met"] is False
    known(tmp_path / "noise", 1.1, 0.5)
    assert selftest.command([str(tmp_path / "noise")]) == selftest.NOT_MET


def test_a_run_of_something_else_is_no_selftest(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = known(tmp_path, 1.1, 0.005, trials=3)
    assert selftest.command([str(tmp_path)]) == selftest.USAGE
    assert f"fewer than {selftest.TRIALS_OF_A_RUN} trials" in capsys.readouterr().err
    assert selftest.command([str(tmp_path), "--of", "0"]) == selftest.USAGE
    other: tuple[Measured, ...] = run.scenarios[:1]
    with pytest.raises(HarnessError, match="selftest-a2"):
        selftest.judge(replace(run, scenarios=other))
