"""Plots as SVG text, with classes that a page's style colours. Pure, no scripts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

ROW, LEFT, WIDTH, TOP, FOOT = 26, 240, 900, 24, 52
LEGEND_COLUMNS = 3
SERIES = 8
"""How many colours there are: classes s0 to s7."""


@dataclass(frozen=True, slots=True)
class Row:
    """A line of a dot plot: its samples, and median with interval."""

    label: str
    samples: tuple[float, ...]
    median: float
    low: float
    high: float
    series: int = 0


@dataclass(frozen=True, slots=True)
class Curve:
    """A line of an x-y plot."""

    label: str
    points: tuple[tuple[float, float], ...]
    series: int = 0


def ticks(low: float, high: float, wanted: int = 6) -> list[float]:
    """Round numbers from at most `low` to at least `high`."""
    span = high - low
    if span <= 0 or not math.isfinite(span):
        span = abs(high) or 1.0
    raw = span / wanted
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * times for times in (1, 2, 5, 10) if power * times >= raw * 0.999)
    first, last = math.floor(low / step), math.ceil(high / step)
    if first == last:
        last += 1
    return [number * step for number in range(first, last + 1)]


def decades(low: float, high: float) -> list[float]:
    """1, 2, 5, 10, .. from at most `low`, which is positive, to at least `high`."""
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(max(high, low * 1.001)))
    every = [times * 10.0**power for power in range(first, last + 1) for times in (1, 2, 5)]
    begin = max(number for number, mark in enumerate(every) if mark <= low * 1.0001)
    end = min(number for number, mark in enumerate(every) if mark >= high * 0.9999)
    return every[begin : max(end, begin + 1) + 1]


def figure(value: float) -> str:
    """A number as a reader wants it: three or four digits that count."""
    if value == 0:
        return "0"
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def dots(title: str, axis: str, rows: Sequence[Row]) -> str:
    """Each trial a dot, the median a bar, its 95 % interval a line; the axis begins at nothing."""
    marks = ticks(0.0, max(max(row.samples, default=row.high) for row in rows))
    right, bottom = WIDTH - 30, TOP + ROW * len(rows)

    def x(value: float) -> float:
        return LEFT + (right - LEFT) * (value - marks[0]) / (marks[-1] - marks[0])

    parts = [_open(title, bottom + FOOT)]
    for mark in marks:
        at = x(mark)
        parts.append(f'<line class="grid" x1="{at:.1f}" x2="{at:.1f}" y1="{TOP}" y2="{bottom}"/>')
        parts.append(_text(at, bottom + 16, figure(mark), "middle"))
    for number, row in enumerate(rows):
        y, kind = TOP + ROW * number + ROW / 2, f"s{row.series % SERIES}"
        parts.append(_text(LEFT - 12, y + 4, row.label, "end"))
        parts += [
            f'<circle class="dot {kind}" cx="{x(each):.1f}" cy="{y}" r="4"/>'
            for each in row.samples
        ]
        parts.append(
            f'<line class="range {kind}" x1="{x(row.low):.1f}" x2="{x(row.high):.1f}" '
            f'y1="{y}" y2="{y}"/>'
        )
        at = x(row.median)
        tip = f"{row.label}: median {figure(row.median)}, {figure(row.low)} to {figure(row.high)}"
        parts.append(
            f'<line class="median {kind}" x1="{at:.1f}" x2="{at:.1f}" y1="{y - 9}" '
            f'y2="{y + 9}"><title>{escape(tip)}</title></line>'
        )
    parts.append(f'<line class="axis" x1="{LEFT}" x2="{right}" y1="{bottom}" y2="{bottom}"/>')
    parts.append(_text((LEFT + right) / 2, bottom + 38, axis, "middle", "name"))
    return "".join([*parts, "</svg>"])


def lines(title: str, x_axis: str, y_axis: str, curves: Sequence[Curve]) -> str:
    """Curves over a common x, with a legend; the y axis is logarithmic, and its values positive."""
    points = [point for curve in curves for point in curve.points]
    left, right, top, bottom = 90, WIDTH - 30, TOP + 20, 320
    xs = ticks(min(p[0] for p in points), max(p[0] for p in points))
    ys = decades(min(p[1] for p in points), max(p[1] for p in points))

    def x(value: float) -> float:
        return left + (right - left) * (value - xs[0]) / (xs[-1] - xs[0])

    def y(value: float) -> float:
        return bottom - (bottom - top) * math.log(value / ys[0]) / math.log(ys[-1] / ys[0])

    rows = math.ceil(len(curves) / LEGEND_COLUMNS)
    parts = [_open(title, bottom + FOOT + ROW * rows)]
    for mark in xs:
        parts.append(
            f'<line class="grid" x1="{x(mark):.1f}" x2="{x(mark):.1f}" y1="{top}" y2="{bottom}"/>'
        )
        parts.append(_text(x(mark), bottom + 16, figure(mark), "middle"))
    # Over more than four decades, those between would stand on each other.
    few = len(ys) <= 12
    for mark in ys:
        parts.append(
            f'<line class="grid" x1="{left}" x2="{right}" y1="{y(mark):.1f}" y2="{y(mark):.1f}"/>'
        )
        if few or math.log10(mark) == round(math.log10(mark)):
            parts.append(_text(left - 8, y(mark) + 4, figure(mark), "end"))
    for number, curve in enumerate(curves):
        kind = f"s{curve.series % SERIES}"
        way = " ".join(f"{x(a):.1f},{y(b):.1f}" for a, b in curve.points)
        parts.append(f'<polyline class="curve {kind}" points="{way}"/>')
        parts += [
            f'<circle class="dot {kind}" cx="{x(a):.1f}" cy="{y(b):.1f}" r="4"/>'
            for a, b in curve.points
        ]
        row, column = divmod(number, LEGEND_COLUMNS)
        begin, at = left + column * (right - left) / LEGEND_COLUMNS, bottom + FOOT + ROW * row
        parts.append(
            f'<line class="curve {kind}" x1="{begin:.0f}" x2="{begin + 36:.0f}" y1="{at}" '
            f'y2="{at}"/><circle class="dot {kind}" cx="{begin + 18:.0f}" cy="{at}" r="4"/>'
        )
        parts.append(_text(begin + 44, at + 4, curve.label, "start"))
    parts.append(_text((left + right) / 2, bottom + 36, x_axis, "middle", "name"))
    parts.append(_text(8, TOP - 4, y_axis, "start", "name"))
    return "".join([*parts, "</svg>"])


def _open(title: str, height: float) -> str:
    return (
        f'<svg role="img" viewBox="0 0 {WIDTH} {height:.0f}" '
        f'aria-label="{escape(title, quote=True)}" xmlns="http://www.w3.org/2000/svg">'
    )


def _text(x: float, y: float, words: str, anchor: str, kind: str = "tick") -> str:
    return (
        f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">'
        f"{escape(words)}</text>"
    )
