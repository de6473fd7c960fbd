"""Zero-loss and partial-loss rates by MLRsearch, the way of draft-ietf-bmwg-mlrsearch. Pure.

The search is FD.io's package; here are its goals, what it measures with, and what it found.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from MLRsearch import AbstractMeasurer, Config, MeasurementResult
from MLRsearch import MultipleLossRatioSearch as Search
from MLRsearch import SearchGoal as _Goal

from perf.harness.generator import Counts, Generator, HarnessError, Traffic


@dataclass(frozen=True, slots=True)
class Goal:
    """A loss that is allowed (a share), how narrow the answer, how long trials are [s].

    `exceed`: so great a share of the trials at a load may lose more, as MLRsearch has it.
    """

    name: str
    loss_ratio: float
    width: float = 0.005
    trial_s: float = 1.0
    sum_s: float = 21.0
    exceed: float = 0.5


NDR = Goal("NDR", 0.0)
PDR = Goal("PDR", 0.005)


@dataclass(frozen=True, slots=True)
class Found:
    """Of one goal: the highest load known to satisfy it and the least known not to [packets/s].

    `lower` None: not even the least load does; `upper` None: the greatest does, too.
    """

    goal: str
    lower: float | None
    upper: float | None
    throughput: float | None
    trials: int


LATE_SHARE = 0.002
"""Of a trial's time; who ends no later than that has kept the rate."""


def in_time_share(counts: Counts, meant_s: float) -> float:
    """How much of what was sent went out within the time that was meant for it."""
    return meant_s / counts.seconds if counts.seconds > meant_s * (1 + LATE_SHARE) else 1.0


class _Measurer(AbstractMeasurer):  # type: ignore[misc]  # the package has no types
    """Asks a generator, and counts how often."""

    def __init__(self, generator: Generator, traffic: Traffic) -> None:
        self.generator, self.traffic, self.trials = generator, traffic, 0

    def measure(self, intended_duration: float, intended_load: float) -> MeasurementResult:
        """One trial at a load [packets/s]."""
        self.trials += 1
        traffic = replace(self.traffic, rate_pps=float(intended_load))
        counts = self.generator.start(traffic, float(intended_duration))
        # A device that pushes back makes the sender late: what goes on beyond the time that was
        # meant was not at that rate.
        in_time = in_time_share(counts, float(intended_duration))
        return MeasurementResult(
            intended_duration=intended_duration,
            intended_load=intended_load,
            offered_count=counts.tx,
            forwarding_count=int(min(counts.rx, counts.tx) * in_time),
            intended_count=max(counts.tx, round(intended_duration * intended_load)),
            offered_duration=counts.seconds,
        )


def search(
    generator: Generator,
    traffic: Traffic,
    least_pps: float,
    most_pps: float,
    goals: Sequence[Goal] = (NDR, PDR),
    limit_s: float = 1200.0,
) -> tuple[Found, ...]:
    """Every goal in one search.

    Raises:
        HarnessError: the generator cannot pace, bounds that are none, or no end within `limit_s`.
    """
    if not generator.paced:
        msg = f"{generator.name} keeps no rate, so no rate can be searched with it; use pktgen"
        raise HarnessError(msg)
    if not 0 < least_pps < most_pps:
        msg = f"a search between {least_pps:g} and {most_pps:g} packets/s: 0 < least < most"
        raise HarnessError(msg)
    config = Config()
    # Each is checked against the other, whose default is in the way of one of both orders.
    config.max_load = max(most_pps, config.max_load)
    config.min_load = least_pps
    config.max_load = most_pps
    config.goals = [
        _Goal(
            loss_ratio=goal.loss_ratio,
            relative_width=goal.width,
            initial_trial_duration=goal.trial_s,
            final_trial_duration=goal.trial_s,
            duration_sum=goal.sum_s,
            exceed_ratio=goal.exceed,
            fail_fast=False,
        )
        for goal in goals
    ]
    config.search_duration_max = limit_s
    config.warmup_duration = min(goal.trial_s for goal in goals)
    measurer = _Measurer(generator, traffic)
    try:
        results = Search(config).search(measurer)
    except RuntimeError as error:
        msg = f"rate search between {least_pps:g} and {most_pps:g} packets/s: {error}"
        raise HarnessError(msg) from error
    found = []
    for goal, result in zip(goals, results.values(), strict=True):
        lower, upper = result.relevant_lower_bound, result.relevant_upper_bound
        through = result.conditional_throughput
        found.append(
            Found(
                goal.name,
                None if lower is None else float(lower),
                None if upper is None else float(upper),
                None if through is None else float(through),
                measurer.trials,
            )
        )
    return tuple(found)
