"""Latency as HDR histograms: three digits from 1 ns to 10 s, mergeable, in 1 kB of text. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from hdrh.histogram import HdrHistogram

LEAST_NS, MOST_NS, DIGITS = 1, 10_000_000_000, 3
PERCENTILES = (50.0, 90.0, 99.0, 99.9)
LOADS_PERCENT = (0, 10, 50, 90)
"""Of PDR, at which latency is measured; 0 is one packet at a time."""


@dataclass(frozen=True, slots=True)
class Latency:
    """Of one trial [ns]; `encoded` is the whole histogram, as all HDR tools read it."""

    count: int
    least: int
    most: int
    mean: float
    percentiles: tuple[tuple[float, int], ...]
    encoded: str


def summary(buckets: Iterable[tuple[int, int]]) -> Latency:
    """From (ns, how many) to percentiles.

    Raises:
        ValueError: nothing was counted, or a bucket is below nothing.
    """
    histogram = HdrHistogram(LEAST_NS, MOST_NS, DIGITS)
    for at, count in buckets:
        if at < 0 or count < 0:
            msg = f"latency: {count} packets at {at} ns"
            raise ValueError(msg)
        if count:
            histogram.record_value(min(max(at, LEAST_NS), MOST_NS), count)
    if not histogram.get_total_count():
        msg = "latency: no packet was timed"
        raise ValueError(msg)
    found = tuple((each, int(histogram.get_value_at_percentile(each))) for each in PERCENTILES)
    return Latency(
        int(histogram.get_total_count()),
        int(histogram.get_min_value()),
        int(histogram.get_max_value()),
        float(histogram.get_mean_value()),
        found,
        histogram.encode().decode("ascii"),
    )


def merged(encoded: Iterable[str]) -> Latency:
    """Several trials' histograms as one.

    Raises:
        ValueError: none, or a text that is no histogram.
    """
    total = HdrHistogram(LEAST_NS, MOST_NS, DIGITS)
    for text in encoded:
        try:
            total.add(HdrHistogram.decode(text))
        except Exception as error:  # the package raises whatever zlib, base64 and ctypes do
            msg = f"latency: not an HDR histogram: {error}"
            raise ValueError(msg) from error
    return summary((item.value_iterated_to, item.count_added_in_this_iter_step)
                   for item in total.get_recorded_iterator())  # fmt: skip
