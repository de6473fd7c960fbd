"""`millrace perf`: benchmarks are found by entry point, since this package may not import them."""

from __future__ import annotations

import argparse
from importlib.metadata import EntryPoint, entry_points

from controller.cli import failures

GROUP = "millrace.perf"


def benchmarks() -> dict[str, EntryPoint]:
    """The installed benchmarks by name."""
    return {point.name: point for point in entry_points(group=GROUP)}


def perf(arguments: argparse.Namespace) -> int:
    """`millrace perf NAME ...`: the benchmark's exit code."""
    found = benchmarks()
    if arguments.benchmark in ("list", "-h", "--help"):
        print("usage: millrace perf BENCHMARK [--help] [ARGUMENT ...]")
        for name, point in sorted(found.items()):
            print(f"  {name:<10} {point.value}")
        return failures.OK
    if arguments.benchmark not in found:
        names = ", ".join(sorted(found)) or "none; is the distribution installed (`make setup`)?"
        message = f"there is no benchmark {arguments.benchmark!r}; there are: {names}"
        raise failures.CommandError(message, failures.USAGE)
    try:
        run = found[arguments.benchmark].load()
    except (ImportError, AttributeError) as error:
        message = f"benchmark {arguments.benchmark} cannot be loaded: {error}"
        raise failures.CommandError(message) from error
    return int(run(arguments.rest))
