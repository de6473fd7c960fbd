"""In which order benchmarks visit flows and services: never in that in which these were made.

Conntrack has the records of flows side by side that began one after the other, and services have
their counters so. Visited in that order they would be in the processor's caches before they are
asked for, which no traffic of clients' brings about. One visit is a stride further than the last
one, modulo how many there are: an addition, where drawing lots costs more. The wrapper of `millrace
perf xdp` goes back the same way when all were visited, so that caches have of them what they have
of flows that are chosen by lot.
"""

from __future__ import annotations

import math

FRACTIONS = (math.sqrt(1.25) - 0.5, math.sqrt(2) - 1, 1.5 - math.sqrt(1.25))
"""Of how many there are, taken in turns: 0.618, 0.414, 0.382.

Between 1/3 and 2/3, so no distance comes three times in a row; and badly approximated by ratios
of small numbers, so many visits go by until one is near an earlier one.
"""

IN_ORDER = 1


def stride(many: int, sample: int = 0) -> int:
    """A stride by which each of `many` is visited once before any is visited again.

    Args:
        many: at least 1.
        sample: the measurement's number: each has another of the strides.
    """
    wanted = round(many * FRACTIONS[sample % len(FRACTIONS)])
    for away in range(many):
        for found in (wanted + away, wanted - away):
            if 0 < found < many and math.gcd(found, many) == 1:
                return found
    return IN_ORDER
