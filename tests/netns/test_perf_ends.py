"""Scenarios between two ends that somebody else made: here two namespaces, by `ip netns exec`."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from dataplane.drivers import processes
from perf.harness import ends, results
from perf.harness.catalog import SCENARIOS
from perf.harness.generator import HarnessError
from tests.labs import netns, perfruns
from tests.labs.netns import Namespace

PREFIX = "mrends"
ADDRESS = "192.0.2.2"
NAMES = tuple(each.name for each in SCENARIOS if each.lab == ends.LAB)


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """What is put before a command at the sender."""
    netns.sweep(PREFIX)
    left, right = (Namespace(f"{PREFIX}-{side}").create() for side in ("l", "r"))
    try:
        netns.veth(left, "e0", right, "e0", left_addresses=["192.0.2.1/24"],
                   right_addresses=[f"{ADDRESS}/24"])  # fmt: skip
        log = tmp_path_factory.mktemp("ends") / "iperf3.log"
        processes.spawn(["iperf3", "-s"], log=log, netns=right.name)
        processes.wait_until(lambda: "5201" in right.run("ss", "-ltn"), "iperf3's server listens")
        yield f"ip netns exec {left.name}"
    finally:
        left.delete()
        right.delete()


def test_a_run_between_two_ends_is_a_run_like_any_other(client: str, tmp_path: Path) -> None:
    run = tmp_path / "run"
    words = ["--client", client, "--address", ADDRESS, "--into", str(run)]
    words += [*NAMES, "--trials", "1", "--seconds", "1"]
    subprocess.run([perfruns.MILLRACE, "perf", "run", *words], check=True, timeout=120)
    told = results.read(run)
    assert told.complete
    assert {each.name for each in told.scenarios} == set(NAMES)
    for each in told.scenarios:
        assert each.samples(each.primary)[0] > 0
        assert each.configuration["client"] == client
    assert "svg" in (run / "report.html").read_text()


def test_an_end_that_does_not_answer_is_told_with_its_own_words(client: str) -> None:
    by_way = {each.way: each for each in SCENARIOS if each.lab == ends.LAB}
    with ends.built(client, "192.0.2.9") as bench, pytest.raises(HarnessError, match="iperf3"):
        bench.sample(by_way["tcp/1"], 0, 1.0)
    with pytest.raises(processes.ProcessError), ends.built("false", ADDRESS):
        pass
    with (
        pytest.raises(processes.ProcessError, match="not installed"),
        ends.built("/no/such/command", ADDRESS),
    ):
        pass
