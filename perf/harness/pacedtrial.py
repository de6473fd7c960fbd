"""One trial with a paced generator: a path's partial drop rate, then its latency under load."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from perf.harness import latency, search
from perf.harness.generator import Counts, Generator, HarnessError, Traffic

LEAST_PPS = 1_000.0
ONE_BY_ONE_PPS = 1_000.0
"""Of the latency at a load of nothing: a frame is there alone."""

WIDTH = 0.02
WINDOWS, WINDOW_SHARE = 8, 10
"""How many windows without a rate, and how short: a tenth of a trial's seconds."""

EXCEED = 0.75
"""One of four trials at a load has to pass. On processors that others share, too, the others may
have met somebody else's work, and a path that does not carry a rate passes none."""

HEADROOM = 1.25
"""The generator's own limit, measured first, is the search's upper end with so much to spare."""


@dataclass(frozen=True, slots=True)
class Found:
    """What one trial says.

    Attributes:
        pdr_pps: at most 0.5 % loss [packets/s]; `upper_pps`: the least that lost more, or None
            where the generator is the limit.
        latency: by load in percent of PDR.
        loaded: what the generator counted at the greatest of these loads.
        trials: of the search.
        delivered: where a rate was asked for, the share of it that came through in time.
    """

    pdr_pps: float
    upper_pps: float | None
    latency: dict[str, latency.Latency]
    loaded: Counts
    trials: int
    delivered: float | None = None

    def counters(self) -> dict[str, float]:
        """What says how the trial went: shares are of the time at the greatest load."""
        loaded = self.loaded
        return {
            "search_trials": float(self.trials),
            "lost_at_greatest_load": float(loaded.lost),
            "sender_away_share": loaded.away_s / loaded.seconds,
            "path_refused_share": loaded.refused_s / loaded.seconds,
        }

    def values(self) -> dict[str, float]:
        """The metrics of perf.harness.catalog."""
        found = {"pdr": self.pdr_pps / 1e6}
        if self.delivered is not None:
            found = {"delivered": 100 * self.delivered}
        for load, told in self.latency.items():
            by_percent = dict(told.percentiles)
            found[f"us50_{load}"] = by_percent[50.0] / 1e3
            found[f"us99_{load}"] = by_percent[99.0] / 1e3
        return found


def _windows(generator: Generator, traffic: Traffic, seconds: float, number: int) -> list[Counts]:
    runs = [generator.start(traffic, seconds / WINDOW_SHARE) for _ in range(number)]
    if not any(run.rx for run in runs):
        msg = f"{generator.name}: none of {sum(run.tx for run in runs)} frames came through"
        raise HarnessError(msg)
    return runs


def pushed(generator: Generator, traffic: Traffic, seconds: float) -> float:
    """The most that a path carried of which at most 0.5 % was lost [packets/s]; 0: never.

    Frames are offered as the device takes them. One that pushes back, as vhost-user does, so tells
    its own rate; the best of eight short windows is the one that met the least of other work.

    Raises:
        DataplaneError: nothing comes through, or the generator ended.
    """
    runs = _windows(generator, traffic, seconds, WINDOWS)
    return max(run.pps if run.loss_ratio <= search.PDR.loss_ratio else 0.0 for run in runs)


def offered(generator: Generator, traffic: Traffic, seconds: float) -> float:
    """The most that a device takes, as the upper end of a search [packets/s].

    Raises:
        DataplaneError: as `pushed`.
    """
    runs = _windows(generator, traffic, seconds, 3)
    return max(max(run.tx / run.seconds for run in runs) * HEADROOM, 2 * LEAST_PPS)


def rate(generator: Generator, traffic: Traffic, seconds: float) -> search.Found:
    """The PDR: trials of a fifth of `seconds`, and up to four of them at a load.

    Raises:
        DataplaneError: nothing comes through, or the generator ended.
    """
    short = seconds / 5
    most = offered(generator, traffic, seconds)
    goal = replace(search.PDR, width=WIDTH, trial_s=short, sum_s=4 * short, exceed=EXCEED)
    (found,) = search.search(generator, traffic, LEAST_PPS, most, (goal,))
    return found


def measure(
    generator: Generator,
    traffic: Traffic,
    seconds: float,
    *,
    loads: tuple[int, ...] = latency.LOADS_PERCENT,
    around: Callable[[Callable[[], None]], None] = lambda run: run(),
) -> Found:
    """The rate, and the latency at `loads`. `around` is given the run at the greatest of them.

    Of traffic that has a rate, no other is searched.

    Raises:
        DataplaneError: nothing comes through, not even the least rate, or the generator ended.
    """
    if traffic.rate_pps is not None:
        return _at(traffic.rate_pps, generator, traffic, seconds, around)
    found = rate(generator, traffic, seconds)
    if found.lower is None:
        msg = f"over 0.5 % is lost at {LEAST_PPS:g} packets/s already: no PDR"
        raise HarnessError(msg)
    pdr = found.throughput or found.lower
    delays: dict[str, latency.Latency] = {}
    counted: list[Counts] = []

    def at(load: int) -> None:
        pps = max(pdr * load / 100, ONE_BY_ONE_PPS)
        counted.append(generator.start(replace(traffic, rate_pps=pps), seconds / 2))
        delays.update(_timed(generator, str(load), counted[-1]))

    *lesser, greatest = sorted(loads)
    for load in lesser:
        at(load)
    around(lambda: at(greatest))
    return Found(pdr, found.upper, delays, counted[-1], found.trials)


def _timed(generator: Generator, load: str, counts: Counts) -> dict[str, latency.Latency]:
    """The latency at a load; nothing where the sender times no frames."""
    if not counts.rx:
        msg = f"{generator.name}: none of {counts.tx} frames came through"
        raise HarnessError(msg)
    if not any(count for _, count in counts.latency_ns):
        return {}
    return {load: latency.summary(counts.latency_ns)}


def _at(
    pps: float,
    generator: Generator,
    traffic: Traffic,
    seconds: float,
    around: Callable[[Callable[[], None]], None],
) -> Found:
    counted: list[Counts] = []
    around(lambda: counted.append(generator.start(traffic, seconds)))
    counts = counted[0]
    delays = _timed(generator, "100", counts)
    came = min(counts.rx, counts.tx) * search.in_time_share(counts, seconds)
    share = came / max(counts.tx, round(seconds * pps))
    return Found(pps * share, None, delays, counts, 1, share)
