"""`millrace perf selftest DIR`: what the harness says where the answer is known.

A run of the scenarios "selftest-a1", "selftest-a2" and "selftest-slower" has the same path twice
and a path that ten percent of the work was added to. Its trials, in the order in which they were
made, are cut into runs of a few; each pair a1, a2 must be 'no difference', each pair a1, slower
'worse'. The trials took turns, so neighbours are compared (perf.harness.verdict.paired).
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from perf.harness import results, verdict
from perf.harness.catalog import SELFTEST
from perf.harness.generator import HarnessError
from perf.harness.results import Measured, Results
from perf.harness.verdict import Comparison, Word
from perf.verdicts import aligned

TRIALS_OF_A_RUN = 24
MET, NOT_MET, USAGE = 0, 1, 2
LEAST_SAME, MOST_NOISY, LEAST_FOUND = 15 / 20, 5 / 20, 9 / 10


@dataclass(frozen=True, slots=True)
class Judged:
    """One metric: verdicts on the same against itself, and on the slower one."""

    metric: str
    same: tuple[Comparison, ...]
    slower: tuple[Comparison, ...]

    @property
    def slowdown(self) -> float:
        """The median ratio of what was made slower."""
        return statistics.median(each.ratio for each in self.slower)

    @property
    def met(self) -> bool:
        """Whether the harness says what is so, often enough."""
        words = Counter(each.word for each in self.same)
        found = sum(each.word is Word.WORSE for each in self.slower)
        return (
            words[Word.SAME] >= LEAST_SAME * len(self.same)
            and words[Word.NOISY] <= MOST_NOISY * len(self.same)
            and found >= LEAST_FOUND * len(self.slower)
        )


def _runs(each: Measured, metric: str, size: int) -> list[list[float]]:
    samples = each.samples(metric)
    return [samples[at : at + size] for at in range(0, len(samples) - size + 1, size)]


def judge(run: Results, size: int = TRIALS_OF_A_RUN) -> list[Judged]:
    """Each metric that says which way is good, the primary one first.

    Raises:
        HarnessError: the run lacks the scenarios, or has too few trials of them to compare.
    """
    if size < 1:
        msg = f"runs of {size} trials: at least one"
        raise HarnessError(msg)
    by_name = {each.name: each for each in run.scenarios}
    missing = [name for name in SELFTEST if name not in by_name]
    if missing:
        msg = f"no {', '.join(missing)} in this run; `millrace perf run {' '.join(SELFTEST)}` has"
        raise HarnessError(msg)
    one, two, slower = (by_name[name] for name in SELFTEST)
    found = []
    for metric in sorted(one.metrics, key=lambda name: name != one.primary):
        better = one.metrics[metric].better
        first, again, worse = (_runs(each, metric, size) for each in (one, two, slower))
        pairs = list(zip(first, again, strict=False))
        if not pairs or not worse:
            msg = f"fewer than {size} trials of each: nothing to compare"
            raise HarnessError(msg)
        found.append(
            Judged(
                metric,
                tuple(verdict.paired(a, b, better) for a, b in pairs),
                tuple(verdict.paired(a, b, better) for a, b in zip(first, worse, strict=False)),
            )
        )
    return found


def table(found: Sequence[Judged], run: Results) -> str:
    """How often each word was said."""
    metrics = next(each for each in run.scenarios if each.name == SELFTEST[0]).metrics
    lines: list[tuple[str, ...]] = [
        ("metric", "compared", "median ratio", "runs", *(word.value for word in Word))
    ]
    for each in found:
        for what, made in (("A-A", each.same), ("slower", each.slower)):
            words = Counter(one.word for one in made)
            ratio = statistics.median(one.ratio for one in made)
            counts = [str(words[word]) for word in Word]
            metric = f"{metrics[each.metric].title} [{metrics[each.metric].unit}]"
            lines.append((metric, what, f"{ratio:.3f}", str(len(made)), *counts))
    return aligned(lines)


def command(argv: Sequence[str]) -> int:
    """0: by the primary metric the harness says what is so; 1: not; 2: nonsense."""
    parser = argparse.ArgumentParser(
        prog="millrace perf selftest",
        description=f"judge a run of {', '.join(SELFTEST)}, where the answers are known",
    )
    parser.add_argument("directory", type=Path)
    parser.add_argument(
        "--of", type=int, default=TRIALS_OF_A_RUN, help="trials of a run (default %(default)s)"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args(argv)
    try:
        run = results.read(options.directory)
        found = judge(run, options.of)
    except HarnessError as error:
        print(f"millrace perf selftest: {error}", file=sys.stderr)
        return USAGE
    if options.json:
        told = {
            each.metric: {
                "met": each.met,
                "slowdown": each.slowdown,
                "same": [one.word.value for one in each.same],
                "slower": [one.word.value for one in each.slower],
            }
            for each in found
        }
        print(json.dumps(told, indent=2))
    else:
        print(table(found, run))
    return MET if found[0].met else NOT_MET
