"""Reading typed values out of a TOML document, with every fault noted at its line.

A `TableReader` never raises: a fault becomes a `ConfigProblem` and the value a stand-in, so that
one pass reports everything that is wrong with a file.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TypeVar

from controller.toml_lines import Path
from dataplane.ports import ConfigError

_BARE_KEY = re.compile(r"[A-Za-z0-9_-]{1,60}")

T = TypeVar("T")
E = TypeVar("E", bound=StrEnum)


@dataclass(frozen=True, slots=True, order=True)
class ConfigProblem:
    """One thing that is wrong with a file: where, what, why, and what to do next."""

    file: str
    line: int
    what: str
    why: str
    next_step: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.what}; {self.why}; {self.next_step}"


class ConfigProblems(ConfigError):
    """A file was refused as a whole; `problems` are all of its faults, by line."""

    def __init__(self, problems: Sequence[ConfigProblem]) -> None:
        self.problems = tuple(sorted(problems))
        super().__init__("\n".join(str(problem) for problem in self.problems))


class Notes:
    """The file's name, the lines of its keys, and the problems found so far."""

    def __init__(self, file: str, lines: Mapping[Path, int]) -> None:
        self.file = file
        self.problems: list[ConfigProblem] = []
        self._lines = lines

    def line_of(self, path: Path) -> int:
        """Line of a key, or of the nearest table that holds it."""
        while path and path not in self._lines:
            path = path[:-1]
        return self._lines.get(path, 1)

    def add(self, path: Path, what: str, why: str, next_step: str) -> None:
        """Note a problem at the line of `path`."""
        self.problems.append(ConfigProblem(self.file, self.line_of(path), what, why, next_step))


def dotted(path: Path) -> str:
    """A path as the reader of a message writes it: uplink[0].device."""
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            word = part if _BARE_KEY.fullmatch(part) else shown(part)
            text += f".{word}" if text else word
    return text


def shown(value: object) -> str:
    """A value in a message, cut to a length that fits a line."""
    try:
        text = repr(value)
    except ValueError:
        # Python refuses to write an integer of more than 4300 digits, which 0x... can make.
        return "a number beyond all ranges"
    return text if len(text) <= 60 else text[:57] + "..."


_KINDS: Mapping[type, str] = {
    bool: "a boolean",
    int: "an integer",
    float: "a float",
    str: "a string",
    list: "an array",
    dict: "a table",
}


def kind(value: object) -> str:
    """TOML's word for the type of a value."""
    return _KINDS.get(type(value), "a date or time")


class TableReader:
    """One table of the document. Keys that nobody asked for are faults (`finish`)."""

    def __init__(self, notes: Notes, path: Path, values: Mapping[str, object] | None) -> None:
        self.notes = notes
        self.path = path
        # None: something else stands where the table should be, which is noted already.
        self._is_table = values is not None
        self._values: Mapping[str, object] = values or {}
        self._asked: set[str] = set()
        self._faulty: set[str] = set()

    def has(self, key: str) -> bool:
        """Whether the file gives the key."""
        self._asked.add(key)
        return key in self._values

    def is_list(self, key: str) -> bool:
        """Whether the key is there with a list, of whatever."""
        return isinstance(self._values.get(key), list)

    def sound(self, key: str) -> bool:
        """Whether the file gives the key, and nothing was wrong with it so far.

        What agrees or disagrees with other values is asked of sound ones only: a stand-in must
        not make follow-on problems.
        """
        return key in self._values and key not in self._faulty

    def fault(self, key: str, what: str, why: str, next_step: str) -> None:
        """Note a problem at a key of this table."""
        self._faulty.add(key)
        self.notes.add((*self.path, key), what, why, next_step)

    def fault_at(self, key: str, index: int, why: str, next_step: str) -> None:
        """Note a problem at an element of an array of this table."""
        self._faulty.add(key)
        path = (*self.path, key, index)
        values = self._values.get(key)
        element = values[index] if isinstance(values, list) else None
        self.notes.add(path, f"{dotted(path)} = {shown(element)}", why, next_step)

    def name(self, key: str) -> str:
        """The key with its tables, for messages."""
        return dotted((*self.path, key))

    def _take(self, key: str, wanted: type[T], default: T | None, example: str) -> T | None:
        """The value if it is there and of the type; else the default, and a problem if due."""
        if not self.has(key):
            if default is None and self._is_table:
                self._faulty.add(key)
                self.notes.add(
                    self.path,
                    f"{self.name(key)} is missing",
                    "it has no default",
                    f"add {key} = {example}",
                )
            return default
        value = self._values[key]
        # type() and not isinstance: TOML's true is no integer.
        if type(value) is wanted:
            return value  # type: ignore[no-any-return, unused-ignore]
        self.fault(
            key,
            f"{self.name(key)} is {kind(value)}",
            f"it has to be {_KINDS[wanted]}",
            f"write {key} = {example}",
        )
        return default

    def text(
        self,
        key: str,
        *,
        default: str | None = None,
        example: str,
        pattern: re.Pattern[str],
        rule: str,
    ) -> str:
        """A string that the pattern matches whole; `rule` says in words what that means."""
        value = self._take(key, str, default, f'"{example}"')
        if value is None:
            return example
        if value != default and not pattern.fullmatch(value):
            self.fault(
                key, f"{self.name(key)} = {shown(value)}", rule, f'write {key} = "{example}"'
            )
            return example
        return value

    def integer(self, key: str, low: int, high: int, *, default: int | None = None) -> int:
        """An integer of low..high."""
        example = default if default is not None else low
        value = self._take(key, int, default, str(example))
        if value is None:
            return example
        if not low <= value <= high:
            self.fault(
                key,
                f"{self.name(key)} = {shown(value)}",
                f"the range is {low}..{high}",
                f"write {key} = {example}",
            )
            return example
        return value

    def number(self, key: str, low: float, high: float, *, default: float) -> float:
        """A number of low..high, with a fraction or without."""
        if not self.has(key):
            return default
        value = self._values[key]
        if not isinstance(value, int | float) or isinstance(value, bool):
            what, why = f"is {kind(value)}", "it has to be a number"
        elif not low <= value <= high:
            what, why = f"= {shown(value)}", f"the range is {low:g}..{high:g}"
        else:
            return float(value)
        self.fault(key, f"{self.name(key)} {what}", why, f"write {key} = {default:g}")
        return default

    def boolean(self, key: str, *, default: bool) -> bool:
        """True or false."""
        value = self._take(key, bool, default, str(default).lower())
        return default if value is None else value

    def choice(self, key: str, choices: Iterable[E], *, default: E | None = None) -> E:
        """One of an enumeration's values, or of some of them."""
        choices = tuple(choices)
        options = [str(option.value) for option in choices]
        first = default if default is not None else next(iter(choices))
        value = self._take(key, str, str(default) if default else None, f'"{first.value}"')
        if value is None:
            return first
        if value in options:
            return choices[options.index(value)]
        self.fault(
            key,
            f"{self.name(key)} = {shown(value)}",
            f"allowed are {', '.join(options)}",
            f'write {key} = "{self._nearest(value, options) or first.value}"',
        )
        return first

    def parsed(
        self,
        key: str,
        parse: Callable[[str], T],
        stand_in: T,
        *,
        default: str | None = None,
        example: str,
    ) -> T:
        """What `parse` makes of a string; its ValueError is the reason of the problem."""
        value = self._take(key, str, default, f'"{example}"')
        if value is None:
            return stand_in
        try:
            return parse(value)
        except ValueError as error:
            self.fault(
                key,
                f"{self.name(key)} = {shown(value)}",
                str(error).replace("\n", " "),
                f'write {key} = "{example}"',
            )
            return stand_in

    def items(
        self, key: str, wanted: type[T], *, default: Sequence[T] | None = None, example: str
    ) -> dict[int, T]:
        """An array whose elements are of one type, by index; wrong ones are noted, left out."""
        taken = self._take(key, list, None if default is None else list(default), example)
        found: dict[int, T] = {}
        for index, value in enumerate(taken or ()):
            if type(value) is wanted:
                found[index] = value
            else:
                self.fault_at(
                    key, index, f"it has to be {_KINDS[wanted]}", f"write {key} = {example}"
                )
        return found

    def table(self, key: str) -> TableReader:
        """A table below this one; an absent one reads as empty."""
        values: Mapping[str, object] | None = {}
        if self.has(key):
            value = self._values[key]
            values = value if isinstance(value, dict) else None
            if values is None:
                self._not_a_table(key, value, f"[{key}]")
        return TableReader(self.notes, (*self.path, key), values)

    def tables(self, key: str) -> list[TableReader]:
        """An array of tables; an absent one reads as empty."""
        if not self.has(key):
            return []
        value = self._values[key]
        if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
            self._not_a_table(key, value, f"[[{key}]]")
            return []
        return [
            TableReader(self.notes, (*self.path, key, index), item)
            for index, item in enumerate(value)
        ]

    def _not_a_table(self, key: str, value: object, header: str) -> None:
        self.fault(
            key,
            f"{self.name(key)} is {kind(value)}",
            "it has to be an array of tables"
            if header.startswith("[[")
            else "it has to be a table",
            f"write it below a header {header}",
        )

    def finish(self) -> None:
        """Note every key that nobody asked for."""
        for key in self._values:
            if key in self._asked:
                continue
            near = self._nearest(key, sorted(self._asked))
            self.fault(
                key,
                f"{self.name(key)} is unknown",
                "unknown keys are refused, so that a misspelt one cannot pass unseen",
                f"did you mean {near}? or remove it" if near else "remove it",
            )

    @staticmethod
    def _nearest(word: str, options: Sequence[str]) -> str | None:
        # Cut: the comparison is quadratic, and a long key is no near miss of a short one.
        return next(iter(difflib.get_close_matches(word[:40], options, n=1)), None)
