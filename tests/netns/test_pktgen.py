"""The packet generator against paths whose rate, loss, order and delay are known."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from dataplane.drivers import ovsprocess, processes
from perf.pktgen import driver
from perf.pktgen.driver import GeneratorError, Load, Pktgen
from tests.labs import delayline

PREFIX = delayline.PREFIX
TRIES, STILL_NS = 10, 50e6
"""How often what somebody else's work spoiled is run, and how long that must have taken."""


@pytest.fixture(scope="module")
def rundir() -> Iterator[Path]:
    """Short, because a socket's path has at most 107 octets."""
    path = Path(tempfile.mkdtemp(prefix="mrpg-", dir="/run"))
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


@pytest.fixture(scope="module")
def ring(rundir: Path) -> Iterator[Pktgen]:
    """A generator whose one port gives back what it is given, at once and in order."""
    with Pktgen(PREFIX, rundir, ["--vdev=net_ring0"], max_size=9216, huge=False) as made:
        yield made


@pytest.mark.parametrize("pps", [1_000, 10_000, 300_000, 1_000_000])
def test_a_run_as_a_whole_has_the_rate_that_was_asked_for(ring: Pktgen, pps: int) -> None:
    found = ring.run(Load(pps, 0.5, rx=0))
    # Each frame is due by the clock, and who is late catches up: only the time that a busy
    # machine took beyond the run's own can be otherwise.
    assert found.sent == pps // 2
    assert 0.5 <= found.seconds < 0.7
    assert (found.received, found.duplicates, found.reordered) == (found.sent, 0, 0)
    assert sum(count for _, count in found.delay) == found.received
    assert found.percentile(50) <= found.percentile(99.9) <= found.max_ns


def test_sizes_and_flows_go_in_turn(ring: Pktgen) -> None:
    found = ring.run(Load(100_000, 0.3, sizes=(64, 594, 1518, 9216), flows=100_000, rx=0))
    assert found.received == found.sent
    mean = found.octets / found.sent
    assert mean == pytest.approx((64 + 594 + 1518 + 9216) / 4 - 4, rel=0.001)


@pytest.mark.parametrize(
    ("load", "why"),
    [
        (Load(-1, rx=0), "pps is not 0 to"),
        (Load(1, sizes=(63,), rx=0), "a size is less than 60"),
        (Load(1, sizes=(20_000,), rx=0), "more than this generator was started for"),
        (Load(1, sizes=(), rx=0), "no size"),
        (Load(1, flows=2_000_000, rx=0), "flows is not"),
        (Load(1, rx=7), "rx is no port"),
        (Load(1, dst_mac="x", rx=0), "dst_mac is no address"),
        (Load(1, dst_ip="10.0.0.300", rx=0), "dst_ip is no address"),
        (Load(1, seconds=0, rx=0), "seconds is not"),
        (Load(1, rx=0, watch=-1), "watch is no process"),
        (Load(1, rx=0, watch=1 << 22), "watch is no process"),
    ],
)
def test_what_cannot_be_sent_is_refused_and_the_next_run_goes_on(
    ring: Pktgen, load: Load, why: str
) -> None:
    with pytest.raises(GeneratorError, match=why):
        ring.run(load)
    assert ring.run(Load(1_000, 0.05, rx=0)).lost == 0


def test_how_long_a_watched_process_had_no_processor_is_told(ring: Pktgen) -> None:
    with subprocess.Popen(["sleep", "600"]) as idle:
        try:
            found = ring.run(Load(1_000, 0.2, rx=0, drain_ms=500, watch=idle.pid))
        finally:
            idle.kill()
    # What the run listened for beyond its sending is not in it.
    assert 0.5e9 * found.seconds < found.watched_away_ns <= 1e9 * found.seconds
    assert ring.run(Load(1_000, 0.05, rx=0)).watched_away_ns == 0


STARTER = """\
import sys
from pathlib import Path
from dataplane.drivers import ovsprocess, processes
from perf.pktgen import driver
from perf.pktgen.driver import Pktgen
made = Pktgen({prefix!r}, Path({rundir!r}), ["--vdev=net_ring0"], huge=False)
made.start()
print(made.pid, flush=True)
sys.stdin.read()
"""


def has_ended(process: Path) -> bool:
    """Whoever adopts it may be slow to take notice: who is dead has no words left."""
    try:
        return not (process / "cmdline").read_bytes()
    except OSError:
        return True


def test_a_generator_ends_with_who_started_it_however_that_ends(rundir: Path) -> None:
    program = STARTER.format(prefix=f"{PREFIX}-kin", rundir=str(rundir))
    starter = subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    try:
        assert starter.stdout is not None
        generator = Path("/proc") / starter.stdout.readline().decode().strip()
        assert (generator / "comm").read_text() == "pktgen\n"
    finally:
        starter.kill()
        starter.communicate()
        ovsprocess.remove_hugepage_files(driver.HUGEPAGES, f"{PREFIX}-kin")
    processes.wait_until(lambda: has_ended(generator), "the generator ends")


def test_a_generator_that_does_not_start_says_why(rundir: Path) -> None:
    with (
        pytest.raises(GeneratorError, match=r"does not start:\n[\s\S]*no port"),
        Pktgen(f"{PREFIX}-none", rundir, [], huge=False),
    ):
        pass
    assert not (Path("/run/dpdk") / f"{PREFIX}-none").exists()


@pytest.fixture(scope="module")
def pages(rundir: Path) -> Iterator[None]:
    with delayline.pages(rundir):
        yield


def test_one_lost_one_doubled_and_one_late_frame_are_found(rundir: Path, pages: None) -> None:
    del pages
    with delayline.delayline(rundir, 0, 5_000, 6_000, 7_000) as generator:
        found = generator.run(Load(20_000, 1.0, drain_ms=500))
    assert (found.lost, found.duplicates, found.reordered) == (1, 1, 1)
    assert found.sent == 20_000
    assert found.strangers == 0


def test_frames_that_a_full_ring_refuses_are_sent_later_and_none_is_lost(
    rundir: Path, pages: None
) -> None:
    del pages
    with delayline.watched(rundir, 0, 0, 0, 0, pps=100_000) as (generator, line):
        flood = generator.run(Load(0, 0.5, drain_ms=500))
        late = generator.run(Load(200_000, 0.5, drain_ms=500))
        for _ in range(TRIES):
            kept = generator.run(Load(50_000, 0.5, drain_ms=500, watch=line))
            # Who stands still near the end, for longer than there is grace, is behind at it.
            if kept.sent == 25_000 or kept.away_ns + kept.watched_away_ns < STILL_NS:
                break
    # What the line makes up for at the start, and what waits in rings, comes on top.
    for found in (flood, late):
        assert found.sent < 100_000 * (found.seconds + 0.02) + 2_000
        assert (found.lost, found.duplicates, found.reordered) == (0, 0, 0)
        assert found.refused_ns > 0.3e9 * found.seconds
    assert late.behind_ns > 0.1e9
    assert (kept.sent, kept.lost) == (25_000, 0)


def test_a_known_delay_is_what_the_histogram_says(rundir: Path, pages: None) -> None:
    del pages
    quick = {}
    for delay_us in (0, 2_000):
        with delayline.delayline(rundir, delay_us, 0, 0, 0) as generator:
            found = generator.run(Load(20_000, 1.0, drain_ms=500))
            assert found.lost == 0
            # Nothing is faster than the line.
            assert all(end / 1000 >= delay_us for end, _ in found.delay)
            # What is slower by much met a program that the scheduler had put aside; both have to
            # run for a frame to be quick.
            quick[delay_us] = found.percentile(5) / 1000
    assert quick[2_000] - quick[0] == pytest.approx(2_000, rel=0.05)


def test_a_relay_passes_on_what_comes(rundir: Path) -> None:
    # net_ring gives back by the same port what it was given: what is sent by 0 comes in there, is
    # passed on to 1, comes in there, and counts.
    rings = ["--vdev=net_ring0", "--vdev=net_ring1"]
    with Pktgen(f"{PREFIX}-relay", rundir, rings, huge=False) as made:
        found = made.run(Load(20_000, 0.2, relays=((0, 1),)))
        assert (found.sent, found.received, found.relayed) == (4_000, 4_000, 4_000)
        assert (found.relay_full, found.strangers) == (0, 0)
        with pytest.raises(GeneratorError, match="more than 4 relays"):
            made.run(Load(1, relays=((0, 1),) * 5))
        with pytest.raises(GeneratorError, match="a relay's end is no port"):
            made.run(Load(1, relays=((0, 9),)))


def test_a_path_that_holds_every_buffer_refuses_frames(
    rundir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The last ring is read by nobody, and has room for more frames than this generator has.
    shutil.copytree(driver.SOURCE.parent, tmp_path, dirs_exist_ok=True)
    source, few = tmp_path / "pktgen-few.c", "#define MBUFS 511\n"
    text = driver.SOURCE.read_text()
    assert "#define MBUFS 16383\n" in text
    source.write_text(text.replace("#define MBUFS 16383\n", few))
    monkeypatch.setattr(driver, "SOURCE", source)
    rings = [f"--vdev=net_ring{number}" for number in range(3)]
    with Pktgen(f"{PREFIX}-few", rundir, rings, huge=False) as made:
        found = made.run(Load(20_000, 0.3, relays=((0, 2),)))
    assert found.sent < 6_000
    assert found.refused_ns > 0.5e9 * found.seconds
