"""The asyncio side of the wire protocol, on a real socket."""

from __future__ import annotations

import asyncio
import os
import socket
import stat
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from cni import wire
from controller import server
from controller.completion import finish

Args = dict[str, object]
ME = {os.getuid()}


async def echo(args: Args) -> Args:
    return {"echo": args}


async def ask(path: Path, op: str, args: Args | None = None) -> Args:
    return await asyncio.to_thread(wire.call, str(path), op, args or {}, 30.0)


async def sent(path: Path, op: str) -> asyncio.StreamWriter:
    """A connection with a request on it, for whose answer nobody waits."""
    _, writer = await asyncio.open_unix_connection(path)
    writer.write(wire.encode(wire.request(op, {})))
    return writer


def run(main: Callable[[], Awaitable[None]]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(60):
            await main()

    asyncio.run(bounded())


def test_a_handler_is_called_and_the_file_is_gone_afterwards(tmp_path: Path) -> None:
    path = tmp_path / "run" / "agent.sock"

    async def main() -> None:
        async with await server.serve(path, 0o660, {"echo": echo}, ME):
            assert stat.S_IMODE(path.stat().st_mode) == 0o660
            assert await ask(path, "echo", {"a": [1]}) == {"echo": {"a": [1]}}
        assert not path.exists()

    run(main)


def test_many_clients_at_once(tmp_path: Path) -> None:
    path = tmp_path / "s"

    async def main() -> None:
        async with await server.serve(path, 0o600, {"echo": echo}, ME):
            answers = await asyncio.gather(*(ask(path, "echo", {"n": n}) for n in range(50)))
        assert answers == [{"echo": {"n": n}} for n in range(50)]

    run(main)


async def says_no(_args: Args) -> Args:
    raise wire.RemoteError(7, "no", "because")


async def breaks(_args: Args) -> Args:
    raise ZeroDivisionError


async def too_much(_args: Args) -> Args:
    return {"x": "a" * wire.MAX_SIZE}


@pytest.mark.parametrize(
    ("op", "code"),
    [
        ("no", 7),
        ("bug", wire.CODE_INTERNAL),
        ("absent", wire.CODE_UNKNOWN_OP),
        ("huge", wire.CODE_INTERNAL),
    ],
)
def test_errors_are_answers(tmp_path: Path, op: str, code: int) -> None:
    path = tmp_path / "s"
    handlers = {"no": says_no, "bug": breaks, "huge": too_much}

    async def main() -> None:
        async with await server.serve(path, 0o600, handlers, ME):
            with pytest.raises(wire.RemoteError) as caught:
                await ask(path, op)
            assert caught.value.code == code

    run(main)


def test_a_uid_that_is_not_allowed_is_refused_with_a_reason(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "s"

    async def main() -> None:
        async with await server.serve(path, 0o600, {"echo": echo}, {os.getuid() + 1}):
            with pytest.raises(wire.RemoteError, match="may not use") as caught:
                await ask(path, "echo", {"big": "x" * 500_000})
            assert caught.value.code == wire.CODE_NOT_ALLOWED

    run(main)
    assert "client_refused" in caplog.text


@pytest.mark.parametrize(
    "said", [b"\0\0\0\x02[]", b"\xff\xff\xff\xff", b"\0\0\0\0", b"GET / HTTP/1.1\r\n\r\n"]
)
def test_garbage_is_answered_with_bad_request(tmp_path: Path, said: bytes) -> None:
    path = tmp_path / "s"

    async def main() -> None:
        async with await server.serve(path, 0o600, {"echo": echo}, ME):
            reader, writer = await asyncio.open_unix_connection(path)
            writer.write(said)
            size = wire.payload_size(await reader.readexactly(4))
            with pytest.raises(wire.RemoteError) as caught:
                wire.parse_answer(wire.decode(await reader.readexactly(size)))
            assert caught.value.code == wire.CODE_BAD_REQUEST
            writer.close()

    run(main)


def test_a_silent_client_is_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "s"

    async def main() -> None:
        limits = server.Limits(read_timeout=0.05)
        async with await server.serve(path, 0o600, {"echo": echo}, ME, limits):
            reader, writer = await asyncio.open_unix_connection(path)
            assert b"no whole request" in await reader.read()
            writer.close()

    run(main)


def test_one_connection_too_many_is_told_to_try_again(tmp_path: Path) -> None:
    path = tmp_path / "s"
    go_on = asyncio.Event()
    started = asyncio.Event()

    async def wait(_args: Args) -> Args:
        started.set()
        await go_on.wait()
        return {}

    async def main() -> None:
        limits = server.Limits(connections=1)
        async with await server.serve(path, 0o600, {"wait": wait}, ME, limits):
            first = asyncio.create_task(ask(path, "wait"))
            await started.wait()
            with pytest.raises(wire.RemoteError) as caught:
                await ask(path, "wait")
            assert caught.value.code == wire.CODE_TRY_AGAIN
            go_on.set()
            assert await first == {}

    run(main)


def test_a_client_that_hangs_up_cancels_its_request(tmp_path: Path) -> None:
    path = tmp_path / "s"
    started, undone = asyncio.Event(), asyncio.Event()

    async def slow(_args: Args) -> Args:
        started.set()
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            undone.set()
        return {}

    async def main() -> None:
        async with await server.serve(path, 0o600, {"slow": slow}, ME):
            writer = await sent(path, "slow")
            await started.wait()
            writer.close()
            await undone.wait()

    run(main)


def test_close_cancels_and_waits_for_the_clean_up(tmp_path: Path) -> None:
    path = tmp_path / "s"
    started = asyncio.Event()
    undone: list[bool] = []

    async def slow(_args: Args) -> Args:
        started.set()
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0.01)
            undone.append(True)
        return {}

    async def main() -> None:
        running = await server.serve(path, 0o600, {"slow": slow}, ME)
        writer = await sent(path, "slow")
        await started.wait()
        await running.close()
        assert undone == [True]
        writer.close()

    run(main)


def test_close_waits_for_a_request_whose_client_is_gone_already(tmp_path: Path) -> None:
    path = tmp_path / "s"
    started, undoing, go_on = asyncio.Event(), asyncio.Event(), asyncio.Event()
    undone: list[bool] = []

    async def undo() -> None:
        undoing.set()
        await go_on.wait()
        undone.append(True)

    async def slow(_args: Args) -> Args:
        started.set()
        try:
            await asyncio.Event().wait()
        finally:
            await finish(undo())
        return {}

    async def main() -> None:
        running = await server.serve(path, 0o600, {"slow": slow}, ME)
        writer = await sent(path, "slow")
        await started.wait()
        writer.close()
        await undoing.wait()
        closing = asyncio.create_task(running.close())
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        go_on.set()
        await closing
        assert undone == [True]

    run(main)


def test_a_stale_socket_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))

    async def main() -> None:
        async with await server.serve(path, 0o600, {"echo": echo}, ME):
            assert await ask(path, "echo") == {"echo": {}}

    run(main)


def test_a_live_socket_is_not_replaced(tmp_path: Path) -> None:
    path = tmp_path / "s"

    async def main() -> None:
        async with await server.serve(path, 0o600, {"echo": echo}, ME):
            with pytest.raises(server.SocketInUseError, match="another process answers"):
                await server.serve(path, 0o600, {}, ME)
            assert await ask(path, "echo") == {"echo": {}}

    run(main)


def test_a_file_that_is_no_socket_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "s"
    path.write_text("precious", encoding="utf-8")

    async def main() -> None:
        with pytest.raises(server.SocketInUseError, match="not a socket"):
            await server.serve(path, 0o600, {}, ME)

    run(main)
    assert path.read_text(encoding="utf-8") == "precious"


def test_close_leaves_a_successors_socket(tmp_path: Path) -> None:
    path = tmp_path / "s"

    async def main() -> None:
        old = await server.serve(path, 0o600, {}, ME)
        path.unlink()
        async with await server.serve(path, 0o600, {"echo": echo}, ME):
            await old.close()
            assert await ask(path, "echo") == {"echo": {}}

    run(main)


def test_a_path_too_long_is_named(tmp_path: Path) -> None:
    async def main() -> None:
        with pytest.raises(OSError, match="107"):
            await server.serve(tmp_path / ("x" * 120), 0o600, {}, ME)

    run(main)
