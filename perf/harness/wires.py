"""A generator on ports that somebody names, or his own sender: what is between them is the path."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from perf.harness import pacedtrial, senders
from perf.harness.generator import Generator, HarnessError
from perf.harness.generators import Paced
from perf.harness.labs import Bench, Progress, Sample
from perf.harness.scenario import Scenario
from perf.pktgen.driver import Pktgen

LARGEST = 9018
_PAGES = Path("/proc/sys/vm/nr_hugepages")


class WireBench:
    """One generator; the device under test is not ours to look into."""

    def __init__(self, generator: Generator, described: dict[str, Any]) -> None:
        self._generator, self._described = generator, described

    def sample(self, scenario: Scenario, number: int, seconds: float) -> Sample:
        """The PDR and latency under load; cycles are counted where the packets are forwarded."""
        del number
        if not scenario.loads:
            msg = f"{scenario.name}: its path is one that the harness builds, not a cable"
            raise HarnessError(msg)
        found = pacedtrial.measure(self._generator, scenario.traffic, seconds, loads=scenario.loads)
        values = {name: value for name, value in found.values().items() if name in scenario.metrics}
        encoded = {load: each.encoded for load, each in found.latency.items()}
        return Sample(values, found.counters(), {}, encoded)

    def configuration(self, scenario: Scenario) -> dict[str, Any]:
        """The ports as EAL has them, or the sender's command."""
        del scenario
        return dict(self._described)


@contextmanager
def built(ports: Sequence[str], dst_mac: str, core: int, progress: Progress) -> Iterator[Bench]:
    """The generator on these ports; without hugepages in ordinary memory, as software ports allow.

    Raises:
        GeneratorError: it does not start on them, and says why.
    """
    del progress
    huge = int(_PAGES.read_text(encoding="ascii")) > 0
    with tempfile.TemporaryDirectory(prefix="mrwire-", dir="/run") as rundir:
        words = [word for port in ports for word in port.split()]
        with Pktgen(
            "mrwire", Path(rundir), words, core=core, max_size=LARGEST, huge=huge,
            probe=any(word.startswith("-a") for word in words),
        ) as pktgen:  # fmt: skip
            generator = Paced(pktgen, (0, min(1, len(ports) - 1)), ("", dst_mac))
            yield WireBench(generator, {"ports": list(ports)})


@contextmanager
def foreign(words: str, dst_mac: str) -> Iterator[Bench]:
    """A sender behind a command, on whatever it is set to send on."""
    yield WireBench(senders.Foreign(senders.command_of(words), dst_mac), {"sender": words})
