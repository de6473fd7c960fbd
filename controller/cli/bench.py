"""`millrace perf`: benchmarks are found by entry point, since this package may not import them."""

from __future__ import annotations

import argparse
import inspect
from importlib.metadata import EntryPoint, entry_points

from controller.cli import failures

GROUP = "millrace.perf"


def benchmarks() -> dict[str, EntryPoint]:
    """The installed benchmarks by name."""
    return {point.name: point for point in entry_points(group=GROUP)}


def _claim(point: EntryPoint) -> str:
    """The first line of the benchmark's own description, after its name.

    Its function's, where that tells several of one module apart; else its module's.
    """
    try:
        program = point.load()
        words = inspect.getdoc(program) or ""
        if not words.startswith("`millrace perf"):
            words = inspect.getdoc(inspect.getmodule(program)) or ""
    except (ImportError, AttributeError) as error:
        return f"cannot be loaded: {error}"
    line = words.partition("\n")[0]
    return line.partition("`: ")[2] or line


def perf(arguments: argparse.Namespace) -> int:
    """`millrace perf NAME ...`: the benchmark's exit code."""
    found = benchmarks()
    if arguments.benchmark in ("help", "-h", "--help"):
        print("usage: millrace perf BENCHMARK [--help] [ARGUMENT ...]")
        wide = max(map(len, found), default=0)
        for name, point in sorted(found.items()):
            print(f"  {name:<{wide}} {_claim(point)}")
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
