"""The wire protocol between the daemon and its clients: the CNI plugin and the `millrace` command.

A unix stream socket, one request and one answer per connection. Each message is a 4-byte
big-endian size, then that many bytes of UTF-8 JSON, an object:

    request  {"v": 1, "op": "status", "args": {}}
    answer   {"v": 1, "ok": true, "result": {}}
    refusal  {"v": 1, "ok": false, "error": {"code": 7, "msg": "...", "details": "..."}}

What begins with RAW is not JSON, but a call of the plugin's executable as it was run, and what that
is to print: `parse_run`, `encode_printed` (cni/launcher/launcher.c is the client's side).

A client keeps its side of the connection open until the answer is there: the server takes an
early end of file as "the client is gone" and cancels the request.

Imported by the CNI executable, so it imports nothing that is slow to load: no dataclasses, typing,
logging, asyncio.

Errors::

    Exception
    ├── WireError            what the peer sent is not this protocol, or cannot be sent
    │   └── UnreachableError nobody is there, or no answer came in time
    └── RemoteError          the peer answered with an error of its own
"""

from __future__ import annotations

import _socket
import time

from cni import quickjson

VERSION = 1
HEADER_SIZE = 4
MAX_SIZE = 1 << 20
"""Bytes of JSON in one message; a longer one is refused before it is read."""

RAW = 0x80000000
"""Bit of a header: a call of the executable, or what it is to print, follows."""

MAX_PATH_SIZE = 107
"""Bytes of a unix socket's path: sun_path is 108 with its NUL (unix(7))."""

# Codes of refusals by the server itself. 1..99 are the CNI specification's, 100.. are ours.
CODE_TRY_AGAIN = 11
CODE_NOT_ALLOWED = 100
CODE_BAD_REQUEST = 101
CODE_UNKNOWN_OP = 102
CODE_INTERNAL = 103


class WireError(Exception):
    """The peer could not be reached, or what came is not a message of this protocol."""


class UnreachableError(WireError):
    """Nobody answers at the socket, or not in time; later somebody may."""


class RemoteError(Exception):
    """The peer's own error, as it said it.

    `code` is a CNI error code where the specification has one for the case, else one of ours
    (100 and up). `msg` names the thing and the cause, `details` the next step.
    """

    def __init__(self, code: int, msg: str, details: str = "") -> None:
        super().__init__(code, msg, details)
        self.code = code
        self.msg = msg
        self.details = details

    def __str__(self) -> str:
        return f"{self.msg}: {self.details}" if self.details else self.msg


def encode(obj: dict[str, object]) -> bytes:
    """The bytes of one message, header included.

    Raises:
        WireError: the object is not JSON, or longer than MAX_SIZE.
    """
    try:
        payload = quickjson.dumps(obj, allow_nan=False).encode("ascii")
    except (TypeError, ValueError, RecursionError) as error:
        msg = f"the message cannot be written as JSON: {error}"
        raise WireError(msg) from error
    if len(payload) > MAX_SIZE:
        msg = f"the message has {len(payload)} bytes, the limit is {MAX_SIZE}"
        raise WireError(msg)
    return len(payload).to_bytes(HEADER_SIZE, "big") + payload


def payload_size(header: bytes) -> int:
    """How many bytes of JSON follow this header.

    Raises:
        WireError: the header is short, or announces nothing or more than MAX_SIZE.
    """
    if len(header) != HEADER_SIZE:
        msg = f"the peer closed the connection after {len(header)} of {HEADER_SIZE} header bytes"
        raise WireError(msg)
    size = int.from_bytes(header, "big")
    if not 0 < size <= MAX_SIZE:
        msg = f"the peer announced a message of {size} bytes, allowed are 1..{MAX_SIZE}"
        raise WireError(msg)
    return size


def raw_size(header: bytes) -> int:
    """How many bytes follow this header of a call of the executable; 0: it is none.

    Raises:
        WireError: more than MAX_SIZE.
    """
    number = int.from_bytes(header, "big")
    if len(header) != HEADER_SIZE or not number & RAW:
        return 0
    return payload_size((number & ~RAW).to_bytes(HEADER_SIZE, "big"))


def parse_run(payload: bytes) -> tuple[dict[str, str], bytes]:
    """Environment and standard input of a call of the executable.

    Raises:
        WireError: it is none.
    """
    head, end, stdin = payload.partition(b"\0\0")
    if payload.startswith(b"\0"):
        head, end, stdin = b"", b"\0", payload[1:]
    if not end:
        msg = "the call of the executable has no end of its environment"
        raise WireError(msg)
    pairs = (one.decode("utf-8", "surrogateescape").partition("=") for one in head.split(b"\0"))
    return {name: value for name, _, value in pairs if name}, stdin


def encode_printed(status: int, text: str) -> bytes:
    """The bytes that have the executable print this and end with this exit code.

    Raises:
        WireError: the text is longer than MAX_SIZE.
    """
    payload = bytes([status]) + text.encode("utf-8", "surrogateescape")
    if len(payload) > MAX_SIZE:
        msg = f"the answer has {len(payload)} bytes, the limit is {MAX_SIZE}"
        raise WireError(msg)
    return (RAW | len(payload)).to_bytes(HEADER_SIZE, "big") + payload


def decode(payload: bytes) -> dict[str, object]:
    """The object in a message's payload (the header is `payload_size`'s).

    Raises:
        WireError: not UTF-8, not JSON, not an object, or of another protocol version.
    """
    try:
        obj = quickjson.loads(payload.decode("utf-8"), parse_constant=no_constant)
    except (ValueError, RecursionError) as error:
        msg = f"the peer's message is not JSON: {error}"
        raise WireError(msg) from error
    if not isinstance(obj, dict):
        msg = f"the peer's message is a JSON {type(obj).__name__}, not an object"
        raise WireError(msg)
    version = obj.get("v")
    # True == 1 in Python, and JSON's true must not pass for a version.
    if isinstance(version, bool) or version != VERSION:
        msg = (
            f"the peer speaks protocol version {version!r}, this side {VERSION}; "
            "restart the daemon after an upgrade"
        )
        raise WireError(msg)
    return obj


def no_constant(name: str) -> object:
    """Refuse NaN and Infinity, which Python's parser takes and JSON does not have.

    Raises:
        ValueError: always.
    """
    msg = f"{name} is not JSON"
    raise ValueError(msg)


def request(op: str, args: dict[str, object]) -> dict[str, object]:
    """The object of a request."""
    return {"v": VERSION, "op": op, "args": args}


def answer(result: dict[str, object]) -> dict[str, object]:
    """The object of a success."""
    return {"v": VERSION, "ok": True, "result": result}


def refusal(error: RemoteError) -> dict[str, object]:
    """The object of a failure."""
    body = {"code": error.code, "msg": error.msg, "details": error.details}
    return {"v": VERSION, "ok": False, "error": body}


def parse_request(obj: dict[str, object]) -> tuple[str, dict[str, object]]:
    """Operation and arguments of a decoded request.

    Raises:
        WireError: a key is missing or of the wrong type.
    """
    op, args = obj.get("op"), obj.get("args", {})
    if not isinstance(op, str) or not isinstance(args, dict):
        msg = 'a request needs "op" (a string) and "args" (an object)'
        raise WireError(msg)
    return op, args


def parse_answer(obj: dict[str, object]) -> dict[str, object]:
    """The result in a decoded answer.

    Raises:
        RemoteError: the answer is an error.
        WireError: it is neither.
    """
    ok, result, error = obj.get("ok"), obj.get("result"), obj.get("error")
    if ok is True and isinstance(result, dict):
        return result
    if ok is False and isinstance(error, dict):
        code, text, details = error.get("code"), error.get("msg"), error.get("details", "")
        if isinstance(code, int) and isinstance(text, str) and isinstance(details, str):
            raise RemoteError(code, text, details)
    msg = "the peer's answer has neither a result nor an error"
    raise WireError(msg)


def _receive(conn: _socket.socket, size: int, deadline: float) -> bytes:
    """Up to `size` bytes; fewer only if the peer closed."""
    chunks: list[bytes] = []
    missing = size
    while missing:
        _limit(conn, deadline)
        chunk = conn.recv(min(missing, 65536))
        if not chunk:
            break
        chunks.append(chunk)
        missing -= len(chunk)
    return b"".join(chunks)


def _limit(conn: _socket.socket, deadline: float) -> None:
    """Let the next system call last no longer than the whole exchange may."""
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    conn.settimeout(left)


def call(path: str, op: str, args: dict[str, object], timeout: float) -> dict[str, object]:
    """Ask the daemon at socket `path`; the result's object.

    `timeout` is in seconds and covers the whole exchange.

    Raises:
        UnreachableError: nobody answers there in time.
        WireError: what is there does not speak this protocol, or the path cannot be a socket's.
        RemoteError: the daemon answered with an error.
    """
    try:
        size = len(path.encode("utf-8", "surrogateescape"))
    except UnicodeEncodeError:
        size = 0
    if not 0 < size <= MAX_PATH_SIZE or "\0" in path:
        msg = f"socket path {path!r} is not a path of 1..{MAX_PATH_SIZE} bytes"
        raise WireError(msg)
    message = encode(request(op, args))
    deadline = time.monotonic() + timeout
    try:
        # The C part of `socket`, which would load `selectors` and `enum` for what is not asked for.
        conn = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
        try:
            _limit(conn, deadline)
            conn.connect(path)
            try:
                _limit(conn, deadline)
                conn.sendall(message)
            except BrokenPipeError:
                # Refused before it read all of the request: the reason may still be readable.
                pass
            header = _receive(conn, HEADER_SIZE, deadline)
            expected = payload_size(header) if header else 0
            payload = _receive(conn, expected, deadline)
        finally:
            conn.close()
    except TimeoutError as error:
        msg = f"no answer to {op!r} from {path} within {timeout:g} s; see the daemon's log"
        raise UnreachableError(msg) from error
    except OSError as error:
        msg = f"cannot talk to {path}: {error.strerror or error}; is `millrace node` running?"
        raise UnreachableError(msg) from error
    if not header or len(payload) < expected:
        msg = f"{path} closed the connection before its answer to {op!r} was whole; did it restart?"
        raise UnreachableError(msg)
    return parse_answer(decode(payload))
