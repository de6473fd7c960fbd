"""Plain text for people: aligned tables, and colour where a terminal shows it."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import TextIO

Json = Mapping[str, object]

_COLOURS = {
    "error": "31",
    "quarantined": "31",
    "fail": "31",
    "no": "31",
    "pending": "33",
    "warn": "33",
    "done": "32",
    "ok": "32",
    "yes": "32",
}


def has_colour(stream: TextIO) -> bool:
    """Whether to colour: a terminal, and nobody asked for none (https://no-color.org)."""
    return stream.isatty() and "NO_COLOR" not in os.environ and os.environ.get("TERM") != "dumb"


def table(headers: Sequence[str], rows: Iterable[Sequence[object]], *, colour: bool) -> str:
    """Columns as wide as their widest cell; numbers to the right, the last column ragged."""
    body = [[cell(value) for value in row] for row in rows]
    if not body:
        return ""
    numeric = [all(_is_number(row[column]) for row in body) for column in range(len(headers))]
    widths = [
        max(len(header), *(len(row[column]) for row in body))
        for column, header in enumerate(headers)
    ]
    lines = [_line(headers, widths, numeric, colour=False)]
    lines += [_line(row, widths, numeric, colour=colour) for row in body]
    return "\n".join(lines)


def _line(
    cells: Sequence[str], widths: Sequence[int], numeric: Sequence[bool], *, colour: bool
) -> str:
    parts = []
    for text, width, is_number in zip(cells, widths, numeric, strict=True):
        padded = text.rjust(width) if is_number else text.ljust(width)
        code = _COLOURS.get(text) if colour else None
        parts.append(f"\x1b[{code}m{padded}\x1b[0m" if code else padded)
    return "  ".join(parts).rstrip()


def _is_number(text: str) -> bool:
    return text == "-" or text.replace(".", "", 1).isdigit()


def cell(value: object) -> str:
    """One value as text without control characters: what a peer sends must not move the cursor."""
    if value is None or value == "" or value == []:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.1f}"
    if isinstance(value, list):
        return ", ".join(cell(item) for item in value)
    if isinstance(value, dict):
        return ", ".join(f"{key}={cell(item)}" for key, item in value.items())
    return "".join(char if char.isprintable() else "?" for char in str(value))


def duration(seconds: object) -> str:
    """Seconds as people say them: 42 s, 3 min, 5 h, 2 d."""
    if not isinstance(seconds, int | float):
        return "-"
    for limit, size, unit in ((120, 1, "s"), (7200, 60, "min"), (172800, 3600, "h")):
        if seconds < limit:
            return f"{int(seconds // size)} {unit}"
    return f"{int(seconds // 86400)} d"


def child(answer: Json, key: str) -> Json:
    """An object inside an answer; empty where there is none."""
    value = answer.get(key)
    return value if isinstance(value, dict) else {}


def children(answer: Json, key: str) -> list[Json]:
    """The objects of a list inside an answer."""
    value = answer.get(key)
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []
