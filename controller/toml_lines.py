"""Where each key of a TOML document stands: the lines that `tomllib` does not tell.

The scanner relies on `tomllib` having accepted the text: it finds its way through keys, strings,
arrays and tables, and checks nothing. Source: TOML v1.0.0, https://toml.io/en/v1.0.0
"""

from __future__ import annotations

import tomllib

Path = tuple[str | int, ...]
"""Keys and array indices from the root: ("uplink", 0, "device")."""


def line_index(text: str) -> dict[Path, int]:
    """Line number (1..) of each key, table header and array element of a valid document.

    A path that several lines mention (`[a.b]` and `[a.c]` both mention `a`) has the first one.
    """
    return _Scanner(text.replace("\r\n", "\n")).scan()


class _Scanner:
    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self._line = 1
        self._lines: dict[Path, int] = {}
        self._arrays: dict[Path, int] = {}  # arrays of tables: how many elements so far

    def scan(self) -> dict[Path, int]:
        table: Path = ()
        while True:
            self._skip(" \t\n")
            if self._at >= len(self._text):
                return self._lines
            if self._text.startswith("[[", self._at):
                self._advance(2)
                table = self._header(self._key(), is_array=True)
                self._advance(2)
            elif self._peek() == "[":
                self._advance(1)
                table = self._header(self._key(), is_array=False)
                self._advance(1)
            else:
                self._pair(table)

    def _peek(self) -> str:
        return self._text[self._at : self._at + 1]

    def _advance(self, count: int) -> str:
        """Step over `count` characters; what they were."""
        passed = self._text[self._at : self._at + count]
        self._line += passed.count("\n")
        self._at += len(passed)
        return passed

    def _skip(self, blanks: str) -> None:
        """Step over blanks, and over comments where the blanks include the line's end."""
        while char := self._peek():
            if char == "#" and "\n" in blanks:
                end = self._text.find("\n", self._at)
                self._advance((end if end >= 0 else len(self._text)) - self._at)
            elif char in blanks:
                self._advance(1)
            else:
                return

    def _note(self, path: Path) -> None:
        for length in range(1, len(path) + 1):
            self._lines.setdefault(path[:length], self._line)

    def _header(self, key: list[str], *, is_array: bool) -> Path:
        """The path of the table that a header opens."""
        path: Path = ()
        for part in key[:-1]:
            path = (*path, part)
            if path in self._arrays:
                path = (*path, self._arrays[path] - 1)
        path = (*path, key[-1])
        if is_array:
            self._arrays[path] = self._arrays.get(path, 0) + 1
            path = (*path, self._arrays[path] - 1)
        self._note(path)
        return path

    def _key(self) -> list[str]:
        """A dotted key; the scanner then stands at what follows it."""
        parts = []
        while True:
            self._skip(" \t")
            if self._peek() in ('"', "'"):
                raw = self._string()
                # Escapes are as in values, so the library that knows them reads it.
                parts.append(str(tomllib.loads(f"key = {raw}")["key"]))
            else:
                start = self._at
                while self._peek() not in (".", "=", "]", " ", "\t", ""):
                    self._advance(1)
                parts.append(self._text[start : self._at])
            self._skip(" \t")
            if self._peek() != ".":
                return parts
            self._advance(1)

    def _pair(self, table: Path) -> None:
        line = self._line
        path: Path = (*table, *self._key())
        for length in range(len(table) + 1, len(path) + 1):
            self._lines.setdefault(path[:length], line)
        self._advance(1)  # the equals sign
        self._value(path)

    def _value(self, path: Path) -> None:
        self._skip(" \t")
        match self._peek():
            case '"' | "'":
                self._string()
            case "[":
                self._array(path)
            case "{":
                self._inline_table(path)
            case _:
                while self._peek() not in (",", "]", "}", "#", "\n", ""):
                    self._advance(1)

    def _string(self) -> str:
        """Step over a string of any of the four kinds; its text with the quotes."""
        start = self._at
        quote = self._peek()
        if self._text.startswith(quote * 3, self._at):
            self._advance(3)
            while not self._text.startswith(quote * 3, self._at):
                self._advance(2 if quote == '"' and self._peek() == "\\" else 1)
            self._advance(3)
            # Up to two quotes may stand right before the closing three.
            while self._peek() == quote:
                self._advance(1)
        else:
            self._advance(1)
            while self._peek() != quote:
                self._advance(2 if quote == '"' and self._peek() == "\\" else 1)
            self._advance(1)
        return self._text[start : self._at]

    def _array(self, path: Path) -> None:
        self._advance(1)
        index = 0
        while True:
            self._skip(" \t\n")
            if self._peek() == "]":
                self._advance(1)
                return
            self._lines.setdefault((*path, index), self._line)
            self._value((*path, index))
            index += 1
            self._skip(" \t\n")
            if self._peek() == ",":
                self._advance(1)

    def _inline_table(self, path: Path) -> None:
        self._advance(1)
        while True:
            self._skip(" \t")
            if self._peek() == "}":
                self._advance(1)
                return
            self._pair(path)
            self._skip(" \t")
            if self._peek() == ",":
                self._advance(1)
