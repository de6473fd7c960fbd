"""How good the paced generator is, on a line whose delay and losses are known.

    python -m perf.pacing [--json] [--million N]

The line is a forwarder of our own between two vhost-user ports (tests/labs/delayline.c). What it
carries swings, where processors are shared, from one half second to the next. So each trial at the
highest share asks for that share of what the line carried right before it, and the same is done on
a line whose own clock says what it carries, which the machine's swings leave alone.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path

from perf import verdicts
from perf.labrun import Progress, in_lab
from perf.pktgen.driver import Load, Pktgen

SCHEMA = "millrace.perf.pacing/4"
LEAST_PPS, MOST_SHARE, STEPS = 10_000.0, 0.8, 6
ROUNDS, RUN_S = 3, 2.0
PAIRS, PAIR_S, CARRIED_S = 20, 0.5, 0.3
KNOWN_SHARE = 0.5
"""Of the least that the line carried by itself, what it carries by its clock."""

WITHIN = 0.005
"""What is near enough, as a share of what was asked for."""

DELAYS_US = (0, 100, 1_000)
DELAY_PPS = 10_000
LOSS_PPS = 1_000_000


@dataclass(frozen=True, slots=True)
class Rate:
    """One rate [frames/s]: what was asked for, and of each round what was sent, lost, late by."""

    asked: float
    sent: tuple[float, ...]
    lost: tuple[int, ...]
    behind_us: tuple[float, ...]

    @property
    def errors(self) -> tuple[float, ...]:
        """As shares of what was asked for, the least first."""
        return tuple(sorted((sent / self.asked - 1 for sent in self.sent), key=abs))


class Why(StrEnum):
    """How a trial at the highest share ended."""

    KEPT = "kept"
    EXCEEDED = "the generator sent too much"
    TAKEN = "processors taken by others"
    REFUSED = "the line did not take it"
    GENERATOR = "the generator was too slow"


@dataclass(frozen=True, slots=True)
class Pair:
    """One trial at the highest share [frames/s]: carried before it, asked, sent, carried after.

    `meant_s`, `took_s`: how long it should have sent, and did; `away_s`, `line_away_s`: how long
    generator and line had no processor meanwhile; `refused_s`: how long the line's ring was full.
    """

    before: float
    asked: float
    sent: float
    after: float
    meant_s: float
    took_s: float
    away_s: float
    line_away_s: float
    refused_s: float

    @property
    def error(self) -> float:
        """As a share of what was asked for."""
        return self.sent / self.asked - 1

    @property
    def missing_s(self) -> float:
        """How much longer than it was meant to the trial would have had to send in all."""
        return self.meant_s * max(0.0, -self.error)

    @property
    def why(self) -> Why:
        """Whose the rate is, or whose fault it is that it was missed.

        A pacer that stood still sends what is owed when it runs again, as fast as the path takes
        it. So it has missed a rate by itself if it was neither without a processor nor before a
        full ring for as long as there is missing.
        """
        if abs(self.error) <= WITHIN:
            return Why.KEPT
        if self.error > 0:
            return Why.EXCEEDED
        if self.away_s + self.line_away_s >= self.missing_s:
            return Why.TAKEN
        return Why.REFUSED if self.refused_s >= self.missing_s else Why.GENERATOR


@dataclass(frozen=True, slots=True)
class Delay:
    """What the histogram says of a known delay [us]."""

    injected: float
    percentiles: dict[str, float]


@dataclass(frozen=True, slots=True)
class Found:
    """Everything."""

    carries: float
    carried: tuple[float, ...]
    rates: tuple[Rate, ...]
    pairs: tuple[Pair, ...]
    known: float
    on_known: tuple[Pair, ...]
    loss_sent: int
    loss_made: int
    loss_seen: int
    delays: tuple[Delay, ...]


def measure(rundir: Path, million: int, progress: Progress) -> Found:
    """On one machine's line.

    Raises:
        DataplaneError: the generator or the line does not start.
    """
    from tests.labs import delayline

    with delayline.pages(rundir):
        with delayline.watched(rundir, 0, 0, 0, 0) as (generator, line):
            carried = [_carried(generator) for _ in range(ROUNDS)]
            carries = statistics.median(carried)
            progress(f"the line carries {carries / 1e6:.2f} Mpps")
            ratio = (MOST_SHARE * carries / LEAST_PPS) ** (1 / (STEPS - 1))
            asked = [LEAST_PPS * ratio**step for step in range(STEPS - 1)]
            rounds = []
            for number in range(ROUNDS):
                progress(f"round {number + 1} of {ROUNDS}")
                rounds.append([generator.run(Load(rate, RUN_S)) for rate in asked])
                carried.append(_carried(generator))
            progress(f"{PAIRS} trials at {MOST_SHARE:.0%} of what the line carries")
            pairs = tuple(_pairs(generator, line))
        known = KNOWN_SHARE * min(carried)
        progress(f"the same on a line that carries {known / 1e6:.2f} Mpps")
        with delayline.watched(rundir, 0, 0, 0, 0, pps=known) as (generator, line):
            on_known = tuple(_pairs(generator, line))
        count = million * 1_000_000
        progress(f"{million} million frames, one of which the line keeps")
        with delayline.delayline(rundir, 0, count // 2, 0, 0) as generator:
            lossy = generator.run(Load(min(LOSS_PPS, carries / 4), count / LOSS_PPS))
        delays = []
        for delay_us in DELAYS_US:
            with delayline.delayline(rundir, delay_us, 0, 0, 0) as generator:
                run = generator.run(Load(DELAY_PPS, 2.0, drain_ms=500))
                told = {f"{p:g}": run.percentile(p) / 1e3 for p in (1, 50, 90, 99)}
                delays.append(Delay(float(delay_us), told))
    rates = tuple(
        Rate(
            rate,
            tuple(run.pps for run in runs),
            tuple(run.lost for run in runs),
            tuple(run.behind_ns / 1e3 for run in runs),
        )
        for rate, runs in zip(asked, zip(*rounds, strict=True), strict=True)
    )
    return Found(
        carries, tuple(carried), rates, pairs, known, on_known, lossy.sent, 1, lossy.lost,
        tuple(delays),
    )  # fmt: skip


def _carried(generator: Pktgen, seconds: float = RUN_S) -> float:
    run = generator.run(Load(0, seconds))
    return run.received / run.seconds


def _pairs(generator: Pktgen, line: int) -> Iterator[Pair]:
    before = _carried(generator, CARRIED_S)
    for _ in range(PAIRS):
        run = generator.run(Load(MOST_SHARE * before, PAIR_S, watch=line))
        after = _carried(generator, CARRIED_S)
        yield Pair(
            before, MOST_SHARE * before, run.pps, after, PAIR_S, run.seconds,
            run.away_ns / 1e9, run.watched_away_ns / 1e9, run.refused_ns / 1e9,
        )  # fmt: skip
        before = after


def _ends(pairs: Sequence[Pair]) -> str:
    errors = [each.error for each in pairs]
    ends = Counter(each.why for each in pairs)
    told = ", ".join(f"{why} {ends[why]}" for why in Why if ends[why])
    carried = [each.before for each in pairs]
    less = sum(each.after < each.asked for each in pairs)
    return (
        f"{len(pairs)} trials, it carried {min(carried) / 1e6:.2f}..{max(carried) / 1e6:.2f} Mpps; "
        f"median error {100 * statistics.median(errors):+.4f} %; within {WITHIN:.1%} or why not: "
        f"{told}; after {less} of them it carried less than was asked"
    )


def table(found: Found) -> str:
    """For people."""
    lines: list[tuple[str, ...]] = [
        ("asked [pps]", "sent [pps]", "median error", "greatest", "lost", "behind [us]")
    ]
    lines += [
        (f"{each.asked:,.0f}", f"{statistics.median(each.sent):,.0f}",
         f"{100 * each.errors[len(each.errors) // 2]:+.4f} %", f"{100 * each.errors[-1]:+.4f} %",
         f"{sum(each.lost):,}", f"{max(each.behind_us):,.0f}")
        for each in found.rates
    ]  # fmt: skip
    timed: list[tuple[str, ...]] = [
        ("delay [us]", *(f"{p} %" for p in found.delays[0].percentiles))
    ]
    timed += [
        (f"{each.injected:g}", *(f"{value:.1f}" for value in each.percentiles.values()))
        for each in found.delays
    ]
    return (
        f"the line carries {found.carries / 1e6:.2f} Mpps "
        f"({min(found.carried) / 1e6:.2f}..{max(found.carried) / 1e6:.2f})\n"
        f"{verdicts.aligned(lines)}\n\n"
        f"at {MOST_SHARE:.0%} of what it carried just before: {_ends(found.pairs)}\n"
        f"the same on a line that carries {found.known / 1e6:.2f} Mpps: {_ends(found.on_known)}\n"
        f"of {found.loss_sent:,} frames the line kept {found.loss_made}; "
        f"the generator misses {found.loss_seen}\n\n{verdicts.aligned(timed)}"
    )


def main_command(argv: Sequence[str]) -> int:
    """Measure and print; 1: it could not be."""
    parser = argparse.ArgumentParser(prog="python -m perf.pacing", description=__doc__)
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--million", type=int, default=10, help="frames of the loss (default 10)")
    options = parser.parse_args(argv)
    if options.million < 1:
        parser.error("--million must be positive")

    def work(progress: Progress) -> Found:
        with tempfile.TemporaryDirectory(prefix="mrpc-", dir="/run") as rundir:
            return measure(Path(rundir), options.million, progress)

    found = in_lab("python -m perf.pacing", work)
    if found is None:
        return 1
    print(json.dumps({"schema": SCHEMA, **asdict(found)}) if options.json else table(found))
    return 0


if __name__ == "__main__":
    sys.exit(main_command(sys.argv[1:]))
