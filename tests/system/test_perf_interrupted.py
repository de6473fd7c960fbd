"""A benchmark with OVS-DPDK that is interrupted: nothing is left, nothing is lost, it goes on."""

from __future__ import annotations

from pathlib import Path

from dataplane.drivers import machine, processes
from perf.vhostlab import PREFIX
from tests.labs import perfruns

SCENARIOS = ("vm-vm-flows", "vm-vm-ovn")
TRIALS = 8
_FOLDERS = (processes.NETNS_DIR, machine.STATE_DIR, Path("/run/dpdk"), Path("/dev/hugepages"))


def test_interrupted_at_any_moment(tmp_path: Path) -> None:
    pages = Path("/proc/sys/vm/nr_hugepages")
    run, before = tmp_path / "run", pages.read_text()

    def there() -> list[str]:
        found = list(perfruns.mentioning(PREFIX, str(run)).values())
        for folder in _FOLDERS:
            if folder.is_dir():
                found += [each.name for each in folder.iterdir() if each.name.startswith(PREFIX)]
        return found

    words = ["--trials", str(TRIALS), "--seconds", "0.3", *SCENARIOS]
    told = perfruns.interrupt(
        run,
        words,
        building=lambda: any(processes.NETNS_DIR.glob(f"{PREFIX}*")),
        gone=lambda: not there() and pages.read_text() == before,
    )
    assert told.complete
    assert [len(each.trials) for each in told.scenarios] == [TRIALS] * len(SCENARIOS)
    for each in told.scenarios:
        assert all(0.9 < passes < 1.1 for passes in each.samples("passes"))
        assert told.configuration(each.name)["flows"]
