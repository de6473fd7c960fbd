"""The lab's client, run inside a namespace: requests in, one JSON object out.

    client.py http ADDRESS PORT COUNT [PAUSE_MS]   one connection a request
    client.py udp ADDRESS PORT COUNT [PAUSE_MS]    one socket and port a request
    client.py echo ADDRESS PORT SECONDS            one TCP stream, a line every 50 ms, echoed
    client.py numbers ADDRESS PORT SECONDS         one UDP socket, a numbered datagram every `pause`
    client.py rate ADDRESS PORT SECONDS            one TCP download, its rate

`http` and `udp` with COUNT 0, `echo` and `numbers` with SECONDS 0, go on until SIGTERM. Words at
the end: `from=ADDRESS` binds the client's address, `timeout=S` waits that long for an answer,
`size=N` makes datagrams that long, `pause=MS` is between two numbers. Standard library only: it
starts in the time of one ping.
"""

from __future__ import annotations

import contextlib
import json
import signal
import socket
import sys
import time
from collections import Counter

OPTIONS = {"from": "", "timeout": "5", "size": "5", "pause": "2"}
SILENCE_S = 0.1
PAUSE_S = 0.04
"""So long nothing came for a flow of numbers: somebody on the way had no processor."""

stopped = False


def stop(_number: int, _frame: object) -> None:
    global stopped
    stopped = True


def connected(address: str, port: int, timeout: float | None = None) -> socket.socket:
    """A TCP connection, from the address in the options."""
    source = (OPTIONS["from"], 0) if OPTIONS["from"] else None
    return socket.create_connection(
        (address, port), timeout=timeout or float(OPTIONS["timeout"]), source_address=source
    )


def http(address: str, port: int, path: str = "/") -> str:
    """The body of one answer."""
    with connected(address, port) as conn:
        conn.sendall(f"GET {path} HTTP/1.1\r\nHost: lab\r\n\r\n".encode())
        chunks = []
        while chunk := conn.recv(65536):
            chunks.append(chunk)
    head, _, body = b"".join(chunks).partition(b"\r\n\r\n")
    if b" 200 " not in head.split(b"\r\n")[0]:
        msg = f"answer without 200: {head[:80]!r}"
        raise OSError(msg)
    return body.decode().strip()


def udp(address: str, port: int) -> str:
    """One datagram and its answer."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as conn:
        conn.settimeout(float(OPTIONS["timeout"]))
        if OPTIONS["from"]:
            conn.bind((OPTIONS["from"], 0))
        conn.connect((address, port))
        sent = b"hello".ljust(int(OPTIONS["size"]), b".")
        conn.send(sent)
        answer = conn.recv(65536)
        if not answer.endswith(sent):
            msg = f"{len(answer)} octets came back, which do not end as the request did"
            raise OSError(msg)
        return answer.decode()


def many(kind: str, address: str, port: int, count: int, pause_ms: float) -> dict[str, object]:
    """Requests one after the other: who answered, whom they saw, what failed and when."""
    names: Counter[str] = Counter()
    peers: Counter[str] = Counter()
    failures: list[str] = []
    slowest = 0.0
    sent = 0
    begin = time.monotonic()
    while not stopped and (count == 0 or sent < count):
        sent += 1
        at = time.monotonic()
        try:
            words = (http if kind == "http" else udp)(address, port).split()
            fields = dict(word.split("=", 1) for word in words if "=" in word)
            names[fields["name"]] += 1
            peers[fields["peer"].rpartition(":")[0]] += 1
        except (OSError, KeyError, ValueError) as error:
            failures.append(f"request {sent} at {at - begin:.3f} s: {type(error).__name__} {error}")
        slowest = max(slowest, time.monotonic() - at)
        if pause_ms:
            time.sleep(pause_ms / 1000)
    return {
        "sent": sent,
        "ok": sum(names.values()),
        "names": dict(names),
        "peers": dict(peers),
        "failures": failures[:50],
        "failed": len(failures),
        "slowest_ms": round(slowest * 1000, 2),
        "seconds": round(time.monotonic() - begin, 3),
    }


def echo(address: str, port: int, seconds: float) -> dict[str, object]:
    """One long stream: the lines that came back, who sent them, and when it was silent.

    Who it is goes to standard error at once: the stream lasts while the test acts on it.
    """
    longest, lines = 0.0, 0
    silences: list[tuple[float, float]] = []
    error = server = ""
    begin = time.monotonic()
    try:
        with connected(address, port, 60) as conn:
            conn.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            conn.sendall(b"GET /echo HTTP/1.1\r\n\r\n")
            reader = conn.makefile("rb")
            while header := reader.readline().decode().strip():
                if header.startswith("Server: "):
                    server = header.partition(" ")[2]
            print(f"served by {server}", file=sys.stderr, flush=True)
            while not stopped and (not seconds or time.monotonic() - begin < seconds):
                at = time.monotonic()
                line = b"line %d\n" % lines
                conn.sendall(line)
                if reader.readline() != line:
                    error = f"line {lines} did not come back"
                    break
                lines += 1
                silence = time.monotonic() - at
                longest = max(longest, silence)
                if silence >= SILENCE_S:
                    silences.append((round(at - begin, 3), round(silence * 1000, 1)))
                time.sleep(0.05)
    except OSError as failed:
        error = f"{type(failed).__name__} {failed}"
    return {
        "server": server,
        "lines": lines,
        "error": error,
        "longest_silence_ms": round(longest * 1000, 1),
        # When each began, in seconds, and how long it was, in ms.
        "silences": silences,
    }


def numbers(address: str, port: int, seconds: float) -> dict[str, object]:
    """Datagrams of one flow, sent without waiting: which numbers came back, and from whom.

    `servers` are [name, answers] in the order in which they answered, `silences` [the last number
    before, ms], so that a loss beside one is told from one in the midst of answers. Who is the
    first goes to standard error at once.
    """
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    pause = float(OPTIONS["pause"]) / 1000
    answered: set[int] = set()
    servers: list[list[object]] = []
    silences: list[tuple[int, float]] = []
    sent = twice = refused = latest = 0
    came = 0.0

    def take_in(conn: socket.socket, until: float) -> None:
        nonlocal twice, refused, latest, came
        while True:
            left = until - time.monotonic()
            conn.settimeout(max(left, 0.00001))
            try:
                words = conn.recv(2048).decode().split()
            except ConnectionRefusedError:
                refused += 1
                continue
            except (TimeoutError, BlockingIOError):
                return
            number, name = int(words[-1]), words[0].partition("=")[2]
            now = time.monotonic()
            if came and now - came >= PAUSE_S:
                silences.append((latest, round((now - came) * 1000, 1)))
            latest, came = number, now
            twice += number in answered
            answered.add(number)
            if not servers:
                print(f"served by {name}", file=sys.stderr, flush=True)
            if not servers or servers[-1][0] != name:
                servers.append([name, 0])
            servers[-1][1] = int(str(servers[-1][1])) + 1
            if left <= 0:
                return

    with socket.socket(family, socket.SOCK_DGRAM) as conn:
        conn.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        if OPTIONS["from"]:
            conn.bind((OPTIONS["from"], 0))
        conn.connect((address, port))
        begin = time.monotonic()
        while not stopped and (not seconds or time.monotonic() - begin < seconds):
            with contextlib.suppress(ConnectionRefusedError):
                conn.send(b" %d" % sent)
                sent += 1
            take_in(conn, begin + sent * pause)
        took = time.monotonic() - begin
        take_in(conn, time.monotonic() + float(OPTIONS["timeout"]) / 5)
    missing = sorted(set(range(sent)) - answered)
    return {
        "sent": sent,
        "answered": len(answered),
        "twice": twice,
        "refused": refused,
        "missing": missing[:50],
        "servers": servers,
        "silences": silences[:50],
        "seconds": round(took, 3),
    }


def rate(address: str, port: int, seconds: float) -> dict[str, object]:
    """How fast one TCP download runs."""
    got = 0
    with connected(address, port) as conn:
        conn.sendall(b"GET /bytes/100000000000 HTTP/1.1\r\n\r\n")
        begin = time.monotonic()
        while time.monotonic() - begin < seconds:
            chunk = conn.recv(1 << 18)
            if not chunk:
                break
            got += len(chunk)
        took = time.monotonic() - begin
    return {"bytes": got, "seconds": took, "gbit_s": round(got * 8 / took / 1e9, 3)}


def main() -> None:
    """Run the request in the arguments."""
    signal.signal(signal.SIGTERM, stop)
    words = [word for word in sys.argv[1:] if "=" not in word]
    for word in sys.argv[1:]:
        key, equals, value = word.partition("=")
        if equals:
            OPTIONS[key] = value
    kind, address, port, number, *rest = words
    result: dict[str, object]
    if kind in {"http", "udp"}:
        pause = float(rest[0]) if rest else 0.0
        result = many(kind, address, int(port), int(number), pause)
    elif kind == "echo":
        result = echo(address, int(port), float(number))
    elif kind == "numbers":
        result = numbers(address, int(port), float(number))
    else:
        result = rate(address, int(port), float(number))
    print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main()
