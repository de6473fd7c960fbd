"""The fast parser against the library's own, character by character one."""

from __future__ import annotations

import errno
import json
from collections.abc import Iterator
from typing import Any

import ovs.json
import ovs.jsonrpc
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from dataplane.drivers import ovsjson
from dataplane.drivers.ovsjson import Framer, JsonError

Reference = ovs.json.Parser
KIND = ovs.json.PARSER


def reference(text: str, check_trailer: bool = True) -> Any:
    """What the library's pure Python parser makes of a text; a str is an error."""
    ovs.json.PARSER = ovs.json.PARSER_PY
    try:
        parser = Reference(check_trailer=check_trailer)
        parser.feed(text)
        return parser.finish()
    finally:
        ovs.json.PARSER = KIND


def fast(text: str) -> Any:
    parser = ovsjson.Parser(check_trailer=True)
    parser.feed(text)
    return parser.finish()


characters = st.characters(exclude_categories=["Cs"], exclude_characters="\0")
strings = st.text(characters, max_size=12) | st.sampled_from(
    ['"', "\\", '\\"', "\\\\", "{", "}", "[]", "😀", "é", "\x01", "a\\u0041", "\\\\\\"]
)
scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | strings
)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(strings, inner, max_size=4),
    max_leaves=12,
)
documents = st.lists(values, max_size=4) | st.dictionaries(strings, values, max_size=4)


@given(documents, st.booleans(), st.sampled_from([None, 1]))
def test_values_are_those_of_the_library(document: Any, ascii_only: bool, indent: Any) -> None:
    text = json.dumps(document, ensure_ascii=ascii_only, indent=indent)
    assert fast(text) == reference(text)


@given(
    st.from_regex(r"-?(0|[1-9][0-9]{0,20})(\.[0-9]{1,20})?([eE][-+]?[0-9]{1,3})?", fullmatch=True)
)
@example("9007199254740993.0")
@example("9223372036854775808.0")
@example("-9223372036854775808.0")
@example("0.99999999999999999999")
@example("-0.0")
@example("1e400")
@example("1e-400")
@example("12300e-2")
@example("10000000000000000001")
def test_numbers_are_those_of_the_library(number: str) -> None:
    expected, got = reference(f"[{number}]"), fast(f"[{number}]")
    if isinstance(expected, str):
        assert isinstance(got, str)
    elif number.lstrip("-").isdigit() and not -(2**63) <= int(number) < 2**63:
        # The difference that the module names: it stays an integer.
        assert (got, [float(one) for one in got]) == ([int(number)], expected)
    else:
        assert got == expected


@given(
    st.text(st.sampled_from('{}[]",:\\u0dD8cC1eE-+. \ntruefalsn'), max_size=24)
    | st.builds(
        lambda document, at, junk: (
            (text := json.dumps(document))[: at % (len(text) + 1)]
            + junk
            + text[at % (len(text) + 1) :]
        ),
        documents,
        st.integers(0, 200),
        st.text(max_size=2),
    )
)
@example('{"a":"\\ud800"}')
@example('{"a":"\\ud800\\u0041"}')
@example('{"a":"\\ud83d\\ude00"}')
@example('{"a":"\\udc00"}')
@example('{"a":"\\\\ud800"}')
@example('{"a":"\\u0000"}')
@example('{"a":NaN}')
@example("[01]")
@example("[1.]")
@example("[1,]")
@example('"text"')
@example("5")
@example("")
@example("   ")
@example("{} x")
@example("{}{}")
@example("]")
@example("{]")
@example("[10000000000000000001]")
@settings(max_examples=300)
def test_what_the_library_refuses_is_refused_and_nothing_else(text: str) -> None:
    expected, got = reference(text), fast(text)
    if isinstance(expected, str):
        assert isinstance(got, str), (expected, got)
    else:
        assert as_the_library(got) == expected


def as_the_library(value: Any) -> Any:
    """A value with the difference that the module names taken out: integers beyond 64 bits."""
    if isinstance(value, dict):
        return {key: as_the_library(one) for key, one in value.items()}
    if isinstance(value, list):
        return [as_the_library(one) for one in value]
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        return float(value)
    return value


@given(documents)
@settings(max_examples=60)
def test_a_message_may_be_split_at_every_byte(document: Any) -> None:
    text = json.dumps(document, ensure_ascii=False)
    data, expected = text.encode(), reference(text)
    for cut in range(len(data) + 1):
        framer = Framer()
        framer.feed(data[:cut])
        framer.diagnose()
        early = framer.next()
        if early is None:
            framer.feed(data[cut:])
            early = framer.next()
        assert early == expected
        assert framer.next() is None


@given(st.lists(documents, max_size=4), st.lists(st.integers(1, 9), min_size=1))
def test_messages_come_out_as_they_went_in_whatever_the_chunks(
    stream: list[Any], sizes: list[int]
) -> None:
    data = b"".join(json.dumps(document).encode() + b"\n" for document in stream)
    framer = Framer()
    got: list[Any] = []
    at = number = 0
    while at < len(data):
        size = sizes[number % len(sizes)]
        framer.feed(data[at : at + size])
        at, number = at + size, number + 1
        while (value := framer.next()) is not None:
            got.append(value)
    assert got == [reference(json.dumps(document)) for document in stream]


@given(st.text(st.sampled_from('{}[]",:1tru '), min_size=1, max_size=20))
def test_an_unfinished_message_is_called_broken_only_if_it_is(text: str) -> None:
    framer = Framer()
    framer.feed(text.encode())
    try:
        value = framer.next()
        if value is None:
            framer.diagnose()
    except JsonError:
        # Whatever follows, the library finds the same text wrong.
        assert isinstance(reference(text, check_trailer=False), str)


class Wire:
    """A stream that gives its bytes in chunks and then says EAGAIN."""

    def __init__(self, chunks: list[bytes], end: int = errno.EAGAIN) -> None:
        self.name = "test"
        self.chunks = chunks
        self.end = end
        self.closed = False

    def recv(self, size: int) -> tuple[int, bytes]:
        if not self.chunks:
            return (0, b"") if self.end == 0 else (self.end, b"")
        return 0, self.chunks.pop(0)[:size]

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def installed() -> Iterator[None]:
    ovsjson.install()
    yield
    ovsjson.uninstall()


def notify(name: str) -> bytes:
    return json.dumps({"id": None, "method": name, "params": [name]}, ensure_ascii=False).encode()


@pytest.mark.usefixtures("installed")
class TestConnection:
    def test_two_messages_in_one_chunk_come_one_by_one(self) -> None:
        connection = ovs.jsonrpc.Connection(Wire([notify("a") + notify("b") + b'{"id']))
        assert connection.recv()[1].method == "a"
        assert connection.input, "recv_wait must not sleep with a message at hand"
        assert connection.recv()[1].method == "b"
        assert connection.recv() == (errno.EAGAIN, None)
        assert not connection.input

    def test_a_character_split_between_two_reads_is_whole(self) -> None:
        data = notify("é😀")
        for cut in range(1, len(data)):
            wire = Wire([data[:cut]])
            connection = ovs.jsonrpc.Connection(wire)
            assert connection.recv() == (errno.EAGAIN, None)
            wire.chunks.append(data[cut:])
            assert connection.recv()[1].method == "é😀"
            assert connection.get_received_bytes() == len(data)

    @pytest.mark.parametrize("garbage", [b"hello", b"{]", b'{"a":x', b"[1,2]", b"{}", b"\xff{}"])
    def test_garbage_ends_the_connection_as_the_library_has_it(self, garbage: bytes) -> None:
        wire = Wire([garbage])
        connection = ovs.jsonrpc.Connection(wire)
        assert connection.recv() == (errno.EPROTO, None)
        assert wire.closed
        assert connection.get_status() == errno.EPROTO

    def test_the_end_of_the_stream_is_reported(self) -> None:
        connection = ovs.jsonrpc.Connection(Wire([notify("a")], end=0))
        assert connection.recv()[1].method == "a"
        assert connection.recv() == (ovs.jsonrpc.EOF, None)

    def test_the_librarys_own_readers_use_it(self) -> None:
        assert ovs.json.from_string('{"a":[1,2.0]}') == {"a": [1, 2]}
        assert isinstance(ovs.json.from_string("{"), str)
        schema = ovs.json.from_file("/usr/share/openvswitch/vswitch.ovsschema")
        assert schema["name"] == "Open_vSwitch"
