"""A fast drop-in for the `ovs` library's JSON parsing and framing, on the standard library's json.

OVSDB's stream of JSON objects has no lengths, so a reader has to find where an object ends. The
library parses character by character (in Python, or in C where the extension is installed) from
chunks of 4,096 bytes, and slices the rest of its buffer each time. Here a `Framer` counts brackets
outside strings with operations that run in C over whole chunks, and hands a message to
`json.JSONDecoder.raw_decode` once, when its last bracket has come: the work is proportional to the
message, whatever the chunks.

`install()` puts it in place of `ovs.json.Parser` and `ovs.jsonrpc.Connection.recv`, explicitly and
for the whole process. That also mends a fault of the library: it loses the first bytes of a
character that is split between two reads.

Values are those that the library gives: 1.0 is the integer 1, a negative zero is 0, NaN, null
bytes and lone leading surrogates are refused. Two differences remain, both harmless in OVSDB: an
integer beyond 64 bits stays one, where the library makes a float of it, and a syntax error is
reported when the brackets close or the peer pauses, where the library reports it at once.
"""

from __future__ import annotations

import codecs
import errno
import itertools
import json
import math
import os
import re
from collections.abc import Callable
from typing import Any

import ovs.json
import ovs.jsonrpc

RECEIVE_BYTES = 1 << 18
"""How much to ask of one recv(2); a Unix socket gives up to its buffer, some 200 KiB."""

MAX_DEPTH = 1000
"""The library's `Parser.MAX_HEIGHT`."""

DIAGNOSE_BYTES = 1 << 16
"""An unfinished message up to this size is looked at for errors whenever the peer pauses."""

_STRUCTURE = b"{}[]"
_OTHER = bytes(set(range(256)) - set(_STRUCTURE))
_STEP = [0] * 256
for _byte in b"{[":
    _STEP[_byte] = 1
for _byte in b"}]":
    _STEP[_byte] = -1
_BLANK = b" \t\r\n"
_NUMBER_PART = re.compile(r"[-+.0-9eE]*")
_ESCAPE = re.compile(r"\\(?:u([0-9a-fA-F]{4})|.)", re.DOTALL)


_LIBRARY = (ovs.json.Parser, ovs.json.PARSER, ovs.jsonrpc.Connection.recv)


class JsonError(ValueError):
    """The text is not JSON; the message says what the library would, as far as possible."""


def _real(text: str) -> int | float:
    """A number with a fraction or an exponent, as the library gives it: an integer if it is one."""
    value = float(text)
    if math.isinf(value):
        msg = "number outside valid range"
        raise JsonError(msg)
    if value == 0:
        return 0
    if not value.is_integer() or not -(2**63) <= value < 2**63:
        return value
    # Worked out from the digits, for beyond 2^53 the double is another integer than the text.
    mantissa, _, exponent = text.lower().partition("e")
    whole, _, fraction = mantissa.partition(".")
    power = int(exponent or 0) - len(fraction)
    digits = abs(int(whole + fraction))
    scale: int = 10 ** abs(power)
    quotient, remainder = divmod(digits, scale) if power < 0 else (digits * scale, 0)
    if remainder:
        return value
    return -quotient if text.startswith("-") else quotient


def _constant(text: str) -> float:
    msg = f"invalid keyword '{text}'"
    raise JsonError(msg)


_DECODER = json.JSONDecoder(parse_float=_real, parse_constant=_constant)


def decode(text: str) -> tuple[Any, int]:
    """The JSON value at the beginning of `text` (after blanks), and where it ends.

    Raises:
        JsonError: there is none, or one that the library would refuse.
    """
    start = len(text) - len(text.lstrip(" \t\r\n"))
    if text[start : start + 1] not in ("{", "["):
        msg = "syntax error at beginning of input"
        raise JsonError(msg)
    try:
        value, end = _DECODER.raw_decode(text, start)
    except json.JSONDecodeError as error:
        msg = f"line {error.lineno - 1}, column {error.colno - 1}, byte {error.pos}: {error.msg}"
        raise JsonError(msg) from error
    except RecursionError as error:
        msg = f"input exceeds maximum nesting depth {MAX_DEPTH}"
        raise JsonError(msg) from error
    if "\\u" in text:
        _check_escapes(text[start:end])
    return value, end


def _check_escapes(text: str) -> None:
    """Refuse what the library refuses and the standard library takes."""
    leading_end = -1
    for found in _ESCAPE.finditer(text):
        code = int(found[1], 16) if found[1] else -1
        if leading_end >= 0 and not (found.start() == leading_end and 0xDC00 <= code <= 0xDFFF):
            break
        leading_end = -1
        if code == 0:
            msg = "null bytes not supported in quoted strings"
            raise JsonError(msg)
        if 0xD800 <= code <= 0xDBFF:
            leading_end = found.end()
    if leading_end >= 0:
        msg = "malformed escaped surrogate pair"
        raise JsonError(msg)


class Framer:
    """Cuts a stream of bytes into JSON messages.

    `feed` takes what came, `next` gives the messages one after the other. After an error the
    stream is lost: there is no way to find the next message.
    """

    def __init__(self) -> None:
        self._chunks: list[bytes] = []
        self._carry = b""
        self._depth = 0
        self._in_string = False
        self._begun = False
        self._complete = False
        self._size = 0
        self._decoder = codecs.getincrementaldecoder("utf-8")

    @property
    def size(self) -> int:
        """Bytes that are here and belong to no message yet."""
        return self._size

    @property
    def rest(self) -> bytes:
        """The bytes that are here and belong to no message yet."""
        return b"".join(self._chunks)

    def feed(self, chunk: bytes) -> None:
        """Take bytes as they come from the peer."""
        self._chunks.append(chunk)
        self._size += len(chunk)
        if not self._complete:
            self._scan(chunk)

    def next(self) -> Any | None:
        """The next message, or None until more has come.

        Raises:
            JsonError: what came is no JSON.
        """
        if not self._complete:
            return None
        data = b"".join(self._chunks)
        try:
            # Only whole messages are decoded, so a character at the end may still be half here.
            text = self._decoder().decode(data)
        except UnicodeDecodeError as error:
            msg = f"not a valid UTF-8 string: {error.reason} at byte {error.start}"
            raise JsonError(msg) from error
        value, end = decode(text)
        rest = data[end:] if len(text) == len(data) else data[len(text[:end].encode()) :]
        self._restart(rest)
        return value

    def diagnose(self) -> None:
        """See whether a short unfinished message can still become one.

        Raises:
            JsonError: it cannot.
        """
        if not self._begun or self._complete or self._size > DIAGNOSE_BYTES:
            return
        try:
            text = self._decoder().decode(b"".join(self._chunks))
        except UnicodeDecodeError as error:
            msg = f"not a valid UTF-8 string: {error.reason} at byte {error.start}"
            raise JsonError(msg) from error
        try:
            decode(text)
        except JsonError as error:
            cause = error.__cause__
            if not isinstance(cause, json.JSONDecodeError) or not _cut_short(text, cause):
                raise

    def _restart(self, rest: bytes) -> None:
        self._chunks = []
        self._carry = b""
        self._depth = 0
        self._size = 0
        self._in_string = self._begun = self._complete = False
        if rest:
            self.feed(rest)

    def _scan(self, chunk: bytes) -> None:
        """Follow brackets and quotes through one more chunk; all of it runs in C."""
        if not self._begun:
            chunk = chunk.lstrip(_BLANK)
            if not chunk:
                return
            self._begun = True
            if chunk[0] not in b"{[":
                self._complete = True  # garbage: `next` says what kind
                return
        chunk = self._carry + chunk
        self._carry = b""
        if b"\\" in chunk:
            if (len(chunk) - len(chunk.rstrip(b"\\"))) % 2:
                chunk, self._carry = chunk[:-1], b"\\"
            # Left to right, so an escaped backslash never escapes what follows it.
            chunk = chunk.replace(b"\\\\", b"").replace(b'\\"', b"")
        parts = chunk.split(b'"')
        outside = b"".join(parts[1 if self._in_string else 0 :: 2])
        if len(parts) % 2 == 0:
            self._in_string = not self._in_string
        brackets = outside.translate(None, _OTHER)
        closing = brackets.count(b"}") + brackets.count(b"]")
        if self._depth > closing or not brackets:
            self._depth += len(brackets) - 2 * closing
            return
        depths = itertools.accumulate(map(_STEP.__getitem__, brackets), initial=self._depth)
        next(depths)
        if 0 in depths:
            self._complete = True
        else:
            self._depth += len(brackets) - 2 * closing


def _cut_short(text: str, error: json.JSONDecodeError) -> bool:
    """Whether the parser merely ran out of text."""
    rest = text[error.pos :].strip(" \t\r\n")
    if not rest or error.msg.startswith("Unterminated string"):
        return True
    if "escape" in error.msg:
        return len(rest) < len("\\uD800\\uDC00")
    # The end of a number is seen by what follows it, so half of one is an error to json.
    return bool(_NUMBER_PART.fullmatch(rest)) or any(
        word.startswith(rest) for word in ("true", "false", "null")
    )


class Parser:
    """`ovs.json.Parser` with the same methods, for text that comes in pieces."""

    def __init__(self, check_trailer: bool = False) -> None:
        self._check_trailer = check_trailer
        self._framer = Framer()
        self._fed = 0
        self._value: Any = None
        self._error = ""
        self._done = False

    def feed(self, text: str) -> int:
        """Take text; how many characters of it were used."""
        if self._done:
            return 0
        self._fed += len(text)
        if self._value is not None:
            self._refuse_trailer(text.encode("utf-8", "surrogatepass"))
            return len(text)
        self._framer.feed(text.encode("utf-8", "surrogatepass"))
        try:
            self._value = self._framer.next()
        except JsonError as error:
            self._error, self._done = str(error), True
            return len(text)
        if self._value is None:
            return len(text)
        rest = self._framer.rest
        if self._check_trailer:
            self._refuse_trailer(rest)
            return len(text)
        self._done = True
        return len(text) - len(rest.decode("utf-8", "surrogatepass"))

    def _refuse_trailer(self, rest: bytes) -> None:
        if rest.strip(_BLANK):
            self._error, self._done = "trailing garbage at end of input", True

    def is_done(self) -> bool:
        """Whether a value, or an error, is complete."""
        return self._done

    def finish(self) -> Any:
        """The value; a string is an error message, as the library has it."""
        if self._error:
            return self._error
        if self._value is not None:
            return self._value
        if not self._fed:
            return "line 0, column 0, byte 0: empty input stream"
        try:
            self._framer.diagnose()
        except JsonError as error:
            return str(error)
        return "unexpected end of input"


def _receive(connection: Any) -> tuple[int, Any]:
    """`ovs.jsonrpc.Connection.recv`: (0, message), or (errno, None); EAGAIN: nothing yet."""
    if connection.status:
        return connection.status, None
    framer: Framer | None = getattr(connection, "_millrace_framer", None)
    if framer is None:
        framer = connection._millrace_framer = Framer()  # noqa: SLF001  # our own attribute
    while True:
        try:
            value = framer.next()
            if value is not None:
                # What `recv_wait` looks at: with bytes left, it must not wait for more.
                connection.input = "more" if framer.size else ""
                return _message(connection, value)
            error, data = connection.stream.recv(RECEIVE_BYTES)
            if error == errno.EAGAIN:
                connection.input = ""
                framer.diagnose()
                return error, None
        except JsonError as broken:
            ovs.jsonrpc.vlog.warn(f"{connection.name}: error parsing stream: {broken}")
            connection.error(errno.EPROTO)
            return connection.status, None
        if error:
            ovs.jsonrpc.vlog.warn(f"{connection.name}: receive error: {os.strerror(error)}")
            connection.error(error)
            return connection.status, None
        if not data:
            connection.error(ovs.jsonrpc.EOF)
            return ovs.jsonrpc.EOF, None
        connection.received_bytes += len(data)
        framer.feed(data)


def _message(connection: Any, value: Any) -> tuple[int, Any]:
    message = ovs.jsonrpc.Message.from_json(value)
    if isinstance(message, ovs.jsonrpc.Message):
        return 0, message
    ovs.jsonrpc.vlog.warn(f"{connection.name}: received bad JSON-RPC message: {message}")
    connection.error(errno.EPROTO)
    return connection.status, None


def install() -> None:
    """Have the `ovs` library of this process use this module. To be called before connecting."""
    ovs.json.Parser = Parser
    # Tells the library that `feed` counts characters, and not bytes as the C extension does.
    ovs.json.PARSER = ovs.json.PARSER_PY
    ovs.jsonrpc.Connection.recv = _receive


def uninstall() -> None:
    """Give the library its own parser back."""
    ovs.json.Parser, ovs.json.PARSER, ovs.jsonrpc.Connection.recv = _LIBRARY


def readers() -> dict[str, Callable[[Any], Any]]:
    """For measurements: parser name -> function that reads one message from a stream.

    Each leaves the library as it found it. "c" is there only where the extension is.
    """

    def by(parser: Any, kind: str, recv: Any) -> Callable[[Any], Any]:
        def read(stream: Any) -> Any:
            before = (ovs.json.Parser, ovs.json.PARSER, ovs.jsonrpc.Connection.recv)
            ovs.json.Parser, ovs.json.PARSER, ovs.jsonrpc.Connection.recv = parser, kind, recv
            try:
                return ovs.jsonrpc.Connection(stream).recv()[1]
            finally:
                ovs.json.Parser, ovs.json.PARSER, ovs.jsonrpc.Connection.recv = before

        return read

    library, kind, recv = _LIBRARY
    found = {"millrace": by(Parser, ovs.json.PARSER_PY, _receive)}
    if kind == ovs.json.PARSER_C:
        found["c"] = by(library, kind, recv)
    return {**found, "python": by(library, ovs.json.PARSER_PY, recv)}
