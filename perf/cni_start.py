"""How long `millrace-cni` takes to start, as a ratio to an interpreter that does nothing.

A runtime starts the plugin once per interface, so its start-up is paid by every pod. Milliseconds
belong to a machine; the ratio to `python3 -c pass`, runs of both interleaved, travels better. The
measured command is VERSION (imports, stdin, answer) and STATUS against an absent socket (the
same, and a connect(2)): all that a call costs before the daemon works on it.

Run `python -m perf.cni_start [runs]`; the output is JSON.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass

CONFIG = b'{"cniVersion":"1.1.0","name":"m","type":"millrace-cni","socket":"/nonexistent/cni.sock"}'
DEFAULT_RUNS = 40


@dataclass(frozen=True, slots=True)
class Sample:
    """Wall time of one command, from fork to exit, in milliseconds."""

    name: str
    runs: int
    min_ms: float
    median_ms: float
    p95_ms: float
    ratio_to_pass: float
    """Median divided by the median of the same interpreter with `-c pass`."""


def measure(runs: int) -> tuple[Sample, ...]:
    """Time each command `runs` times, taking turns, so that a busy moment hits all alike."""
    python = sys.executable
    commands = {
        "pass": ([python, "-c", "pass"], ""),
        "version": ([python, "-m", "cni.plugin"], "VERSION"),
        "status": ([python, "-m", "cni.plugin"], "STATUS"),
        "status-isolated": ([python, "-I", "-S", "-c", _isolated()], "STATUS"),
    }
    times: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(runs):
        for name, (argv, command) in commands.items():
            times[name].append(_wall_ms(argv, command))
    floor = statistics.median(times["pass"])
    return tuple(
        Sample(
            name=name,
            runs=runs,
            min_ms=round(min(values), 2),
            median_ms=round(statistics.median(values), 2),
            p95_ms=round(statistics.quantiles(values, n=20)[18], 2),
            ratio_to_pass=round(statistics.median(values) / floor, 2),
        )
        for name, values in times.items()
    )


def _isolated() -> str:
    """The plugin without `site`: what an installed launcher with `-I -S` runs."""
    import cni

    (place,) = cni.__path__
    root = os.path.dirname(place)  # noqa: PTH120 - one call
    return f"import sys; sys.path.insert(0, {root!r}); import cni.plugin as p; sys.exit(p.main())"


def _wall_ms(argv: Sequence[str], command: str) -> float:
    """One run. No timeout: with one, subprocess polls for the exit at 15.5, 31.5, 63.5 ms.

    That made every figure one of these steps, and the ratio of any two a power of two.
    """
    started = time.perf_counter()
    subprocess.run(  # noqa: S603 - our own argv
        argv,
        input=CONFIG,
        env={**os.environ, "CNI_COMMAND": command},
        stdout=subprocess.DEVNULL,
        check=False,
    )
    return (time.perf_counter() - started) * 1e3


def main_command(argv: Sequence[str]) -> int:
    """`python -m perf.cni_start [runs]`; the exit code."""
    runs = int(argv[0]) if argv else DEFAULT_RUNS
    print(json.dumps([asdict(sample) for sample in measure(max(runs, 2))], indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main_command(sys.argv[1:]))
