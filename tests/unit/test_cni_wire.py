"""The wire protocol: what goes out comes back, and nothing else gets in."""

from __future__ import annotations

import json
import socket
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cni import wire

JSON_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.text()
    | st.floats(allow_nan=False).filter(lambda x: abs(x) != float("inf")),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


def framed(message: bytes) -> bytes:
    assert wire.payload_size(message[: wire.HEADER_SIZE]) == len(message) - wire.HEADER_SIZE
    return message[wire.HEADER_SIZE :]


@given(st.text(), st.dictionaries(st.text(), JSON_VALUES, max_size=4))
def test_a_request_survives_the_wire(op: str, args: dict[str, object]) -> None:
    obj = wire.decode(framed(wire.encode(wire.request(op, args))))
    assert wire.parse_request(obj) == (op, args)


@given(st.dictionaries(st.text(), JSON_VALUES, max_size=4))
def test_a_result_survives_the_wire(result: dict[str, object]) -> None:
    assert wire.parse_answer(wire.decode(framed(wire.encode(wire.answer(result))))) == result


@given(st.integers(), st.text(), st.text())
def test_an_error_survives_the_wire(code: int, text: str, details: str) -> None:
    message = wire.encode(wire.refusal(wire.RemoteError(code, text, details)))
    with pytest.raises(wire.RemoteError) as caught:
        wire.parse_answer(wire.decode(framed(message)))
    assert (caught.value.code, caught.value.msg, caught.value.details) == (code, text, details)


@given(st.binary(max_size=200))
def test_any_bytes_are_an_object_or_a_wire_error(payload: bytes) -> None:
    try:
        obj = wire.decode(payload)
    except wire.WireError:
        return
    assert obj["v"] == wire.VERSION


@pytest.mark.parametrize(
    "payload",
    [b"", b"[]", b"{}", b'{"v":2}', b'{"v":true}', b'{"v":"1"}', b"\xff", b"[" * 100_000],
    ids=["empty", "array", "no-version", "newer", "boolean", "string", "not-utf8", "deep"],
)
def test_decode_refuses(payload: bytes) -> None:
    with pytest.raises(wire.WireError):
        wire.decode(payload)


@pytest.mark.parametrize(
    "obj",
    [{}, {"ok": True}, {"ok": False}, {"ok": 1, "result": {}}, {"ok": False, "error": {"code": 1}}],
)
def test_an_answer_is_a_result_or_an_error(obj: dict[str, object]) -> None:
    with pytest.raises(wire.WireError):
        wire.parse_answer(obj)


@pytest.mark.parametrize("header", [b"", b"\0\0\0", b"\0\0\0\0", b"\x00\x10\x00\x01", b"\xff" * 4])
def test_a_header_outside_the_limits_is_refused(header: bytes) -> None:
    with pytest.raises(wire.WireError):
        wire.payload_size(header)


def test_the_limit_is_one_mebibyte_inclusive() -> None:
    assert wire.payload_size((1 << 20).to_bytes(4, "big")) == 1 << 20
    with pytest.raises(wire.WireError, match="limit"):
        wire.encode({"v": 1, "x": "a" * (1 << 20)})


@pytest.mark.parametrize("value", [float("nan"), {1, 2}, b"x"])
def test_what_is_not_json_is_not_sent(value: object) -> None:
    with pytest.raises(wire.WireError):
        wire.encode({"v": 1, "x": value})


def test_call_names_the_socket_that_nobody_serves(tmp_path: Path) -> None:
    with pytest.raises(wire.WireError, match=r"absent\.sock.*No such file"):
        wire.call(str(tmp_path / "absent.sock"), "status", {}, 1.0)


def test_call_refuses_a_path_longer_than_the_kernel_takes() -> None:
    with pytest.raises(wire.WireError, match="107"):
        wire.call("/" + "a" * 107, "status", {}, 1.0)


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        (b"", "closed the connection"),
        (b"\0\0\0\x10{", "closed the connection"),
        (b"\xff\xff\xff\xff", "announced"),
        (b"\0\0\0\x02[]", "not an object"),
        (b"\0\0\0\x07" + b'{"v":9}', "protocol version"),
        (wire.encode({"v": 1, "ok": "yes"}), "neither"),
    ],
    ids=["nothing", "half", "huge", "array", "version", "shape"],
)
def test_call_turns_a_bad_server_into_a_wire_error(
    tmp_path: Path, said: bytes, reason: str
) -> None:
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()

        def answer() -> None:
            conn, _ = listener.accept()
            with conn:
                conn.recv(65536)
                conn.sendall(said)

        thread = threading.Thread(target=answer)
        thread.start()
        with pytest.raises(wire.WireError, match=reason):
            wire.call(str(path), "status", {}, 30.0)
        thread.join()


def test_call_gives_up_when_nothing_comes(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        with pytest.raises(wire.WireError, match="no answer"):
            wire.call(str(path), "status", {}, 0.05)


def test_a_message_is_compact_ascii() -> None:
    message = wire.encode({"v": 1, "op": "ä", "args": {}})
    assert message.isascii()
    assert json.loads(message[4:]) == {"v": 1, "op": "ä", "args": {}}
