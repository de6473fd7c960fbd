"""Reading typed values out of a JSON document, with every fault noted at its place.

An `ObjectReader` never raises: a fault becomes a line and the value a stand-in, so that one pass
reports everything that is wrong with a file. Fields that nobody asks for, and fields given twice,
are faults too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeVar

from dataplane.model.topology import cpu_list

MAX_KEY = 1 << 30
"""The greatest number that a key stands for."""

T = TypeVar("T")


class JsonObject(dict[str, object]):
    """An object of the document; `twice` are the keys that it gives more than once."""

    def __init__(self, pairs: list[tuple[str, object]]) -> None:
        super().__init__(pairs)
        names = [name for name, _ in pairs]
        self.twice = sorted({name for name in names if names.count(name) > 1})


class ObjectReader:
    """One object of the document. Faults go to `faults`; stand-ins take the values' places."""

    def __init__(self, faults: list[str], place: str, value: object) -> None:
        self.faults = faults
        self.place = place
        self._asked: set[str] = set()
        self._values: Mapping[str, object] = {}
        self._is_object = isinstance(value, JsonObject)
        if isinstance(value, JsonObject):
            self._values = value
            for name in value.twice:
                self.fault(name, "it is given twice; keep one")
        else:
            faults.append(f"{place}: this is {kind_of(value)}; it has to be an object")

    def fault(self, key: str, why: str) -> None:
        """Note a fault at a key."""
        self.faults.append(f"{self.place}.{shown(key)}: {why}")

    def _get(self, key: str, kind: type[T], default: T | None, stand_in: T) -> T:
        self._asked.add(key)
        if key not in self._values:
            if default is None and self._is_object:
                self.fault(key, "it is missing")
            return stand_in if default is None else default
        value = self._values[key]
        if isinstance(value, kind) and not (kind is int and isinstance(value, bool)):
            return value
        self.fault(key, f"this is {kind_of(value)}; it has to be {_KINDS[kind]}")
        return stand_in

    def text(self, key: str, default: str | None = None) -> str:
        """A string."""
        return self._get(key, str, default, "")

    def number(self, key: str, low: int, high: int, default: int | None = None) -> int:
        """An integer within bounds."""
        value = self._get(key, int, default, low)
        if not low <= value <= high:
            self.fault(key, f"{_digits(value)} is not within {low}..{high}")
            return low
        return value

    def flag(self, key: str) -> bool:
        """A boolean, false if it is not given."""
        return self._get(key, bool, False, False)

    def cpus(self, key: str, default: str | None = "") -> frozenset[int]:
        """A list of CPUs as the kernel writes it."""
        try:
            return cpu_list(self._get(key, str, default, ""))
        except ValueError as error:
            self.fault(key, f"{error}; write it as in 0-3,8")
            return frozenset()

    def maybe_cpus(self, key: str) -> frozenset[int] | None:
        """A list of CPUs, or null, or nothing."""
        if self._values.get(key) is None:
            self._asked.add(key)
            return None
        return self.cpus(key)

    def table(self, key: str) -> ObjectReader:
        """An object below this one; empty if it is not given."""
        self._asked.add(key)
        return ObjectReader(
            self.faults, f"{self.place}.{key}", self._values.get(key, JsonObject([]))
        )

    def each(self, key: str, read: Callable[[ObjectReader], T]) -> tuple[T, ...]:
        """The objects of an array; empty if it is not given."""
        found = []
        for index, value in enumerate(self._get(key, list, [], [])):
            reader = ObjectReader(self.faults, f"{self.place}.{key}[{index}]", value)
            found.append(read(reader))
            reader.finish()
        return tuple(found)

    def strings(self, key: str) -> tuple[str, ...]:
        """An array of strings."""
        values = self._get(key, list, [], [])
        if any(not isinstance(value, str) for value in values):
            self.fault(key, "it has to be an array of strings")
            return ()
        return tuple(values)

    def numbers(self, key: str, high: int) -> tuple[int, ...]:
        """An array of positive integers."""
        values = self._get(key, list, [], [])
        if any(type(value) is not int or not 1 <= value <= high for value in values):
            self.fault(key, f"it has to be an array of integers within 1..{high}")
            return ()
        return tuple(values)

    def by_number(self, key: str, value_of: Callable[[object], T | None]) -> dict[int, T]:
        """An object whose keys are numbers; `value_of` answers None for what is no value."""
        self._asked.add(key)
        below = ObjectReader(
            self.faults, f"{self.place}.{key}", self._values.get(key, JsonObject([]))
        )
        found: dict[int, T] = {}
        for name, value in below._values.items():
            good = value_of(value)
            if not (name.isascii() and name.isdigit()) or len(name) > len(str(MAX_KEY)):
                below.fault(name, "the key has to be a number")
            elif int(name) in found:
                below.fault(name, "it is given twice; keep one")
            elif good is None:
                below.fault(name, f"{shown(value)} is no value for it")
            else:
                found[int(name)] = good
        return found

    def names(self) -> tuple[str, ...]:
        """The keys that the document gives."""
        return tuple(self._values)

    def finish(self) -> None:
        """Note the fields that nobody asked for."""
        for name in self._values:
            if name not in self._asked:
                known = ", ".join(sorted(self._asked))
                self.fault(name, f"there is no such field; there are: {known}")


_KINDS: Mapping[type, str] = {
    bool: "a boolean",
    int: "an integer",
    str: "a string",
    list: "an array",
}


def kind_of(value: object) -> str:
    """JSON's word for the type of a value."""
    if value is None:
        return "null"
    if isinstance(value, dict):
        return "an object"
    return _KINDS.get(type(value), "a number with a fraction")


def _digits(value: int) -> str:
    return str(value) if value.bit_length() < 64 else "a number of more than 64 bits"


def shown(value: object) -> str:
    """A value in a message, cut to a length that fits a line."""
    text = value if isinstance(value, str) and value.isidentifier() else repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
